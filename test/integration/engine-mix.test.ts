import type { NeoXModel } from '../../lib/neox-model';
import { loadModel, packedBackendsFor, Random, randomPrefix, temporaryFolder } from '../helpers';
import { alone, answerOf, drawRequests, GenerationEngine, pause, somePrefixes, writeModel } from './engine-helpers';

const folder = temporaryFolder();
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model')));
});
afterAll(() => model.dispose());

describe('a request gives the same bytes alone and in any mix', () => {
  const configs = {
    sequential: {},
    'parallel, odd sizes': {
      use_parallel_residual: true,
      hidden_size: 93,
      num_attention_heads: 3,
      intermediate_size: 77,
      vocab_size: 71,
    },
    'one large head': { hidden_size: 80, num_attention_heads: 1, rotary_pct: 1, num_hidden_layers: 3 },
  };
  const cases = Object.entries(configs).flatMap(([name, config]) =>
    (['float32', 'bfloat16'] as const).flatMap((dtype) =>
      packedBackendsFor(dtype).map((backend) => ({ name, config, dtype, backend })),
    ),
  );

  test.each(cases)('$name, $dtype, $backend', async ({ name, config, dtype, backend }) => {
    const own = await loadModel(await writeModel(folder.join(name), config), { dtype, backend });
    const requests = drawRequests(own, 40, somePrefixes(own, [1, 9, 30]), 11);
    const expected = [];
    for (const request of requests) expected.push(await alone(own, request));
    // Small pieces of prompts, few rows, a small cache that must forget: whatever can differ, does.
    await using engine = new GenerationEngine(own, { maxRows: 5, prefillTokens: 7, promptCacheBytes: 60_000 });
    const random = new Random(5);
    const results = await Promise.all(
      requests.map(async (request) => {
        await pause(random.integer(0, 60));
        return engine.generate(request);
      }),
    );
    expect(results.map(answerOf)).toEqual(expected);
    expect(engine.stats()).toMatchObject({ completed: 40, running: 0, waiting: 0, kvReservedTokens: 0 });
    await own.dispose();
  });

  test('a thousand requests over fifty prefixes, at random times', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 16, maxQueue: 1000, prefillTokens: 16 });
    const lengths = Array.from({ length: 50 }, (_, i) => 1 + (i % 23));
    const requests = drawRequests(model, 1000, somePrefixes(model, lengths), 77).map((request, i) => ({
      ...request,
      maxNewTokens: 1 + (i % 9),
    }));
    const random = new Random(6);
    const results = await Promise.all(
      requests.map(async (request) => {
        await pause(random.integer(0, 1500));
        return engine.generate(request);
      }),
    );
    const expected = [];
    for (const request of requests) expected.push(await alone(model, request));
    expect(results.map(answerOf)).toEqual(expected);
    expect(engine.stats().cachedTokens).toBeGreaterThan(0);
  });

  test('prompts of every length around the size of their pieces', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3, prefillTokens: 8, promptCacheBytes: 0 });
    const requests = Array.from({ length: 36 }, (_, i) => ({
      prompt: new Random(i).ids(1 + i, 64),
      maxNewTokens: 3,
      temperature: 0,
    }));
    const expected = [];
    for (const request of requests) expected.push(await alone(model, request));
    expect((await Promise.all(requests.map((request) => engine.generate(request)))).map(answerOf)).toEqual(expected);
  });

  test('prompts beyond the trained length of a model with dynamic rotary scaling', async () => {
    const config = { max_position_embeddings: 24, rope_scaling: { type: 'dynamic', factor: 4 } };
    await using own = await loadModel(await writeModel(folder.join('dynamic'), config));
    await using engine = new GenerationEngine(own, { maxRows: 4, prefillTokens: 8 });
    const prefix = randomPrefix(own, 5);
    const beginning = new Random(1).ids(15, 64);
    const requests = [4, 10, 20, 30, 50].flatMap((more, i) =>
      [undefined, prefix].map((p) => ({
        prompt: [...beginning, ...new Random(i).ids(more, 64)],
        prefix: p,
        maxNewTokens: 12,
        temperature: 0,
      })),
    );
    const expected = [];
    for (const request of requests) expected.push(await alone(own, request));
    for (let round = 0; round < 2; round++) {
      expect((await Promise.all(requests.map((request) => engine.generate(request)))).map(answerOf)).toEqual(expected);
    }
  });
});
