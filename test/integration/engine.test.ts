import type { NeoXModel } from '../../lib/neox-model';
import { evaluate } from '../../lib/training/evaluate';
import {
  EXAMPLE_MODEL,
  expectRefusal,
  failureOf,
  loadModel,
  Random,
  randomPrefix,
  temporaryFolder,
  watchEventLoop,
  wrong,
  type Refusal,
} from '../helpers';
import {
  alone,
  answerOf,
  collectGarbage,
  drawRequests,
  GenerationEngine,
  pause,
  somePrefixes,
  until,
  writeModel,
  type EngineRequest,
} from './engine-helpers';

const folder = temporaryFolder();
let path: string;
let endlessPath: string;
let model: NeoXModel;

beforeAll(async () => {
  path = await writeModel(folder.join('model'));
  endlessPath = await writeModel(folder.join('long'), { max_position_embeddings: 2 ** 16 });
  model = await loadModel(path);
});
afterAll(() => model.dispose());

const LONG = { maxNewTokens: 200, ignoreEos: true } as const;

/**
 * Of the model of `endlessPath`, which has positions for a minute of work: what a test ends may not end by itself,
 * however late its timers are.
 */
const endless = (): EngineRequest => ({ prompt: [1, 2], maxNewTokens: 60_000, ignoreEos: true });

describe('what a request may ask for', () => {
  test('several completions: those of generate()', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3 });
    const options = { n: 5, seed: 9, maxNewTokens: 12, ignoreEos: true, logprobs: 2, prefix: randomPrefix(model, 4) };
    const prompt = new Random(4).ids(30, 64);
    const { usage, timing, ...result } = await engine.generate({ prompt, ...options });
    expect(timing.queuedSeconds).toBeGreaterThan(0); // three rows for five texts
    const { usage: expectedUsage, ...expected } = await model.generate(prompt, options);
    expect(result).toEqual(expected);
    expect(result.completions).toHaveLength(5);
    expect(usage).toEqual({ ...expectedUsage, cachedTokens: 0 });
    // The prompt is computed once for those that fit in, and not again for the others.
    expect(engine.stats().promptTokens).toBeLessThan(5 * 30);
    expect(engine.stats()).toMatchObject({ completed: 5, running: 0 });
  });

  test('several completions of which one fails', async () => {
    await using own = await loadModel(endlessPath);
    await using engine = new GenerationEngine(own, { maxRows: 2 });
    const controller = new AbortController();
    const work = failureOf(engine.generate({ ...endless(), n: 6, signal: controller.signal }));
    await pause(20);
    controller.abort('enough');
    expect(await work).toBe('enough');
    await until(() => engine.stats().running === 0 && engine.stats().waiting === 0);
    expect(engine.stats()).toMatchObject({ kvReservedTokens: 0 });
    // All or none of them are taken in.
    await using small = new GenerationEngine(model, { maxRows: 2, maxQueue: 1 });
    expect(await failureOf(small.generate({ prompt: [1], n: 4 }))).toMatchObject({ code: 'NEOX_BUSY' });
    expect(small.stats()).toMatchObject({ refused: 1, waiting: 0 });
  });

  test('stop strings, also in a stream', async () => {
    await using own = await loadModel(EXAMPLE_MODEL);
    await using engine = new GenerationEngine(own, { maxRows: 4 });
    const requests = Array.from({ length: 12 }, (_, seed) => ({
      prompt: '今日は',
      stop: ['。', 'でした'],
      seed,
      maxNewTokens: 40,
    }));
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    for (const [i, result] of results.entries()) {
      const request = requests[i]!;
      expect(answerOf(result)).toEqual(await alone(own, request));
      const pieces = [];
      for await (const piece of engine.stream(request)) pieces.push(piece);
      expect(pieces.map(({ text }) => text).join('')).toBe(result.text);
      expect(pieces.at(-1)).toMatchObject({
        finishReason: result.finishReason,
        usage: { completionTokens: result.tokens.length },
      });
      expect(pieces.at(-1)?.stop).toBe(result.stop);
    }
    expect(results.filter(({ stop }) => stop !== undefined).length).toBeGreaterThan(3);
    expect(engine.stats()).toMatchObject({ completed: 24, running: 0, kvReservedTokens: 0 });
  });
});

