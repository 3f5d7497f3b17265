import { expectedShapes, resolveConfig } from '../../../lib/architecture/architectures';
import { type GPTNeoXConfig } from '../../../lib/architecture/config';
import type { TensorEntry } from '../../../lib/formats/tensor';
import { checkExpressible, incompatibilities, startAndEndIds } from '../../../lib/fastertransformer/compatibility';
import { planBaseModel, planPrefix, type FilePlan } from '../../../lib/fastertransformer/file-plan';

const SMALL = {
  model_type: 'gpt_neox',
  vocab_size: 20,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 96,
};
const FITTING = {
  hidden_act: 'gelu_fast',
  layer_norm_eps: 1e-5,
  rotary_emb_base: 10000,
  rotary_pct: 0.25,
  bos_token_id: 1,
  eos_token_id: 2,
};

function configOf(changes: object): GPTNeoXConfig {
  return resolveConfig({ ...SMALL, ...FITTING, ...changes }, 'config.json').config;
}

function tensorsOf(config: GPTNeoXConfig): Map<string, TensorEntry> {
  return new Map(
    [...expectedShapes(config)].map(([name, shape]) => [
      name,
      { name, file: 'x', dtype: 'F32', shape, offset: 0, byteLength: 0 },
    ]),
  );
}

function plan(
  changes: object,
  ranks: number,
  rule: 'runtime' | 'huggingface_converter' = 'runtime',
): Map<string, FilePlan> {
  const config = configOf(changes);
  return new Map(planBaseModel(config, tensorsOf(config), ranks, rule).map((file) => [file.name, file]));
}

describe('the files of a base model', () => {
  it('are 12 a layer and 4, with one of each split weight a GPU', () => {
    expect(plan({ use_parallel_residual: false }, 1).size).toBe(4 + 2 * 12);
    expect(plan({ use_parallel_residual: false }, 2).size).toBe(4 + 2 * (12 + 6));
    expect(plan({ use_parallel_residual: true }, 2).size).toBe(4 + 2 * (13 + 6));
  });

  it('have the sizes that FasterTransformer reads', () => {
    const files = plan({}, 2);
    const sizes = Object.fromEntries(
      [...files].filter(([name]) => !name.includes('layers.1')).map(([name, { elements }]) => [name, elements]),
    );
    expect(sizes).toEqual({
      'model.wte.bin': 20 * 64,
      'model.layers.0.input_layernorm.weight.bin': 64,
      'model.layers.0.input_layernorm.bias.bin': 64,
      'model.layers.0.post_attention_layernorm.weight.bin': 64,
      'model.layers.0.post_attention_layernorm.bias.bin': 64,
      'model.layers.0.attention.query_key_value.weight.0.bin': 64 * 96,
      'model.layers.0.attention.query_key_value.weight.1.bin': 64 * 96,
      'model.layers.0.attention.query_key_value.bias.0.bin': 96,
      'model.layers.0.attention.query_key_value.bias.1.bin': 96,
      'model.layers.0.attention.dense.weight.0.bin': 32 * 64,
      'model.layers.0.attention.dense.weight.1.bin': 32 * 64,
      'model.layers.0.attention.dense.bias.bin': 64,
      'model.layers.0.mlp.dense_h_to_4h.weight.0.bin': 64 * 48,
      'model.layers.0.mlp.dense_h_to_4h.weight.1.bin': 64 * 48,
      'model.layers.0.mlp.dense_h_to_4h.bias.0.bin': 48,
      'model.layers.0.mlp.dense_h_to_4h.bias.1.bin': 48,
      'model.layers.0.mlp.dense_4h_to_h.weight.0.bin': 48 * 64,
      'model.layers.0.mlp.dense_4h_to_h.weight.1.bin': 48 * 64,
      'model.layers.0.mlp.dense_4h_to_h.bias.bin': 64,
      'model.layers.0.mlp.attention.bias.sum.bin': 64,
      'model.final_layernorm.weight.bin': 64,
      'model.final_layernorm.bias.bin': 64,
      'model.lm_head.weight.bin': 20 * 64,
    });
  });

  it.each([
    [true, 'runtime', 2],
    [false, 'runtime', 1],
    [true, 'huggingface_converter', 2],
    [false, 'huggingface_converter', 2],
  ] as const)('divide the biases (parallel residual %s, rule %s) by %i', (parallel, rule, divisor) => {
    const files = plan({ use_parallel_residual: parallel }, 2, rule);
    expect(files.get('model.layers.1.attention.dense.bias.bin')?.divisor).toBe(divisor);
    expect(files.get('model.layers.1.mlp.dense_4h_to_h.bias.bin')?.divisor).toBe(divisor);
    expect(files.get('model.layers.1.attention.query_key_value.bias.0.bin')?.divisor).toBe(1);
  });

  it('hold zeros where the model has no attention biases', () => {
    const files = plan({ attention_bias: false, use_parallel_residual: true }, 2);
    expect(files.get('model.layers.0.attention.dense.bias.bin')).toMatchObject({
      layout: 'zeros',
      sources: [],
      elements: 64,
    });
    expect(files.get('model.layers.0.attention.query_key_value.bias.1.bin')).toMatchObject({
      layout: 'zeros',
      sources: [],
      elements: 96,
    });
    const sum = files.get('model.layers.0.mlp.attention.bias.sum.bin');
    expect(sum?.sources.map(({ name }) => name)).toEqual(['gpt_neox.layers.0.mlp.dense_4h_to_h.bias']);
  });

  it('cannot be cut into any number of parts', () => {
    expect(() => plan({}, 4)).toThrow(
      "Expected a divisor of the model's 2 attention heads for tensorParallel but received 4",
    );
    expect(() => plan({ intermediate_size: 95 }, 2)).toThrow(
      "Expected a divisor of the model's intermediate size 95 for tensorParallel but received 2",
    );
  });

  it('need every tensor', () => {
    const config = configOf({});
    const tensors = tensorsOf(config);
    tensors.delete('gpt_neox.layers.1.mlp.dense_h_to_4h.bias');
    expect(() => planBaseModel(config, tensors, 1, 'runtime')).toThrow(
      'has no tensor gpt_neox.layers.1.mlp.dense_h_to_4h.bias',
    );
  });
});

