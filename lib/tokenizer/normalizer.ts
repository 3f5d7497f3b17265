import type { Charsmap } from './charsmap';
import type { PieceTrie } from './piece-trie';
import type { SentencePieceModel } from './sentencepiece-model';
import { validCharLength } from './utf8';

const SPACE = 0x20;
const REPLACEMENT = Uint8Array.of(0xef, 0xbf, 0xbd); // U+FFFD
const SPACE_SYMBOL = Uint8Array.of(0xe2, 0x96, 0x81); // U+2581

/** The output may be longer than the text by this factor, and some more; the rules of Unicode need 13. */
const MAX_GROWTH = 64;

/** Kept between calls up to this size; a longer text's buffer is let go with the next call. */
const KEPT_BYTES = 1 << 20;

/**
 * SentencePiece's text normalisation (google/sentencepiece, src/normalizer.cc) over UTF-8 bytes: user-defined symbols
 * are kept as they are, the longest matching rule replaces text, white space is trimmed and collapsed and becomes
 * U+2581 as the model says.
 */
export class Normalizer {
  /** The normalised text is `output[0, length)` until the next call. */
  output = new Uint8Array(4096);
  length = 0;

  private limit = 0;
  // The unit that `read` found: its bytes are source[from, to), it covers `consumed` bytes of the input.
  private source: Uint8Array = this.output;
  private from = 0;
  private to = 0;
  private consumed = 0;

  private readonly space: Uint8Array;

  constructor(
    private readonly model: SentencePieceModel,
    private readonly charsmap: Charsmap | undefined,
    private readonly symbols: PieceTrie | undefined,
  ) {
    this.space = model.escapeWhitespaces ? SPACE_SYMBOL : Uint8Array.of(SPACE);
  }

  /** @throws RangeError when rules make a text far longer than any real rules do */
  normalize(input: Uint8Array, inputLength: number): void {
    const { removeExtraWhitespaces, addDummyPrefix, treatWhitespaceAsSuffix, escapeWhitespaces } = this.model;
    if (this.output.length > KEPT_BYTES) this.output = new Uint8Array(4096);
    this.length = 0;
    this.limit = 1024 * MAX_GROWTH + inputLength * MAX_GROWTH;
    let position = 0;

    if (removeExtraWhitespaces) {
      while (position < inputLength) {
        this.read(input, position, inputLength);
        if (this.to - this.from !== 1 || this.source[this.from] !== SPACE) break;
        position += this.consumed;
      }
    }
    if (position === inputLength) return;

    if (addDummyPrefix && !treatWhitespaceAsSuffix) this.append(this.space, 0, this.space.length);
    let afterSpace = removeExtraWhitespaces;
    while (position < inputLength) {
      this.read(input, position, inputLength);
      position += this.consumed;
      const { source, to } = this;
      let from = this.from;
      if (afterSpace) while (from < to && source[from] === SPACE) from++;
      if (from === to) continue;
      this.reserve((to - from) * 3);
      for (let i = from; i < to; i++) {
        const byte = source[i] as number;
        if (byte === SPACE && escapeWhitespaces) this.append(SPACE_SYMBOL, 0, 3);
        else this.output[this.length++] = byte;
      }
      afterSpace = removeExtraWhitespaces && source[to - 1] === SPACE;
    }

    if (removeExtraWhitespaces) while (this.endsWithSpace()) this.length -= this.space.length;
    if (addDummyPrefix && treatWhitespaceAsSuffix) this.append(this.space, 0, this.space.length);
  }

  /** Finds the next unit of the text: a user-defined symbol, the replacement of the longest rule, or one character. */
  private read(input: Uint8Array, position: number, end: number): void {
    this.source = input;
    this.from = position;
    const symbol = this.symbols === undefined ? 0 : longestSymbol(this.symbols, input, position, end);
    if (symbol > 0) {
      this.consumed = symbol;
      this.to = position + symbol;
      return;
    }
    const { charsmap } = this;
    if (charsmap !== undefined) {
      charsmap.match(input, position, end);
      if (charsmap.matchLength > 0) {
        this.source = charsmap.texts;
        this.from = charsmap.textStart;
        this.to = charsmap.textEnd;
        this.consumed = charsmap.matchLength;
        return;
      }
    }
    const length = validCharLength(input, position, end);
    this.consumed = Math.max(1, length);
    this.to = position + length;
    if (length === 0) {
      this.source = REPLACEMENT;
      this.from = 0;
      this.to = 3;
    }
  }

  private endsWithSpace(): boolean {
    const start = this.length - this.space.length;
    return start >= 0 && this.space.every((byte, i) => this.output[start + i] === byte);
  }

  private append(bytes: Uint8Array, from: number, to: number): void {
    this.reserve(to - from);
    for (let i = from; i < to; i++) this.output[this.length++] = bytes[i] as number;
  }

  private reserve(extra: number): void {
    if (this.length + extra <= this.output.length) return;
    if (this.length + extra > this.limit)
      throw new RangeError('its normalisation rules make a text more than 64 times as long');
    const grown = new Uint8Array(Math.max(this.output.length * 2, this.length + extra));
    grown.set(this.output.subarray(0, this.length));
    this.output = grown;
  }
}

/** Length of the longest symbol at `position`, 0 for none. */
function longestSymbol(symbols: PieceTrie, bytes: Uint8Array, position: number, end: number): number {
  let longest = 0;
  let node = 0;
  for (let i = position; i < end; i++) {
    node = symbols.step(node, bytes[i] as number);
    if (node < 0) break;
    if (symbols.value(node) >= 0) longest = i + 1 - position;
  }
  return longest;
}
