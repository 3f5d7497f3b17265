import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { resolveConfig } from '../../../lib/architecture/architectures';
import { type GPTNeoXConfig } from '../../../lib/architecture/config';
import { readSafetensorsHeader, writeSafetensors } from '../../../lib/formats/safetensors';
import { writeTorchTensor } from '../../../lib/formats/torch-writer';
import { describeBaseModel, PrefixWeights, type PrefixLoadOptions } from '../../../lib/prefix/weights';
import { failure, fixture, mutate, ours } from '../base/files-helpers';

const SIZES = { prefixLength: 3, numLayers: 2, numHeads: 2, headSize: 4 };
const JSON_CONFIG = {
  model_type: 'gpt_neox',
  vocab_size: 20,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 12,
  rotary_pct: 0.5,
};

function configOf(change: object = {}): GPTNeoXConfig {
  return resolveConfig({ ...JSON_CONFIG, ...change }, 'config.json').config;
}

const CONFIG = configOf();

/** The values of the prefix fixtures, [3, 32]. */
const VALUES = (JSON.parse(readFileSync(fixture('expected.json'), 'utf8')) as { prefix: { values: number[] } }).prefix
  .values;

const numbered = (count = 96): Float32Array => Float32Array.from({ length: count }, (_, i) => i / 7 - 3);

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'neox-prefix-'))));
afterEach(() => rmSync(folder, { recursive: true }));

describe('fromTensor', () => {
  test('order of the values: [P, L, 2, N, D], key before value', () => {
    const weights = PrefixWeights.fromTensor(numbered(), SIZES);
    expect(weights.shape).toEqual([3, 2, 2, 2, 4]);
    expect(weights).toMatchObject({ ...SIZES, metadata: { formatVersion: 1 }, warnings: [] });
    expect(weights.toTensor().data).toBe(weights.data);
    const at = (p: number, l: number, kv: number): number[] => [
      ...weights.data.subarray(((p * 2 + l) * 2 + kv) * 8, ((p * 2 + l) * 2 + kv) * 8 + 8),
    ];
    expect([...weights.layer(1, 'value')]).toEqual([...at(0, 1, 1), ...at(1, 1, 1), ...at(2, 1, 1)]);
    expect([...weights.layer(0, 'key')]).toEqual([...at(0, 0, 0), ...at(1, 0, 0), ...at(2, 0, 0)]);
  });

  test.each<[string, () => unknown, string, string]>([
    [
      'another array',
      () => PrefixWeights.fromTensor([1] as unknown as Float32Array, SIZES),
      'NEOX_BAD_ARGUMENT',
      'Expected a Float32Array for data',
    ],
    [
      'too few values',
      () => PrefixWeights.fromTensor(numbered(95), SIZES),
      'NEOX_BAD_ARGUMENT',
      '96 elements, for shape [3, 2, 2, 2, 4], for data but received 95',
    ],
    [
      'a size of 0',
      () => PrefixWeights.fromTensor(numbered(0), { ...SIZES, prefixLength: 0 }),
      'NEOX_BAD_ARGUMENT',
      'options.prefixLength',
    ],
    [
      'a misspelled option',
      () => PrefixWeights.fromTensor(numbered(), { ...SIZES, metdata: {} } as typeof SIZES),
      'NEOX_BAD_ARGUMENT',
      "did you mean 'metadata'",
    ],
    [
      'NaN',
      () => PrefixWeights.fromTensor(numbered().with(41, NaN), SIZES),
      'NEOX_BAD_PREFIX',
      'the value NaN at position 1, layer 0, value',
    ],
    [
      'infinity',
      () => PrefixWeights.fromTensor(numbered().with(95, -Infinity), SIZES),
      'NEOX_BAD_PREFIX',
      '-Infinity at position 2, layer 1, value',
    ],
    [
      'a layer that is not there',
      () => PrefixWeights.fromTensor(numbered(), SIZES).layer(2, 'key'),
      'NEOX_BAD_ARGUMENT',
      'index',
    ],
  ])('%s', async (_, work, code, message) => {
    const error = await failure(Promise.resolve().then(work));
    expect(error.message).toContain(message);
    expect(error.code).toBe(code);
  });

  test('hash: by shape and values only', () => {
    const weights = PrefixWeights.fromTensor(numbered(), SIZES);
    expect(PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata: { task: 'x' } }).hash).toBe(weights.hash);
    expect(PrefixWeights.fromTensor(numbered().with(0, 5), SIZES).hash).not.toBe(weights.hash);
    expect(PrefixWeights.fromTensor(numbered(), { ...SIZES, numLayers: 4, headSize: 2 }).hash).not.toBe(weights.hash);
  });

  test('statistics', async () => {
    const data = new Float32Array(96);
    data[0] = 3; // position 0, layer 0, key
    data[32] = 4; // position 1, layer 0, key
    data[24] = -2; // position 0, layer 1, value
    expect(PrefixWeights.fromTensor(data, SIZES).statistics()).toEqual({
      layers: [
        { keyNorm: 5, valueNorm: 0 },
        { keyNorm: 0, valueNorm: 2 },
      ],
      nanCount: 0,
      infinityCount: 0,
    });
    const path = join(folder, 'bad.checkpoint');
    await writeTorchTensor(path, { shape: [3, 32], data: data.with(1, NaN).with(2, Infinity) });
    const loaded = await PrefixWeights.load(path, { config: CONFIG, allowNonFinite: true });
    expect(loaded.statistics()).toMatchObject({ nanCount: 1, infinityCount: 1 });
    expect(() => loaded.checkFits(CONFIG)).toThrow('has the value NaN at position 0, layer 0, key');
  });
});

