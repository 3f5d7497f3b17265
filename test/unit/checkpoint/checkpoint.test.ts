import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Checkpoint } from '../../../lib/checkpoint/checkpoint';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { writeSafetensors, type TensorToWrite } from '../../../lib/formats/safetensors';
import type { TensorEntry } from '../../../lib/formats/tensor';
import { readTensor } from '../../../lib/formats/values';
import { expectedValues, failure, fixture, mutate, ours } from '../base/files-helpers';

const FORMS = [
  ['checkpoint', 'safetensors'],
  ['checkpoint-sharded', 'safetensors-sharded'],
  ['checkpoint-pickled', 'pytorch'],
  ['checkpoint-old-rinna', 'pytorch'],
] as const;

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'neox-checkpoint-'))));
afterEach(() => rmSync(folder, { recursive: true }));

/** A copy of a fixture that a test may damage. */
function copy(name: string): string {
  cpSync(fixture(name), folder, { recursive: true });
  return folder;
}

function setConfig(change: object): void {
  const path = join(folder, 'config.json');
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), ...change }));
}

/** The tensors of the fixture, to be written again with changes. */
async function tensorsOf(checkpoint: Checkpoint): Promise<TensorToWrite[]> {
  const read = async ([name, entry]: [string, TensorEntry]): Promise<TensorToWrite> => ({
    name,
    dtype: 'F32',
    shape: entry.shape,
    data: await readTensor(entry),
  });
  return Promise.all([...checkpoint.tensors].map(read));
}

async function rewrite(change: (tensors: TensorToWrite[]) => TensorToWrite[]): Promise<string> {
  const tensors = await tensorsOf(await openCheckpoint(fixture('checkpoint')));
  cpSync(fixture('checkpoint', 'config.json'), join(folder, 'config.json'));
  await writeSafetensors(join(folder, 'model.safetensors'), change(tensors), {});
  return folder;
}

const renamed = (tensors: TensorToWrite[], rename: (name: string) => string): TensorToWrite[] =>
  tensors.map((tensor) => ({ ...tensor, name: rename(tensor.name) }));

describe('the same weights in every form', () => {
  test.each(FORMS)('%s', async (name, format) => {
    const checkpoint = await openCheckpoint(fixture(name));
    expect(checkpoint).toMatchObject({ directory: fixture(name), format, warnings: [] });
    expect(checkpoint.config).toMatchObject({
      hiddenSize: 8,
      numLayers: 2,
      numHeads: 2,
      headSize: 4,
      rotaryDims: 2,
      useParallelResidual: true,
    });
    const expected = expectedValues('checkpoint');
    expect([...checkpoint.tensors.keys()].sort()).toEqual(expected.map(([key]) => key).sort());
    for (const [key, { shape, values }] of expected) {
      const entry = checkpoint.tensors.get(key) as TensorEntry;
      expect([entry.name, entry.shape]).toEqual([key, shape]);
      expect([...(await readTensor(entry))]).toEqual(values);
    }
  });

  test('have one fingerprint', async () => {
    const fingerprints = await Promise.all(
      FORMS.map(async ([name]) => (await openCheckpoint(fixture(name))).fingerprint),
    );
    expect(new Set(fingerprints).size).toBe(1);
    expect(fingerprints[0]).toMatch(/^[0-9a-f]{64}$/);
  });

  test('shards of pickles', async () => {
    copy('checkpoint-pickled');
    renameSync(join(folder, 'pytorch_model.bin'), join(folder, 'pytorch_model-00001-of-00001.bin'));
    const names = expectedValues('checkpoint').map(([name]) => name);
    const weightMap = Object.fromEntries(names.map((name) => [name, 'pytorch_model-00001-of-00001.bin']));
    writeFileSync(join(folder, 'pytorch_model.bin.index.json'), JSON.stringify({ weight_map: weightMap }));
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.format).toBe('pytorch-sharded');
    expect(checkpoint.fingerprint).toBe((await openCheckpoint(fixture('checkpoint'))).fingerprint);
  });

  test('safetensors come before pickles, whole files before shards', async () => {
    copy('checkpoint-sharded');
    cpSync(fixture('checkpoint-pickled', 'pytorch_model.bin'), join(folder, 'pytorch_model.bin'));
    expect((await openCheckpoint(folder)).format).toBe('safetensors-sharded');
    cpSync(fixture('checkpoint', 'model.safetensors'), join(folder, 'model.safetensors'));
    expect((await openCheckpoint(folder)).format).toBe('safetensors');
  });
});

