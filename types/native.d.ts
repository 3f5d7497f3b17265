/**
 * The addon's whole surface. A test compares the names here with the addon's real exports. Only lib/ uses it: the
 * options are checked and completed there, and native code trusts them.
 *
 * Rows of a batch cross packed: `tokens` holds the rows' token ids one behind the other, `lengths` how many each row
 * has.
 */

declare const brand: unique symbol;
interface Handle<Name extends string> {
  readonly [brand]: Name;
}

export type Model = Handle<'model'>;
export type Prefix = Handle<'prefix'>;
export type Cache = Handle<'cache'>;
export type Sampler = Handle<'sampler'>;
export type Encoder = Handle<'encoder'>;
export type Trainer = Handle<'trainer'>;
export type CancelFlag = Handle<'cancel'>;
export type Engine = Handle<'engine'>;
export type Group = Handle<'group'>;

export interface SystemInfo {
  torchVersion: string;
  /** Compute threads that libtorch uses by default. */
  threads: number;
  /** What libtorch's own vector code was compiled for, e.g. "AVX512". */
  cpuCapability: string;
  cpuFeatures: string[];
  /** The instruction set of this package's own kernels: "portable", "avx2", "avx512" or "avx512_bf16". */
  kernels: string;
  /** The compute dtypes that each backend runs here, fastest backend first. */
  backends: Record<'native' | 'onednn' | 'aten', string[]>;
  cudaAvailable: boolean;
  cudaDevices: number;
}

export interface TensorPiece {
  file: string;
  /** FileReader.identity; absent: any. */
  identity?: string;
  shape: readonly number[];
  stride?: readonly number[];
  offset: number;
  byteLength: number;
}

export interface TensorEntry extends TensorPiece {
  name: string;
  dtype: string;
  /** Pieces put together along `axis` and then given `shape`; none: zeros. */
  join?: { axis: number; pieces: readonly TensorPiece[] };
  scale?: number;
}

export interface ModelConfig {
  vocabSize: number;
  hiddenSize: number;
  numLayers: number;
  numHeads: number;
  headSize: number;
  intermediateSize: number;
  /** A vector for each position is added to the embedding. */
  learnedPositions: boolean;
  rotaryDims: number;
  rotaryBase: number;
  rotaryScaling: RotaryScaling;
  /** Up to here a token's keys and values depend on what stands before it alone. */
  trainedPositions: number;
  maxPositions: number;
  useParallelResidual: boolean;
  attentionBias: boolean;
  layerNormEps: number;
  activation:
    | 'gelu'
    | 'gelu_tanh'
    | 'gelu_10'
    | 'quick_gelu'
    | 'relu'
    | 'relu2'
    | 'relu6'
    | 'leaky_relu'
    | 'silu'
    | 'hardswish'
    | 'mish'
    | 'sqrtsoftplus'
    | 'sigmoid'
    | 'tanh'
    | 'laplace'
    | 'linear';
}

/** RotaryScaling of native/core/model/config.h. */
export interface RotaryScaling {
  type: 'default' | 'linear' | 'dynamic' | 'yarn' | 'llama3' | 'longrope';
  factor: number;
  /** Of cosines and sines. */
  attentionFactor: number;
  originalPositions: number;
  /** yarn: the dimensions between which it goes over. llama3: the same as shares of `originalPositions`. */
  low: number;
  high: number;
  /** longrope: one for each frequency. */
  shortFactors: Float32Array;
  longFactors: Float32Array;
}

export interface LoadOptions {
  config: ModelConfig;
  tensors: TensorEntry[];
  dtype: 'float32' | 'bfloat16' | 'float16' | 'int8';
  device: string;
  backend: 'auto' | 'aten' | 'onednn' | 'native';
  pack: 'auto' | 'both' | 'forward' | 'none';
  /** 0: libtorch's default. */
  threads: number;
  cancel?: CancelFlag | undefined;
  /** The share that is ready, in (0, 1]. */
  onProgress?: ((share: number) => void) | undefined;
}

export interface ModelInfo {
  dtype: 'float32' | 'bfloat16' | 'float16' | 'int8';
  /** Of activations, caches and prefixes. */
  computeDtype: 'float32' | 'bfloat16' | 'float16';
  device: string;
  backend: 'aten' | 'onednn' | 'native';
  weightBytes: number;
  /** Of further copies that createTrainer would make with `copyWeights`; 0 after the first. */
  backwardBytes: number;
  /** The same without: 0 where the copies are not needed. */
  leastBackwardBytes: number;
  /** Bytes for each element of the copy that products make of what comes in; 0: none. */
  rowBytes: number;
  /**
   * Most memory that passes for training and evaluation had in use at a time, since the last trainer of the model was
   * reset or freed.
   */
  peakBytes: number;
}

