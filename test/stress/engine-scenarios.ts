import { deepStrictEqual, ok } from 'node:assert';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { GenerationEngine } from '../../lib/engine/engine';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { evaluate } from '../../lib/training/evaluate';
import { EXAMPLE_MODEL, loadModel, packedBackendsFor, Random, randomPrefix, watchEventLoop } from '../helpers';
import {
  alone,
  answerOf,
  collectGarbage,
  drawRequests,
  drawSearches,
  somePrefixes,
  writeModel,
  type Answer,
  type OwnRequest,
} from '../integration/engine-helpers';

const MEGABYTE = 2 ** 20;
function residentMegabytes(): number {
  collectGarbage();
  return process.memoryUsage.rss() / MEGABYTE;
}

/** Each answer of a request by itself, computed once. */
async function answersAlone(model: NeoXModel, requests: readonly OwnRequest[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const request of requests) answers.push(await alone(model, request));
  return answers;
}

/** Sends requests at random times; every answer must be the expected one. */
async function sendAll(
  engine: GenerationEngine,
  requests: readonly OwnRequest[],
  expected: readonly Answer[],
  seed: number,
): Promise<void> {
  const random = new Random(seed);
  await Promise.all(
    requests.map(async (request, i) => {
      await pause(random.integer(0, 3000));
      deepStrictEqual(answerOf(await engine.generate(request)), expected[i], `request ${i}`);
    }),
  );
}

function assertIdle(engine: GenerationEngine): void {
  const { running, waiting, kvReservedTokens } = engine.stats();
  deepStrictEqual({ running, waiting, kvReservedTokens }, { running: 0, waiting: 0, kvReservedTokens: 0 });
}

/**
 * A thousand requests over fifty prefixes, two hundred of them beam searches, give what they give alone, and again with
 * a warm prompt cache.
 */
async function mix(folder: string): Promise<string> {
  const said: string[] = [];
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const backend of packedBackendsFor(dtype)) {
      const model = await loadModel(await writeModel(join(folder, dtype + backend), { use_parallel_residual: true }), {
        dtype,
        backend,
      });
      const prefixes = somePrefixes(
        model,
        Array.from({ length: 50 }, (_, i) => 1 + (i % 23)),
      );
      const requests = [...drawRequests(model, 800, prefixes, 77), ...drawSearches(model, 200, prefixes, 78)];
      const expected = await answersAlone(model, requests);
      const engine = new GenerationEngine(model, {
        maxRows: 24,
        maxQueue: 1000,
        prefillTokens: 32,
        promptCacheBytes: 4 * MEGABYTE,
      });
      for (let round = 0; round < 3; round++) await sendAll(engine, requests, expected, round);
      const { cachedTokens, promptTokens } = engine.stats();
      assertIdle(engine);
      await model.dispose();
      said.push(
        `${backend} ${dtype} (${Math.round((100 * cachedTokens) / (cachedTokens + promptTokens))} % of prompts from the cache)`,
      );
    }
  }
  return `3000 requests over 50 prefixes, 600 of them beam searches, as alone: ${said.join(', ')}`;
}

/** Ten thousand generations: memory is flat. */
async function memory(folder: string): Promise<string> {
  const model = await loadModel(await writeModel(folder));
  const engine = new GenerationEngine(model, { maxRows: 16, maxQueue: 10_000, promptCacheBytes: MEGABYTE });
  const prefixes = somePrefixes(model, [5, 20]);
  const requests = drawRequests(model, 500, prefixes, 3);
  const marks: number[] = [];
  for (let round = 0; round < 20; round++) {
    await Promise.all(requests.map((request) => engine.generate(request)));
    marks.push(residentMegabytes());
  }
  assertIdle(engine);
  const growth = Math.max(...marks.slice(-5)) - Math.max(...marks.slice(4, 9));
  ok(growth < 10, `memory grew by ${growth.toFixed(1)} MB: ${marks.map((mark) => mark.toFixed(0)).join(' ')}`);
  await model.dispose();
  return `10,000 generations, ${growth.toFixed(1)} MB more in the last quarter than in the second (${marks.at(-1)?.toFixed(0)} MB in all)`;
}

