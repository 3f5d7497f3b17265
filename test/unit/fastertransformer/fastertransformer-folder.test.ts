import {
  appendFile,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Checkpoint } from '../../../lib/checkpoint/checkpoint';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { readTensor } from '../../../lib/formats/values';
import { FTExporter, type ExportOptions } from '../../../lib/export/exporter';
import { NeoXModel } from '../../../lib/neox-model';
import type { LoadOptions } from '../../../lib/model/load-options';
import { PrefixWeights } from '../../../lib/prefix/weights';
import { PrefixTrainer } from '../../../lib/training/prefix-trainer';
import { Random, TINY_CONFIG, backendsFor, randomPrefix, writeRandomModel, type ConfigJson } from '../../helpers';
import { failure } from '../base/files-helpers';

/** Four heads, so that they can be shared by four ranks; no dimension equals another. */
const CONFIG = { num_attention_heads: 4, hidden_size: 40, intermediate_size: 56, vocab_size: 50, rotary_pct: 0.4 };

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

interface Exported {
  readonly checkpoint: Checkpoint;
  readonly directory: string;
}

async function exportModel(changes: ConfigJson = {}, options: ExportOptions = {}): Promise<Exported> {
  const source = join(folder, 'model');
  await mkdir(source);
  const checkpoint = await openCheckpoint(await writeRandomModel(source, { ...CONFIG, ...changes }));
  const { directory } = await new FTExporter({ checkpoint }).export(join(folder, 'ft'), {
    dtype: 'float32',
    ...options,
  });
  return { checkpoint, directory };
}

async function tensorsOf(checkpoint: Checkpoint): Promise<Record<string, Float32Array>> {
  const read = [...checkpoint.tensors.values()].map(async (entry) => [entry.name, await readTensor(entry)] as const);
  return Object.fromEntries(await Promise.all(read));
}

async function logitsOf(path: string, options: LoadOptions = {}): Promise<Float32Array> {
  await using model = await NeoXModel.load(path, { threads: 1, ...options });
  const ids = new Random(7).ids(9, model.config.vocabSize);
  return (await model.forward({ inputIds: [ids] })).logits!.data;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
}

const KINDS = [
  { kind: 'sequential', changes: { use_parallel_residual: false } },
  { kind: 'parallel', changes: { use_parallel_residual: true } },
  { kind: 'without attention biases', changes: { use_parallel_residual: true, attention_bias: false } },
];
const DEGREES = [1, 2, 4];

describe.each(KINDS)('a $kind model', ({ changes }) => {
  it.each(DEGREES)('comes back bit by bit from an export for %i GPUs', async (tensorParallel) => {
    const { checkpoint, directory } = await exportModel(changes, { tensorParallel });
    const loaded = await openCheckpoint(directory);
    expect(loaded).toMatchObject({ directory, format: 'fastertransformer', tasks: [], warnings: [] });
    const { attentionBias, rotaryPct, ...settings } = checkpoint.config;
    expect(loaded.config).toMatchObject({
      ...settings,
      attentionBias: true,
      maxPositionEmbeddings: 2048,
      torchDtype: 'float32',
    });
    expect(loaded.config.rotaryPct).toBeCloseTo(rotaryPct);
    const [actual, expected] = [await tensorsOf(loaded), await tensorsOf(checkpoint)];
    if (attentionBias) expect(actual).toEqual(expected);
    else expect(actual).toMatchObject(expected);
  });

  it.each(DEGREES)('gives the same logits from an export for %i GPUs', async (tensorParallel) => {
    const { checkpoint, directory } = await exportModel(changes, { tensorParallel });
    for (const backend of backendsFor('float32')) {
      expect(await logitsOf(directory, { backend })).toEqual(await logitsOf(checkpoint.directory, { backend }));
    }
  });
});

