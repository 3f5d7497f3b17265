export { NeoXPrefixError, isNeoXPrefixError, ERROR_CODES, type NeoXErrorCode, type NeoXErrorDetails } from './errors';
export { NeoXModel, type ComputeDType, type LoadOptions, type ModelDType, type ModelInfo } from './model/neox-model';
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
export { GenerationEngine, type EngineStats } from './engine/engine';
export type { EngineRequest } from './engine/request';
export type { OutputFormat } from './generation/format/format';
export type { EngineOptions } from './engine/options';
export type { EngineStream } from './engine/stream';
export { PrefixEncoder, type PrefixEncoderOptions, type PrefixEncoderState, type PrefixInit } from './prefix/encoder';
export {
  PrefixWeights,
  type BaseModelSummary,
  type JsonValue,
  type PrefixFormat,
  type PrefixGeometry,
  type PrefixLoadOptions,
  type PrefixMetadata,
  type PrefixSaveOptions,
  type PrefixStatistics,
  type PrefixTensorOptions,
} from './prefix/weights';
export { PrefixStore, type PrefixStoreOptions, type StoredPrefix } from './prefix/store';
export { convertPrefix, type ConvertOptions, type ConvertReport } from './prefix/convert';
export { PrefixTrainer, type TrainingData, type TrainOptions } from './training/prefix-trainer';
export type { TrainingResult } from './training/training-run';
export type { EndReason, EpochMetrics } from './training/progress';
export type { Recipe, Schedule, TrainerOptions } from './training/recipe';
export type { TrainingEvent } from './training/events';
export { renderReport, type ReportBase, type ReportOptions } from './report/report';
export { TensorBoardWriter, type TensorBoardOptions } from './training/tensorboard';
export { trainTasks, type TrainingTask, type TrainTasksOptions } from './training/tasks';
export { sweep, type SweepGrid, type SweepOptions, type SweepResult, type SweepRun, type SweepRunResult } from './training/sweep';
export { evaluate, evaluatePrefixes, type EvaluateOptions, type EvaluatePrefixesOptions, type EvaluationResult } from './training/evaluate';
export type { GeneratedSample, GenerationMetric } from './training/generation-metrics';
export { Tokenizer, type DecodeOptions, type EncodeOptions, type TokenDecoder } from './tokenizer/tokenizer';
export {
  formatInstruction,
  parseInstructionAnswer,
  type InstructionOptions,
  type InstructionTurn,
  type Message,
  type Segment,
  type Template,
} from './tokenizer/templates';
export { openDataset, readDataset, type DatasetOptions, type OpenDatasetOptions } from './data/dataset';
export { conversationSample } from './data/conversation';
export type { Sample, TextOrIds, TokenizedSample, TokenizedTurn, Turn, Encoder } from './data/sample';
export { TokenizedDataset, type FromSamplesOptions } from './data/tokenized-dataset';
export type { DatasetStatistics } from './data/statistics';
export { BatchPlan, type BatchOrder, type BatchPlanOptions } from './data/batch-plan';
export { splitDataset, type SplitCounts } from './data/split';
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
export type { DenseBiasRule } from './export/layout';
export { exportTritonRepository, type TritonOptions, type TritonReport } from './export/triton-repository';
export { doctor, type DoctorCheck, type DoctorReport } from './doctor';
export { findLibtorch, type FindLibtorchOptions, type Libtorch } from './libtorch';
export { fetchLibtorch, type FetchLibtorchOptions, type FetchProgress } from './fetch-libtorch';
