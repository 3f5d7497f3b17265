import { type TensorEntry } from '../formats/tensor';
import { contiguousStride } from '../formats/values';
import { type Architecture, type Weight } from './architecture';
import { type GPTNeoXConfig } from './config';
import { type Fields, MAX_LAYERS, MAX_POSITIONS } from './fields';
import { NO_SCALING } from './rope';

/** Keys of a GPT2Config that change what is computed, with the one value that is computed here. */
const FIXED: readonly (readonly [key: string, value: boolean])[] = [
  ['scale_attn_weights', true],
  ['scale_attn_by_inverse_layer_idx', false],
  ['add_cross_attention', false],
];

function resolve(fields: Fields): GPTNeoXConfig {
  const hiddenSize = fields.integer('n_embd', 1, 768);
  const numHeads = fields.integer('n_head', 1, 12);
  const vocabSize = fields.integer('vocab_size', 1, 50257);
  for (const [key, value] of FIXED) {
    if (fields.boolean(key, value) !== value) throw fields.unsupported(key, !value, String(value));
  }
  return {
    architecture: 'gpt2',
    vocabSize,
    hiddenSize,
    numLayers: fields.integer('n_layer', 1, 12, MAX_LAYERS),
    numHeads,
    headSize: fields.divide('n_embd', hiddenSize, 'n_head', numHeads),
    intermediateSize: fields.integer('n_inner', 1, 4 * hiddenSize),
    learnedPositions: true,
    rotaryDims: 0,
    rotaryPct: 0,
    rotaryBase: 10000,
    ropeScaling: NO_SCALING,
    useParallelResidual: false,
    hiddenAct: fields.activation('activation_function', 'gelu_new'),
    layerNormEps: fields.number('layer_norm_epsilon', 1e-5, 'a positive number', (value) => value > 0),
    attentionBias: true,
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', true),
    maxPositionEmbeddings: fields.integer('n_positions', 1, 1024, MAX_POSITIONS),
    bosTokenId: fields.token('bos_token_id', vocabSize, 50256),
    eosTokenIds: fields.tokens('eos_token_id', vocabSize, 50256),
    padTokenId: fields.token('pad_token_id', vocabSize, null),
    torchDtype: fields.dtype(),
  };
}

/** Saved from GPT2Model, as OpenAI's own checkpoints are, the names have no `transformer.` in front. */
function canonicalName(name: string): string {
  return /^(?:wte|wpe|h\.\d+|ln_f)\./.test(name) ? `transformer.${name}` : name;
}

/** Names of the parts of a layer here, and there. */
const NORMS = [
  ['input_layernorm', 'ln_1'],
  ['post_attention_layernorm', 'ln_2'],
] as const;

/**
 * The weights in the layout of GPT-NeoX, whose blocks compute the same. GPT-2 has the weights of its linear layers as
 * [in, out] (transformers calls it Conv1D), and queries, keys and values of all heads one behind the other where
 * GPT-NeoX has them head by head.
 */
function weights(config: GPTNeoXConfig): Map<string, Weight> {
  const { hiddenSize: h, intermediateSize: f, vocabSize: v, numHeads: n, headSize: d } = config;
  const found = new Map<string, Weight>();
  const copy = (name: string, source: string, shape: readonly number[]): unknown => found.set(name, { shape, source });
  const linear = (name: string, source: string, out: number, from: number): void => {
    const view = (entry: TensorEntry): TensorEntry => transposed(entry, [out, from]);
    found.set(`${name}.weight`, {
      shape: [out, from],
      source: `${source}.weight`,
      sourceShape: [from, out],
      view,
    });
    copy(`${name}.bias`, `${source}.bias`, [out]);
  };
  copy('gpt_neox.embed_in.weight', 'transformer.wte.weight', [v, h]);
  copy('gpt_neox.embed_positions.weight', 'transformer.wpe.weight', [config.maxPositionEmbeddings, h]);
  for (let i = 0; i < config.numLayers; i++) {
    const [to, from] = [`gpt_neox.layers.${i}`, `transformer.h.${i}`];
    for (const [name, source] of NORMS) {
      for (const kind of ['weight', 'bias']) copy(`${to}.${name}.${kind}`, `${from}.${source}.${kind}`, [h]);
    }
    // [in, 3, N, D] as [N, 3, D, in], and [3, N, D] as [N, 3, D]
    for (const [kind, shape, sourceShape] of [
      ['weight', [3 * h, h], [h, 3 * h]],
      ['bias', [3 * h], [3 * h]],
    ] as const) {
      found.set(`${to}.attention.query_key_value.${kind}`, {
        shape,
        source: `${from}.attn.c_attn.${kind}`,
        sourceShape,
        view: (entry) => headByHead(entry, shape, n, d),
      });
    }
    linear(`${to}.attention.dense`, `${from}.attn.c_proj`, h, h);
    linear(`${to}.mlp.dense_h_to_4h`, `${from}.mlp.c_fc`, f, h);
    linear(`${to}.mlp.dense_4h_to_h`, `${from}.mlp.c_proj`, h, f);
  }
  copy('gpt_neox.final_layer_norm.weight', 'transformer.ln_f.weight', [h]);
  copy('gpt_neox.final_layer_norm.bias', 'transformer.ln_f.bias', [h]);
  copy('embed_out.weight', config.tieWordEmbeddings ? 'transformer.wte.weight' : 'lm_head.weight', [v, h]);
  return found;
}

function stridesOf(entry: TensorEntry): readonly number[] {
  return entry.stride ?? contiguousStride(entry.shape);
}

function transposed(entry: TensorEntry, shape: readonly number[]): TensorEntry {
  return { ...entry, shape, stride: [...stridesOf(entry)].reverse() };
}

function headByHead(entry: TensorEntry, shape: readonly number[], heads: number, headSize: number): TensorEntry {
  const { name, dtype, ...place } = entry;
  const strides = stridesOf(entry);
  const column = strides.at(-1) as number;
  const steps = [headSize * column, heads * headSize * column, column, ...strides.slice(0, -1)];
  const inputs = entry.shape.slice(0, -1);
  const piece = { ...place, shape: [heads, 3, headSize, ...inputs], stride: steps };
  return { name, dtype, ...place, shape, join: { axis: 0, pieces: [piece] } };
}

/** GPT-2 (Radford et al. 2019) as transformers saves it: `gpt2`, `rinna/japanese-gpt2-*`, `rinna/japanese-gpt-1b`. */
export const GPT2: Architecture = {
  title: 'GPT-2',
  modelTypes: ['gpt2'],
  resolve,
  isBuffer: (name) => /^(?:transformer\.)?h\.\d+\.attn\.(?:bias|masked_bias)$/.test(name),
  canonicalName,
  weights,
};
