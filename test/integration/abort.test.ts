import { mkdirSync, readdirSync } from 'node:fs';
import { FTExporter } from '../../lib/export/exporter';
import { NeoXModel } from '../../lib/neox-model';
import { PrefixEncoder } from '../../lib/training/encoder';
import { evaluate } from '../../lib/training/evaluate';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import { failureOf, loadModel, Random, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const VOCABULARY = 2048;
const random = new Random(1);
const LONG = random.ids(700, VOCABULARY);
const SAMPLES = Array.from({ length: 40 }, () => ({ completion: random.ids(60, VOCABULARY) }));
let path: string;
let model: NeoXModel;
let reference: number[];

const greedy = { temperature: 0, ignoreEos: true, maxNewTokens: 8 } as const;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  const config = {
    vocab_size: VOCABULARY,
    hidden_size: 256,
    num_hidden_layers: 8,
    num_attention_heads: 4,
    intermediate_size: 1024,
    max_position_embeddings: 1024,
  };
  path = await writeRandomModel(folder.join('model'), config, 3);
  model = await loadModel(path);
  reference = (await model.generate([5, 6, 7], greedy)).tokens;
});
afterAll(() => model.dispose());
// Whatever was stopped, the model is as good as before.
afterEach(async () => expect((await model.generate([5, 6, 7], greedy)).tokens).toEqual(reference));

interface Operation {
  name: string;
  /** Starts it; `running` is to be called when it is well on its way, if it can tell. */
  start: (signal: AbortSignal, running: () => void) => Promise<unknown>;
  /** Calls `running` itself. Without, the test aborts after some milliseconds. */
  tells?: boolean;
}

async function streamed(signal: AbortSignal, running: () => void): Promise<void> {
  for await (const piece of model.stream(LONG.slice(0, 20), { signal, maxNewTokens: 900, ignoreEos: true }))
    if (piece.token !== undefined) running();
}

const OPERATIONS: Operation[] = [
  {
    name: 'load',
    tells: true,
    start: (signal, running) => NeoXModel.load(path, { signal, onProgress: running }),
  },
  { name: 'forward', start: (signal) => model.forward({ inputIds: [LONG, LONG, LONG, LONG], signal }) },
  {
    name: 'generate',
    start: (signal) => model.generate(LONG.slice(0, 20), { signal, maxNewTokens: 900, ignoreEos: true }),
  },
  { name: 'stream', tells: true, start: streamed },
  { name: 'PrefixEncoder.create', start: (signal) => PrefixEncoder.create(model, { signal, initSteps: 1_000_000 }) },
  {
    name: 'train',
    tells: true,
    start: (signal, running) =>
      new PrefixTrainer(model, { init: 'random' }).train(
        { train: SAMPLES },
        { signal, onEvent: ({ type }) => type === 'step' && running() },
      ),
  },
  {
    name: 'the fit before training',
    start: (signal) => new PrefixTrainer(model, { initSteps: 1_000_000 }).train({ train: SAMPLES }, { signal }),
  },
  {
    name: 'evaluate',
    tells: true,
    start: (signal, running) => evaluate(model, SAMPLES, { signal, batchSize: 2, onProgress: running }),
  },
  {
    name: 'export',
    tells: true,
    start: (signal, running) =>
      new FTExporter(model).export(folder.join('export'), { signal, dtype: 'float32', onProgress: running }),
  },
];

