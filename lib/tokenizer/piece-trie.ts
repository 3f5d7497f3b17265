/**
 * A byte trie in two typed arrays. The edges (node, byte) -> node are one open-addressing hash table with linear
 * probing, so that building is one insertion per byte (a double array would have to be packed) and a step is one
 * multiplication and about one probe.
 */
export class PieceTrie {
  /** Value of each node, -1 for none. Node 0 is the root. */
  private values = new Int32Array(1024).fill(-1);
  private nodes = 1;
  /** Slots of two: the key node * 256 + byte + 1 (0 for a free slot), and the node that the edge leads to. */
  private slots: Int32Array;
  private shift: number;

  constructor(expectedEdges = 256) {
    const bits = Math.max(8, Math.ceil(Math.log2(expectedEdges * 2)));
    this.slots = new Int32Array(2 ** (bits + 1));
    this.shift = 32 - bits;
  }

  /** The node behind the edge `byte` of `node`, or -1. */
  step(node: number, byte: number): number {
    const { slots } = this;
    const key = (node << 8) + byte + 1;
    const mask = slots.length - 1;
    let at = (Math.imul(key, HASH) >>> this.shift) << 1;
    for (let probe = 0; probe < MAX_PROBES; probe++) {
      const found = slots[at] as number;
      if (found === key) return slots[at + 1] as number;
      if (found === 0) return -1;
      at = (at + 2) & mask;
    }
    return -1;
  }

  /** The value of a node, -1 for none. */
  value(node: number): number {
    return this.values[node] as number;
  }

  /** Adds the key bytes[start, end) (at most 2^23 - 2 nodes altogether); false when it is there already. */
  add(bytes: Uint8Array, start: number, end: number, value: number): boolean {
    let node = 0;
    let i = start;
    for (; i < end; i++) {
      const next = this.step(node, bytes[i] as number);
      if (next < 0) break;
      node = next;
    }
    for (; i < end; i++) node = this.addEdge(node, bytes[i] as number);
    if (this.values[node] !== -1) return false;
    this.values[node] = value;
    return true;
  }

  private addEdge(node: number, byte: number): number {
    if (this.nodes * 4 >= this.slots.length) this.grow();
    if (this.nodes === this.values.length) {
      const values = new Int32Array(this.nodes * 2).fill(-1);
      values.set(this.values);
      this.values = values;
    }
    const target = this.nodes++;
    if (target >= MAX_NODES) throw new RangeError('its pieces need too large a trie');
    this.insert((node << 8) + byte + 1, target);
    return target;
  }

  private insert(key: number, target: number): void {
    let at = (Math.imul(key, HASH) >>> this.shift) << 1;
    let probe = 1;
    while (this.slots[at] !== 0 && probe++ < MAX_PROBES) at = (at + 2) & (this.slots.length - 1);
    if (this.slots[at] !== 0) throw new RangeError('its pieces are chosen to make the search slow');
    this.slots[at] = key;
    this.slots[at + 1] = target;
  }

  private grow(): void {
    const { slots } = this;
    this.slots = new Int32Array(slots.length * 2);
    this.shift--;
    for (let at = 0; at < slots.length; at += 2) {
      if (slots[at] !== 0) this.insert(slots[at] as number, slots[at + 1] as number);
    }
  }
}

/** 2^32 divided by the golden ratio: spreads consecutive keys (Knuth's multiplicative hashing). */
const HASH = 0x9e3779b1;

/** Slots tried for one edge. Vocabularies of a million pieces need some 40; only chosen ones need more. */
const MAX_PROBES = 256;

/** node * 256 + byte + 1 must stay a positive 32-bit integer. */
const MAX_NODES = 2 ** 23 - 1;
