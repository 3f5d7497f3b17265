import { types } from 'node:util';
import type { GPTNeoXConfig } from '../architecture/config';
import { independentPositions, maxPositions } from '../architecture/rope';
import { badArgument } from '../base/arguments';
import { joinIds } from '../base/joined-ids';
import { NeoXPrefixError } from '../base/errors';

/** Token ids. */
export type TokenIds = readonly number[] | Int32Array;

/** No more than this is looked at: a wrong array must not fill the memory. */
const MOST_IDS = 2 ** 24;

export function isTokenIds(value: unknown): value is TokenIds {
  if (types.isInt32Array(value)) return true;
  return Array.isArray(value) && value.length <= MOST_IDS && value.every((id) => typeof id === 'number');
}

/**
 * A plain copy of what is to be checked. Whatever is checked has to be the copy: an array may give another number when
 * it is read again (a subclass, a Proxy, memory that another thread writes), and ids index memory.
 */
export function copyIds(name: string, ids: ArrayLike<number>): Int32Array | number[] {
  const { length } = ids;
  if (!(length >= 0 && length <= MOST_IDS)) throw badArgument(name, `at most ${MOST_IDS} token ids`, ids);
  // Not by its iterator or its methods, which it may have of its own.
  if (types.isInt32Array(ids)) return new Int32Array(ids);
  const copy: number[] = [];
  for (let i = 0; i < length; i++) copy.push(ids[i] as number);
  return copy;
}

/**
 * Checks that every id is in the model's vocabulary. Gives a copy, which the caller cannot change while it waits for
 * its turn.
 */
export function checkIds(name: string, ids: TokenIds, config: GPTNeoXConfig): Int32Array {
  const copy = copyIds(name, ids);
  for (const [i, id] of copy.entries()) {
    if (!Number.isInteger(id) || id < 0 || id >= config.vocabSize) {
      throw badArgument(`${name}[${i}]`, `a token id between 0 and ${config.vocabSize - 1}`, id);
    }
  }
  return types.isInt32Array(copy) ? copy : Int32Array.from(copy);
}

/** Whether a row of so many positions, prefix included, has to go through the model in one piece. */
export function goesWhole(config: GPTNeoXConfig, positions: number): boolean {
  return positions > independentPositions(config);
}

/** Checks that prefix, past and new tokens fit the model's positions. */
export function checkLength(what: string, positions: number, config: GPTNeoXConfig): void {
  const limit = maxPositions(config);
  if (positions <= limit) return;
  throw new NeoXPrefixError(
    'NEOX_TOO_LONG',
    `${what} needs ${positions} positions, prefix included, and the model has ${limit}`,
    {
      hint: 'shorten the text, or use a shorter prefix',
    },
  );
}

/** Rows of unequal length, one behind the other, as the addon takes them. */
export function packRows(rows: readonly Int32Array[]): { tokens: Int32Array; lengths: Int32Array } {
  return { tokens: joinIds(rows), lengths: Int32Array.from(rows, (row) => row.length) };
}
