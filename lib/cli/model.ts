import type { Option } from 'commander';
import { basename } from 'node:path';
import { NeoXPrefixError } from '../base/errors';
import { kindOf } from '../base/files';
import type { LoadOptions } from '../model/load-options';
import { NeoXModel } from '../neox-model';
import { PrefixWeights } from '../prefix/weights';
import { formatBytes, formatCount, formatSeconds } from './text-columns';
import { given, integer, option } from './flags';
import type { Ui } from './ui';

export interface ModelFlags {
  model: string;
  dtype?: NonNullable<LoadOptions['dtype']>;
  device?: string;
  backend?: NonNullable<LoadOptions['backend']>;
  threads?: number;
  arithmetic?: 'checkpoint' | 'fastertransformer';
  tokenizer?: string;
}

/** What the library takes as the length of a new prefix. */
export const PREFIX_LENGTH = 10;

export const MODEL_DIR = (): Option =>
  option(
    '--pretrained-model-dir, --model <dir>',
    'folder of the base model: a Hugging Face GPT-NeoX checkpoint, or a FasterTransformer folder',
    { required: true },
  );

/** The base model and how it computes. */
export const modelOptions = (): Option[] => [
  MODEL_DIR(),
  option(
    '--dtype <type>',
    "what the base model is held in; auto is the checkpoint's own type, or float32 for float16 on a CPU",
    {
      choices: ['auto', 'float32', 'bfloat16', 'float16', 'int8'],
      default: 'auto',
    },
  ),
  option('--device <device>', 'cpu, cuda or cuda:N', { default: 'cpu' }),
  option('--backend <backend>', 'who computes the linear layers; auto is the fastest that runs the type here', {
    choices: ['auto', 'native', 'onednn', 'aten'],
    default: 'auto',
  }),
  option('--threads <n>', 'compute threads', { parse: integer(1, 1024), default: 'one a core' }),
  option(
    '--arithmetic <kind>',
    "whose activation, epsilon and rotary base: the checkpoint's, or those built into FasterTransformer",
    {
      choices: ['checkpoint', 'fastertransformer'],
      default: 'checkpoint',
    },
  ),
  option('--tokenizer <dir>', 'folder of the tokenizer, for a model that brings none', { default: "the model's" }),
];

/** Loads the base model with its progress shown, and says what was loaded. */
export async function loadModel(flags: ModelFlags, ui: Ui): Promise<NeoXModel> {
  const started = performance.now();
  const { dtype, device, backend, threads, arithmetic, tokenizer } = flags;
  const model = await ui.withProgress(
    { title: `loading ${basename(flags.model)}`, total: 1, unit: 'share' },
    (update) =>
      NeoXModel.load(flags.model, {
        ...given({ dtype, device, backend, threads, arithmetic, tokenizer }),
        signal: ui.signal,
        onProgress: (share) => update(share),
      }),
  );
  const info = model.info();
  for (const warning of info.warnings) ui.warn(warning);
  const { numLayers, hiddenSize } = model.config;
  const size = `${formatCount(info.parameters)} parameters, ${numLayers} layers of ${hiddenSize}`;
  const how = `${info.dtype} on ${info.device} (${info.backend}), ${formatBytes(info.weightBytes)}`;
  ui.note(
    `${basename(info.directory)}: ${size}, ${how}, loaded in ${formatSeconds((performance.now() - started) / 1000)}`,
  );
  return model;
}

export interface PrefixFlags {
  prefix?: string[];
  prefixSeqLen?: number;
  allowFingerprintMismatch?: boolean;
}

/** What can be said of the prefixes before a model is loaded: loading one takes long. */
export async function checkPrefixes({ prefix = [] }: PrefixFlags): Promise<void> {
  for (const path of prefix) {
    if ((await kindOf(path)) === undefined)
      throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file or folder: ${path}`, { path });
  }
}

export interface NamedPrefix {
  /** The task's name, or the path where that is not known or not unique. */
  label: string;
  path: string;
  prefix: PrefixWeights;
}

/** Loads prefixes for a model and checks that they are for it. */
export async function loadPrefixes(flags: PrefixFlags, model: NeoXModel, ui: Ui): Promise<NamedPrefix[]> {
  const { allowFingerprintMismatch, prefixSeqLen: prefixLength } = flags;
  const loaded: NamedPrefix[] = [];
  for (const path of flags.prefix ?? []) {
    const prefix = await PrefixWeights.load(path, {
      config: model,
      ...given({ allowFingerprintMismatch, prefixLength }),
    });
    for (const warning of prefix.warnings) ui.warn(warning);
    loaded.push({ label: prefix.metadata.task ?? path, path, prefix });
  }
  const isUnique = ({ label }: NamedPrefix): boolean => loaded.filter((other) => other.label === label).length === 1;
  return loaded.map((item) => (isUnique(item) ? item : { ...item, label: item.path }));
}
