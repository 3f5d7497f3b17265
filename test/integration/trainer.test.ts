import { mkdirSync, readdirSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixEncoder } from '../../lib/training/encoder';
import { evaluate, evaluatePrefixes } from '../../lib/training/evaluate';
import type { TrainingEvent } from '../../lib/runs/events';
import { PrefixTrainer, type TrainOptions } from '../../lib/training/prefix-trainer';
import type { TrainerOptions } from '../../lib/training/recipe';
import { sweep } from '../../lib/training/sweep';
import { trainTasks } from '../../lib/training/tasks';
import type { TrainingResult } from '../../lib/training/training-run';
import { failureOf, loadModel, Random, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const random = new Random(2);
const samples = (count: number): { completion: number[] }[] =>
  Array.from({ length: count }, () => ({ completion: random.ids(random.integer(3, 12), 60) }));
const DATA = { train: samples(20), validation: samples(6) };
const QUICK: TrainerOptions = { prefixLength: 3, init: 'random', epochs: 2, learningRate: 1e-2 };
let model: NeoXModel;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  model = await loadModel(await writeRandomModel(folder.join('model'), {}, 8));
});
afterAll(() => model.dispose());

async function train(
  options: TrainerOptions,
  rest: TrainOptions = {},
): Promise<{ result: TrainingResult; events: TrainingEvent[] }> {
  const events: TrainingEvent[] = [];
  const result = await new PrefixTrainer(model, { ...QUICK, ...options }).train(DATA, {
    ...rest,
    onEvent: (event) => events.push(event),
  });
  return { result, events };
}

type EventOf<Type> = Extract<TrainingEvent, { type: Type }>;
const only = <Type extends TrainingEvent['type']>(events: readonly TrainingEvent[], type: Type): EventOf<Type>[] =>
  events.filter((event): event is EventOf<Type> => event.type === type);

describe('when it evaluates', () => {
  const evaluated = (events: readonly TrainingEvent[]): number[] => only(events, 'evaluation').map(({ step }) => step);
  test('each epoch', async () => expect(evaluated((await train({})).events)).toEqual([5, 10]));
  test('each so many steps as well', async () =>
    expect(evaluated((await train({ evaluateEverySteps: 2 })).events)).toEqual([2, 4, 5, 6, 8, 10]));
  test('each so many epochs, and at the end', async () => {
    expect(evaluated((await train({ evaluateEveryEpochs: 2, epochs: 5 })).events)).toEqual([10, 20, 25]);
    expect(evaluated((await train({ evaluateEveryEpochs: 0, trainingSteps: 7 })).events)).toEqual([7]);
  });
  test('the best is that of the lowest loss, wherever it was in an epoch', async () => {
    const { result, events } = await train({ evaluateEverySteps: 1, learningRate: 0.5 });
    const best = only(events, 'evaluation').reduce((a, b) => (b.loss < a.loss ? b : a));
    expect([result.bestStep, result.bestEpoch, result.bestLoss]).toEqual([best.step, best.epoch, best.loss]);
    expect(result.best.metadata.metrics).toMatchObject({
      step: best.step,
      epoch: best.epoch,
      validationLoss: best.loss,
    });
    const again = await evaluate(model, DATA.validation, { prefix: result.best });
    expect(again.loss).toBeCloseTo(best.loss, 6);
  });
});

