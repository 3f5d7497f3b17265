import { mkdirSync } from 'node:fs';
import type { Logits } from '../../lib/model/forward';
import type { ModelDType } from '../../lib/model/loaded-model';
import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder } from '../../lib/training/encoder';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import { difference, relativeDifference } from '../golden/fixtures';
import {
  type Backend,
  backendsFor,
  type ConfigJson,
  loadModel,
  NATIVE_TRAINER,
  packedBackendsFor,
  Random,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
} from '../helpers';
import { TOLERANCES } from '../tolerances';

const folder = temporaryFolder();
const PACKED = (['float32', 'bfloat16', 'int8'] as const).flatMap((dtype) =>
  packedBackendsFor(dtype).map((backend) => ({ backend, dtype })),
);

const EVERY = (['float32', 'bfloat16', 'float16'] as const).flatMap((dtype) =>
  backendsFor(dtype).map((backend) => ({ backend, dtype })),
);

interface Case {
  config: ConfigJson;
  prefixLength: number;
  /** Tokens of each row. Attention works on 48 queries at a time: some rows are longer. */
  lengths: number[];
}

/**
 * One case for each head size, the rest drawn: other heads, layers, activations, rotary shares and rows in every one.
 */
function drawCases(): Case[] {
  const random = new Random(2024);
  return [8, 9, 16, 20, 31, 48, 64, 80].map((headSize, i) => {
    const heads = random.integer(1, 4);
    const config = {
      vocab_size: random.integer(40, 150),
      hidden_size: heads * headSize,
      num_attention_heads: heads,
      num_hidden_layers: random.integer(1, 3),
      intermediate_size: random.integer(8, 120),
      hidden_act: (['gelu', 'gelu_new', 'quick_gelu', 'relu', 'silu', 'gelu_fast'] as const)[i % 6],
      rotary_pct: random.pick([0.15, 0.25, 0.3, 0.5, 1]),
      rotary_emb_base: random.pick([500, 10_000]),
      use_parallel_residual: i % 2 === 0,
      tie_word_embeddings: i % 3 === 0,
      attention_bias: i % 4 !== 0,
      layer_norm_eps: random.pick([1e-5, 1e-3]),
    };
    const lengths = [random.integer(1, 6), random.integer(100, 130), random.integer(40, 60), 1].slice(0, 2 + (i % 3));
    return { config, prefixLength: i === 0 ? 1 : i === 1 ? 40 : random.integer(1, 40), lengths };
  });
}

const CASES = drawCases();
const paths = new Map<Case, string>();

beforeAll(async () => {
  for (const [i, item] of CASES.entries()) {
    const path = folder.join(String(i));
    mkdirSync(path);
    paths.set(item, await writeRandomModel(path, item.config, 100 + i));
  }
});

const load = (item: Case, backend: Backend, dtype: ModelDType = 'float32', threads = 1): Promise<NeoXModel> =>
  loadModel(paths.get(item) as string, { backend, dtype, threads });

function rowsOf({ lengths, config }: Case): number[][] {
  const random = new Random(7);
  return lengths.map((length) => random.ids(length, config['vocab_size'] as number));
}

/** Every second row has the prefix. */
function mixed(model: NeoXModel, { lengths, prefixLength }: Case): (PrefixWeights | undefined)[] {
  const prefix = randomPrefix(model, prefixLength);
  return lengths.map((_, i) => (i % 2 === 1 ? prefix : undefined));
}

/** The logits [T, V] of each row. */
async function rowLogits(
  model: NeoXModel,
  inputIds: number[][],
  pastKeyValues: (PrefixWeights | undefined)[],
): Promise<Float32Array[]> {
  const { data, shape } = (await model.forward({ inputIds, pastKeyValues })).logits as Logits;
  const [, width, vocab] = shape;
  return inputIds.map((row, i) => data.slice(i * width * vocab, (i * width + row.length) * vocab));
}

interface Training {
  loss: number;
  gradients: Record<string, Float32Array>;
}

async function gradients(model: NeoXModel, item: Case, checkpointing = false): Promise<Training> {
  const encoder = await PrefixEncoder.create(model, {
    prefixLength: item.prefixLength,
    inputDim: 5,
    hiddenDim: 6,
    init: 'random',
    seed: 11,
  });
  const addon = native();
  const trainer = await addon.createTrainer(model.native, encoder.native, {
    ...NATIVE_TRAINER,
    weightDecay: 0,
    checkpointing,
  });
  const { loss } = await addon.trainerAccumulate(model.native, trainer, { ...batchOf(item), lossScale: 1 });
  return { loss, gradients: await addon.trainerGradients(model.native, trainer, encoder.native) };
}

