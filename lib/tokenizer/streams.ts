/**
 * An incremental transformation: what `push` returned for each part, and then `end`, joined, is the result for the
 * whole. A stream serves one sequence.
 */
export interface Stream<T> {
  push(part: T): string;
  end(): string;
}

/** White space as Python's str.strip() takes it, which is not JavaScript's. */
const PYTHON_SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const LEADING = new RegExp(`^${PYTHON_SPACE}+`);
const TRAILING_CHAR = new RegExp(`^${PYTHON_SPACE}$`);

export function trimStartAsPython(text: string): string {
  return text.replace(LEADING, '');
}

export function trimEndAsPython(text: string): string {
  let end = text.length;
  while (end > 0 && TRAILING_CHAR.test(text[end - 1] as string)) end--;
  return text.slice(0, end);
}

/** Python's `text.strip()`: white space is held back until it is known not to be the end. */
export class StripStream implements Stream<string> {
  private hasBegun = false;
  private held = '';
  /** Characters of white space that are left out if they come next. */
  private skipped = 0;

  /** Whether there is text, so that white space counts that comes now. */
  get started(): boolean {
    return this.hasBegun;
  }

  push(text: string): string {
    const rest = this.withoutSkipped(this.hasBegun ? text : trimStartAsPython(text));
    const kept = trimEndAsPython(rest);
    if (kept === '') {
      if (this.hasBegun) this.held += rest;
      return '';
    }
    const out = this.held + kept;
    this.hasBegun = true;
    this.held = rest.slice(kept.length);
    return out;
  }

  end(): string {
    return '';
  }

  /** Gives what is held back. */
  flush(): string {
    const { held } = this;
    this.held = '';
    return held;
  }

  /** Leaves out so many characters of white space: of what is held back, or where there is none of what comes next. */
  skip(count: number): void {
    if (this.held === '') this.skipped = count;
    this.held = this.held.slice(count);
  }

  private withoutSkipped(text: string): string {
    if (this.skipped === 0 || text === '') return text;
    const spaces = Math.min(text.length - trimStartAsPython(text).length, this.skipped);
    this.skipped = spaces === text.length ? this.skipped - spaces : 0;
    return text.slice(spaces);
  }
}

/** The replacements of transformers' clean_up_tokenization, in its order. */
const CLEAN_UP: readonly (readonly [string, string])[] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];
const LONGEST = 4;

export function cleanUp(text: string): string {
  return CLEAN_UP.reduce((result, [from, to]) => result.replaceAll(from, to), text);
}

/**
 * `cleanUp`, incrementally. Every pattern starts with a space and holds nothing but `CHARS`, so the text falls into
 * independent parts behind any other character, and behind a run of `LONGEST` characters without a space, which no
 * pattern can reach across.
 */
export class CleanUpStream implements Stream<string> {
  private static readonly CHARS = " .?!,'ntmsver";
  private held = '';

  push(text: string): string {
    const all = this.held + text;
    let cut = all.length;
    while (cut > 0 && !this.splitsAt(all, cut)) cut--;
    this.held = all.slice(cut);
    return cleanUp(all.slice(0, cut));
  }

  end(): string {
    const out = cleanUp(this.held);
    this.held = '';
    return out;
  }

  private splitsAt(text: string, at: number): boolean {
    if (!CleanUpStream.CHARS.includes(text[at - 1] as string)) return true;
    return at >= LONGEST && !text.slice(at - LONGEST, at).includes(' ');
  }
}
