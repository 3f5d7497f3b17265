export { NeoXPrefixError, isNeoXPrefixError, ERROR_CODES, type NeoXErrorCode } from './errors';
export { NeoXModel, type LoadOptions, type ModelDType, type ModelInfo } from './model/neox-model';
export type { Arithmetic, ArithmeticOverrides } from './model/arithmetic';
export { KVCache } from './model/kv-cache';
export type { ForwardOptions, ForwardResult, HiddenStates, Logits } from './model/forward';
export type { TokenIds } from './model/rows';
export type { GPTNeoXConfig, HiddenAct } from './checkpoint/config';
export { openCheckpoint, type Checkpoint, type CheckpointFormat, type CheckpointOptions } from './checkpoint/checkpoint';
export type { GenerateOptions, Prompt } from './generation/generate';
export type { SamplingOptions } from './generation/sampling-options';
export type { BeamOptions } from './generation/beam-search';
export type { Completion, FinishReason, GenerateResult, Usage } from './generation/run';
export type { ScoredToken, TokenLogprob } from './generation/token-scores';
export { TokenSampler, type TokenChoice, type TokenSamplerOptions } from './generation/token-sampler';
export type { ContinuationScore, PerplexityOptions, PerplexityResult, ScoreOptions } from './generation/score';
export type { EmbedOptions } from './generation/embed';
export type { StreamOptions, StreamPiece } from './generation/stream';
export { PrefixEncoder, type PrefixEncoderOptions, type PrefixEncoderState, type PrefixInit } from './prefix/encoder';
export {
  PrefixWeights,
  type BaseModelSummary,
  type PrefixFormat,
  type PrefixGeometry,
  type PrefixLoadOptions,
  type PrefixMetadata,
  type PrefixSaveOptions,
  type PrefixStatistics,
  type PrefixTensorOptions,
} from './prefix/weights';
export { convertPrefix, type ConvertOptions, type ConvertReport } from './prefix/convert';
export { PrefixTrainer, type EpochMetrics, type TrainingData, type TrainingResult, type TrainOptions } from './training/prefix-trainer';
export type { Recipe, TrainerOptions } from './training/recipe';
export type { TrainingEvent } from './training/events';
export { evaluate, type EvaluateOptions, type EvaluationResult } from './training/evaluate';
export { Tokenizer, type DecodeOptions, type EncodeOptions, type TokenDecoder } from './tokenizer/tokenizer';
export { formatInstruction, parseInstructionAnswer, type InstructionTurn } from './tokenizer/templates';
export { readDataset, type DatasetOptions } from './data/dataset';
export { splitDataset, type Sample, type TextOrIds } from './data/sample';
export {
  FTExporter,
  type AddTasksOptions,
  type ExportOptions,
  type ExportProgress,
  type ExportReport,
  type ExportSource,
} from './export/ft-exporter';
export type { VerifiedFile, VerifyOptions, VerifyReport } from './export/verify';
export type { ExportWarning } from './export/compatibility';
export type { ExportDType, ExportTask } from './export/export-folder';
export { exportTritonRepository, type TritonOptions, type TritonReport } from './export/triton-repository';
export { doctor, type DoctorCheck, type DoctorReport } from './doctor';
export { findLibtorch, type Libtorch } from './libtorch';
export { fetchLibtorch, type FetchLibtorchOptions, type FetchProgress } from './fetch-libtorch';
