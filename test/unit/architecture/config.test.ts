import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { resolveConfig } from '../../../lib/architecture/architectures';
import { maxPositions } from '../../../lib/architecture/rope';
import { isNeoXPrefixError, type NeoXPrefixError } from '../../../lib/base/errors';

/** The smallest config.json of transformers 4.21 to 4.30. */
const BASE = {
  model_type: 'gpt_neox',
  vocab_size: 100,
  hidden_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  intermediate_size: 256,
};

function refusal(json: unknown): NeoXPrefixError {
  try {
    resolveConfig(json, 'DIR/config.json');
  } catch (error) {
    if (isNeoXPrefixError(error)) return error;
    throw error;
  }
  throw new Error('expected an error');
}

const resolved = (extra: object): ReturnType<typeof resolveConfig>['config'] =>
  resolveConfig({ ...BASE, ...extra }, 'c').config;

test('defaults are those of transformers', () => {
  expect(resolveConfig(BASE, 'c')).toEqual({
    config: {
      architecture: 'gpt_neox',
      vocabSize: 100,
      hiddenSize: 64,
      numLayers: 3,
      numHeads: 4,
      headSize: 16,
      intermediateSize: 256,
      learnedPositions: false,
      rotaryDims: 4,
      rotaryPct: 0.25,
      rotaryBase: 10000,
      ropeScaling: { type: 'default', factor: 1 },
      useParallelResidual: true,
      hiddenAct: 'gelu',
      layerNormEps: 1e-5,
      attentionBias: true,
      tieWordEmbeddings: false,
      maxPositionEmbeddings: 2048,
      bosTokenId: 0,
      eosTokenIds: [2],
      padTokenId: null,
      torchDtype: null,
    },
    warnings: [],
  });
});

describe('rotary settings of every generation', () => {
  test.each([
    ['4.21', { rotary_pct: 1, rotary_emb_base: 5000 }, 1, 5000],
    [
      '4.46, all four and equal',
      { rotary_pct: 0.5, partial_rotary_factor: 0.5, rotary_emb_base: 7000, rope_theta: 7000 },
      0.5,
      7000,
    ],
    ['5.x', { rope_parameters: { rope_type: 'default', rope_theta: 9000, partial_rotary_factor: 0.75 } }, 0.75, 9000],
    [
      '5.x with only a type',
      { rope_parameters: { rope_type: 'default' }, rotary_pct: 1, rotary_emb_base: 5000 },
      1,
      5000,
    ],
    ['top level alone, with the defaults', { partial_rotary_factor: 0.25, rope_theta: 10000 }, 0.25, 10000],
    ['nulls', { rope_scaling: null, rope_parameters: null, rotary_pct: null }, 0.25, 10000],
  ])('%s', (_, extra, pct, base) => {
    const { config, warnings } = resolveConfig({ ...BASE, ...extra }, 'c');
    expect([config.rotaryPct, config.rotaryBase, warnings]).toEqual([pct, base, []]);
    expect(config.rotaryDims).toBe(Math.trunc(16 * pct));
  });

  test('what transformers reads from no such place is used with a warning', () => {
    const { config, warnings } = resolveConfig({ ...BASE, partial_rotary_factor: 0.5, rope_theta: 7000 }, 'c');
    expect([config.rotaryPct, config.rotaryBase]).toEqual([0.5, 7000]);
    expect(warnings).toEqual([
      'partial_rotary_factor 0.5 is used; transformers does not read it outside of rope_parameters and takes 0.25',
      'rope_theta 7000 is used; transformers does not read it outside of rope_parameters and takes 10000',
    ]);
    const one = resolveConfig({ ...BASE, rotary_pct: 1, rope_theta: 7000 }, 'c');
    expect([one.config.rotaryPct, one.config.rotaryBase, one.warnings.length]).toEqual([1, 7000, 1]);
  });

  test('a conflict is settled as transformers settles it, with a warning', () => {
    const { config, warnings } = resolveConfig(
      {
        ...BASE,
        rope_parameters: { partial_rotary_factor: 1 },
        rotary_pct: 0.25,
        rope_theta: 5000,
        rotary_emb_base: 6000,
      },
      'c',
    );
    expect([config.rotaryPct, config.rotaryBase]).toEqual([1, 6000]);
    expect(warnings).toEqual([
      'partial_rotary_factor 1 is used; rotary_pct says 0.25',
      'rotary_emb_base 6000 is used; rope_theta says 5000',
    ]);
  });

  test('the number of rotated dimensions is truncated, and may be odd', () => {
    expect(resolved({ hidden_size: 48, rotary_pct: 0.25 }).rotaryDims).toBe(3);
    expect(resolved({ hidden_size: 40, rotary_pct: 0.29 }).rotaryDims).toBe(2);
  });

  test.each([
    ['rope_scaling, type', { rope_scaling: { type: 'linear', factor: 2 } }, { type: 'linear', factor: 2 }],
    ['rope_scaling, rope_type', { rope_scaling: { rope_type: 'dynamic', factor: 4 } }, { type: 'dynamic', factor: 4 }],
    ['rope_parameters', { rope_parameters: { rope_type: 'linear', factor: 2.5 } }, { type: 'linear', factor: 2.5 }],
    [
      'an empty rope_scaling',
      { rope_scaling: {}, rope_parameters: { rope_type: 'linear', factor: 3 } },
      { type: 'linear', factor: 3 },
    ],
    [
      'yarn of transformers 4, without original positions',
      { max_position_embeddings: 64, rope_scaling: { type: 'yarn', factor: 4 } },
      {
        type: 'yarn',
        factor: 4,
        originalPositions: 64,
        attentionFactor: 0.1 * Math.log(4) + 1,
        betaFast: 32,
        betaSlow: 1,
        truncate: true,
      },
    ],
    [
      'longrope, whose factor is that of the positions',
      {
        max_position_embeddings: 64,
        rope_parameters: {
          rope_type: 'longrope',
          original_max_position_embeddings: 16,
          short_factor: [1, 2],
          long_factor: [3, 4],
        },
      },
      {
        type: 'longrope',
        factor: 4,
        originalPositions: 16,
        attentionFactor: Math.sqrt(1.5),
        shortFactor: [1, 2],
        longFactor: [3, 4],
      },
    ],
  ])('scaling by %s', (_, extra, scaling) => expect(resolved(extra).ropeScaling).toEqual(scaling));
});

