import type { Command, Option } from 'commander';
import { PREFIX_INITS, type PrefixInit } from '../../training/encoder';
import { resolveRecipe, type Schedule, SCHEDULES, type TrainerOptions } from '../../training/recipe';
import { dataOptions } from '../data';
import { modelOptions, PREFIX_LENGTH } from '../model';
import { addOptions, collect, given, integer, number, option, refuseOptions } from '../flags';

export interface TrainingFlags {
  validation?: string[];
  trainDataSize?: number;
  devDataSize?: number;
  out: string;
  overwrite?: boolean;
  saveName?: string;
  logEveryNSteps?: number;
  prefixSeqLen?: number;
  prefixInputDim?: number;
  prefixHiddenDim?: number;
  prefixDropout?: number;
  init?: PrefixInit;
  initText?: string;
  initSteps?: number;
  initLr?: number;
  checkpointPath?: string;
  seed?: number;
  batchSize?: number;
  nTrainingSteps?: number;
  nEpochs?: number;
  nWarmupSteps?: number;
  nAccumSteps?: number;
  maxLr?: number;
  adamBeta1?: number;
  adamBeta2?: number;
  adamEps?: number;
  weightDecay?: number;
  gradClip?: number;
  shuffle?: boolean;
  resume?: boolean;
  maxSeconds?: number;
  batchTokens?: number;
  microBatchSize?: number | 'auto';
  gradientCheckpointing?: boolean;
  bucketing?: boolean;
  schedule?: Schedule;
  warmupRatio?: number;
  minLr?: number;
  decaySteps?: number | 'trainingSteps' | 'run';
  weightDecayOn?: 'weights' | 'all';
  lossScale?: number;
  evaluateEveryNSteps?: number;
  evaluateEveryNEpochs?: number;
  earlyStoppingPatience?: number;
  earlyStoppingThreshold?: number;
  saveEveryNSteps?: number;
  keepStates?: number;
  projection?: boolean;
  samplePrompt?: string[];
  samples?: boolean;
}

/** The flags of a training under the names that the library has for them; what is not given is left out. */
export function trainerOptions(flags: TrainingFlags & { twoRows?: boolean }): TrainerOptions {
  return given({
    ...{
      name: flags.saveName,
      epochs: flags.nEpochs,
      trainingSteps: flags.nTrainingSteps,
      maxSeconds: flags.maxSeconds,
    },
    ...{ batchSize: flags.batchSize, batchTokens: flags.batchTokens, accumulationSteps: flags.nAccumSteps },
    ...{ microBatchSize: flags.microBatchSize, gradientCheckpointing: flags.gradientCheckpointing },
    ...{ shuffle: flags.shuffle, bucketing: flags.bucketing, twoRows: flags.twoRows, seed: flags.seed },
    ...{
      learningRate: flags.maxLr,
      schedule: flags.schedule,
      warmupSteps: flags.nWarmupSteps,
      warmupRatio: flags.warmupRatio,
    },
    ...{
      minLearningRate: flags.minLr,
      decaySteps: flags.decaySteps,
      gradClip: flags.gradClip,
      lossScale: flags.lossScale,
    },
    ...{ adamBeta1: flags.adamBeta1, adamBeta2: flags.adamBeta2, adamEpsilon: flags.adamEps },
    ...{ weightDecay: flags.weightDecay, weightDecayOn: flags.weightDecayOn },
    ...{ evaluateEverySteps: flags.evaluateEveryNSteps, evaluateEveryEpochs: flags.evaluateEveryNEpochs },
    ...{ earlyStoppingPatience: flags.earlyStoppingPatience, earlyStoppingThreshold: flags.earlyStoppingThreshold },
    ...{ saveEverySteps: flags.saveEveryNSteps, keepStates: flags.keepStates },
    // The option is --no-projection, and commander says true where it is not given.
    ...{
      prefixLength: flags.prefixSeqLen,
      projection: flags.projection === false ? false : undefined,
      dropout: flags.prefixDropout,
    },
    ...{ inputDim: flags.prefixInputDim, hiddenDim: flags.prefixHiddenDim },
    ...{ init: flags.init, initText: flags.initText, initSteps: flags.initSteps, initLearningRate: flags.initLr },
  });
}

const splitOptions = (): Option[] => [
  option('--train-data-size <n>', 'train on the first n samples', {
    parse: integer(1),
    default: 'all that do not validate',
  }),
  option('--dev-data-size <n>', 'validate on the last n samples', {
    parse: integer(0),
    default: '10, or a tenth of fewer than 100; 0 with --validation',
  }),
  option<string[]>('--validation <file>', 'validate on the samples of this file instead; may be repeated', {
    parse: collect,
    conflicts: ['devDataSize'],
  }),
];

