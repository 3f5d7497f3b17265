import { type Architecture, type Weight } from './architecture';
import { type GPTNeoXConfig } from './config';
import { type Fields, MAX_LAYERS, MAX_POSITIONS } from './fields';
import { checkAngles, NO_SCALING, resolveRotary } from './rope';

function fromTransformers(fields: Fields): GPTNeoXConfig {
  const hiddenSize = fields.integer('hidden_size', 1);
  const numHeads = fields.integer('num_attention_heads', 1);
  const vocabSize = fields.integer('vocab_size', 1);
  const headSize = fields.divide('hidden_size', hiddenSize, 'num_attention_heads', numHeads);
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', 1, 2048, MAX_POSITIONS);
  return {
    architecture: 'gpt_neox',
    vocabSize,
    hiddenSize,
    numLayers: fields.integer('num_hidden_layers', 1, undefined, MAX_LAYERS),
    numHeads,
    headSize,
    intermediateSize: fields.integer('intermediate_size', 1),
    learnedPositions: false,
    ...resolveRotary(fields, headSize, maxPositionEmbeddings),
    useParallelResidual: fields.boolean('use_parallel_residual', true),
    hiddenAct: fields.activation('hidden_act'),
    layerNormEps: fields.number('layer_norm_eps', 1e-5, 'a positive number', (value) => value > 0),
    attentionBias: fields.boolean('attention_bias', true),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    maxPositionEmbeddings,
    bosTokenId: fields.token('bos_token_id', vocabSize, 0),
    eosTokenIds: fields.tokens('eos_token_id', vocabSize, 2),
    padTokenId: fields.token('pad_token_id', vocabSize, null),
    torchDtype: fields.dtype(),
  };
}

/** rinna's own class, from before transformers knew the model: japanese-gpt-neox-small until March 2023. */
function fromOldRinna(fields: Fields): GPTNeoXConfig {
  const hiddenSize = fields.integer('n_embd', 1);
  const numHeads = fields.integer('n_head', 1);
  const vocabSize = fields.integer('vocab_size', 1);
  const headSize = fields.divide('n_embd', hiddenSize, 'n_head', numHeads);
  const rotaryDims = fields.integer('rotary_dim', 2, headSize);
  if (rotaryDims > headSize || rotaryDims % 2 !== 0)
    throw fields.bad('rotary_dim', `an even number up to ${headSize}`, rotaryDims);
  if (fields.boolean('lm_head_bias', false)) throw fields.unsupported('lm_head_bias', true, 'false');
  return {
    architecture: 'gpt_neox',
    vocabSize,
    hiddenSize,
    numLayers: fields.integer('n_layer', 1, undefined, MAX_LAYERS),
    numHeads,
    headSize,
    intermediateSize: fields.integer('n_inner', 1, 4 * hiddenSize),
    learnedPositions: false,
    rotaryDims,
    rotaryPct: rotaryDims / headSize,
    rotaryBase: 10000,
    ropeScaling: NO_SCALING,
    useParallelResidual: fields.boolean('gpt_j_residual', false),
    hiddenAct: fields.activation('activation_function'),
    layerNormEps: fields.number('layer_norm_epsilon', 1e-5, 'a positive number', (value) => value > 0),
    attentionBias: true,
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    maxPositionEmbeddings: fields.integer('n_positions', 1, 2048, MAX_POSITIONS),
    bosTokenId: fields.token('bos_token_id', vocabSize, null),
    eosTokenIds: fields.tokens('eos_token_id', vocabSize, null),
    padTokenId: fields.token('pad_token_id', vocabSize, null),
    torchDtype: fields.dtype(),
  };
}

/**
 * Tensors that old versions saved beside the weights: causal masks and rotary frequencies, which follow from the
 * config.
 */
const LEGACY_BUFFERS = [
  /^(?:gpt_neox\.)?layers\.\d+\.attention\.(?:bias|masked_bias)$/,
  /^(?:gpt_neox\.)?(?:layers\.\d+\.attention\.)?rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$/,
  /^transformer\.h\.\d+\.attn\.(?:bias|masked_bias)$/,
];

