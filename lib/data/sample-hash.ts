import { hash } from 'node:crypto';
import { sha256 } from '../base/files';

/*
 * The hash of samples d(0) ... d(n-1) is SHA-256 over n and the sum of d(i) B^(n-1-i) modulo p, where d(i) is the
 * SHA-256 of sample i as it is stored. In that form the hash of any part follows from two sums that begin at sample 0
 * (Rabin's fingerprint of a substring), so a view of a dataset has the hash that a dataset of those samples alone would
 * have, and the ids need not be read again.
 */
const P = 2n ** 255n - 19n;
const B = BigInt(`0x${sha256('neox-prefix: samples of a dataset')}`) % P;
/** Samples between two sums that are kept. */
const STRIDE = 256;

/** SHA-256 of a sample as it is stored, in hexadecimal. */
export function digestOf(stored: Int32Array): string {
  return hash('sha256', new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength), 'hex');
}

/** Hashes of samples, and of any part of them. Keeps a quarter of a byte a sample. */
export class SampleHasher {
  private count = 0;
  private sum = 0n;
  /** The sum in front of every 256th sample. */
  private readonly sums: bigint[] = [];

  push(digest: string): void {
    if (this.count % STRIDE === 0) this.sums.push(this.sum);
    this.sum = next(this.sum, digest);
    this.count++;
  }

  /** The hash of samples [first, end). `samples` reads stored samples of a range. */
  hash(first: number, end: number, samples: (first: number, end: number) => readonly Int32Array[]): string {
    const upTo = (index: number): bigint => {
      if (index === this.count) return this.sum;
      const known = index - (index % STRIDE);
      return samples(known, index).reduce(
        (sum, stored) => next(sum, digestOf(stored)),
        this.sums[known / STRIDE] as bigint,
      );
    };
    const sum = (upTo(end) - ((upTo(first) * power(B, end - first)) % P) + P) % P;
    return sha256(`${end - first}:${sum.toString(16)}`);
  }
}

function next(sum: bigint, digest: string): bigint {
  return (sum * B + BigInt(`0x${digest}`)) % P;
}

function power(base: bigint, exponent: number): bigint {
  let result = 1n;
  for (let e = BigInt(exponent), square = base; e > 0n; e >>= 1n, square = (square * square) % P) {
    if ((e & 1n) === 1n) result = (result * square) % P;
  }
  return result;
}