const runOptions = (): Option[] => [
  option('--out <dir>', 'folder for what the run leaves', { required: true }),
  option('--overwrite', 'replace a run that is in that folder already'),
  option(
    '--resume',
    'go on with the run in that folder from its newest state, to the last bit as if it had never stopped; begin where there is none',
    {
      conflicts: ['overwrite'],
    },
  ),
  option('--save-every-n-steps <n>', 'save the state after so many optimizer steps, besides at the end of each epoch', {
    parse: integer(0),
    default: 0,
  }),
  option('--keep-states <n>', 'states to keep, the newest ones', {
    parse: integer(1),
    default: resolveRecipe({}).keepStates,
  }),
  option('--save-name <name>', "the task's name", { default: resolveRecipe({}).name }),
  option(
    '--log-every-n-steps <n>',
    'without a terminal, a line of progress after so many steps too, not only after 10 seconds',
    {
      parse: integer(1),
    },
  ),
  option<string[]>(
    '--sample-prompt <text>',
    'a prompt to continue before and after the training, for the report; may be repeated',
    {
      parse: collect,
      default: 'the beginnings of three validation samples',
    },
  ),
  option('--no-samples', 'write no samples'),
];

/** What an encoder that is loaded has already. */
const ENCODER_FLAGS = ['prefixSeqLen', 'prefixInputDim', 'prefixHiddenDim', 'init', 'initText', 'initSteps', 'initLr'];

const prefixOptions = (): Option[] => [
  option('--prefix-seq-len <n>', 'prefix length: positions in front of the text', {
    parse: integer(1),
    default: PREFIX_LENGTH,
  }),
  option('--prefix-input-dim <n>', "width of the encoder's embedding", { parse: integer(1, 65536), default: 10 }),
  option('--prefix-hidden-dim <n>', 'width of its hidden layer; a larger one learns more', {
    parse: integer(1, 65536),
    default: 10,
  }),
  option('--no-projection', "train the prefix itself, without the encoder's two layers", {
    conflicts: ['prefixInputDim', 'prefixHiddenDim', 'initSteps', 'initLr'],
  }),
  option('--prefix-dropout <p>', 'dropout on its output', { parse: number(0, 0.99), default: 0 }),
  option(
    '--init <how>',
    "how it starts: fitted to the model's own keys and values of the first token ids (rinna's) or of a text, random, or zero",
    {
      choices: PREFIX_INITS,
      default: 'tokens',
    },
  ),
  option('--init-text <text>', 'the text of --init text, for example what the task is'),
  option('--init-steps <n>', 'steps of the initial fit', { parse: integer(0), default: 200 }),
  option('--init-lr <rate>', 'learning rate of the initial fit', { parse: number(0), default: 1e-4 }),
  option('--checkpoint-path <file>', 'an encoder.safetensors to start from', { conflicts: ENCODER_FLAGS }),
];

/** A number, or one of some words. */
function orWord<Word extends string>(
  parse: (text: string) => number,
  ...words: Word[]
): (text: string) => number | Word {
  return (text) => words.find((word) => word === text) ?? parse(text);
}

const trainingOptions = (): Option[] => {
  const recipe = resolveRecipe({});
  return [
    option('--n-epochs <n>', 'passes over the data, at most', { parse: integer(1), default: recipe.epochs }),
    option('--n-training-steps <n>', 'optimizer steps, at most', { parse: integer(1), default: recipe.trainingSteps }),
    option('--max-seconds <n>', 'seconds, at most, those before a --resume included; 0: no limit', {
      parse: number(0),
      default: 0,
    }),
    option('--batch-size <n>', 'samples in a batch', { parse: integer(1), default: recipe.batchSize }),
    option('--batch-tokens <n>', 'a batch is as many samples as have at most n tokens, in place of --batch-size', {
      parse: integer(1),
      conflicts: ['batchSize'],
    }),
    option('--n-accum-steps <n>', 'batches in an optimizer step', {
      parse: integer(1),
      default: recipe.accumulationSteps,
    }),
    option<number | 'auto'>(
      '--micro-batch-size <n>',
      'samples that go through the model at a time; auto: as many as fit in the free memory',
      {
        parse: orWord(integer(0), 'auto'),
        default: 'the whole batch',
      },
    ),
    option('--gradient-checkpointing', 'less memory for more time, with the same gradients'),
    option('--seed <n>', 'seed of the initial values, of dropout and of the order of the samples', {
      parse: integer(0),
      default: recipe.seed,
    }),
    option('--no-shuffle', 'keep the order of the data'),
    option('--bucketing', 'batches of samples of about the same length'),
  ];
};

