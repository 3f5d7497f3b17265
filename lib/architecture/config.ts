import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { get, isObject, type JsonObject } from '../formats/json';

/** Activations of the feed-forward layer, by Hugging Face's names; names of the same formula are folded into one. */
export const ACTIVATIONS = [
  'gelu',
  'gelu_new',
  'gelu_fast',
  'gelu_pytorch_tanh',
  'quick_gelu',
  'relu',
  'silu',
] as const;

/** An activation of the feed-forward layer. */
export type HiddenAct = (typeof ACTIVATIONS)[number];

/** transformers/activations.py: other names of the same formula. */
const ACTIVATION_ALIASES: Readonly<Record<string, HiddenAct>> = {
  gelu_python: 'gelu',
  gelu_python_tanh: 'gelu_new',
  gelu_accurate: 'gelu_new',
  swish: 'silu',
};

/** Everything about a GPT-NeoX model that is not a weight, with every default filled in. */
export interface GPTNeoXConfig {
  /** V: rows of the embedding. */
  readonly vocabSize: number;
  /** H: the width of the residual stream. */
  readonly hiddenSize: number;
  /** L */
  readonly numLayers: number;
  /** N */
  readonly numHeads: number;
  /** D: hiddenSize / numHeads. */
  readonly headSize: number;
  /** Width of the hidden layer of the MLPs. */
  readonly intermediateSize: number;
  /**
   * How many of a head's first dimensions rotate: int(headSize * rotaryPct). When odd, n dimensions give (n + 1) / 2
   * frequencies base^(-2k/n) and n + 1 rotated dimensions, as transformers does it.
   */
  readonly rotaryDims: number;
  /** Share of a head's dimensions that rotate. */
  readonly rotaryPct: number;
  /** Base of the rotary frequencies. */
  readonly rotaryBase: number;
  /**
   * `'linear'`: positions are divided by `factor`. `'dynamic'`: in rows that are longer than `maxPositionEmbeddings`
   * the frequencies are stretched by the row's own length, up to `factor` times that many positions.
   */
  readonly ropeScaling: { readonly type: 'default' | 'linear' | 'dynamic'; readonly factor: number };
  /** x + attention(x) + mlp(x) when true; attention first, then the mlp on its result, when false. */
  readonly useParallelResidual: boolean;
  readonly hiddenAct: HiddenAct;
  readonly layerNormEps: number;
  /** Whether the linear layers of attention have biases. */
  readonly attentionBias: boolean;
  /** Whether the output projection is the embedding. */
  readonly tieWordEmbeddings: boolean;
  /** Positions that the model was trained for, a prefix included. */
  readonly maxPositionEmbeddings: number;
  /** What an empty prompt starts from; null: there is none. */
  readonly bosTokenId: number | null;
  /** Generation ends at any of these; may be empty. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** The type that the weights are said to have; the files decide. Null when not said. */
  readonly torchDtype: 'float32' | 'float16' | 'bfloat16' | 'float64' | null;
}

export interface ResolvedConfig {
  readonly config: GPTNeoXConfig;
  /** Conflicts that were settled, and how. */
  readonly warnings: readonly string[];
}

/** Why a model that looks like GPT-NeoX is not one. */
const LOOK_ALIKES: Readonly<Record<string, string>> = {
  gpt_neox_japanese: 'GPT-NeoX-Japanese (abeja) has other attention biases and another feed-forward layer',
  gpt_neo: 'GPT-Neo has learned positions and local attention',
  gpt2: 'GPT-2 has learned positions and no rotary embedding',
  gptj: 'GPT-J shares one layer norm between attention and mlp and interleaves its rotary dimensions',
  llama: 'LLaMA has RMS norms and a gated feed-forward layer',
  stablelm: 'StableLM has another attention and feed-forward layer',
  stablelm_alpha: 'StableLM-Alpha v2 has another attention and feed-forward layer',
};

