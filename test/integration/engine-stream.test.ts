import { join } from 'node:path';
import type { StreamPiece } from '../../lib/generation/output';
import { PACKAGE_ROOT } from '../../lib/base/package';
import type { NeoXModel } from '../../lib/neox-model';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';
import { failureOf, loadModel, Random, temporaryFolder } from '../helpers';
import { alone, collectGarbage, GenerationEngine, pause, until, writeModel } from './engine-helpers';

const folder = temporaryFolder();
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model'), { max_position_embeddings: 2 ** 16 }));
});
afterAll(() => model.dispose());

const LONG = { prompt: [1, 2, 3], maxNewTokens: 1000, ignoreEos: true, seed: 1 } as const;
/** A minute of work: what a test ends may not end by itself, however late its timers are. */
const ENDLESS = { ...LONG, maxNewTokens: 60_000 } as const;

async function piecesOf(stream: AsyncIterable<StreamPiece>): Promise<StreamPiece[]> {
  const pieces: StreamPiece[] = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

// Random models, that give halves of characters and bytes that are none.
describe.each(['byte-level', 'byte-fallback', 'dummy-prefix'])('pieces of text by the tokenizer %s', (name) => {
  const tokenizer = join(PACKAGE_ROOT, 'test', 'fixtures', 'tokenizer', name);
  let own: NeoXModel;
  let engine: GenerationEngine;
  beforeAll(async () => {
    const { vocabSize } = await Tokenizer.load(tokenizer);
    own = await loadModel(await writeModel(folder.join(name), { vocab_size: vocabSize, eos_token_id: vocabSize - 1 }), {
      tokenizer,
    });
    engine = new GenerationEngine(own, { maxRows: 4 });
  });
  afterAll(() => own.dispose());

  test('joined they are the text, none ends inside a character, and the last one has reason and usage', async () => {
    const requests = Array.from({ length: 12 }, (_, i) => ({ prompt: [i], maxNewTokens: 60, seed: i }));
    const streams = await Promise.all(requests.map((request) => piecesOf(engine.stream(request))));
    let held = 0;
    for (const [i, pieces] of streams.entries()) {
      const expected = await alone(own, requests[i]!);
      const { text: tail, ...last } = pieces.pop() as StreamPiece;
      expect(pieces.map(({ text }) => text).join('') + tail).toBe(expected.text);
      expect(pieces.map(({ token }) => token)).toEqual(expected.tokens);
      expect(last).toEqual({
        index: 0,
        timing: expect.objectContaining({ decodeSeconds: expect.any(Number) }) as unknown,
        finishReason: expected.finishReason,
        usage: { completionTokens: expected.tokens.length, promptTokens: 1, prefixTokens: 0, cachedTokens: 0 },
      });
      for (const { text } of pieces) expect(text).not.toMatch(/\p{Surrogate}/u);
      held += pieces.filter(({ text }) => text === '').length;
    }
    expect(held).toBeGreaterThan(0);
  });
});

test('pieces come as they are made', async () => {
  await using engine = new GenerationEngine(model);
  const stream = engine.stream(LONG);
  const { value } = await stream.next();
  expect(value?.token).toBeDefined();
  expect(engine.stats()).toMatchObject({ running: 1, completed: 0 });
  await stream.return();
});

test('the request is under way from the call on', async () => {
  await using engine = new GenerationEngine(model);
  const stream = engine.stream({ ...LONG, maxNewTokens: 10 });
  await until(() => engine.stats().completed === 1);
  expect(await piecesOf(stream)).toHaveLength(11);
});

test('pieces may be asked for ahead', async () => {
  await using engine = new GenerationEngine(model);
  const request = { ...LONG, maxNewTokens: 5 };
  const stream = engine.stream(request);
  const results = await Promise.all(Array.from({ length: 8 }, () => stream.next()));
  expect(results.slice(0, 5).map(({ value }) => value?.token)).toEqual((await alone(model, request)).tokens);
  expect(results[5]).toMatchObject({ done: false, value: { finishReason: 'length' } });
  expect(results.slice(6)).toEqual(Array(2).fill({ done: true, value: undefined }));
  expect(await stream.next()).toEqual({ done: true, value: undefined });
});

describe('a stream that is not read', () => {
  test('makes its own row wait, after maxUnread tokens, and no other', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 3, maxUnread: 7 });
    const slow = engine.stream(LONG);
    const other = await engine.generate(LONG);
    expect(other.tokens).toHaveLength(1000);
    expect(engine.stats()).toMatchObject({ generatedTokens: 1007, running: 1 });
    // Read again, it goes on where it was.
    const pieces = await piecesOf(slow);
    expect(pieces.slice(0, -1).map(({ token }) => token)).toEqual(other.tokens);
  });

  test('read slowly, never has more than maxUnread waiting', async () => {
    await using engine = new GenerationEngine(model, { maxUnread: 4 });
    const stream = engine.stream({ ...LONG, maxNewTokens: 40 });
    const tokens: (number | undefined)[] = [];
    for await (const { token } of stream) {
      if (token !== undefined) tokens.push(token);
      if (tokens.length % 5 === 0) await pause(5);
      expect(engine.stats().generatedTokens).toBeLessThanOrEqual(tokens.length + 4);
    }
    expect(tokens).toEqual((await alone(model, { ...LONG, maxNewTokens: 40 })).tokens);
  });
});

