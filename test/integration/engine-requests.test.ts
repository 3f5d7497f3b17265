import { rm } from 'node:fs/promises';
import type { EnginePiece } from '../../lib/engine/stream';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { NeoXModel } from '../../lib/neox-model';
import { EXAMPLE_MODEL, expectRefusal, failureOf, loadModel, Random, randomPrefix, temporaryFolder } from '../helpers';
import { answerOf, GenerationEngine, pause, until, writeModel } from './engine-helpers';

const folder = temporaryFolder();
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model'), { max_position_embeddings: 2 ** 16 }));
});
afterAll(() => model.dispose());

const ENDLESS = { prompt: [1, 2, 3], maxNewTokens: 60_000, ignoreEos: true, seed: 1 } as const;
const gone = { running: 0, waiting: 0, kvReservedTokens: 0 };

async function piecesOf(stream: AsyncIterable<EnginePiece>): Promise<EnginePiece[]> {
  const pieces: EnginePiece[] = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

describe('several requests', () => {
  const requests = Array.from({ length: 4 }, (_, i) => ({
    prompt: new Random(i).ids(9, 64),
    prefix: i % 2 === 0 ? undefined : randomPrefix,
    maxNewTokens: 8,
    seed: i,
    n: 1 + (i % 2),
  }));
  const own = (): { prompt: number[]; maxNewTokens: number; seed: number; n: number }[] =>
    requests.map(({ prefix, ...request }) => ({ ...request, ...(prefix && { prefix: prefix(model, 3) }) }));

  test('give what each gives alone, in their order', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3 });
    const list = own();
    const results = await engine.generate(list);
    for (const [i, { prompt, ...options }] of list.entries()) {
      expect(answerOf(results[i]!)).toEqual(answerOf(await model.generate(prompt, options)));
    }
    expect(await engine.generate([])).toEqual([]);
  });

  test('as one stream: the index says whose a piece is', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3, maxUnread: 2 });
    const list = own();
    const pieces = await piecesOf(engine.stream(list));
    const texts = (await Promise.all(list.map(({ prompt, ...options }) => model.generate(prompt, options)))).flatMap(
      (result) => result.completions ?? [result],
    );
    expect(texts).toHaveLength(6);
    for (const [i, { tokens, finishReason }] of texts.entries()) {
      const mine = pieces.filter(({ index }) => index === i);
      expect(mine.slice(0, -1).map(({ token }) => token)).toEqual(tokens);
      expect(mine.at(-1)).toMatchObject({ finishReason, usage: { completionTokens: tokens.length } });
    }
    expect(await piecesOf(engine.stream([]))).toEqual([]);
  });

  test('are taken all or none', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 2, maxQueue: 2 });
    const six = Array.from({ length: 6 }, () => ENDLESS);
    const busy = {
      name: 'busy',
      code: 'NEOX_BUSY',
      text: /^The engine has as many requests as it takes: 2 rows and 2 that wait/,
    };
    await expectRefusal({ ...busy, act: () => engine.stream(six) });
    await expectRefusal({ ...busy, act: () => engine.generate(six) });
    await expectRefusal({ ...busy, act: () => engine.generate({ ...ENDLESS, n: 6 }) });
    expect(await failureOf(() => engine.stream(six))).toMatchObject({ reason: 'full' });
    expect(engine.stats()).toMatchObject({ ...gone, refused: 4, aborted: 0 });
    expect((await engine.generate([{ prompt: [1], maxNewTokens: 1 }])).length).toBe(1);
  });

  test('when one fails, the others end', async () => {
    const prefixes = new PrefixStore(model, { maxBytes: 2000 }); // one of them
    const file = folder.join('gone.safetensors');
    await randomPrefix(model, 3).save(file);
    await prefixes.add('gone', file);
    await randomPrefix(model, 3, 2).save(folder.join('other.safetensors'));
    await prefixes.add('other', folder.join('other.safetensors'));
    await rm(file);
    await using engine = new GenerationEngine(model, { prefixes });
    const failing = [ENDLESS, { ...ENDLESS, prefix: 'gone' }, ENDLESS];
    expect(await failureOf(engine.generate(failing))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
    expect(await failureOf(piecesOf(engine.stream(failing)))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
    await until(() => engine.stats().running === 0);
    expect(engine.stats()).toMatchObject({ ...gone, failed: 2, aborted: 4 });
  });

  test('have one listener at their signal', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 4 });
    const warnings: Error[] = [];
    const note = (warning: Error): void => void warnings.push(warning);
    process.on('warning', note);
    const controller = new AbortController();
    const work = failureOf(engine.generate({ ...ENDLESS, n: 16, signal: controller.signal }));
    await pause(20);
    controller.abort('enough');
    expect(await work).toBe('enough');
    process.off('warning', note);
    expect(warnings).toEqual([]);
    await until(() => engine.stats().running === 0);
  });
});

