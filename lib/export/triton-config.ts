import { dirname, join } from 'node:path';
import { kindOf, readSmallFile, writeFileAtomic } from '../base/files';
import { BACKEND_INPUTS, BACKEND_OUTPUTS, type BackendTensor } from '../fastertransformer/backend-tensors';
import type { ExportTask } from '../fastertransformer/folder';
import { TASKS_PARAMETER, writeTasks } from '../fastertransformer/task-list';

export interface TritonModel {
  readonly name: string;
  readonly maxBatchSize: number;
  readonly decoupled: boolean;
  readonly tensorParallel: number;
  readonly pipelineParallel: number;
  readonly dataType: 'fp16' | 'fp32';
  /** The folder with config.ini, as the server sees it. */
  readonly checkpointPath: string;
  /** Told to clients; the backend reads them of config.ini. */
  readonly tasks: readonly ExportTask[];
}

const TITLE = "# NVIDIA FasterTransformer's GPT-NeoX with prefix prompts, for Triton's fastertransformer backend.";
const MAX_CONFIG_BYTES = 4 * 2 ** 20;

/** config.pbtxt (Triton's ModelConfig in protobuf's text form) of a model for the fastertransformer backend. */
export function tritonConfig(model: TritonModel): string {
  const parameters: readonly (readonly [key: string, value: string])[] = [
    ['tensor_para_size', String(model.tensorParallel)],
    ['pipeline_para_size', String(model.pipelineParallel)],
    ['data_type', model.dataType],
    ['model_type', 'GPT-NeoX'],
    ['model_checkpoint_path', model.checkpointPath],
    ['enable_custom_all_reduce', '0'],
    // Not the backend's: it asks for parameters by name, and passes over this one.
    ...(model.tasks.length > 0 ? [[TASKS_PARAMETER, writeTasks(model.tasks)] as const] : []),
  ];
  return `${TITLE}
name: ${quoted(model.name)}
backend: "fastertransformer"
default_model_filename: "${model.tensorParallel}-gpu"
max_batch_size: ${model.maxBatchSize}
model_transaction_policy {
  decoupled: ${model.decoupled}
}
input [
${BACKEND_INPUTS.map((tensor) => block(tensor, tensor.optional ? ['optional: true'] : [])).join(',\n')}
]
output [
${BACKEND_OUTPUTS.map((tensor) => block(tensor)).join(',\n')}
]
instance_group [
  {
    count: 1
    kind: KIND_CPU
  }
]
${parameters.map(([key, value]) => parameter(key, value)).join('\n')}
`;
}

/**
 * Tells clients of the tasks that an export has now, where it lies in a model that this package has written for Triton.
 * @param exported the folder with config.ini
 */
export async function retellTasks(exported: string, tasks: readonly ExportTask[]): Promise<void> {
  const path = join(dirname(dirname(exported)), 'config.pbtxt');
  if ((await kindOf(path)) !== 'file') return;
  const config = (await readSmallFile(path, MAX_CONFIG_BYTES)).toString('utf8');
  if (!config.startsWith(TITLE)) return;
  const own = new RegExp(`parameters \\{\\s*key: "${TASKS_PARAMETER}"[^}]*\\}\\s*\\}\\n?`);
  await writeFileAtomic(path, `${config.replace(own, '')}${parameter(TASKS_PARAMETER, writeTasks(tasks))}\n`);
}

function block({ name, datatype, dims }: BackendTensor, more: readonly string[] = []): string {
  // The backend wants one number a request as [B]; on the wire it is [B, 1].
  const reshape = dims.length === 1 && dims[0] === 1 ? ['reshape: { shape: [ ] }'] : [];
  const lines = [`name: "${name}"`, `data_type: TYPE_${datatype}`, `dims: [ ${dims.join(', ')} ]`, ...reshape, ...more];
  return `  {\n${lines.map((line) => `    ${line}\n`).join('')}  }`;
}

function parameter(key: string, value: string): string {
  return `parameters {\n  key: "${key}"\n  value: {\n    string_value: ${quoted(value)}\n  }\n}`;
}

/** A string literal of protobuf's text form. */
function quoted(value: string): string {
  return `"${value.replace(/[\\"\x00-\x1f]/g, (c) => (c < ' ' ? `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}` : `\\${c}`))}"`;
}