describe('the prompt cache', () => {
  const prompt = new Random(8).ids(60, 64);
  const greedy = { temperature: 0, maxNewTokens: 10 } as const;

  test('warm is cold: A, B, A behind two prefixes and none', async () => {
    await using engine = new GenerationEngine(model, {});
    const [, a, b] = somePrefixes(model, [6, 6]);
    const requests = [a, b, undefined, a, b, undefined].map((prefix) => ({ ...greedy, prompt, prefix }));
    const cached: (number | undefined)[] = [];
    for (const request of requests) {
      const result = await engine.generate(request);
      expect(answerOf(result)).toEqual(await alone(model, request));
      cached.push(result.usage.cachedTokens);
    }
    // What one prefix made is never taken for another; of its own, all but the last token.
    expect(cached).toEqual([0, 0, 0, 59, 59, 59]);
    expect(engine.stats()).toMatchObject({ cachedTokens: 3 * 59, promptTokens: 3 * 60 + 3 });
  });

  test("is known by a prefix's numbers: a copy of it is warm, another that differs in one number is cold", async () => {
    await using engine = new GenerationEngine(model, {});
    const first = randomPrefix(model, 6, 70);
    const copy = randomPrefix(model, 6, 70);
    const other = randomPrefix(model, 6, 70);
    other.data[17] = (other.data[17] as number) + 0.25;
    await engine.generate({ ...greedy, prompt, prefix: first });
    expect((await engine.generate({ ...greedy, prompt, prefix: copy })).usage.cachedTokens).toBe(59);
    const result = await engine.generate({ ...greedy, prompt, prefix: other });
    expect(result.usage.cachedTokens).toBe(0);
    expect(answerOf(result)).toEqual(await alone(model, { ...greedy, prompt, prefix: other }));
  });

  test('takes as much of a beginning as is the same, and compares the tokens', async () => {
    await using engine = new GenerationEngine(model, {});
    const ask = async (tokens: number[]): Promise<number | undefined> => {
      const request = { ...greedy, prompt: tokens };
      const result = await engine.generate(request);
      expect(answerOf(result)).toEqual(await alone(model, request));
      return result.usage.cachedTokens;
    };
    const changed = [...prompt];
    changed[37] = ((changed[37] as number) + 1) % 64;
    expect(await ask(prompt)).toBe(0);
    expect(await ask(changed)).toBe(37);
    expect(await ask(prompt.slice(0, 21))).toBe(20);
    expect(await ask([...prompt, 5, 6, 7])).toBe(60);
    expect(await ask([...prompt, 5, 6, 7])).toBe(62);
    expect(await ask(prompt.slice(1))).toBe(0);
    expect(await ask(prompt.slice(0, 2))).toBe(1);
    // The last token is computed in any case.
    expect(await ask(prompt.slice(0, 1))).toBe(0);
  });

  test('stays within its bytes, forgets what was used least recently, and can be switched off', async () => {
    const limit = 100_000;
    await using engine = new GenerationEngine(model, { promptCacheBytes: limit });
    const prompts = Array.from({ length: 12 }, (_, i) => new Random(100 + i).ids(50, 64));
    for (const tokens of prompts) {
      await engine.generate({ ...greedy, prompt: tokens });
      expect(engine.stats().promptCacheBytes).toBeLessThanOrEqual(limit);
      // Used again and again, this one stays.
      expect((await engine.generate({ ...greedy, prompt: prompts[0] as number[] })).usage.cachedTokens).toBe(49);
    }
    expect((await engine.generate({ ...greedy, prompt: prompts[11] as number[] })).usage.cachedTokens).toBe(49);
    expect((await engine.generate({ ...greedy, prompt: prompts[1] as number[] })).usage.cachedTokens).toBeLessThan(16);

    await using without = new GenerationEngine(model, { promptCacheBytes: 0 });
    for (let i = 0; i < 2; i++) expect((await without.generate({ ...greedy, prompt })).usage.cachedTokens).toBe(0);
    expect(without.stats().promptCacheBytes).toBe(0);
    await using small = new GenerationEngine(model, { promptCacheBytes: 1000 });
    expect(answerOf(await small.generate({ ...greedy, prompt }))).toEqual(await alone(model, { ...greedy, prompt }));
    expect(small.stats().promptCacheBytes).toBe(0);
  });
});

