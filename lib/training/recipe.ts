import { checkBoolean, checkInteger, checkNumber, checkOptions, checkString } from '../arguments';
import { ENCODER_OPTIONS, type PrefixEncoder, type PrefixEncoderOptions } from '../prefix/encoder';

/** How to train. The defaults are those of rinna's prefix_tuning_example.py. */
export interface TrainerOptions extends Omit<PrefixEncoderOptions, 'signal'> {
  /** The task's name. Defaults to `'task'`. */
  name?: string;
  /** Passes over the training data, at most. Defaults to `50`. */
  epochs?: number;
  /** Optimizer steps, at most; the learning rate decays to 0 over this many. Defaults to `50000`. */
  trainingSteps?: number;
  /** Samples in a batch. Defaults to `4`. */
  batchSize?: number;
  /** Batches in an optimizer step. The loss is the mean over the target tokens of all of them. Defaults to `1`. */
  accumulationSteps?: number;
  /** Peak learning rate. Defaults to `1e-4`. */
  learningRate?: number;
  /** Steps over which the learning rate rises from 0. Defaults to `0`. */
  warmupSteps?: number;
  /** Defaults to `0.9`. */
  adamBeta1?: number;
  /** Defaults to `0.99`. */
  adamBeta2?: number;
  /** Defaults to `1e-8`. */
  adamEpsilon?: number;
  /** Not applied to biases. Defaults to `0.01`. */
  weightDecay?: number;
  /** Largest L2 norm of the gradient; 0: no clipping. Defaults to `1`. */
  gradClip?: number;
  /** Whether the training data is shuffled anew in each epoch, by the seed. Defaults to `true`. */
  shuffle?: boolean;
  /** Whether a sample without a prompt gives two rows, with and without the beginning-of-sequence token. Defaults to `true`. */
  twoRows?: boolean;
  /** An encoder to start from; then the options of the encoder are not allowed. It is changed by the training. */
  encoder?: PrefixEncoder;
  /**
   * A folder for what the run leaves: `best.safetensors`, `last.safetensors`, `encoder.safetensors`, `metrics.jsonl` and `recipe.json`. Written after
   * each epoch, each file atomically. Defaults to none: nothing is written.
   */
  outputDir?: string;
}

/** Every option decided. */
export type Recipe = Required<Omit<TrainerOptions, keyof PrefixEncoderOptions | 'encoder' | 'outputDir'>> & { seed: number };

const RECIPE_OPTIONS = [
  'name',
  'epochs',
  'trainingSteps',
  'batchSize',
  'accumulationSteps',
  'learningRate',
  'warmupSteps',
  'adamBeta1',
  'adamBeta2',
  'adamEpsilon',
  'weightDecay',
  'gradClip',
  'shuffle',
  'twoRows',
  'encoder',
  'outputDir',
] as const;

export const TRAINER_OPTIONS = [...RECIPE_OPTIONS, ...ENCODER_OPTIONS.filter((name) => name !== 'signal')] as const;

export function resolveRecipe(options: TrainerOptions): Recipe {
  checkOptions('options', options, TRAINER_OPTIONS);
  return {
    name: checkString('name', options.name ?? 'task'),
    epochs: checkInteger('epochs', options.epochs ?? 50, 1),
    trainingSteps: checkInteger('trainingSteps', options.trainingSteps ?? 50_000, 1),
    batchSize: checkInteger('batchSize', options.batchSize ?? 4, 1),
    accumulationSteps: checkInteger('accumulationSteps', options.accumulationSteps ?? 1, 1),
    learningRate: checkNumber('learningRate', options.learningRate ?? 1e-4, 0),
    warmupSteps: checkInteger('warmupSteps', options.warmupSteps ?? 0, 0),
    adamBeta1: checkNumber('adamBeta1', options.adamBeta1 ?? 0.9, 0, 0.999999),
    adamBeta2: checkNumber('adamBeta2', options.adamBeta2 ?? 0.99, 0, 0.999999),
    adamEpsilon: checkNumber('adamEpsilon', options.adamEpsilon ?? 1e-8, 0, Infinity, true),
    weightDecay: checkNumber('weightDecay', options.weightDecay ?? 0.01, 0),
    gradClip: checkNumber('gradClip', options.gradClip ?? 1, 0),
    shuffle: checkBoolean('shuffle', options.shuffle ?? true),
    twoRows: checkBoolean('twoRows', options.twoRows ?? true),
    seed: checkInteger('seed', options.seed ?? 42, 0),
  };
}

/** Learning rate of step `step` (from 0): up from 0 over the warm-up, then down to 0 at the last step, both linearly. */
export function learningRateAt(step: number, { learningRate, warmupSteps, trainingSteps }: Recipe): number {
  if (step < warmupSteps) return (learningRate * step) / Math.max(1, warmupSteps);
  return (learningRate * Math.max(0, trainingSteps - step)) / Math.max(1, trainingSteps - warmupSteps);
}
