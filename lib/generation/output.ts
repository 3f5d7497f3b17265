import type * as Native from '../../types/native';
import { type LoadedModel } from '../model/loaded-model';
import type { TextContext, TextStream } from '../tokenizer/backend';

import { RowText } from './stop-strings';

import { type ScoredToken, scoredTokens } from './token-scores';

/** What a row has said so far. */
export class Output {
  private readonly tokens: number[] = [];
  private readonly logprobs: ScoredToken[] = [];
  private readonly row: RowText | undefined;

  constructor(
    model: LoadedModel,
    decoder: TextStream | undefined,
    stops: readonly string[],
    private readonly scored: boolean,
  ) {
    const tokenizer = stops.length > 0 ? model.tokenizer : undefined;
    this.row = decoder === undefined ? undefined : new RowText(decoder, stops, tokenizer);
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

/** `'stop'`: an end-of-sequence token or a stop string. `'length'`: `maxNewTokens`, or the model's last position. */
export type FinishReason = 'stop' | 'length';

/** Tokens of a request and its answer. Prompt, prefix and answer together are at most the model's positions. */
export interface Usage {
  /** Tokens of the prompt. */
  promptTokens: number;
  /** Positions of the prefix. */
  prefixTokens: number;
  /** New tokens, without end-of-sequence tokens, of all completions together. */
  completionTokens: number;
  /** Tokens of the prompt that an engine's prompt cache had. */
  cachedTokens?: number;
}

/** The end-of-sequence token that ended a text. */
export interface EndToken {
  /** Its id. */
  token: number;
  /** Its log-probability, with `logprobs`. */
  logprob?: ScoredToken;
}

/** One text for a prompt. */
export interface Completion {
  /**
   * The new text, without special tokens, and without a stop string: what the new tokens add to the text of the
   * prompt's (see {@link SamplingOptions.decodeAlone}). Empty when the model has no tokenizer.
   */
  text: string;
  /** The new token ids, without the end-of-sequence token; up to the one that completes a stop string. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** The stop string that ended the text. */
  stop?: string;
  /** Of each new token, with `logprobs`. */
  logprobs?: ScoredToken[];
  /** The end-of-sequence token that ended it, with `endToken`. */
  end?: EndToken;
  /**
   * Of a beam search: the log-probability of the tokens under the processed distributions, divided by their number ^
   * `lengthPenalty`.
   */
  score?: number;
}

/** What a prompt gives. With several completions its own fields are those of the first. */
export interface GenerateResult extends Completion {
  /** How many tokens it took. */
  usage: Usage;
  /** All completions, with `n` or `numReturnSequences` above 1; of a beam search the best first. */
  completions?: Completion[];
  /** Of each token of the prompt, with `promptLogprobs`; null for the first, which nothing predicts. */
  promptLogprobs?: (ScoredToken | null)[];
}

/** What a row has done since the last piece. */
export interface RowPiece {
  text: string;
  token?: number;
  logprob?: ScoredToken;
  finishReason?: FinishReason;
}

/** The result of a prompt with these completions. */
export function resultOf(usage: Omit<Usage, 'completionTokens'>, completions: Completion[]): GenerateResult {
  const completionTokens = completions.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return {
    ...(completions[0] as Completion),
    usage: { ...usage, completionTokens },
    ...(completions.length > 1 && { completions }),
  };
}

/**
 * Decodes the tokens of a row; undefined without a tokenizer.
 * @param context what stands in front of them: the prompt, or nothing
 */
export function decoderFor(model: LoadedModel, context: TextContext): TextStream | undefined {
  return model.hasTokenizer ? model.tokenizer.textStream(true, context) : undefined;
}

export function decode(model: LoadedModel, context: TextContext, tokens: Int32Array): string {
  const decoder = decoderFor(model, context);
  if (decoder === undefined) return '';
  let text = '';
  for (const token of tokens) text += decoder.push(token);
  return text + decoder.end();
}

/**
 * The texts of a search that has ended.
 * @param context as for {@link decoderFor}
 */
export function beamCompletions(
  model: LoadedModel,
  context: TextContext,
  sequences: readonly Native.BeamResult[],
): Completion[] {
  return sequences.map(({ tokens, finishReason, score }) => ({
    text: decode(model, context, tokens),
    tokens: Array.from(tokens),
    finishReason,
    score,
  }));
}

/** What a stream gives: one piece for each new token, and a last one with the rest of the text and how it ended. */
export interface StreamPiece {
  /** Text that is certain now; '' while a character is unfinished, or what may be a stop string. */
  text: string;
  /** The new token; undefined in the last piece. */
  token?: number;
  /** Of the new token, with `logprobs`. */
  logprob?: ScoredToken;
  /** Why the text ended; in the last piece only. */
  finishReason?: FinishReason;
  /** The stop string that ended the text; in the last piece only. */
  stop?: string;
  /** The end-of-sequence token that ended the text, with `endToken`; in the last piece only. */
  end?: EndToken;
  /** How many tokens it took; in the last piece only. */
  usage?: Usage;
}
