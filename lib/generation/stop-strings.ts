import type { TokenDecoder } from '../tokenizer/tokenizer';

/** The text of one row, token by token, until one of the stop strings comes. */
export class RowText {
  /** All certain text so far, without a stop string and what follows. */
  text = '';
  /** The stop string that came. */
  stop: string | undefined;
  private held = '';

  constructor(
    private readonly decoder: TokenDecoder,
    private readonly stops: readonly string[],
  ) {}

  /**
   * Takes a token; gives the text that is certain now. Text that may be the beginning of a stop string is held back.
   */
  push(token: number): string {
    return this.take(this.decoder.push(token), false);
  }

  /** Gives the rest of the text. */
  end(): string {
    return this.take(this.decoder.end(), true);
  }

  private take(text: string, last: boolean): string {
    if (this.stop !== undefined) return '';
    const all = this.held + text;
    const found = firstOf(all, this.stops);
    const certain = found?.at ?? (last ? all.length : all.length - heldBack(all, this.stops));
    this.stop = found?.stop;
    this.held = found === undefined ? all.slice(certain) : '';
    const out = all.slice(0, certain);
    this.text += out;
    return out;
  }
}

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
