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
  tokenToId(token: string): number | undefined;
}