test.each([
  [{}, 2048],
  [{ max_position_embeddings: 64, rope_scaling: { type: 'linear', factor: 2 } }, 128],
  [{ max_position_embeddings: 64, rope_scaling: { type: 'dynamic', factor: 2.5 } }, 160],
  [{ max_position_embeddings: 64, rope_scaling: { type: 'yarn', factor: 2 } }, 128],
  [{ max_position_embeddings: 64, rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 8 } }, 64],
  // As many angles as are computed at most.
  [{ rope_scaling: { type: 'linear', factor: 1e6 } }, 2 ** 20],
])('%j: rows of up to %i positions', (extra, positions) => expect(maxPositions(resolved(extra))).toBe(positions));

test.each([
  ['gelu', 'gelu'],
  ['gelu_python', 'gelu'],
  ['gelu_new', 'gelu_new'],
  ['gelu_accurate', 'gelu_new'],
  ['gelu_python_tanh', 'gelu_new'],
  ['gelu_fast', 'gelu_fast'],
  ['gelu_pytorch_tanh', 'gelu_pytorch_tanh'],
  ['quick_gelu', 'quick_gelu'],
  ['relu', 'relu'],
  ['swish', 'silu'],
  ['mish', 'mish'],
  ['relu2', 'relu2'],
  ['laplace', 'laplace'],
])('activation %s is %s', (given, found) => expect(resolved({ hidden_act: given }).hiddenAct).toBe(found));

test('token ids: a list, null, and ids outside of the vocabulary', () => {
  expect(resolved({ eos_token_id: [2, 3] }).eosTokenIds).toEqual([2, 3]);
  expect(resolved({ eos_token_id: null, bos_token_id: null })).toMatchObject({ eosTokenIds: [], bosTokenId: null });
  const { config, warnings } = resolveConfig({ ...BASE, eos_token_id: [3, 100], pad_token_id: -1 }, 'c');
  expect(config).toMatchObject({ eosTokenIds: [3], padTokenId: null });
  expect(warnings).toEqual([
    'eos_token_id 100 is ignored: the vocabulary has 100 tokens',
    'pad_token_id -1 is ignored: the vocabulary has 100 tokens',
  ]);
});

test.each([
  [{ torch_dtype: 'float16' }, 'float16'],
  [{ dtype: 'bfloat16' }, 'bfloat16'],
  [{ torch_dtype: 'torch.float32' }, 'float32'],
])('%j', (extra, dtype) => expect(resolved(extra).torchDtype).toBe(dtype));