/** Far above any model; what they guard is the memory of a process that is given a damaged file. */
const MAX_SIZE = 2 ** 24;
const MAX_LAYERS = 10_000;
const MAX_POSITIONS = 2 ** 20;
const MAX_ROTARY_FACTOR = 1_000_000;
/** Angles of a model: positions times rotated dimensions. They are computed when it is loaded. */
const MAX_ANGLES = 2 ** 27;

/**
 * Completes and checks the content of a config.json of any GPT-NeoX generation: transformers 4.21 to 5.x, and the
 * "gpt-neox" form that rinna's repositories had before March 2023.
 * @param path named in messages
 * @throws NEOX_UNSUPPORTED for another kind of model, NEOX_BAD_CONFIG for a value that cannot be right
 */
export function resolveConfig(json: unknown, path: string): ResolvedConfig {
  if (!isObject(json))
    throw new NeoXPrefixError('NEOX_BAD_CONFIG', `The configuration ${path} is not usable: expected a JSON object`, {
      path,
    });
  const type = get(json, 'model_type');
  const warnings: string[] = [];
  if (isObject(get(json, 'quantization_config'))) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The model of ${path} is quantised (quantization_config), which is not supported`,
      {
        path,
        hint: 'use the checkpoint that it was made from',
      },
    );
  }
  const fields = new Fields(json, path, warnings);
  if (type === 'gpt_neox')
    return { config: checkAngles(fromTransformers(fields), fields, 'max_position_embeddings'), warnings };
  if (type === 'gpt-neox') return { config: checkAngles(fromOldRinna(fields), fields, 'n_positions'), warnings };
  const reason = typeof type === 'string' && Object.hasOwn(LOOK_ALIKES, type) ? `: ${LOOK_ALIKES[type]}` : '';
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `The model of ${path} is of type ${show(type)}, expected 'gpt_neox'${reason}`,
    {
      path,
      hint: 'only GPT-NeoX models are supported (rinna/japanese-gpt-neox-*, EleutherAI/pythia-*, cyberagent/open-calm-*, ...)',
    },
  );
}

/** Typed access to the keys of one config.json; a missing or null key gives the default. */
class Fields {
  constructor(
    readonly json: JsonObject,
    private readonly path: string,
    readonly warnings: string[],
    private readonly prefix = '',
  ) {}

  bad(key: string, expected: string, actual: unknown): NeoXPrefixError {
    const message = `Expected ${expected} for ${this.prefix}${key} in ${this.path} but found ${actual === undefined ? 'nothing' : show(actual)}`;
    return new NeoXPrefixError('NEOX_BAD_CONFIG', message, { path: this.path });
  }

  unsupported(key: string, actual: unknown, supported: string): NeoXPrefixError {
    const message = `${this.prefix}${key} ${show(actual)} in ${this.path} is not supported; supported: ${supported}`;
    return new NeoXPrefixError('NEOX_UNSUPPORTED', message, { path: this.path });
  }

  has(key: string): boolean {
    const value = get(this.json, key);
    return value !== undefined && value !== null;
  }

  integer(key: string, min: number, fallback?: number, max = MAX_SIZE): number {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      throw this.bad(key, `an integer between ${min} and ${max}`, value);
    }
    return value;
  }

  number(key: string, fallback: number, expected: string, valid: (value: number) => boolean): number {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || !valid(value)) throw this.bad(key, expected, value);
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'boolean') throw this.bad(key, 'true or false', value);
    return value;
  }

  section(key: string): Fields | undefined {
    const value = get(this.json, key) ?? undefined;
    if (value === undefined) return undefined;
    if (!isObject(value)) throw this.bad(key, 'an object', value);
    return new Fields(value, this.path, this.warnings, `${this.prefix}${key}.`);
  }

  activation(key: string): HiddenAct {
    const value = get(this.json, key) ?? 'gelu';
    const name =
      typeof value === 'string' && Object.hasOwn(ACTIVATION_ALIASES, value) ? ACTIVATION_ALIASES[value] : value;
    const found = ACTIVATIONS.find((known) => known === name);
    if (found === undefined)
      throw this.unsupported(key, value, [...ACTIVATIONS, ...Object.keys(ACTIVATION_ALIASES)].join(', '));
    return found;
  }

  token(key: string, vocabSize: number, fallback: number | null): number | null {
    return this.tokens(key, vocabSize, fallback)[0] ?? null;
  }

  /**
   * Ids outside of the vocabulary are left out with a warning: real files have them, for a tokenizer that was never
   * used.
   */
  tokens(key: string, vocabSize: number, fallback: number | null): number[] {
    const stated = get(this.json, key);
    const value = stated === undefined ? fallback : stated;
    if (value === null) return [];
    const ids = Array.isArray(value) ? (value as unknown[]) : [value];
    return ids.filter((id): id is number => {
      if (typeof id !== 'number' || !Number.isInteger(id)) throw this.bad(key, 'token ids', id);
      const inside = id >= 0 && id < vocabSize;
      if (!inside && stated !== undefined)
        this.warnings.push(`${key} ${id} is ignored: the vocabulary has ${vocabSize} tokens`);
      return inside;
    });
  }

  dtype(): GPTNeoXConfig['torchDtype'] {
    const value = get(this.json, 'dtype') ?? get(this.json, 'torch_dtype') ?? null;
    const name = typeof value === 'string' ? value.replace(/^torch\./, '') : value;
    if (name === null || name === 'float32' || name === 'float16' || name === 'bfloat16' || name === 'float64')
      return name;
    throw this.unsupported(
      get(this.json, 'dtype') === undefined ? 'torch_dtype' : 'dtype',
      value,
      'float32, float16, bfloat16, float64',
    );
  }
}

function fromTransformers(fields: Fields): GPTNeoXConfig {
  const hiddenSize = fields.integer('hidden_size', 1);
  const numHeads = fields.integer('num_attention_heads', 1);
  const vocabSize = fields.integer('vocab_size', 1);
  const headSize = divide(fields, 'hidden_size', hiddenSize, 'num_attention_heads', numHeads);
  return {
    vocabSize,
    hiddenSize,
    numLayers: fields.integer('num_hidden_layers', 1, undefined, MAX_LAYERS),
    numHeads,
    headSize,
    intermediateSize: fields.integer('intermediate_size', 1),
    ...resolveRotary(fields, headSize),
    useParallelResidual: fields.boolean('use_parallel_residual', true),
    hiddenAct: fields.activation('hidden_act'),
    layerNormEps: fields.number('layer_norm_eps', 1e-5, 'a positive number', (value) => value > 0),
    attentionBias: fields.boolean('attention_bias', true),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    maxPositionEmbeddings: fields.integer('max_position_embeddings', 1, 2048, MAX_POSITIONS),
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
  const headSize = divide(fields, 'n_embd', hiddenSize, 'n_head', numHeads);
  const rotaryDims = fields.integer('rotary_dim', 2, headSize);
  if (rotaryDims > headSize || rotaryDims % 2 !== 0)
    throw fields.bad('rotary_dim', `an even number up to ${headSize}`, rotaryDims);
  if (fields.boolean('lm_head_bias', false)) throw fields.unsupported('lm_head_bias', true, 'false');
  return {
    vocabSize,
    hiddenSize,
    numLayers: fields.integer('n_layer', 1, undefined, MAX_LAYERS),
    numHeads,
    headSize,
    intermediateSize: fields.integer('n_inner', 1, 4 * hiddenSize),
    rotaryDims,
    rotaryPct: rotaryDims / headSize,
    rotaryBase: 10000,
    ropeScaling: { type: 'default', factor: 1 },
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

function checkAngles(config: GPTNeoXConfig, fields: Fields, key: string): GPTNeoXConfig {
  const { maxPositionEmbeddings, rotaryDims } = config;
  if (maxPositionEmbeddings * rotaryDims <= MAX_ANGLES) return config;
  throw fields.bad(
    key,
    `at most ${Math.floor(MAX_ANGLES / rotaryDims)} positions with ${rotaryDims} rotated dimensions`,
    maxPositionEmbeddings,
  );
}

function divide(fields: Fields, key: string, value: number, byKey: string, by: number): number {
  if (value % by !== 0) throw fields.bad(key, `a multiple of ${byKey} (${by})`, value);
  return value / by;
}

type Rotary = Pick<GPTNeoXConfig, 'rotaryDims' | 'rotaryPct' | 'rotaryBase' | 'ropeScaling'>;

/**
 * The rotary settings have had three spellings. As in transformers 5, rope_parameters (or rope_scaling, its older name)
 * comes first, then rotary_pct and rotary_emb_base; partial_rotary_factor and rope_theta at the top level are read
 * last.
 */
function resolveRotary(fields: Fields, headSize: number): Rotary {
  const scaling = fields.section('rope_scaling');
  const rope =
    scaling !== undefined && Object.keys(scaling.json).length > 0 ? scaling : fields.section('rope_parameters');
  const rotaryPct = firstOf(
    [
      [rope, 'partial_rotary_factor'],
      [fields, 'rotary_pct'],
      [fields, 'partial_rotary_factor'],
    ],
    (from, key) => from.number(key, 0, 'a number above 0 and at most 1', (value) => value > 0 && value <= 1),
    0.25,
    fields.warnings,
  );
  const rotaryBase = firstOf(
    [
      [rope, 'rope_theta'],
      [fields, 'rotary_emb_base'],
      [fields, 'rope_theta'],
    ],
    (from, key) => from.number(key, 0, 'a number above 1', (value) => value > 1),
    10000,
    fields.warnings,
  );
  const rotaryDims = Math.trunc(headSize * rotaryPct);
  if (rotaryDims < 1 || rotaryDims + (rotaryDims % 2) > headSize) {
    throw fields.bad(
      'rotary_pct',
      `a share of the head size (${headSize}) that leaves pairs of dimensions to rotate`,
      rotaryPct,
    );
  }
  return { rotaryDims, rotaryPct, rotaryBase, ropeScaling: resolveScaling(rope, rotaryDims) };
}

/** The first source that says something; a later one that says something else is worth a warning. */
function firstOf(
  sources: readonly (readonly [Fields | undefined, string])[],
  read: (from: Fields, key: string) => number,
  fallback: number,
  warnings: string[],
): number {
  let chosen: { key: string; value: number } | undefined;
  for (const [i, [from, key]] of sources.entries()) {
    if (from === undefined || !from.has(key)) continue;
    const value = read(from, key);
    if (chosen === undefined) {
      chosen = { key, value };
      // transformers 4 and 5 read the last source only in the configurations of other models.
      if (i === sources.length - 1 && value !== fallback)
        warnings.push(
          `${key} ${value} is used; transformers does not read it outside of rope_parameters and takes ${fallback}`,
        );
    } else if (chosen.value !== value) warnings.push(`${chosen.key} ${chosen.value} is used; ${key} says ${value}`);
  }
  return chosen?.value ?? fallback;
}

function isFactor(value: number): boolean {
  return value >= 1 && value <= MAX_ROTARY_FACTOR;
}

function resolveScaling(rope: Fields | undefined, rotaryDims: number): GPTNeoXConfig['ropeScaling'] {
  if (rope === undefined) return { type: 'default', factor: 1 };
  const key = rope.has('rope_type') ? 'rope_type' : 'type';
  const type = get(rope.json, key) ?? 'default';
  if (type === 'default') return { type, factor: 1 };
  if (type !== 'linear' && type !== 'dynamic') throw rope.unsupported(key, type, 'default, linear, dynamic');
  if (type === 'dynamic' && rotaryDims < 3)
    throw rope.unsupported(key, type, 'dynamic only with at least 3 rotary dimensions');
  if (!rope.has('factor')) throw rope.bad('factor', 'a number of at least 1', undefined);
  return { type, factor: rope.number('factor', 0, `a number from 1 to ${MAX_ROTARY_FACTOR}`, isFactor) };
}
