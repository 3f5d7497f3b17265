import { mkdirSync } from 'node:fs';
import type { KVCache } from '../../lib/model/kv-cache';
import type { NeoXModel } from '../../lib/neox-model';
import {
  expectRefusal,
  failureOf,
  loadModel,
  packedBackendsFor,
  Random,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
  wrong,
  type Refusal,
} from '../helpers';

const folder = temporaryFolder();
const PACKED = (['float32', 'bfloat16'] as const).flatMap((dtype) =>
  packedBackendsFor(dtype).map((backend) => ({ backend, dtype })),
);

beforeAll(async () => {
  for (const name of ['small', 'large']) mkdirSync(folder.join(name));
  await writeRandomModel(folder.join('small'), { hidden_size: 60, num_attention_heads: 3, num_hidden_layers: 3 });
  await writeRandomModel(folder.join('large'), {
    hidden_size: 128,
    num_hidden_layers: 8,
    max_position_embeddings: 1024,
  });
});

const same = (a: Float32Array | undefined, b: Float32Array | undefined): boolean =>
  a !== undefined &&
  b !== undefined &&
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));

/** The logits [T, V] of the tokens behind a cache, and the cache behind them. */
async function extend(
  model: NeoXModel,
  cache: KVCache,
  rows: number[][],
): Promise<{ logits: Float32Array; cache: KVCache }> {
  const { logits, pastKeyValues } = await model.forward({ inputIds: rows, pastKeyValues: cache });
  return { logits: logits?.data as Float32Array, cache: pastKeyValues };
}

