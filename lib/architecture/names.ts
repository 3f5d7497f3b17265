import type { GPTNeoXConfig } from './config';

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

/** True for a tensor that is no weight and can be left out. */
export function isLegacyBuffer(name: string): boolean {
  return LEGACY_BUFFERS.some((pattern) => pattern.test(name));
}

/**
 * The name that transformers writes to disk, for any name that a GPT-NeoX checkpoint may use: without the `gpt_neox.`
 * prefix (saved from the bare model), `lm_head` for the output head, rinna's `transformer.h.*`. Unknown names come back
 * as they are.
 */
export function canonicalName(name: string): string {
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

/** The name of every weight of a model, with its shape; Linear weights are [out, in]. */
export function expectedShapes(config: GPTNeoXConfig): Map<string, readonly number[]> {
  const { hiddenSize: h, intermediateSize: f, vocabSize: v } = config;
  const shapes = new Map<string, readonly number[]>();
  shapes.set('gpt_neox.embed_in.weight', [v, h]);
  for (let i = 0; i < config.numLayers; i++) {
    const add = (part: string, shape: readonly number[]): unknown => shapes.set(`gpt_neox.layers.${i}.${part}`, shape);
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      add(`${norm}.weight`, [h]);
      add(`${norm}.bias`, [h]);
    }
    add('attention.query_key_value.weight', [3 * h, h]);
    add('attention.dense.weight', [h, h]);
    if (config.attentionBias) {
      add('attention.query_key_value.bias', [3 * h]);
      add('attention.dense.bias', [h]);
    }
    add('mlp.dense_h_to_4h.weight', [f, h]);
    add('mlp.dense_h_to_4h.bias', [f]);
    add('mlp.dense_4h_to_h.weight', [h, f]);
    add('mlp.dense_4h_to_h.bias', [h]);
  }
  shapes.set('gpt_neox.final_layer_norm.weight', [h]);
  shapes.set('gpt_neox.final_layer_norm.bias', [h]);
  shapes.set('embed_out.weight', [v, h]);
  return shapes;
}
