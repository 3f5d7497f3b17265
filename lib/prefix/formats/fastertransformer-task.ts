import { basename, dirname } from 'node:path';

import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { planPrefix } from '../../fastertransformer/file-plan';
import { type ExportFolder, type ExportTask, isExportFolder, openExport } from '../../fastertransformer/folder';
import { checkFiles, geometryOf } from '../../fastertransformer/folder-checks';
import { joinPrefix } from '../../fastertransformer/joined-tensors';
import type { TensorEntry } from '../../formats/tensor';
import type { PrefixGeometry } from './geometry';
import { type FoundPrefix, NO_METADATA, type PrefixFormatEntry, readValues, type TaskKey } from './source';

/** A task of a FasterTransformer folder of any number of ranks; the exporter writes one. */
export const FASTERTRANSFORMER_TASK: PrefixFormatEntry = {
  title: 'task of a FasterTransformer folder',
  endings: [],
  ...{ kind: 'folder', keepsMetadata: false },
  recognise: async (source) => {
    const found = await findTaskFolder(source.path);
    return found && ((_hints, key) => readTask(found.folder, key ?? found.task));
  },
};

async function readTask(folder: string, key: TaskKey | undefined): Promise<FoundPrefix> {
  const { task, entry, geometry } = await findTaskPrefix(folder, key);
  return { data: await readValues(entry), geometry, metadata: { ...NO_METADATA, task: task.name }, warnings: [] };
}

interface TaskPrefix {
  readonly task: ExportTask;
  /** The prefix, [P, L, 2, N, D] of all ranks together. */
  readonly entry: TensorEntry;
  readonly geometry: PrefixGeometry;
}

/**
 * The FasterTransformer folder that a path means: the folder, one that holds it, or the file of a task in it, which
 * names the task.
 */
async function findTaskFolder(path: string): Promise<{ folder: string; task?: string } | undefined> {
  if (await isExportFolder(path)) return { folder: path };
  const task = /^model\.prefix_prompt\.(.+)\.weight\.\d+\.bin$/.exec(basename(path))?.[1];
  return task !== undefined && (await isExportFolder(dirname(path))) ? { folder: dirname(path), task } : undefined;
}

/**
 * Finds the prefix of one task; a folder with one task needs no key.
 * @throws NEOX_BAD_ARGUMENT when the folder has no such task, or several and `key` is undefined; NEOX_BAD_EXPORT when
 *   its files are missing or of another size; NEOX_BAD_PREFIX for a task without a prefix (prompt_length 0)
 */
async function findTaskPrefix(dir: string, key: TaskKey | undefined): Promise<TaskPrefix> {
  const folder = await openExport(dir);
  const task = pickTask(folder, key);
  const { prefixLength, name } = task;
  if (prefixLength === 0) {
    throw new NeoXPrefixError(
      'NEOX_BAD_PREFIX',
      `The task '${name}' of ${folder.directory} has no prefix: its prompt_length is 0`,
      {
        path: folder.configPath,
        hint: 'requests with this task run the plain base model',
      },
    );
  }
  const geometry = { prefixLength, ...geometryOf(folder) };
  const hiddenSize = geometry.numHeads * geometry.headSize;
  const plans = planPrefix({ ...geometry, hiddenSize }, name, prefixLength, folder.tensorParallel);
  await checkFiles(folder, plans);
  const files = plans.map((plan) => ({ path: `${folder.directory}/${plan.name}`, elements: plan.elements }));
  return {
    task,
    entry: joinPrefix(name, geometry, prefixLength, files, folder.dtype === 'float16' ? 'F16' : 'F32'),
    geometry,
  };
}

function pickTask({ directory, tasks }: ExportFolder, key: TaskKey | undefined): ExportTask {
  if (key === undefined) {
    const [only, ...others] = tasks;
    if (only !== undefined && others.length === 0) return only;
  } else {
    const found = tasks.find((task) => (typeof key === 'number' ? task.id : task.name) === key);
    if (found !== undefined) return found;
  }
  const listed = tasks.slice(0, 10).map(({ id, name }) => `${name} (${id})`);
  const all =
    tasks.length === 0
      ? 'it has none'
      : `it has ${listed.join(', ')}${tasks.length > 10 ? `, ... (${tasks.length})` : ''}`;
  throw badArgument('task', `the name or id of a task of ${directory}`, key, all);
}
