import {
  badArgument,
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkString,
} from '../base/arguments';
import { ENCODER_OPTIONS, type PrefixEncoder, type PrefixEncoderOptions } from './encoder';

/** The forms that the learning rate takes behind the warm-up. */
export const SCHEDULES = ['linear', 'cosine', 'constant'] as const;
export type Schedule = (typeof SCHEDULES)[number];

/** How to train. The defaults are those of rinna's prefix_tuning_example.py. */
export interface TrainerOptions extends Omit<PrefixEncoderOptions, 'signal'> {
  /** The task's name. Defaults to `'task'`. */
  name?: string;
  /** Passes over the training data, at most. Defaults to `50`. */
  epochs?: number;
  /** Optimizer steps, at most. Defaults to `50000`. */
  trainingSteps?: number;
  /**
   * Seconds, at most; the run stops behind the step that reaches them. A resumed run counts those before. 0: no limit.
   * Defaults to `0`.
   */
  maxSeconds?: number;

  /** Samples in a batch. Defaults to `4`. */
  batchSize?: number;
  /**
   * Where above 0, a batch is as many samples as have at most this many tokens together; not beside `batchSize`.
   * Defaults to `0`.
   */
  batchTokens?: number;
  /** Batches in an optimizer step. The loss is the mean over the target tokens of all of them. Defaults to `1`. */
  accumulationSteps?: number;
  /**
   * Samples that go through the model at a time: a batch is divided where it is larger. Changes memory and speed, and
   * of the result the last bits alone. 0: the whole batch; `'auto'`: as many as fit in the memory that is free, by
   * {@link predictTrainingMemory}. Defaults to `0`.
   */
  microBatchSize?: number | 'auto';
  /**
   * Keep only what enters each block and compute the block once more in the backward pass: a quarter to a tenth of the
   * memory, at about a third more time. The gradients are the same to the last bit. Defaults to `false`.
   */
  gradientCheckpointing?: boolean;
  /** Whether the training data is shuffled anew in each epoch, by the seed. Defaults to `true`. */
  shuffle?: boolean;
  /** Whether a batch gets samples of about the same length, in shuffled order. Needs `shuffle`. Defaults to `false`. */
  bucketing?: boolean;
  /**
   * Whether a sample without a prompt gives two rows, with and without the beginning-of-sequence token. Defaults to
   * `true`.
   */
  twoRows?: boolean;

  /** Peak learning rate. Defaults to `1e-4`. */
  learningRate?: number;
  /**
   * What follows the warm-up: `'linear'` falls in a straight line to `minLearningRate`, `'cosine'` in half a wave,
   * `'constant'` stays at the peak. Defaults to `'linear'`.
   */
  schedule?: Schedule;
  /** Steps over which the learning rate rises from 0. Defaults to `0`. */
  warmupSteps?: number;
  /** The same as a share of `decaySteps`, in [0, 1]; not beside `warmupSteps`. Defaults to `0`. */
  warmupRatio?: number;
  /** Where the learning rate ends. Defaults to `0`. */
  minLearningRate?: number;
  /**
   * The step at which the learning rate is at its end, warm-up included. `'trainingSteps'`: the option of that name, as
   * in rinna's script, whatever epochs there are; `'run'`: as many as the run will take at most. Defaults to
   * `'trainingSteps'`.
   */
  decaySteps?: number | 'trainingSteps' | 'run';
  /** Defaults to `0.9`. */
  adamBeta1?: number;
  /** Defaults to `0.99`. */
  adamBeta2?: number;
  /** Defaults to `1e-8`. */
  adamEpsilon?: number;
  /** Defaults to `0.01`. */
  weightDecay?: number;
  /** What decays: `'weights'` is all but biases, `'all'` everything. Defaults to `'weights'`. */
  weightDecayOn?: 'weights' | 'all';
  /** Largest L2 norm of the gradient; 0: no clipping. Defaults to `1`. */
  gradClip?: number;
  /**
   * What the loss is multiplied by before the backward pass (and the gradient divided by after it), so that small
   * gradients do not vanish in float16. 0: begins at 65536, halves when a gradient overflows (that step is left out)
   * and doubles after 2,000 steps without; for a base model in float16 only, the others need none. Defaults to `0`.
   */
  lossScale?: number;

