import { basename, join, resolve } from 'node:path';

import type { GPTNeoXConfig } from '../architecture/config';
import { NeoXPrefixError } from '../base/errors';
import { kindOf, listFolder, readSmallFile } from '../base/files';
import { ACTIVATION_TYPES, startAndEndIds } from './compatibility';
import { ConfigIni } from './config-ini';

/** Element types of an export's files, by this package's names. */
export const EXPORT_DTYPES = ['float16', 'float32'] as const;
export type ExportDType = (typeof EXPORT_DTYPES)[number];

/** FasterTransformer's names of the same. */
const WEIGHT_DATA_TYPES: Readonly<Record<ExportDType, string>> = { float16: 'fp16', float32: 'fp32' };

export const BYTES_PER_ELEMENT: Readonly<Record<ExportDType, number>> = { float16: 2, float32: 4 };

/** The sections of config.ini that describe a model, and FasterTransformer's names of the models. */
const SECTIONS = { gpt_neox: 'gptneox', gpt2: 'gpt' } as const;
export type ModelSection = (typeof SECTIONS)[GPTNeoXConfig['architecture']];

export function sectionOf({ architecture }: Pick<GPTNeoXConfig, 'architecture'>): ModelSection {
  return SECTIONS[architecture];
}

const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** Far above any number of tasks, or any prefix length. */
const MAX_TASK_NUMBER = 999_999_999;

/** A task as config.ini has it; `id` is what requests send as prompt_learning_task_name_ids. */
export interface ExportTask {
  readonly id: number;
  readonly name: string;
  readonly prefixLength: number;
}

/** A folder that FasterTransformer can load, with its config.ini read. */
export interface ExportFolder {
  /** Absolute path of the folder with config.ini. */
  readonly directory: string;
  readonly configPath: string;
  readonly ini: ConfigIni;
  /** The section of it that describes the model. */
  readonly section: ModelSection;
  readonly dtype: ExportDType;
  readonly tensorParallel: number;
  readonly tasks: readonly ExportTask[];
}

/** What of an export its config.ini says, beside the model. */
export interface ExportSettings {
  readonly dtype: ExportDType;
  readonly modelName: string;
  readonly tensorParallel: number;
}

type Pairs = readonly (readonly [key: string, value: string | number])[];

/** The section of the base model: NVIDIA's keys in the order of NVIDIA's converters. */
export function baseSection(config: GPTNeoXConfig, settings: ExportSettings): Pairs {
  const { dtype, modelName, tensorParallel } = settings;
  const { start, end } = startAndEndIds(config);
  const sizes: Pairs = [
    ['model_name', modelName],
    ['head_num', config.numHeads],
    ['size_per_head', config.headSize],
    ['inter_size', config.intermediateSize],
  ];
  const ids: Pairs = [
    ['vocab_size', config.vocabSize],
    ['start_id', start],
    ['end_id', end],
  ];
  if (config.architecture === 'gpt2') {
    return [
      ...sizes,
      ['max_pos_seq_len', config.maxPositionEmbeddings],
      ['num_layer', config.numLayers],
      ...ids,
      ['weight_data_type', WEIGHT_DATA_TYPES[dtype]],
      ['tensor_para_size', tensorParallel],
      // NVIDIA's converter leaves it out, and FasterTransformer then takes 1e-6, whatever the model was trained with.
      ['layernorm_eps', config.layerNormEps],
      ...(Object.hasOwn(ACTIVATION_TYPES, config.hiddenAct)
        ? [['activation_type', ACTIVATION_TYPES[config.hiddenAct] as string] as const]
        : []),
    ];
  }
  return [
    ...sizes,
    ['num_layer', config.numLayers],
    ['rotary_embedding', config.rotaryDims],
    ...ids,
    ['use_gptj_residual', config.useParallelResidual ? 1 : 0],
    ['weight_data_type', WEIGHT_DATA_TYPES[dtype]],
  ];
}

export function newConfigIni(config: GPTNeoXConfig, settings: ExportSettings): ConfigIni {
  const ini = ConfigIni.empty();
  for (const [key, value] of baseSection(config, settings)) ini.set(sectionOf(config), key, value);
  return ini;
}

/** What of config.ini does not describe this model. The model's name is free. */
export function configDifferences(
  { ini, dtype, tensorParallel }: Pick<ExportFolder, 'ini' | 'dtype' | 'tensorParallel'>,
  config: GPTNeoXConfig,
): string[] {
  return baseSection(config, { dtype, modelName: '', tensorParallel }).flatMap(([key, expected]) => {
    const actual = ini.get(sectionOf(config), key);
    if (actual === undefined) return [`${key} is missing, expected ${expected}`];
    // Python writes 1e-05 where JavaScript writes 0.00001.
    const equal = actual === String(expected) || (key === 'layernorm_eps' && Number(actual) === expected);
    return key === 'model_name' || equal ? [] : [`${key} is ${actual}, expected ${expected}`];
  });
}