const optimizerOptions = (): Option[] => {
  const recipe = resolveRecipe({});
  return [
    option('--max-lr <rate>', 'peak learning rate', { parse: number(0), default: recipe.learningRate }),
    option('--schedule <form>', 'how the learning rate goes on from its peak', {
      choices: SCHEDULES,
      default: recipe.schedule,
    }),
    option('--n-warmup-steps <n>', 'steps over which the learning rate rises', {
      parse: integer(0),
      default: recipe.warmupSteps,
    }),
    option('--warmup-ratio <r>', 'the same as a share of --decay-steps', {
      parse: number(0, 1),
      conflicts: ['nWarmupSteps'],
    }),
    option('--min-lr <rate>', 'where the learning rate ends', { parse: number(0), default: recipe.minLearningRate }),
    option<number | 'run'>('--decay-steps <n>', 'the step at which it ends; run: the last one of this run', {
      parse: orWord(integer(1), 'run'),
      default: '--n-training-steps, as in the script of rinna',
    }),
    option('--adam-beta1 <b>', 'AdamW', { parse: number(0, 0.999999), default: recipe.adamBeta1 }),
    option('--adam-beta2 <b>', 'AdamW', { parse: number(0, 0.999999), default: recipe.adamBeta2 }),
    option('--adam-eps <e>', 'AdamW', { parse: number(Number.MIN_VALUE), default: recipe.adamEpsilon }),
    option('--weight-decay <w>', 'AdamW', { parse: number(0), default: recipe.weightDecay }),
    option('--weight-decay-on <what>', 'all but biases, or everything', {
      choices: ['weights', 'all'],
      default: recipe.weightDecayOn,
    }),
    option('--grad-clip <norm>', 'largest norm of the gradient; 0: no clipping', {
      parse: number(0),
      default: recipe.gradClip,
    }),
    option('--loss-scale <s>', 'factor against vanishing gradients in float16', {
      parse: number(0),
      default: 'found while training',
    }),
  ];
};

const evaluationOptions = (): Option[] => {
  const recipe = resolveRecipe({});
  return [
    option('--evaluate-every-n-steps <n>', 'evaluate after so many optimizer steps; 0: not', {
      parse: integer(0),
      default: 0,
    }),
    option('--evaluate-every-n-epochs <n>', 'evaluate after so many epochs; 0: only at the end', {
      parse: integer(0),
      default: recipe.evaluateEveryEpochs,
    }),
    option('--early-stopping-patience <n>', 'stop after so many evaluations without a better loss; 0: never', {
      parse: integer(0),
      default: 0,
    }),
    option('--early-stopping-threshold <d>', 'by how much the loss has to fall to count as better', {
      parse: number(0),
      default: 0,
    }),
  ];
};

/** Options of rinna's prefix_tuning_example.py that are not options here, and what to do instead. */
const REFUSED: Readonly<Record<string, string>> = {
  'model-type': 'leave it out: the model is always GPT-NeoX, and its config.json says so',
  'local-rank': 'leave it out: one process trains, on --device',
  deepspeed: 'leave it out: training needs no DeepSpeed',
  'deepspeed-config':
    'leave it out: training needs no DeepSpeed; the optimizer has options of its own (--max-lr, --adam-beta1, ...)',
  fp16: 'use --dtype float16, or better bfloat16, which has the range of float32',
  bf16: 'use --dtype bfloat16',
  'resume-training':
    'use --resume with the --out of the earlier run, or --checkpoint-path with its encoder.safetensors to start a new one from it',
  'save-log': 'leave it out: --out always gets metrics.jsonl',
  'save-model': 'leave it out: --out always gets the best and the last prefix',
  'filename-note': 'use --out and --save-name',
};

/**
 * Adds the options of a training.
 * @param without options by the names of their flags, left out
 */
export function addTrainingOptions(command: Command, without: readonly (keyof TrainingFlags)[] = []): void {
  const left = (options: Option[]): Option[] =>
    options.filter((item) => !(without as readonly string[]).includes(item.attributeName()));
  addOptions(command, 'Model', modelOptions());
  addOptions(command, 'Data', left([...dataOptions(), ...splitOptions()]));
  addOptions(command, 'Result', left(runOptions()));
  addOptions(command, 'Prefix', left(prefixOptions()));
  addOptions(command, 'Training', left(trainingOptions()));
  addOptions(command, 'Optimizer', left(optimizerOptions()));
  addOptions(command, 'Evaluation', left(evaluationOptions()));
  refuseOptions(command, REFUSED);
}
