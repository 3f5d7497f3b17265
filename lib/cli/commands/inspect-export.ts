import { join } from 'node:path';
import { kindOf, listFolder, readSmallFile } from '../../base/files';
import { type ExportFolder, openExport } from '../../fastertransformer/folder';
import { fields, plural, table } from '../text-columns';
import type { Finding, InspectFlags } from './finding';

export async function inspectExport(path: string, flags: InspectFlags): Promise<Finding> {
  const { directory, dtype, tensorParallel, tasks, ini, section } = await openExport(path);
  const files = (await listFolder(directory)).filter((name) => name.endsWith('.bin'));
  const keys = [
    'model_name',
    'num_layer',
    'head_num',
    'size_per_head',
    'inter_size',
    'vocab_size',
    'rotary_embedding',
    'use_gptj_residual',
    'max_pos_seq_len',
    'layernorm_eps',
    'activation_type',
    'start_id',
    'end_id',
  ];
  const settings = keys.map((key) => [key, ini.get(section, key)] as const);
  const parts = [
    fields([
      ['FasterTransformer', directory],
      ['element type', dtype],
      ['GPUs', tensorParallel],
      ['files', files.length],
      ...settings,
    ]),
    taskTable(tasks),
    ...(flags.tensors === true ? [files.map((name) => join(directory, name)).join('\n')] : []),
  ];
  return {
    kind: 'fastertransformer',
    path,
    data: {
      directory,
      dtype,
      tensorParallel,
      config: Object.fromEntries(settings.filter(([, value]) => value !== undefined)),
      tasks,
      files: files.length,
    },
    text: `${parts.join('\n\n')}\n\n(${plural(files.length, 'file')} counted, not read: \`neox-prefix export ft --verify-only\` compares them)`,
  };
}

/** A model of a Triton repository: config.pbtxt, and a folder for each version of the weights. */
export async function inspectTriton(path: string): Promise<Finding> {
  const { config, field, versions } = await readTriton(path);
  const parameters = Object.fromEntries(
    [...config.matchAll(/key\s*:\s*"(\w+)"\s*value\s*:?\s*\{\s*string_value\s*:\s*"((?:[^"\\]|\\.)*)"/g)].map(
      ([, key, value]) => [key as string, (value as string).replace(/\\(.)/g, '$1')],
    ),
  );
  const version = versions.length === 0 ? 1 : Math.max(...versions);
  const ranks = Number(parameters['tensor_para_size'] ?? NaN);
  const { directory, dtype, tensorParallel, tasks } = await openExport(
    join(path, String(version)),
    Number.isSafeInteger(ranks) ? ranks : undefined,
  );
  const model = field('name');
  const backend = field('backend');
  const maxBatchSize = field('max_batch_size');
  const settings: [string, string | number | undefined][] = [
    ['model', model],
    ['backend', backend],
    ['version', version],
    ['tensor parallel', tensorParallel],
    ['pipeline parallel', parameters['pipeline_para_size']],
    ['element type', dtype],
    ['computes in', parameters['data_type']],
    ['max batch size', maxBatchSize],
    ['decoupled', field('decoupled')],
    ['the server reads', parameters['model_checkpoint_path']],
    ['weights', directory],
  ];
  return {
    kind: 'triton',
    path,
    data: {
      model: model ?? null,
      backend: backend ?? null,
      version,
      tensorParallel,
      dtype,
      parameters,
      directory,
      tasks,
    },
    text: `${fields([['Triton model', path], ...settings])}\n\n${taskTable(tasks)}`,
  };
}

interface TritonModel {
  /** Text of config.pbtxt. */
  config: string;
  /** A field of its top level. */
  field: (name: string) => string | undefined;
  versions: readonly number[];
}

async function readTriton(path: string): Promise<TritonModel> {
  const config = (await readSmallFile(join(path, 'config.pbtxt'), 2 ** 20)).toString('utf8');
  const field = (name: string): string | undefined =>
    new RegExp(`^\\s*${name}\\s*:\\s*"?([^"\\s]*)`, 'm').exec(config)?.[1];
  const versions = (await listFolder(path)).filter((name) => /^\d+$/.test(name)).map(Number);
  return { config, field, versions };
}

/** Names of the folders in a Triton repository that are models; none when it is no repository. */
export async function tritonModels(path: string): Promise<string[]> {
  const models: string[] = [];
  for (const name of await listFolder(path))
    if ((await kindOf(join(path, name, 'config.pbtxt'))) === 'file') models.push(name);
  return models;
}

/** A Triton repository: its models, of whatever backend. */
export async function inspectTritonRepository(path: string, names: readonly string[]): Promise<Finding> {
  const models: { name: string; backend: string | null; versions: readonly number[] }[] = [];
  for (const name of names) {
    const { field, versions } = await readTriton(join(path, name));
    models.push({ name, backend: field('backend') ?? field('platform') ?? null, versions });
  }
  const rows = models.map(({ name, backend, versions }) => [name, backend ?? '', versions.join(' ')]);
  return {
    kind: 'triton-repository',
    path,
    data: { models },
    text: `${fields([['Triton repository', path]])}\n\n${table(['model', 'backend', 'versions'], rows)}\n\n(inspect the folder of a model to see its tasks)`,
  };
}

function taskTable(tasks: ExportFolder['tasks']): string {
  if (tasks.length === 0) return 'no tasks';
  return table(
    ['task', 'id', 'prefix length'],
    tasks.map(({ id, name, prefixLength }) => [name, String(id), String(prefixLength)]),
  );
}