/** The rows as a training batch; some tokens have no target. */
function batchOf(item: Case): { tokens: Int32Array; targets: Int32Array; lengths: Int32Array } {
  const random = new Random(8);
  const rows = rowsOf(item);
  const targets = rows.flatMap((row) =>
    row.map((_, t) =>
      t === 0 || random.next() < 0.8 ? random.integer(0, (item.config['vocab_size'] as number) - 1) : -1,
    ),
  );
  return {
    tokens: Int32Array.from(rows.flat()),
    targets: Int32Array.from(targets),
    lengths: Int32Array.from(item.lengths),
  };
}

const named = CASES.map((item) => ({
  item,
  name: `${JSON.stringify(item.config)}, prefix ${item.prefixLength}, rows ${item.lengths.join()}`,
}));

describe.each(named)('$name', ({ item }) => {
  const inputIds = rowsOf(item);

  test.each(packedBackendsFor('float32'))(
    'the same logits and gradients as the reference backend: %s',
    async (backend) => {
      await using aten = await load(item, 'aten');
      await using packed = await load(item, backend);
      const expected = await rowLogits(aten, inputIds, mixed(aten, item));
      const actual = await rowLogits(packed, inputIds, mixed(packed, item));
      actual.forEach((row, i) =>
        expect(difference(row, expected[i] as Float32Array).max).toBeLessThanOrEqual(TOLERANCES.float32.logits),
      );
      const a = await gradients(aten, item);
      const b = await gradients(packed, item);
      expect(Math.abs(a.loss / b.loss - 1)).toBeLessThanOrEqual(1e-5);
      for (const [name, gradient] of Object.entries(a.gradients)) {
        expect(relativeDifference(b.gradients[name] as Float32Array, gradient)).toBeLessThanOrEqual(
          TOLERANCES.float32.gradientRelative,
        );
      }
    },
  );

  test.each(PACKED)('a row gets the same bits alone as in a batch: $backend, $dtype', async ({ backend, dtype }) => {
    await using model = await load(item, backend, dtype);
    const past = mixed(model, item);
    const together = await rowLogits(model, inputIds, past);
    for (const [i, row] of inputIds.entries()) {
      const [alone] = await rowLogits(model, [row], [past[i]]);
      expect(
        Buffer.from((alone as Float32Array).buffer).equals(Buffer.from((together[i] as Float32Array).buffer)),
      ).toBe(true);
    }
  });

  test.each(EVERY)('checkpointing changes no bit: $backend, $dtype', async ({ backend, dtype }) => {
    await using model = await load(item, backend, dtype);
    expect(await gradients(model, item, true)).toEqual(await gradients(model, item, false));
  });

  test.each(PACKED)('the number of threads changes no bit: $backend, $dtype', async ({ backend, dtype }) => {
    await using one = await load(item, backend, dtype, 1);
    await using two = await load(item, backend, dtype, 2);
    expect(await rowLogits(two, inputIds, mixed(two, item))).toEqual(await rowLogits(one, inputIds, mixed(one, item)));
    expect(await gradients(two, item)).toEqual(await gradients(one, item));
  });

  test.each(backendsFor('float32'))('a cache goes on as if all had been one call: %s', async (backend) => {
    await using model = await load(item, backend);
    const past = mixed(model, item);
    const expected = await rowLogits(model, inputIds, past);
    // Rows of one token get it in the second call only by repeating it: they are compared up to their first token.
    const cut = inputIds.map((row) => Math.max(1, Math.floor(row.length / 3)));
    const first = await model.forward({
      inputIds: inputIds.map((row, i) => row.slice(0, cut[i])),
      pastKeyValues: past,
    });
    const rest = inputIds.map((row, i) => (row.length > (cut[i] as number) ? row.slice(cut[i]) : [0]));
    const second = await model.forward({ inputIds: rest, pastKeyValues: first.pastKeyValues });
    const { data, shape } = second.logits as Logits;
    const [, width, vocab] = shape;
    inputIds.forEach((row, i) => {
      const start = cut[i] as number;
      if (row.length === start) return;
      const actual = data.slice(i * width * vocab, (i * width + row.length - start) * vocab);
      expect(difference(actual, (expected[i] as Float32Array).slice(start * vocab)).max).toBeLessThanOrEqual(
        TOLERANCES.float32.logits,
      );
    });
    // The first cache was not changed: it can be gone on from again, and gives the same.
    const again = await model.forward({ inputIds: rest, pastKeyValues: first.pastKeyValues });
    expect(Buffer.from((again.logits as Logits).data.buffer).equals(Buffer.from(data.buffer))).toBe(true);
  });

  test.each(backendsFor('float32'))('the gradient is the slope of the loss: %s', async (backend) => {
    await using model = await load(item, backend);
    const { gradients: analytic } = await gradients(model, item);
    const encoder = await PrefixEncoder.create(model, {
      prefixLength: item.prefixLength,
      inputDim: 5,
      hiddenDim: 6,
      init: 'random',
      seed: 11,
    });
    const start = await encoder.state();
    const names = Object.keys(start);
    const batch = batchOf(item);
    const tokens = batch.targets.filter((target) => target !== -1).length;
    const lossAt = async (direction: Record<string, Float32Array>, step: number): Promise<number> => {
      const moved = names.map((name) => {
        const { data, shape } = start[name] as { data: Float32Array; shape: number[] };
        return [
          name,
          { shape, data: data.map((value, i) => value + step * (direction[name]?.[i] as number)) },
        ] as const;
      });
      const prefix = await (await PrefixEncoder.fromState(model, Object.fromEntries(moved))).prefix();
      const [handle] = await model.prefixHandles([prefix]);
      return (await native().evaluate(model.native, { ...batch, prefix: handle ?? null })).loss / tokens;
    };
    const norm = Math.sqrt(
      names.reduce((sum, name) => sum + (analytic[name] as Float32Array).reduce((s, g) => s + g * g, 0), 0),
    );
    const random = new Random(9);
    for (let k = 0; k < 3; k++) {
      // Half along the gradient, so that there is a slope to see, half in a direction of chance.
      const chance = Object.fromEntries(
        names.map((name) => [name, random.fill((analytic[name] as Float32Array).length, 1)]),
      );
      const length = Math.sqrt(
        names.reduce((sum, name) => sum + (chance[name] as Float32Array).reduce((s, v) => s + v * v, 0), 0),
      );
      const direction = Object.fromEntries(
        names.map((name) => [
          name,
          (analytic[name] as Float32Array).map((g, i) => g / norm + (chance[name]?.[i] as number) / length),
        ]),
      );
      const slope = names.reduce(
        (sum, name) =>
          sum + (analytic[name] as Float32Array).reduce((s, g, i) => s + g * (direction[name]?.[i] as number), 0),
        0,
      );
      const step = 0.02;
      const measured = ((await lossAt(direction, step)) - (await lossAt(direction, -step))) / (2 * step);
      expect(Math.abs(measured - slope)).toBeLessThanOrEqual(0.01 * norm + 1e-4);
    }
  });
});

