interface TensorField {
  readonly name: string;
  readonly dtype: 'UINT32' | 'INT32' | 'UINT64' | 'FP32' | 'BOOL';
  readonly dims: readonly number[];
}

const scalar = (name: string, dtype: TensorField['dtype']): TensorField => ({ name, dtype, dims: [1] });

/** What the backend reads of a request, in the order of NVIDIA's own model (all_models/gptneox/fastertransformer). */
const REQUIRED: readonly TensorField[] = [
  { name: 'input_ids', dtype: 'UINT32', dims: [-1] },
  scalar('input_lengths', 'UINT32'),
  { name: 'request_output_len', dtype: 'UINT32', dims: [-1] },
];

const OPTIONAL: readonly TensorField[] = [
  scalar('start_id', 'UINT32'),
  scalar('end_id', 'UINT32'),
  scalar('runtime_top_k', 'UINT32'),
  scalar('runtime_top_p', 'FP32'),
  scalar('beam_search_diversity_rate', 'FP32'),
  scalar('temperature', 'FP32'),
  scalar('len_penalty', 'FP32'),
  scalar('repetition_penalty', 'FP32'),
  scalar('random_seed', 'UINT64'),
  scalar('is_return_log_probs', 'BOOL'),
  scalar('beam_width', 'UINT32'),
  { name: 'bad_words_list', dtype: 'INT32', dims: [2, -1] },
  { name: 'stop_words_list', dtype: 'INT32', dims: [2, -1] },
  scalar('prompt_learning_task_name_ids', 'UINT32'),
  scalar('top_p_decay', 'FP32'),
  scalar('top_p_min', 'FP32'),
  scalar('top_p_reset_ids', 'UINT32'),
];

const OUTPUTS: readonly TensorField[] = [
  { name: 'output_ids', dtype: 'UINT32', dims: [-1, -1] },
  { name: 'sequence_length', dtype: 'UINT32', dims: [-1] },
  { name: 'cum_log_probs', dtype: 'FP32', dims: [-1] },
  { name: 'output_log_probs', dtype: 'FP32', dims: [-1, -1] },
];

export interface TritonModel {
  readonly name: string;
  readonly maxBatchSize: number;
  readonly decoupled: boolean;
  readonly tensorParallel: number;
  readonly pipelineParallel: number;
  readonly dataType: 'fp16' | 'fp32';
  /** The folder with config.ini, as the server sees it. */
  readonly checkpointPath: string;
}

/** config.pbtxt (Triton's ModelConfig in protobuf's text form) of a model for the fastertransformer backend. */
export function tritonConfig(model: TritonModel): string {
  const parameters: readonly (readonly [key: string, value: string])[] = [
    ['tensor_para_size', String(model.tensorParallel)],
    ['pipeline_para_size', String(model.pipelineParallel)],
    ['data_type', model.dataType],
    ['model_type', 'GPT-NeoX'],
    ['model_checkpoint_path', model.checkpointPath],
    ['enable_custom_all_reduce', '0'],
  ];
  return `# NVIDIA FasterTransformer's GPT-NeoX with prefix prompts, for Triton's fastertransformer backend.
name: ${quoted(model.name)}
backend: "fastertransformer"
default_model_filename: "${model.tensorParallel}-gpu"
max_batch_size: ${model.maxBatchSize}
model_transaction_policy {
  decoupled: ${model.decoupled}
}
input [
${[...REQUIRED.map((tensor) => block(tensor)), ...OPTIONAL.map((tensor) => block(tensor, ['optional: true']))].join(',\n')}
]
output [
${OUTPUTS.map((tensor) => block(tensor)).join(',\n')}
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

function block({ name, dtype, dims }: TensorField, more: readonly string[] = []): string {
  // The backend wants one number a request as [B]; on the wire it is [B, 1].
  const reshape = dims.length === 1 && dims[0] === 1 ? ['reshape: { shape: [ ] }'] : [];
  const lines = [`name: "${name}"`, `data_type: TYPE_${dtype}`, `dims: [ ${dims.join(', ')} ]`, ...reshape, ...more];
  return `  {\n${lines.map((line) => `    ${line}\n`).join('')}  }`;
}

function parameter(key: string, value: string): string {
  return `parameters {\n  key: "${key}"\n  value: {\n    string_value: ${quoted(value)}\n  }\n}`;
}

/** A string literal of protobuf's text form. */
function quoted(value: string): string {
  return `"${value.replace(/[\\"\x00-\x1f]/g, (c) => (c < ' ' ? `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}` : `\\${c}`))}"`;
}
