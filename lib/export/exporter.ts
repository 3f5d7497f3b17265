import { types } from 'node:util';
import { randomBytes } from 'node:crypto';
import { rm, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { type ExportProgress } from './native-files';

import {
  badArgument,
  checkBoolean,
  checkFunction,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkPath,
  checkSignal,
} from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { kindOf, writeFileAtomic } from '../base/files';
import { attempt, checkReplaceable, inNewFolder, move } from '../base/new-folder';
import { plural } from '../base/quantities';
import type { Checkpoint } from '../checkpoint/checkpoint';
import { checkExpressible, type ExportWarning, incompatibilities } from '../fastertransformer/compatibility';
import { checkModelName, checkTaskName } from '../fastertransformer/config-ini';
import {
  DENSE_BIAS_RULES,
  type DenseBiasRule,
  type FilePlan,
  checkTensorParallel,
  planBaseModel,
  planPrefix,
} from '../fastertransformer/file-plan';
import {
  BYTES_PER_ELEMENT,
  EXPORT_DTYPES,
  type ExportDType,
  type ExportTask,
  configDifferences,
  newConfigIni,
  openExport,
  sectionOf,
  setTasks,
} from '../fastertransformer/folder';
import { PrefixWeights } from '../prefix/weights';
import { type FileJob, type WrittenFile, writeFiles } from './native-files';
import { retellTasks } from './triton-config';
import { type VerifyOptions, type VerifyReport, verifyExport } from './verify';

/** What an export is made from: a loaded LoadedModel, or just the checkpoint that openCheckpoint() gives. */
export interface ExportSource {
  readonly checkpoint: Checkpoint;
}

interface RunOptions {
  /** Stops the work, which then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called about twenty times a second, and at the end. An error that it throws stops the work. */
  onProgress?: (progress: ExportProgress) => void;
}

/** What to write, and how. */
export interface ExportOptions extends RunOptions {
  /** Element type of every file. Defaults to `'float16'`. */
  dtype?: ExportDType;
  /**
   * Number of GPUs that share each layer; a divisor of the number of heads and of the intermediate size. Defaults to
   * `1`.
   */
  tensorParallel?: number;
  /**
   * Prefixes by task name; the first is task id 0. (JavaScript puts names that are whole numbers before all others.) A
   * name becomes part of a file name and a value in config.ini. Defaults to none.
   */
  tasks?: Readonly<Record<string, PrefixWeights>>;
  /**
   * `model_name` in config.ini, which FasterTransformer only logs. Defaults to the section's name, `'gptneox'`
   * or `'gpt'`.
   */
  modelName?: string;
  /**
   * Whether the biases after attention and mlp are divided by `tensorParallel`. `'runtime'`: where FasterTransformer
   * sums them over the GPUs, that is for a parallel residual. `'huggingface_converter'`: always, as NVIDIA's
   * huggingface_gptneox_convert.py does, which is wrong for a sequential residual. Without effect at 1. Defaults to
   * `'runtime'`.
   */
  denseBias?: DenseBiasRule;
  /** Replace an export that is already there. Defaults to `false`. */
  overwrite?: boolean;
}

/** How to add tasks to an export. */
export interface AddTasksOptions extends RunOptions {
  /** Which export, where the folder has several. Defaults to the only one. */
  tensorParallel?: number;
  /** Replace tasks of the same name, which keep their ids. Defaults to `false`. */
  replace?: boolean;
}

/** What was written. */
export interface ExportReport {
  /** Absolute path of the `<ranks>-gpu` folder: Triton's model_checkpoint_path. */
  readonly directory: string;
  readonly dtype: ExportDType;
  readonly tensorParallel: number;
  /** What was written, config.ini not among it. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** Bytes of these files. */
  readonly bytes: number;
  /** All tasks of the export. */
  readonly tasks: readonly ExportTask[];
  readonly warnings: readonly ExportWarning[];
}

interface Task {
  readonly name: string;
  readonly prefix: PrefixWeights;
}

/**
 * Writes a model and its prefixes as a weight folder of NVIDIA FasterTransformer (its GPT-NeoX, or for a GPT-2 its GPT,
 * with prefix prompts), which Triton's fastertransformer backend serves. docs/fastertransformer.md describes the files.
 *
 * The checkpoint's files are read again, tensor by tensor; what a loaded model holds in memory, and in which type, is
 * not used.
 */
export class FTExporter {
  private readonly checkpoint: Checkpoint;

  constructor(model: ExportSource) {
    const checkpoint: unknown = model !== null && typeof model === 'object' ? model.checkpoint : undefined;
    if (checkpoint === null || typeof checkpoint !== 'object') throw badArgument('model', 'a NeoXModel', model);
    this.checkpoint = checkpoint as Checkpoint;
  }

  /**
   * Writes `DIR/<tensorParallel>-gpu/`. The folder appears under its name when it is complete; nothing stays behind
   * after an error or an abort.
   * @throws NEOX_BAD_ARGUMENT, NEOX_PREFIX_MISMATCH (a prefix of another model), NEOX_UNSUPPORTED (a model
   *   that FasterTransformer cannot compute), NEOX_BAD_CONFIG (no start or end id),
   *   NEOX_BAD_EXPORT (the folder exists, and `overwrite` is not set or it holds something else), NEOX_IO
   */
  async export(dir: string, options: ExportOptions = {}): Promise<ExportReport> {
    const { config, tensors } = this.checkpoint;
    const settings = exportSettings(options);
    const { dtype, tensorParallel: ranks } = settings;
    const tasks = this.checkTasks(options.tasks);
    checkExpressible(config);
    const base = planBaseModel(config, tensors, ranks, settings.denseBias);
    const ini = newConfigIni(config, { ...settings, modelName: settings.modelName ?? sectionOf(config) });
    const listed = tasks.map(({ name, prefix }, id) => ({ id, name, prefixLength: prefix.prefixLength }));
    setTasks(ini, sectionOf(config), listed);
    settings.signal?.throwIfAborted();

    const target = resolve(checkPath('dir', dir), `${ranks}-gpu`);
    await checkReplaceable(target, {
      ...{ overwrite: settings.overwrite, kind: 'folder', what: 'an export', code: 'NEOX_BAD_EXPORT' },
      isOurs: async () => (await kindOf(join(target, 'config.ini'))) === 'file',
      hints: {
        ours: 'choose another folder, set `overwrite: true` to replace it, or use addTasks() to add prefixes to it',
        other: 'choose another folder',
      },
    });
    const written = await inNewFolder(target, settings.overwrite, async (folder) => {
      const jobs = [
        { files: base },
        ...tasks.map(({ name, prefix }) => ({ files: planPrefix(config, name, prefix.prefixLength, ranks), prefix })),
      ];
      await checkSpace(folder, jobs, dtype);
      const results = await this.write(folder, jobs, dtype, ranks, settings);
      await writeFileAtomic(join(folder, 'config.ini'), ini.toString());
      return results;
    });
    return report(target, dtype, ranks, written, listed, incompatibilities(config));
  }

  /**
   * Adds tasks to an export, in its element type and for its number of GPUs. New tasks follow the existing ones. The
   * prefix files are put in place first, then config.ini, and then the list of tasks in the config.pbtxt of a model
   * that {@link exportTritonRepository} has written; no other file is touched. A running server sees nothing of it
   * until it loads the model again.
   * @throws NEOX_BAD_EXPORT when the folder is no export or one of another model, NEOX_BAD_ARGUMENT for a task that is
   *   already there (without `replace`), NEOX_PREFIX_MISMATCH, NEOX_IO
   */
  async addTasks(
    dir: string,
    tasks: Readonly<Record<string, PrefixWeights>>,
    options: AddTasksOptions = {},
  ): Promise<ExportReport> {
    checkOptions('options', options, ['tensorParallel', 'replace', 'signal', 'onProgress']);
    const run = runSettings(options);
    const replace = checkBoolean('replace', options.replace ?? false);
    const asked =
      options.tensorParallel === undefined ? undefined : checkInteger('tensorParallel', options.tensorParallel, 1);
    const added = this.checkTasks(tasks);
    if (added.length === 0) throw badArgument('tasks', 'at least one task', tasks);
    run.signal?.throwIfAborted();

    const { config } = this.checkpoint;
    const found = await openExport(checkPath('dir', dir), asked);
    const { directory, configPath, dtype, tensorParallel: ranks } = found;
    const differences = configDifferences(found, config);
    if (differences.length > 0) {
      throw new NeoXPrefixError(
        'NEOX_BAD_EXPORT',
        `The export ${directory} is not of this model: ${differences.join('; ')}`,
        {
          path: configPath,
        },
      );
    }
    checkTensorParallel(config, ranks);
    const all = [...found.tasks];
    for (const { name, prefix } of added) {
      const at = all.findIndex((task) => task.name === name);
      if (at >= 0 && !replace) {
        throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `The export ${directory} already has a task '${name}'`, {
          path: configPath,
          hint: 'choose another name, or set `replace: true`',
        });
      }
      const id = at >= 0 ? at : all.length;
      all[id] = { id, name, prefixLength: prefix.prefixLength };
    }
    setTasks(found.ini, found.section, all);

    const suffix = `.${process.pid}-${randomBytes(6).toString('hex')}.tmp`;
    const jobs = added.map(({ name, prefix }) => {
      const files = planPrefix(config, name, prefix.prefixLength, ranks).map((file) => ({
        ...file,
        name: `.${file.name}${suffix}`,
      }));
      return { files, prefix };
    });
    const names = jobs.flatMap(({ files }) => files.map(({ name }) => name));
    try {
      await checkSpace(directory, jobs, dtype);
      const written = await this.write(directory, jobs, dtype, ranks, run);
      const renamed = written.map((file) => ({ ...file, name: file.name.slice(1, -suffix.length) }));
      for (const [index, { name }] of renamed.entries())
        await move(join(directory, names[index] as string), join(directory, name));
      await writeFileAtomic(configPath, found.ini.toString());
      await retellTasks(directory, all);
      return report(directory, dtype, ranks, renamed, all, []);
    } finally {
      for (const name of names) await rm(join(directory, name), { force: true });
    }
  }

  /**
   * Reads an export and compares every file bit by bit with what the checkpoint (and the given prefixes) give. Files
   * are reported one by one; an export that differs is no error.
   * @throws NEOX_BAD_EXPORT when there is no export to read
   */
  verify(dir: string, options: VerifyOptions = {}): Promise<VerifyReport> {
    return verifyExport(this.checkpoint, dir, options, (tasks) => this.checkTasks(tasks));
  }

  private checkTasks(tasks: unknown): Task[] {
    if (tasks === undefined) return [];
    const prototype: unknown = tasks === null || typeof tasks !== 'object' ? undefined : Object.getPrototypeOf(tasks);
    // A plain object, of whatever realm: the tasks of a Map would not be seen, and none be exported.
    if (prototype === undefined || (prototype !== null && Object.getPrototypeOf(prototype) !== null)) {
      const hint = types.isMap(tasks) ? 'use Object.fromEntries(tasks)' : undefined;
      throw badArgument('tasks', 'a plain object of prefixes by task name', tasks, hint);
    }
    return Object.entries(tasks as object).map(([key, prefix]) => {
      const name = checkTaskName(key);
      if (!(prefix instanceof PrefixWeights)) throw badArgument(`tasks['${name}']`, 'a PrefixWeights', prefix);
      prefix.checkFits(this.checkpoint.config, this.checkpoint.fingerprint);
      return { name, prefix };
    });
  }

  private async write(
    directory: string,
    jobs: readonly FileJob[],
    dtype: ExportDType,
    ranks: number,
    run: RunOptions,
  ): Promise<WrittenFile[]> {
    const bytesTotal = bytesOf(jobs, dtype);
    const written: WrittenFile[] = [];
    let bytesBefore = 0;
    for (const job of jobs) {
      const target = { directory, dtype, ranks, heads: this.checkpoint.config.numHeads };
      const onFile = (file: string, bytesDone: number): void =>
        run.onProgress?.({ file, bytesDone: bytesBefore + bytesDone, bytesTotal });
      written.push(...(await writeFiles(target, job, run.signal, onFile)));
      bytesBefore += bytesOf([job], dtype);
    }
    run.onProgress?.({ file: written.at(-1)?.name ?? '', bytesDone: bytesTotal, bytesTotal });
    // Nothing is in its place yet, so also this call may still stop the work.
    run.signal?.throwIfAborted();
    return written;
  }
}

