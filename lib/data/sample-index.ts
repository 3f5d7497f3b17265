/** Longer samples are kept apart. */
const ESCAPE = 0xffff;
/** Samples between two known offsets. */
const STRIDE = 64;
const BLOCK = 2 ** 15;

/** The lengths of samples that are stored one behind the other, and where each begins: 2.2 bytes a sample. */
export class SampleIndex {
  /** Number of samples. */
  length = 0;
  /** Sum of their lengths. */
  total = 0;
  private readonly lengths: Uint16Array[] = [];
  private readonly long = new Map<number, number>();
  /** Where every 64th sample begins. */
  private readonly offsets: number[] = [];

  push(length: number): void {
    if (this.length % BLOCK === 0) this.lengths.push(new Uint16Array(BLOCK));
    if (this.length % STRIDE === 0) this.offsets.push(this.total);
    if (length >= ESCAPE) this.long.set(this.length, length);
    (this.lengths.at(-1) as Uint16Array)[this.length % BLOCK] = Math.min(length, ESCAPE);
    this.length++;
    this.total += length;
  }

  lengthOf(index: number): number {
    const length = (this.lengths[Math.floor(index / BLOCK)] as Uint16Array)[index % BLOCK] as number;
    return length === ESCAPE ? (this.long.get(index) as number) : length;
  }

  /** Where a sample begins; `length` is allowed and gives the end. */
  offsetOf(index: number): number {
    if (index === this.length) return this.total;
    const known = index - (index % STRIDE);
    let offset = this.offsets[known / STRIDE] as number;
    for (let i = known; i < index; i++) offset += this.lengthOf(i);
    return offset;
  }
}