  /** Evaluate after so many optimizer steps, besides `evaluateEveryEpochs`; 0: not. Defaults to `0`. */
  evaluateEverySteps?: number;
  /** Evaluate after so many epochs; 0: not. The end of the run is evaluated in any case. Defaults to `1`. */
  evaluateEveryEpochs?: number;
  /** Stop after so many evaluations in a row without a better loss; 0: never. Defaults to `0`. */
  earlyStoppingPatience?: number;
  /** By how much the loss has to fall to count as better for early stopping, in nats. Defaults to `0`. */
  earlyStoppingThreshold?: number;

  /** An encoder to start from; then the options of the encoder are not allowed. It is changed by the training. */
  encoder?: PrefixEncoder;
  /**
   * A folder for what the run leaves: the best and the last prefix, the encoder, the state to resume from, metrics,
   * TensorBoard events and a report. Every file is written atomically. Defaults to none: nothing is written.
   */
  outputDir?: string;
  /** Save the state after so many optimizer steps, besides at the end of each epoch; 0: not. Defaults to `0`. */
  saveEverySteps?: number;
  /** States that are kept, the newest ones. Defaults to `2`. */
  keepStates?: number;
}

/** What `resume` may find changed: it decides when a run ends or saves, not what a step does. */
export const CHANGEABLE = [
  'epochs',
  'maxSeconds',
  'saveEverySteps',
  'keepStates',
  'earlyStoppingPatience',
  'earlyStoppingThreshold',
] as const;

/** Every option decided. */
export type Recipe = Required<Omit<TrainerOptions, keyof PrefixEncoderOptions | 'encoder' | 'outputDir'>> & {
  seed: number;
};

type RecipeOption = Exclude<keyof TrainerOptions, keyof PrefixEncoderOptions>;

/** Each option of a trainer that is none of an encoder. An object so that the compiler finds one that is missing. */
const RECIPE_OPTIONS: Record<RecipeOption, true> = {
  name: true,
  epochs: true,
  trainingSteps: true,
  maxSeconds: true,
  batchSize: true,
  batchTokens: true,
  accumulationSteps: true,
  microBatchSize: true,
  gradientCheckpointing: true,
  shuffle: true,
  bucketing: true,
  twoRows: true,
  learningRate: true,
  schedule: true,
  warmupSteps: true,
  warmupRatio: true,
  minLearningRate: true,
  decaySteps: true,
  adamBeta1: true,
  adamBeta2: true,
  adamEpsilon: true,
  weightDecay: true,
  weightDecayOn: true,
  gradClip: true,
  lossScale: true,
  evaluateEverySteps: true,
  evaluateEveryEpochs: true,
  earlyStoppingPatience: true,
  earlyStoppingThreshold: true,
  encoder: true,
  outputDir: true,
  saveEverySteps: true,
  keepStates: true,
};

/** Names of the options of a trainer. */
export const TRAINER_OPTIONS: readonly (keyof TrainerOptions)[] = [
  ...(Object.keys(RECIPE_OPTIONS) as RecipeOption[]),
  ...ENCODER_OPTIONS.filter((name) => name !== 'signal'),
];