describe('admission', () => {
  test('the budget bounds what runs at once, and everybody has a turn, in order', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 8, kvBudgetTokens: 100, promptCacheBytes: 0 });
    const order: number[] = [];
    let most = 0;
    const sizes = [10, 90, 10, 10, 95, 10, 40, 40, 40, 10];
    const done = Promise.all(
      sizes.map(async (size, i) => {
        await engine.generate({ prompt: [1, 2, 3, 4, 5], maxNewTokens: size - 5, ignoreEos: true, seed: i });
        order.push(i);
      }),
    );
    const watch = setInterval(() => (most = Math.max(most, engine.stats().kvReservedTokens)), 1);
    await done;
    clearInterval(watch);
    expect(most).toBeLessThanOrEqual(100);
    expect(order).toHaveLength(10);
    // 0 and 1 fill the budget, 2 and 3 fit only behind 1, and 4 holds up those that come after it.
    expect(order.indexOf(4)).toBeGreaterThan(order.indexOf(1));
    expect(Math.min(order.indexOf(5), order.indexOf(6), order.indexOf(9))).toBeGreaterThan(order.indexOf(4));
  });

  test('one row: first come, first served, unless a priority says otherwise', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 1 });
    const order: number[] = [];
    await Promise.all(
      [0, 0, 0, 0, 2].map(async (priority, i) => {
        await engine.generate({ prompt: [i], maxNewTokens: 4, ignoreEos: true, priority });
        order.push(i);
      }),
    );
    expect(order[0]).toBe(4);
    expect(order.slice(1)).toEqual([0, 1, 2, 3]);
  });

  test('what does not fit in the queue is refused at once, and the queue goes on', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 2, maxQueue: 3 });
    const works = Array.from({ length: 5 }, (_, i) =>
      engine.generate({ prompt: [i], maxNewTokens: 30, ignoreEos: true }),
    );
    const refusal: Refusal = {
      name: 'busy',
      act: () => engine.generate({ prompt: [1] }),
      code: 'NEOX_BUSY',
      text: 'The engine has as many requests as it takes: 2 rows and 3 that wait\nHint: try again later, or raise maxQueue',
    };
    await expectRefusal(refusal);
    await expectRefusal({ ...refusal, act: () => engine.stream({ prompt: [1] }) });
    await Promise.all(works);
    expect((await engine.generate({ prompt: [1], maxNewTokens: 2, ignoreEos: true })).tokens).toHaveLength(2);
    expect(engine.stats()).toMatchObject({ refused: 2, completed: 6 });
  });

  test('what can never fit is refused', async () => {
    await using engine = new GenerationEngine(model, { kvBudgetTokens: 50 });
    const text =
      'The request needs 51 tokens of KV cache, for 10 of its prompt and up to 41 new ones, and the engine has 50\n' +
      'Hint: shorten the prompt, lower maxNewTokens, or give the engine a larger KV budget';
    const prompt = new Random(1).ids(10, 64);
    await expectRefusal({
      name: '',
      act: () => engine.generate({ prompt, maxNewTokens: 41 }),
      code: 'NEOX_TOO_LONG',
      text,
    });
    expect((await engine.generate({ prompt, maxNewTokens: 40, ignoreEos: true })).tokens).toHaveLength(40);
    await expectRefusal({
      name: '',
      act: () => engine.generate({ prompt: new Random(1).ids(250, 64), prefix: randomPrefix(model, 10) }),
      code: 'NEOX_TOO_LONG',
      text: 'Prompt 0 needs 260 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
    });
  });

  test('a request that reaches the last position reserves no more than there is', async () => {
    await using engine = new GenerationEngine(model, { kvBudgetTokens: 250 });
    const request = {
      prompt: [1, 2, 3],
      prefix: randomPrefix(model, 6),
      maxNewTokens: 100_000,
      ignoreEos: true,
      seed: 1,
    };
    const result = await engine.generate(request);
    expect(result).toMatchObject({ finishReason: 'length', usage: { completionTokens: 248 } });
    expect(answerOf(result)).toEqual(await alone(model, request));
  });

  test('a row whose memory is not to be had fails by itself', async () => {
    // More than any address space has.
    const config = { max_position_embeddings: 2 ** 20, rope_scaling: { type: 'dynamic', factor: 1e6 } };
    await using own = await loadModel(await writeModel(folder.join('endless'), config));
    await using engine = new GenerationEngine(own, { kvBudgetTokens: 2 ** 50 });
    const [good, bad] = await Promise.all([
      engine.generate({ prompt: [1, 2], maxNewTokens: 20, ignoreEos: true, seed: 1 }),
      failureOf(engine.generate({ prompt: [1, 2], maxNewTokens: 2 ** 39 })),
    ]);
    expect(bad).toMatchObject({ name: 'NeoXPrefixError', code: 'NEOX_OUT_OF_MEMORY' });
    expect(answerOf(good)).toEqual(await alone(own, { prompt: [1, 2], maxNewTokens: 20, ignoreEos: true, seed: 1 }));
    expect(engine.stats()).toMatchObject({ failed: 1, completed: 1, running: 0, kvReservedTokens: 0 });
  });
});

