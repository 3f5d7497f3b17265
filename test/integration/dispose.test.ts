import { mkdirSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixEncoder } from '../../lib/training/encoder';
import { evaluate } from '../../lib/training/evaluate';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import { failureOf, loadModel, Random, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const SAMPLES = Array.from({ length: 8 }, (_, i) => ({ completion: new Random(i).ids(20, 64) }));
const load = (): Promise<NeoXModel> => loadModel(folder.path);

beforeAll(() => writeRandomModel(folder.path));

test('dispose is idempotent, and Symbol.asyncDispose does it', async () => {
  const model = await load();
  expect(model.disposed).toBe(false);
  const first = model.dispose();
  expect(model.disposed).toBe(true);
  expect(model.dispose()).toBe(first);
  await first;
  await model.dispose();

  let inside: NeoXModel;
  {
    await using scoped = await load();
    inside = scoped;
    expect(inside.disposed).toBe(false);
  }
  expect(inside.disposed).toBe(true);
});

test('dispose waits for what is in flight, which ends well', async () => {
  const model = await load();
  const order: string[] = [];
  const inputIds = [new Random(1).ids(200, 64)];
  // In the same turn: neither has reached the native queue when dispose is called.
  const works = [
    model.forward({ inputIds }).then(({ logits }) => order.push(`forward ${String(logits?.shape)}`)),
    model
      .generate([1, 2], { maxNewTokens: 50, ignoreEos: true, prefix: randomPrefix(model, 3) })
      .then(({ tokens }) => order.push(`generate ${tokens.length}`)),
  ];
  const failed = model.generate([1], { prefix: randomPrefix(model, 256) });
  await Promise.all([model.dispose(), failureOf(failed)]);
  order.push('dispose');
  await Promise.all(works);
  // Which of the two tells first is not promised.
  expect(order.slice(0, 2).sort()).toEqual(['forward 1,200,64', 'generate 50']);
  expect(order[2]).toBe('dispose');
});

test('training that is in flight when its model is disposed rejects', async () => {
  const model = await load();
  const trainer = new PrefixTrainer(model, { init: 'random' });
  const work = trainer.train({ train: SAMPLES }, { onEvent: ({ type }) => type === 'step' && void model.dispose() });
  expect(await failureOf(work)).toMatchObject({
    name: 'NeoXPrefixError',
    code: 'NEOX_DISPOSED',
    message: `The model ${folder.path} is disposed`,
  });
});

describe('after dispose', () => {
  let model: NeoXModel;
  let encoder: PrefixEncoder;
  let uses: Record<string, () => unknown>;

  beforeAll(async () => {
    model = await load();
    const { pastKeyValues: cache } = await model.forward({ inputIds: [[1, 2]] });
    encoder = await PrefixEncoder.create(model, { init: 'random' });
    const state = await encoder.state();
    const trainer = new PrefixTrainer(model);
    await model.dispose();
    uses = {
      forward: () => model.forward({ inputIds: [[1]] }),
      'forward with a cache': () => model.forward({ inputIds: [[1]], pastKeyValues: cache }),
      generate: () => model.generate([1]),
      'generate of a batch': () => model.generate([[1], [2]]),
      stream: () => model.stream([1]),
      'cache.read': () => cache.read(),
      'encoder.prefix': () => encoder.prefix(),
      'encoder.state': () => encoder.state(),
      'encoder.save': () => encoder.save(folder.join('encoder.safetensors')),
      'PrefixEncoder.create': () => PrefixEncoder.create(model),
      'PrefixEncoder.fromState': () => PrefixEncoder.fromState(model, state),
      train: () => trainer.train({ train: SAMPLES }),
      evaluate: () => evaluate(model, SAMPLES),
      'evaluate with a prefix': () => evaluate(model, SAMPLES, { prefix: randomPrefix(model, 2) }),
    };
    expect(cache.disposed).toBe(true);
  });

  test.each([
    'forward',
    'forward with a cache',
    'generate',
    'generate of a batch',
    'stream',
    'encoder.prefix',
    'encoder.state',
    'encoder.save',
    'PrefixEncoder.create',
    'train',
    'evaluate',
    'evaluate with a prefix',
    'cache.read',
    'PrefixEncoder.fromState',
  ])('%s is refused', async (name) => {
    const error = await failureOf(uses[name] as () => unknown);
    expect(error).toMatchObject({
      name: 'NeoXPrefixError',
      code: 'NEOX_DISPOSED',
      message: `The model ${folder.path} is disposed`,
    });
  });

  test('what needs no weights still answers', () => {
    expect(model.info()).toMatchObject({ directory: folder.path, dtype: 'float32' });
    expect(model.config.numLayers).toBe(2);
    expect(model.dtype).toBe('float32');
  });
});

test('a cache and an encoder can be disposed by themselves', async () => {
  await using model = await load();
  const { pastKeyValues: cache } = await model.forward({ inputIds: [[1, 2]] });
  const going = await model.forward({ inputIds: [[3]], pastKeyValues: cache });
  cache.dispose();
  cache.dispose();
  expect(cache.disposed).toBe(true);
  expect(cache.lengths).toEqual([2]);
  const refused = { code: 'NEOX_DISPOSED', message: 'This KV cache is disposed' };
  expect(await failureOf(cache.read())).toMatchObject(refused);
  expect(await failureOf(model.forward({ inputIds: [[1]], pastKeyValues: cache }))).toMatchObject(refused);
  // A cache that went on from it shares its memory and lives on.
  expect((await going.pastKeyValues.read()).shape).toEqual([3, 2, 2, 2, 16]);
  {
    using scoped = going.pastKeyValues;
    expect(scoped.disposed).toBe(false);
  }
  expect(going.pastKeyValues.disposed).toBe(true);

  const encoder = await PrefixEncoder.create(model, { init: 'random' });
  const pending = encoder.prefix();
  encoder.dispose();
  encoder[Symbol.dispose]();
  expect((await pending).prefixLength).toBe(10);
  expect(await failureOf(encoder.prefix())).toMatchObject({
    code: 'NEOX_DISPOSED',
    message: 'This prefix encoder is disposed',
  });
});

test('a prefix outlives the model it was used with, and works with the next', async () => {
  const first = await load();
  const prefix = randomPrefix(first, 4);
  const options = { prefix, temperature: 0, maxNewTokens: 10 };
  const { tokens } = await first.generate([1, 2], options);
  await first.dispose();
  await using second = await load();
  expect((await second.generate([1, 2], options)).tokens).toEqual(tokens);
});

const residentBytes = (): number => process.memoryUsage.rss();
const MEGABYTE = 2 ** 20;

test('dispose gives back what malloc would keep', async () => {
  const wide = folder.join('wide');
  mkdirSync(wide);
  const shape = {
    hidden_size: 256,
    num_attention_heads: 4,
    num_hidden_layers: 6,
    intermediate_size: 1024,
    vocab_size: 8000,
  };
  await writeRandomModel(wide, shape, 2);
  const rows = Array.from({ length: 8 }, (_, i) => new Random(i).ids(63, 8000));
  let given = 0;
  for (let i = 0; i < 5; i++) {
    const model = await loadModel(wide, { dtype: 'bfloat16', pack: 'both' });
    await model.generate(rows, { maxNewTokens: 5, ignoreEos: true });
    const trainer = new PrefixTrainer(model, { epochs: 1, batchSize: 8, init: 'random' });
    await trainer.train({ train: rows.map((completion) => ({ completion })) });
    const before = residentBytes();
    await model.dispose();
    given += before - residentBytes();
  }
  // 64 without the rest of what malloc has.
  expect(given / MEGABYTE).toBeGreaterThan(100);
});

describe('memory stays flat', () => {
  test('over 30 loads', async () => {
    // 3 MB of weights, three times with their packed copies: what stayed of each would show.
    const big = folder.join('big');
    mkdirSync(big);
    await writeRandomModel(big, { hidden_size: 128, num_hidden_layers: 4, intermediate_size: 512 }, 2);
    for (let i = 0; i < 5; i++) await (await loadModel(big, { pack: 'both' })).dispose();
    const before = residentBytes();
    for (let i = 0; i < 30; i++) await (await loadModel(big, { pack: 'both' })).dispose();
    expect((residentBytes() - before) / MEGABYTE).toBeLessThan(60);
  });

  test('over 200 generations and caches that nobody disposes', async () => {
    await using model = await load();
    const prompt = new Random(1).ids(30, 64);
    const prefix = randomPrefix(model, 200);
    const round = async (): Promise<void> => {
      await model.generate(prompt, { maxNewTokens: 2, prefix });
      await model.forward({ inputIds: [prompt], logits: 'none', pastKeyValues: randomPrefix(model, 200) });
    };
    for (let i = 0; i < 30; i++) await round();
    const before = residentBytes();
    for (let i = 0; i < 200; i++) await round();
    // Each round makes a prefix of 200 positions and a cache that goes with it, natively and here: 100 KB and more.
    expect((residentBytes() - before) / MEGABYTE).toBeLessThan(25);
  });
});