it('gives weights in float16 as they are in the files', async () => {
  const { checkpoint, directory } = await exportModel({}, { dtype: 'float16', tensorParallel: 2 });
  const loaded = await openCheckpoint(directory);
  const [actual, original] = [await tensorsOf(loaded), await tensorsOf(checkpoint)];
  for (const [name, values] of Object.entries(actual)) {
    expect(largestDifference(values, original[name]!)).toBeLessThan(
      2 ** -10 * Math.max(...original[name]!.map(Math.abs)),
    );
  }
  // Made into files again they are the same files.
  const again = await new FTExporter({ checkpoint: loaded }).export(join(folder, 'again'), {
    dtype: 'float16',
    tensorParallel: 2,
  });
  for (const name of await readdir(directory)) {
    expect([name, await readFile(join(again.directory, name))]).toEqual([name, await readFile(join(directory, name))]);
  }
});

it.each(['float32', 'bfloat16', 'float16'] as const)('computes in %s', async (dtype) => {
  const { checkpoint, directory } = await exportModel({ use_parallel_residual: true }, { tensorParallel: 2 });
  expect(await logitsOf(directory, { dtype, backend: 'aten' })).toEqual(
    await logitsOf(checkpoint.directory, { dtype, backend: 'aten' }),
  );
});

it('can be exported for another number of GPUs', async () => {
  const { checkpoint, directory } = await exportModel({ use_parallel_residual: true }, { tensorParallel: 4 });
  const exporter = new FTExporter({ checkpoint: await openCheckpoint(directory) });
  await exporter.export(join(folder, 'two'), { dtype: 'float32', tensorParallel: 2 });
  expect(await new FTExporter({ checkpoint }).verify(join(folder, 'two'))).toMatchObject({ ok: true, problems: [] });
});

it('trains as the original does', async () => {
  const { checkpoint, directory } = await exportModel({}, { tensorParallel: 2 });
  const norms = [];
  for (const path of [checkpoint.directory, directory]) {
    await using model = await NeoXModel.load(path, { threads: 1 });
    const trainer = new PrefixTrainer(model, { prefixLength: 2, epochs: 1, batchSize: 2, init: 'random' });
    const { best } = await trainer.train({ train: [{ completion: [5, 6, 7] }, { completion: [8, 9, 10] }] });
    norms.push(best.hash);
  }
  expect(norms[1]).toBe(norms[0]);
});

describe('biases behind attention and mlp', () => {
  it('are the sum where only that is there, with the same logits', async () => {
    const { checkpoint, directory } = await exportModel({ use_parallel_residual: true }, { tensorParallel: 2 });
    await rm(join(directory, 'model.layers.0.attention.dense.bias.bin'));
    await rm(join(directory, 'model.layers.1.mlp.dense_4h_to_h.bias.bin'));
    const loaded = await openCheckpoint(directory);
    expect(loaded.warnings).toEqual([
      expect.stringContaining('in 2 of 2 layers the biases behind attention and mlp are known by their sum only'),
    ]);
    const [actual, original] = [await tensorsOf(loaded), await tensorsOf(checkpoint)];
    const [attention, mlp] = ['attention.dense.bias', 'mlp.dense_4h_to_h.bias'].map(
      (part) => `gpt_neox.layers.0.${part}`,
    ) as [string, string];
    expect(actual[attention]).toEqual(new Float32Array(40));
    expect(actual[mlp]).toEqual(original[mlp]!.map((value, i) => value + original[attention]![i]!));
    expect(largestDifference(await logitsOf(directory), await logitsOf(checkpoint.directory))).toBeLessThan(1e-5);
  });

  it('are the sum where the two do not make it up: FasterTransformer reads nothing else', async () => {
    const { directory } = await exportModel({ use_parallel_residual: true });
    const before = await logitsOf(directory);
    await writeFile(join(directory, 'model.layers.0.attention.dense.bias.bin'), Buffer.alloc(40 * 4, 1));
    expect((await openCheckpoint(directory)).warnings).toEqual([expect.stringContaining('in 1 of 2 layers')]);
    expect(largestDifference(await logitsOf(directory), before)).toBeLessThan(1e-5);
  });

  it('are taken as FasterTransformer takes them, or as they were before they were divided', async () => {
    const { checkpoint, directory } = await exportModel({}, { tensorParallel: 2, denseBias: 'huggingface_converter' });
    const original = await tensorsOf(checkpoint);
    expect(await tensorsOf(await openCheckpoint(directory, { denseBias: 'huggingface_converter' }))).toEqual(original);
    const asServed = await tensorsOf(await openCheckpoint(directory));
    const name = 'gpt_neox.layers.1.attention.dense.bias';
    expect(asServed[name]).toEqual(original[name]!.map((value) => value / 2));
    expect(await logitsOf(directory, { denseBias: 'huggingface_converter' })).toEqual(
      await logitsOf(checkpoint.directory),
    );
  });
});

