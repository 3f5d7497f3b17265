import { Option } from 'commander';
import { namesOf, without } from '../../base/options';
import { ENCODER_OPTIONS, PROJECTION_OPTIONS } from '../../training/encoder';
import { TRAINER_OPTIONS, type TrainerOptions } from '../../training/recipe';
import { dataOptions } from '../data';
import { collect, given, integer, kebab, option, optionOf, type Otherwise } from '../flags';
import { baseModelName, modelOptions } from '../model';
import { rankOptions } from '../ranks';
import type { Ui } from '../ui';

/** The options of a trainer that are flags here; `--no-two-rows` is with the data. */
const OPTIONS = without(TRAINER_OPTIONS, 'encoder', 'outputDir', 'twoRows');
type OptionName = keyof typeof OPTIONS;

/** Flags that are called otherwise than the library's options, most of them as rinna's script calls them. */
const RENAMED = {
  name: 'saveName',
  epochs: 'nEpochs',
  trainingSteps: 'nTrainingSteps',
  accumulationSteps: 'nAccumSteps',
  learningRate: 'maxLr',
  warmupSteps: 'nWarmupSteps',
  minLearningRate: 'minLr',
  adamEpsilon: 'adamEps',
  evaluateEverySteps: 'evaluateEveryNSteps',
  evaluateEveryEpochs: 'evaluateEveryNEpochs',
  saveEverySteps: 'saveEveryNSteps',
  prefixLength: 'prefixSeqLen',
  inputDim: 'prefixInputDim',
  hiddenDim: 'prefixHiddenDim',
  dropout: 'prefixDropout',
  initLearningRate: 'initLr',
} as const satisfies Partial<Record<OptionName, string>>;
type FlagOf<Name extends OptionName> = Name extends keyof typeof RENAMED ? (typeof RENAMED)[Name] : Name;
const flagOf = (name: OptionName): string => (RENAMED as Partial<Record<string, string>>)[name] ?? name;

/** The options of a trainer, by the names of their flags. */
type OptionFlags = { [Name in OptionName as FlagOf<Name>]?: TrainerOptions[Name] };

export interface TrainingFlags extends OptionFlags {
  validation?: string[];
  trainDataSize?: number;
  devDataSize?: number;
  out: string;
  overwrite?: boolean;
  logEveryNSteps?: number;
  checkpointPath?: string;
  resume?: boolean;
  samplePrompt?: string[];
  samples?: boolean;
  zeroStage?: string | true;
  offload?: string | true;
  localRank?: string | true;
  deepspeed?: string | true;
}

/** Options of scripts that DeepSpeed starts, and what they come to here. They change nothing. */
const DEEPSPEED = {
  zeroStage: 'there is nothing to shard: the base model is frozen, and rank 0 alone has the state of the optimizer',
  offload: 'encoder and optimizer are in the memory of the host in any case',
  localRank: 'the variable LOCAL_RANK says it',
  deepspeed: 'the ranks are those of --nproc, torchrun, srun or mpirun',
} as const;

export function sayWhatDeepSpeedMeans(flags: TrainingFlags, ui: Ui): void {
  for (const [name, meaning] of Object.entries(DEEPSPEED))
    if (flags[name as keyof typeof DEEPSPEED] !== undefined) ui.note(`--${kebab(name)} changes nothing: ${meaning}`);
}

/** The flags of a training under the names that the library has for them; what is not given is left out. */
export function trainerOptions(flags: TrainingFlags & { twoRows?: boolean }): TrainerOptions {
  const values = flags as object as Readonly<Record<string, unknown>>;
  const options = namesOf(OPTIONS).map((name) => [name, values[flagOf(name)]]);
  return given({ ...(Object.fromEntries(options) as TrainerOptions), twoRows: flags.twoRows });
}

