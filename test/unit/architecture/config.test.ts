import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { resolveConfig } from '../../../lib/architecture/config';
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
      vocabSize: 100,
      hiddenSize: 64,
      numLayers: 3,
      numHeads: 4,
      headSize: 16,
      intermediateSize: 256,
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
  ])('scaling by %s', (_, extra, scaling) => expect(resolved(extra).ropeScaling).toEqual(scaling));
});

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
    ['gpt2', 'learned positions'],
    ['gptj', 'interleaves'],
    ['llama', 'RMS norms'],
    ['bert', "of type 'bert', expected 'gpt_neox'"],
    ['toString', "of type 'toString', expected"],
  ])('%s', (type, reason) => {
    const error = refusal({ ...BASE, model_type: type });
    expect(error.code).toBe('NEOX_UNSUPPORTED');
    expect(error.message).toContain(reason);
  });

  test('no type, or a quantised model', () => {
    expect(refusal({}).message).toContain("of type undefined, expected 'gpt_neox'");
    expect(refusal({ ...BASE, quantization_config: { quant_method: 'gptq' } }).message).toContain('is quantised');
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
    [{ hidden_act: 'mish' }, "hidden_act 'mish' in DIR/config.json is not supported; supported: gelu, gelu_new"],
    [{ hidden_act: 'constructor' }, "hidden_act 'constructor'"],
    [
      { rope_scaling: { rope_type: 'yarn', factor: 2 } },
      "rope_scaling.rope_type 'yarn' in DIR/config.json is not supported; supported: default, linear, dynamic",
    ],
    [{ torch_dtype: 'int8' }, "torch_dtype 'int8' in DIR/config.json is not supported"],
  ])('%j is NEOX_UNSUPPORTED', (extra, message) => {
    const error = refusal({ ...BASE, ...extra });
    expect(error.message).toContain(message);
    expect(error.code).toBe('NEOX_UNSUPPORTED');
  });
});