describe('fingerprint', () => {
  const fingerprint = async (dir: string): Promise<string> => (await openCheckpoint(dir)).fingerprint;

  test('changes with any tensor and with what the architecture computes, not with token ids', async () => {
    const original = await fingerprint(fixture('checkpoint'));
    copy('checkpoint');
    setConfig({ eos_token_id: 5, bos_token_id: 1, max_position_embeddings: 64 });
    expect(await fingerprint(folder)).toBe(original);
    setConfig({ hidden_act: 'gelu_new' });
    expect(await fingerprint(folder)).not.toBe(original);
    const seen = new Set([original]);
    const names = [...(await openCheckpoint(fixture('checkpoint'))).tensors.keys()];
    for (const name of names) {
      const change = (tensor: TensorToWrite): TensorToWrite =>
        tensor.name === name ? { ...tensor, data: (tensor.data as Float32Array).map((value) => value + 1) } : tensor;
      seen.add(await fingerprint(await rewrite((tensors) => tensors.map(change))));
    }
    expect(seen.size).toBe(names.length + 1);
  });

  test('covers the first and the last element of a large tensor', async () => {
    const original = await fingerprint(fixture('checkpoint'));
    for (const index of [0, 191]) {
      const change = (tensor: TensorToWrite): TensorToWrite =>
        tensor.name === 'gpt_neox.layers.1.attention.query_key_value.weight'
          ? { ...tensor, data: (tensor.data as Float32Array).with(index, 9) }
          : tensor;
      expect(await fingerprint(await rewrite((tensors) => tensors.map(change)))).not.toBe(original);
    }
  });
});

describe('names', () => {
  test('the head as lm_head, files saved from the bare model, legacy buffers', async () => {
    const original = (await openCheckpoint(fixture('checkpoint'))).fingerprint;
    const buffers = [
      { name: 'layers.0.attention.bias', dtype: 'U8', shape: [1, 1, 2, 2], data: new Uint8Array(4) },
      { name: 'layers.0.attention.masked_bias', dtype: 'F32', shape: [], data: new Float32Array(1) },
      { name: 'layers.1.attention.rotary_emb.inv_freq', dtype: 'F32', shape: [1], data: new Float32Array(1) },
      { name: 'rotary_emb.inv_freq', dtype: 'F32', shape: [1], data: new Float32Array(1) },
    ] as const;
    await rewrite((tensors) => [
      ...renamed(tensors, (name) => name.replace('embed_out', 'lm_head').replace('gpt_neox.', '')),
      ...buffers,
    ]);
    expect(await openCheckpoint(folder)).toMatchObject({ fingerprint: original, warnings: [] });
  });

  test('a tied head is the embedding, whatever the file has', async () => {
    await rewrite((tensors) => tensors);
    setConfig({ tie_word_embeddings: true });
    const both = await openCheckpoint(folder);
    const [embedding, head] = ['gpt_neox.embed_in.weight', 'embed_out.weight'].map(
      (name) => both.tensors.get(name) as TensorEntry,
    ) as [TensorEntry, TensorEntry];
    expect(head).toEqual({ ...embedding, name: 'embed_out.weight' });
    await rewrite((tensors) => tensors.filter(({ name }) => name !== 'embed_out.weight'));
    setConfig({ tie_word_embeddings: true });
    expect((await openCheckpoint(folder)).fingerprint).toBe(both.fingerprint);
  });

  test('tensors of something else are ignored with a warning', async () => {
    const data = new Float32Array(1);
    const others = ['a', 'b', 'c', 'd', 'e', 'f', 'layers.9.mlp.dense_4h_to_h.bias'].map(
      (name) => ({ name, dtype: 'F32', shape: [1], data }) as const,
    );
    await rewrite((tensors) => [...tensors, ...others]);
    expect((await openCheckpoint(folder)).warnings).toEqual([
      'tensors that are no part of a GPT-NeoX model are ignored: a, b, c, d, e and 2 more',
    ]);
  });
});

