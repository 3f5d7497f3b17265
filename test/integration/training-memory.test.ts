import { mkdirSync, writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname } from 'node:path';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder } from '../../lib/training/encoder';
import { availableMemory, availableMemoryBelow, predictTrainingMemory } from '../../lib/training/memory';
import { backendsFor, loadModel, NATIVE_TRAINER, Random, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const addon = native();

/** Heads of 64, so that every tensor of a batch is large enough to be counted. */
const SHAPES = [
  {
    name: 'sequential',
    config: { hidden_size: 128, intermediate_size: 512, num_hidden_layers: 3, vocab_size: 500 },
    rows: 7,
    length: 90,
  },
  {
    name: 'parallel, wide, few layers',
    config: {
      hidden_size: 128,
      intermediate_size: 768,
      num_hidden_layers: 2,
      vocab_size: 3000,
      use_parallel_residual: true,
    },
    rows: 3,
    length: 200,
  },
];
const CASES = SHAPES.flatMap((shape) =>
  (['float32', 'bfloat16', 'int8'] as const).flatMap((dtype) =>
    // bfloat16 without instructions for it is slow in libtorch's own products; once is enough.
    backendsFor(dtype)
      .filter((backend) => backend !== 'aten' || dtype === 'float32' || shape.rows < 5)
      .flatMap((backend) => [false, true].map((checkpointing) => ({ ...shape, dtype, backend, checkpointing }))),
  ),
);

test.each(CASES)('predicted is what is used: $name, $dtype, $backend, checkpointing $checkpointing', async (item) => {
  const path = folder.join(item.name);
  mkdirSync(path, { recursive: true });
  await using model = await loadModel(await writeRandomModel(path, item.config), {
    dtype: item.dtype,
    backend: item.backend,
  });
  const sizes = { prefixLength: 5, inputDim: 10, hiddenDim: 10 };
  const encoder = await PrefixEncoder.create(model, { ...sizes, init: 'random' });
  const { tokens, ...batch } = batchOf(item);
  const shape = {
    tokens: tokens.length,
    longestRow: item.length,
    ...sizes,
    projection: true,
    checkpointing: item.checkpointing,
    copyWeights: true,
  };
  const before = predictTrainingMemory(model, shape);
  const trainer = await addon.createTrainer(model.native, encoder.native, {
    ...NATIVE_TRAINER,
    checkpointing: item.checkpointing,
  });
  expect(predictTrainingMemory(model, shape)).toEqual(before);
  expect(before.weights).toBe(model.info().weightBytes);

  for (let i = 0; i < 2; i++) await addon.trainerAccumulate(model.native, trainer, { tokens, ...batch, lossScale: 1 });
  const predicted = before.activations + before.workspace;
  const { peakBytes } = addon.modelInfo(model.native);
  expect(predicted).toBeGreaterThan(0.95 * peakBytes);
  // What each thread needs for attention is not in the pool, and there may be many threads.
  expect(predicted).toBeLessThan(1.4 * peakBytes);
  expect(before.total).toBe(before.weights + predicted + before.encoder);
  await addon.trainerReset(model.native, trainer);
  expect(addon.modelInfo(model.native).peakBytes).toBe(0);
});

function batchOf({ config, rows, length }: (typeof SHAPES)[number]): {
  tokens: Int32Array;
  targets: Int32Array;
  lengths: Int32Array;
} {
  const random = new Random(1);
  const tokens = Int32Array.from(random.ids(rows * length, config.vocab_size));
  return {
    tokens,
    targets: tokens.map((id, i) => (i % 10 === 0 ? -1 : id)),
    lengths: new Int32Array(rows).fill(length),
  };
}

test('checkpointing takes a third of the memory, or less', async () => {
  const path = folder.join('deep');
  mkdirSync(path);
  const config = { hidden_size: 128, intermediate_size: 512, num_hidden_layers: 10, vocab_size: 500 };
  await using model = await loadModel(await writeRandomModel(path, config));
  const encoder = await PrefixEncoder.create(model, { init: 'random' });
  const peaks: number[] = [];
  for (const checkpointing of [false, true]) {
    const trainer = await addon.createTrainer(model.native, encoder.native, { ...NATIVE_TRAINER, checkpointing });
    await addon.trainerAccumulate(model.native, trainer, {
      ...batchOf({ name: '', config, rows: 4, length: 150 }),
      lossScale: 1,
    });
    peaks.push(addon.modelInfo(model.native).peakBytes);
    await addon.trainerReset(model.native, trainer);
  }
  expect(peaks[1]! / peaks[0]!).toBeLessThan(1 / 3);
});

test('an evaluation gives its memory back, unless a training will want it', async () => {
  const path = folder.join('evaluated');
  mkdirSync(path);
  const shape = SHAPES[0]!;
  await using model = await loadModel(await writeRandomModel(path, shape.config));
  const batch = batchOf(shape);
  await addon.evaluate(model.native, batch);
  expect(addon.modelInfo(model.native).peakBytes).toBe(0);
  const trainer = await addon.createTrainer(
    model.native,
    (await PrefixEncoder.create(model, { init: 'random' })).native,
    {
      ...NATIVE_TRAINER,
      checkpointing: false,
    },
  );
  await addon.trainerAccumulate(model.native, trainer, { ...batch, lossScale: 1 });
  const { peakBytes } = addon.modelInfo(model.native);
  expect(peakBytes).toBeGreaterThan(0);
  await addon.evaluate(model.native, batch);
  expect(addon.modelInfo(model.native).peakBytes).toBe(peakBytes);
});

describe('a bigger encoder, model or prefix costs more', () => {
  const sizes = {
    tokens: 400,
    longestRow: 100,
    prefixLength: 10,
    projection: true,
    inputDim: 10,
    hiddenDim: 10,
    checkpointing: false,
    copyWeights: true,
  };
  test('as its parameters do', async () => {
    const path = folder.join('tiny');
    mkdirSync(path);
    await using model = await loadModel(await writeRandomModel(path));
    const encoder = (change: object): number => predictTrainingMemory(model, { ...sizes, ...change }).encoder;
    const output = 2 * 2 * 32;
    // Parameters, gradient, two moments and a temporary, of 4 bytes.
    expect(encoder({ hiddenDim: 1010 }) - encoder({})).toBe(20 * 1000 * (10 + 1 + output));
    expect(encoder({ projection: false, inputDim: output, hiddenDim: 0 })).toBe((20 + 24) * 10 * output);
  });
});

describe('available memory', () => {
  const MACHINE = 'MemTotal:       100000 kB\nMemFree: 5 kB\nMemAvailable:    8000 kB\n';
  let count = 0;
  const below = (files: Record<string, string>): number => {
    const root = folder.join(`root-${count++}`);
    for (const [path, text] of Object.entries({ 'proc/meminfo': MACHINE, ...files })) {
      mkdirSync(dirname(`${root}/${path}`), { recursive: true });
      writeFileSync(`${root}/${path}`, text);
    }
    return availableMemoryBelow(root);
  };
  const V2 = 'sys/fs/cgroup';
  const V1 = 'sys/fs/cgroup/memory';

  test.each<{ name: string; files: Record<string, string>; bytes: number }>([
    { name: 'the machine', files: {}, bytes: 8_192_000 },
    {
      name: 'a group of version 2, without the file pages that can go',
      files: {
        'proc/self/cgroup': '0::/\n',
        [`${V2}/memory.max`]: '5000000\n',
        [`${V2}/memory.current`]: '3000000\n',
        [`${V2}/memory.stat`]: 'anon 5\nfile 800000\ninactive_file 500000\nactive_file 300000\n',
      },
      bytes: 2_500_000,
    },
    {
      name: 'a group of version 2 without a limit',
      files: { 'proc/self/cgroup': '0::/\n', [`${V2}/memory.max`]: 'max\n', [`${V2}/memory.current`]: '3000000\n' },
      bytes: 8_192_000,
    },
    {
      name: 'a group above its own',
      files: {
        'proc/self/cgroup': '0::/user/run\n',
        [`${V2}/user/memory.max`]: '4000000\n',
        [`${V2}/user/memory.current`]: '3000000\n',
        [`${V2}/user/run/memory.max`]: '3000000\n',
        [`${V2}/user/run/memory.current`]: '1000000\n',
      },
      bytes: 1_000_000,
    },
    {
      name: 'a group of version 1, with a path that only the host has',
      files: {
        'proc/self/cgroup': '5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n',
        [`${V1}/memory.limit_in_bytes`]: '6000000\n',
        [`${V1}/memory.usage_in_bytes`]: '2000000\n',
        [`${V1}/memory.stat`]: 'inactive_file 9\ntotal_inactive_file 1000000\n',
      },
      bytes: 5_000_000,
    },
    {
      name: 'a group that is full',
      files: { 'proc/self/cgroup': '0::/\n', [`${V2}/memory.max`]: '1000\n', [`${V2}/memory.current`]: '3000\n' },
      bytes: 0,
    },
  ])('of $name', ({ files, bytes }) => expect(below(files)).toBe(bytes));

  test('of a system without these files', () => {
    const apart = Math.abs(availableMemoryBelow(folder.join('none')) / freemem() - 1);
    expect(apart).toBeLessThan(0.2);
  });

  test('of this one', () => {
    expect(availableMemory()).toBeGreaterThan(1e7);
    expect(availableMemory()).toBeLessThan(1e15);
  });
});