describe('when it ends', () => {
  test('after its epochs', async () => expect((await train({})).result).toMatchObject({ reason: 'epochs', steps: 10 }));
  test('after its steps', async () =>
    expect((await train({ trainingSteps: 7 })).result).toMatchObject({ reason: 'steps', steps: 7 }));
  test('when its time is over', async () => {
    const { result } = await train({ epochs: 100_000, trainingSteps: 10_000_000, maxSeconds: 0.5 });
    expect(result.reason).toBe('time');
    expect(result.seconds).toBeGreaterThan(0.5);
    expect(result.seconds).toBeLessThan(5);
  });
  test('when no evaluation is better', async () => {
    // No step changes anything, so that only the first evaluation is the best.
    const { result, events } = await train({ epochs: 50, learningRate: 0, earlyStoppingPatience: 3 });
    expect(result).toMatchObject({ reason: 'early-stopping', bestStep: 5, steps: 20 });
    expect(only(events, 'end')).toMatchObject([{ reason: 'early-stopping', step: 20, bestStep: 5 }]);
  });
  test('early stopping asks for more than its threshold', async () => {
    const { result } = await train({
      epochs: 50,
      learningRate: 1e-7,
      earlyStoppingPatience: 2,
      earlyStoppingThreshold: 0.1,
    });
    expect(result).toMatchObject({ reason: 'early-stopping', steps: 15 });
  });
});

test('a batch in micro-batches gives the same gradient', async () => {
  const whole = await train({ epochs: 1 });
  const divided = await train({ epochs: 1, microBatchSize: 1 });
  const automatic = await train({ epochs: 1, microBatchSize: 'auto' });
  expect(only(divided.events, 'start')[0]?.microBatchSize).toBe(1);
  // There is memory enough for these.
  expect(only(automatic.events, 'start')[0]?.microBatchSize).toBe(4);
  expect(automatic.result.last.hash).toBe(whole.result.last.hash);
  const losses = (run: typeof whole): number[] => only(run.events, 'step').map(({ loss }) => loss);
  losses(divided).forEach((loss, i) => expect(loss).toBeCloseTo(losses(whole)[i] as number, 5));
});

test('gradient checkpointing changes not a bit', async () => {
  const [without, having] = [await train({}), await train({ gradientCheckpointing: true })];
  expect(having.result.last.hash).toBe(without.result.last.hash);
});

test('accumulation is weighted by tokens: two batches of two are one of four', async () => {
  const [one, two] = [
    await train({ epochs: 1, shuffle: false }),
    await train({ epochs: 1, shuffle: false, batchSize: 2, accumulationSteps: 2 }),
  ];
  const losses = (run: typeof one): number[] => only(run.events, 'step').map(({ loss }) => loss);
  losses(two).forEach((loss, i) => expect(loss).toBeCloseTo(losses(one)[i] as number, 5));
});

test('the prefix itself is trained without a projection', async () => {
  const { result } = await train({ projection: false, learningRate: 1e-1, epochs: 6 });
  const losses = result.epochs.map(({ trainLoss }) => trainLoss);
  expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 0.05);
  expect(Object.keys(await result.encoder.state())).toEqual(['prefix_wte.weight']);
});

test.each([1, 40])('prefix length %p', async (prefixLength) => {
  const { result } = await train({ prefixLength, epochs: 1 });
  expect(result.best.prefixLength).toBe(prefixLength);
});

test('float16 trains with a scaled loss, and skips what overflows', async () => {
  const half = await loadModel(folder.join('model'), { dtype: 'float16' });
  const events: TrainingEvent[] = [];
  const data = { train: DATA.train.slice(0, 4) };
  await new PrefixTrainer(half, { ...QUICK, epochs: 3 }).train(data, { onEvent: (event) => events.push(event) });
  const scaled = only(events, 'step');
  const reference: TrainingEvent[] = [];
  await new PrefixTrainer(model, { ...QUICK, epochs: 3 }).train(data, { onEvent: (event) => reference.push(event) });
  expect(scaled.map(({ lossScale }) => lossScale)).toContain(65_536);
  expect(scaled.at(-1)?.loss).toBeCloseTo(only(reference, 'step').at(-1)?.loss as number, 1);
  // A scale that no float16 gradient bears.
  const error = await failureOf(new PrefixTrainer(half, { ...QUICK, lossScale: 2 ** 40 }).train(data));
  expect(error).toMatchObject({
    code: 'NEOX_NOT_FINITE',
    message: expect.stringContaining('The training diverged at step 1') as string,
  });
  await half.dispose();
});

