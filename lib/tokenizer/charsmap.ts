/** No rule is longer; a trie that runs in circles would match for ever. */
const MAX_RULE_BYTES = 1024;

/**
 * The normalisation rules of a SentencePiece model ("precompiled charsmap"): a little-endian u32 with the size of the
 * double array in bytes, the double array (the layout of darts-clone: 32-bit units), then the replacement texts, each
 * ended by a NUL.
 */
export class Charsmap {
  /**
   * After `match`: the length of the longest rule at the position in bytes, 0 for none, and the range of its
   * replacement in `texts`.
   */
  matchLength = 0;
  textStart = 0;
  textEnd = 0;
  readonly texts: Uint8Array;

  private readonly units: Uint32Array;

  /** @throws RangeError when the blob is cut off or the double array points outside itself or its texts. */
  constructor(blob: Uint8Array) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const trieBytes = blob.length > 4 ? view.getUint32(0, true) : 0;
    if (trieBytes < 4 || trieBytes > blob.length - 4) {
      throw new RangeError(`its normalisation rules are cut off: the trie needs ${trieBytes} of ${blob.length} bytes`);
    }
    this.units = new Uint32Array(Math.floor(trieBytes / 4));
    for (let i = 0; i < this.units.length; i++) this.units[i] = view.getUint32(4 + i * 4, true);
    this.texts = blob.subarray(4 + trieBytes);
    this.check();
  }

  /** Finds the longest rule that matches `bytes` at `position`; sets `matchLength` and the text range. */
  match(bytes: Uint8Array, position: number, end: number): void {
    const { units } = this;
    this.matchLength = 0;
    let leaf = -1;
    let node = offset(units[0] as number);
    for (let i = position; i < Math.min(end, position + MAX_RULE_BYTES); i++) {
      const byte = bytes[i] as number;
      const unit = units[node ^ byte] as number;
      if ((unit & 0x800000ff) !== byte) break;
      node ^= byte ^ offset(unit);
      if ((unit & 0x100) !== 0) {
        this.matchLength = i - position + 1;
        leaf = node;
      }
    }
    if (leaf < 0) return;
    this.textStart = (units[leaf] as number) & 0x7fffffff;
    let stop = this.textStart;
    while (stop < this.texts.length && this.texts[stop] !== 0) stop++;
    this.textEnd = stop;
  }

  /**
   * Proves that `match` needs no checks. Only a unit without the top bit can be stepped to, so for each of those (and
   * the root): its children, one block of 256 units, and its leaf lie inside the array, and the leaf's text inside
   * `texts`. Free units are zero but for a label, and pass.
   */
  private check(): void {
    const { units } = this;
    for (let index = 0; index < units.length; index++) {
      const unit = units[index] as number;
      if (unit > 0x7fffffff && index > 0) continue;
      const base = index ^ offset(unit);
      if ((base | 0xff) >= units.length)
        throw new RangeError(`its normalisation rules point outside the trie: unit ${base} of ${units.length}`);
      if (index === 0 || (unit & 0x100) === 0) continue;
      const text = (units[base] as number) & 0x7fffffff;
      if (text >= this.texts.length)
        throw new RangeError(`its normalisation rules point outside the texts: byte ${text} of ${this.texts.length}`);
    }
  }
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