describe('arithmetic', () => {
  it('of FasterTransformer is the tanh form of GELU, with its epsilon and its rotary base, for any checkpoint', async () => {
    const own = { hidden_act: 'gelu', layer_norm_eps: 1e-3, rotary_emb_base: 500 };
    const { checkpoint, directory } = await exportModel(own);
    const plain = join(folder, 'plain');
    await mkdir(plain);
    await writeRandomModel(plain, {
      ...CONFIG,
      hidden_act: 'gelu_pytorch_tanh',
      layer_norm_eps: 1e-5,
      rotary_emb_base: 10000,
    });
    const expected = await logitsOf(plain);
    expect(await logitsOf(checkpoint.directory, { arithmetic: 'fastertransformer' })).toEqual(expected);
    expect(await logitsOf(directory, { arithmetic: 'fastertransformer' })).toEqual(expected);
    expect(largestDifference(await logitsOf(checkpoint.directory), expected)).toBeGreaterThan(0.01);
    // Without the option config.ini's silence means the defaults of GPT-NeoX: erf GELU.
    const apart = largestDifference(await logitsOf(directory), expected);
    expect(apart).toBeGreaterThan(1e-5);
    expect(apart).toBeLessThan(0.05);
  });

  it('can be given one by one, for what config.ini does not say', async () => {
    const own = { hidden_act: 'silu', layer_norm_eps: 1e-3, rotary_emb_base: 500 };
    const { checkpoint, directory } = await exportModel(own);
    const arithmetic = { hiddenAct: 'silu', layerNormEps: 1e-3, rotaryBase: 500 } as const;
    expect(await logitsOf(directory, { arithmetic })).toEqual(await logitsOf(checkpoint.directory));
  });

  it('does not change what a prefix fits', async () => {
    const { checkpoint } = await exportModel();
    await using model = await NeoXModel.load(checkpoint.directory, { arithmetic: 'fastertransformer' });
    const prefix = randomPrefix(model, 2).withMetadata({ baseModel: { fingerprint: checkpoint.fingerprint } });
    expect(model.config.hiddenAct).toBe('gelu_pytorch_tanh');
    expect((await model.forward({ inputIds: [[1, 2]], pastKeyValues: prefix })).logits!.shape).toEqual([1, 2, 50]);
  });

  it.each([
    [
      'exact',
      "Expected 'checkpoint', 'fastertransformer' or an object for arithmetic but received 'exact' of type string",
    ],
    [{ hiddenAct: 'swiglu' }, 'for arithmetic.hiddenAct'],
    [{ layerNormEps: 0 }, 'for arithmetic.layerNormEps'],
    [{ rotary_base: 1 }, "Unknown option 'rotary_base' in arithmetic"],
  ])('%j is refused', async (arithmetic, message) => {
    const { directory } = await exportModel();
    const error = await failure(
      NeoXModel.load(directory, { arithmetic: arithmetic as NonNullable<LoadOptions['arithmetic']> }),
    );
    expect(error.code).toBe('NEOX_BAD_ARGUMENT');
    expect(error.message).toContain(message);
  });

  it('of FasterTransformer needs an even number of rotary dimensions', async () => {
    const source = await writeRandomModel(folder, { ...CONFIG, rotary_pct: 0.5 });
    const error = await failure(NeoXModel.load(source, { arithmetic: 'fastertransformer' }));
    expect(error.code).toBe('NEOX_UNSUPPORTED');
    expect(error.message).toContain('it rotates 5 dimensions of a head');
  });
});

