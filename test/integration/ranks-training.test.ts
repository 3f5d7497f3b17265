import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { type NeoXModel } from '../../lib/neox-model';
import type { Sample } from '../../lib/data/sample';
import type { ProcessGroup } from '../../lib/distributed/process-group';
import type { TrainingEvent } from '../../lib/runs/events';
import { evaluatePrefixes } from '../../lib/training/evaluate';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import type { TrainerOptions } from '../../lib/training/recipe';
import type { TrainingResult } from '../../lib/training/training-run';
import { failureOf, loadModel, Random, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';
import { allRanks, onRanks } from '../ranks';

const folder = temporaryFolder();

/** Samples of very different lengths. */
function samples(count: number, seed: number): Sample[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, i) => {
    const completion = random.ids(random.integer(1, 12), 64);
    return i % 3 === 0 ? { completion } : { prompt: random.ids(random.integer(1, 6), 64), completion };
  });
}

const DATA = { train: samples(22, 1), validation: samples(7, 2) };
const RECIPE: TrainerOptions = {
  ...{ epochs: 2, batchSize: 3, accumulationSteps: 3, shuffle: true, bucketing: true, twoRows: true, lanes: 4 },
  ...{ dropout: 0.1, prefixLength: 3, hiddenDim: 6, inputDim: 5, learningRate: 0.01, initSteps: 3, seed: 5 },
};

interface Told {
  result: TrainingResult;
  events: TrainingEvent[];
  sha256: string;
}

let models: NeoXModel[] = [];

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  await writeRandomModel(folder.join('model'));
  models = await Promise.all([0, 1, 2, 3].map(() => loadModel(folder.join('model'), { threads: 1 })));
});
afterAll(() => Promise.all(models.map((model) => model.dispose())));

const modelOf = (rank: number): NeoXModel => models[rank] as NeoXModel;

async function train(
  group: ProcessGroup | undefined,
  options: TrainerOptions = {},
  more: { resume?: boolean; signal?: AbortSignal; on?: (event: TrainingEvent) => void; model?: NeoXModel } = {},
): Promise<Told> {
  const events: TrainingEvent[] = [];
  const { on, model = modelOf(group?.rank ?? 0), ...rest } = more;
  const result = await new PrefixTrainer(model, { ...RECIPE, ...options }).train(DATA, {
    ...rest,
    group,
    samplePrompts: [],
    onEvent: (event) => {
      events.push(event);
      on?.(event);
    },
  });
  const hash = createHash('sha256').update(result.last.data).update(result.best.data);
  for (const { data } of Object.values(await result.encoder.state())) hash.update(data);
  return { result, events, sha256: hash.digest('hex') };
}

/** What must be the same, whatever number of ranks. */
function figures({ sha256, events, result }: Told): unknown {
  const steps = events.flatMap((event) =>
    event.type === 'step' ? [[event.step, event.loss, event.gradNorm, event.tokens, event.learningRate]] : [],
  );
  const evaluations = events.flatMap((event) => (event.type === 'evaluation' ? [{ ...event, seconds: 0 }] : []));
  return { sha256, steps, evaluations, bestLoss: result.bestLoss, epochs: result.epochs };
}

test('one, two, three and four ranks give the same bits, and every rank the same result', async () => {
  const alone = await train(undefined);
  expect(alone.events.filter(({ type }) => type === 'step')).toHaveLength(6);
  for (const size of [2, 3, 4]) {
    const ranks = await allRanks(size, (group) => train(group));
    expect(figures(ranks[0] as Told)).toEqual(figures(alone));
    for (const { sha256, result } of ranks) {
      expect(sha256).toBe(alone.sha256);
      expect([result.bestLoss, result.epochs, result.bestStep]).toEqual([
        ...[alone.result.bestLoss, alone.result.epochs, alone.result.bestStep],
      ]);
    }
    expect(ranks.slice(1).flatMap(({ events }) => events)).toEqual([]);
  }
  // Lanes are part of what a run is: another number of them is another sum.
  expect((await train(undefined, { lanes: 2 })).sha256).not.toBe(alone.sha256);
});

test('bfloat16 too, and where a step has fewer samples than lanes', async () => {
  const pair = await Promise.all([0, 1].map(() => loadModel(folder.join('model'), { threads: 1, dtype: 'bfloat16' })));
  const options = { lanes: 4, batchSize: 2, accumulationSteps: 1, epochs: 1, bucketing: false, microBatchSize: 1 };
  const run = (group: ProcessGroup | undefined): Promise<Told> =>
    train(group, options, { model: pair[group?.rank ?? 0] as NeoXModel });
  const alone = await run(undefined);
  const [first] = await allRanks(2, run);
  expect(figures(first as Told)).toEqual(figures(alone));
  await Promise.all(pair.map((model) => model.dispose()));
});

