import type { GenerateResult } from '../../lib/generation/output';
import type { NeoXModel } from '../../lib/neox-model';
import {
  EXAMPLE_MODEL,
  expectRefusal,
  failureOf,
  loadModel,
  packedBackendsFor,
  Random,
  randomPrefix,
  temporaryFolder,
  wrong,
  type Refusal,
} from '../helpers';
import {
  alone,
  answerOf,
  drawRequests,
  drawSearches,
  GenerationEngine,
  pause,
  somePrefixes,
  writeModel,
  type EngineRequest,
  type OwnRequest,
} from './engine-helpers';

const folder = temporaryFolder();
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model')));
});
afterAll(() => model.dispose());

/** All of a result but what depends on the cache. */
function textsOf({ usage, ...result }: GenerateResult & { timing?: unknown }): unknown {
  delete result.timing;
  return { ...result, usage: { ...usage, cachedTokens: undefined } };
}

async function textsAlone(own: NeoXModel, { prompt, ...options }: OwnRequest): Promise<unknown> {
  return textsOf(await own.generate(prompt, options));
}

describe('a beam search gives the bytes of generate() in any mix', () => {
  const cases = (['float32', 'bfloat16'] as const).flatMap((dtype) =>
    packedBackendsFor(dtype).map((backend) => ({ dtype, backend })),
  );
  test.each(cases)('$dtype, $backend', async ({ dtype, backend }) => {
    const config = {
      use_parallel_residual: true,
      hidden_size: 93,
      num_attention_heads: 3,
      intermediate_size: 77,
      vocab_size: 71,
    };
    await using own = await loadModel(await writeModel(folder.join('mix'), config), { dtype, backend });
    const prefixes = somePrefixes(own, [1, 9, 30]);
    const rows = drawRequests(own, 30, prefixes, 11);
    const searches = drawSearches(own, 30, prefixes, 12);
    const expectedRows = [];
    for (const request of rows) expectedRows.push(await alone(own, request));
    const expectedSearches = [];
    for (const request of searches) expectedSearches.push(await textsAlone(own, request));
    // The prompts are longer than their pieces, and the cache is so small that it must forget.
    await using engine = new GenerationEngine(own, { maxRows: 5, prefillTokens: 7, promptCacheBytes: 60_000 });
    const random = new Random(5);
    const send = async (request: EngineRequest): Promise<GenerateResult> => {
      await pause(random.integer(0, 60));
      return engine.generate({ ...request, priority: random.integer(0, 3) });
    };
    for (let round = 0; round < 2; round++) {
      const [ofSearches, ofRows] = await Promise.all([Promise.all(searches.map(send)), Promise.all(rows.map(send))]);
      expect(ofSearches.map(textsOf)).toEqual(expectedSearches);
      expect(ofRows.map(answerOf)).toEqual(expectedRows);
    }
    expect(engine.stats()).toMatchObject({ completed: 120, running: 0, waiting: 0, kvReservedTokens: 0 });
    expect(engine.stats().cachedTokens).toBeGreaterThan(0);
  });

  test('prompts of every length around the size of their pieces, and from the prompt cache', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3, prefillTokens: 8 });
    const prompt = new Random(1).ids(36, 64);
    const requests = Array.from({ length: 36 }, (_, i) => ({
      prompt: prompt.slice(35 - i),
      maxNewTokens: 4,
      numBeams: 3,
    }));
    const expected = [];
    for (const request of requests) expected.push(await textsAlone(model, request));
    for (let round = 0; round < 2; round++) {
      const results = await Promise.all(requests.map((request) => engine.generate(request)));
      expect(results.map(textsOf)).toEqual(expected);
      // Warm, all but the last token, which each search computes.
      if (round > 0) expect(results.map(({ usage }) => usage.cachedTokens)).toEqual(requests.map((_, i) => i));
    }
    const { promptTokens, cachedTokens } = engine.stats();
    expect(promptTokens + cachedTokens).toBe(2 * ((36 * 37) / 2));
    // A row goes on from what a search has of its prompt, which is all but the last token, and a search from what a row
    // has.
    const greedy = { prompt: [...prompt, 7], maxNewTokens: 4, temperature: 0 };
    const result = await engine.generate(greedy);
    expect(result.usage.cachedTokens).toBe(35);
    expect(answerOf(result)).toEqual(await alone(model, greedy));
    const search = { prompt: [...prompt, 7, 8], maxNewTokens: 4, numBeams: 3 };
    const found = await engine.generate(search);
    expect(found.usage.cachedTokens).toBe(37);
    expect(textsOf(found)).toEqual(await textsAlone(model, search));
  });

  test('prompts beyond the trained length of a model with dynamic rotary scaling, and up to its last position', async () => {
    const config = { max_position_embeddings: 24, rope_scaling: { type: 'dynamic', factor: 4 } };
    await using own = await loadModel(await writeModel(folder.join('dynamic'), config));
    await using engine = new GenerationEngine(own, { maxRows: 4, prefillTokens: 8 });
    const prefix = randomPrefix(own, 5);
    const requests = [4, 18, 19, 20, 24, 25, 26, 45, 80].flatMap((length, i) =>
      [undefined, prefix].map((p) => ({
        prompt: new Random(i).ids(length, 64),
        prefix: p,
        maxNewTokens: 12,
        numBeams: 3,
        ignoreEos: true,
      })),
    );
    const expected = [];
    for (const request of requests) expected.push(await textsAlone(own, request));
    for (let round = 0; round < 2; round++) {
      expect((await Promise.all(requests.map((request) => engine.generate(request)))).map(textsOf)).toEqual(expected);
    }
  });

  test('texts, and a search that may give no token', async () => {
    await using own = await loadModel(EXAMPLE_MODEL);
    await using engine = new GenerationEngine(own, { maxRows: 4 });
    for (const maxNewTokens of [0, 1, 12]) {
      const request = { prompt: '今日は', numBeams: 4, numReturnSequences: 3, maxNewTokens };
      const result = await engine.generate(request);
      expect(textsOf(result)).toEqual(await textsAlone(own, request));
      expect(result.text === '').toBe(maxNewTokens === 0);
      expect(result.completions?.length).toBe(maxNewTokens === 0 ? undefined : 3);
    }
    expect(engine.stats()).toMatchObject({ completed: 3, running: 0, kvReservedTokens: 0 });
  });
});