/**
 * Thousands of texts with hundreds of formats, some of them wrong: memory is flat, and the rows beside them get what
 * they get alone.
 */
async function formats(): Promise<string> {
  const model = await loadModel(EXAMPLE_MODEL);
  const engine = new GenerationEngine(model, { maxRows: 12, maxQueue: 1000 });
  const free = { prompt: '今日は', maxNewTokens: 12, seed: 5 } as const;
  const expected = await alone(model, free);
  const marks: number[] = [];
  let refused = 0;
  for (let round = 0; round < 20; round++) {
    const works = Array.from({ length: 150 }, async (_, i) => {
      if (i % 5 === 0) {
        deepStrictEqual(answerOf(await engine.generate(free)), expected);
        return;
      }
      // Some formats come in each round, others once.
      const regex =
        i % 5 === 1 ? `(?=a)${i}` : `[ぁ-ん]{1,${1 + (i % 7)}}${i % 3 === 0 ? `(?:。|x{${1 + round}})` : '。'}`;
      try {
        const { text, finishReason } = await engine.generate({ ...free, format: { regex }, seed: i });
        if (finishReason === 'stop') ok(new RegExp(`^(?:${regex})$`, 'u').test(text), `${text} is not ${regex}`);
      } catch (error) {
        if (!['NEOX_BAD_ARGUMENT', 'NEOX_UNSUPPORTED'].includes((error as { code: string }).code)) throw error;
        refused++;
      }
    });
    await Promise.all(works);
    assertIdle(engine);
    marks.push(residentMegabytes());
  }
  const growth = Math.max(...marks.slice(-5)) - Math.max(...marks.slice(5, 10));
  ok(growth < 30, `memory grew by ${growth.toFixed(1)} MB: ${marks.map((mark) => mark.toFixed(0)).join(' ')}`);
  await model.dispose();
  return `2400 texts with a format, ${refused} refused, ${growth.toFixed(1)} MB of growth (${marks.at(-1)?.toFixed(0)} MB in all)`;
}

/** Two hundred streams at once, aborted, left and dropped at random, again and again. */
async function streams(folder: string): Promise<string> {
  const model = await loadModel(await writeModel(folder));
  const engine = new GenerationEngine(model, { maxRows: 16, maxUnread: 4, promptCacheBytes: MEGABYTE });
  const random = new Random(4);
  const marks: number[] = [];
  const outcomes = new Map<string, number>();
  for (let round = 0; round < 60; round++) {
    await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const controller = new AbortController();
        const request = {
          prompt: random.ids(random.integer(1, 40), 64),
          seed: i,
          maxNewTokens: random.integer(1, 60),
          ignoreEos: true,
        };
        const stream = engine.stream({ ...request, signal: controller.signal });
        const stopAt = random.integer(1, 60);
        const how = random.pick(['abort', 'return', 'read', 'never read']);
        if (how === 'abort') void pause(random.integer(0, 200)).then(() => controller.abort(i));
        let outcome = how === 'never read' ? 'never read' : 'nothing';
        try {
          let seen = 0;
          if (how === 'never read') {
            await pause(random.integer(0, 50));
            await stream.return();
          } else {
            for await (const piece of stream) {
              if (piece.finishReason !== undefined) outcome = 'complete';
              if (how === 'return' && ++seen === stopAt) {
                outcome = 'left';
                break;
              }
            }
          }
        } catch (error) {
          deepStrictEqual(error, i);
          outcome = 'aborted';
        }
        ok(outcome !== 'nothing');
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }),
    );
    assertIdle(engine);
    marks.push(residentMegabytes());
  }
  // V8 and the allocator take what they need for two hundred at once, by and by.
  const growth = Math.max(...marks.slice(-10)) - Math.max(...marks.slice(40, 50));
  ok(growth < 10, `memory grew by ${growth.toFixed(1)} MB: ${marks.map((mark) => mark.toFixed(0)).join(' ')}`);
  await model.dispose();
  return `12,000 streams, 200 at a time: ${[...outcomes].map(([name, count]) => `${count} ${name}`).join(', ')}; ${growth.toFixed(1)} MB of growth`;
}

