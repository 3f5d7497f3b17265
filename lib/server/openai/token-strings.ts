import type { TokenLogprob } from '../../generation/token-scores';
import { NO_CONTEXT, type TextContext } from '../../tokenizer/backend';
import type { Tokenizer } from '../../tokenizer/tokenizer';

/** A token as it stands in a text. */
export interface TokenString {
  /** Its text; `bytes:\xe3\x81` where it is no whole characters; of special tokens what they are written as. */
  token: string;
  /** Null for special tokens, which are no part of the text. */
  bytes: Uint8Array | null;
  /** Code points of the text in front of it. */
  offset: number;
}

const STRICT = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** What log-probabilities call minus infinity, which JSON does not have. */
export function finite(logprob: number): number {
  return logprob === -Infinity ? -9999 : logprob;
}

/** Names the tokens of one text, one after the other, and says where in it they stand. */
export class TokenStrings {
  /** Code points of the text so far. */
  private count: number;
  private readonly utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  /** Bytes of a character that is not complete. */
  private open: Uint8Array = new Uint8Array();
  /** Whether a space would be left out: at the start of a text. */
  private skipsSpace: boolean;

  constructor(
    private readonly tokenizer: Tokenizer,
    context: TextContext = NO_CONTEXT,
    count = 0,
  ) {
    this.count = count;
    this.skipsSpace = tokenizer.textStream(true, context).skipsSpace;
  }

  /** The next token of the text. */
  push(id: number): TokenString {
    const offset = this.count;
    const named = this.name(id);
    if (named.bytes === null) return { ...named, offset };
    const text = this.utf8.decode(named.bytes, { stream: true });
    this.count += Array.from(text).length;
    this.open = unfinished(Buffer.concat([this.open, named.bytes]));
    if (named.bytes.length > 0) this.skipsSpace = false;
    return { ...named, offset };
  }

  /** A token that could stand here. */
  name(id: number): Omit<TokenString, 'offset'> {
    const own = this.tokenizer.tokenBytes(id);
    if (own === undefined) {
      const written = this.tokenizer.writtenBytes(id);
      const token = written === undefined ? `token_id:${id}` : new TextDecoder().decode(written);
      return { token, bytes: null };
    }
    const bytes = this.skipsSpace && own[0] === 0x20 ? own.subarray(1) : own;
    return { token: this.open.length > 0 ? escaped(bytes) : textOf(bytes), bytes };
  }

  /** Tokens with their log-probabilities by their strings; two that look the same are told apart by their ids. */
  byString(list: readonly TokenLogprob[]): Record<string, number> {
    const result: Record<string, number> = {};
    for (const { token, logprob } of list) {
      const { token: name } = this.name(token);
      result[Object.hasOwn(result, name) ? `token_id:${token}` : name] = finite(logprob);
    }
    return result;
  }
}

function textOf(bytes: Uint8Array): string {
  try {
    return STRICT.decode(bytes);
  } catch {
    return escaped(bytes);
  }
}

function escaped(bytes: Uint8Array): string {
  return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
}

/** The bytes at the end that begin a character and do not complete it. */
function unfinished(bytes: Uint8Array): Uint8Array {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] as number;
    if (byte < 0x80) break;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? bytes.slice(-back) : new Uint8Array();
  }
  return new Uint8Array();
}