test('a prefix has one file a GPU, and none at length 0', () => {
  const files = planPrefix(configOf({}), 'smile', 5, 2);
  expect(files.map(({ name, elements }) => [name, elements])).toEqual([
    ['model.prefix_prompt.smile.weight.0.bin', 2 * 2 * 32 * 5],
    ['model.prefix_prompt.smile.weight.1.bin', 2 * 2 * 32 * 5],
  ]);
  expect(planPrefix(configOf({}), 'smile', 0, 2)).toEqual([]);
});

describe('what FasterTransformer does differently', () => {
  it('is nothing for a model of its own kind', () => {
    expect(incompatibilities(configOf({}))).toEqual([]);
  });

  it.each([
    ['activation', { hidden_act: 'gelu' }, /erf form of GELU, FasterTransformer the tanh form/],
    ['activation', { hidden_act: 'relu' }, /uses the activation relu, FasterTransformer always GELU/],
    ['layer-norm-epsilon', { layer_norm_eps: 1e-12 }, /epsilon is 1e-12, FasterTransformer's is always 1e-5/],
    ['rotary-base', { rotary_emb_base: 500 }, /rotary base is 500, FasterTransformer's is always 10000/],
    ['rotary-dims', { rotary_pct: 0.1 }, /rotates 3 dimensions of a head; FasterTransformer needs an even number/],
    ['head-size', { num_attention_heads: 4 }, /no kernel for heads of size 16/],
    ['attention-bias', { attention_bias: false }, /no attention biases/],
    ['end-ids', { eos_token_id: [3, 4] }, /any of the tokens 3, 4; FasterTransformer knows one, 3 is written/],
  ])('is told: %s', (code, changes, message) => {
    expect(incompatibilities(configOf(changes))).toEqual([{ code, message: expect.stringMatching(message) as string }]);
  });

  it('is an error where frequencies are stretched', () => {
    for (const type of ['linear', 'dynamic', 'yarn']) {
      const config = configOf({ rope_scaling: { type, factor: 2 } });
      expect(() => checkExpressible(config)).toThrow(expect.objectContaining({ code: 'NEOX_UNSUPPORTED' }) as Error);
      expect(() => checkExpressible(config)).toThrow(`scales its rotary positions (${type}, factor 2), which`);
    }
    expect(() => checkExpressible(configOf({}))).not.toThrow();
  });

  it('is an error where the server would exit', () => {
    expect(startAndEndIds(configOf({ eos_token_id: [7, 8] }))).toEqual({ start: 1, end: 7 });
    expect(() => startAndEndIds(configOf({ bos_token_id: null }))).toThrow(
      expect.objectContaining({ code: 'NEOX_BAD_CONFIG' }) as Error,
    );
    expect(() => startAndEndIds(configOf({ bos_token_id: null }))).toThrow(
      'has no bos_token_id, which FasterTransformer needs',
    );
    expect(() => startAndEndIds(configOf({ eos_token_id: null }))).toThrow(
      'has no eos_token_id, which FasterTransformer needs',
    );
  });
});
