/**
 * The addon's trainer: exact resumption, dropout, weight decay, loss scaling, and training a prefix without a
 * projection.
 */
import { mkdirSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder, type PrefixEncoderOptions } from '../../lib/training/encoder';
import type * as Native from '../../types/native';
import { difference, relativeDifference } from '../golden/fixtures';
import {
  backendsFor,
  expectRefusal,
  failureOf,
  loadModel,
  NATIVE_TRAINER,
  Random,
  temporaryFolder,
  writeRandomModel,
} from '../helpers';
import { TOLERANCES } from '../tolerances';

const folder = temporaryFolder();
const addon = native();
const SIZES = { prefixLength: 4, inputDim: 5, hiddenDim: 6, init: 'random' } as const;
const STEP = { learningRate: 0.01, gradClip: 1 };
let path: string;
let model: NeoXModel;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  path = await writeRandomModel(folder.join('model'));
  model = await loadModel(path, { backend: 'aten' });
});
afterAll(() => model.dispose());

function batch(seed: number, lossScale = 1): Native.TrainingBatch {
  const random = new Random(seed);
  const lengths = [3 + (seed % 5), 1, 12];
  const ids = (): Int32Array => Int32Array.from(lengths.flatMap((length) => random.ids(length, 64)));
  const targets = ids().map((id, i) => (i % 4 === 1 ? -1 : id));
  return { tokens: ids(), targets, lengths: Int32Array.from(lengths), lossScale };
}

interface Training {
  model: NeoXModel;
  encoder: PrefixEncoder;
  trainer: Native.Trainer;
}

async function start(
  changes: Partial<Native.TrainerOptions> = {},
  encoderOptions: PrefixEncoderOptions = {},
  over: NeoXModel = model,
): Promise<Training> {
  const encoder = await PrefixEncoder.create(
    over,
    encoderOptions.projection === false ? encoderOptions : { ...SIZES, ...encoderOptions },
  );
  return {
    model: over,
    encoder,
    trainer: await addon.createTrainer(over.native, encoder.native, { ...NATIVE_TRAINER, ...changes }),
  };
}

const accumulate = ({ model: over, trainer }: Training, what: Native.TrainingBatch): Promise<Native.LossSum> =>
  addon.trainerAccumulate(over.native, trainer, what);
const step = ({ model: over, trainer }: Training, options = STEP): Promise<Native.StepResult> =>
  addon.trainerStep(over.native, trainer, options);
const stateOf = ({ model: over, trainer }: Training): Promise<Native.TrainerState> =>
  addon.trainerState(over.native, trainer);
const gradientsOf = ({ model: over, trainer, encoder }: Training): Promise<Native.EncoderState> =>
  addon.trainerGradients(over.native, trainer, encoder.native);

describe('gradients without second copies of the weights', () => {
  // Odd sizes, and several panels of 64 in each direction.
  const config = {
    hidden_size: 72,
    intermediate_size: 150,
    num_attention_heads: 4,
    num_hidden_layers: 2,
    vocab_size: 131,
  };

  test.each(['float32', 'bfloat16', 'int8'] as const)('are those with them, bit for bit: %s', async (dtype) => {
    const odd = folder.join(`odd-${dtype}`);
    mkdirSync(odd);
    await writeRandomModel(odd, config);
    const results: object[] = [];
    for (const copyWeights of [true, false]) {
      await using over = await loadModel(odd, { dtype, backend: 'native' });
      const { backwardBytes, leastBackwardBytes, weightBytes } = addon.modelInfo(over.native);
      expect(leastBackwardBytes).toBe(0);
      expect(backwardBytes).toBeGreaterThan(0.5 * weightBytes);
      const training = await start({ copyWeights }, {}, over);
      await accumulate(training, batch(1));
      results.push(await gradientsOf(training));
      expect(addon.modelInfo(over.native).weightBytes).toBe(copyWeights ? weightBytes + backwardBytes : weightBytes);
    }
    expect(results[1]).toEqual(results[0]);
  });
});

