const FIRST_CAPACITY = 2 ** 12;
const LOAD = 0.75;

/**
 * Counts samples that were seen before, by 64 bits of their hash, in a table of bounded size. When it is full, only
 * samples that are in it are recognised, and the count is a lower bound.
 */
export class DuplicateCounter {
  duplicates = 0;
  /** Whether the table is full, so that a duplicate may have been missed. */
  isLowerBound = false;
  private used = 0;
  /** Two numbers a slot; both 0: empty. */
  private slots = new Uint32Array(2 * FIRST_CAPACITY);

  /** @param maxCapacity slots of 8 bytes at most, a power of two. The default remembers 3 million samples in 32 MiB. */
  constructor(private readonly maxCapacity = 2 ** 22) {}

  /** @param digest at least 64 bits in hexadecimal */
  add(digest: string): void {
    const high = parseInt(digest.slice(0, 8), 16);
    const low = parseInt(digest.slice(8, 16), 16) || 1;
    const slot = this.find(high, low);
    if (this.slots[2 * slot + 1] !== 0) {
      this.duplicates++;
      return;
    }
    const capacity = this.slots.length / 2;
    if (this.used < LOAD * capacity) {
      this.put(slot, high, low);
    } else if (capacity < this.maxCapacity) {
      this.grow();
      this.put(this.find(high, low), high, low);
    } else {
      this.isLowerBound = true;
    }
  }

  /** The slot that holds the number, or the empty one where it belongs. */
  private find(high: number, low: number): number {
    const mask = this.slots.length / 2 - 1;
    let slot = low & mask;
    while (this.slots[2 * slot + 1] !== 0 && (this.slots[2 * slot] !== high || this.slots[2 * slot + 1] !== low))
      slot = (slot + 1) & mask;
    return slot;
  }

  private put(slot: number, high: number, low: number): void {
    this.slots[2 * slot] = high;
    this.slots[2 * slot + 1] = low;
    this.used++;
  }

  private grow(): void {
    const before = this.slots;
    this.slots = new Uint32Array(2 * before.length);
    this.used = 0;
    for (let i = 0; i < before.length; i += 2) {
      const [high, low] = [before[i] as number, before[i + 1] as number];
      if (low !== 0) this.put(this.find(high, low), high, low);
    }
  }
}