test('it shows progress: time, what is left, memory, norms of the prefix', async () => {
  const { events } = await train({});
  const steps = only(events, 'step');
  expect(steps.every(({ memoryBytes }) => memoryBytes > 1e7)).toBe(true);
  expect(steps.map(({ seconds }) => seconds)).toEqual(steps.map(({ seconds }) => seconds).sort((a, b) => a - b));
  expect(steps.at(-1)?.etaSeconds).toBe(0);
  expect(steps[0]?.etaSeconds).toBeGreaterThan(0);
  expect(only(events, 'prefix').map(({ step, keyNorms }) => [step, keyNorms.length])).toEqual([
    [0, 2],
    [5, 2],
    [10, 2],
  ]);
  // Of the whole process, so it can be compared with what the steps measure.
  const held = Math.max(...steps.map(({ memoryBytes }) => memoryBytes));
  const predicted = only(events, 'start')[0]?.predictedMemoryBytes as number;
  expect(predicted).toBeGreaterThan(0.7 * held);
  expect(predicted).toBeLessThan(1.3 * held);
});

test('two trainings do not change one encoder at a time', async () => {
  const encoder = await PrefixEncoder.create(model, { init: 'random' });
  const first = new PrefixTrainer(model, { encoder, epochs: 1 }).train(DATA);
  const second = new PrefixTrainer(model, { encoder, epochs: 1 });
  expect(await failureOf(second.train(DATA))).toMatchObject({ code: 'NEOX_BUSY' });
  await first;
  await second.train(DATA);
});

test('what is wrong with the encoder is said by the constructor', async () => {
  const refused = (options: object): Promise<unknown> => failureOf(() => new PrefixTrainer(model, options));
  expect(await refused({ init: 'good' })).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  expect(await refused({ prefixLength: 0 })).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  expect(await refused({ dropout: 2 })).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  expect(await refused({ projection: false, hiddenDim: 4 })).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
});

test.each<[object, string]>([
  [{ resume: true }, 'Expected an outputDir with it for resume but received true of type boolean'],
  [{ overwrite: true }, 'Expected an outputDir with it for overwrite but received true of type boolean'],
  [{ metrics: 5 }, 'Expected an object of functions by name for metrics but received 5 of type number'],
  [{ metrics: { exact: 5 } }, 'Expected a function for metrics.exact but received 5 of type number'],
  [{ samplePrompts: 'a' }, "Expected an array of prompts for samplePrompts but received 'a' of type string"],
])('train(data, %j) is refused', async (options, message) => {
  expect(await failureOf(new PrefixTrainer(model, QUICK).train(DATA, options as never))).toMatchObject({
    code: 'NEOX_BAD_ARGUMENT',
    message,
  });
});

describe('evaluation of several prefixes in one pass', () => {
  test('gives what each gives alone, in order', async () => {
    const prefixes = { base: undefined, one: randomPrefix(model, 3, 1), two: randomPrefix(model, 7, 2) };
    const together = await evaluatePrefixes(model, DATA.validation, { prefixes });
    expect(Object.keys(together)).toEqual(['base', 'one', 'two']);
    for (const name of ['base', 'one', 'two'] as const)
      expect(together[name]).toEqual(await evaluate(model, DATA.validation, { prefix: prefixes[name] }));
    expect(together.one.loss).not.toBeCloseTo(together.two.loss, 3);
  });
  test.each<[unknown, string]>([
    [{}, 'Expected at least one prefix for prefixes but received an object of type object'],
    [new Map(), 'Expected an object of PrefixWeights by name for prefixes but received a Map of type object'],
    [{ a: 5 }, 'Expected PrefixWeights or undefined for prefixes.a but received 5 of type number'],
  ])('refuses %p', async (prefixes, message) => {
    expect(await failureOf(evaluatePrefixes(model, DATA.validation, { prefixes: prefixes as never }))).toMatchObject({
      message,
    });
  });
});

