import { generate } from './engine/call';
import { stream } from './engine/call-stream';
import { embed, type EmbedOptions } from './generation/embed';
import { type GenerateResult, type StreamPiece } from './generation/output';
import { type GenerateOptions, type Prompt, type StreamOptions } from './generation/request';
import {
  type ContinuationScore,
  perplexity,
  type PerplexityOptions,
  type PerplexityResult,
  score,
  type ScoreOptions,
} from './generation/score';
import { TokenSampler, type TokenSamplerOptions } from './generation/token-sampler';
import { forward, type ForwardOptions, type ForwardResult } from './model/forward';
import { loadParts } from './model/load';
import { type LoadOptions } from './model/load-options';
import { LoadedModel } from './model/loaded-model';
import { type TokenIds } from './model/rows';

/**
 * A frozen GPT-NeoX model with all that can be done with it. What it is, is in LoadedModel.
 */
export class NeoXModel extends LoadedModel {
  /**
   * Loads a Hugging Face checkpoint folder, or a weight folder of FasterTransformer (`DIR/<ranks>-gpu`, or a DIR that
   * holds one).
   * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CONFIG, NEOX_BAD_CHECKPOINT, NEOX_BAD_EXPORT, NEOX_UNSUPPORTED,
   *   NEOX_BAD_ARGUMENT, NEOX_LIBTORCH_NOT_FOUND, NEOX_NATIVE_NOT_FOUND; the reason of `signal` when it aborts
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<NeoXModel> {
    return new NeoXModel(...(await loadParts(directory, options)));
  }

  /**
   * One forward pass over a batch of rows. The logits are what the model gives, NaN and infinities of damaged weights
   * included.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED
   */
  async forward(options: ForwardOptions): Promise<ForwardResult> {
    this.checkAlive();
    return this.track(forward(this, options));
  }

  /**
   * Generates text. One prompt gives one result, an array of prompts an array of results; they go through the model
   * together.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED; NEOX_NOT_FINITE with the row whose
   *   logits are NaN or infinite
   */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<GenerateResult>;
  generate(prompts: readonly Prompt[], options?: GenerateOptions): Promise<GenerateResult[]>;
  async generate(
    prompts: Prompt | readonly Prompt[],
    options: GenerateOptions = {},
  ): Promise<GenerateResult | GenerateResult[]> {
    this.checkAlive();
    return generate(this, prompts, options);
  }

  /**
   * Generates text piece by piece. The pieces' texts, joined, are the text that `generate` gives. The work begins when
   * the first piece is asked for; leaving the loop stops it.
   * @throws what `generate` throws: at once for what is wrong with the arguments, else in the loop
   */
  stream(prompt: Prompt, options: StreamOptions = {}): AsyncGenerator<StreamPiece, void, void> {
    this.checkAlive();
    return stream(this, prompt, options);
  }

  /**
   * How likely the model holds each of some continuations of a prompt, which is computed once.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_NOT_FINITE, NEOX_DISPOSED
   */
  async score(
    prompt: Prompt,
    continuations: readonly Prompt[],
    options: ScoreOptions = {},
  ): Promise<ContinuationScore[]> {
    this.checkAlive();
    return this.track(score(this, prompt, continuations, options));
  }

  /**
   * The perplexity of a text of any length, in windows.
   * @throws NEOX_BAD_ARGUMENT, NEOX_PREFIX_MISMATCH, NEOX_NOT_FINITE, NEOX_DISPOSED
   */
  async perplexity(text: Prompt, options: PerplexityOptions = {}): Promise<PerplexityResult> {
    this.checkAlive();
    return this.track(perplexity(this, text, options));
  }

  /**
   * A vector [H] for each text: the hidden state of its last token, or the mean over its tokens.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED
   */
  async embed(texts: readonly Prompt[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    this.checkAlive();
    return this.track(embed(this, texts, options));
  }

  /**
   * Chooses tokens from logits that {@link forward} gave, for a loop of one's own. `prompt`: the tokens that penalties
   * look back at.
   * @throws NEOX_BAD_ARGUMENT
   */
  createSampler(options: TokenSamplerOptions = {}, prompt: TokenIds = []): TokenSampler {
    this.checkAlive();
    return new TokenSampler(this, options, prompt);
  }
}