/** Rows of tokens, and what stands in front of each. */
export interface RowsOptions {
  tokens: Int32Array;
  lengths: Int32Array;
  /** One for each row; ignored with a cache, which knows its own. */
  prefixes: (Prefix | null)[];
  /** A cache with as many rows; it stays as it is. */
  cache?: Cache | undefined;
  cancel?: CancelFlag | undefined;
}

export interface ForwardOptions extends RowsOptions {
  logits: 'all' | 'last' | 'none';
  /**
   * Also gives the hidden states of a layer: 0 is the embedding, numLayers the last block's behind the final layer
   * norm.
   */
  hiddenLayer?: number | undefined;
}

export interface ForwardResult {
  /** float32, row-major: [sum of lengths, V] for 'all', [rows, V] for 'last'; null for 'none'. */
  logits: Float32Array | null;
  /** [sum of lengths, H]; null when not asked for. */
  hiddenStates: Float32Array | null;
  /** A new cache; the one that was given is unchanged. */
  cache: Cache;
}

/** How a row chooses its tokens: SamplingOptions of native/core/generation/sampling_options.h. */
export interface SamplingSettings {
  temperature: number;
  topK: number;
  topP: number;
  topPRule: 'huggingface' | 'rinna';
  minP: number;
  typicalP: number;
  seed: number;
  stream: number;
  /** Parallel: tokens, and what is added to their logits. */
  biasedIds: Int32Array;
  biases: Float32Array;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  noRepeatNgramSize: number;
  badWords: readonly Int32Array[];
  minNewTokens: number;
  /** They end a row and are no part of its tokens. */
  endIds: Int32Array;
  /** -1: none; else the tokens' log-probabilities and those of as many of the most likely tokens. */
  logprobs: number;
}

export interface GenerateRowSettings extends SamplingSettings {
  maxNewTokens: number;
}

/** Of n tokens: their log-probabilities [n], and [n, k] of the most likely tokens beside each, best first. */
export interface TokenScores {
  logprobs: Float32Array;
  topTokens: Int32Array;
  topLogprobs: Float32Array;
}

export interface BeamSettings {
  numBeams: number;
  lengthPenalty: number;
  earlyStopping: 'yes' | 'no' | 'never';
  numReturnSequences: number;
}

export interface BeamResult {
  tokens: Int32Array;
  finishReason: 'stop' | 'length';
  score: number;
}

export interface ScoreOptions extends RowsOptions {
  /** Parallel to tokens: what is scored as the token behind each; -1: nothing. */
  targets: Int32Array;
  /** How many of the most likely tokens to give beside each target. */
  top: number;
  /**
   * What the result's cache has: nothing, the rows, or the rows as blocks that forks go on from without copying them. A
   * block counts as a prefix, with 0 tokens.
   */
  keep: 'nothing' | 'rows' | 'blocks';
}

export interface ScoreResult {
  /** Of the targets of each row; greedy: 1 where the target is the most likely token. */
  rows: (TokenScores & { greedy: Uint8Array })[];
  cache: Cache;
}

export interface EngineOptions {
  /** Most tokens of prompts in one forward pass. */
  prefillTokens: number;
  /** 0: no prompt cache. */
  promptCacheBytes: number;
}

/** A row of a cache, which stays as it is, and how many of a prompt's tokens it holds: the first ones, and not all. */
export interface PastOfRow {
  cache: Cache;
  row: number;
  tokens: number;
}

export interface EngineRequest {
  /** The row's number, free again when the row has ended or was removed. */
  slot: number;
  /** Its number in a call, which its errors name; -1: they do not. */
  row: number;
  prompt: Int32Array;
  prefix: Prefix | null;
  /** What stands in front instead of the prefix, which is in it. */
  past?: PastOfRow | undefined;
  settings: GenerateRowSettings;
  /** A beam search. It gives no tokens before it ends, and goes on to its end with any grant. */
  beams?: BeamSettings | undefined;
  /**
   * How many of the most likely tokens to give beside the score of each token of the prompt; -1: no scores. With scores
   * of a prompt of several tokens, `settings.maxNewTokens` may be 0.
   */
  promptLogprobs: number;
}

