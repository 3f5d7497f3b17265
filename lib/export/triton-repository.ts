import { mkdir } from 'node:fs/promises';
import { join, posix, resolve } from 'node:path';

import {
  badArgument,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkPath,
  checkString,
} from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { kindOf, syncFolder, writeFileAtomic } from '../base/files';
import { attempt, checkReplaceable, inNewFolder } from '../base/new-folder';
import type { ExportWarning } from '../fastertransformer/compatibility';
import { EXPORT_DTYPES, type ExportDType, type ExportTask } from '../fastertransformer/folder';
import { type ExportOptions, type ExportReport, type ExportSource, FTExporter } from './exporter';
import { tritonConfig } from './triton-config';

/** What to write, how, and for which server. */
export interface TritonOptions extends ExportOptions {
  /** Name of the model in Triton, and of its folder. Defaults to `'fastertransformer'`. */
  modelName?: string;
  /** The type that the server computes in. Defaults to `dtype`. */
  computeDType?: ExportDType;
  /** Number of groups of GPUs that share the layers; a divisor of their number. Defaults to `1`. */
  pipelineParallel?: number;
  /** Most rows of a request. Defaults to `1024`, as in NVIDIA's own model. */
  maxBatchSize?: number;
  /** One response a token, over gRPC streams, in place of one a request. Defaults to `false`. */
  decoupled?: boolean;
  /**
   * Where the server sees `dir`, which differs inside of a container (`/models`). model_checkpoint_path in config.pbtxt
   * starts with it. Defaults to the absolute path of `dir`.
   */
  serverPath?: string;
}

/** What was written. */
export interface TritonReport {
  /** Absolute path of the model's folder in the repository. */
  readonly directory: string;
  readonly modelName: string;
  /** Absolute path of config.pbtxt. */
  readonly configPath: string;
  /** model_checkpoint_path: the weights' folder as the server sees it. */
  readonly checkpointPath: string;
  /** GPUs that the model takes: tensorParallel * pipelineParallel. */
  readonly gpus: number;
  /** What requests send as prompt_learning_task_name_ids, by task. */
  readonly tasks: readonly ExportTask[];
  /** What was written to `1/<tensorParallel>-gpu`. */
  readonly weights: ExportReport;
  readonly warnings: readonly ExportWarning[];
}

const VERSION = '1';
const MAX_BATCH_SIZE = 2 ** 31 - 1;

/**
 * Writes a model and its prefixes as a model of a Triton repository, ready for the fastertransformer backend:
 * `DIR/<modelName>/config.pbtxt` and `DIR/<modelName>/1/<tensorParallel>-gpu/`. The model's folder appears under its
 * name when it is complete; nothing stays behind after an error or an abort.
 * @throws what FTExporter.export throws; NEOX_BAD_EXPORT when the model's folder exists, and `overwrite` is not set or
 *   it holds something else
 */
export async function exportTritonRepository(
  model: ExportSource,
  dir: string,
  options: TritonOptions = {},
): Promise<TritonReport> {
  const { computeDType, pipelineParallel, maxBatchSize, decoupled, serverPath, ...exportOptions } =
    checkTritonOptions(options);
  const exporter = new FTExporter(model);
  const { numLayers, architecture } = model.checkpoint.config;
  if (architecture !== 'gpt_neox') {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', 'A Triton repository is written for GPT-NeoX models only', {
      hint: 'export the weights of a GPT-2 with FTExporter, and serve them with model_type = GPT',
    });
  }
  if (numLayers % pipelineParallel !== 0) {
    throw badArgument('pipelineParallel', `a divisor of the model's ${numLayers} layers`, pipelineParallel);
  }
  const repository = resolve(checkPath('dir', dir));
  const { modelName, tensorParallel, overwrite } = exportOptions;
  const directory = join(repository, modelName);
  const checkpointPath = posix.join(serverPath ?? repository, modelName, VERSION, `${tensorParallel}-gpu`);
  exportOptions.signal?.throwIfAborted();
  await checkReplaceable(directory, {
    ...{ overwrite, kind: 'folder', what: 'a model', code: 'NEOX_BAD_EXPORT' },
    isOurs: async () => (await kindOf(join(directory, 'config.pbtxt'))) !== undefined,
    hints: {
      ours: 'choose another modelName, set `overwrite: true` to replace it, or add prefixes to the weights in its folder 1 with FTExporter.addTasks()',
      other: 'choose another folder or modelName',
    },
  });

  const weights = await inNewFolder(directory, overwrite, async (folder) => {
    const version = join(folder, VERSION);
    await attempt(version, () => mkdir(version));
    const written = await exporter.export(version, exportOptions);
    const config = tritonConfig({
      name: modelName,
      maxBatchSize,
      decoupled,
      tensorParallel,
      pipelineParallel,
      dataType: (computeDType ?? written.dtype) === 'float16' ? 'fp16' : 'fp32',
      checkpointPath,
      tasks: written.tasks,
    });
    await writeFileAtomic(join(folder, 'config.pbtxt'), config);
    await syncFolder(version);
    return { ...written, directory: join(directory, VERSION, `${tensorParallel}-gpu`) };
  });
  return {
    directory,
    modelName,
    configPath: join(directory, 'config.pbtxt'),
    checkpointPath,
    gpus: tensorParallel * pipelineParallel,
    tasks: weights.tasks,
    weights,
    warnings: decoupled ? [...weights.warnings, DECOUPLED] : weights.warnings,
  };
}

const DECOUPLED: ExportWarning = {
  code: 'decoupled',
  message:
    'FasterTransformer counts the length of a sequence once more with every response of a decoupled GPT-NeoX (GptNeoX.cc, setOutputTensors), which can spoil what follows: compare its answers with those of a model that is not decoupled',
};

type Defaulted = 'modelName' | 'pipelineParallel' | 'maxBatchSize' | 'decoupled' | 'tensorParallel' | 'overwrite';

function checkTritonOptions(options: TritonOptions): TritonOptions & Required<Pick<TritonOptions, Defaulted>> {
  checkOptions('options', options, [
    ...['dtype', 'tensorParallel', 'tasks', 'modelName', 'denseBias', 'overwrite', 'signal', 'onProgress'],
    ...['computeDType', 'pipelineParallel', 'maxBatchSize', 'decoupled', 'serverPath'],
  ]);
  const modelName = checkString('modelName', options.modelName ?? 'fastertransformer');
  if (!/^[A-Za-z0-9_][\w.-]*$/.test(modelName)) {
    throw badArgument(
      'modelName',
      "a name of letters, digits, '_', '-' and '.', because it is a folder and a part of URLs,",
      modelName,
    );
  }
  if (options.computeDType !== undefined) checkOneOf('computeDType', options.computeDType, EXPORT_DTYPES);
  if (options.serverPath !== undefined && /\p{C}/u.test(checkString('serverPath', options.serverPath))) {
    throw badArgument('serverPath', 'a path without control characters', options.serverPath);
  }
  return {
    ...options,
    modelName,
    tensorParallel: checkInteger('tensorParallel', options.tensorParallel ?? 1, 1),
    pipelineParallel: checkInteger('pipelineParallel', options.pipelineParallel ?? 1, 1),
    maxBatchSize: checkInteger('maxBatchSize', options.maxBatchSize ?? 1024, 1, MAX_BATCH_SIZE),
    decoupled: checkBoolean('decoupled', options.decoupled ?? false),
    overwrite: checkBoolean('overwrite', options.overwrite ?? false),
  };
}
