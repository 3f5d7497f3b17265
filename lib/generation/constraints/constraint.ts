import { NeoXPrefixError } from '../../base/errors';
import { type FormatVocabulary, setBit } from './vocabulary';

/** The place of a row's text in a grammar, in the thread that compiled it. */
export interface RemoteMatcher {
  /** Which tokens may come next, [ceil((V + 1) / 32)]; rejects where one that was accepted was not among them. */
  getNextTokenBitmask(): Promise<Int32Array>;
  acceptToken(token: number): void;
  dispose(): void;
}

/** Follows the text of one row: which tokens may come next. */
export class Constraint {
  /** The tokens that may come next, as the addon has masks: [ceil(V / 32)]. Undefined until {@link findMask}. */
  mask: Int32Array | undefined;
  /** The search for it, while it is under way. */
  finding: Promise<void> | undefined;
  /** The token before. */
  private last: number | undefined;

  /**
   * @param endIds tokens that end the text, wherever it may end; to XGrammar that is token V
   * @param isJson whether control characters are not to come: XGrammar lets some of them through
   */
  constructor(
    private readonly matcher: RemoteMatcher,
    private readonly vocabulary: FormatVocabulary,
    private readonly endIds: Int32Array,
    private readonly isJson: boolean,
  ) {}

  /** @throws NEOX_UNSUPPORTED when no token is left */
  async findMask(): Promise<void> {
    const found = await this.matcher.getNextTokenBitmask(); // [ceil((V + 1) / 32)]
    const { vocabulary, endIds, isJson, last } = this;
    const { size } = vocabulary;
    const mask = found.slice(0, Math.ceil(size / 32));
    if (isJson) without(mask, vocabulary.controls);
    if (last !== undefined) without(mask, vocabulary.badAfter(last));
    // What lies behind the vocabulary in its last word: the end.
    const mayEnd = (((found[size >> 5] as number) >>> (size & 31)) & 1) === 1;
    if (size % 32 !== 0) setBit(mask, size, false);
    for (const id of endIds) setBit(mask, id, mayEnd);
    if (mask.every((word) => word === 0)) {
      throw new NeoXPrefixError('NEOX_UNSUPPORTED', 'No token goes on with a text of this format', {
        hint: 'no text has the format, or the vocabulary lacks characters that it needs',
      });
    }
    this.mask = mask;
  }

  /** Takes a token of the mask, which is void then. */
  accept(token: number): void {
    this.mask = undefined;
    this.last = token;
    this.matcher.acceptToken(token);
  }

  /** Frees the memory of the matcher. */
  dispose(): void {
    this.matcher.dispose();
  }
}

function without(mask: Int32Array, tokens: Int32Array | undefined): void {
  tokens?.forEach((word, i) => (mask[i] = (mask[i] ?? 0) & ~word));
}
