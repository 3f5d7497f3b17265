import { NeoXPrefixError } from '../base/errors';
import type { LoadedModel } from '../model/loaded-model';
import type { PrefixEncoder } from './encoder';
import { availableMemory, predictTrainingMemory, type TrainingMemory } from './memory';
import type { Recipe } from './recipe';
import type { RowSource } from './row-source';

/** How many samples go through the model at a time, and the memory that takes. */
export interface MicroBatch {
  samples: number;
  /** Predicted for the whole process at its peak; on another device than the CPU, for what it has there. */
  bytes: number;
}

/**
 * Share of the free memory that a training may take: prediction is not exact, and a machine without any is a machine
 * that hangs.
 */
const SHARE = 0.8;

/**
 * Decides on the size of micro-batches.
 * @param decided of a run that is resumed: another size would change the last bits of the result
 * @param processes that share the free memory of this host
 * @throws NEOX_OUT_OF_MEMORY where not even one sample fits
 */
export function chooseMicroBatch(
  model: LoadedModel,
  encoder: Pick<PrefixEncoder, 'prefixLength' | 'inputDim' | 'hiddenDim' | 'projection'>,
  train: RowSource,
  recipe: Recipe,
  decided: number | undefined,
  copyWeights: boolean,
  processes = 1,
): MicroBatch {
  const rowsPerSample = recipe.twoRows ? 2 : 1;
  const { prefixLength, inputDim, hiddenDim, projection } = encoder;
  const { longestRow } = train;
  const predict = (samples: number): TrainingMemory => {
    const tokens = samples * rowsPerSample * longestRow;
    const checkpointing = recipe.gradientCheckpointing;
    return predictTrainingMemory(model, {
      tokens,
      longestRow,
      prefixLength,
      projection,
      inputDim,
      hiddenDim,
      checkpointing,
      copyWeights,
    });
  };
  // The weights are there already; what a training adds has to fit.
  const added = (samples: number): number => predict(samples).total - predict(samples).weights;
  const atPeak = (samples: number): number =>
    model.info().device === 'cpu' ? process.memoryUsage.rss() + added(samples) : predict(samples).total;
  // With a budget of tokens, a batch of the longest samples is as large as any.
  const largest =
    recipe.batchTokens > 0 ? Math.max(1, Math.ceil(recipe.batchTokens / Math.max(1, longestRow))) : recipe.batchSize;
  const whole = recipe.batchTokens > 0 ? Number.MAX_SAFE_INTEGER : largest;
  const fixed =
    decided ??
    (recipe.microBatchSize === 'auto' ? undefined : recipe.microBatchSize === 0 ? whole : recipe.microBatchSize);
  if (fixed !== undefined) return { samples: fixed, bytes: atPeak(Math.min(fixed, largest)) };
  const budget = (availableMemory() * SHARE) / processes;
  let samples = Math.min(largest, train.length);
  while (samples > 1 && added(samples) > budget) samples = Math.ceil(samples / 2);
  if (added(samples) > budget) {
    throw new NeoXPrefixError(
      'NEOX_OUT_OF_MEMORY',
      `Training on one sample of ${longestRow} tokens takes ${gigabytes(added(samples))} above the model, and ${gigabytes(budget)} may be used`,
      { hint: 'set gradientCheckpointing: true, shorten the samples, or load the model in bfloat16' },
    );
  }
  return { samples, bytes: atPeak(samples) };
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
