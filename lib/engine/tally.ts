/** Tokens of the texts that asked for one prefix, and that have ended. */
export interface PrefixUse {
  /** The name that they called it by; undefined for those that named none. */
  prefix: string | undefined;
  /** Texts, those included that failed or were aborted. */
  texts: number;
  /** Tokens of their prompts. */
  promptTokens: number;
  /** Tokens that were generated for them, but for those of beam searches. */
  generatedTokens: number;
}

/** More names than these are counted together: a service that loads and removes prefixes has no end of them. */
const MOST_NAMES = 4096;
/** What names beyond those count as. */
const OTHER = '(other)';

/** Counts by the names of prefixes. */
export class Tally {
  private readonly uses = new Map<string | undefined, PrefixUse>();

  add(prefix: string | undefined, promptTokens: number, generatedTokens: number): void {
    const name = this.uses.has(prefix) || this.uses.size < MOST_NAMES ? prefix : OTHER;
    let use = this.uses.get(name);
    if (use === undefined) this.uses.set(name, (use = { prefix: name, texts: 0, promptTokens: 0, generatedTokens: 0 }));
    use.texts++;
    use.promptTokens += promptTokens;
    use.generatedTokens += generatedTokens;
  }

  list(): PrefixUse[] {
    return [...this.uses.values()].map((use) => ({ ...use }));
  }
}