describe('loading what Python wrote', () => {
  test.each([
    ['prefix.checkpoint'],
    ['prefix.device.checkpoint'],
    ['prefix.legacy.weight'],
    ['peft'],
    ['peft/adapter_model.safetensors'],
    ['peft/adapter_config.json'],
    ['peft-bin'],
  ])('%s', async (name) => {
    const weights = await PrefixWeights.load(fixture(name), { config: CONFIG });
    expect(weights.shape).toEqual([3, 2, 2, 2, 4]);
    expect([...weights.data]).toEqual(VALUES);
  });

  test('a prefix saved in half precision', async () => {
    const weights = await PrefixWeights.load(fixture('prefix.half.checkpoint'), { config: { config: CONFIG } });
    weights.data.forEach((value, i) => expect(Math.abs(value - (VALUES[i] as number))).toBeLessThan(2e-3));
  });

  test('without a model: what the file says, or numLayers and numHeads', async () => {
    expect((await PrefixWeights.load(fixture('prefix.4d.checkpoint'))).shape).toEqual([3, 2, 2, 2, 4]);
    expect((await PrefixWeights.load(fixture('peft'))).shape).toEqual([3, 2, 2, 2, 4]);
    expect((await PrefixWeights.load(fixture('prefix.checkpoint'), { numLayers: 4, numHeads: 1 })).shape).toEqual([
      3, 4, 2, 1, 4,
    ]);
    const error = await failure(PrefixWeights.load(fixture('prefix.checkpoint')));
    expect(error.code).toBe('NEOX_BAD_PREFIX');
    expect(error.message).toMatch(/shape \[3, 32\].*does not say how many layers and heads[^]*pass the model/);
    expect(
      (await failure(PrefixWeights.load(fixture('prefix.checkpoint'), { numLayers: 5, numHeads: 1 }))).message,
    ).toContain('does not divide into 3 positions');
    // num_layers and token_dim are null in this folder.
    expect((await failure(PrefixWeights.load(fixture('peft-bin')))).message).toContain('pass the model');
  });

  test('unknown keys of an adapter are warnings; its base model is remembered', async () => {
    const weights = await PrefixWeights.load(fixture('peft-bin'), { config: CONFIG });
    expect(weights.warnings).toEqual([
      `${fixture('peft-bin', 'adapter_config.json')}: the key from_the_future is not known and has no effect`,
    ]);
    expect((await PrefixWeights.load(fixture('peft'))).warnings).toEqual([]);
  });

  test.each<[string, string, string]>([
    ['encoder.bin', 'NEOX_BAD_PREFIX', 'it holds a prefix encoder'],
    [
      'dtypes.bin',
      'NEOX_BAD_PREFIX',
      "expected one tensor 'prefix' or 'prompt_embeddings', found float32, float16, bfloat16, float64, scalar, ... (6)",
    ],
    ['mixed.safetensors', 'NEOX_BAD_PREFIX', "expected one tensor 'prefix' or 'prompt_embeddings', found"],
    ['namespace.bin', 'NEOX_UNSUPPORTED', 'argparse.Namespace'],
    ['checkpoint', 'NEOX_BAD_PREFIX', 'holds no prefix: expected a PEFT adapter'],
    ['nothing', 'NEOX_FILE_NOT_FOUND', 'No such file'],
    ['expected.json', 'NEOX_BAD_CHECKPOINT', 'is of no known format'],
  ])('%s is refused: %s', async (name, code, message) => {
    const error = await failure(PrefixWeights.load(fixture(name), { config: CONFIG }));
    expect(error.message).toContain(message);
    expect(error.code).toBe(code);
  });
});