// Elementwise operations are shared out over threads by elements, unless somebody takes care that rows stay whole.
test.each(
  ['gelu', 'gelu_new', 'quick_gelu', 'silu'].flatMap((hidden_act) =>
    PACKED.map((packed) => ({ hidden_act, ...packed })),
  ),
)(
  'the number of threads changes no bit of many long rows: $hidden_act, $backend, $dtype',
  async ({ hidden_act, backend, dtype }) => {
    const path = folder.join(`${hidden_act}-${backend}-${dtype}`);
    mkdirSync(path);
    const item = {
      config: {
        vocab_size: 50,
        hidden_act,
        intermediate_size: 150,
        num_hidden_layers: 2,
        max_position_embeddings: 600,
      },
      prefixLength: 3,
      lengths: [401, 150],
    };
    paths.set(item, await writeRandomModel(path, item.config, 5));
    await using one = await load(item, backend, dtype, 1);
    await using three = await load(item, backend, dtype, 3);
    expect(await rowLogits(three, rowsOf(item), mixed(three, item))).toEqual(
      await rowLogits(one, rowsOf(item), mixed(one, item)),
    );
    expect(await gradients(three, item)).toEqual(await gradients(one, item));
  },
);

test('the number of threads changes no bit of a trained prefix', async () => {
  const item = CASES.at(-1) as Case;
  const train = rowsOf(item).map((completion) => ({ completion }));
  const prefixes = [];
  for (const threads of [1, 3]) {
    await using model = await load(item, backendsFor('float32')[0] as Backend, 'float32', threads);
    const options = {
      prefixLength: 6,
      hiddenDim: 40,
      dropout: 0.1,
      initSteps: 5,
      epochs: 3,
      batchSize: 1,
      accumulationSteps: 2,
      learningRate: 0.01,
    };
    prefixes.push((await new PrefixTrainer(model, options).train({ train })).last.data);
  }
  expect(prefixes[1]).toEqual(prefixes[0]);
});
