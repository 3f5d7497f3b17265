import { show } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import type { TextStream } from '../../tokenizer/backend';
import type { Tokenizer } from '../../tokenizer/tokenizer';

const NOTHING = new Uint8Array(0);

/**
 * What may not follow four of the bytes that begin a character: it would be longer than it need be, half a surrogate
 * pair, or no character.
 */
const BAD_FOLLOWERS: readonly (readonly [lead: number, low: number, high: number])[] = [
  [0xe0, 0x80, 0x9f],
  [0xed, 0xa0, 0xbf],
  [0xf0, 0x80, 0x8f],
  [0xf4, 0x90, 0xbf],
];

export function setBit(mask: Int32Array, token: number, value: boolean): void {
  const word = mask[token >> 5] ?? 0;
  const bit = 1 << (token & 31);
  mask[token >> 5] = value ? word | bit : word & ~bit;
}

/**
 * The tokens of a model as a format sees them: by the bytes that they stand for. A mask has bit i % 32 of word i / 32
 * for token i.
 */
export class FormatVocabulary {
  /** Nothing for tokens that are no text, and for those that have bytes which UTF-8 does not. */
  readonly texts: readonly Uint8Array[];
  /** Tokens with a byte that a JSON string has only escaped. */
  readonly controls: Int32Array;
  /**
   * By a byte that ends a token: the tokens that must not come next. XGrammar looks at the number of bytes of a
   * character alone.
   */
  private readonly badNext: ReadonlyMap<number, Int32Array>;

  /** @param size V, of the logits: the tokenizer may have fewer tokens */
  constructor(
    tokenizer: Tokenizer,
    readonly size: number,
  ) {
    this.texts = Array.from({ length: size }, (_, id) => textOf(tokenizer, id));
    this.controls = this.maskOf((text) => text.some((byte) => byte < 0x20));
    this.badNext = new Map(
      BAD_FOLLOWERS.map(([lead, low, high]) => [lead, this.maskOf(([first = 0]) => first >= low && first <= high)]),
    );
  }

  /** Tokens that must not come behind this one. */
  badAfter(token: number): Int32Array | undefined {
    return this.badNext.get(this.texts[token]?.at(-1) ?? 0);
  }

  /** The tokens' bytes, in memory that threads share. */
  packed(): { bytes: Uint8Array; ends: Int32Array } {
    const total = this.texts.reduce((sum, { length }) => sum + length, 0);
    const bytes = new Uint8Array(new SharedArrayBuffer(total));
    const ends = new Int32Array(new SharedArrayBuffer(4 * this.texts.length));
    let end = 0;
    this.texts.forEach((text, id) => {
      bytes.set(text, end);
      ends[id] = end += text.length;
    });
    return { bytes, ends };
  }

  private maskOf(belongs: (text: Uint8Array) => boolean): Int32Array {
    const mask = new Int32Array(Math.ceil(this.size / 32));
    this.texts.forEach((text, id) => {
      if (belongs(text)) setBit(mask, id, true);
    });
    return mask;
  }
}

/**
 * Looks whether there are tokens for all of each text.
 * @throws NEOX_UNSUPPORTED for the first one that tokens cannot write
 */
export function firstUnwritable(choices: readonly string[], texts: readonly Uint8Array[]): void {
  const known = new Set(texts.map((bytes) => Buffer.from(bytes).toString('latin1')));
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const canWrite = (text: string): boolean => {
    const bytes = Buffer.from(text).toString('latin1');
    // Whether a text of tokens ends before byte i.
    const ends = [true];
    for (let end = 1; end <= bytes.length; end++) {
      ends[end] = false;
      for (let begin = Math.max(0, end - longest); begin < end && ends[end] !== true; begin++) {
        ends[end] = ends[begin] === true && known.has(bytes.slice(begin, end));
      }
    }
    return ends[bytes.length] === true;
  };
  const at = choices.findIndex((choice) => !canWrite(choice));
  if (at < 0) return;
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `The vocabulary of the tokenizer has no tokens for format.choices[${at}], ${show(choices[at])}`,
  );
}

/**
 * Decodes a text that has a format: byte by byte, as XGrammar saw it, where the tokenizer's own decoding may strip
 * spaces at the ends or tidy up.
 */
export function formatDecoder(tokenizer: Tokenizer): TextStream {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  return {
    push: (id) => decoder.decode(textOf(tokenizer, id), { stream: true }),
    pushText: (text) => decoder.decode(Buffer.from(text, 'utf8'), { stream: true }),
    end: () => decoder.decode(),
    flush: () => '',
    skipsSpace: false,
  };
}

function textOf(tokenizer: Tokenizer, id: number): Uint8Array {
  const bytes = tokenizer.tokenBytes(id) ?? NOTHING;
  const bad = bytes.some((byte, i) => {
    if (byte === 0xc0 || byte === 0xc1 || byte > 0xf4) return true;
    const next = bytes[i + 1] ?? 0;
    return BAD_FOLLOWERS.some(([lead, low, high]) => byte === lead && next >= low && next <= high);
  });
  return bad ? NOTHING : bytes;
}
