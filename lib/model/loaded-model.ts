import { inspect } from 'node:util';
import type * as Native from '../../types/native';
import { runNative, runNativeNow } from '../addon/run-native';
import type { GPTNeoXConfig } from '../architecture/config';
import type { GenerationConfig } from '../architecture/generation-config';
import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Checkpoint } from '../checkpoint/checkpoint';
import type { ExportTask } from '../fastertransformer/folder';
import { PrefixWeights } from '../prefix/weights';
import { type Tokenizer } from '../tokenizer/tokenizer';

/** The types that a base model can compute in. */
export type ComputeDType = 'float32' | 'bfloat16' | 'float16';
/** The types that a base model can be held in. */
export type ModelDType = ComputeDType | 'int8';

/** What was loaded, and how it is held. */
export interface ModelInfo {
  /** Absolute path of the checkpoint's folder. */
  directory: string;
  /** The checkpoint's format, as {@link CheckpointFormat} has it. */
  format: string;
  dtype: ModelDType;
  /**
   * What activations, KV caches and prefixes are in: `dtype`, but for `'int8'` bfloat16 where the processor multiplies
   * it, else float32.
   */
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

/** What a {@link LoadedModel} is made of. */
export type ModelParts = [
  handle: Native.Model,
  checkpoint: Checkpoint,
  tokenizer: Tokenizer | NeoXPrefixError,
  details: Native.ModelInfo,
  config: GPTNeoXConfig,
  formatLimits: FormatLimits,
  generation: GenerationConfig,
];

/** What a format may take until it is compiled. */
export interface FormatLimits {
  readonly seconds: number;
  /** Of memory. */
  readonly bytes: number;
}

interface Dependent {
  dispose(): Promise<void>;
}

/**
 * A frozen GPT-NeoX model. All its operations run one after the other on a thread of its own; the event loop stays
 * free.
 *
 * ```ts
 * await using model = await LoadedModel.load('models/japanese-gpt-neox-small');
 * ```
 */
export class LoadedModel {
  private handle: Native.Model | undefined;
  private disposing: Promise<void> | undefined;
  private readonly inFlight = new Set<Promise<void>>();
  private readonly prefixes = new WeakMap<PrefixWeights, Promise<Native.Prefix>>();
  /** What goes when the model goes. Not held: it may be garbage before. */
  private readonly dependents = new Set<WeakRef<Dependent>>();

  protected constructor(
    handle: Native.Model,
    /** Where the weights come from. */
    readonly checkpoint: Checkpoint,
    private readonly loadedTokenizer: Tokenizer | NeoXPrefixError,
    private readonly details: Native.ModelInfo,
    /**
     * What the model computes with: the checkpoint's configuration, or what {@link LoadOptions.arithmetic} made of it.
     */
    readonly config: GPTNeoXConfig,
    /** @internal */
    readonly formatLimits: FormatLimits,
    /**
     * What ends a text, and options that a request need not give: generation_config.json, unless
     * {@link LoadOptions.generationConfig} is false.
     */
    readonly generation: GenerationConfig,
  ) {
    this.handle = handle;
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
   * @throws NEOX_BAD_ARGUMENT for a task that there is not, NEOX_BAD_EXPORT for files that are missing or of another
   *   size
   */
  async loadTask(task: string | number): Promise<PrefixWeights | undefined> {
    const found = this.tasks.find(({ id, name }) => (typeof task === 'number' ? id : name) === task);
    return found?.prefixLength === 0
      ? undefined
      : PrefixWeights.load(this.checkpoint.directory, { config: this.config, task });
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
    const { handle } = this;
    const { dtype, computeDtype, device, backend, weightBytes } =
      handle === undefined ? this.details : runNativeNow((addon) => addon.modelInfo(handle));
    const names = this.config.tieWordEmbeddings
      ? [...this.checkpoint.tensors.keys()].filter((name) => name !== 'embed_out.weight')
      : [...this.checkpoint.tensors.keys()];
    const parameters = names.reduce(
      (sum, name) => sum + (this.checkpoint.tensors.get(name)?.shape.reduce((a, b) => a * b, 1) ?? 0),
      0,
    );
    const tokenizer = this.loadedTokenizer instanceof NeoXPrefixError ? null : this.loadedTokenizer.kind;
    return {
      directory,
      format,
      dtype,
      computeDtype,
      device,
      backend,
      weightBytes,
      parameters,
      fingerprint,
      tokenizer,
      warnings,
    };
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
    await runNative(undefined, (addon) => addon.disposeModel(handle));
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
    return `${this.constructor.name}(${this.checkpoint.directory}: ${numLayers} layers of ${hiddenSize}, ${state})`;
  }

  /** @internal */
  protected checkAlive(): void {
    if (this.disposed) throw this.disposedError();
  }

  private disposedError(): NeoXPrefixError {
    return new NeoXPrefixError('NEOX_DISPOSED', `The model ${this.checkpoint.directory} is disposed`);
  }
}

export function checkModel(model: unknown): asserts model is LoadedModel {
  if (!(model instanceof LoadedModel)) throw badArgument('model', 'a NeoXModel', model);
}
