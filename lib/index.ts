export { type DoctorCheck, type DoctorReport, doctor } from './addon/doctor';
export { type FetchLibtorchOptions, type FetchProgress, fetchLibtorch } from './addon/fetch-libtorch';
export { type FindLibtorchOptions, type Libtorch, findLibtorch } from './addon/libtorch';
export type { Arithmetic, ArithmeticOverrides } from './architecture/arithmetic';
export type { GPTNeoXConfig, HiddenAct } from './architecture/config';
export type { GenerationConfig, GenerationDefaults } from './architecture/generation-config';
export {
  ERROR_CODES,
  type NeoXErrorCode,
  type NeoXErrorDetails,
  NeoXPrefixError,
  isNeoXPrefixError,
} from './base/errors';
export type { Checkpoint, CheckpointFormat, CheckpointOptions } from './checkpoint/checkpoint';
export { openCheckpoint } from './checkpoint/open';
export { type BatchOrder, BatchPlan, type BatchPlanOptions } from './data/batch-plan';
export { conversationSample } from './data/conversation';
export { type DatasetOptions, type OpenDatasetOptions, openDataset, readDataset } from './data/dataset';
export type { Encoder, Sample, TextOrIds, TokenizedSample, TokenizedTurn, Turn } from './data/sample';
export { type SplitCounts, splitDataset } from './data/split';
export type { DatasetStatistics } from './data/statistics';
export { type FromSamplesOptions, TokenizedDataset } from './data/tokenized-dataset';
export type { Launcher } from './distributed/environment';
export { type JoinOptions, ProcessGroup } from './distributed/process-group';
export {
  type DrainOptions,
  type EngineResult,
  type EngineStats,
  type EngineStreamRequest,
  GenerationEngine,
} from './engine/engine';
export type { RequestTiming } from './engine/job';
export type { EngineOptions } from './engine/engine-options';
export { PrefixStore, type PrefixStoreOptions, type StoredPrefix } from './engine/prefix-store';
export type { EngineRequest } from './engine/engine-request';
export type { EnginePiece, EngineStream } from './engine/stream';
export type { PrefixUse } from './engine/tally';
export { type ConvertOptions, type ConvertReport, convertPrefix } from './export/convert';
export {
  type AddTasksOptions,
  type ExportOptions,
  type ExportReport,
  type ExportSource,
  FTExporter,
} from './export/exporter';
export type { ExportProgress, VerifiedFile } from './export/native-files';
export { type TritonOptions, type TritonReport, exportTritonRepository } from './export/triton-repository';
export type { VerifyOptions, VerifyReport } from './export/verify';
export type { ExportWarning } from './fastertransformer/compatibility';
export type { DenseBiasRule } from './fastertransformer/file-plan';
export type { ExportDType, ExportTask } from './fastertransformer/folder';
export type { BeamOptions } from './generation/beam-options';
export type { EmbedOptions } from './generation/embed';
export type { OutputFormat } from './generation/constraints/output-format';
export type { Completion, EndToken, FinishReason, GenerateResult, StreamPiece, Usage } from './generation/output';
export type { GenerateOptions, Prompt, StreamOptions } from './generation/request';
export type { SamplingOptions } from './generation/sampling-options';
export type { ContinuationScore, PerplexityOptions, PerplexityResult, ScoreOptions } from './generation/score';
export { type CloseOptions, PrefixServer, type ServerAddress } from './server/server';
export type { RequestEvent, ServerLimits, ServerOptions } from './server/server-options';
export { type TokenChoice, TokenSampler, type TokenSamplerOptions } from './generation/token-sampler';
export type { ScoredToken, TokenLogprob } from './generation/token-scores';
export type {
  ConfiguredTensor,
  ModelConfig,
  ModelMetadata,
  ModelStatistics,
  RepositoryModel,
  ServerMetadata,
  StatisticDuration,
  TensorMetadata,
} from './inference-protocol/descriptions';
export type { InferParameters, InferParameterValue } from './inference-protocol/messages';
export {
  type NestedElements,
  type Tensor,
  tensor,
  type TensorDatatype,
  type TensorElement,
  type TensorOf,
} from './inference-protocol/tensors';
export type { ForwardOptions, ForwardResult, HiddenStates, Logits } from './model/forward';
export { KVCache } from './model/kv-cache';
export type { LoadOptions } from './model/load-options';
export type { ComputeDType, ModelDType, ModelInfo } from './model/loaded-model';
export type { TokenIds } from './model/rows';
export { NeoXModel } from './neox-model';
export {
  type BaseModelSummary,
  type JsonValue,
  type PrefixFormat,
  type PrefixGeometry,
  type PrefixLoadOptions,
  type PrefixMetadata,
  type PrefixSaveOptions,
  type PrefixStatistics,
  type PrefixTensorOptions,
  PrefixWeights,
} from './prefix/weights';
export { type ReportBase, type ReportOptions, renderReport } from './report/report';
export type { EvaluationResult, TrainingEvent } from './runs/events';
export { type TensorBoardOptions, TensorBoardWriter } from './runs/tensorboard';
export {
  type InstructionOptions,
  type InstructionTurn,
  type Message,
  type Segment,
  type Template,
  formatInstruction,
  parseInstructionAnswer,
} from './tokenizer/templates';
export {
  type DecodeOptions,
  type DecoderOptions,
  type EncodeOptions,
  type TokenDecoder,
  Tokenizer,
} from './tokenizer/tokenizer';
export { PrefixEncoder, type PrefixEncoderOptions, type PrefixEncoderState, type PrefixInit } from './training/encoder';
export { type EvaluateOptions, type EvaluatePrefixesOptions, evaluate, evaluatePrefixes } from './training/evaluate';
export type { GeneratedSample, GenerationMetric } from './training/generation-metrics';
export { PrefixTrainer, type TrainOptions, type TrainingData } from './training/prefix-trainer';
export type { EndReason, EpochMetrics } from './training/run-position';
export type { Recipe, Schedule, TrainerOptions } from './training/recipe';
export {
  type SweepGrid,
  type SweepOptions,
  type SweepResult,
  type SweepRun,
  type SweepRunResult,
  sweep,
} from './training/sweep';
export { type TrainTasksOptions, type TrainingTask, trainTasks } from './training/tasks';
export type { TrainingResult } from './training/training-run';
export {
  type InferRequest,
  type InferResponse,
  TritonClient,
  type TritonClientOptions,
  type TritonRepository,
} from './triton-client/client';
export type { TritonTasks } from './triton-client/task-table';
export type { ForEachPrompt, TritonGenerateOptions } from './triton-client/text-options';
export type { TritonCompletion, TritonPiece, TritonResult } from './triton-client/text-result';
export type { CallOptions, EndpointOptions, TlsOptions } from './triton-client/transport';