/** rinna's own names, from before transformers knew the model; the layouts are the same. */
const OLD_LAYER_PARTS: Readonly<Record<string, string>> = {
  ln_1: 'input_layernorm',
  ln_2: 'post_attention_layernorm',
  'attn.qkv_proj': 'attention.query_key_value',
  'attn.out_proj': 'attention.dense',
  'mlp.fc_in': 'mlp.dense_h_to_4h',
  'mlp.fc_out': 'mlp.dense_4h_to_h',
};

/**
 * The name that transformers writes to disk, for any name that a GPT-NeoX checkpoint may use: without the `gpt_neox.`
 * prefix (saved from the bare model), `lm_head` for the output head, rinna's `transformer.h.*`. Unknown names come back
 * as they are.
 */
function canonicalName(name: string): string {
  const old = /^transformer\.(?:(wte)|(ln_f)|h\.(\d+)\.([a-z0-9_.]+))\.(weight|bias)$/.exec(name);
  if (old !== null) {
    const [, wte, lnF, layer, part = '', kind] = old;
    if (wte !== undefined) return `gpt_neox.embed_in.${kind}`;
    if (lnF !== undefined) return `gpt_neox.final_layer_norm.${kind}`;
    return Object.hasOwn(OLD_LAYER_PARTS, part) ? `gpt_neox.layers.${layer}.${OLD_LAYER_PARTS[part]}.${kind}` : name;
  }
  if (/^(?:embed_in|layers|final_layer_norm)\./.test(name)) return `gpt_neox.${name}`;
  return name === 'lm_head.weight' ? 'embed_out.weight' : name;
}

/** Linear weights are [out, in]. */
function weights(config: GPTNeoXConfig): Map<string, Weight> {
  const { hiddenSize: h, intermediateSize: f, vocabSize: v } = config;
  const found = new Map<string, Weight>();
  const add = (name: string, shape: readonly number[]): unknown => found.set(name, { shape, source: name });
  add('gpt_neox.embed_in.weight', [v, h]);
  for (let i = 0; i < config.numLayers; i++) {
    const layer = `gpt_neox.layers.${i}`;
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      add(`${layer}.${norm}.weight`, [h]);
      add(`${layer}.${norm}.bias`, [h]);
    }
    add(`${layer}.attention.query_key_value.weight`, [3 * h, h]);
    add(`${layer}.attention.dense.weight`, [h, h]);
    if (config.attentionBias) {
      add(`${layer}.attention.query_key_value.bias`, [3 * h]);
      add(`${layer}.attention.dense.bias`, [h]);
    }
    add(`${layer}.mlp.dense_h_to_4h.weight`, [f, h]);
    add(`${layer}.mlp.dense_h_to_4h.bias`, [f]);
    add(`${layer}.mlp.dense_4h_to_h.weight`, [h, f]);
    add(`${layer}.mlp.dense_4h_to_h.bias`, [h]);
  }
  add('gpt_neox.final_layer_norm.weight', [h]);
  add('gpt_neox.final_layer_norm.bias', [h]);
  found.set('embed_out.weight', {
    shape: [v, h],
    source: config.tieWordEmbeddings ? 'gpt_neox.embed_in.weight' : 'embed_out.weight',
  });
  return found;
}

/**
 * GPT-NeoX as transformers 4.21 to 5.x saves it (`gpt_neox`), and in the form that rinna's repositories had before
 * March 2023 (`gpt-neox`).
 */
export const GPT_NEOX: Architecture = {
  title: 'GPT-NeoX',
  modelTypes: ['gpt_neox', 'gpt-neox'],
  resolve: (fields, modelType) =>
    modelType === 'gpt-neox'
      ? checkAngles(fromOldRinna(fields), fields, 'n_positions')
      : checkAngles(fromTransformers(fields), fields, 'max_position_embeddings'),
  isBuffer: (name) => LEGACY_BUFFERS.some((pattern) => pattern.test(name)),
  canonicalName,
  weights,
};
