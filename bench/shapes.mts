// The models that are measured: known shapes, with weights that weights.mts draws. What is measured does not depend on
// what a model knows.

/** The keys of a config.json that a shape decides. */
export interface ShapeConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly intermediate_size: number;
  readonly rotary_pct: number;
  readonly use_parallel_residual: boolean;
  readonly bos_token_id: number;
  readonly eos_token_id: number;
}

export interface ModelShape {
  readonly name: string;
  /** Of the weights in the file. */
  readonly dtype: 'F32' | 'BF16';
  readonly config: ShapeConfig;
}

export const SHAPES = {
  /** Only to see whether everything works: its times say nothing. */
  tiny: {
    name: 'tiny',
    dtype: 'F32',
    config: {
      vocab_size: 2048,
      hidden_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      intermediate_size: 256,
      rotary_pct: 0.5,
      use_parallel_residual: true,
      bos_token_id: 2,
      eos_token_id: 3,
    },
  },
  /** rinna/japanese-gpt-neox-small */
  'rinna-small': {
    name: 'rinna-small',
    dtype: 'F32',
    config: {
      vocab_size: 44_416,
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      intermediate_size: 3072,
      rotary_pct: 1,
      use_parallel_residual: false,
      bos_token_id: 2,
      eos_token_id: 3,
    },
  },
  /** EleutherAI/pythia-410m */
  'pythia-410m': {
    name: 'pythia-410m',
    dtype: 'F32',
    config: {
      vocab_size: 50_304,
      hidden_size: 1024,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      intermediate_size: 4096,
      rotary_pct: 0.25,
      use_parallel_residual: true,
      bos_token_id: 0,
      eos_token_id: 0,
    },
  },
  /** rinna/japanese-gpt-neox-3.6b and its instruction models */
  'rinna-3.6b': {
    name: 'rinna-3.6b',
    dtype: 'BF16',
    config: {
      vocab_size: 32_000,
      hidden_size: 2816,
      num_hidden_layers: 36,
      num_attention_heads: 22,
      intermediate_size: 11_264,
      rotary_pct: 1,
      use_parallel_residual: false,
      bos_token_id: 2,
      eos_token_id: 3,
    },
  },
} as const satisfies Record<string, ModelShape>;

export type ShapeName = keyof typeof SHAPES;

/** What config.json holds. */
export function configJson({ dtype, config }: ModelShape): Record<string, unknown> {
  return {
    architectures: ['GPTNeoXForCausalLM'],
    model_type: 'gpt_neox',
    ...config,
    hidden_act: 'gelu',
    rotary_emb_base: 10_000,
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-5,
    attention_bias: true,
    tie_word_embeddings: false,
    dtype: dtype === 'F32' ? 'float32' : 'bfloat16',
  };
}

/** The name of every weight, with its shape; matrices are [out, in]. */
export function tensorShapes({ config }: ModelShape): [name: string, shape: readonly number[]][] {
  const { vocab_size: v, hidden_size: h, intermediate_size: f } = config;
  const layer = (i: number): [string, readonly number[]][] =>
    (
      [
        ['input_layernorm.weight', [h]],
        ['input_layernorm.bias', [h]],
        ['post_attention_layernorm.weight', [h]],
        ['post_attention_layernorm.bias', [h]],
        ['attention.query_key_value.weight', [3 * h, h]],
        ['attention.query_key_value.bias', [3 * h]],
        ['attention.dense.weight', [h, h]],
        ['attention.dense.bias', [h]],
        ['mlp.dense_h_to_4h.weight', [f, h]],
        ['mlp.dense_h_to_4h.bias', [f]],
        ['mlp.dense_4h_to_h.weight', [h, f]],
        ['mlp.dense_4h_to_h.bias', [h]],
      ] as [string, readonly number[]][]
    ).map(([name, shape]) => [`gpt_neox.layers.${i}.${name}`, shape]);
  return [
    ['gpt_neox.embed_in.weight', [v, h]],
    ...Array.from({ length: config.num_hidden_layers }, (_, i) => layer(i)).flat(),
    ['gpt_neox.final_layer_norm.weight', [h]],
    ['gpt_neox.final_layer_norm.bias', [h]],
    ['embed_out.weight', [v, h]],
  ];
}

/**
 * Weights that a token is multiplied with: those of the blocks, and those of the output projection. The embedding is
 * only looked up. Where only the logits of the last token are wanted, `end` of the blocks' weights are for that token
 * alone: all of the last block but keys and values.
 */
export function multipliedWeights({ config }: ModelShape): { blocks: number; end: number; output: number } {
  const { vocab_size: v, hidden_size: h, intermediate_size: f, num_hidden_layers: layers } = config;
  return { blocks: layers * (4 * h * h + 2 * h * f), end: 2 * h * h + 2 * h * f, output: v * h };
}

export function parameters(shape: ModelShape): number {
  return tensorShapes(shape).reduce((sum, [, sizes]) => sum + sizes.reduce((product, size) => product * size, 1), 0);
}
