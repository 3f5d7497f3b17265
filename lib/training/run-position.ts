import type { EvaluationResult } from '../runs/events';
import type { LossScaleState } from './loss-scale';

export interface EpochMetrics {
  epoch: number;
  /** Optimizer steps so far. */
  step: number;
  /** Mean over the epoch's target tokens. */
  trainLoss: number;
  /** The evaluation at the end of the epoch; undefined where there was none. */
  validation: EvaluationResult | undefined;
}

/** Why a run ended: all epochs or steps done, the time over, no better evaluation, or stopped by its signal. */
export type EndReason = 'epochs' | 'steps' | 'time' | 'early-stopping' | 'aborted';

/** Where a run stands: what is not a tensor in its state. Plain data; saved as JSON. */
export interface Progress {
  /** Optimizer steps taken. */
  step: number;
  /** From 1. */
  epoch: number;
  /** Batches of the epoch that are done. */
  batch: number;
  /** Samples of the batch in progress that went through the model. */
  sample: number;
  /** Batches of the optimizer step in progress that are done. */
  accumulated: number;
  /** Whether the epoch's end (evaluation, events, files) is done. */
  closed: boolean;
  /** Over the steps of this epoch. */
  epochLoss: { sum: number; tokens: number };
  /** The step of the last evaluation, and what it gave. */
  evaluation: ({ step: number } & EvaluationResult) | undefined;
  /** The evaluation with the lowest loss, and its epoch; its prefix is a tensor of the state. */
  best: { step: number; epoch: number; trainLoss: number; result: EvaluationResult } | undefined;
  /** For early stopping: the loss to be beaten, and the evaluations in a row that did not. */
  patience: { loss: number; used: number } | undefined;
  history: EpochMetrics[];
  lossScale: LossScaleState;
  microBatchSize: number;
  /** The run's time so far. */
  seconds: number;
}

export function startOfRun(lossScale: LossScaleState, microBatchSize: number): Progress {
  return {
    ...{ step: 0, epoch: 1, batch: 0, sample: 0, accumulated: 0, closed: false, epochLoss: { sum: 0, tokens: 0 } },
    ...{
      evaluation: undefined,
      best: undefined,
      patience: undefined,
      history: [],
      lossScale,
      microBatchSize,
      seconds: 0,
    },
  };
}