describe('the room of a search', () => {
  const request = {
    prompt: [1, 2, 3, 4],
    numBeams: 3,
    maxNewTokens: 200,
    ignoreEos: true,
    repetitionPenalty: 1.3,
  } as const;

  /**
   * Reads a short stream to its end: a search that was asked for before it is under way then, and has most of its steps
   * before it.
   */
  async function readBeside(engine: GenerationEngine, priority = 0): Promise<void> {
    let pieces = 0;
    const stream = engine.stream({ prompt: [5], maxNewTokens: 10, ignoreEos: true, seed: 1, priority });
    for await (const { text } of stream) if (text === '') pieces++;
    expect(pieces).toBe(11);
  }

  test('is one row and its whole length for each beam; the rows beside it go on', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 2 });
    const expected = await textsAlone(model, request);
    const work = engine.generate(request);
    await readBeside(engine);
    expect(engine.stats()).toMatchObject({
      running: 1,
      waiting: 0,
      completed: 1,
      kvReservedTokens: 3 * 204,
      generatedTokens: 10,
    });
    const result = await work;
    expect(textsOf(result)).toEqual(expected);
    expect(engine.stats()).toMatchObject({ running: 0, completed: 2, kvReservedTokens: 0, promptTokens: 5 });
    expect(engine.stats().generatedTokens).toBe(10 + result.usage.completionTokens);
  });

  test('an aborted search frees it', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3, kvBudgetTokens: 3 * 204 + 30 });
    const controller = new AbortController();
    const work = failureOf(engine.generate({ ...request, signal: controller.signal }));
    await readBeside(engine);
    // A second one has no room before that, where a short row goes ahead of it.
    const short = { ...request, maxNewTokens: 8 };
    const second = engine.generate(short);
    const neighbour = { prompt: [9, 8], maxNewTokens: 20, ignoreEos: true, seed: 3 };
    const third = engine.generate(neighbour);
    await readBeside(engine, 100);
    expect(engine.stats()).toMatchObject({ running: 1, waiting: 2, kvReservedTokens: 3 * 204 });
    controller.abort('enough');
    expect(await work).toBe('enough');
    expect(textsOf(await second)).toEqual(await textsAlone(model, short));
    expect(answerOf(await third)).toEqual(await alone(model, neighbour));
    expect(engine.stats()).toMatchObject({ aborted: 1, completed: 4, running: 0, waiting: 0, kvReservedTokens: 0 });
  });

  test('what can never fit is refused, and what just fits is not', async () => {
    await using engine = new GenerationEngine(model, { kvBudgetTokens: 60 });
    await expectRefusal({
      name: '',
      act: () => engine.generate({ ...request, maxNewTokens: 17 }),
      code: 'NEOX_TOO_LONG',
      text:
        'The request needs 63 tokens of KV cache, in each of 3 beams 4 of its prompt and up to 17 new ones, and the engine has 60\n' +
        'Hint: shorten the prompt, lower maxNewTokens or numBeams, or give the engine a larger KV budget',
    });
    expect((await engine.generate({ ...request, maxNewTokens: 16 })).tokens).toHaveLength(16);
  });

  test('disposing the engine ends a search', async () => {
    const engine = new GenerationEngine(model, { maxRows: 2 });
    const work = failureOf(engine.generate(request));
    await readBeside(engine);
    await engine.dispose();
    expect(await work).toMatchObject({ code: 'NEOX_DISPOSED' });
    expect(engine.stats()).toMatchObject({ running: 0, kvReservedTokens: 0 });
  });
});