describe('tasks', () => {
  async function exportTasks(
    tensorParallel: number,
  ): Promise<{ directory: string; prefixes: Record<'smile' | 'polite', PrefixWeights> }> {
    const source = join(folder, 'model');
    await mkdir(source);
    await using model = await NeoXModel.load(await writeRandomModel(source, CONFIG), { threads: 1 });
    const prefixes = { smile: randomPrefix(model, 3, 1), polite: randomPrefix(model, 5, 2) };
    const { directory } = await new FTExporter(model).export(join(folder, 'ft'), {
      dtype: 'float32',
      tensorParallel,
      tasks: prefixes,
    });
    return { directory, prefixes };
  }

  it.each(DEGREES)('are prefixes again, by name and by id, with %i GPUs', async (degree) => {
    const { directory, prefixes } = await exportTasks(degree);
    await using model = await NeoXModel.load(directory, { threads: 1 });
    expect(model.tasks).toEqual([
      { id: 0, name: 'smile', prefixLength: 3 },
      { id: 1, name: 'polite', prefixLength: 5 },
    ]);
    for (const [id, name] of (['smile', 'polite'] as const).entries()) {
      const byName = await model.loadTask(name);
      expect(byName?.data).toEqual(prefixes[name].data);
      expect((await model.loadTask(id))?.hash).toBe(prefixes[name].hash);
      expect(byName?.metadata.task).toBe(name);
      const alone = await PrefixWeights.load(directory, { task: name });
      expect(alone).toMatchObject({ hash: prefixes[name].hash, format: 'fastertransformer' });
      const [actual, expected] = await Promise.all(
        [byName, prefixes[name]].map((prefix) =>
          model.forward({ inputIds: [[3, 4, 5]], ...(prefix && { pastKeyValues: prefix }) }),
        ),
      );
      expect(actual!.logits!.data).toEqual(expected!.logits!.data);
    }
  });

  it('can be loaded by the file of one rank, or from the folder above', async () => {
    const { directory, prefixes } = await exportTasks(2);
    const file = await PrefixWeights.load(join(directory, 'model.prefix_prompt.polite.weight.1.bin'));
    expect(file.hash).toBe(prefixes.polite.hash);
    expect((await PrefixWeights.load(join(folder, 'ft'), { task: 0 })).hash).toBe(prefixes.smile.hash);
  });

  it('in float16 are rounded to it', async () => {
    const { directory, prefixes } = await exportTasks(1);
    const checkpoint = await openCheckpoint(directory);
    const half = await new FTExporter({ checkpoint }).export(join(folder, 'half'), {
      tensorParallel: 4,
      tasks: prefixes,
    });
    const loaded = await PrefixWeights.load(half.directory, { task: 'smile' });
    expect(largestDifference(loaded.data, prefixes.smile.data)).toBeLessThan(2e-3);
    expect(loaded.hash).not.toBe(prefixes.smile.hash);
  });

  it.each([
    [undefined, 'for task but received undefined of type undefined'],
    ['smily', "for task but received 'smily' of type string"],
    [2, 'for task but received 2 of type number'],
  ])('%p is none of them', async (task, message) => {
    const { directory } = await exportTasks(1);
    const error = await failure(PrefixWeights.load(directory, task === undefined ? {} : { task }));
    expect(error.code).toBe('NEOX_BAD_ARGUMENT');
    expect(error.message).toContain(message);
    expect(error.hint).toBe('it has smile (0), polite (1)');
  });

  it('without a prefix run the base model', async () => {
    const { directory } = await exportTasks(1);
    const path = join(directory, 'config.ini');
    await writeFile(path, (await readFile(path, 'utf8')).replace('prompt_length = 3', 'prompt_length = 0'));
    await using model = await NeoXModel.load(directory, { threads: 1 });
    expect(await model.loadTask('smile')).toBeUndefined();
    const error = await failure(PrefixWeights.load(directory, { task: 'smile' }));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_PREFIX', expect.stringContaining('its prompt_length is 0')]);
  });

  it('with a wrong prompt_length are refused, where FasterTransformer would misread them', async () => {
    const { directory } = await exportTasks(2);
    const path = join(directory, 'config.ini');
    await writeFile(path, (await readFile(path, 'utf8')).replace('prompt_length = 3', 'prompt_length = 2'));
    await using model = await NeoXModel.load(directory, { threads: 1 });
    expect(model.info().warnings).toEqual([
      expect.stringContaining(
        "the task 'smile' cannot be used: model.prefix_prompt.smile.weight.0.bin has 960 bytes, expected 640",
      ),
    ]);
    expect((await failure(model.loadTask('smile'))).code).toBe('NEOX_BAD_EXPORT');
    expect((await model.loadTask('polite'))?.prefixLength).toBe(5);
  });

  it('are not in other files', async () => {
    const { prefixes } = await exportTasks(1);
    const path = join(folder, 'a.safetensors');
    await prefixes.smile.save(path);
    const error = await failure(PrefixWeights.load(path, { task: 'smile' }));
    expect([error.code, error.message]).toEqual([
      'NEOX_BAD_ARGUMENT',
      expect.stringContaining('only FasterTransformer folders have tasks'),
    ]);
  });
});

