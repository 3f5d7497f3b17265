import { checkFunction, checkInteger, checkOneOf, checkOptions, checkPath, checkSignal } from '../base/arguments';
import { fileSize, listFolder } from '../base/files';
import type { Checkpoint } from '../checkpoint/checkpoint';
import {
  DENSE_BIAS_RULES,
  type DenseBiasRule,
  type FilePlan,
  planBaseModel,
  planPrefix,
} from '../fastertransformer/file-plan';
import { BYTES_PER_ELEMENT, configDifferences, type ExportDType, openExport } from '../fastertransformer/folder';
import type { PrefixWeights } from '../prefix/weights';
import type { ExportProgress } from './native-files';
import { compareFiles, type FileJob, type VerifiedFile } from './native-files';

/** What to compare an export with. */
export interface VerifyOptions {
  /**
   * The prefixes that the export should hold, by task name. Of other tasks only the file sizes are checked. Defaults to
   * none.
   */
  tasks?: Readonly<Record<string, PrefixWeights>>;
  /** Which export, where the folder has several. Defaults to the only one. */
  tensorParallel?: number;
  /** The rule that the export was written with. Defaults to `'runtime'`. */
  denseBias?: DenseBiasRule;
  /** Stops the work, which then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called about twenty times a second, and at the end. An error that it throws stops the work. */
  onProgress?: (progress: ExportProgress) => void;
}

/** What a comparison found. */
export interface VerifyReport {
  /** True when FasterTransformer would load exactly this model and these tasks. */
  readonly ok: boolean;
  readonly directory: string;
  readonly dtype: ExportDType;
  readonly tensorParallel: number;
  readonly files: readonly VerifiedFile[];
  /** What is wrong apart from single files: config.ini, or tasks that it does not list. */
  readonly problems: readonly string[];
  /** Files in the folder that no part of the export names. They do no harm. */
  readonly unexpected: readonly string[];
}

interface Task {
  readonly name: string;
  readonly prefix: PrefixWeights;
}

export async function verifyExport(
  checkpoint: Checkpoint,
  dir: string,
  options: VerifyOptions,
  checkTasks: (tasks: unknown) => readonly Task[],
): Promise<VerifyReport> {
  checkOptions('options', options, ['tasks', 'tensorParallel', 'denseBias', 'signal', 'onProgress']);
  const given = new Map(checkTasks(options.tasks).map(({ name, prefix }) => [name, prefix]));
  const asked =
    options.tensorParallel === undefined ? undefined : checkInteger('tensorParallel', options.tensorParallel, 1);
  const rule = checkOneOf('denseBias', options.denseBias ?? 'runtime', DENSE_BIAS_RULES);
  const signal = checkSignal('signal', options.signal);
  const onProgress = options.onProgress === undefined ? undefined : checkFunction('onProgress', options.onProgress);
  signal?.throwIfAborted();

  const { config, tensors } = checkpoint;
  const found = await openExport(checkPath('dir', dir), asked);
  const { directory, dtype, tensorParallel: ranks } = found;
  const problems = configDifferences(found, config).map((problem) => `config.ini: ${problem}`);
  const jobs: FileJob[] = [{ files: planBaseModel(config, tensors, ranks, rule) }];
  const sizesOnly: FilePlan[] = [];
  for (const { name, prefixLength } of found.tasks) {
    const prefix = given.get(name);
    const files = planPrefix(config, name, prefixLength, ranks);
    if (prefix?.prefixLength === prefixLength) {
      jobs.push({ files, prefix });
      continue;
    }
    sizesOnly.push(...files);
    if (prefix !== undefined)
      problems.push(
        `config.ini: prompt_length of the task '${name}' is ${prefixLength}, expected ${prefix.prefixLength}`,
      );
  }
  for (const name of given.keys()) {
    if (!found.tasks.some((task) => task.name === name)) problems.push(`config.ini: there is no task '${name}'`);
  }

  const itemBytes = BYTES_PER_ELEMENT[dtype];
  const bytesTotal = jobs.reduce(
    (sum, { files }) => files.reduce((bytes, file) => bytes + file.elements * itemBytes, sum),
    0,
  );
  const files: VerifiedFile[] = [];
  let bytesBefore = 0;
  for (const job of jobs) {
    const target = { directory, dtype, ranks, heads: config.numHeads };
    const onFile = (file: string, bytesDone: number): void =>
      onProgress?.({ file, bytesDone: bytesBefore + bytesDone, bytesTotal });
    files.push(...(await compareFiles(target, job, signal, onFile)));
    bytesBefore += job.files.reduce((bytes, file) => bytes + file.elements * itemBytes, 0);
  }
  for (const { name, elements } of sizesOnly) files.push(await checkSize(directory, name, elements * itemBytes));
  onProgress?.({ file: files.at(-1)?.name ?? '', bytesDone: bytesTotal, bytesTotal });

  const known = new Set(['config.ini', ...files.map(({ name }) => name)]);
  const unexpected = (await listFolder(directory)).filter((name) => !known.has(name));
  // What the native code says of its progress may come behind its result.
  signal?.throwIfAborted();
  const ok = problems.length === 0 && files.every(({ status }) => status === 'equal' || status === 'size');
  return { ok, directory, dtype, tensorParallel: ranks, files, problems, unexpected };
}

async function checkSize(directory: string, name: string, expectedBytes: number): Promise<VerifiedFile> {
  const actual = await fileSize(directory, name);
  const status = actual === undefined ? 'missing' : actual === expectedBytes ? 'size' : 'wrong-size';
  return { name, status, expectedBytes, actualBytes: actual ?? 0, differing: 0, maxAbsDifference: 0 };
}