describe('an error in one search', () => {
  const good: readonly OwnRequest[] = [
    { prompt: [1, 2, 3], numBeams: 3, maxNewTokens: 12, ignoreEos: true },
    { prompt: [4, 5], seed: 2, maxNewTokens: 12, ignoreEos: true },
  ];
  // Four tokens may come, each once: then none is left.
  const others = Array.from({ length: 60 }, (_, token) => [token]);
  const cases: { name: string; bad: () => OwnRequest; code: string; text: string }[] = [
    {
      name: 'no token left',
      bad: () => ({
        prompt: [60],
        numBeams: 2,
        maxNewTokens: 30,
        ignoreEos: true,
        badWords: others,
        noRepeatNgramSize: 1,
      }),
      code: 'NEOX_BAD_ARGUMENT',
      text: 'No token is left to choose from: logitBias, badWords, noRepeatNgramSize, minNewTokens or the format ban all of them',
    },
    {
      name: 'logits that are not finite',
      bad: () => {
        const prefix = randomPrefix(model, 3, 1);
        prefix.data.fill(3e38);
        return { prompt: [1, 2], numBeams: 2, prefix };
      },
      code: 'NEOX_NOT_FINITE',
      text: expect.stringMatching(/^The model gives logits that are not finite\nHint: /) as string,
    },
  ];
  test.each(cases)('leaves the others: $name', async ({ bad, code, text }) => {
    await using engine = new GenerationEngine(model, { maxRows: 4 });
    const expected = [await textsAlone(model, good[0] as OwnRequest), await textsAlone(model, good[1] as OwnRequest)];
    const [first, failure, second] = await Promise.all([
      engine.generate(good[0] as OwnRequest),
      failureOf(engine.generate(bad())),
      engine.generate(good[1] as OwnRequest),
    ]);
    expect(failure).toMatchObject({ name: 'NeoXPrefixError', code, message: text });
    expect([first, second].map(textsOf)).toEqual(expected);
    expect(engine.stats()).toMatchObject({ failed: 1, completed: 2, running: 0, kvReservedTokens: 0 });
  });
});

describe('what is refused', () => {
  let engine: GenerationEngine;
  beforeAll(() => (engine = new GenerationEngine(model)));
  afterAll(() => engine.dispose());

  const request = (value: object) => (): unknown => engine.generate(wrong({ prompt: [1], ...value }));
  const together = (name: string): string =>
    `${name} and numBeams: 2 do not go together\nHint: a beam search does not sample`;
  const refusals: Refusal[] = [
    { name: 'n', act: request({ numBeams: 2, n: 2 }), text: together('n') },
    { name: 'seed', act: request({ numBeams: 2, seed: 1 }), text: together('seed') },
    { name: 'stop', act: request({ numBeams: 2, stop: ['a'] }), text: together('stop') },
    { name: 'logprobs', act: request({ numBeams: 2, logprobs: 0 }), text: together('logprobs') },
    { name: 'format', act: request({ numBeams: 2, format: { regex: 'a' } }), text: together('format') },
    {
      name: 'temperature',
      act: request({ numBeams: 2, temperature: 1 }),
      text: 'temperature and numBeams: 2 do not go together\nHint: leave temperature out: a beam search does not sample',
    },
    {
      name: 'an option of beam search without one',
      act: request({ lengthPenalty: 2 }),
      text: 'lengthPenalty is an option of beam search\nHint: set numBeams above 1',
    },
    {
      name: 'more sequences than beams',
      act: request({ numBeams: 2, numReturnSequences: 3 }),
      text: 'Expected an integer between 1 and 2 for numReturnSequences but received 3 of type number',
    },
    {
      name: 'earlyStopping',
      act: request({ numBeams: 2, earlyStopping: 'always' }),
      text: "Expected true, false or 'never' for earlyStopping but received 'always' of type string",
    },
    ...(['numBeams', 'lengthPenalty', 'earlyStopping', 'numReturnSequences'] as const).map((name) => ({
      name: `${name} in a stream`,
      act: () => engine.stream(wrong({ prompt: [1], [name]: 2 })),
      text: (): string => expect.stringContaining(`Unknown option '${name}' in request`) as string,
    })),
  ];
  test.each(refusals)('$name', expectRefusal);
});
