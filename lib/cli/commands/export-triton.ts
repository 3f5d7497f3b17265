import { openCheckpoint } from '../../checkpoint/open';
import { exportTritonRepository, type TritonReport } from '../../export/triton-repository';
import type { DenseBiasRule } from '../../fastertransformer/file-plan';
import type { ExportDType } from '../../fastertransformer/folder';
import type { CommandSpec } from '../command';
import { formatBytes, plural } from '../text-columns';
import { MODEL_DIR } from '../model';
import { given, integer, type NamedFile, option } from '../flags';
import type { Ui } from '../ui';
import { loadTasks, taskOptions } from './export-ft';

export interface ExportTritonFlags {
  model: string;
  task?: NamedFile[];
  prefixSeqLen?: number;
  allowFingerprintMismatch?: boolean;
  out: string;
  overwrite?: boolean;
  modelName?: string;
  serverPath?: string;
  dtype?: ExportDType;
  computeDtype?: ExportDType;
  tensorParallel?: number;
  pipelineParallel?: number;
  denseBias?: DenseBiasRule;
  maxBatchSize?: number;
  decoupled?: boolean;
}

const DESCRIPTION = `Writes a model of a Triton repository, ready for NVIDIA's fastertransformer backend: config.pbtxt and the weights of the base model and of any number of prefixes.

A request chooses its task by prompt_learning_task_name_ids: the tasks count from 0 in the order in which they are given.`;

const EXAMPLES = `
Examples:
  $ neox-prefix export triton --model models/japanese-gpt-neox-small --task smileface=smileface.safetensors --out triton
  For a server in a container that has the repository at /models
  $ neox-prefix export triton --model DIR --task NAME=FILE [--task ...] --out triton --server-path /models --tensor-parallel 2

Later tasks are added to the weights: neox-prefix export ft --append --out triton/fastertransformer/1 --model DIR --task NAME=FILE`;

export const command: CommandSpec = {
  name: 'triton',
  summary: "a model repository for Triton's fastertransformer backend",
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    What: [MODEL_DIR(), ...taskOptions()],
    'Where to': [
      option('--out <dir>', 'the repository, which gets <model-name>/', { required: true }),
      option('--model-name <name>', 'name of the model in Triton', { default: 'fastertransformer' }),
      option('--server-path <path>', 'where the server sees the repository', { default: 'the absolute path of --out' }),
      option('--overwrite', 'replace a model that is there'),
    ],
    How: [
      option('--dtype <type>', 'element type of the files', { choices: ['float16', 'float32'], default: 'float16' }),
      option('--compute-dtype <type>', 'what the server computes in', {
        choices: ['float16', 'float32'],
        default: '--dtype',
      }),
      option('--tensor-parallel <n>', 'GPUs that share each layer', { parse: integer(1), default: 1 }),
      option('--pipeline-parallel <n>', 'groups of GPUs that share the layers', { parse: integer(1), default: 1 }),
      option('--dense-bias <rule>', 'see `export ft`', {
        choices: ['runtime', 'huggingface_converter'],
        default: 'runtime',
      }),
      option('--max-batch-size <n>', 'most rows of a request', { parse: integer(1), default: 1024 }),
      option('--decoupled', 'one response a token, over gRPC streams'),
    ],
  }),
  run,
};

export async function run(flags: ExportTritonFlags, ui: Ui): Promise<number> {
  const checkpoint = await openCheckpoint(flags.model);
  for (const warning of checkpoint.warnings) ui.warn(warning);
  const tasks = await loadTasks(flags, checkpoint, ui);
  const {
    dtype,
    computeDtype: computeDType,
    tensorParallel,
    pipelineParallel,
    denseBias,
    maxBatchSize,
    decoupled,
  } = flags;
  const { modelName, serverPath, overwrite } = flags;
  const options = {
    dtype,
    computeDType,
    tensorParallel,
    pipelineParallel,
    denseBias,
    maxBatchSize,
    decoupled,
    modelName,
    serverPath,
    overwrite,
  };
  const report = await ui.withProgress({ title: 'exporting', total: 0, unit: 'bytes' }, (update) =>
    exportTritonRepository({ checkpoint }, flags.out, {
      ...given(options),
      tasks,
      signal: ui.signal,
      onProgress: ({ bytesDone, bytesTotal }) => update(bytesDone, '', bytesTotal),
    }),
  );
  for (const { message } of report.warnings) ui.warn(message);
  ui.json(report);
  printReport(report, ui);
  return 0;
}

function printReport({ directory, checkpointPath, gpus, tasks, weights }: TritonReport, ui: Ui): void {
  const files = `${plural(weights.files.length, 'file')}, ${formatBytes(weights.bytes)}, ${weights.dtype}`;
  ui.print(`${directory}: ${files}, for ${plural(gpus, 'GPU')}; the server reads ${checkpointPath}`);
  for (const { id, name, prefixLength } of tasks) ui.print(`  task ${id}  ${name}  (prefix length ${prefixLength})`);
}
