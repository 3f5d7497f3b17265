import { inspect } from 'node:util';
import { badArgument, checkFunction, checkInteger, checkOneOf, checkOptions, checkPath, checkSignal } from '../arguments';
import { openCheckpoint, type Checkpoint, type CheckpointOptions } from '../checkpoint/checkpoint';
import type { GPTNeoXConfig } from '../checkpoint/config';
import { NeoXPrefixError } from '../errors';
import type { ExportTask } from '../export/export-folder';
import { embed, type EmbedOptions } from '../generation/embed';
import { generate, type GenerateOptions, type Prompt } from '../generation/generate';
import type { GenerateResult } from '../generation/run';
import {
  perplexity,
  score,
  type ContinuationScore,
  type PerplexityOptions,
  type PerplexityResult,
  type ScoreOptions,
} from '../generation/score';
import { stream, type StreamOptions, type StreamPiece } from '../generation/stream';
import { TokenSampler, type TokenSamplerOptions } from '../generation/token-sampler';
import { native } from '../native';
import { runNative } from '../native-call';
import { PrefixWeights } from '../prefix/weights';
import { Tokenizer } from '../tokenizer/tokenizer';
import type * as Native from '../../types/native';
import type { TokenIds } from './rows';
import { withArithmetic, type Arithmetic } from './arithmetic';
import { forward, type ForwardOptions, type ForwardResult } from './forward';
import { autoDType, checkDevice, checkInt8, nativeConfig } from './load-checks';

/** The types that a base model can compute in. */
export type ComputeDType = 'float32' | 'bfloat16' | 'float16';
/** The types that a base model can be held in. */
export type ModelDType = ComputeDType | 'int8';

/** How to load a model. */
export interface LoadOptions {
  /** `'cpu'`, `'cuda'` or `'cuda:N'`. Defaults to `'cpu'`. */
  device?: string;
  /**
   * The type that the base model is held and computes in. `'auto'`: the checkpoint's own, but float16 becomes float32 on a CPU, which has no
   * fast float16 arithmetic and where float32 is exact. `'int8'`: the matrices are held as 8-bit integers with a scale for each output,
   * rounded when the model is loaded, and multiplied with rows that are rounded to 15 bits; everything else is computed in
   * {@link ModelInfo.computeDtype}; on the CPU, with the native backend. Defaults to `'auto'`.
   */
  dtype?: ModelDType | 'auto';
  /** Compute threads. Defaults to libtorch's choice: the number of cores. */
  threads?: number;
  /**
   * Who computes the linear layers: `'native'` (CPU; kernels of this package, for float32, bfloat16 and int8), `'onednn'` (CPU) or `'aten'`
   * (anywhere; slower). Defaults to `'auto'`: the fastest that runs the dtype here.
   */
  backend?: 'auto' | 'aten' | 'onednn' | 'native';
  /**
   * Which packed copies of the weights the native and onednn backends keep. Each costs the memory of the weights. `'auto'`: the one for the
   * forward pass, and once training starts the one for the backward pass, if it takes at most an eighth of the free memory or the backend is
   * onednn (native can do without; a step takes somewhat longer then, for the same result); `'both'`: both, at once; `'forward'`: never the
   * second; `'none'`: none. Defaults to `'auto'`.
   */
  pack?: 'auto' | 'both' | 'forward' | 'none';
  /** Settings of the computation that may differ from the checkpoint's own. Defaults to `'checkpoint'`. */
  arithmetic?: Arithmetic;
  /** A folder whose tokenizer is used, for a model that brings none (a FasterTransformer folder). Defaults to the model's own. */
  tokenizer?: string;
  /** See {@link CheckpointOptions.denseBias}. Defaults to `'runtime'`. */
  denseBias?: CheckpointOptions['denseBias'];
  /** Stops the loading; nothing stays in memory. */
  signal?: AbortSignal;
  /** Called with the share that is ready, in (0, 1]. */
  onProgress?: (share: number) => void;
}

const LOAD_OPTIONS: readonly (keyof LoadOptions)[] = [
  'device',
  'dtype',
  'threads',
  'backend',
  'pack',
  'arithmetic',
  'tokenizer',
  'denseBias',
  'signal',
  'onProgress',
];

