import { mkdirSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import {
  loadModel,
  Random,
  runProgram,
  temporaryFolder,
  watchEventLoop,
  writeRandomModel,
  type Liveness,
} from '../helpers';

// Big enough that each operation takes long beside the time a machine may be busy with something else.
const folder = temporaryFolder();
const VOCABULARY = 4096;
let path: string;
let model: NeoXModel;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  const config = {
    vocab_size: VOCABULARY,
    hidden_size: 384,
    num_hidden_layers: 8,
    num_attention_heads: 6,
    intermediate_size: 1536,
    max_position_embeddings: 1024,
  };
  path = await writeRandomModel(folder.join('model'), config, 3, 'BF16');
});
afterAll(() => model.dispose());

/** Work on the JavaScript thread would be one gap about as long as the operation. */
function expectLively({ milliseconds, turns, longestGap }: Liveness<unknown>): void {
  expect(milliseconds).toBeGreaterThan(100);
  expect(turns).toBeGreaterThan(10);
  expect(longestGap).toBeLessThan(Math.max(60, milliseconds / 2));
}

test('the event loop turns while a model loads', async () => {
  const shares: number[] = [];
  const watched = await watchEventLoop(() =>
    loadModel(path, { dtype: 'float32', pack: 'both', onProgress: (share) => shares.push(share) }),
  );
  model = watched.result;
  expectLively(watched);
  expect(shares.at(-1)).toBe(1);
  expect(shares.length).toBeGreaterThan(8);
  expect(shares).toEqual([...shares].sort((a, b) => a - b));
});

test('the event loop turns during a forward pass', async () => {
  const inputIds = [new Random(1).ids(600, VOCABULARY)];
  expectLively(await watchEventLoop(() => model.forward({ inputIds, logits: 'last' })));
});

test('the event loop turns during training', async () => {
  const random = new Random(2);
  const train = Array.from({ length: 6 }, () => ({ completion: random.ids(150, VOCABULARY) }));
  const trainer = new PrefixTrainer(model, { init: 'random', epochs: 1, batchSize: 2 });
  const watched = await watchEventLoop(() => trainer.train({ train, validation: train.slice(0, 1) }));
  expectLively(watched);
  expect(watched.result.steps).toBe(3);
});

test('the event loop turns during generation, and each token comes while the next is computed', async () => {
  const prompt = new Random(3).ids(100, VOCABULARY);
  const watched = await watchEventLoop(async () => {
    const arrivals: number[] = [];
    for await (const piece of model.stream(prompt, { maxNewTokens: 24, ignoreEos: true }))
      if (piece.token !== undefined) arrivals.push(performance.now());
    return arrivals;
  });
  expectLively(watched);
  const arrivals = watched.result;
  expect(arrivals).toHaveLength(24);
  // Had they come together at the end, they would not be spread over the time of the generation.
  expect((arrivals.at(-1) as number) - (arrivals[0] as number)).toBeGreaterThan(watched.milliseconds / 5);
});

test('the event loop turns while dispose waits for what is in flight', async () => {
  const inputIds = [new Random(4).ids(800, VOCABULARY)];
  const order: string[] = [];
  const forward = model.forward({ inputIds, logits: 'last' }).then(() => order.push('forward'));
  expectLively(await watchEventLoop(() => model.dispose().then(() => order.push('dispose'))));
  await forward;
  expect(order).toEqual(['forward', 'dispose']);
});

test('each model has its own number of compute threads, whatever another one was told', async () => {
  mkdirSync(folder.join('small'));
  const small = await writeRandomModel(folder.join('small'));
  const { code, stdout, stderr } = await runProgram('threads', [small]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const { byDefault, started } = JSON.parse(stdout) as { byDefault: number; started: number[] };
  expect(started).toEqual([1, byDefault, 2]);
});

test.each([
  { env: {}, spin: '2000', child: '' },
  { env: { GOMP_SPINCOUNT: '77' }, spin: '77', child: '77' },
  { env: { OMP_WAIT_POLICY: 'active' }, spin: '30000000000', child: '' },
])('threads that wait make way for other processes, unless told otherwise: $env', async ({ env, spin, child }) => {
  const { code, stdout, stderr } = await runProgram('spin', [], {
    GOMP_SPINCOUNT: undefined,
    OMP_WAIT_POLICY: undefined,
    ...env,
    OMP_DISPLAY_ENV: 'verbose',
  });
  expect(code).toBe(0);
  expect(stderr).toContain(`GOMP_SPINCOUNT = '${spin}'`);
  expect(stdout).toBe(`child: ${child}\n`);
});