test("rinna's own format of 2022", () => {
  const json = {
    model_type: 'gpt-neox',
    vocab_size: 44416,
    n_embd: 768,
    n_layer: 12,
    n_head: 12,
    n_inner: null,
    rotary_dim: null,
    n_positions: 2048,
  };
  const { config } = resolveConfig(
    { ...json, gpt_j_residual: false, activation_function: 'gelu', bos_token_id: 2, eos_token_id: 3 },
    'c',
  );
  expect(config).toMatchObject({
    intermediateSize: 3072,
    rotaryDims: 64,
    rotaryPct: 1,
    rotaryBase: 10000,
    useParallelResidual: false,
    eosTokenIds: [3],
  });
  expect(resolveConfig({ ...json, rotary_dim: 32, gpt_j_residual: true }, 'c').config).toMatchObject({
    rotaryDims: 32,
    useParallelResidual: true,
  });
  expect(refusal({ ...json, lm_head_bias: true }).message).toContain(
    'lm_head_bias true in DIR/config.json is not supported',
  );
  expect(refusal({ ...json, rotary_dim: 65 }).message).toContain(
    'Expected an even number up to 64 for rotary_dim in DIR/config.json but found 65',
  );
});

describe('GPT-2', () => {
  test('defaults are those of transformers', () => {
    expect(resolveConfig({ model_type: 'gpt2' }, 'c')).toEqual({
      config: {
        architecture: 'gpt2',
        vocabSize: 50257,
        hiddenSize: 768,
        numLayers: 12,
        numHeads: 12,
        headSize: 64,
        intermediateSize: 3072,
        learnedPositions: true,
        rotaryDims: 0,
        rotaryPct: 0,
        rotaryBase: 10000,
        ropeScaling: { type: 'default', factor: 1 },
        useParallelResidual: false,
        hiddenAct: 'gelu_new',
        layerNormEps: 1e-5,
        attentionBias: true,
        tieWordEmbeddings: true,
        maxPositionEmbeddings: 1024,
        bosTokenId: 50256,
        eosTokenIds: [50256],
        padTokenId: null,
        torchDtype: null,
      },
      warnings: [],
    });
  });

  test.each([
    ['scale_attn_weights', false, 'true'],
    ['scale_attn_by_inverse_layer_idx', true, 'false'],
    ['add_cross_attention', true, 'false'],
  ])('%s: %s is refused', (key, value, supported) => {
    const error = refusal({ model_type: 'gpt2', [key]: value });
    expect(error.code).toBe('NEOX_UNSUPPORTED');
    expect(error.message).toBe(`${key} ${value} in DIR/config.json is not supported; supported: ${supported}`);
  });

  test('sizes are checked', () => {
    expect(refusal({ model_type: 'gpt2', n_embd: 100 }).message).toContain(
      'Expected a multiple of n_head (12) for n_embd',
    );
    expect(refusal({ model_type: 'gpt2', n_positions: 0 }).message).toContain('for n_positions in DIR/config.json');
  });
});

const GOLDEN = join(__dirname, '../../fixtures/golden');

test.each(readdirSync(GOLDEN).filter((name) => existsSync(join(GOLDEN, name, 'config.json'))))(
  'transformers wrote the config of %s',
  (name) => {
    const path = join(GOLDEN, name, 'config.json');
    const { config, warnings } = resolveConfig(JSON.parse(readFileSync(path, 'utf8')), path);
    expect(warnings).toEqual([]);
    expect(config.headSize * config.numHeads).toBe(config.hiddenSize);
  },
);

describe('another kind of model is NEOX_UNSUPPORTED, with the reason', () => {
  test.each([
    ['gpt_neox_japanese', 'abeja'],
    ['gpt_neo', 'local attention'],
    ['gptj', 'interleaves'],
    ['llama', 'RMS norms'],
    ['bert', "of type 'bert', expected 'gpt_neox' or 'gpt2'"],
    ['toString', "of type 'toString', expected"],
  ])('%s', (type, reason) => {
    const error = refusal({ ...BASE, model_type: type });
    expect(error.code).toBe('NEOX_UNSUPPORTED');
    expect(error.message).toContain(reason);
  });

  test('no type, or a quantised model', () => {
    expect(refusal({}).message).toContain("of type undefined, expected 'gpt_neox'");
    const quantised = (settings: object): NeoXPrefixError => refusal({ ...BASE, quantization_config: settings });
    expect(quantised({}).message).toContain('is quantised (quantization_config)');
    expect(quantised({ load_in_8bit: true }).message).toContain("is quantised by 'bitsandbytes'");
    for (const method of ['gptq', 'awq', 'bitsandbytes']) {
      const error = quantised({ quant_method: method });
      expect(error.code).toBe('NEOX_UNSUPPORTED');
      expect(error.message).toContain(`is quantised by '${method}' (quantization_config)`);
      expect(error.hint).toContain("use the checkpoint that it was made from; dtype: 'int8'");
    }
  });
});

