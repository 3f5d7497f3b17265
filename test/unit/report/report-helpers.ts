import type { Chart } from '../../../lib/report/charts';
import type { TrainingEvent } from '../../../lib/runs/events';
import { Random } from '../../helpers';

interface RunOptions {
  steps?: number;
  epochs?: number;
  end?: boolean;
  text?: string;
  lossScale?: boolean;
  seed?: number;
}

export type StepEvent = Extract<TrainingEvent, { type: 'step' }>;

/** The events of a run that learned something. */
export function runEvents({
  steps = 60,
  epochs = 3,
  end = true,
  text = '雨でした。 😃',
  lossScale = false,
  seed = 1,
}: RunOptions = {}): TrainingEvent[] {
  const random = new Random(seed);
  const each = steps / epochs;
  const events: TrainingEvent[] = [
    {
      ...{
        type: 'start',
        totalSteps: steps,
        stepsPerEpoch: each,
        epochs,
        trainSamples: 4 * each,
        validationSamples: 20,
      },
      ...{ trainableParameters: 123_456, initError: undefined, predictedMemoryBytes: 3e9, microBatchSize: 4 },
    },
    { type: 'prefix', step: 0, epoch: 0, keyNorms: [1, 2, 3], valueNorms: [0.5, 0.6, 0.7] },
    { type: 'samples', step: 0, epoch: 0, samples: [{ prompt: '今日は', text: '晴れです。', finishReason: 'stop' }] },
  ];
  for (let step = 1; step <= steps; step++) {
    const epoch = Math.ceil(step / each);
    const loss = 1 + 2 * Math.exp(-step / each) + 0.1 * random.next();
    const numbers = {
      loss,
      tokens: 200,
      learningRate: 1e-3 * (1 - step / steps),
      gradNorm: 0.5 + random.next(),
      tokensPerSecond: 1000,
    };
    const state = { seconds: step * 0.2, etaSeconds: 1, memoryBytes: 2e9 + step, applied: true };
    events.push({ type: 'step', step, epoch, ...numbers, ...state, ...(lossScale ? { lossScale: 1024 } : {}) });
    if (step % each !== 0) continue;
    const validation = 1.5 + 1 / epoch;
    events.push(
      {
        ...{
          type: 'evaluation',
          step,
          epoch,
          best: true,
          loss: validation,
          perplexity: Math.exp(validation),
          accuracy: 0.5 + epoch / 20,
        },
        ...{ tokens: 500, seconds: step * 0.2, metrics: { smileys: epoch / 10 } },
      },
      { type: 'prefix', step, epoch, keyNorms: [1, 2, 3 + epoch], valueNorms: [0.5, 0.6, 0.7 + epoch] },
      { type: 'epoch', step, epoch, trainLoss: 1.25 + 1 / epoch, trainPerplexity: 5, seconds: step * 0.2 },
    );
  }
  if (!end) return events;
  events.push(
    { type: 'samples', step: steps, epoch: epochs, samples: [{ prompt: '今日は', text, finishReason: 'length' }] },
    { type: 'end', reason: 'epochs', step: steps, epoch: epochs, seconds: steps * 0.2 + 5, bestStep: steps },
  );
  return events;
}

/** What a page gives its script. */
export function dataOf(page: string): {
  charts: Chart[];
  heatMaps: unknown[];
  clocks: { x: number[]; y: number[] }[];
  resumes: number[];
} {
  return JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)![1]!) as never;
}

export const chartOf = (page: string, id: string): Chart => dataOf(page).charts.find((chart) => chart.id === id)!;

/** The text of a page's tables and tiles, without markup, a cell after the other. */
export const cellsOf = (page: string): string[] =>
  Array.from(page.matchAll(/<(?:td|dd|dt|th)[^>]*>(.*?)<\/(?:td|dd|dt|th)>/gs), ([, cell]) =>
    cell!.replace(/<.*?>/g, ''),
  );
