/** How many waiting requests one of the next higher priority may go ahead of. */
export const PRIORITY_STEP = 16;

/** What a queue orders by. */
export interface Ticket {
  /** When it came: 0, 1, 2, ... */
  readonly arrival: number;
  readonly priority: number;
}

/**
 * Requests in the order they are admitted: as they came, except that a request of priority p stands as if it had come
 * 16 p requests earlier. So whoever waits is overtaken by a bounded number of others only, and nobody starves.
 */
export class AdmissionQueue<T extends Ticket> {
  private readonly items: T[] = [];

  get size(): number {
    return this.items.length;
  }

  /**
   * The next one to admit. Nobody is admitted before it, even where the next one would fit and it does not: that would
   * starve it.
   */
  get head(): T | undefined {
    return this.items[0];
  }

  add(item: T): void {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (before(this.items[middle] as T, item)) low = middle + 1;
      else high = middle;
    }
    this.items.splice(low, 0, item);
  }

  shift(): T | undefined {
    return this.items.shift();
  }

  remove(item: T): void {
    const at = this.items.indexOf(item);
    if (at >= 0) this.items.splice(at, 1);
  }
}

function before(a: Ticket, b: Ticket): boolean {
  const difference = a.arrival - b.arrival - PRIORITY_STEP * (a.priority - b.priority);
  return difference < 0 || (difference === 0 && a.arrival < b.arrival);
}