describe('files', () => {
  const weight = 'model.layers.1.mlp.dense_4h_to_h.weight.1.bin';
  const damage: [string, (path: string) => Promise<unknown>, string][] = [
    ['missing', (path) => rm(path), `${weight} is missing`],
    ['short', (path) => truncate(path, 100), `${weight} has 100 bytes, expected 4480`],
    ['long', (path) => appendFile(path, 'xxxx'), `${weight} has 4484 bytes, expected 4480`],
  ];

  it.each(damage)('that are %s are an error, not random numbers', async (_, spoil, message) => {
    const { directory } = await exportModel({}, { tensorParallel: 2 });
    await spoil(join(directory, weight));
    const error = await failure(NeoXModel.load(directory));
    expect(error.code).toBe('NEOX_BAD_EXPORT');
    expect(error.message).toContain(`The export ${directory} is not usable: ${message}`);
    expect(error.hint).toContain('compute with random numbers');
  });

  it('that are missing are counted', async () => {
    const { directory } = await exportModel({ use_parallel_residual: true });
    for (const name of await readdir(directory)) if (name.includes('layers.1')) await rm(join(directory, name));
    expect((await failure(openCheckpoint(directory))).message).toContain(
      'model.layers.1.mlp.attention.bias.sum.bin is missing',
    );
    await copyFile(
      join(directory, 'model.layers.0.mlp.attention.bias.sum.bin'),
      join(directory, 'model.layers.1.mlp.attention.bias.sum.bin'),
    );
    expect((await failure(openCheckpoint(directory))).message).toContain(
      'model.layers.1.input_layernorm.weight.bin is missing (and 9 more files)',
    );
  });

  it('of other ranks than the folder is named for do not count', async () => {
    const { directory } = await exportModel({}, { tensorParallel: 2 });
    const renamed = join(folder, 'ft', '1-gpu');
    await rename(directory, renamed);
    expect((await failure(openCheckpoint(renamed))).message).toContain(
      'query_key_value.weight.0.bin has 9600 bytes, expected 19200',
    );
  });

  it('in several folders have to be named', async () => {
    const { checkpoint } = await exportModel({}, { tensorParallel: 2 });
    await new FTExporter({ checkpoint }).export(join(folder, 'ft'), { dtype: 'float32', tensorParallel: 1 });
    expect((await failure(openCheckpoint(join(folder, 'ft')))).message).toContain('found 1-gpu, 2-gpu');
  });
});