/** Prefixes come, change, leave memory and go while requests run. */
async function store(folder: string): Promise<string> {
  const model = await loadModel(await writeModel(folder));
  const random = new Random(5);
  const greedy = { prompt: [1, 2, 3, 4, 5, 6, 7, 8], temperature: 0, maxNewTokens: 8 } as const;
  // A new object each time, which only the store has: what left memory is read from its file.
  const versionOf = (number: number): PrefixWeights => randomPrefix(model, 3 + (number % 5), 900 + number);
  const expected = await answersAlone(
    model,
    Array.from({ length: 12 }, (_, i) => ({ ...greedy, prefix: versionOf(i) })),
  );
  const prefixes = new PrefixStore(model, { maxBytes: 30_000, spillFolder: join(folder, 'spill') });
  const engine = new GenerationEngine(model, { maxRows: 8, maxQueue: 10_000, prefixes });
  const meant = new Map<string, number>();
  const names = Array.from({ length: 20 }, (_, i) => `task ${i}`);
  let asked = 0;
  let changes = 0;
  const works: Promise<void>[] = [];
  for (let i = 0; i < 4000; i++) {
    const name = random.pick(names);
    const version = meant.get(name);
    if (version !== undefined && random.next() < 0.8) {
      asked++;
      works.push(
        engine
          .generate({ ...greedy, prefix: name })
          .then((result) => deepStrictEqual(answerOf(result), expected[version], `request ${i}`)),
      );
    } else {
      changes++;
      const next = random.integer(0, expected.length - 1);
      if (version === undefined) await prefixes.add(name, versionOf(next));
      else if (random.next() < 0.3) await prefixes.remove(name);
      else await prefixes.replace(name, versionOf(next));
      if (prefixes.has(name)) meant.set(name, next);
      else meant.delete(name);
    }
    if (i % 50 === 0) await pause(1);
  }
  await Promise.all(works);
  assertIdle(engine);
  await prefixes.dispose();
  await model.dispose();
  return `${asked} requests by name among ${changes} changes of the store`;
}

/** Budgets and queues of all sizes, filled beyond what they take. */
async function limits(folder: string): Promise<string> {
  const model = await loadModel(await writeModel(folder));
  const requests = drawRequests(model, 200, somePrefixes(model, [4, 9]), 6);
  const expected = await answersAlone(model, requests);
  let refused = 0;
  for (const [maxRows, kvBudgetTokens, maxQueue] of [
    [1, 100, 5],
    [3, 120, 0],
    [8, 300, 20],
    [32, 5000, 400],
  ] as const) {
    const engine = new GenerationEngine(model, {
      maxRows,
      kvBudgetTokens,
      maxQueue,
      promptCacheBytes: 20_000,
      prefillTokens: 8,
    });
    await Promise.all(
      requests.map(async (request, i) => {
        for (;;) {
          const { kvReservedTokens, running } = engine.stats();
          ok(kvReservedTokens <= kvBudgetTokens && running <= maxRows);
          try {
            deepStrictEqual(answerOf(await engine.generate(request)), expected[i]);
            return;
          } catch (error) {
            if ((error as { code?: string }).code !== 'NEOX_BUSY') throw error;
            refused++;
            await pause(20);
          }
        }
      }),
    );
    assertIdle(engine);
  }
  ok(refused > 0);
  await model.dispose();
  return `800 requests through four engines, refused ${refused} times and tried again`;
}