/** Writes the tasks in the order of their ids, which have to run from 0. */
export function setTasks(ini: ConfigIni, section: ModelSection, tasks: readonly ExportTask[]): void {
  if (tasks.length === 0) return;
  ini.set(section, 'num_tasks', tasks.length);
  ini.set(section, 'prompt_learning_type', 2);
  for (const task of tasks) {
    ini.set(`task_${task.id}`, 'task_name', task.name);
    ini.set(`task_${task.id}`, 'prompt_length', task.prefixLength);
  }
}

/**
 * Finds and reads an export.
 * @param dir the folder given to export(), or the `<ranks>-gpu` folder in it
 * @param tensorParallel which one, where the folder has several
 */
export async function openExport(dir: string, tensorParallel?: number): Promise<ExportFolder> {
  const directory = await locate(resolve(dir), tensorParallel);
  const ranks = Number(/^(\d+)-gpu$/.exec(basename(directory))?.[1] ?? NaN);
  const configPath = join(directory, 'config.ini');
  const bad = (problem: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_EXPORT', `The export ${directory} is not usable: ${problem}`, { path: configPath });
  if (!Number.isSafeInteger(ranks) || ranks < 1) throw bad('expected a folder named <ranks>-gpu');
  if ((await kindOf(configPath)) !== 'file') throw bad('it has no config.ini');
  const ini = ConfigIni.parse((await readSmallFile(configPath, MAX_CONFIG_BYTES)).toString('utf8'), configPath);
  const section = Object.values(SECTIONS).find((name) => ini.has(name)) ?? 'gptneox';
  const dataType = ini.get(section, 'weight_data_type');
  const dtype = EXPORT_DTYPES.find((known) => WEIGHT_DATA_TYPES[known] === dataType);
  if (dtype === undefined) throw bad(`expected fp16 or fp32 for weight_data_type, found ${dataType ?? 'nothing'}`);
  return { directory, configPath, ini, section, dtype, tensorParallel: ranks, tasks: readTasks(ini, section, bad) };
}

/** Whether a folder is an export or holds some. */
export async function isExportFolder(dir: string): Promise<boolean> {
  if ((await kindOf(dir)) !== 'folder') return false;
  const names = await listFolder(dir);
  return names.includes('config.ini') || names.some((name) => /^\d+-gpu$/.test(name));
}

async function locate(dir: string, tensorParallel: number | undefined): Promise<string> {
  if ((await kindOf(dir)) !== 'folder')
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such export folder: ${dir}`, { path: dir });
  if (/^\d+-gpu$/.test(basename(dir)) && (tensorParallel === undefined || basename(dir) === `${tensorParallel}-gpu`))
    return dir;
  const names = (await listFolder(dir)).filter((name) => /^\d+-gpu$/.test(name));
  if (tensorParallel !== undefined) {
    if (names.includes(`${tensorParallel}-gpu`)) return join(dir, `${tensorParallel}-gpu`);
  } else if (names.length === 1) {
    return join(dir, names[0] as string);
  }
  const found = names.length === 0 ? 'no <ranks>-gpu folder' : names.join(', ');
  const asked = tensorParallel === undefined ? 'one <ranks>-gpu folder' : `a folder ${tensorParallel}-gpu`;
  throw new NeoXPrefixError('NEOX_BAD_EXPORT', `Expected ${asked} in ${dir}, found ${found}`, {
    path: dir,
    ...(tensorParallel === undefined && names.length > 1 ? { hint: 'name one of them, or give tensorParallel' } : {}),
  });
}

function readTasks(ini: ConfigIni, main: ModelSection, bad: (problem: string) => NeoXPrefixError): ExportTask[] {
  const integer = (section: string, key: string): number => {
    const value = ini.getInteger(section, key) ?? 0;
    if (!Number.isSafeInteger(value) || value < 0 || value > MAX_TASK_NUMBER) {
      throw bad(`expected a whole number for ${key} of [${section}], found '${ini.get(section, key) ?? ''}'`);
    }
    return value;
  };
  const count = integer(main, 'num_tasks');
  const type = integer(main, 'prompt_learning_type');
  if (count > 0 && type !== 2) throw bad(`expected prompt_learning_type 2 (prefix prompts), found ${type}`);
  const tasks: ExportTask[] = [];
  const names = new Set<string>();
  for (let id = 0; id < count; id++) {
    const name = ini.get(`task_${id}`, 'task_name');
    if (name === undefined) throw bad(`num_tasks is ${count} but [task_${id}] has no task_name`);
    if (/[/\p{Cc}]/u.test(name)) throw bad(`the task name '${name}' cannot be a part of a file name`);
    if (names.has(name)) throw bad(`two tasks are named '${name}'`);
    names.add(name);
    tasks.push({ id, name, prefixLength: integer(`task_${id}`, 'prompt_length') });
  }
  return tasks;
}