/** Checks and completes. */
export function resolveRecipe(options: TrainerOptions): Recipe {
  checkOptions('options', options, TRAINER_OPTIONS);
  const recipe: Recipe = {
    name: checkString('name', options.name ?? 'task'),
    epochs: checkInteger('epochs', options.epochs ?? 50, 1),
    trainingSteps: checkInteger('trainingSteps', options.trainingSteps ?? 50_000, 1),
    maxSeconds: checkNumber('maxSeconds', options.maxSeconds ?? 0, 0),
    batchSize: checkInteger('batchSize', options.batchSize ?? 4, 1),
    batchTokens: checkInteger('batchTokens', options.batchTokens ?? 0, 0),
    accumulationSteps: checkInteger('accumulationSteps', options.accumulationSteps ?? 1, 1),
    microBatchSize:
      options.microBatchSize === 'auto' ? 'auto' : checkInteger('microBatchSize', options.microBatchSize ?? 0, 0),
    gradientCheckpointing: checkBoolean('gradientCheckpointing', options.gradientCheckpointing ?? false),
    shuffle: checkBoolean('shuffle', options.shuffle ?? true),
    bucketing: checkBoolean('bucketing', options.bucketing ?? false),
    twoRows: checkBoolean('twoRows', options.twoRows ?? true),
    learningRate: checkNumber('learningRate', options.learningRate ?? 1e-4, 0),
    schedule: checkOneOf('schedule', options.schedule ?? 'linear', SCHEDULES),
    warmupSteps: checkInteger('warmupSteps', options.warmupSteps ?? 0, 0),
    warmupRatio: checkNumber('warmupRatio', options.warmupRatio ?? 0, 0, 1),
    minLearningRate: checkNumber('minLearningRate', options.minLearningRate ?? 0, 0),
    decaySteps: checkDecaySteps(options.decaySteps ?? 'trainingSteps'),
    adamBeta1: checkNumber('adamBeta1', options.adamBeta1 ?? 0.9, 0, 0.999999),
    adamBeta2: checkNumber('adamBeta2', options.adamBeta2 ?? 0.99, 0, 0.999999),
    adamEpsilon: checkNumber('adamEpsilon', options.adamEpsilon ?? 1e-8, 0, Infinity, true),
    weightDecay: checkNumber('weightDecay', options.weightDecay ?? 0.01, 0),
    weightDecayOn: checkOneOf('weightDecayOn', options.weightDecayOn ?? 'weights', ['weights', 'all']),
    gradClip: checkNumber('gradClip', options.gradClip ?? 1, 0),
    lossScale: checkNumber('lossScale', options.lossScale ?? 0, 0),
    evaluateEverySteps: checkInteger('evaluateEverySteps', options.evaluateEverySteps ?? 0, 0),
    evaluateEveryEpochs: checkInteger('evaluateEveryEpochs', options.evaluateEveryEpochs ?? 1, 0),
    earlyStoppingPatience: checkInteger('earlyStoppingPatience', options.earlyStoppingPatience ?? 0, 0),
    earlyStoppingThreshold: checkNumber('earlyStoppingThreshold', options.earlyStoppingThreshold ?? 0, 0),
    saveEverySteps: checkInteger('saveEverySteps', options.saveEverySteps ?? 0, 0),
    keepStates: checkInteger('keepStates', options.keepStates ?? 2, 1),
    seed: checkInteger('seed', options.seed ?? 42, 0),
  };
  if (recipe.warmupSteps > 0 && recipe.warmupRatio > 0)
    throw badArgument('warmupRatio', 'nothing beside warmupSteps', recipe.warmupRatio);
  if (recipe.batchTokens > 0 && options.batchSize !== undefined)
    throw badArgument('batchTokens', 'nothing beside batchSize', recipe.batchTokens);
  if (recipe.minLearningRate > recipe.learningRate)
    throw badArgument('minLearningRate', `at most learningRate (${recipe.learningRate})`, recipe.minLearningRate);
  if (recipe.bucketing && !recipe.shuffle) throw badArgument('bucketing', 'false without shuffle', recipe.bucketing);
  return recipe;
}

function checkDecaySteps(value: unknown): Recipe['decaySteps'] {
  if (value === 'trainingSteps' || value === 'run') return value;
  if (typeof value !== 'number') throw badArgument('decaySteps', "a number of steps, 'trainingSteps' or 'run'", value);
  return checkInteger('decaySteps', value, 1);
}