describe('any shape with the right values', () => {
  test.each<[number[], PrefixLoadOptions]>([
    [[96], { config: CONFIG }],
    [[1, 3, 32], { config: CONFIG }],
    [[3, 2, 16], { config: CONFIG }],
    [[3, 4, 2, 4], { config: CONFIG }],
    [[3, 2, 2, 2, 4], { config: CONFIG }],
    [[1, 1, 3, 32], { config: CONFIG }],
    [[12, 8], { config: CONFIG, prefixLength: 3 }],
    [[96], { prefixLength: 3, numLayers: 2, numHeads: 2 }],
    [[3, 2, 2, 2, 4], {}],
  ])('%j', async (shape, options) => {
    const path = join(folder, 'a.checkpoint');
    await writeTorchTensor(path, { shape, data: numbered() });
    const weights = await PrefixWeights.load(path, options);
    expect(weights.shape).toEqual([3, 2, 2, 2, 4]);
    expect(weights.data).toEqual(numbered());
  });

  test.each<[number[], PrefixLoadOptions, string]>([
    [
      [6, 16],
      { config: CONFIG },
      'of shape [6, 16] does not fit the model, which takes [P, 2, 2, 2, 4] (32 values a position)',
    ],
    [[96], { config: configOf({ num_hidden_layers: 5 }) }, 'which takes [P, 5, 2, 2, 4] (80 values a position)'],
    [[3, 32], { config: CONFIG, prefixLength: 4 }, 'which takes [4, 2, 2, 2, 4]'],
    // As many values a position as the model takes, but of other layers and heads.
    [
      [3, 2, 2, 2, 4],
      { config: configOf({ num_attention_heads: 4 }) },
      'its shape is [3, 2, 2, 2, 4] (positions, layers, 2, heads, head size), the model takes [3, 2, 2, 4, 2]',
    ],
    [
      [3, 4, 2, 4],
      { config: configOf({ num_hidden_layers: 1, hidden_size: 16 }) },
      'its shape is [3, 2, 2, 2, 4] (positions, layers, 2, heads, head size), the model takes [3, 1, 2, 2, 8]',
    ],
  ])('%j does not fit', async (shape, options, message) => {
    const path = join(folder, 'a.checkpoint');
    await writeTorchTensor(path, { shape, data: numbered() });
    const error = await failure(PrefixWeights.load(path, options));
    expect(error.message).toContain(message);
    expect(error.code).toBe('NEOX_PREFIX_MISMATCH');
  });

  test('a tensor without values', async () => {
    const path = join(folder, 'a.checkpoint');
    await writeTorchTensor(path, { shape: [0, 32], data: numbered(0) });
    expect((await failure(PrefixWeights.load(path, { config: CONFIG }))).message).toContain('it has no elements');
  });
});

