import type * as Native from '../../types/native';

/** A token with its log-probability (natural logarithm). */
export interface TokenLogprob {
  /** Its id. */
  token: number;
  /** The natural logarithm of its probability. */
  logprob: number;
}

/** A token with its log-probability, and the most likely tokens in its place. */
export interface ScoredToken extends TokenLogprob {
  /** As many as were asked for, the most likely first. The token itself may be among them. */
  top: TokenLogprob[];
}

/** Scores of native code beside the tokens that they belong to. */
export function scoredTokens(
  tokens: ArrayLike<number>,
  { logprobs, topTokens, topLogprobs }: Native.TokenScores,
): ScoredToken[] {
  const top = logprobs.length === 0 ? 0 : topTokens.length / logprobs.length;
  return Array.from(logprobs, (logprob, i) => ({
    token: tokens[i] as number,
    logprob,
    top: Array.from({ length: top }, (_, j) => ({
      token: topTokens[i * top + j] as number,
      logprob: topLogprobs[i * top + j] as number,
    })),
  }));
}