describe('a state and the encoder restore a trainer', () => {
  const BATCHES = 9;
  const encoderOptions = { dropout: 0.3, seed: 2 ** 40 + 5 };

  /** Three batches a step; before batch `interruption` everything is made anew from the states. */
  async function train(over: NeoXModel, checkpointing: boolean, interruption?: number): Promise<object> {
    let training = await start({ checkpointing }, encoderOptions, over);
    const log: object[] = [];
    for (let i = 0; i < BATCHES; i++) {
      if (i === interruption) {
        const [encoder, state] = [await training.encoder.state(), await stateOf(training)];
        expect(state.gradient === null).toBe(i % 3 === 0);
        const fresh = await PrefixEncoder.fromState(over, encoder, encoderOptions);
        const trainer = await addon.createTrainer(over.native, fresh.native, { ...NATIVE_TRAINER, checkpointing });
        await addon.setTrainerState(over.native, trainer, state);
        expect(await addon.trainerState(over.native, trainer)).toEqual(state);
        training = { model: over, encoder: fresh, trainer };
      }
      log.push(await accumulate(training, batch(i)));
      if (i % 3 === 2) log.push(await step(training));
    }
    return { log, encoder: await training.encoder.state(), trainer: await stateOf(training) };
  }

  test.each(
    backendsFor('float32').flatMap((backend) => [false, true].map((checkpointing) => ({ backend, checkpointing }))),
  )('at any point, bit for bit: $backend, checkpointing $checkpointing', async ({ backend, checkpointing }) => {
    await using over = await loadModel(path, { backend });
    const expected = await train(over, checkpointing);
    for (let i = 0; i < BATCHES; i++) expect(await train(over, checkpointing, i)).toEqual(expected);
  });

  test('with what was accumulated, and nothing else', async () => {
    const training = await start({}, encoderOptions);
    await accumulate(training, batch(1));
    const state = await stateOf(training);
    const { loss } = await step(training);
    await addon.setTrainerState(model.native, training.trainer, state);
    // The encoder has moved on, the loss that was summed has not.
    expect((await step(training)).loss).toBe(loss);
    expect(state).toMatchObject({ steps: 0, loss: loss * state.tokens });
    expect(state.gradient).toHaveLength(2 * 2 * 32 * 4);
  });

  test.each([
    { part: 'mean', length: 1, expected: 4 * 5 + 6 * 5 + 6 + 128 * 6 + 128 },
    { part: 'square', length: 0, expected: 4 * 5 + 6 * 5 + 6 + 128 * 6 + 128 },
    { part: 'gradient', length: 511, expected: 512 },
  ])('and $part of another size is refused', async ({ part, length, expected }) => {
    const training = await start();
    await accumulate(training, batch(1));
    const before = await stateOf(training);
    const error = await failureOf(
      addon.setTrainerState(model.native, training.trainer, { ...before, steps: 7, [part]: new Float32Array(length) }),
    );
    expect(error).toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: `The trainer state's ${part} has ${length} elements, expected ${expected}`,
    });
    expect(await stateOf(training)).toEqual(before);
  });

  test('and a reset drops what was accumulated', async () => {
    const training = await start();
    const fresh = await stateOf(training);
    await accumulate(training, batch(1));
    await addon.trainerReset(model.native, training.trainer);
    expect(await stateOf(training)).toEqual(fresh);
    await expect(step(training)).rejects.toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: 'A training step needs a batch with target tokens',
    });
  });
});