function runSettings(options: RunOptions): RunOptions {
  const signal = checkSignal('signal', options.signal);
  const onProgress = options.onProgress === undefined ? undefined : checkFunction('onProgress', options.onProgress);
  return { ...(signal === undefined ? {} : { signal }), ...(onProgress === undefined ? {} : { onProgress }) };
}

function exportSettings(
  options: ExportOptions,
): Required<Omit<ExportOptions, 'tasks' | 'modelName' | keyof RunOptions>> &
  RunOptions & { modelName: string | undefined } {
  checkOptions('options', options, [
    'dtype',
    'tensorParallel',
    'tasks',
    'modelName',
    'denseBias',
    'overwrite',
    'signal',
    'onProgress',
  ]);
  return {
    dtype: checkOneOf('dtype', options.dtype ?? 'float16', EXPORT_DTYPES),
    tensorParallel: checkInteger('tensorParallel', options.tensorParallel ?? 1, 1),
    modelName: options.modelName === undefined ? undefined : checkModelName('modelName', options.modelName),
    denseBias: checkOneOf('denseBias', options.denseBias ?? 'runtime', DENSE_BIAS_RULES),
    overwrite: checkBoolean('overwrite', options.overwrite ?? false),
    ...runSettings(options),
  };
}

function bytesOf(jobs: readonly { readonly files: readonly FilePlan[] }[], dtype: ExportDType): number {
  return jobs.reduce(
    (sum, { files }) => sum + files.reduce((bytes, file) => bytes + file.elements * BYTES_PER_ELEMENT[dtype], 0),
    0,
  );
}