describe('a bad value is NEOX_BAD_CONFIG with key, expected and actual', () => {
  test.each<[object, string]>([
    [
      { hidden_size: undefined },
      'Expected an integer between 1 and 16777216 for hidden_size in DIR/config.json but found nothing',
    ],
    [{ hidden_size: '64' }, "for hidden_size in DIR/config.json but found '64'"],
    [
      { hidden_size: 66 },
      'Expected a multiple of num_attention_heads (4) for hidden_size in DIR/config.json but found 66',
    ],
    [{ num_hidden_layers: 0 }, 'an integer between 1 and 10000 for num_hidden_layers in DIR/config.json but found 0'],
    [{ num_hidden_layers: 2_000_000_000 }, 'for num_hidden_layers in DIR/config.json but found 2000000000'],
    [{ vocab_size: 1e300 }, 'for vocab_size'],
    [{ num_attention_heads: 1.5 }, 'for num_attention_heads in DIR/config.json but found 1.5'],
    [{ rotary_pct: 0 }, 'Expected a number above 0 and at most 1 for rotary_pct in DIR/config.json but found 0'],
    [{ rotary_pct: 0.01 }, 'a share of the head size (16) that leaves pairs'],
    [{ hidden_size: 60, rotary_pct: 1 }, 'a share of the head size (15)'],
    [{ rotary_emb_base: 'big' }, 'Expected a number above 1 for rotary_emb_base'],
    [{ rope_parameters: 3 }, 'Expected an object for rope_parameters in DIR/config.json but found 3'],
    [
      { rope_parameters: { partial_rotary_factor: 2 } },
      'for rope_parameters.partial_rotary_factor in DIR/config.json but found 2',
    ],
    [
      { rope_scaling: { type: 'linear' } },
      'Expected a number of at least 1 for rope_scaling.factor in DIR/config.json but found nothing',
    ],
    [{ rope_scaling: { type: 'dynamic', factor: 0.5 } }, 'for rope_scaling.factor in DIR/config.json but found 0.5'],
    [
      { rope_scaling: { type: 'yarn', factor: 2, attention_factor: 0 } },
      'Expected a positive number for rope_scaling.attention_factor in DIR/config.json but found 0',
    ],
    [
      { rope_scaling: { type: 'llama3', factor: 2 } },
      'Expected a positive number for rope_scaling.low_freq_factor in DIR/config.json but found nothing',
    ],
    [
      { rope_scaling: { type: 'llama3', factor: 2, low_freq_factor: 4, high_freq_factor: 4 } },
      'Expected a number above low_freq_factor (4) for rope_scaling.high_freq_factor',
    ],
    [
      { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1, 2] } },
      'Expected 2 positive numbers for rope_scaling.short_factor',
    ],
    [
      { rope_scaling: { type: 'longrope', short_factor: [1, 2], long_factor: [1, 0] } },
      'Expected 2 positive numbers for rope_scaling.long_factor',
    ],
    [{ layer_norm_eps: 0 }, 'Expected a positive number for layer_norm_eps'],
    [
      { use_parallel_residual: 'yes' },
      "Expected true or false for use_parallel_residual in DIR/config.json but found 'yes'",
    ],
    [{ eos_token_id: '</s>' }, "Expected token ids for eos_token_id in DIR/config.json but found '</s>'"],
    [{ max_position_embeddings: -1 }, 'for max_position_embeddings'],
  ])('%j', (extra, message) => {
    const error = refusal({ ...BASE, ...extra });
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ code: 'NEOX_BAD_CONFIG', path: 'DIR/config.json' });
  });

  test('something that is no object', () => expect(refusal([]).message).toContain('expected a JSON object'));

  test.each<[object, string]>([
    [{ hidden_act: 'swiglu' }, "hidden_act 'swiglu' in DIR/config.json is not supported; supported: gelu, gelu_new"],
    [
      { hidden_act: 'prelu' },
      "hidden_act 'prelu' in DIR/config.json is not supported; supported: activations without weights; it has a weight",
    ],
    [{ hidden_act: 'constructor' }, "hidden_act 'constructor'"],
    [
      { rope_scaling: { rope_type: 'mrope', factor: 2 } },
      "rope_scaling.rope_type 'mrope' in DIR/config.json is not supported; supported: default, linear, dynamic, yarn,",
    ],
    [{ hidden_size: 48, rope_scaling: { type: 'yarn', factor: 2 } }, 'yarn only with an even number'],
    [{ torch_dtype: 'int8' }, "torch_dtype 'int8' in DIR/config.json is not supported"],
  ])('%j is NEOX_UNSUPPORTED', (extra, message) => {
    const error = refusal({ ...BASE, ...extra });
    expect(error.message).toContain(message);
    expect(error.code).toBe('NEOX_UNSUPPORTED');
  });
});