describe('beside the engine', () => {
  test('other operations of the model have their turns, and the event loop stays live', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 8 });
    const inputIds = [new Random(2).ids(40, 64)];
    const before = (await model.forward({ inputIds })).logits;
    const request = { prompt: [1, 2, 3], ...LONG, seed: 4 };
    const expected = await alone(model, request);
    const { turns, result } = await watchEventLoop(async () => {
      const works = Promise.all(Array.from({ length: 40 }, () => engine.generate(request)));
      let between = 0;
      while (engine.stats().completed < 40) {
        expect((await model.forward({ inputIds })).logits).toEqual(before);
        await evaluate(model, [{ completion: [1, 2, 3] }]);
        between++;
      }
      return { between, answers: (await works).map(answerOf) };
    });
    expect(result.answers).toEqual(Array(40).fill(expected));
    expect(result.between).toBeGreaterThan(3);
    expect(turns).toBeGreaterThan(3);
  });

  test('two engines on one model', async () => {
    await using one = new GenerationEngine(model, { maxRows: 2 });
    await using two = new GenerationEngine(model, { maxRows: 3, prefillTokens: 8 });
    const requests = drawRequests(model, 12, somePrefixes(model, [4]), 21);
    const [a, b] = await Promise.all(
      [one, two].map((engine) => Promise.all(requests.map((request) => engine.generate(request)))),
    );
    expect(a?.map(answerOf)).toEqual(b?.map(answerOf));
  });
});

test('two thousand generations leave memory as it was', async () => {
  await using engine = new GenerationEngine(model, { maxRows: 16, maxQueue: 1000, promptCacheBytes: 500_000 });
  const requests = drawRequests(model, 250, somePrefixes(model, [5, 20]), 3);
  const marks: number[] = [];
  for (let round = 0; round < 8; round++) {
    await Promise.all(requests.map((request) => engine.generate(request)));
    collectGarbage();
    marks.push(process.memoryUsage.rss() / 2 ** 20);
  }
  expect(Math.max(...marks.slice(-2)) - Math.max(...marks.slice(2, 4))).toBeLessThan(15);
});

describe('the end', () => {
  const long = (): EngineRequest => ({ prompt: [1, 2], ...LONG });
  const disposed = { name: 'NeoXPrefixError', code: 'NEOX_DISPOSED', message: 'This generation engine is disposed' };

  test('drain waits for what is there and refuses what comes', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 2 });
    const works = [1, 2, 3].map(() => engine.generate(long()));
    let drained = false;
    const draining = engine.drain().then(() => (drained = true));
    await expectRefusal({
      name: '',
      act: () => engine.generate(long()),
      code: 'NEOX_BUSY',
      text: 'The engine takes no more requests: it is drained',
    });
    expect(drained).toBe(false);
    expect((await Promise.all(works)).map(({ tokens }) => tokens.length)).toEqual([200, 200, 200]);
    await draining;
    await engine.drain();
  });

  test.each([0, 5, 30])('dispose in the middle, after %d ms', async (delay) => {
    await using own = await loadModel(endlessPath);
    const engine = new GenerationEngine(own, { maxRows: 2 });
    const failures = Array.from({ length: 6 }, () =>
      failureOf(engine.generate({ ...endless(), prefix: randomPrefix(own, 3) })),
    );
    const stream = engine.stream(endless());
    const next = failureOf(
      (async () => {
        for (;;) if ((await stream.next()).done === true) return;
      })(),
    );
    await pause(delay);
    const first = engine.dispose();
    expect(engine.dispose()).toBe(first);
    await first;
    for (const error of [...(await Promise.all(failures)), await next]) expect(error).toMatchObject(disposed);
    expect(await failureOf(engine.generate(endless()))).toMatchObject(disposed);
    expect(await failureOf(() => engine.stream(endless()))).toMatchObject(disposed);
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, kvReservedTokens: 0 });
  });

  test('the model takes its engines along', async () => {
    const own = await loadModel(endlessPath);
    const engine = new GenerationEngine(own, {});
    const idle = new GenerationEngine(own, {});
    const work = failureOf(engine.generate(endless()));
    const unread = engine.stream(endless());
    await pause(20);
    await own.dispose();
    expect(await work).toMatchObject(disposed);
    expect(await failureOf(unread.next())).toMatchObject(disposed);
    expect(await failureOf(idle.generate(endless()))).toMatchObject(disposed);
    expect(await failureOf(() => new GenerationEngine(own))).toMatchObject({
      code: 'NEOX_DISPOSED',
      message: `The model ${endlessPath} is disposed`,
    });
  });
});