test('a run goes on with another number of ranks, to the same bits; not with more than it has lanes', async () => {
  const alone = await train(undefined, { saveEverySteps: 1 });
  const outputDir = folder.join('resumed');
  for (const [size, steps] of [
    [2, 1],
    [3, 3],
    [1, 4],
  ] as const) {
    const outcomes = await onRanks(size, (group) => {
      const controller = new AbortController();
      const on = ({ type, ...event }: TrainingEvent): void => {
        if (type === 'step' && 'step' in event && event.step === steps) controller.abort(new Error('enough'));
      };
      return train(group, { outputDir, saveEverySteps: 1 }, { resume: true, signal: controller.signal, on });
    });
    expect(outcomes.map((outcome) => outcome.status)).toEqual(outcomes.map(() => 'rejected'));
  }
  const [many, ...others] = await onRanks(5, (group) =>
    train(group, { outputDir, lanes: 'ranks' }, { resume: true, model: modelOf((group?.rank ?? 0) % 4) }),
  );
  expect(many).toMatchObject({ status: 'rejected', reason: { code: 'NEOX_RESUME_MISMATCH' } });
  expect(((many as PromiseRejectedResult).reason as Error).message).toMatch(
    /^The run has 4 lanes, and there are 5 ranks\nHint/,
  );
  for (const other of others) expect(other).toMatchObject({ status: 'rejected', reason: { code: 'NEOX_PEER_LOST' } });
  const [last] = await allRanks(2, (group) =>
    train(group, { outputDir, lanes: 'ranks', saveEverySteps: 1 }, { resume: true }),
  );
  expect((last as Told).sha256).toBe(alone.sha256);
  expect((last as Told).result.epochs).toEqual(alone.result.epochs);
  const lines = readFileSync(`${outputDir}/metrics.jsonl`, 'utf8').trim().split('\n');
  const steps = lines.map((line) => JSON.parse(line) as TrainingEvent).filter(({ type }) => type === 'step');
  expect(steps.map((event) => 'step' in event && event.step)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(readdirSync(outputDir)).toContain('report.html');
});

test('a state from before there were lanes has one', async () => {
  const outputDir = folder.join('one-lane');
  await train(undefined, { outputDir, lanes: 1, epochs: 1, bucketing: false });
  await train(undefined, { outputDir, epochs: 2, bucketing: false, lanes: 'ranks' }, { resume: true });
  const error = await failureOf(train(undefined, { outputDir, lanes: 2, bucketing: false }, { resume: true }));
  expect(error).toMatchObject({ code: 'NEOX_RESUME_MISMATCH', message: expect.stringMatching(/lanes was 1 and is 2/) });
});

test('a signal on any rank stops all; rank 0 keeps the last finished step', async () => {
  for (const stopped of [0, 1]) {
    const outputDir = folder.join(`stopped-${stopped}`);
    const controllers = [new AbortController(), new AbortController()];
    const outcomes = await onRanks(2, (group, rank) =>
      train(
        group,
        { outputDir, epochs: 50 },
        {
          signal: (controllers[rank] as AbortController).signal,
          on: (event) => {
            if (event.type === 'step' && event.step === 2)
              setTimeout(() => controllers[stopped]?.abort(new Error('enough')), 20);
          },
        },
      ),
    );
    const reasons = outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as Error) : undefined));
    expect(reasons[stopped]).toMatchObject({ message: 'enough' });
    expect(reasons[1 - stopped]).toMatchObject({ name: 'AbortError' });
    const states = readdirSync(outputDir).filter((name) => name.startsWith('state-'));
    expect(states.length).toBeGreaterThan(0);
  }
});

test('a rank whose data is bad: all tell its error', async () => {
  const outcomes = await onRanks(3, (group, rank) =>
    new PrefixTrainer(modelOf(rank), { ...RECIPE, epochs: 1 }).train(
      rank === 1 ? { train: [{ completion: [1_000_000] }] } : DATA,
      { group },
    ),
  );
  const reasons = outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as Error) : undefined));
  expect(reasons[1]).toMatchObject({ code: 'NEOX_BAD_DATA' });
  for (const rank of [0, 2]) {
    expect(reasons[rank]).toMatchObject({ code: 'NEOX_PEER_LOST' });
    expect(reasons[rank]?.message).toMatch(/^Rank 1 \(host .*\) failed: NEOX_BAD_DATA: .*1000000/);
  }
});

test.each([
  ['learningRate', { learningRate: 0.02 }, {}, /recipe: learningRate was 0\.01 and is 0\.02 on rank 1/],
  ['lanes', { lanes: 3 }, {}, /recipe: lanes was 4 and is 3 on rank 1/],
  ['data', {}, { train: samples(21, 1) }, /data: train was ".*" and is ".*" on rank 1/],
])('ranks with another %s do not begin', async (_, options, data, text) => {
  const outcomes = await onRanks(2, (group, rank) =>
    new PrefixTrainer(modelOf(rank), { ...RECIPE, ...(rank === 1 ? options : {}) }).train(
      { ...DATA, ...(rank === 1 ? data : {}) },
      { group, onEvent: () => expect('an event').toBe('none') },
    ),
  );
  for (const outcome of outcomes) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'NEOX_RANK_MISMATCH' } });
    expect(((outcome as PromiseRejectedResult).reason as Error).message).toMatch(text);
  }
});

test('fewer lanes than ranks', async () => {
  const outcomes = await onRanks(2, (group) => failureOf(train(group, { lanes: 1 })));
  for (const outcome of outcomes)
    expect(outcome).toMatchObject({
      value: { message: expect.stringMatching(/at least 2, as many as there are ranks/) },
    });
});

test('an evaluation of two and three ranks gives the bits of one', async () => {
  const prefixes = { one: randomPrefix(modelOf(0), 3, 7), none: undefined };
  const run = (group: ProcessGroup | undefined): Promise<unknown> =>
    evaluatePrefixes(modelOf(group?.rank ?? 0), DATA.train, { prefixes, batchSize: 4, group });
  const alone = await run(undefined);
  for (const size of [2, 3]) expect(await allRanks(size, run)).toEqual(new Array(size).fill(alone));
  const outcomes = await onRanks(2, (group) =>
    evaluatePrefixes(modelOf(group?.rank ?? 0), DATA.train, { prefixes, batchSize: 4 + (group?.rank ?? 0), group }),
  );
  for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { code: 'NEOX_RANK_MISMATCH' } });
});