/** An export that would fill the disk is better not begun. */
async function checkSpace(folder: string, jobs: readonly FileJob[], dtype: ExportDType): Promise<void> {
  const needed = bytesOf(jobs, dtype);
  const { bavail, bsize } = await attempt(folder, () => statfs(folder));
  const available = bavail * bsize;
  if (needed <= available) return;
  throw new NeoXPrefixError(
    'NEOX_IO',
    `Not enough space for the export in ${dirname(folder)}: it needs ${needed} bytes, ${available} are free`,
    {
      path: dirname(folder),
      hint: 'free some space or choose another folder',
    },
  );
}

function report(
  directory: string,
  dtype: ExportDType,
  tensorParallel: number,
  written: readonly WrittenFile[],
  tasks: readonly ExportTask[],
  warnings: readonly ExportWarning[],
): ExportReport {
  const lost: ExportWarning[] = [];
  const are = (count: number): string => (count === 1 ? 'is' : 'are');
  for (const { name, sources, overflowed, nonFinite } of written) {
    const which = `${sources.length === 0 ? 'the prefix' : sources.join(' + ')} (${name})`;
    if (overflowed > 0)
      lost.push({
        code: 'overflow',
        message: `${plural(overflowed, 'value')} of ${which} ${are(overflowed)} too large for ${dtype} and became infinite`,
      });
    if (nonFinite > 0)
      lost.push({
        code: 'non-finite',
        message: `${plural(nonFinite, 'value')} of ${which} ${are(nonFinite)} infinite or not a number in the source`,
      });
  }
  const files = written.map(({ name, bytes }) => ({ name, bytes }));
  return {
    directory,
    dtype,
    tensorParallel,
    files,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    tasks,
    warnings: [...warnings, ...lost],
  };
}