describe('config.ini', () => {
  async function withConfig(change: (text: string) => string): Promise<string> {
    const { directory } = await exportModel();
    const path = join(directory, 'config.ini');
    await writeFile(path, change(await readFile(path, 'utf8')));
    return directory;
  }

  it.each<[string, (text: string) => string]>([
    ['without spaces', (text) => text.replaceAll(' = ', '=')],
    ['with colons and capitals', (text) => text.replaceAll(' = ', ': ').toUpperCase().replace('FP32', 'fp32')],
    ['with comments', (text) => text.replace('head_num = 4', '# how many\nhead_num = 4 ; heads')],
    [
      'with hexadecimal and octal numbers',
      (text) => text.replace('vocab_size = 50', 'vocab_size = 0x32').replace('head_num = 4', 'head_num = 04'),
    ],
    [
      'with a remark that FasterTransformer does not read',
      (text) => text.replace('head_num = 4', 'head_num = 4 # heads'),
    ],
    ['with Windows line ends', (text) => text.replaceAll('\n', '\r\n')],
    ['with sections of others', (text) => `[ft_instance_hyperparameter]\nmax_batch_size=8\n\n${text}`],
  ])('%s', async (_, change) => {
    const directory = await withConfig(change);
    expect((await openCheckpoint(directory)).config).toMatchObject({
      vocabSize: 50,
      numHeads: 4,
      headSize: 10,
      numLayers: 2,
      intermediateSize: 56,
      rotaryDims: 4,
    });
  });

  it('without use_gptj_residual means a parallel residual', async () => {
    const { directory } = await exportModel({ use_parallel_residual: true });
    const path = join(directory, 'config.ini');
    await writeFile(path, (await readFile(path, 'utf8')).replace('use_gptj_residual = 1\n', ''));
    expect((await openCheckpoint(directory)).config.useParallelResidual).toBe(true);
  });

  it.each([
    ['head_num = 4', '', 'for head_num of [gptneox] in config.ini, found nothing'],
    ['head_num = 4', 'head_num = four', 'for head_num of [gptneox] in config.ini, found four'],
    ['head_num = 4', 'head_num = -4', 'found -4'],
    ['num_layer = 2', 'num_layer = 99999999', 'found 99999999'],
    ['size_per_head = 10', 'size_per_head = 16777216', 'head_num 4 of size_per_head 16777216 is too large'],
    ['rotary_embedding = 4', 'rotary_embedding = 11', 'for rotary_embedding'],
    ['weight_data_type = fp32', 'weight_data_type = bf16', 'expected fp16 or fp32 for weight_data_type, found bf16'],
    ['head_num = 4', 'head_num = 4\nhead_num = 5', 'head_num is given twice'],
    ['head_num = 4', `head_num = ${'4'.repeat(200)}`, 'reads its first 199 bytes only'],
    ['vocab_size = 50', 'vocab_size = 51', 'model.wte.bin has 8000 bytes, expected 8160'],
  ])('%p as %p is refused', async (from, to, message) => {
    const directory = await withConfig((text) => text.replace(`${from}\n`, `${to}\n`));
    const error = await failure(openCheckpoint(directory));
    expect(error.code).toBe('NEOX_BAD_EXPORT');
    expect(error.message).toContain(message);
  });

  it("with Python's None for a token is taken with a warning", async () => {
    const directory = await withConfig((text) => text.replace('start_id = 1', 'start_id = None'));
    const { config, warnings } = await openCheckpoint(directory);
    expect(config).toMatchObject({ bosTokenId: null, eosTokenIds: [TINY_CONFIG.eos_token_id] });
    expect(warnings).toEqual([
      expect.stringContaining(
        'start_id is None, no token of the vocabulary; FasterTransformer ends its process at that',
      ),
    ]);
  });
});