/** What was loaded, and how it is held. */
export interface ModelInfo {
  /** Absolute path of the checkpoint's folder. */
  directory: string;
  /** The checkpoint's format, as {@link CheckpointFormat} has it. */
  format: string;
  dtype: ModelDType;
  /** What activations, KV caches and prefixes are in: `dtype`, but for `'int8'` bfloat16 where the processor multiplies it, else float32. */
  computeDtype: ComputeDType;
  device: string;
  /** The backend that computes the linear layers: {@link LoadOptions.backend}, decided. */
  backend: 'aten' | 'onednn' | 'native';
  /** Bytes of all copies of the weights. */
  weightBytes: number;
  /** Number of parameters; a tied output projection counts once. */
  parameters: number;
  /** The identity that prefixes remember. */
  fingerprint: string;
  /** Kind of the tokenizer; null when none could be loaded. */
  tokenizer: 'sentencepiece' | 'bpe' | null;
  /** What was settled or left out when the checkpoint was read. */
  warnings: readonly string[];
}

interface Dependent {
  dispose(): Promise<void>;
}

/**
 * A frozen GPT-NeoX model. All its operations run one after the other on a thread of its own; the event loop stays free.
 *
 * ```ts
 * await using model = await NeoXModel.load('models/japanese-gpt-neox-small');
 * ```
 */
export class NeoXModel {
  private handle: Native.Model | undefined;
  private disposing: Promise<void> | undefined;
  private readonly inFlight = new Set<Promise<void>>();
  private readonly prefixes = new WeakMap<PrefixWeights, Promise<Native.Prefix>>();
  /** What goes when the model goes. Not held: it may be garbage before. */
  private readonly dependents = new Set<WeakRef<Dependent>>();

  private constructor(
    handle: Native.Model,
    /** Where the weights come from. */
    readonly checkpoint: Checkpoint,
    private readonly loadedTokenizer: Tokenizer | NeoXPrefixError,
    private readonly details: Native.ModelInfo,
    /** What the model computes with: the checkpoint's configuration, or what {@link LoadOptions.arithmetic} made of it. */
    readonly config: GPTNeoXConfig,
  ) {
    this.handle = handle;
  }

  /**
   * Loads a Hugging Face checkpoint folder, or a weight folder of FasterTransformer (`DIR/<ranks>-gpu`, or a DIR that holds one).
   * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CONFIG, NEOX_BAD_CHECKPOINT, NEOX_BAD_EXPORT, NEOX_UNSUPPORTED, NEOX_BAD_ARGUMENT,
   *   NEOX_LIBTORCH_NOT_FOUND, NEOX_NATIVE_NOT_FOUND; the reason of `signal` when it aborts
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<NeoXModel> {
    checkPath('directory', directory);
    checkOptions('options', options, LOAD_OPTIONS);
    const signal = checkSignal('signal', options.signal);
    const device = checkDevice(options.device ?? 'cpu');
    const wanted = checkOneOf('dtype', options.dtype ?? 'auto', ['auto', 'float32', 'bfloat16', 'float16', 'int8']);
    const threads = options.threads === undefined ? 0 : checkInteger('threads', options.threads, 1, 1024);
    const backend = checkOneOf('backend', options.backend ?? 'auto', ['auto', 'aten', 'onednn', 'native']);
    const pack = checkOneOf('pack', options.pack ?? 'auto', ['auto', 'both', 'forward', 'none']);
    const onProgress = options.onProgress === undefined ? undefined : checkFunction('onProgress', options.onProgress);
    if (wanted === 'int8') checkInt8(device, backend, pack);
    signal?.throwIfAborted();

    const { denseBias } = options;
    const checkpoint = await openCheckpoint(directory, denseBias === undefined ? {} : { denseBias });
    const config = withArithmetic(checkpoint.config, options.arithmetic ?? 'checkpoint');
    // A model can be used with token ids alone, so a tokenizer that is missing or broken is an error only for those who ask for text.
    const tokenizer = await Tokenizer.load(checkPath('tokenizer', options.tokenizer ?? directory)).catch((error: unknown) => {
      if (error instanceof NeoXPrefixError) return error;
      throw error;
    });
    const dtype = wanted === 'auto' ? autoDType(checkpoint, device) : wanted;
    const tensors = Array.from(checkpoint.tensors, ([name, entry]) => ({ ...entry, name }));
    const handle = await runNative(signal, (addon, cancel) =>
      addon.loadModel({ config: nativeConfig(config), tensors, dtype, device, backend, pack, threads, cancel, onProgress }),
    );
    return new NeoXModel(handle, checkpoint, tokenizer, native().modelInfo(handle), config);
  }

  /** The identity of the base model; prefixes remember it. */
  get fingerprint(): string {
    return this.checkpoint.fingerprint;
  }