/** What changed since the last run; removals come first. */
export interface EngineCommands {
  removed: Int32Array;
  added: EngineRequest[];
  /** Rows that may give `grantTokens` more tokens. A row starts with none. */
  grantSlots: Int32Array;
  grantTokens: Int32Array;
  /**
   * Of those rows, by their place, that may give one of some tokens: bit i % 32 of word i / 32 says whether token i is
   * one. For one token of a row; Int32Array [ceil(V / 32)].
   */
  grantMasks: (Int32Array | undefined)[];
  /** One forward pass at least, then on until this time is over or something needs the caller. */
  sliceMicroseconds: number;
  cancel: CancelFlag;
}

export interface EngineReport {
  /** Rows whose prompt was begun, in pairs: slot, tokens of it that the prompt cache had. */
  started: Int32Array;
  /** Prompts that are through, of rows that asked for their scores: of all tokens but the first. */
  prompts: { slot: number; scores: TokenScores }[];
  /** New tokens in pairs: slot, token. */
  tokens: Int32Array;
  /** Of those tokens, by their place among the pairs, that belong to rows which asked for it. */
  scores: (TokenScores | undefined)[];
  /**
   * `sequences`: of a beam search that did not fail, best first. `token`: the end token, where one came; `scores`: its
   * own, where the row asked for them.
   */
  ended: {
    slot: number;
    finishReason: 'stop' | 'length';
    sequences?: BeamResult[];
    token?: number;
    scores?: TokenScores;
    error?: Error;
  }[];
  /** Forward passes. */
  steps: number;
  /** Tokens of prompts that went through the model. */
  promptTokens: number;
  promptCacheBytes: number;
  /** The run's own time. */
  microseconds: number;
}

export interface Batch {
  tokens: Int32Array;
  /** Parallel to tokens; -1 where there is no target. */
  targets: Int32Array;
  lengths: Int32Array;
  cancel?: CancelFlag | undefined;
}

export interface LossSum {
  /** Sum over the target tokens of -log p(target). */
  loss: number;
  tokens: number;
  /** Target tokens that the model held for the most likely. */
  correct: number;
}

export interface EncoderOptions {
  prefixLength: number;
  /** false: the prefix itself is the one parameter, and the two widths are not used. */
  projection: boolean;
  inputDim: number;
  hiddenDim: number;
  dropout: number;
  seed: number;
}

/** Encoder tensors by rinna's names; only `prefix_wte.weight` [P, L*2*H] without projection. */
export type EncoderState = Record<string, Float32Array>;

export interface TrainerOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** What weight decay applies to: everything but the biases, or everything. */
  decay: 'weights' | 'all';
  /**
   * Keeps only the inputs of the blocks and runs them again on the way back: less memory, a third more time, the same
   * bits.
   */
  checkpointing: boolean;
  /** Keeps second copies of the weights for the gradients, also where it could do without: faster, the same bits. */
  copyWeights: boolean;
  /** P, where another rank has the encoder. */
  prefixLength?: number;
  /** Whether lanes stay apart, for {@link sumLanes}. Defaults to `false`. */
  keepLanes?: boolean;
  cancel?: CancelFlag | undefined;
}

export interface TrainingBatch extends Batch {
  /**
   * The part of the step that it counts to, in ascending order. The step's gradient is the sum of those of its lanes,
   * in that order. Defaults to `0`.
   */
  lane?: number;
  /**
   * Multiplies the gradient on its way back through the model and is divided out of the result. A power of two rounds
   * nothing.
   */
  lossScale: number;
}

export interface StepResult {
  /** Mean over the target tokens of the step. */
  loss: number;
  tokens: number;
  /** L2 norm before clipping. Infinity or NaN when the gradient of any batch overflowed. */
  gradNorm: number;
  /** false when gradNorm is not finite: then no parameter and no optimizer state was changed. */
  applied: boolean;
}

/**
 * With the encoder's state, all that a trainer of the same options, seed and dropout needs to go on bit by bit from any
 * point, also from between two batches of one step.
 */
