/** Orders of at most so many samples are lists; those of more are computed, element by element. */
const MAX_LISTED = 1_000_000;

/**
 * The order of an epoch's samples, in bounded memory: a permutation of 0 ... count - 1 that depends on count, seed and
 * epoch alone.
 */
export class EpochOrder {
  private readonly permute: (position: number) => number;

  /** @param epoch counts from 1 */
  constructor(
    /** Number of samples. */
    readonly count: number,
    seed: number,
    epoch: number,
  ) {
    if (count <= MAX_LISTED) {
      const order = Uint32Array.from(epochOrder(count, seed, epoch));
      this.permute = (position) => order[position] as number;
    } else {
      const permutation = new Permutation(count, seed, epoch);
      this.permute = (position) => permutation.at(position);
    }
  }

  /** The sample at a position, both from 0. */
  at(position: number): number {
    return this.permute(position);
  }
}

/** The order of an epoch's samples as a list (Fisher-Yates). */
export function epochOrder(count: number, seed: number, epoch: number): number[] {
  const order = Array.from({ length: count }, (_, i) => i);
  shuffle(order, generator(seed, epoch));
  return order;
}

/** Puts a list into a random order, in place (Fisher-Yates). */
export function shuffle(list: unknown[], random: () => number): void {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
}

const ROUNDS = 4;

/**
 * A pseudo-random permutation of 0 ... count - 1 that needs no list: a Feistel network over the pairs (left, right)
 * with left < a and right < b, where a b is just above count, applied again while it leaves the range (Black and
 * Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
 */
export class Permutation {
  private readonly a: number;
  private readonly b: number;
  private readonly keys: Uint32Array;

  constructor(
    readonly count: number,
    seed: number,
    stream: number,
  ) {
    this.a = Math.max(1, Math.ceil(Math.sqrt(count)));
    this.b = Math.max(1, Math.ceil(count / this.a));
    const random = generator(seed, stream);
    this.keys = Uint32Array.from({ length: 2 * ROUNDS }, () => Math.floor(random() * 2 ** 32));
  }

  at(position: number): number {
    let result = position;
    do result = this.encrypt(result);
    while (result >= this.count);
    return result;
  }

  private encrypt(value: number): number {
    const { a, b } = this;
    let left = value % a;
    let right = Math.floor(value / a);
    for (let round = 0; round < 2 * ROUNDS; round += 2) {
      left = (left + mix(right, this.keys[round] as number)) % a;
      right = (right + mix(left, this.keys[round + 1] as number)) % b;
    }
    return left + a * right;
  }
}

/** The finaliser of MurmurHash3 (Austin Appleby) over a value and a key. */
function mix(value: number, key: number): number {
  let h = value ^ key;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** sfc32 (Chris Doty-Humphrey's PractRand), seeded by a seed and a stream number; numbers in [0, 1). */
export function generator(seed: number, stream: number): () => number {
  let [a, b, c, counter] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, stream >>> 0, 1];
  const next = (): number => {
    const sum = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 16; i++) next();
  return next;
}
