// Random numbers, and the small floating-point types.

/** xorshift32 (Marsaglia 2003): quick, and the same everywhere. */
export class Random {
  private state: number;

  constructor(seed: number) {
    // Seeds that lie side by side must not give sequences that do.
    this.state = Math.imul(seed + 1, 0x9e3779b1) | 1;
    for (let i = 0; i < 8; i++) this.next();
  }

  /** In [0, 1). */
  next(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x;
    return (x >>> 8) / 2 ** 24;
  }

  /** Overwrites `values` with uniform numbers of a standard deviation and a mean. */
  fill(values: Float32Array, deviation: number, mean: number): void {
    const width = deviation * Math.sqrt(12);
    for (let i = 0; i < values.length; i++) values[i] = mean + width * (this.next() - 0.5);
  }

  ids(count: number, vocabulary: number): number[] {
    return Array.from({ length: count }, () => Math.floor(this.next() * vocabulary));
  }
}

/** Rounds finite numbers to the nearest bfloat16, ties to even. */
export function toBFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const x = bits[i] as number;
    out[i] = (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

export function fromBFloat16(values: Uint16Array): Float32Array {
  const out = new Uint32Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = (values[i] as number) << 16;
  return new Float32Array(out.buffer);
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** Rounds a number to the nearest float16, ties to even; what is too large becomes infinity. */
export function toFloat16(value: number): number {
  scratch[0] = value;
  const x = scratchBits[0] as number;
  const sign = (x >>> 16) & 0x8000;
  const exponent = (x >>> 23) & 0xff;
  if (exponent >= 143) return sign | 0x7c00; // 2^16 and more, infinity
  if (exponent <= 102) {
    // At most half of the smallest float16; exactly half is a tie, and goes to zero.
    return exponent === 102 && (x & 0x7fffff) !== 0 ? sign | 1 : sign;
  }
  const mantissa = exponent < 113 ? (x & 0x7fffff) | 0x800000 : x & 0x7fffff;
  const shift = exponent < 113 ? 126 - exponent : 13;
  const base = exponent < 113 ? 0 : (exponent - 112) << 10;
  const kept = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  // A carry out of the mantissa raises the exponent, as it should.
  return sign | (base + kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0));
}

/** The memory of numbers, as it is written to files. */
export function bytesOf({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