test('a stream of which one text is not read makes both its rows wait, and no other', async () => {
  await using engine = new GenerationEngine(model, { maxRows: 3, maxUnread: 5 });
  const stream = engine.stream({ ...ENDLESS, n: 2 });
  const other = await engine.generate({ ...ENDLESS, maxNewTokens: 300 });
  expect(other.tokens).toHaveLength(300);
  await until(() => engine.stats().generatedTokens === 310);
  await stream.return();
  expect(engine.stats()).toMatchObject(gone);
});

describe('the end token', () => {
  const prompt = [5, 6, 7];
  // Token 2 ends a text, and now it does at once.
  const ending = { prompt, maxNewTokens: 5, logitBias: { 2: 100 }, logprobs: 2 };

  test('with its log-probability, in the result and in the last piece', async () => {
    await using engine = new GenerationEngine(model);
    const result = await engine.generate({ ...ending, endToken: true });
    expect(result).toMatchObject({ tokens: [], text: '', finishReason: 'stop', logprobs: [], end: { token: 2 } });
    expect(result.end?.logprob?.top).toHaveLength(2);
    expect(result.usage.completionTokens).toBe(0);
    const { logprob } = (await model.generate([...prompt, 2], { maxNewTokens: 0, promptLogprobs: 2 }))
      .promptLogprobs![3]!;
    expect(result.end?.logprob?.logprob).toBeCloseTo(logprob, 5);
    const pieces = await piecesOf(engine.stream({ ...ending, endToken: true }));
    expect(pieces).toHaveLength(1);
    expect(pieces[0]).toMatchObject({ text: '', finishReason: 'stop', end: result.end! });
    expect(pieces[0]?.token).toBeUndefined();
  });

  test('only where it is asked for, and where it came', async () => {
    await using engine = new GenerationEngine(model);
    expect(await engine.generate(ending)).not.toHaveProperty('end');
    const long = await engine.generate({ prompt, maxNewTokens: 3, ignoreEos: true, endToken: true });
    expect(long).not.toHaveProperty('end');
    const bare = await engine.generate({ ...ending, logprobs: undefined as never, endToken: true });
    expect(bare.end).toEqual({ token: 2 });
  });
});

describe('log-probabilities of prompts', () => {
  const prompts = [1, 2, 40, 130, 300].map((length, i) => new Random(i).ids(length, 64));

  test.each([undefined, 5])('are those of generate(), in pieces and beside others, prefix of %p', async (length) => {
    const prefix = length === undefined ? undefined : randomPrefix(model, length);
    await using engine = new GenerationEngine(model, { prefillTokens: 32 });
    // Twice: the prompt cache, which has the prompts by then, does not shorten them.
    for (let round = 0; round < 2; round++) {
      const options = { prefix, promptLogprobs: 3, maxNewTokens: 4, seed: 1 };
      const running = engine.generate({ prompt: [1], maxNewTokens: 200, ignoreEos: true });
      const results = await engine.generate(prompts.map((prompt) => ({ prompt, ...options })));
      await running;
      for (const [i, prompt] of prompts.entries()) {
        const expected = await model.generate(prompt, options);
        expect(results[i]?.promptLogprobs).toEqual(expected.promptLogprobs);
        expect(answerOf(results[i]!)).toEqual(answerOf(expected));
      }
    }
  });

  test('without a new token', async () => {
    await using engine = new GenerationEngine(model, { prefillTokens: 32 });
    const options = { promptLogprobs: 0, maxNewTokens: 0 };
    const results = await engine.generate(prompts.map((prompt) => ({ prompt, ...options })));
    for (const [i, prompt] of prompts.entries()) {
      const { promptLogprobs } = await model.generate(prompt, options);
      expect(results[i]).toMatchObject({ promptLogprobs, tokens: [], finishReason: 'length' });
    }
    expect(engine.stats()).toMatchObject({ ...gone, completed: 5 });
  });

  test('in a stream: before the text, for each text', async () => {
    await using engine = new GenerationEngine(model);
    const prompt = prompts[2]!;
    const options = { promptLogprobs: 1, n: 2, maxNewTokens: 3, seed: 4, ignoreEos: true };
    const pieces = await piecesOf(engine.stream({ prompt, ...options }));
    const { promptLogprobs } = await model.generate(prompt, options);
    for (const index of [0, 1]) {
      const [first, ...rest] = pieces.filter((piece) => piece.index === index);
      expect(first).toEqual({ index, text: '', promptLogprobs });
      expect(rest).toHaveLength(4);
      expect(rest.every((piece) => piece.promptLogprobs === undefined)).toBe(true);
    }
  });
});

