import type { Stream } from './streams';

/** A decoder of one sequence. */
export interface TextStream extends Stream<number> {
  /** Takes a part of a token's text, for who prints a token only in part. */
  pushText(text: string): string;
  /** White space that is held back, because it would be left out at the end of the text. */
  flush(): string;
  /**
   * True at the start of a text, where white space is left out.
   */
  readonly skipsSpace: boolean;
}

/** What stands in front of a text. */
export interface TextContext {
  readonly ids: ArrayLike<number>;
  /** Characters of white space that its own text ends in, which are not to come again. */
  readonly spaces: number;
}

export const NO_CONTEXT: TextContext = { ids: [], spaces: 0 };

/** What the two kinds of tokenizer have in common, behind the one public class. */
export interface TokenizerBackend {
  readonly kind: 'sentencepiece' | 'bpe';
  /** One above the largest id. */
  readonly vocabSize: number;
  encode(text: string, addSpecialTokens: boolean): Int32Array;
  /**
   * A decoder of one sequence, which gives what it adds to the text of the context; ids outside the vocabulary give
   * nothing.
   */
  stream(skipSpecialTokens: boolean, context: TextContext): TextStream;
  idToToken(id: number): string | undefined;
  /** The bytes that a token stands for in a text; undefined where it stands for none of its own (special tokens). */
  tokenBytes(id: number): Uint8Array | undefined;
  /** As `tokenBytes`, and what a special token is written as. */
  writtenBytes(id: number): Uint8Array | undefined;
  tokenToId(token: string): number | undefined;
}