/** Where the command line says otherwise than the table of the library. */
const OTHERWISE: Partial<Record<OptionName, Otherwise>> = {
  name: { help: "the task's name" },
  projection: {
    help: "train the prefix itself, without the encoder's two layers",
    conflicts: PROJECTION_OPTIONS.map(flagOf),
  },
  initText: { help: 'the text of --init text, for example what the task is' },
  maxSeconds: { help: 'seconds, at most, those before a --resume included; 0: no limit' },
  batchTokens: { help: 'a batch is as many samples as have at most n tokens, in place of --batch-size' },
  microBatchSize: { default: 'the whole batch' },
  shuffle: { help: 'keep the order of the data' },
  warmupRatio: { help: 'the same as a share of --decay-steps' },
  decaySteps: { default: '--n-training-steps, as in the script of rinna' },
  lossScale: { default: 'found while training' },
};

/** The groups of the help; an option that is in none of them is in 'Training'. */
const GROUPS = {
  Result: ['name', 'saveEverySteps', 'keepStates'],
  Prefix: namesOf(without(ENCODER_OPTIONS, 'signal', 'seed')),
  Optimizer: [
    ...['learningRate', 'schedule', 'warmupSteps', 'warmupRatio', 'minLearningRate', 'decaySteps', 'adamBeta1'],
    ...['adamBeta2', 'adamEpsilon', 'weightDecay', 'weightDecayOn', 'gradClip', 'lossScale'],
  ],
  Evaluation: ['evaluateEverySteps', 'evaluateEveryEpochs', 'earlyStoppingPatience', 'earlyStoppingThreshold'],
} as const satisfies Record<string, readonly string[]>;
type Group = keyof typeof GROUPS | 'Training';

/** The flags of a group, in the order of the table. */
function optionsOf(group: Group): Option[] {
  const groupOf = (name: string): string =>
    Object.entries<readonly string[]>(GROUPS).find(([, names]) => names.includes(name))?.[0] ?? 'Training';
  return namesOf(OPTIONS)
    .filter((name) => groupOf(name) === group)
    .map((name) => {
      const { notWith } = OPTIONS[name];
      const conflicts = notWith === undefined ? {} : { conflicts: [flagOf(notWith as OptionName)] };
      return optionOf(flagOf(name), OPTIONS[name], { ...conflicts, ...OTHERWISE[name] });
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
  ...optionsOf('Result'),
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
const ENCODER_FLAGS = namesOf(without(ENCODER_OPTIONS, 'signal', 'seed', 'dropout', 'projection')).map(flagOf);

const prefixOptions = (): Option[] => [
  ...optionsOf('Prefix'),
  option(
    '--checkpoint-path <file>',
    "an encoder to start from: an encoder.safetensors, rinna's initial.pt; or a prefix, which is trained on without an encoder",
    { conflicts: ENCODER_FLAGS },
  ),
];

/** Options of rinna's prefix_tuning_example.py that are not options here, and what to do instead. */
export const REFUSED: Readonly<Record<string, string>> = {
  'model-type': 'leave it out: config.json says what the model is',
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
 * The options of a training, by the groups of the help.
 * @param without options by the names of their flags, left out
 */
export function trainingOptions(without: readonly (keyof TrainingFlags)[] = []): Record<string, Option[]> {
  const groups = {
    Model: [...modelOptions(), baseModelName()],
    Data: [...dataOptions(), ...splitOptions()],
    Result: runOptions(),
    Prefix: prefixOptions(),
    Training: optionsOf('Training'),
    Optimizer: optionsOf('Optimizer'),
    Evaluation: optionsOf('Evaluation'),
    'Several processes': rankOptions(),
    Hidden: Object.keys(DEEPSPEED).map((name) => new Option(`--${kebab(name)} [value]`).hideHelp()),
  };
  const isLeft = (item: Option): boolean => !(without as readonly string[]).includes(item.attributeName());
  return Object.fromEntries(Object.entries(groups).map(([group, options]) => [group, options.filter(isLeft)]));
}
