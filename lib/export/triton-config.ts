/** One field of a protobuf message in its text form. A string is quoted, an array is a list, an Enum stands as it is. */
type Value = string | number | boolean | Enum | Message | readonly Value[];
type Message = readonly (readonly [field: string, value: Value])[] & { readonly isMessage?: never };

class Enum {
  constructor(readonly name: string) {}
}

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
  const fields: Message = [
    ['name', model.name],
    ['backend', 'fastertransformer'],
    ['default_model_filename', `${model.tensorParallel}-gpu`],
    ['max_batch_size', model.maxBatchSize],
    ['model_transaction_policy', [['decoupled', model.decoupled]]],
    ['input', [...REQUIRED.map((tensor) => input(tensor, false)), ...OPTIONAL.map((tensor) => input(tensor, true))]],
    ['output', OUTPUTS.map(describe)],
    [
      'instance_group',
      [
        [
          ['count', 1],
          ['kind', new Enum('KIND_CPU')],
        ],
      ],
    ],
  ];
  const lines = fields.map(([field, value]) => `${field}: ${text(value)}`);
  for (const [key, value] of parameters) lines.push(`parameters: ${text([['key', key], ['value', [['string_value', value]]]])}`);
  return `${lines.join('\n')}\n`;
}