test('the first token is there at once, not when a slice of the engine is over', async () => {
  await using own = await loadModel(EXAMPLE_MODEL);
  await using engine = new GenerationEngine(own);
  const request = { prompt: '今日は', maxNewTokens: 60, ignoreEos: true, seed: 1 };
  const first = async (stream: AsyncGenerator): Promise<number> => {
    const begin = performance.now();
    await stream.next();
    const time = performance.now() - begin;
    await stream.return(undefined);
    return time;
  };
  const least = { engine: Infinity, model: Infinity };
  for (let i = 0; i < 8; i++) {
    least.engine = Math.min(least.engine, await first(engine.stream(request)));
    const { prompt, ...options } = request;
    least.model = Math.min(least.model, await first(own.stream(prompt, options)));
  }
  // It was 20 ms and more. With room for a machine that does other things, too.
  expect(least.engine).toBeLessThan(least.model * 1.5 + 4);
});

describe('drain', () => {
  test('with a limit ends a stream that nobody reads', async () => {
    await using engine = new GenerationEngine(model, { maxUnread: 4 });
    const unread = engine.stream(ENDLESS);
    const work = failureOf(engine.generate(ENDLESS));
    const begin = performance.now();
    await engine.drain({ seconds: 0.05 });
    expect(performance.now() - begin).toBeLessThan(2000);
    const drained = {
      code: 'NEOX_BUSY',
      reason: 'drained',
      message: 'The engine was drained, and this request had not ended after 0.05 s',
    };
    expect(await work).toMatchObject(drained);
    expect(await failureOf(unread.next())).toMatchObject(drained);
    expect(await failureOf(engine.generate(ENDLESS))).toMatchObject({ code: 'NEOX_BUSY', reason: 'drained' });
    expect(engine.stats()).toMatchObject({ ...gone, aborted: 2 });
  });

  test('without one waits, and leaves no timer behind', async () => {
    await using engine = new GenerationEngine(model);
    const work = engine.generate({ ...ENDLESS, maxNewTokens: 20 });
    await engine.drain({ seconds: 600 });
    expect((await work).tokens).toHaveLength(20);
  });
});

test('where the time of a request went', async () => {
  await using engine = new GenerationEngine(model, { maxRows: 1 });
  const begin = performance.now();
  const [a, b] = await Promise.all([
    engine.generate({ ...ENDLESS, maxNewTokens: 300 }),
    engine.generate({ ...ENDLESS, maxNewTokens: 10 }),
  ]);
  const seconds = (performance.now() - begin) / 1e3;
  for (const { timing } of [a, b]) {
    const { queuedSeconds, prefillSeconds, decodeSeconds } = timing;
    for (const part of [queuedSeconds, prefillSeconds, decodeSeconds]) expect(part).toBeGreaterThanOrEqual(0);
    expect(queuedSeconds + prefillSeconds + decodeSeconds).toBeLessThanOrEqual(seconds);
  }
  // The second one waited for as long as the first one ran.
  expect(b.timing.queuedSeconds).toBeGreaterThan(a.timing.decodeSeconds);
});

test('tokens by the names of prefixes', async () => {
  const prefixes = new PrefixStore(model);
  await prefixes.add('smile', randomPrefix(model, 4));
  await using engine = new GenerationEngine(model, { prefixes });
  const request = { prompt: [1, 2, 3], maxNewTokens: 5, ignoreEos: true };
  await engine.generate([request, { ...request, prefix: 'smile' }, { ...request, prefix: 'smile', n: 2 }]);
  expect(engine.stats().prefixes).toEqual([
    { prefix: undefined, texts: 1, promptTokens: 3, generatedTokens: 5 },
    { prefix: 'smile', texts: 3, promptTokens: 9, generatedTokens: 15 },
  ]);
});

test('a name that there is no prefix of has a code of its own', async () => {
  const prefixes = new PrefixStore(model);
  await using engine = new GenerationEngine(model, { prefixes });
  await expectRefusal({
    name: '',
    act: () => engine.generate({ prompt: [1], prefix: 'smile' }),
    code: 'NEOX_UNKNOWN_PREFIX',
    text: "The store has no prefix 'smile'\nHint: it has none",
  });
});