export interface TrainerState {
  /**
   * Updates so far. The dropout mask of the step in progress is drawn from the encoder's seed and this; a step that was
   * not applied does not count.
   */
  steps: number;
  /** AdamW's moments, flat: the encoder's tensors one behind the other. */
  mean: Float32Array;
  square: Float32Array;
  /** [L, 2, N, P, D], of the sum of losses; null: nothing is accumulated. */
  gradient: Float32Array | null;
  /** Sum over the target tokens accumulated. */
  loss: number;
  /** Target tokens accumulated. */
  tokens: number;
}

export function systemInfo(): SystemInfo;
/**
 * Cancels all work and waits until none runs. For the end of the process: afterwards every operation is cancelled at
 * once.
 */
export function shutdown(): void;

export function createCancelFlag(): CancelFlag;
export function cancel(flag: CancelFlag): void;

export function loadModel(options: LoadOptions): Promise<Model>;
export function disposeModel(model: Model): Promise<void>;
export function modelInfo(model: Model): ModelInfo;
/** `data`: [P, L, 2, N, D] */
export function createPrefix(model: Model, options: { data: Float32Array }): Promise<Prefix>;

export function forward(model: Model, options: ForwardOptions): Promise<ForwardResult>;
/** Rows may be empty. */
export function score(model: Model, options: ScoreOptions): Promise<ScoreResult>;

/** `prompt`: what penalties look back at. */
export function createSampler(settings: SamplingSettings, prompt: Int32Array): Sampler;
/** Chooses and remembers; the scores mean something only where they are asked for. `logits`: [V]. */
export function sampleToken(sampler: Sampler, logits: Float32Array): [token: number, scores: TokenScores];
/** Remembers a token that was chosen otherwise. */
export function pushToken(sampler: Sampler, token: number): void;
/** What sampleToken would draw from. */
export function tokenProbabilities(sampler: Sampler, logits: Float32Array): Float32Array;

export function createEngine(model: Model, options: EngineOptions): Engine;
/**
 * One run at a time. What goes wrong in a row is the end of that row alone. `onTokens` hears of the tokens of each
 * forward pass at once; the report at the end then says what came since.
 */
export function engineRun(
  model: Model,
  engine: Engine,
  commands: EngineCommands,
  onTokens?: (report: EngineReport) => void,
): Promise<EngineReport>;
/** The run in progress ends behind its current forward pass. */
export function interruptEngine(engine: Engine): void;
/** Frees the rows and the prompt cache. */
export function disposeEngine(engine: Engine): Promise<void>;
/** Tokens that each row of a cache holds, prefix not counted. */
export function cacheLengths(cache: Cache): Int32Array;
/** Bytes that a cache's rows are in, with the room to grow; what rows share counts once. */
export function cacheBytes(cache: Cache): number;
/** A cache of some rows of another, each cut to a length. They share memory until one goes on. */
export function forkCache(cache: Cache, rows: Int32Array, lengths: Int32Array): Cache;
/** Frees a cache's memory now; using it afterwards is an error of the caller's. */
export function freeCache(cache: Cache): void;
/** Keys and values of one row, without the prefix, in prefix order: [length, L, 2, N, D]. */
export function readCache(model: Model, cache: Cache, row: number): Promise<Float32Array>;

export function createEncoder(model: Model, options: EncoderOptions): Promise<Encoder>;
export function encoderState(model: Model, encoder: Encoder): Promise<EncoderState>;
export function setEncoderState(model: Model, encoder: Encoder, state: EncoderState): Promise<void>;
/** The prefix weights [P, L, 2, N, D]. */
export function encoderOutput(model: Model, encoder: Encoder): Promise<Float32Array>;
/** Fits the encoder's output to `target`; gives the mean squared error that is left. */
export function fitEncoder(
  model: Model,
  encoder: Encoder,
  options: {
    target: Float32Array;
    steps: number;
    learningRate: number;
    weightDecay: number;
    cancel?: CancelFlag | undefined;
  },
): Promise<number>;

