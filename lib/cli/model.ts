import type { Option } from 'commander';
import { basename } from 'node:path';
import { NeoXPrefixError } from '../base/errors';
import { kindOf } from '../base/files';
import { namesOf, pick, without } from '../base/options';
import { LOAD_OPTIONS, type LoadOptions } from '../model/load-options';
import { NeoXModel } from '../neox-model';
import { PrefixWeights } from '../prefix/weights';
import { ENCODER_OPTIONS } from '../training/encoder';
import { formatBytes, formatCount, formatSeconds } from './text-columns';
import { given, option, optionOf } from './flags';
import type { Ui } from './ui';

/** The options of loading that are flags, of the same names. */
const FLAGS = pick(
  LOAD_OPTIONS,
  'dtype',
  'device',
  'backend',
  'threads',
  'arithmetic',
  'tokenizer',
  'generationConfig',
  'baseModelName',
);

export interface ModelFlags extends Pick<LoadOptions, keyof typeof FLAGS> {
  model: string;
}

/** What the library takes as the length of a new prefix. */
export const PREFIX_LENGTH = ENCODER_OPTIONS.prefixLength.default;

export const MODEL_DIR = (required: true | { unless: string } = true): Option =>
  option(
    '--pretrained-model-dir, --model <dir>',
    'folder of the base model: a Hugging Face GPT-NeoX checkpoint, or a FasterTransformer folder',
    { required },
  );

/** The base model and how it computes. */
export const modelOptions = (required: true | { unless: string } = true): Option[] => [
  MODEL_DIR(required),
  ...namesOf(without(FLAGS, 'baseModelName')).map((name) => optionOf(name, FLAGS[name])),
];

/** What the prefixes that a training writes name as their base model. */
export const baseModelName = (): Option => optionOf('baseModelName', FLAGS.baseModelName);

/** Loads the base model with its progress shown, and says what was loaded. */
export async function loadModel(flags: ModelFlags, ui: Ui): Promise<NeoXModel> {
  const started = performance.now();
  const model = await ui.withProgress(
    { title: `loading ${basename(flags.model)}`, total: 1, unit: 'share' },
    (update) =>
      NeoXModel.load(flags.model, {
        ...given(pick(flags, ...namesOf(FLAGS))),
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