describe.each(PACKED)('$backend, $dtype', ({ backend, dtype }) => {
  let model: NeoXModel;
  beforeAll(async () => {
    model = await loadModel(folder.join('small'), { backend, dtype });
  });
  afterAll(() => model.dispose());

  test('how a row is cut into calls changes no bit', async () => {
    const random = new Random(3);
    const row = random.ids(70, 64);
    for (const prefix of [undefined, randomPrefix(model, 5)]) {
      const { logits } = await model.forward({ inputIds: [row], pastKeyValues: [prefix] });
      const whole = logits?.data as Float32Array;
      for (let attempt = 0; attempt < 6; attempt++) {
        let at = attempt === 0 ? 1 : random.integer(1, 60);
        let { pastKeyValues: cache } = await model.forward({ inputIds: [row.slice(0, at)], pastKeyValues: [prefix] });
        while (at < row.length) {
          const count = random.next() < 0.5 ? 1 : random.integer(1, 20);
          const next = await extend(model, cache, [row.slice(at, at + count)]);
          expect(same(next.logits, whole.slice(at * 64, (at + count) * 64))).toBe(true);
          cache = next.cache;
          at += count;
        }
        expect(cache.lengths).toEqual([70]);
      }
    }
  });

  test('logits of the last tokens alone, or none, change no bit of them, nor of the caches', async () => {
    const random = new Random(4);
    const rows = [7, 1, 33].map((length) => random.ids(length, 64));
    const prefixes = [randomPrefix(model, 5), undefined, randomPrefix(model, 2)];
    const whole = await model.forward({ inputIds: rows, pastKeyValues: prefixes });
    const next = rows.map(() => random.ids(2, 64));
    const { logits: expected } = await extend(model, whole.pastKeyValues, next);
    for (const logits of ['last', 'none'] as const) {
      const { logits: found, pastKeyValues } = await model.forward({ inputIds: rows, pastKeyValues: prefixes, logits });
      if (logits === 'none') expect(found).toBeNull();
      else {
        rows.forEach((row, i) => {
          const last = (i * 33 + row.length - 1) * 64;
          expect(same(found?.data.slice(i * 64, (i + 1) * 64), whole.logits?.data.slice(last, last + 64))).toBe(true);
        });
      }
      expect(pastKeyValues.lengths).toEqual([7, 1, 33]);
      expect(same((await extend(model, pastKeyValues, next)).logits, expected)).toBe(true);
    }
  });

  test('forks and cut caches go on as if they had been computed anew', async () => {
    const random = new Random(4);
    const rows = [random.ids(30, 64), random.ids(12, 64)];
    const prefixes = [randomPrefix(model, 4), undefined];
    const { pastKeyValues: trunk } = await model.forward({ inputIds: rows, pastKeyValues: prefixes });
    // A tree of caches: each grows, forks or is cut, and is then compared with its tokens in one call.
    let branches = [{ cache: trunk, tokens: rows, sources: [0, 1] }];
    for (let step = 0; step < 12; step++) {
      const branch = random.pick(branches);
      const { cache, tokens, sources } = branch;
      const choice = random.integer(0, 2);
      if (choice === 0) {
        const picked = Array.from({ length: random.integer(1, 3) }, () => random.integer(0, tokens.length - 1));
        branches.push({
          cache: cache.fork(picked),
          tokens: picked.map((i) => tokens[i] as number[]),
          sources: picked.map((i) => sources[i] as number),
        });
      } else if (choice === 1) {
        const lengths = cache.lengths.map((length) => random.integer(1, length));
        branches.push({
          cache: cache.truncate(lengths),
          tokens: tokens.map((row, i) => row.slice(0, lengths[i])),
          sources,
        });
      } else {
        const more = tokens.map(() => random.ids(random.integer(1, 4), 64));
        const longest = Math.max(...more.map((row) => row.length));
        const grown = await extend(model, cache, more);
        for (const [i, row] of tokens.entries()) {
          const all = [...row, ...(more[i] as number[])];
          const { logits } = await model.forward({ inputIds: [all], pastKeyValues: [prefixes[sources[i] as number]] });
          const count = (more[i] as number[]).length;
          const own = grown.logits.slice(i * longest * 64, (i * longest + count) * 64);
          expect(same(own, logits?.data.slice(row.length * 64))).toBe(true);
        }
        branches.push({
          cache: grown.cache,
          tokens: tokens.map((row, i) => [...row, ...(more[i] as number[])]),
          sources,
        });
      }
      expect(branches.at(-1)?.cache.lengths).toEqual(branches.at(-1)?.tokens.map((row) => row.length));
      if (branches.length > 6) {
        branches[0]?.cache.dispose();
        branches = branches.slice(1);
      }
    }
  });

  test('rows of one call that share a cache do not write over each other', async () => {
    const { pastKeyValues } = await model.forward({ inputIds: [[1, 2, 3]] });
    const { logits } = await extend(model, pastKeyValues.fork([0, 0, 0]), [
      [4, 5],
      [6, 7],
      [8, 9],
    ]);
    for (const [i, tokens] of [
      [4, 5],
      [6, 7],
      [8, 9],
    ].entries()) {
      const alone = await model.forward({ inputIds: [[1, 2, 3, ...tokens]] });
      expect(same(logits.slice(i * 128, (i + 1) * 128), alone.logits?.data.slice(3 * 64))).toBe(true);
    }
  });

  test('a cache cut to nothing is its prefix alone', async () => {
    const prefix = randomPrefix(model, 4);
    const { pastKeyValues } = await model.forward({ inputIds: [[1, 2, 3]], pastKeyValues: prefix });
    const cut = pastKeyValues.truncate(0);
    expect([cut.length, cut.bytes, cut.prefixLengths]).toEqual([0, 0, [4]]);
    const { logits } = await extend(model, cut, [[7, 8]]);
    expect(same(logits, (await model.forward({ inputIds: [[7, 8]], pastKeyValues: prefix })).logits?.data)).toBe(true);
  });
});

