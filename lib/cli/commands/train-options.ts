import type { Option } from 'commander';
import { PREFIX_INITS, type PrefixInit } from '../../prefix/encoder';
import { resolveRecipe } from '../../training/recipe';
import { collect, integer, number, option } from '../options';

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
}

/** What a run leaves in its folder besides recipe.json and metrics.jsonl. */
export const RUN_FILES: readonly string[] = [
  'best.safetensors',
  'last.safetensors',
  'encoder.safetensors',
  'interrupted.safetensors',
  'interrupted-encoder.safetensors',
];

export const splitOptions = (): Option[] => [
  option('--train-data-size <n>', 'train on the first n samples', { parse: integer(1), default: 'all that do not validate' }),
  option('--dev-data-size <n>', 'validate on the last n samples', {
    parse: integer(0),
    default: '10, or a tenth of fewer than 100; 0 with --validation',
  }),
  option<string[]>('--validation <file>', 'validate on the samples of this file instead; may be repeated', {
    parse: collect,
    conflicts: ['devDataSize'],
  }),
];

export const runOptions = (): Option[] => [
  option('--out <dir>', 'folder for what the run leaves', { required: true }),
  option('--overwrite', 'replace a run that is in that folder already'),
  option('--save-name <name>', "the task's name", { default: resolveRecipe({}).name }),
  option('--log-every-n-steps <n>', 'without a terminal, a line of progress after so many steps, or 30 seconds', {
    parse: integer(1),
    default: 100,
  }),
];

/** What an encoder that is loaded has already. */
const ENCODER_FLAGS = ['prefixSeqLen', 'prefixInputDim', 'prefixHiddenDim', 'init', 'initText', 'initSteps', 'initLr'];

export const prefixOptions = (): Option[] => [
  option('--prefix-seq-len <n>', 'prefix length: positions in front of the text', { parse: integer(1), default: 10 }),
  option('--prefix-input-dim <n>', "width of the encoder's embedding", { parse: integer(1, 65536), default: 10 }),
  option('--prefix-hidden-dim <n>', 'width of its hidden layer; a larger one learns more', { parse: integer(1, 65536), default: 10 }),
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

export const trainingOptions = (): Option[] => {
  const recipe = resolveRecipe({});
  return [
    option('--n-epochs <n>', 'passes over the data, at most', { parse: integer(1), default: recipe.epochs }),
    option('--n-training-steps <n>', 'optimizer steps, at most; the learning rate falls to 0 over them', {
      parse: integer(1),
      default: recipe.trainingSteps,
    }),
    option('--batch-size <n>', 'samples in a batch', { parse: integer(1), default: recipe.batchSize }),
    option('--n-accum-steps <n>', 'batches in an optimizer step', { parse: integer(1), default: recipe.accumulationSteps }),
    option('--max-lr <rate>', 'peak learning rate', { parse: number(0), default: recipe.learningRate }),
    option('--n-warmup-steps <n>', 'steps over which the learning rate rises', { parse: integer(0), default: recipe.warmupSteps }),
    option('--adam-beta1 <b>', 'AdamW', { parse: number(0, 0.999999), default: recipe.adamBeta1 }),
    option('--adam-beta2 <b>', 'AdamW', { parse: number(0, 0.999999), default: recipe.adamBeta2 }),
    option('--adam-eps <e>', 'AdamW', { parse: number(Number.MIN_VALUE), default: recipe.adamEpsilon }),
    option('--weight-decay <w>', 'AdamW; not on biases', { parse: number(0), default: recipe.weightDecay }),
    option('--grad-clip <norm>', 'largest norm of the gradient; 0: no clipping', { parse: number(0), default: recipe.gradClip }),
    option('--seed <n>', 'seed of the initial values, of dropout and of the order of the samples', {
      parse: integer(0),
      default: recipe.seed,
    }),
    option('--no-shuffle', 'keep the order of the data'),
  ];
};

/** Options of rinna's prefix_tuning_example.py that are not options here, and what to do instead. */
export const REFUSED: Readonly<Record<string, string>> = {
  'model-type': 'leave it out: the model is always GPT-NeoX, and its config.json says so',
  'local-rank': 'leave it out: one process trains, on --device',
  deepspeed: 'leave it out: training needs no DeepSpeed',
  'deepspeed-config': 'leave it out: training needs no DeepSpeed; the optimizer has options of its own (--max-lr, --adam-beta1, ...)',
  fp16: 'use --dtype float16, or better bfloat16, which has the range of float32',
  bf16: 'use --dtype bfloat16',
  'min-lr': 'leave it out: the learning rate falls to 0, as in the script itself without DeepSpeed',
  'resume-training': 'use --checkpoint-path with the encoder.safetensors of the earlier run',
  'save-log': 'leave it out: --out always gets metrics.jsonl',
  'save-model': 'leave it out: --out always gets the best and the last prefix',
  'filename-note': 'use --out and --save-name',
};