  /** @throws the error that the tokenizer's files gave when the model was loaded */
  get tokenizer(): Tokenizer {
    if (this.loadedTokenizer instanceof NeoXPrefixError) throw this.loadedTokenizer;
    return this.loadedTokenizer;
  }

  /**
   * Throws what `tokenizer` throws.
   * @internal
   */
  checkTokenizer(): void {
    if (this.loadedTokenizer instanceof NeoXPrefixError) throw this.loadedTokenizer;
  }

  /**
   * Whether `tokenizer` can be had; `info()` says it too, but counts parameters first.
   * @internal
   */
  get hasTokenizer(): boolean {
    return !(this.loadedTokenizer instanceof NeoXPrefixError);
  }

  /** The tasks of a FasterTransformer folder, in the order of their ids; empty for other checkpoints. */
  get tasks(): readonly ExportTask[] {
    return this.checkpoint.tasks;
  }

  /**
   * Reads the prefix of one of the {@link tasks}, by its name or its id.
   * @returns undefined for a task without a prefix, which runs the plain base model
   * @throws NEOX_BAD_ARGUMENT for a task that there is not, NEOX_BAD_EXPORT for files that are missing or of another size
   */
  async loadTask(task: string | number): Promise<PrefixWeights | undefined> {
    const found = this.tasks.find(({ id, name }) => (typeof task === 'number' ? id : name) === task);
    return found?.prefixLength === 0 ? undefined : PrefixWeights.load(this.checkpoint.directory, { config: this.config, task });
  }

  /** The type that the model is held in. */
  get dtype(): ModelDType {
    return this.details.dtype;
  }

  /** The type of activations, KV caches and prefixes: {@link ModelInfo.computeDtype}. */
  get computeDtype(): ComputeDType {
    return this.details.computeDtype;
  }

  /** True from the first call of {@link dispose} on. */
  get disposed(): boolean {
    return this.disposing !== undefined;
  }

  /** What was loaded, and how it is held now: `weightBytes` grows when training makes its packed copy. */
  info(): ModelInfo {
    const { directory, format, fingerprint, warnings } = this.checkpoint;
    const { dtype, computeDtype, device, backend, weightBytes } =
      this.handle === undefined ? this.details : native().modelInfo(this.handle);
    const names = this.config.tieWordEmbeddings
      ? [...this.checkpoint.tensors.keys()].filter((name) => name !== 'embed_out.weight')
      : [...this.checkpoint.tensors.keys()];
    const parameters = names.reduce((sum, name) => sum + (this.checkpoint.tensors.get(name)?.shape.reduce((a, b) => a * b, 1) ?? 0), 0);
    const tokenizer = this.loadedTokenizer instanceof NeoXPrefixError ? null : this.loadedTokenizer.kind;
    return { directory, format, dtype, computeDtype, device, backend, weightBytes, parameters, fingerprint, tokenizer, warnings };
  }

  /**
   * One forward pass over a batch of rows. The logits are what the model gives, NaN and infinities of damaged weights included.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED
   */
  async forward(options: ForwardOptions): Promise<ForwardResult> {
    this.checkAlive();
    return this.track(forward(this, options));
  }

  /**
   * Generates text. One prompt gives one result, an array of prompts an array of results; they go through the model together.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED; NEOX_NOT_FINITE with the row whose logits are NaN or
   *   infinite
   */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<GenerateResult>;
  generate(prompts: readonly Prompt[], options?: GenerateOptions): Promise<GenerateResult[]>;
  async generate(prompts: Prompt | readonly Prompt[], options: GenerateOptions = {}): Promise<GenerateResult | GenerateResult[]> {
    this.checkAlive();
    return generate(this, prompts, options);
  }