describe('dropout', () => {
  const lossOf = async (training: Training): Promise<number> => (await accumulate(training, batch(1))).loss;

  test('has one mask a step, drawn from the seed and the number of the step', async () => {
    const training = await start({ weightDecay: 0 }, { dropout: 0.5, seed: 3 });
    const first = await lossOf(training);
    expect(await lossOf(training)).toBe(first);
    await step(training, { learningRate: 0, gradClip: 1 });
    const second = await lossOf(training);
    expect(second).not.toBe(first);
    await addon.setTrainerState(model.native, training.trainer, { ...(await stateOf(training)), steps: 0 });
    expect(await lossOf(training)).toBe(first);
    // The other seed gives other initial values, so these are taken along.
    const encoder = await PrefixEncoder.fromState(model, await training.encoder.state(), { dropout: 0.5, seed: 4 });
    const trainer = await addon.createTrainer(model.native, encoder.native, NATIVE_TRAINER);
    expect([first, second]).not.toContain(await lossOf({ model, encoder, trainer }));
  });

  test('drops its share and keeps the mean', async () => {
    const training = await start({}, { dropout: 0.25, projection: false, prefixLength: 200, init: 'zero' });
    await accumulate(training, batch(1));
    const { 'prefix_wte.weight': dropped } = await gradientsOf(training);
    const whole = await start({}, { projection: false, prefixLength: 200, init: 'zero' });
    await accumulate(whole, batch(1));
    const { 'prefix_wte.weight': kept } = await gradientsOf(whole);
    const zeros = dropped!.filter((value, i) => value === 0 && kept![i] !== 0).length;
    const possible = kept!.filter((value) => value !== 0).length;
    expect(Math.abs(zeros / possible - 0.25)).toBeLessThan(0.01);
    const scaled = kept!.filter((_, i) => dropped![i] !== 0).map((value) => value / 0.75);
    expect(
      relativeDifference(
        dropped!.filter((value) => value !== 0),
        scaled,
      ),
    ).toBeLessThan(1e-6);
  });

  test('of the fit gives one result for one seed', async () => {
    const options = { ...SIZES, init: 'tokens', initSteps: 20, dropout: 0.3 } as const;
    const [one, two] = [await PrefixEncoder.create(model, options), await PrefixEncoder.create(model, options)];
    expect(await two.state()).toEqual(await one.state());
    const other = await PrefixEncoder.create(model, { ...options, dropout: 0 });
    expect(await other.state()).not.toEqual(await one.state());
  });
});

test("weight decay: 'all' takes the biases, 'weights' leaves them, and all else is the same", async () => {
  const after: Native.EncoderState[] = [];
  let before: Native.EncoderState = {};
  for (const decay of ['weights', 'all'] as const) {
    const training = await start({ decay, weightDecay: 0.5 });
    before = await addon.encoderState(model.native, training.encoder.native);
    await accumulate(training, batch(1));
    await step(training, { learningRate: 0.1, gradClip: 1 });
    after.push(await addon.encoderState(model.native, training.encoder.native));
  }
  const [weights, all] = after;
  for (const [name, values] of Object.entries(before)) {
    if (!name.endsWith('bias')) {
      expect(all![name]).toEqual(weights![name]);
      continue;
    }
    const expected = values.map((value, i) => (weights![name]![i] as number) - 0.05 * value);
    expect(difference(all![name]!, expected).max).toBeLessThan(1e-6);
    expect(difference(all![name]!, weights![name]!).max).toBeGreaterThan(1e-3);
  }
});

describe('a batch that is none is refused', () => {
  const good = batch(1);
  const BAD = 'A batch has as many targets as tokens, in rows that cover them';
  test.each([
    { name: 'too few targets', change: { targets: new Int32Array(3) }, text: BAD },
    { name: 'rows that end early', change: { lengths: Int32Array.of(1, 2) }, text: BAD },
    { name: 'rows that end late', change: { lengths: Int32Array.of(30) }, text: BAD },
    { name: 'an empty row', change: { lengths: Int32Array.of(good.tokens.length, 0) }, text: BAD },
    { name: 'a row of negative length', change: { lengths: Int32Array.of(good.tokens.length + 1, -1) }, text: BAD },
    {
      name: 'no rows',
      change: { lengths: new Int32Array(0), tokens: new Int32Array(0), targets: new Int32Array(0) },
      text: BAD,
    },
    { name: 'an id', change: { tokens: good.tokens.map(() => 64) }, text: 'The token id 64 is not in the vocabulary' },
    {
      name: 'a target',
      change: { targets: good.targets.map(() => 64) },
      text: 'The target 64 is not in the vocabulary',
    },
    {
      name: 'a target below',
      change: { targets: good.targets.map(() => -2) },
      text: 'The target -2 is not in the vocabulary',
    },
    {
      name: 'a row that is too long',
      change: { lengths: Int32Array.of(253), tokens: new Int32Array(253), targets: new Int32Array(253) },
      code: 'NEOX_TOO_LONG',
      text: "A row of 257 positions (prefix included) is longer than the model's 256",
    },
  ])('$name', async ({ change, code = 'NEOX_BAD_ARGUMENT', text }) => {
    const training = await start();
    expect(await failureOf(accumulate(training, { ...good, ...change }))).toMatchObject({ code, message: text });
    expect((await stateOf(training)).gradient).toBeNull();
  });
});