describe('saving and loading again', () => {
  const metadata = {
    task: '笑顔',
    baseModel: describeBaseModel(CONFIG, 'ab12', 'rinna/japanese-gpt-neox-small'),
    tokenizerHash: 'cd34',
    recipe: { epochs: 3, nested: [1, null, 'x'] },
    metrics: { perplexity: 1.25 },
  };

  test('safetensors keep everything', async () => {
    const path = join(folder, 'a.safetensors');
    const weights = PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata });
    await weights.save(path);
    const loaded = await PrefixWeights.load(path, { config: CONFIG });
    expect(loaded.metadata).toEqual({ ...metadata, formatVersion: 1 });
    expect([loaded.hash, loaded.shape, loaded.baseModelFingerprint]).toEqual([weights.hash, weights.shape, 'ab12']);
    const header = await readSafetensorsHeader(path);
    expect(header.metadata.get('neox_prefix.task')).toBe('笑顔');
    expect(header.tensors.get('prefix')).toMatchObject({ dtype: 'F32', shape: [3, 2, 2, 2, 4] });
  });

  test.each(['a.checkpoint', 'a.weight', 'a.pt'])('%s is one tensor [P, L*2*H]', async (name) => {
    const weights = PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata });
    await weights.save(join(folder, name));
    const loaded = await PrefixWeights.load(join(folder, name), { numLayers: 2, numHeads: 2 });
    expect([loaded.hash, loaded.metadata]).toEqual([weights.hash, { formatVersion: 1 }]);
  });

  test('an adapter folder keeps everything, and is found by its files', async () => {
    const weights = PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata });
    const target = join(folder, 'new', 'adapter');
    await weights.save(target);
    const loaded = await PrefixWeights.load(target);
    expect([loaded.hash, loaded.metadata, loaded.warnings]).toEqual([
      weights.hash,
      { ...metadata, formatVersion: 1 },
      [],
    ]);
    expect(JSON.parse(readFileSync(join(target, 'adapter_config.json'), 'utf8'))).toEqual({
      base_model_name_or_path: 'rinna/japanese-gpt-neox-small',
      encoder_hidden_size: null,
      inference_mode: true,
      num_attention_heads: 2,
      num_layers: 2,
      num_transformer_submodules: 1,
      num_virtual_tokens: 3,
      peft_type: 'PREFIX_TUNING',
      prefix_projection: false,
      task_type: 'CAUSAL_LM',
      token_dim: 8,
    });
  });

  test('the format follows the path, or the option', async () => {
    const weights = PrefixWeights.fromTensor(numbered(), SIZES);
    mkdirSync(join(folder, 'there.d'));
    await weights.save(join(folder, 'there.d'));
    expect(readFileSync(join(folder, 'there.d', 'adapter_config.json'), 'utf8')).toContain('PREFIX_TUNING');
    await weights.save(join(folder, 'odd.bin'), { format: 'rinna' });
    expect(readFileSync(join(folder, 'odd.bin'), 'latin1').slice(0, 2)).toBe('PK');
    expect((await failure(weights.save(join(folder, 'odd.json')))).message).toContain(
      'Expected a name that ends in .safetensors',
    );
    expect((await failure(weights.save(join(folder, 'a'), { format: 'gguf' as 'peft' }))).message).toContain(
      "Expected one of 'safetensors', 'rinna', 'peft'",
    );
    expect((await failure(weights.save(join(folder, 'no', 'a.safetensors')))).code).toBe('NEOX_IO');
  });

  test.each(['adapter_model.safetensors', 'adapter_config.json'])(
    'nothing is left of a new adapter folder when %s cannot be written',
    async (name) => {
      const weights = PrefixWeights.fromTensor(numbered(), SIZES);
      const { open } = fs;
      const full = jest.spyOn(fs, 'open').mockImplementation((path, ...rest) => {
        if (String(path).includes(`.${name}.`))
          throw Object.assign(new Error('open'), { code: 'ENOSPC', syscall: 'open' });
        return open(path, ...rest);
      });
      const there = join(folder, 'there');
      mkdirSync(there);
      try {
        expect((await failure(weights.save(join(folder, 'new', 'adapter')))).message).toMatch(
          /ENOSPC\nHint: the disk is full/,
        );
        expect((await failure(weights.save(there))).message).toContain('ENOSPC');
      } finally {
        full.mockRestore();
      }
      expect(readdirSync(folder)).toEqual(['there']);
    },
  );

  test('a name that is too long cannot be written', async () => {
    const path = join(folder, `${'x'.repeat(300)}.safetensors`);
    expect((await failure(PrefixWeights.fromTensor(numbered(), SIZES).save(path))).message).toContain(
      `Cannot write ${path}: ENAMETOOLONG`,
    );
  });
});