  /**
   * Generates text piece by piece. The pieces' texts, joined, are the text that `generate` gives. The work begins when the first piece is
   * asked for; leaving the loop stops it.
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
  async score(prompt: Prompt, continuations: readonly Prompt[], options: ScoreOptions = {}): Promise<ContinuationScore[]> {
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
   * Chooses tokens from logits that {@link forward} gave, for a loop of one's own. `prompt`: the tokens that penalties look back at.
   * @throws NEOX_BAD_ARGUMENT
   */
  createSampler(options: TokenSamplerOptions = {}, prompt: TokenIds = []): TokenSampler {
    this.checkAlive();
    return new TokenSampler(this, options, prompt);
  }

  /**
   * Frees the model's memory, after the calls that are in flight; a training run ends with
   * NEOX_DISPOSED. Repeated calls give the same promise.
   */
  dispose(): Promise<void> {
    this.disposing ??= this.release();
    return this.disposing;
  }

  private async release(): Promise<void> {
    await Promise.all(this.inFlight);
    for (const dependent of [...this.dependents]) await dependent.deref()?.dispose();
    const handle = this.native;
    this.handle = undefined;
    await native().disposeModel(handle);
  }

  /** {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @internal */
  get native(): Native.Model {
    if (this.handle === undefined) throw this.disposedError();
    return this.handle;
  }

  /**
   * Has dispose wait for a call that has not reached the native queue yet.
   * @internal
   */
  track<T>(work: Promise<T>): Promise<T> {
    const ended = work.then(
      () => void this.inFlight.delete(ended),
      () => void this.inFlight.delete(ended),
    );
    this.inFlight.add(ended);
    return work;
  }

  /**
   * Has dispose take something along that works on this model. The function that it returns takes it back.
   * @internal
   */
  addDependent(dependent: Dependent): () => void {
    this.checkAlive();
    for (const known of this.dependents) if (known.deref() === undefined) this.dependents.delete(known);
    const reference = new WeakRef(dependent);
    this.dependents.add(reference);
    return () => void this.dependents.delete(reference);
  }

  /**
   * As {@link prefixHandle}, for rows with and without a prefix.
   * @internal
   */
  async prefixHandles(prefixes: readonly (PrefixWeights | undefined)[]): Promise<(Native.Prefix | null)[]> {
    return Promise.all(prefixes.map(async (prefix) => (prefix === undefined ? null : this.prefixHandle(prefix))));
  }

  /**
   * A prefix in the form that attention reads; made once and kept for as long as the prefix is.
   * @internal
   */
  prefixHandle(prefix: PrefixWeights): Promise<Native.Prefix> {
    const known = this.prefixes.get(prefix);
    if (known !== undefined) return known;
    this.checkPrefix(prefix);
    const handle = runNative(undefined, (addon) => addon.createPrefix(this.native, { data: prefix.data }));
    this.prefixes.set(prefix, handle);
    handle.catch(() => this.prefixes.delete(prefix));
    return handle;
  }

  /**
   * Has a prefix share the form that was made of an equal one.
   * @internal
   */
  adoptPrefixHandle(prefix: PrefixWeights, handle: Native.Prefix): void {
    this.prefixes.set(prefix, Promise.resolve(handle));
  }

  /**
   * As {@link PrefixWeights.checkFits}. A prefix that was used before was checked then.
   * @internal
   */
  checkPrefix(prefix: PrefixWeights): void {
    if (!this.prefixes.has(prefix)) prefix.checkFits(this.config, this.fingerprint);
  }

  /**
   * What console.log shows.
   * @internal
   */
  [inspect.custom](): string {
    const { numLayers, hiddenSize } = this.config;
    const state = this.disposed ? 'disposed' : `${this.dtype} on ${this.details.device}`;
    return `NeoXModel(${this.checkpoint.directory}: ${numLayers} layers of ${hiddenSize}, ${state})`;
  }

  private checkAlive(): void {
    if (this.disposed) throw this.disposedError();
  }

  private disposedError(): NeoXPrefixError {
    return new NeoXPrefixError('NEOX_DISPOSED', `The model ${this.checkpoint.directory} is disposed`);
  }
}

export function checkModel(model: unknown): asserts model is NeoXModel {
  if (!(model instanceof NeoXModel)) throw badArgument('model', 'a NeoXModel', model);
}