/** Engines and models are disposed at any time. */
async function dispose(folder: string): Promise<string> {
  const path = await writeModel(folder);
  const random = new Random(7);
  let ended = 0;
  for (let round = 0; round < 60; round++) {
    const model = await loadModel(path);
    const engine = new GenerationEngine(model, { maxRows: 4, maxUnread: 3 });
    const prefix = randomPrefix(model, 4);
    const works = Promise.allSettled(
      Array.from({ length: 12 }, (_, i) => engine.generate({ prompt: [i], prefix, maxNewTokens: 20, ignoreEos: true })),
    );
    const unread = engine.stream({ prompt: [1], maxNewTokens: 100, ignoreEos: true });
    await pause(random.integer(0, 60));
    await (random.next() < 0.5 ? engine : model).dispose();
    for (const { status } of await works) if (status === 'rejected') ended++;
    await unread.return();
    await model.dispose();
  }
  ok(ended > 0);
  return `60 times in the middle, which ended ${ended} of 720 requests`;
}

/** The event loop turns and other operations of the model have their turns while the engine is full. */
async function beside(folder: string): Promise<string> {
  const config = {
    hidden_size: 256,
    num_hidden_layers: 6,
    num_attention_heads: 4,
    intermediate_size: 1024,
    vocab_size: 512,
  };
  const model = await loadModel(await writeModel(folder, config));
  const engine = new GenerationEngine(model, { maxRows: 16 });
  const { turns, longestGap, result } = await watchEventLoop(async () => {
    const works = Array.from({ length: 100 }, (_, i) =>
      engine.generate({ prompt: [i], maxNewTokens: 60, ignoreEos: true }),
    );
    let between = 0;
    while (engine.stats().completed < 100) {
      await evaluate(model, [{ completion: [1, 2, 3] }]);
      between++;
    }
    await Promise.all(works);
    return between;
  });
  await model.dispose();
  return `${turns} turns, the longest gap ${longestGap.toFixed(0)} ms; ${result} evaluations in between`;
}

/** What JavaScript costs beside the native work, by the time that the main thread was on a processor. */
async function overhead(folder: string): Promise<string> {
  const onProcessor = (): number =>
    Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  const said: string[] = [];
  const shapes = {
    '4 x 192': {
      hidden_size: 192,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      intermediate_size: 768,
      vocab_size: 2048,
    },
    '12 x 768': {
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      intermediate_size: 3072,
      vocab_size: 8192,
    },
  };
  for (const [name, config] of Object.entries(shapes)) {
    const model = await loadModel(await writeModel(join(folder, name), config));
    const prefix = randomPrefix(model, 10);
    for (const rows of [1, 8]) {
      const engine = new GenerationEngine(model, { maxRows: rows });
      const round = async (): Promise<void> => {
        const request = { prompt: [1, 2, 3, 4, 5, 6], prefix, maxNewTokens: 200, ignoreEos: true, topK: 50 };
        await Promise.all(
          Array.from({ length: rows }, async () => {
            for await (const piece of engine.stream(request)) ok(piece);
          }),
        );
      };
      await round();
      const before = { ...engine.stats(), javascript: onProcessor(), all: process.cpuUsage() };
      await round();
      const tokens = engine.stats().generatedTokens - before.generatedTokens;
      const javascript = onProcessor() - before.javascript;
      const { user, system } = process.cpuUsage(before.all);
      const share = (100 * javascript) / ((user + system) / 1000 - javascript);
      said.push(
        `${name}, ${rows} rows: ${((1000 * javascript) / tokens).toFixed(0)} us a token, ${share.toFixed(1)} % of the native time`,
      );
    }
    await model.dispose();
  }
  return said.join('; ');
}

export const SCENARIOS: Readonly<Record<string, (folder: string) => Promise<string>>> = {
  mix,
  memory,
  formats,
  streams,
  store,
  limits,
  dispose,
  beside,
  overhead,
};
