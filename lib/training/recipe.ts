import { badArgument, checkOptions } from '../base/arguments';
import {
  boolean,
  choice,
  completed,
  integer,
  integerOr,
  namesOf,
  number,
  type OptionTable,
  path,
  special,
  text,
  without,
} from '../base/options';
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
   * Parts of a step's samples whose gradients are summed apart and then added in order. The result is the same to the
   * last bit for any number of ranks up to this; with another number of lanes it has other last bits. `'ranks'`: as
   * many as there are ranks when the run begins. Defaults to `'ranks'`, which is 1 without a process group.
   */
  lanes?: number | 'ranks';
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

const STEPS = { min: 0, default: 0 };
const RATE = { min: 0, symbol: 'rate' };
const BETA = { min: 0, max: 0.999999, symbol: 'b' };

/** The options of the recipe: those of a trainer that are none of an encoder but the seed, and have a default. */
const RECIPE_OPTIONS = {
  name: text({ default: 'task', help: "the task's name, in the prefix's metadata" }),
  epochs: integer({ min: 1, default: 50, help: 'passes over the data, at most' }),
  trainingSteps: integer({ min: 1, default: 50_000, help: 'optimizer steps, at most' }),
  maxSeconds: number({
    ...{ min: 0, default: 0, symbol: 'n' },
    help: 'seconds, at most, those before a resume included; 0: no limit',
  }),
  batchSize: integer({ min: 1, default: 4, help: 'samples in a batch; one without a prompt is two rows' }),
  batchTokens: integer({
    ...{ min: 0, default: 0, notWith: 'batchSize' },
    help: 'above 0: a batch is as many samples as have at most so many tokens, in place of a number of them',
  }),
  accumulationSteps: integer({ min: 1, default: 1, help: 'batches in an optimizer step' }),
  lanes: integerOr(['ranks'], {
    ...{ min: 1, default: 'ranks', expected: "an integer of at least 1, or 'ranks'," },
    help: 'sums of a step that are added in order: the result is the same for any number of ranks up to this',
  }),
  microBatchSize: integerOr(['auto'], {
    ...{ min: 0, default: 0, expected: "an integer of at least 0, or 'auto'," },
    help: 'samples that go through the model at a time; 0: the whole batch; auto: as many as fit in the free memory',
  }),
  gradientCheckpointing: boolean({ default: false, help: 'less memory for more time, with the same gradients' }),
  shuffle: boolean({ default: true, help: 'another order of the samples in each epoch' }),
  bucketing: boolean({ default: false, help: 'batches of samples of about the same length' }),
  twoRows: boolean({
    default: true,
    help: 'a sample without a prompt is learned with and without the beginning-of-sequence token',
  }),
  learningRate: number({ ...RATE, default: 1e-4, help: 'peak learning rate' }),
  schedule: choice(SCHEDULES, {
    ...{ default: 'linear', symbol: 'form' },
    help: 'how the learning rate goes on from its peak',
  }),
  warmupSteps: integer({ ...STEPS, help: 'steps over which the learning rate rises' }),
  warmupRatio: number({
    ...{ min: 0, max: 1, default: 0, symbol: 'r', notWith: 'warmupSteps' },
    help: 'the same as a share of the steps of decay',
  }),
  minLearningRate: number({ ...RATE, default: 0, help: 'where the learning rate ends' }),
  decaySteps: integerOr(['trainingSteps', 'run'], {
    ...{ min: 1, default: 'trainingSteps', expected: "a number of steps, 'trainingSteps' or 'run'" },
    help: 'the step at which it ends; run: the last one of this run',
  }),
  adamBeta1: number({ ...BETA, default: 0.9, help: 'AdamW' }),
  adamBeta2: number({ ...BETA, default: 0.99, help: 'AdamW' }),
  adamEpsilon: number({ above: 0, default: 1e-8, symbol: 'e', help: 'AdamW' }),
  weightDecay: number({ min: 0, default: 0.01, symbol: 'w', help: 'AdamW' }),
  weightDecayOn: choice(['weights', 'all'], {
    ...{ default: 'weights', symbol: 'what' },
    help: 'all but biases, or everything',
  }),
  gradClip: number({ min: 0, default: 1, symbol: 'norm', help: 'largest norm of the gradient; 0: no clipping' }),
  lossScale: number({
    ...{ min: 0, default: 0, symbol: 's' },
    help: 'factor against vanishing gradients in float16; 0: found while training',
  }),
  evaluateEverySteps: integer({ ...STEPS, help: 'evaluate after so many optimizer steps; 0: not' }),
  evaluateEveryEpochs: integer({ min: 0, default: 1, help: 'evaluate after so many epochs; 0: only at the end' }),
  earlyStoppingPatience: integer({
    ...STEPS,
    help: 'stop after so many evaluations without a better loss; 0: never',
  }),
  earlyStoppingThreshold: number({
    ...{ min: 0, default: 0, symbol: 'd' },
    help: 'by how much the loss has to fall to count as better',
  }),
  saveEverySteps: integer({
    ...STEPS,
    help: 'save the state after so many optimizer steps, besides at the end of each epoch; 0: not',
  }),
  keepStates: integer({ min: 1, default: 2, help: 'states to keep, the newest ones' }),
  seed: ENCODER_OPTIONS.seed,
};

export const TRAINER_OPTIONS = {
  ...RECIPE_OPTIONS,
  ...without(ENCODER_OPTIONS, 'signal'),
  encoder: special<PrefixEncoder>({ otherwise: 'a new one', help: 'an encoder to start from' }),
  outputDir: path({ help: 'folder for what the run leaves' }),
} satisfies OptionTable<TrainerOptions>;

/** Checks and completes. */
export function resolveRecipe(options: TrainerOptions): Recipe {
  checkOptions('options', options, namesOf(TRAINER_OPTIONS));
  const recipe: Recipe = completed(RECIPE_OPTIONS, options);
  if (recipe.warmupSteps > 0 && recipe.warmupRatio > 0)
    throw badArgument('warmupRatio', 'nothing beside warmupSteps', recipe.warmupRatio);
  if (recipe.batchTokens > 0 && options.batchSize !== undefined)
    throw badArgument('batchTokens', 'nothing beside batchSize', recipe.batchTokens);
  if (recipe.minLearningRate > recipe.learningRate)
    throw badArgument('minLearningRate', `at most learningRate (${recipe.learningRate})`, recipe.minLearningRate);
  if (recipe.bucketing && !recipe.shuffle) throw badArgument('bucketing', 'false without shuffle', recipe.bucketing);
  return recipe;
}