describe('loss scaling', () => {
  test('by a power of two changes no bit in float32', async () => {
    const plain = await start();
    await accumulate(plain, batch(1));
    const scaled = await start();
    await accumulate(scaled, batch(1, 2 ** 12));
    expect(await gradientsOf(scaled)).toEqual(await gradientsOf(plain));
  });

  describe.each(backendsFor('float16'))('in float16, %s', (backend) => {
    let half: NeoXModel;
    beforeAll(async () => {
      half = await loadModel(path, { dtype: 'float16', backend });
    });
    afterAll(() => half.dispose());

    /** How far the gradient of the prefix lies from float32's. */
    async function apart(lossScale: number): Promise<number> {
      const reference = await start();
      await accumulate(reference, batch(1));
      const training = await start({}, {}, half);
      await accumulate(training, batch(1, lossScale));
      const [expected, actual] = [await stateOf(reference), await stateOf(training)];
      return relativeDifference(actual.gradient!, expected.gradient!);
    }

    test.each([1, 2 ** 7])('the gradient is that of float32 within the tolerance, scaled by %p', async (lossScale) => {
      expect(await apart(lossScale)).toBeLessThanOrEqual(TOLERANCES.float16.gradientRelative);
    });

    test('what would be lost is saved by a scale', async () => {
      // As if the model made all gradients small, which one that is well trained does: below 6e-8 there is only 0.
      const lost = await apart(2 ** -14);
      expect(lost).toBeGreaterThan(2 * TOLERANCES.float16.gradientRelative);
    });

    test('an overflow of any batch leaves everything as it was', async () => {
      const training = await start({}, {}, half);
      await accumulate(training, batch(1));
      await step(training);
      const before = [await stateOf(training), await training.encoder.state()];
      for (const order of [
        [2 ** 40, 1],
        [1, 2 ** 40],
      ]) {
        const sums: Native.LossSum[] = [];
        for (const scale of order) sums.push(await accumulate(training, batch(2, scale)));
        const result = await step(training);
        expect(Number.isFinite(result.gradNorm)).toBe(false);
        expect(result).toMatchObject({ applied: false, tokens: 2 * sums[0]!.tokens });
        expect(result.loss).toBe((sums[0]!.loss + sums[1]!.loss) / result.tokens);
        expect([await stateOf(training), await training.encoder.state()]).toEqual(before);
      }
      await accumulate(training, batch(2));
      expect(await step(training)).toMatchObject({ applied: true });
      expect((await stateOf(training)).steps).toBe(2);
    });

    test('a trainer restored after an overflow remembers it', async () => {
      const training = await start({}, {}, half);
      await accumulate(training, batch(2, 2 ** 40));
      const state = await stateOf(training);
      await addon.trainerReset(half.native, training.trainer);
      await addon.setTrainerState(half.native, training.trainer, state);
      await accumulate(training, batch(3));
      expect(await step(training)).toMatchObject({ applied: false });
    });
  });
});