describe('belonging to a model', () => {
  const made = PrefixWeights.fromTensor(numbered(), {
    ...SIZES,
    metadata: { task: 'smile', baseModel: { fingerprint: 'aaaa', name: 'one' } },
  });

  test('the same model, or an unknown fingerprint', () => {
    expect(() => made.checkFits(CONFIG, 'aaaa')).not.toThrow();
    expect(() => made.checkFits(CONFIG)).not.toThrow();
    expect(() => PrefixWeights.fromTensor(numbered(), SIZES).checkFits(CONFIG, 'bbbb')).not.toThrow();
  });

  test.each([
    [
      { num_hidden_layers: 3 },
      'its shape is [3, 2, 2, 2, 4] (positions, layers, 2, heads, head size), the model takes [3, 3, 2, 2, 4]',
    ],
    [{ num_attention_heads: 4 }, 'the model takes [3, 2, 2, 4, 2]'],
    [{ hidden_size: 16 }, 'the model takes [3, 2, 2, 2, 8]'],
  ])('%j: both shapes', async (change, message) => {
    const error = await failure(Promise.resolve().then(() => made.checkFits(configOf(change), 'aaaa')));
    expect(error.message).toContain(message);
    expect(error.message).toContain("The prefix 'smile'");
    expect(error.code).toBe('NEOX_PREFIX_MISMATCH');
  });

  test('another fingerprint: an error with both, unless it is allowed at load', async () => {
    const error = await failure(Promise.resolve().then(() => made.checkFits(CONFIG, 'bbbb')));
    expect(error.message).toContain(
      "was trained on another base model: its fingerprint is aaaa (one), this model's is bbbb",
    );
    expect(error.code).toBe('NEOX_PREFIX_MISMATCH');
    const path = join(folder, 'a.safetensors');
    await made.save(path);
    const strict = await PrefixWeights.load(path);
    expect(() => strict.checkFits(CONFIG, 'bbbb')).toThrow('another base model');
    const model = { config: CONFIG, fingerprint: 'bbbb' };
    expect((await failure(PrefixWeights.load(path, { config: model }))).code).toBe('NEOX_PREFIX_MISMATCH');
    expect((await PrefixWeights.load(path, { config: { ...model, fingerprint: 'aaaa' } })).hash).toBe(made.hash);
    expect((await PrefixWeights.load(path, { config: CONFIG })).hash).toBe(made.hash);
    expect((await PrefixWeights.load(path, { config: model, allowFingerprintMismatch: true })).hash).toBe(made.hash);
    const wrong = await failure(PrefixWeights.load(path, { config: { config: CONFIG, fingerprint: 7 as never } }));
    expect([wrong.code, wrong.message]).toEqual([
      'NEOX_BAD_ARGUMENT',
      expect.stringContaining('options.config.fingerprint'),
    ]);
    const allowed = await PrefixWeights.load(path, { allowFingerprintMismatch: true });
    expect(() => allowed.checkFits(CONFIG, 'bbbb')).not.toThrow();
    expect(() => allowed.checkFits(configOf({ hidden_size: 16 }), 'bbbb')).toThrow('does not fit');
  });
});

