import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { isNeoXPrefixError, type NeoXPrefixError } from '../../../lib/base/errors';

const FOLDER = join(__dirname, '..', '..', 'fixtures', 'files');

/** A file written by scripts/golden/files.py. */
export function fixture(...names: string[]): string {
  return join(FOLDER, ...names);
}

export interface ExpectedTensor {
  readonly shape: number[];
  readonly values: number[];
}

/** What Python says the tensors of a fixture hold. */
export function expectedValues(name: string): [string, ExpectedTensor][] {
  const all = JSON.parse(readFileSync(fixture('expected.json'), 'utf8')) as Record<
    string,
    Record<string, ExpectedTensor>
  >;
  const found = all[name];
  if (found === undefined) throw new Error(`no expected values for ${name}`);
  return Object.entries(found);
}

/** The error of ours that a promise is rejected with; anything else fails the test. */
export async function failure(work: Promise<unknown>): Promise<NeoXPrefixError> {
  try {
    await work;
  } catch (error) {
    return ours(error);
  }
  throw new Error('expected a rejection');
}

/** Fails the test for any error that is not of this package. */
export function ours(error: unknown): NeoXPrefixError {
  if (!isNeoXPrefixError(error)) throw error;
  return error;
}

/** Repeatable variations of a file: bytes changed, removed, repeated, swapped, or the end cut off. */
export function* mutate(original: Buffer, count: number, seed: number): Generator<Buffer> {
  const random = randomBelow(seed);
  for (let i = 0; i < count; i++) {
    const bytes = Buffer.from(original);
    const at = random(bytes.length);
    switch (random(6)) {
      case 0:
        yield bytes.subarray(0, at);
        break;
      case 1:
        yield Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + 1 + random(8)))]);
        break;
      case 2:
        yield Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + 16), bytes.subarray(at)]);
        break;
      default: {
        for (let change = 0; change <= random(3); change++) {
          const edge = [0x00, 0xff, 0x7f, 0x80, 0x2e, 0x28];
          bytes[random(bytes.length)] = random(2) === 0 ? (edge[random(edge.length)] as number) : random(256);
        }
        yield bytes;
      }
    }
  }
}

/** Integers below a bound, the same for the same seed (mulberry32). */
function randomBelow(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * bound);
  };
}
