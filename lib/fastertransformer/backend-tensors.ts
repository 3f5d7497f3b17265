/** An input or output of Triton's fastertransformer backend, without the dimension of the batch. */
export interface BackendTensor {
  readonly name: string;
  readonly datatype: 'UINT32' | 'INT32' | 'UINT64' | 'FP32' | 'BOOL';
  /** [1]: one number a row, [B, 1] on the wire. */
  readonly dims: readonly number[];
  readonly optional: boolean;
}

const needed = (name: string, datatype: BackendTensor['datatype'], dims: readonly number[] = [1]): BackendTensor => ({
  name,
  datatype,
  dims,
  optional: false,
});

const optional = (name: string, datatype: BackendTensor['datatype'], dims: readonly number[] = [1]): BackendTensor => ({
  ...needed(name, datatype, dims),
  optional: true,
});

/** What the backend reads of a request, in the order of NVIDIA's own model (all_models/gptneox/fastertransformer). */
export const BACKEND_INPUTS: readonly BackendTensor[] = [
  needed('input_ids', 'UINT32', [-1]),
  needed('input_lengths', 'UINT32'),
  needed('request_output_len', 'UINT32', [-1]),
  optional('start_id', 'UINT32'),
  optional('end_id', 'UINT32'),
  optional('runtime_top_k', 'UINT32'),
  optional('runtime_top_p', 'FP32'),
  optional('beam_search_diversity_rate', 'FP32'),
  optional('temperature', 'FP32'),
  optional('len_penalty', 'FP32'),
  optional('repetition_penalty', 'FP32'),
  optional('random_seed', 'UINT64'),
  optional('is_return_log_probs', 'BOOL'),
  optional('beam_width', 'UINT32'),
  optional('bad_words_list', 'INT32', [2, -1]),
  optional('stop_words_list', 'INT32', [2, -1]),
  optional('prompt_learning_task_name_ids', 'UINT32'),
  optional('top_p_decay', 'FP32'),
  optional('top_p_min', 'FP32'),
  optional('top_p_reset_ids', 'UINT32'),
];

/** What it answers with; the last two where the request asks for log-probabilities. */
export const BACKEND_OUTPUTS: readonly BackendTensor[] = [
  needed('output_ids', 'UINT32', [-1, -1]),
  needed('sequence_length', 'UINT32', [-1]),
  needed('cum_log_probs', 'FP32', [-1]),
  needed('output_log_probs', 'FP32', [-1, -1]),
];