describe('what is wrong with the tensors', () => {
  test.each<[string, (tensors: TensorToWrite[]) => TensorToWrite[], string, string]>([
    [
      'a missing weight',
      (t) => t.filter(({ name }) => !name.endsWith('1.attention.dense.bias')),
      'NEOX_BAD_CHECKPOINT',
      'gpt_neox.layers.1.attention.dense.bias [8] is missing',
    ],
    [
      'no head',
      (t) => t.filter(({ name }) => name !== 'embed_out.weight'),
      'NEOX_BAD_CHECKPOINT',
      'saved without its output head',
    ],
    [
      'a classifier',
      (t) => renamed(t, (name) => name.replace('embed_out', 'score')),
      'NEOX_UNSUPPORTED',
      'a classification head and no language model head (it has score.weight, as ForSequenceClassification models do)',
    ],
    [
      'a token classifier',
      (t) => renamed(t, (name) => name.replace('embed_out', 'classifier')),
      'NEOX_UNSUPPORTED',
      'a classification head and no language model head (it has classifier.weight, as ForTokenClassification',
    ],
    [
      'a head for answers',
      (t) => renamed(t, (name) => name.replace('embed_out', 'qa_outputs')),
      'NEOX_UNSUPPORTED',
      'a question answering head and no language model head',
    ],
    [
      'a quantised weight',
      (t) => renamed(t, (name) => name.replace('dense.weight', 'dense.qweight')),
      'NEOX_UNSUPPORTED',
      'holds weights that are quantised (GPTQ or AWQ) (it has gpt_neox.layers.0.attention.dense.qweight)',
    ],
    [
      'weights of bitsandbytes',
      (t) => renamed(t, (name) => name.replace('layers.0.attention.dense.bias', 'layers.0.attention.dense.SCB')),
      'NEOX_UNSUPPORTED',
      'holds weights that are quantised by bitsandbytes',
    ],
    [
      'LoRA that is not merged',
      (t) => renamed(t, (name) => name.replace('dense.weight', 'dense.base_layer.weight')),
      'NEOX_UNSUPPORTED',
      'holds LoRA weights of PEFT that are not merged into the model',
    ],
    [
      "PEFT's wrapper",
      (t) => renamed(t, (name) => `base_model.model.${name}`),
      'NEOX_UNSUPPORTED',
      'holds a model inside its PEFT wrapper (it has base_model.model.',
    ],
    [
      'another shape',
      (t) => t.map((tensor) => (tensor.name === 'embed_out.weight' ? { ...tensor, shape: [8, 20] } : tensor)),
      'NEOX_BAD_CHECKPOINT',
      'embed_out.weight has shape [8, 20]; config.json asks for [20, 8]',
    ],
    [
      'integers',
      (t) => t.map((tensor) => (tensor.name === 'embed_out.weight' ? { ...tensor, dtype: 'I32' as const } : tensor)),
      'NEOX_UNSUPPORTED',
      'embed_out.weight in',
    ],
    [
      'two heads',
      (t) => [...t, { name: 'lm_head.weight', dtype: 'F32', shape: [20, 8], data: new Float32Array(160) }],
      'NEOX_BAD_CHECKPOINT',
      'embed_out.weight and lm_head.weight are both embed_out.weight',
    ],
  ])('%s', async (_, change, code, message) => {
    const error = await failure(openCheckpoint(await rewrite(change)));
    expect(error.message).toContain(message);
    expect(error.message).toContain(folder);
    expect(error.code).toBe(code);
  });
});

