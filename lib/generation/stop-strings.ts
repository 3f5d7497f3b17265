import type { TextStream } from '../tokenizer/backend';
import { trimStartAsPython } from '../tokenizer/streams';
import type { Tokenizer } from '../tokenizer/tokenizer';

/** A token that may hold the beginning of a stop string, or a part of one. */
interface Held {
  token: number;
  /** What it is written as; '' for bytes of a character that is not complete. */
  written: string;
  /** How much of that was given to the decoder. */
  given: number;
}

/**
 * The text of one row, token by token, until one of the stop strings comes. Stop strings are looked for in what the
 * tokens are written as, special ones included (as transformers' stop_strings): a model may end its turns by a special
 * token that is not its end-of-sequence token. The text itself has no special tokens.
 */
export class RowText {
  /** All certain text so far, without a stop string and what follows. */
  text = '';
  /** The stop string that came. */
  stop: string | undefined;
  private held: Held[] = [];
  /** At the start of a text, where white space counts for nothing. */
  private skipsSpace: boolean | undefined;
  private readonly utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

  /** @param tokenizer where there are stop strings */
  constructor(
    private readonly decoder: TextStream,
    private readonly stops: readonly string[],
    private readonly tokenizer?: Tokenizer,
  ) {}

  /**
   * Takes a token; gives the text that is certain now. Text that may be the beginning of a stop string is held back.
   */
  push(token: number): string {
    if (this.stop !== undefined) return '';
    if (this.stops.length === 0) return this.add(this.decoder.push(token));
    this.held.push({ token, written: this.write(token), given: 0 });
    const all = this.held.map((item) => item.written).join('');
    const found = firstOf(all, this.stops);
    this.stop = found?.stop;
    const out = this.release(found?.at ?? all.length - heldBack(all, this.stops));
    if (found === undefined) return this.add(out);
    this.held = [];
    // White space in front of a stop string is not at the end of the text.
    return this.add(out + this.decoder.flush());
  }

  /** Gives the rest of the text. */
  end(): string {
    if (this.stop !== undefined) return '';
    return this.add(this.release(Infinity) + this.decoder.end());
  }

  private write(token: number): string {
    const written = this.utf8.decode(this.tokenizer?.writtenBytes(token) ?? NOTHING, { stream: true });
    this.skipsSpace ??= this.decoder.skipsSpace;
    if (!this.skipsSpace) return written;
    const kept = trimStartAsPython(written);
    this.skipsSpace = kept === '';
    return kept;
  }

  private add(out: string): string {
    this.text += out;
    return out;
  }

  /** Has the decoder print what is written in front of a place in the text that is held. */
  private release(end: number): string {
    let out = '';
    let at = 0;
    while (this.held.length > 0) {
      const item = this.held[0] as Held;
      const { token, written, given } = item;
      if (at + written.length > end) {
        if (end <= at + given || !this.isText(item)) break;
        out += this.decoder.pushText(written.slice(given, end - at));
        item.given = end - at;
        break;
      }
      out += given === 0 ? this.decoder.push(token) : this.decoder.pushText(written.slice(given));
      at += written.length;
      this.held.shift();
    }
    return out;
  }

  /** Whether a token is printed as it is written, so that it may be printed in parts. */
  private isText({ token, written }: Held): boolean {
    const bytes = this.tokenizer?.tokenBytes(token);
    if (bytes === undefined) return false;
    const text = Buffer.from(bytes).toString('utf8');
    return written === text || written === trimStartAsPython(text);
  }
}

const NOTHING = new Uint8Array(0);

/** The stop string that begins first; of several at one place, the first in the list. */
function firstOf(text: string, stops: readonly string[]): { at: number; stop: string } | undefined {
  let best: { at: number; stop: string } | undefined;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at >= 0 && (best === undefined || at < best.at)) best = { at, stop };
  }
  return best;
}

/** How many characters at the end of a text may begin a stop string. */
function heldBack(text: string, stops: readonly string[]): number {
  let most = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > most; length--) {
      if (stop.startsWith(text.slice(text.length - length))) most = length;
    }
  }
  return most;
}
