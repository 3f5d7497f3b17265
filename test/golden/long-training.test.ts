import { join } from 'node:path';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixEncoder, type PrefixEncoderState } from '../../lib/training/encoder';
import { evaluate } from '../../lib/training/evaluate';
import type { TrainingEvent } from '../../lib/runs/events';
import { PrefixTrainer, type TrainingData } from '../../lib/training/prefix-trainer';
import type { TrainerOptions } from '../../lib/training/recipe';
import type { TrainingResult } from '../../lib/training/training-run';
import { backendsFor, loadModel } from '../helpers';
import { GOLDEN_DIRECTORY, readJson, readTensors, type GoldenSample } from './fixtures';

interface LongRecord {
  learningRate: number;
  warmupSteps: number;
  trainingSteps: number;
  batchSize: number;
  accumulationSteps: number;
  samples: GoldenSample[];
  losses: number[];
}

interface DemonstrationRecord {
  learningRate: number;
  batchSize: number;
  train: GoldenSample[];
  validation: GoldenSample[];
  losses: number[];
  baseLoss: number;
  validationLosses: number[];
}

const samplesOf = (golden: readonly GoldenSample[]): { prompt: number[]; completion: number[] }[] =>
  golden.map(({ prompt, completion }) => ({ prompt: [...prompt], completion: [...completion] }));
const relative = (actual: number, expected: number): number => Math.abs(actual - expected) / Math.abs(expected);

async function train(
  model: NeoXModel,
  tensors: ReturnType<typeof readTensors>,
  data: TrainingData,
  options: TrainerOptions,
): Promise<{ result: TrainingResult; events: TrainingEvent[] }> {
  const state = [...tensors.under('initial.')].map(([name, { data: values, shape }]) => [
    name,
    { data: values, shape: [...shape] },
  ]);
  const encoder = await PrefixEncoder.fromState(model, Object.fromEntries(state) as PrefixEncoderState);
  const events: TrainingEvent[] = [];
  const trainer = new PrefixTrainer(model, { encoder, shuffle: false, ...options });
  const result = await trainer.train(data, { onEvent: (event) => events.push(event) });
  return { result, events };
}

describe.each(backendsFor('float32'))('500 steps beside PyTorch, %s', (backend) => {
  test('each loss within 1e-3, the last within 1e-4, relatively', async () => {
    const directory = join(GOLDEN_DIRECTORY, 'sequential');
    const record = readJson(join(directory, 'training.long.json')) as LongRecord;
    await using model = await loadModel(directory, { dtype: 'float32', backend });
    const { learningRate, warmupSteps, trainingSteps, batchSize, accumulationSteps } = record;
    // It ends at its 500th step, and its rate falls as if there were 600.
    const options = {
      learningRate,
      warmupSteps,
      decaySteps: trainingSteps,
      trainingSteps: 500,
      epochs: 200,
      batchSize,
      accumulationSteps,
    };
    const data = { train: samplesOf(record.samples) };
    const { events } = await train(model, readTensors(join(directory, 'training.long.safetensors')), data, options);
    const losses = events.filter((event) => event.type === 'step').map(({ loss }) => loss);
    expect(losses).toHaveLength(500);
    // There was something to learn, or all of this says nothing.
    expect(losses.at(-1)).toBeLessThan(0.3 * (losses[0] as number));
    const apart = losses.map((loss, i) => relative(loss, record.losses[i] as number));
    expect(Math.max(...apart)).toBeLessThanOrEqual(1e-3);
    expect(apart.at(-1)).toBeLessThanOrEqual(1e-4);
  });
});

test("the demonstration model, beside the loop of rinna's script in PyTorch: the same validation loss after each epoch", async () => {
  const record = readJson(join(GOLDEN_DIRECTORY, 'demonstration.json')) as DemonstrationRecord;
  const tensors = readTensors(join(GOLDEN_DIRECTORY, 'demonstration.safetensors'));
  await using model = await loadModel(join(__dirname, '..', '..', 'examples', 'models', 'tiny-ja-neox'), {
    dtype: 'float32',
  });
  const data = { train: samplesOf(record.train), validation: samplesOf(record.validation) };
  const { learningRate, batchSize } = record;
  const epochs = record.validationLosses.length;
  const { result, events } = await train(model, tensors, data, { learningRate, batchSize, epochs });
  const base = await evaluate(model, data.validation);
  expect(relative(base.loss, record.baseLoss)).toBeLessThanOrEqual(1e-5);
  const losses = events.filter((event) => event.type === 'step').map(({ loss }) => loss);
  expect(Math.max(...losses.map((loss, i) => relative(loss, record.losses[i] as number)))).toBeLessThanOrEqual(1e-4);
  const validation = result.epochs.map((epoch) => epoch.validation?.loss ?? NaN);
  expect(validation).toHaveLength(epochs);
  expect(
    Math.max(...validation.map((loss, i) => relative(loss, record.validationLosses[i] as number))),
  ).toBeLessThanOrEqual(1e-4);
  // The prefix is better than none by a fifth of the perplexity, and within 1 % of what PyTorch came to.
  const best = Math.exp(result.bestLoss as number);
  expect(best).toBeLessThan(0.8 * base.perplexity);
  expect(relative(best, Math.exp(Math.min(...record.validationLosses)))).toBeLessThan(0.01);
});
