import { types } from 'node:util';
import { randomInt } from 'node:crypto';
import type * as Native from '../../types/native';
import { runNativeNow } from '../addon/run-native';
import { badArgument, checkInteger, checkOptions } from '../base/arguments';
import { namesOf, without } from '../base/options';
import type { LoadedModel } from '../model/loaded-model';
import { checkIds, isTokenIds, type TokenIds } from '../model/rows';
import { SAMPLING_OPTIONS, type SamplingOptions, samplingSettings } from './sampling-options';
import { type ScoredToken, scoredTokens } from './token-scores';

/** {@link SamplingOptions} but for those that are no matter of a single token. */
export interface TokenSamplerOptions extends Omit<SamplingOptions, 'maxNewTokens' | 'stop' | 'decodeAlone'> {
  /** Seed of the draws, an integer from 0 to 2^53 - 1. Defaults to a random one. */
  seed?: number;
}

const TOKEN_SAMPLER_OPTIONS = [...namesOf(without(SAMPLING_OPTIONS, 'maxNewTokens', 'stop', 'decodeAlone')), 'seed'];

/** A token that was chosen. */
export interface TokenChoice {
  /** Its id. */
  token: number;
  /** True for an end-of-sequence token. */
  ends: boolean;
  /** Its log-probability and the most likely tokens, with `logprobs`. */
  logprob?: ScoredToken;
}

/**
 * Chooses the tokens of one row from logits, one after the other, as `generate` does: the same options, the same seed
 * and the same logits give the same tokens. {@link NeoXModel.createSampler} makes one.
 */
export class TokenSampler {
  private readonly sampler: Native.Sampler;
  private readonly settings: Native.SamplingSettings;

  /** @internal */
  constructor(
    private readonly model: LoadedModel,
    options: TokenSamplerOptions,
    prompt: TokenIds,
  ) {
    checkOptions('options', options, TOKEN_SAMPLER_OPTIONS);
    if (!isTokenIds(prompt)) throw badArgument('prompt', 'token ids', prompt);
    const seed = options.seed === undefined ? randomInt(2 ** 47) : checkInteger('seed', options.seed, 0);
    const settings = samplingSettings(model, { ...options, maxNewTokens: Number.MAX_SAFE_INTEGER });
    this.settings = { ...settings, seed, stream: 0 };
    this.sampler = runNativeNow((addon) =>
      addon.createSampler(this.settings, checkIds('prompt', prompt, model.config)),
    );
  }

  /**
   * Chooses the next token and remembers it.
   * @param logits [V]; stays as it is
   * @throws NEOX_NOT_FINITE for NaN or infinity among them
   */
  next(logits: Float32Array): TokenChoice {
    const [token, scores] = runNativeNow((addon) => addon.sampleToken(this.sampler, this.checked(logits)));
    const logprob = this.settings.logprobs < 0 ? undefined : scoredTokens([token], scores)[0];
    return { token, ends: this.settings.endIds.includes(token), ...(logprob && { logprob }) };
  }

  /** Remembers a token that was not chosen here: given, or forced. */
  push(token: number): void {
    const [id] = checkIds('token', [token], this.model.config);
    runNativeNow((addon) => addon.pushToken(this.sampler, id as number));
  }

  /** The probabilities [V] that `next` would draw by, 0 for tokens that are left out. Chooses nothing. */
  probabilities(logits: Float32Array): Float32Array {
    return runNativeNow((addon) => addon.tokenProbabilities(this.sampler, this.checked(logits)));
  }

  private checked(logits: unknown): Float32Array {
    const { vocabSize } = this.model.config;
    if (!types.isFloat32Array(logits) || logits.length !== vocabSize)
      throw badArgument('logits', `a Float32Array of ${vocabSize} numbers`, logits);
    return logits;
  }
}