describe('a stream that is left', () => {
  const gone = { running: 0, waiting: 0, kvReservedTokens: 0 };

  test('by break', async () => {
    await using engine = new GenerationEngine(model);
    let seen = 0;
    for await (const piece of engine.stream(LONG)) if (piece.token !== undefined && ++seen === 3) break;
    expect(engine.stats()).toMatchObject({ ...gone, aborted: 1 });
    expect(engine.stats().generatedTokens).toBeLessThan(1000);
  });

  test('by an error in the loop', async () => {
    await using engine = new GenerationEngine(model);
    const error = new Error('in the loop');
    const loop = async (): Promise<void> => {
      for await (const piece of engine.stream(LONG)) if (piece.token !== undefined) throw error;
    };
    expect(await failureOf(loop())).toBe(error);
    expect(engine.stats()).toMatchObject(gone);
  });

  test('by return() before and behind the first piece, and by throw()', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 1 });
    const running = engine.stream(ENDLESS);
    const waiting = engine.stream(ENDLESS);
    expect(await waiting.return()).toEqual({ done: true, value: undefined });
    await running.next();
    const asked = running.next();
    const error = new Error('thrown in');
    expect(await failureOf(running.throw(error))).toBe(error);
    expect(await running.next()).toEqual({ done: true, value: undefined });
    await asked;
    expect(engine.stats()).toMatchObject(gone);
    {
      await using scoped = engine.stream(LONG);
      await scoped.next();
    }
    expect(engine.stats()).toMatchObject({ ...gone, aborted: 3 });
  });

  test('to the garbage collector', async () => {
    await using engine = new GenerationEngine(model, { maxUnread: 2 });
    const drop = async (): Promise<void> => {
      await engine.stream(LONG).next();
    };
    await drop();
    expect(engine.stats().running).toBe(1);
    await until(() => {
      collectGarbage();
      return engine.stats().running === 0;
    });
  });
});

describe('a signal', () => {
  const reason = { the: 'reason' };

  test('ends a request that runs, one that waits and one that nobody reads', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 2, maxUnread: 2 });
    const controllers = Array.from({ length: 4 }, () => new AbortController());
    const [a, b, c, d] = controllers.map(({ signal }) => signal);
    const running = failureOf(engine.generate({ ...ENDLESS, signal: a! }));
    const unread = engine.stream({ ...ENDLESS, signal: b! });
    const waiting = failureOf(engine.generate({ ...ENDLESS, signal: c! }));
    const stream = engine.stream({ ...ENDLESS, signal: d! });
    const next = failureOf(stream.next());
    await pause(10);
    for (const controller of controllers) controller.abort(reason);
    expect(await Promise.all([running, waiting, next, failureOf(unread.next())])).toEqual(Array(4).fill(reason));
    expect(await running).toBe(reason);
    // Rejected once; then the stream has ended.
    expect(await unread.next()).toEqual({ done: true, value: undefined });
    expect((await engine.generate({ ...LONG, maxNewTokens: 3 })).tokens).toHaveLength(3);
    expect(engine.stats()).toMatchObject({ aborted: 4, completed: 1, running: 0, kvReservedTokens: 0 });
  });

  test('that is aborted already lets nothing begin', async () => {
    await using engine = new GenerationEngine(model);
    expect(await failureOf(engine.generate({ ...LONG, signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(await failureOf(() => engine.stream({ ...LONG, signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(engine.stats()).toMatchObject({ steps: 0, aborted: 0, running: 0, waiting: 0 });
  });

  test('is not listened to any longer than the request lasts', async () => {
    await using engine = new GenerationEngine(model);
    const { signal } = new AbortController();
    const added = jest.spyOn(signal, 'addEventListener');
    const removed = jest.spyOn(signal, 'removeEventListener');
    await engine.generate({ ...LONG, maxNewTokens: 2, signal });
    await engine.stream({ ...LONG, signal }).return();
    expect(added).toHaveBeenCalledTimes(2);
    expect(removed).toHaveBeenCalledTimes(2);
  });
});

test('two hundred streams with aborts at random leave nothing behind', async () => {
  await using engine = new GenerationEngine(model, { maxRows: 8, maxUnread: 5 });
  const random = new Random(6);
  const ends = Array.from({ length: 200 }, async (_, i) => {
    const controller = new AbortController();
    const stream = engine.stream({ ...LONG, seed: i, maxNewTokens: random.integer(1, 60), signal: controller.signal });
    const stopAt = random.integer(1, 60);
    const how = random.pick(['abort', 'return', 'read']);
    if (how === 'abort') setTimeout(() => controller.abort(i), random.integer(0, 100));
    try {
      let seen = 0;
      for await (const piece of stream) {
        if (how === 'return' && ++seen === stopAt) return 'left';
        if (piece.finishReason !== undefined) return 'complete';
      }
      return 'nothing';
    } catch (error) {
      expect(error).toBe(i);
      return 'aborted';
    }
  });
  const outcomes = await Promise.all(ends);
  expect(new Set(outcomes)).toEqual(new Set(['left', 'complete', 'aborted']));
  expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, kvReservedTokens: 0 });
});