describe('bad files and arguments', () => {
  test.each(['some words that are no tensors\n', '', 'short'])('a file of no known format: %j', async (text) => {
    const path = join(folder, 'words');
    writeFileSync(path, text);
    const error = await failure(PrefixWeights.load(path));
    expect([error.code, error.message]).toEqual([
      'NEOX_BAD_CHECKPOINT',
      `${path} is of no known format: neither a safetensors file nor one of torch.save`,
    ]);
  });

  test.each<[string, Record<string, string>, string, string]>([
    [
      'a later version',
      { 'neox_prefix.format_version': '2' },
      'NEOX_UNSUPPORTED',
      'is of format version 2; this package reads up to 1',
    ],
    ['a version that is no number', { 'neox_prefix.format_version': 'x' }, 'NEOX_BAD_PREFIX', "found 'x'"],
    ['metadata that are no JSON', { 'neox_prefix.recipe': '{' }, 'NEOX_BAD_PREFIX', 'neox_prefix.recipe'],
    [
      'a fingerprint that is no text',
      { 'neox_prefix.base_model': '{"fingerprint":1}' },
      'NEOX_BAD_PREFIX',
      'expected text for fingerprint',
    ],
  ])('%s', async (_, metadata, code, message) => {
    const path = join(folder, 'a.safetensors');
    await writeSafetensors(
      path,
      [{ name: 'prefix', dtype: 'F32', shape: [3, 2, 2, 2, 4], data: numbered() }],
      metadata,
    );
    const error = await failure(PrefixWeights.load(path));
    expect(error.message).toContain(message);
    expect(error.code).toBe(code);
  });

  test.each<[object, string, string]>([
    [{ peft_type: 'LORA' }, 'NEOX_UNSUPPORTED', "is of type 'LORA'; expected 'PREFIX_TUNING'"],
    [{ peft_type: null }, 'NEOX_UNSUPPORTED', 'is of type null'],
    [{ num_transformer_submodules: 2 }, 'NEOX_UNSUPPORTED', 'for a model of 2 submodules'],
    [{ num_virtual_tokens: 4 }, 'NEOX_BAD_PREFIX', 'states num_virtual_tokens 4'],
    [{ num_layers: 'two' }, 'NEOX_BAD_PREFIX', 'Expected a positive integer for num_layers in'],
    [{ num_layers: 3 }, 'NEOX_BAD_PREFIX', 'states num_layers 3'],
    [{ num_layers: 4 }, 'NEOX_BAD_PREFIX', 'states num_layers 4 and token_dim 8, 64 values a position'],
    [{ num_layers: null, token_dim: 5 }, 'NEOX_BAD_PREFIX', 'states token_dim 5'],
    [{ token_dim: 4 }, 'NEOX_BAD_PREFIX', 'states num_layers 2 and token_dim 4, 16 values a position'],
    [{ token_dim: 16 }, 'NEOX_BAD_PREFIX', 'states num_layers 2 and token_dim 16, 64 values a position'],
    [{ num_attention_heads: 3 }, 'NEOX_BAD_PREFIX', 'states num_attention_heads 3, which does not divide 8'],
    [{ num_layers: null, num_attention_heads: 3 }, 'NEOX_BAD_PREFIX', 'num_attention_heads 3, which does not divide 8'],
    [{ num_attention_heads: 4 }, 'NEOX_PREFIX_MISMATCH', 'its shape is [3, 2, 2, 4, 2]'],
    [
      { num_layers: 4, num_attention_heads: 1, token_dim: 4 },
      'NEOX_PREFIX_MISMATCH',
      'its shape is [3, 4, 2, 1, 4] (positions, layers, 2, heads, head size), the model takes [3, 2, 2, 2, 4]',
    ],
  ])('an adapter with %j', async (change, code, message) => {
    cpSync(fixture('peft'), folder, { recursive: true });
    const path = join(folder, 'adapter_config.json');
    writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), ...change }));
    const error = await failure(PrefixWeights.load(folder, { config: CONFIG }));
    expect(error.message).toContain(message);
    expect(error.code).toBe(code);
  });

  test('a folder with several adapters names them', async () => {
    for (const name of ['polite', 'smile']) cpSync(fixture('peft'), join(folder, name), { recursive: true });
    const error = await failure(PrefixWeights.load(folder));
    expect([error.code, error.hint]).toEqual([
      'NEOX_BAD_PREFIX',
      'it holds the adapters polite, smile: name one of these folders',
    ]);
  });

  test('an adapter for another task warns; one without weights is refused', async () => {
    cpSync(fixture('peft', 'adapter_config.json'), join(folder, 'adapter_config.json'));
    expect((await failure(PrefixWeights.load(folder))).message).toContain(
      'No adapter_model.safetensors or adapter_model.bin',
    );
    cpSync(fixture('peft'), folder, { recursive: true });
    const path = join(folder, 'adapter_config.json');
    writeFileSync(path, readFileSync(path, 'utf8').replace('CAUSAL_LM', 'SEQ_CLS'));
    expect((await PrefixWeights.load(folder)).warnings).toEqual([
      `${path}: task_type is 'SEQ_CLS'; the prefix is used for text generation`,
    ]);
  });

  test.each<[PrefixLoadOptions, string]>([
    [{ config: 5 as unknown as GPTNeoXConfig }, 'Expected a model or its config for options.config'],
    [{ config: {} as GPTNeoXConfig }, 'Expected a model or its config for options.config'],
    [{ numLayers: 0 }, 'options.numLayers'],
    [{ confg: CONFIG } as PrefixLoadOptions, "did you mean 'config'?"],
  ])('options %#', async (options, message) => {
    const error = await failure(PrefixWeights.load(fixture('peft'), options));
    expect(error.message).toContain(message);
    expect(error.code).toBe('NEOX_BAD_ARGUMENT');
  });

  test.each([
    ['peft', 'adapter_config.json'],
    ['peft', 'adapter_model.safetensors'],
    ['peft-bin', 'adapter_model.bin'],
  ])('mutations of %s/%s give an error of ours or a prefix', async (name, file) => {
    cpSync(fixture(name), folder, { recursive: true });
    const path = join(folder, file);
    for (const bytes of mutate(readFileSync(path), 200, 4)) {
      writeFileSync(path, bytes);
      const loaded = await PrefixWeights.load(folder, { config: CONFIG }).catch((error: unknown) => {
        ours(error);
      });
      if (loaded !== undefined)
        expect(loaded.data).toHaveLength(loaded.shape.reduce((count: number, size) => count * size, 1));
    }
  });
});