describe('a cache', () => {
  let model: NeoXModel;
  let cache: KVCache;
  beforeAll(async () => {
    model = await loadModel(folder.join('small'));
    cache = (await model.forward({ inputIds: [[1, 2, 3], [4]], pastKeyValues: [undefined, randomPrefix(model, 4)] }))
      .pastKeyValues;
  });
  afterAll(() => model.dispose());

  test('tells what it holds', () => {
    expect(cache).toMatchObject({ lengths: [3, 1], length: 3, batchSize: 2, prefixLengths: [0, 4], disposed: false });
    expect(cache.prefixes[0]).toBeUndefined();
    expect(cache.prefixes[1]?.prefixLength).toBe(4);
    // Room for 16 tokens in each row: [L, 2, N, 16, D] float32.
    expect(cache.bytes).toBe(2 * 3 * 2 * 60 * 16 * 4);
    const fork = cache.fork([1, 1]);
    expect(fork).toMatchObject({ lengths: [1, 1], prefixLengths: [4, 4] });
    expect(fork.bytes).toBe(cache.bytes / 2);
  });

  const refused: Refusal[] = [
    {
      name: 'a fork of no rows',
      act: () => cache.fork([]),
      text: 'Expected a non-empty array of rows for rows but received an array of 0 of type array',
    },
    {
      name: 'a fork of a row that there is not',
      act: () => cache.fork([0, 2]),
      text: 'Expected an integer between 0 and 1 for rows[1] but received 2 of type number',
    },
    {
      name: 'a length above that of the shortest row',
      act: () => cache.truncate(2),
      text: 'Expected an integer between 0 and 1 for length but received 2 of type number',
    },
    {
      name: 'a length above that of its row',
      act: () => cache.truncate([3, 2]),
      text: 'Expected an integer between 0 and 1 for length[1] but received 2 of type number',
    },
    {
      name: 'lengths of another batch',
      act: () => cache.truncate([1]),
      text: 'Expected one length for each of the 2 rows for length but received an array of 1 of type array',
    },
    {
      name: 'a length that is none',
      act: () => cache.truncate(wrong('1')),
      text: "Expected an integer between 0 and 1 for length but received '1' of type string",
    },
    {
      name: 'hidden states of a layer that there is not',
      act: () => model.forward({ inputIds: [[1]], hiddenStates: 4 }),
      text: 'Expected an integer between -4 and 3 for hiddenStates but received 4 of type number',
    },
  ];
  test.each(refused)('refuses $name', expectRefusal);

  test('that is disposed can do nothing, and its forks all', async () => {
    const { pastKeyValues } = await model.forward({ inputIds: [[1, 2, 3]] });
    const fork = pastKeyValues.fork();
    pastKeyValues.dispose();
    pastKeyValues.dispose();
    expect(pastKeyValues.disposed).toBe(true);
    const text = { name: 'NeoXPrefixError', code: 'NEOX_DISPOSED', message: 'This KV cache is disposed' };
    for (const act of [
      () => pastKeyValues.fork(),
      () => pastKeyValues.truncate(1),
      () => pastKeyValues.bytes,
      () => pastKeyValues.read(),
    ])
      expect(await failureOf(act as () => unknown)).toMatchObject(text);
    expect(await failureOf(model.forward({ inputIds: [[1]], pastKeyValues }))).toMatchObject(text);
    const { logits } = await extend(model, fork, [[4]]);
    expect(logits).toEqual((await model.forward({ inputIds: [[1, 2, 3, 4]], logits: 'last' })).logits?.data);
  });
});

test('disposing frees the memory, though the objects are still there', async () => {
  await using model = await loadModel(folder.join('large'));
  const inputIds = [new Random(1).ids(900, 64)];
  const kept: KVCache[] = [];
  const { pastKeyValues: first } = await model.forward({ inputIds, logits: 'none' });
  expect(first.bytes).toBeGreaterThan(7e6);
  const before = process.memoryUsage();
  for (let i = 0; i < 40; i++) {
    const fork = first.fork();
    const { pastKeyValues } = await model.forward({ inputIds: [[1]], pastKeyValues: fork, logits: 'none' });
    kept.push(fork, pastKeyValues);
    fork.dispose();
    pastKeyValues.dispose();
  }
  const after = process.memoryUsage();
  expect(kept).toHaveLength(80);
  // All of them together were 300 MB and more.
  expect(after.rss - before.rss).toBeLessThan(100e6);
  expect(after.external - before.external).toBeLessThan(20e6);
});