describe('what is refused', () => {
  let engine: GenerationEngine;
  beforeAll(() => (engine = new GenerationEngine(model)));
  afterAll(() => engine.dispose());

  const options = (value: unknown) => (): unknown => new GenerationEngine(model, wrong(value));
  const request = (value: unknown) => (): unknown => engine.generate(wrong(value));
  const refusals: Refusal[] = [
    {
      name: 'no model',
      act: () => new GenerationEngine(wrong({})),
      text: 'Expected a NeoXModel for model but received an object of type object',
    },
    {
      name: 'a misspelled option',
      act: options({ maxRow: 2 }),
      text: "Unknown option 'maxRow' in options\nHint: did you mean 'maxRows'?",
    },
    {
      name: 'maxRows',
      act: options({ maxRows: 0 }),
      text: 'Expected an integer between 1 and 4096 for maxRows but received 0 of type number',
    },
    {
      name: 'kvBudgetBytes',
      act: options({ kvBudgetBytes: 511 }),
      text: 'Expected an integer of at least 512 for kvBudgetBytes but received 511 of type number',
    },
    {
      name: 'two budgets',
      act: options({ kvBudgetBytes: 512, kvBudgetTokens: 1 }),
      text: 'Expected nothing, since kvBudgetBytes is given, for kvBudgetTokens but received 1 of type number',
    },
    {
      name: 'prefillTokens',
      act: options({ prefillTokens: 0 }),
      text: 'Expected an integer of at least 1 for prefillTokens but received 0 of type number',
    },
    {
      name: 'no request',
      act: request(undefined),
      text: 'Expected an object for request but received undefined of type undefined',
    },
    {
      name: 'no prompt',
      act: request({}),
      text: 'Expected a string or token ids for prompt but received undefined of type undefined',
    },
    {
      name: 'many prompts',
      act: request({ prompt: [[1], [2]] }),
      text: 'Expected a string or token ids for prompt but received an array of 2 of type array',
    },
    {
      name: 'a misspelled key',
      act: request({ prompt: [1], maxNewToken: 1 }),
      text: "Unknown option 'maxNewToken' in request\nHint: did you mean 'maxNewTokens'?",
    },
    {
      name: 'endToken',
      act: request({ prompt: [1], endToken: 1 }),
      text: 'Expected a boolean for endToken but received 1 of type number',
    },
    {
      name: 'the end tokens of a beam search',
      act: request({ prompt: [1], endToken: true, numBeams: 2 }),
      text: 'endToken and a beam search do not go together\nHint: its texts come without their ends',
    },
    {
      name: 'a wrong one among several requests',
      act: () => engine.generate([{ prompt: [1] }, wrong({ prompt: [1], topK: -1 })]),
      text: 'Expected an integer of at least 0 for topK but received -1 of type number',
    },
    {
      name: 'the seconds of drain',
      act: () => engine.drain({ seconds: -1 }),
      text: 'Expected a finite number of at least 0 and at most 2147482.648 for seconds but received -1 of type number',
    },
    {
      name: 'priority',
      act: request({ prompt: [1], priority: 101 }),
      text: 'Expected an integer between 0 and 100 for priority but received 101 of type number',
    },
  ];
  test.each(refusals)('$name', expectRefusal);

  test('a prefix of another model', async () => {
    const own = await loadModel(await writeModel(folder.join('other'), { num_hidden_layers: 1 }));
    const prefix = randomPrefix(own, 2);
    await own.dispose();
    expect(await failureOf(engine.generate({ prompt: [1], prefix }))).toMatchObject({ code: 'NEOX_PREFIX_MISMATCH' });
    await until(() => engine.stats().waiting === 0);
  });

  test('text without a tokenizer', async () => {
    expect(await failureOf(engine.generate({ prompt: 'text' }))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
  });
});