/** `encoder`: null where another rank has it. Such a trainer adds up gradients; it has neither step nor state. */
export function createTrainer(model: Model, encoder: Encoder | null, options: TrainerOptions): Promise<Trainer>;
/** Computes the prefix of the step in progress, where it is not there yet. */
export function trainerPrefix(model: Model, trainer: Trainer): Promise<void>;
export function trainerAccumulate(model: Model, trainer: Trainer, batch: TrainingBatch): Promise<LossSum>;
/** Updates the encoder by what was accumulated, which it drops whether applied or not. */
export function trainerStep(
  model: Model,
  trainer: Trainer,
  options: { learningRate: number; gradClip: number },
): Promise<StepResult>;
/** Drops what was accumulated, and gives back the memory that the model keeps for batches. */
export function trainerReset(model: Model, trainer: Trainer): Promise<void>;
/** A copy. */
export function trainerState(model: Model, trainer: Trainer): Promise<TrainerState>;
export function setTrainerState(model: Model, trainer: Trainer, state: TrainerState): Promise<void>;
/** Gradients of the mean loss over what was accumulated, unclipped, by the encoder's names. */
export function trainerGradients(model: Model, trainer: Trainer, encoder: Encoder): Promise<EncoderState>;
export function evaluate(model: Model, options: Batch & { prefix?: Prefix | null }): Promise<LossSum>;

export interface GroupOptions {
  rank: number;
  size: number;
  /** Where the store is. */
  host: string;
  port: number;
  /** Whether this process opens the store. */
  hostsStore: boolean;
  /** The network interface of the exchanges; undefined: the one that reaches `host`. */
  interface?: string | undefined;
  /** Stands in front of all keys. */
  scope: string;
  /** Seconds: the longest wait for the others, when they meet and in each exchange. */
  timeout: number;
  cancel?: CancelFlag | undefined;
}

/** Opens the store of a process group, or waits for it. Errors: NEOX_RENDEZVOUS. */
export function openGroup(options: GroupOptions): Promise<Group>;
/** Connects every rank with every other, when all are at the store. */
export function connectGroup(group: Group, options: { cancel?: CancelFlag | undefined }): Promise<void>;
/** Closes the connections, and the store where it is here. An exchange in progress is given up. */
export function leaveGroup(group: Group): Promise<void>;
/** The store. NEOX_PEER_LOST where it is gone. */
export function groupSet(group: Group, key: string, value: string): Promise<void>;
/** null: not set. */
export function groupGet(group: Group, key: string): Promise<string | null>;
/** Returns the sum. */
export function groupAdd(group: Group, key: string, amount: number): Promise<number>;
/**
 * An exchange: all ranks call the same ones in the same order with as many values. NEOX_PEER_LOST where one ended or
 * was silent. Here: the values [n] of all ranks as [size, n].
 */
export function groupGather(group: Group, values: Float64Array): Promise<Float64Array>;
/** An exchange. Gives the values of rank `root`. */
export function groupBroadcast(group: Group, values: Float32Array, root: number): Promise<Float32Array>;
/** An exchange. Gives all trainers the prefix of rank 0's. */
export function sharePrefix(group: Group, trainer: Trainer): Promise<void>;
/**
 * An exchange. Adds up the lanes of all ranks, in their order, in the trainer of rank 0; the others forget theirs. Rank
 * r of R has the lanes r, r + R, ...
 * @param options.lanes of all ranks together
 * @param options.loss what they sum up to
 */
export function sumLanes(
  group: Group,
  trainer: Trainer,
  options: { lanes: number; loss: number; tokens: number },
): Promise<void>;

/** One output file of a FasterTransformer export. */
export interface FtFile {
  name: string;
  layout: 'copy' | 'output_split' | 'input_split' | 'qkv' | 'bias' | 'prefix' | 'zeros';
  /** The tensor-parallel rank whose part it holds. */
  rank: number;
  /** Biases are divided by it. */
  divisor: number;
  /** Elements that the file must have. */
  elements: number;
  sources: readonly TensorEntry[];
}

export interface FtJob {
  directory: string;
  dtype: 'float32' | 'float16';
  ranks: number;
  heads: number;
  files: readonly FtFile[];
  /** [P, L, 2, N, D], for files of layout 'prefix'. */
  prefix?: { data: Float32Array; shape: readonly number[] } | undefined;
  cancel?: CancelFlag | undefined;
  onProgress?: ((event: { file: string; bytesDone: number }) => void) | undefined;
}

/**
 * Writes the files, which must not exist, and waits until they are on the disk. Counts, per file, what the dtype could
 * not hold.
 */
export function writeFastertransformer(job: FtJob): Promise<{ overflowed: number; nonFinite: number }[]>;
/** Reads the files back and compares them bit by bit with what writeFastertransformer would write. */
export function compareFastertransformer(
  job: FtJob,
): Promise<
  { missing: boolean; expectedBytes: number; actualBytes: number; differing: number; maxAbsDifference: number }[]
>;