describe('tasks over one model', () => {
  // So many steps that the tasks change often enough, whichever is ready first: with two epochs there were 7 changes
  // once.
  const options = { ...QUICK, epochs: 6 };
  const tasks = {
    one: { data: DATA, options },
    two: {
      data: { train: DATA.train.slice(5), validation: DATA.validation },
      options: { ...options, prefixLength: 5, seed: 7 },
    },
  };
  test.each(['sequential', 'interleaved'] as const)('%s: each gets what it gets alone', async (order) => {
    const seen: string[] = [];
    const results = await trainTasks(model, tasks, {
      order,
      onEvent: (task, { type }) => type === 'step' && seen.push(task),
    });
    const changes = seen.filter((task, i) => i > 0 && task !== seen[i - 1]).length;
    expect(changes).toBe(order === 'sequential' ? 1 : changes);
    if (order === 'interleaved') expect(changes).toBeGreaterThan(8);
    for (const name of ['one', 'two'] as const) {
      const alone = await new PrefixTrainer(model, { name, ...tasks[name].options }).train(tasks[name].data);
      expect(results[name].best.hash).toBe(alone.best.hash);
      expect(results[name].best.metadata.task).toBe(name);
    }
  });
  test('one that fails stops the others', async () => {
    const error = new Error('mine');
    const onEvent = (task: string, { type }: TrainingEvent): void => {
      if (task === 'two' && type === 'step') throw error;
    };
    expect(await failureOf(trainTasks(model, tasks, { order: 'interleaved', onEvent }))).toBe(error);
  });
  test('they do not share a folder', async () => {
    const options = { ...QUICK, outputDir: folder.join('same') };
    const error = await failureOf(trainTasks(model, { a: { data: DATA, options }, b: { data: DATA, options } }));
    expect(error).toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: expect.stringContaining("another folder than that of task 'a'") as string,
    });
  });
});

describe('a sweep', () => {
  test('trains each combination, and knows the best', async () => {
    const outputDir = folder.join('sweep');
    const grid = { learningRate: [0, 1e-2], prefixLength: [2, 3] };
    const { runs, best } = await sweep(model, DATA, { base: { ...QUICK, epochs: 1, outputDir }, grid });
    expect(runs.map(({ values }) => values)).toEqual([
      { learningRate: 0, prefixLength: 2 },
      { learningRate: 0, prefixLength: 3 },
      { learningRate: 0.01, prefixLength: 2 },
      { learningRate: 0.01, prefixLength: 3 },
    ]);
    expect(best.loss).toBe(Math.min(...runs.map(({ loss }) => loss)));
    expect(best.values.learningRate).toBe(0.01);
    expect(readdirSync(outputDir).sort()).toEqual(runs.map(({ name }) => name).sort());
    // A folder of a run that would come later is found before the first one.
    const base = { ...QUICK, epochs: 1, outputDir };
    expect(
      await failureOf(sweep(model, DATA, { base, grid: { learningRate: [1, 0], prefixLength: [3] } })),
    ).toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: expect.stringContaining(
        `for outputDir but received '${outputDir}/learningRate=0,prefixLength=3'`,
      ) as string,
    });
    expect(readdirSync(outputDir)).toHaveLength(4);
    // Resumed, all are done and nothing is trained again.
    let steps = 0;
    const again = await sweep(model, DATA, {
      ...{ base: { ...QUICK, epochs: 1, outputDir }, grid, resume: true },
      onEvent: (_, { type }) => {
        if (type === 'step') steps++;
      },
    });
    expect(steps).toBe(0);
    expect(again.runs.map(({ loss }) => loss)).toEqual(runs.map(({ loss }) => loss));
  });
  test.each<[unknown, string]>([
    [{}, 'Expected at least one option with its values for grid but received an object of type object'],
    [
      { learningRate: [] },
      'Expected a non-empty array of values for grid.learningRate but received an array of 0 of type array',
    ],
    [{ learningRate: [1, 1] }, "Expected each value once for grid.learningRate but received '1, 1' of type string"],
  ])('refuses %j', async (grid, message) => {
    expect(await failureOf(sweep(model, DATA, { grid: grid as never }))).toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message,
    });
  });
});