describe.each(OPERATIONS)('$name', ({ start, tells = false }) => {
  // Any value may be a reason; it comes back as itself.
  test.each([new Error('enough'), { not: 'an error' }, 'a string'])(
    'does not begin when the signal is aborted already: %p',
    async (reason) => {
      let began = false;
      expect(await failureOf(start(AbortSignal.abort(reason), () => (began = true)))).toBe(reason);
      expect(began).toBe(false);
    },
  );

  test('stops midway and rejects with the reason', async () => {
    const reason = { midway: true };
    const controller = new AbortController();
    let aborted = 0;
    const abort = (): void => {
      if (aborted !== 0) return;
      aborted = performance.now();
      controller.abort(reason);
    };
    const work = failureOf(start(controller.signal, abort));
    if (!tells) setTimeout(abort, 40);
    expect(await work).toBe(reason);
    expect(performance.now() - aborted).toBeLessThan(2000);
    expect(readdirSync(folder.path)).toEqual(['model']);
  });

  test('listens no longer when it is over', async () => {
    const controller = new AbortController();
    const added = jest.spyOn(controller.signal, 'addEventListener');
    const removed = jest.spyOn(controller.signal, 'removeEventListener');
    const work = failureOf(start(controller.signal, () => controller.abort()));
    if (!tells) setTimeout(() => controller.abort(), 40);
    await work;
    expect(removed).toHaveBeenCalledTimes(added.mock.calls.length);
  });
});

test('leaving the loop over a stream stops the native work within a token', async () => {
  const count = 900;
  const started = performance.now();
  let seen = 0;
  for await (const piece of model.stream([1, 2, 3], { maxNewTokens: count, ignoreEos: true })) {
    if (piece.token !== undefined) seen++;
    if (seen === 20) break;
  }
  const perToken = (performance.now() - started) / 20;
  // The model's operations are serial: what comes next waits for what is left of the stream.
  const left = performance.now();
  await model.forward({ inputIds: [[1]] });
  expect(performance.now() - left).toBeLessThan(Math.max(250, (count / 5) * perToken));
});

test('a stream that is never asked for a piece does nothing', async () => {
  const stream = model.stream([1, 2, 3], { maxNewTokens: 100_000, ignoreEos: true });
  await stream.return();
  expect(await stream.next()).toEqual({ done: true, value: undefined });
});

describe('an error that a callback throws stops the work and is what the caller gets', () => {
  const error = new Error('thrown by the callback');
  const fail = (): never => {
    throw error;
  };

  test('load', async () => expect(await failureOf(NeoXModel.load(path, { onProgress: fail }))).toBe(error));
  test('train', async () => {
    for (const wanted of ['start', 'step', 'evaluation', 'epoch']) {
      const trainer = new PrefixTrainer(model, { init: 'random', epochs: 1 });
      const data = { train: SAMPLES.slice(0, 4), validation: SAMPLES.slice(4, 6) };
      expect(await failureOf(trainer.train(data, { onEvent: ({ type }) => type === wanted && fail() }))).toBe(error);
    }
  });
  test('evaluate', async () => expect(await failureOf(evaluate(model, SAMPLES, { onProgress: fail }))).toBe(error));
  test('export', async () => {
    expect(await failureOf(new FTExporter(model).export(folder.join('export'), { onProgress: fail }))).toBe(error);
    expect(readdirSync(folder.path)).toEqual(['model']);
  });
});

test('training that is stopped saves its state, and leaves nothing half-written', async () => {
  const controller = new AbortController();
  const outputDir = folder.join('run');
  const trainer = new PrefixTrainer(model, { init: 'random', epochs: 3, outputDir });
  const onEvent = ({ type, epoch }: { type: string; epoch?: number }): void => {
    if (type === 'step' && epoch === 2) controller.abort('stop');
  };
  expect(await failureOf(trainer.train({ train: SAMPLES.slice(0, 8) }, { signal: controller.signal, onEvent }))).toBe(
    'stop',
  );
  const names = readdirSync(outputDir).sort();
  expect(names.filter((name) => !name.startsWith('events.out'))).toEqual([
    'about.json',
    'best.safetensors',
    'encoder.safetensors',
    'last.safetensors',
    'manifest.json',
    'metrics.jsonl',
    'recipe.json',
    'report.html',
    'state-000000002.safetensors',
    'state-000000003.safetensors',
  ]);
});
