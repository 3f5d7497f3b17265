import type { TokenDecoder } from '../tokenizer/tokenizer';
import type * as Native from '../../types/native';
import type { Completion, FinishReason } from './run';
import { RowText } from './stop-strings';
import type { StreamPiece } from './stream';
import { scoredTokens, type ScoredToken } from './token-scores';

/** What a row has said so far. */
export class Output {
  private readonly tokens: number[] = [];
  private readonly logprobs: ScoredToken[] = [];
  private readonly row: RowText | undefined;

  constructor(
    decoder: TokenDecoder | undefined,
    stops: readonly string[],
    private readonly scored: boolean,
  ) {
    this.row = decoder === undefined ? undefined : new RowText(decoder, stops);
  }

  get length(): number {
    return this.tokens.length;
  }

  /** The stop string that came. */
  get stop(): string | undefined {
    return this.row?.stop;
  }

  push(token: number, scores: Native.TokenScores | undefined): StreamPiece {
    this.tokens.push(token);
    const text = this.row?.push(token) ?? '';
    const logprob = scores && scoredTokens([token], scores)[0];
    if (logprob === undefined) return { text, token };
    this.logprobs.push(logprob);
    return { text, token, logprob };
  }

  /** The rest of the text, and all of it. */
  end(finishReason: FinishReason): { rest: string; completion: Completion } {
    const rest = this.row?.end() ?? '';
    const { tokens, stop } = this;
    const completion: Completion = { text: this.row?.text ?? '', tokens, finishReason };
    if (stop !== undefined) completion.stop = stop;
    if (this.scored) completion.logprobs = this.logprobs;
    return { rest, completion };
  }
}
