import type { TrainerOptions } from '../../../lib/training/recipe';

/**
 * A run with everything that has a state: dropout, accumulation, micro-batches, schedules, evaluations within epochs,
 * early stopping.
 */
export const RESUMED_RUN: TrainerOptions = {
  name: 'resumed',
  prefixLength: 4,
  hiddenDim: 6,
  dropout: 0.2,
  initSteps: 5,
  epochs: 3,
  batchSize: 3,
  accumulationSteps: 2,
  microBatchSize: 2,
  learningRate: 5e-2,
  schedule: 'cosine',
  decaySteps: 'run',
  warmupRatio: 0.2,
  evaluateEverySteps: 2,
  earlyStoppingPatience: 50,
  saveEverySteps: 1,
};

/** 17 samples of unequal length: an epoch ends in the middle of a step and of a batch. */
export function resumedData(): Record<'train' | 'validation', { completion: number[] }[]> {
  const sample = (i: number): { completion: number[] } => ({
    completion: Array.from({ length: 4 + (i % 7) }, (_, j) => 3 + ((i * 5 + j * j) % 60)),
  });
  const list = (first: number, count: number): { completion: number[] }[] =>
    Array.from({ length: count }, (_, i) => sample(first + i));
  return { train: list(0, 17), validation: list(40, 5) };
}
