/**
 * What happens during a training run, in order: one object each, given to `onEvent` and written as a line of
 * `metrics.jsonl`. `step` counts optimizer steps from 1 (0: before the first), `epoch` from 1. `seconds` is the run's
 * time so far, with what it had taken before it was resumed. JSON has no number for NaN and infinity: in
 * `metrics.jsonl` they stand as `null`.
 */
export type TrainingEvent =
  | {
      type: 'start';
      /** Optimizer steps that the run will take at most. */
      totalSteps: number;
      stepsPerEpoch: number;
      epochs: number;
      trainSamples: number;
      validationSamples: number;
      /** Parameters that are trained. */
      trainableParameters: number;
      /** Mean squared error that the initial fit left; undefined where nothing was fitted. */
      initError: number | undefined;
      /**
       * What the process is expected to hold at its peak: what it holds now and what the training adds. Node's own heap
       * and kernels that are compiled on the way come on top, some 100 MB.
       */
      predictedMemoryBytes: number;
      /** Samples that go through the model at a time. */
      microBatchSize: number;
      /** With a process group: how many ranks, the lanes of a step, and the hosts, each once. */
      ranks?: number;
      lanes?: number;
      hosts?: string[];
    }
  | {
      type: 'resume';
      step: number;
      epoch: number;
      seconds: number;
      /** The state file. */
      from: string;
      /** As in 'start'; these may have changed. */
      totalSteps: number;
      epochs: number;
    }
  | {
      type: 'step';
      step: number;
      epoch: number;
      /** Mean over the target tokens of the step, before the update. */
      loss: number;
      /** Target tokens. */
      tokens: number;
      learningRate: number;
      /** L2 norm before clipping. */
      gradNorm: number;
      /** Target tokens per second of this step. */
      tokensPerSecond: number;
      seconds: number;
      /** Seconds until the last step, if it goes on like this. */
      etaSeconds: number;
      /** Resident set of the process. */
      memoryBytes: number;
      /** What the loss is multiplied by so that float16 gradients do not vanish; only with float16. */
      lossScale?: number;
      /** With a process group: seconds of the step in which rank 0 waited for others. */
      waitSeconds?: number;
      /** The rank that computed longest. */
      slowestRank?: number;
      /** False: the float16 gradient overflowed and the step was skipped. */
      applied: boolean;
    }
  | {
      type: 'evaluation';
      step: number;
      epoch: number;
      /** Whether it is the best so far. */
      best: boolean;
      /** Mean over all target tokens of -log p(target), in nats. */
      loss: number;
      /** exp(loss). */
      perplexity: number;
      /** Share of target tokens that were the model's most likely one. */
      accuracy: number;
      /** Target tokens. */
      tokens: number;
      seconds: number;
      /** What the user's own function measured. */
      metrics?: Record<string, number>;
    }
  | {
      type: 'prefix';
      step: number;
      epoch: number;
      /** Of each layer: the mean L2 norm of the prefix's keys, over positions and heads. */
      keyNorms: number[];
      /** The same of its values. */
      valueNorms: number[];
    }
  | {
      type: 'samples';
      /** 0: before the first step. */
      step: number;
      epoch: number;
      samples: { prompt: string; text: string; finishReason: string }[];
    }
  | { type: 'checkpoint'; step: number; epoch: number; kind: 'best' | 'last' | 'state'; path: string }
  | {
      type: 'epoch';
      step: number;
      epoch: number;
      /** Mean over the epoch's target tokens. */
      trainLoss: number;
      /** exp(trainLoss). */
      trainPerplexity: number;
      seconds: number;
    }
  | {
      type: 'end';
      reason: 'epochs' | 'steps' | 'time' | 'early-stopping' | 'aborted';
      step: number;
      epoch: number;
      seconds: number;
      bestStep: number;
    };

export interface EvaluationResult {
  /** Mean over all target tokens of -log p(target), in nats. */
  loss: number;
  /** exp(loss). */
  perplexity: number;
  /** Share of target tokens that were the model's most likely one. */
  accuracy: number;
  /** Target tokens. */
  tokens: number;
  /** What the functions of `metrics` said, by name. */
  metrics?: Record<string, number>;
}
