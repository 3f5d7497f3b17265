import type { EvaluationResult } from './evaluate';

/** What happens during a training run, in order. `step` counts optimizer steps from 1, `epoch` from 1. */
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
    }
  | ({ type: 'evaluation'; step: number; epoch: number; /** Whether it is the best so far. */ best: boolean } & EvaluationResult)
  | { type: 'checkpoint'; step: number; epoch: number; kind: 'best' | 'last'; path: string }
  | {
      type: 'epoch';
      step: number;
      epoch: number;
      /** Mean over the epoch's target tokens. */
      trainLoss: number;
      trainPerplexity: number;
      seconds: number;
    };
