import type { Stream } from './streams';

/** What the two kinds of tokenizer have in common, behind the one public class. */
export interface TokenizerBackend {
  readonly kind: 'sentencepiece' | 'bpe';
  /** One above the largest id. */
  readonly vocabSize: number;
  encode(text: string, addSpecialTokens: boolean): Int32Array;
  /** A decoder of one sequence; ids outside the vocabulary give nothing. */
  stream(skipSpecialTokens: boolean): Stream<number>;
  idToToken(id: number): string | undefined;
  /** The bytes that a token stands for in a text; undefined where it stands for none of its own (special tokens). */
  tokenBytes(id: number): Uint8Array | undefined;
  tokenToId(token: string): number | undefined;
}