describe('what is wrong with the folder', () => {
  test('nothing there, a file, no config, an adapter, no weights', async () => {
    expect(await failure(openCheckpoint(join(folder, 'no')))).toMatchObject({
      code: 'NEOX_FILE_NOT_FOUND',
      path: join(folder, 'no'),
    });
    expect((await failure(openCheckpoint(fixture('mixed.safetensors')))).hint).toContain(
      'the folder that holds config.json',
    );
    expect((await failure(openCheckpoint(folder))).message).toContain(`No config.json in ${folder}`);
    expect((await failure(openCheckpoint(fixture('peft')))).hint).toContain('PEFT adapter');
    cpSync(fixture('checkpoint', 'config.json'), join(folder, 'config.json'));
    const error = await failure(openCheckpoint(folder));
    expect(error.code).toBe('NEOX_FILE_NOT_FOUND');
    expect(error.message).toContain(
      'expected one of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json',
    );
  });

  test.each([
    ['{"model_type": "gpt_neox",', 'expected JSON'],
    ['[]', 'expected a JSON object'],
    ['{"a":1,"a":2}', "the key 'a' is given twice"],
    ['\xff', 'expected UTF-8'],
  ])('config.json %j', async (content, message) => {
    copy('checkpoint');
    writeFileSync(join(folder, 'config.json'), content, 'latin1');
    const error = await failure(openCheckpoint(folder));
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ code: 'NEOX_BAD_CONFIG', path: join(folder, 'config.json') });
  });
});

describe('the index of shards', () => {
  function setIndex(
    change: (index: { metadata: { total_size: unknown }; weight_map: Record<string, unknown> }) => unknown,
  ): void {
    const path = join(copy('checkpoint-sharded'), 'model.safetensors.index.json');
    const index = JSON.parse(readFileSync(path, 'utf8')) as Parameters<typeof change>[0];
    writeFileSync(path, JSON.stringify(change(index) ?? index));
  }

  test.each<[string, unknown, string]>([
    [
      'a path',
      '../checkpoint/model.safetensors',
      'expected the plain name of a .safetensors or .bin file for embed_out.weight, found "../checkpoint',
    ],
    ['an absolute path', '/etc/passwd', 'expected the plain name'],
    ['a folder', 'sub/model.safetensors', 'expected the plain name'],
    ['a hidden file', '.model.safetensors', 'expected the plain name'],
    ['a number', 5, 'found 5'],
    ['a shard that is missing', 'model-00003-of-00002.safetensors', 'No such file or folder'],
  ])('with %s', async (_, shard, message) => {
    setIndex(({ weight_map }) => {
      weight_map['embed_out.weight'] = shard;
    });
    expect((await failure(openCheckpoint(folder))).message).toContain(message);
  });

  test('with a shard that does not hold the tensor', async () => {
    setIndex(({ weight_map }) => {
      const others = Object.values(weight_map).filter((shard) => shard !== weight_map['embed_out.weight']);
      weight_map['embed_out.weight'] = others[0];
    });
    expect((await failure(openCheckpoint(folder))).message).toMatch(
      /embed_out.weight should be in model-0000[12]-of-00002.safetensors but is not/,
    );
  });

  test('without a map, and with a wrong total', async () => {
    setIndex(() => ({ metadata: {} }));
    expect((await failure(openCheckpoint(folder))).message).toContain('expected an object weight_map');
    setIndex((index) => {
      index.metadata.total_size = 1;
    });
    expect((await openCheckpoint(folder)).warnings[0]).toMatch(/states a total_size of 1 bytes; its shards hold \d+/);
  });
});

test('mutated headers, indexes and configs give an error of ours or a checkpoint', async () => {
  copy('checkpoint-sharded');
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const original = readFileSync(path);
    for (const bytes of mutate(original.subarray(0, 2500), 80, 3)) {
      writeFileSync(path, Buffer.concat([bytes, original.subarray(2500)]));
      await openCheckpoint(folder).catch(ours);
    }
    writeFileSync(path, original);
  }
  expect((await openCheckpoint(folder)).warnings).toEqual([]);
});

test('a folder in place of a weight file', async () => {
  copy('checkpoint');
  rmSync(join(folder, 'model.safetensors'));
  mkdirSync(join(folder, 'model.safetensors'));
  expect((await failure(openCheckpoint(folder))).message).toContain('it is a folder');
});
