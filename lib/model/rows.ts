import type { GPTNeoXConfig } from '../architecture/config';
import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';

/** Token ids. */
export type TokenIds = readonly number[] | Int32Array;

export function isTokenIds(value: unknown): value is TokenIds {
  return value instanceof Int32Array || (Array.isArray(value) && value.every((id) => typeof id === 'number'));
}

/**
 * Checks that every id is in the model's vocabulary. Gives a copy, which the caller cannot change while it waits for
 * its turn.
 */
export function checkIds(name: string, ids: TokenIds, config: GPTNeoXConfig): Int32Array {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= config.vocabSize) {
      throw badArgument(`${name}[${i}]`, `a token id between 0 and ${config.vocabSize - 1}`, id);
    }
  }
  return Int32Array.from(ids);
}

/**
 * The most positions of a row, prefix included: those the model was trained for, or as many as dynamic rotary scaling
 * stretches to.
 */
export function maxPositions({ maxPositionEmbeddings, ropeScaling }: GPTNeoXConfig): number {
  return ropeScaling.type === 'dynamic'
    ? Math.floor(maxPositionEmbeddings * ropeScaling.factor)
    : maxPositionEmbeddings;
}

/**
 * Whether a row of so many positions, prefix included, has to go through the model in one piece: with dynamic rotary
 * scaling, keys beyond the trained length depend on how long the row is when they are made.
 */
export function goesWhole({ maxPositionEmbeddings, ropeScaling }: GPTNeoXConfig, positions: number): boolean {
  return ropeScaling.type === 'dynamic' && positions > maxPositionEmbeddings;
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
  const tokens = new Int32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let position = 0;
  for (const row of rows) {
    tokens.set(row, position);
    position += row.length;
  }
  return { tokens, lengths: Int32Array.from(rows, (row) => row.length) };
}