describe('without a projection', () => {
  const create = (options: PrefixEncoderOptions = {}): Promise<PrefixEncoder> =>
    PrefixEncoder.create(model, { prefixLength: 6, projection: false, ...options });

  test("'tokens' is exactly the model's own keys and values", async () => {
    const encoder = await create();
    const { pastKeyValues } = await model.forward({ inputIds: [[0, 1, 2, 3, 4, 5]], logits: 'none' });
    expect((await encoder.prefix()).data).toEqual((await pastKeyValues.read()).data);
    expect(encoder).toMatchObject({ projection: false, prefixLength: 6, inputDim: 128, hiddenDim: 0, initError: 0 });
  });

  test("'random' is N(0, 1), by the seed", async () => {
    const { data } = await (await create({ init: 'random', prefixLength: 200 })).prefix();
    const mean = data.reduce((sum, value) => sum + value, 0) / data.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length) - 1)).toBeLessThan(
      0.03,
    );
    expect((await (await create({ init: 'random', prefixLength: 200, seed: 2 })).prefix()).data).not.toEqual(data);
  });

  test("'zero' is zeros", async () => {
    const encoder = await create({ init: 'zero' });
    expect((await encoder.prefix()).data.every((value) => value === 0)).toBe(true);
    expect(encoder.initError).toBeUndefined();
  });

  test('the one parameter is the prefix: it gets its gradient, decays, and is written and read', async () => {
    const encoder = await create({ init: 'random' });
    const trainer = await addon.createTrainer(model.native, encoder.native, { ...NATIVE_TRAINER, weightDecay: 0.5 });
    const training = { model, encoder, trainer };
    await accumulate(training, batch(1));
    const { gradient, tokens } = await stateOf(training); // [L, 2, N, P, D]
    const gradients = await gradientsOf(training);
    expect(Object.keys(gradients)).toEqual(['prefix_wte.weight']);
    const [P, parts, D] = [6, 2 * 2 * 2, 16];
    const expected = gradients['prefix_wte.weight']!.map((_, i) => {
      const [p, part, d] = [Math.floor(i / (parts * D)), Math.floor(i / D) % parts, i % D];
      return (gradient![(part * P + p) * D + d] as number) / tokens;
    });
    expect(difference(gradients['prefix_wte.weight']!, expected).max).toBeLessThan(1e-9);

    const { data: before } = await encoder.prefix();
    await step(training, { learningRate: 0.1, gradClip: 0 });
    const { data: after } = await encoder.prefix();
    // AdamW's first step goes by the learning rate, against the gradient.
    const moved = before.map((value, i) => 0.95 * value - 0.1 * Math.sign(expected[i] as number));
    const clear = [...expected.keys()].filter((i) => Math.abs(expected[i] as number) > 1e-5);
    expect(clear.length).toBeGreaterThan(100);
    for (const i of clear) expect(Math.abs((after[i] as number) - (moved[i] as number))).toBeLessThan(2e-4);

    await encoder.save(folder.join('direct.safetensors'));
    const loaded = await PrefixEncoder.load(model, folder.join('direct.safetensors'));
    expect(loaded).toMatchObject({ projection: false, prefixLength: 6 });
    expect(await loaded.state()).toEqual(await encoder.state());
    expect((await loaded.prefix()).data).toEqual(after);
  });

  test('a state of another model is refused', () =>
    expectRefusal({
      name: '',
      act: () =>
        PrefixEncoder.fromState(model, { 'prefix_wte.weight': { data: new Float32Array(192), shape: [1, 192] } }),
      code: 'NEOX_PREFIX_MISMATCH',
      text: 'The encoder tensor prefix_wte.weight has shape [1, 192], the model takes [1, 128]',
    }));

  test.each(['inputDim', 'hiddenDim', 'initSteps', 'initLearningRate'] as const)('%s is refused', (name) =>
    expectRefusal({
      name,
      act: () => create({ [name]: 3 }),
      text: `Expected nothing beside projection: false for ${name} but received 3 of type number`,
    }),
  );

  test('a projection in words is refused', () =>
    expectRefusal({
      name: '',
      act: () => create({ projection: 'no' as never }),
      text: "Expected a boolean for projection but received 'no' of type string",
    }));
});
