import { createHash } from 'node:crypto';
import { DuplicateCounter } from '../../../lib/data/duplicates';
import { IdStore } from '../../../lib/data/id-store';
import { sampleRows, tokenizeSample, type Sample, type TokenizedSample } from '../../../lib/data/sample';
import { decodeSample, encodeSample, positionsOf, truncateSample } from '../../../lib/data/sample-codec';
import { SampleIndex } from '../../../lib/data/sample-index';
import { SampleStore } from '../../../lib/data/sample-store';
import { splitDataset } from '../../../lib/data/split';
import { TokenizedDataset } from '../../../lib/data/tokenized-dataset';
import { expectRefusal, Random, temporaryFolder, wrong } from '../../helpers';

const folder = temporaryFolder();
const random = new Random(7);

const ids = (count: number): Int32Array => Int32Array.from(random.ids(count, 2 ** 30));

/** Samples of every shape: with and without a prompt, conversations, cut ones. */
function randomSamples(count: number, longest = 40): TokenizedSample[] {
  return Array.from({ length: count }, () => {
    const sample: TokenizedSample = { prompt: ids(random.integer(0, 3)), completion: ids(random.integer(1, longest)) };
    if (random.next() < 0.3)
      sample.turns = [1, 2].map(() => ({ prompt: ids(2), completion: ids(random.integer(1, 4)) }));
    if (random.next() < 0.3) sample.truncated = true;
    return sample;
  });
}

/** The same samples in memory or in a file. */
async function storeOf(samples: readonly TokenizedSample[], inMemoryLimit: number): Promise<TokenizedDataset> {
  const store = new SampleStore({ inMemoryLimit, cacheDir: folder.path });
  for (const sample of samples) await store.add(sample);
  await store.finish();
  return TokenizedDataset.of(store);
}

/** Equality of samples with many ids, which the matchers take long over. */
const flat = (samples: readonly TokenizedSample[]): string =>
  samples.map((s) => Buffer.from(encodeSample(s).buffer).toString('base64')).join();

const all = ({ length }: { length: number }): number[] => Array.from({ length }, (_, i) => i);

test('samples are stored as their ids with two flags, and come back as they were', () => {
  for (const sample of randomSamples(500)) expect(decodeSample(encodeSample(sample))).toEqual(sample);
  const sample = {
    prompt: Int32Array.of(2 ** 30 - 1),
    completion: Int32Array.of(0, 2 ** 30 - 1),
    truncated: true,
  } as const;
  expect(decodeSample(encodeSample(sample))).toEqual(sample);
  expect(encodeSample({ prompt: Int32Array.of(5), completion: Int32Array.of(6) })).toEqual(
    Int32Array.of(5, 6 - 2 ** 31),
  );
});

test('the index of samples gives lengths and places, of long ones too', () => {
  const index = new SampleIndex();
  const lengths = Array.from({ length: 70_000 }, (_, i) => (i % 1000 === 7 ? 65_530 + (i % 13) : i % 50));
  for (const length of lengths) index.push(length);
  let offset = 0;
  const [places, expected]: number[][] = [[], []];
  for (const [i, length] of lengths.entries()) {
    places!.push(index.offsetOf(i), index.lengthOf(i));
    expected!.push(offset, length);
    offset += length;
  }
  expect(places).toEqual(expected);
  expect([index.length, index.total, index.offsetOf(70_000)]).toEqual([70_000, offset, offset]);
});

describe('a dataset', () => {
  test.each([
    ['in memory', Infinity],
    ['in a file', 0],
    ['that outgrows the memory', 2 ** 20],
  ])('%s gives its samples in any order', async (_, limit) => {
    const samples = randomSamples(1500, 800);
    await using dataset = await storeOf(samples, limit);
    expect(dataset.isOnDisk).toBe(limit !== Infinity);
    expect(dataset.length).toBe(1500);
    expect(flat(await dataset.get(all(dataset)))).toBe(flat(samples));
    const indices = Array.from({ length: 300 }, () => random.integer(0, 1499));
    expect(flat(await dataset.get(indices))).toBe(flat(indices.map((i) => samples[i]!)));
    expect(await dataset.get([])).toEqual([]);
    expect(all(dataset).map((i) => dataset.tokensOf(i))).toEqual(samples.map((sample) => encodeSample(sample).length));
    const view = dataset.slice(100, 900).slice(10, 20);
    expect(view.length).toBe(10);
    expect(await view.get([9, 0])).toEqual([samples[119], samples[110]]);
    expect(view.tokensOf(3)).toBe(dataset.tokensOf(113));
  });

  test('longer than a piece of memory, a sample is one all the same', async () => {
    const samples = [
      { prompt: ids(3), completion: ids(700_000) },
      ...randomSamples(3),
      { prompt: ids(0), completion: ids(300_000) },
    ];
    for (const limit of [Infinity, 0]) {
      await using dataset = await storeOf(samples, limit);
      expect(flat(await dataset.get([4, 0, 2]))).toBe(flat([4, 0, 2].map((i) => samples[i]!)));
    }
  });

  test('from samples in memory', async () => {
    const samples: Sample[] = [
      { prompt: 'ab', completion: 'c' },
      { completion: [5, 6, 7] },
      { prompt: 'x', completion: 'y', turns: [{ prompt: 'z', completion: 'w' }] },
      { completion: [5, 6, 7] },
    ];
    const tokenizer = { encode: (text: string) => Int32Array.from(text, (c) => c.charCodeAt(0)) };
    await using dataset = await TokenizedDataset.from(samples, { tokenizer });
    expect(await dataset.get([0, 1, 2, 3])).toEqual(samples.map((sample) => tokenizeSample(sample, tokenizer)));
    expect(dataset.statistics).toEqual({
      samples: 4,
      promptTokens: 4,
      completionTokens: 9,
      longest: 4,
      shortest: 3,
      largestId: 122,
      conversations: 1,
      truncated: 0,
      truncatedTokens: 0,
      dropped: 0,
      remainders: 0,
      duplicates: 1,
      duplicatesAreLowerBound: false,
      emptyLines: 0,
    });
    const { train, validation } = splitDataset(dataset, { train: 2, validation: 1 });
    expect([train.length, validation.length]).toEqual([2, 1]);
    expect((await validation.get([0]))[0]).toEqual((await dataset.get([3]))[0]);
    expect(() => splitDataset(dataset, { train: 3, validation: 2 })).toThrow('but there are only 4 samples');
    const none = await TokenizedDataset.from([]);
    expect([none.length, none.statistics.shortest, none.hash]).toEqual([0, 0, expect.stringMatching(/^[0-9a-f]{64}$/)]);
  });

  test('what is wrong is said', async () => {
    const dataset = await TokenizedDataset.from([{ completion: [1] }, { completion: [2] }]);
    const reason = new Error('enough');
    for (const refusal of [
      { act: () => TokenizedDataset.from(wrong('a')), text: "Expected an array of { prompt?, completion } for samples but received 'a' of type string" },
      { act: () => TokenizedDataset.from([{ completion: 'a' }]), text: "Expected a tokenizer (a sample is text) for tokenizer but received 'a' of type string" },
      { act: () => TokenizedDataset.from([], wrong({ tokeniser: 1 })), text: "Unknown option 'tokeniser' in options\nHint: did you mean 'tokenizer'?" },
      { act: () => TokenizedDataset.from([], wrong({ tokenizer: {} })), text: 'Expected a tokenizer for tokenizer but received an object of type object' },
      { act: () => TokenizedDataset.from([{ completion: [] }], { name: 'data.train' }), code: 'NEOX_BAD_DATA', text: 'data.train[0].completion has no tokens' },
      { act: () => dataset.get([0, 2]), text: 'Expected an integer between 0 and 1 for indices[1] but received 2 of type number' },
      { act: () => dataset.tokensOf(0.5), text: 'Expected an integer between 0 and 1 for index but received 0.5 of type number' },
      { act: () => dataset.slice(0, 0).tokensOf(0), text: 'Expected no index, as the dataset is empty, for index but received 0 of type number' },
      { act: () => dataset.slice(1, 3), text: 'Expected an integer between 1 and 2 for end but received 3 of type number' },
      { act: () => dataset.slice(3, 3), text: 'Expected an integer between 0 and 2 for first but received 3 of type number' },
    ]) await expectRefusal({ name: '', ...refusal }); // prettier-ignore
    await expect(TokenizedDataset.from([{ completion: [1] }], { signal: AbortSignal.abort(reason) })).rejects.toBe(
      reason,
    );
  });

  test('closed, it says so; a view lives as long as what it is from', async () => {
    for (const limit of [Infinity, 0]) {
      const samples = randomSamples(10);
      const dataset = await storeOf(samples, limit);
      const view = dataset.slice(2, 5);
      await view.close();
      const reading = view.get([0]);
      const closing = dataset.close();
      expect(await reading).toEqual([samples[2]]);
      await closing;
      await dataset.close();
      const closed = { name: '', code: 'NEOX_DISPOSED', text: 'The dataset is closed' };
      await expectRefusal({ ...closed, act: () => dataset.get([0]) });
      await expectRefusal({ ...closed, act: () => view.get([0]) });
      await expectRefusal({ ...closed, act: () => view.hash });
    }
  });
});

describe('the hash', () => {
  test('of a dataset is the same in memory, in a file, and of a view that has the same samples', async () => {
    const samples = randomSamples(1200);
    await using inMemory = await storeOf(samples, Infinity);
    await using onDisk = await storeOf(samples, 0);
    expect(onDisk.hash).toBe(inMemory.hash);
    expect(inMemory.hash).toMatch(/^[0-9a-f]{64}$/);
    for (const [first, end] of [[0, 1200], [0, 1000], [1, 1200], [255, 257], [256, 512], [700, 701], [5, 5]] as const) {
      await using alone = await storeOf(samples.slice(first, end), Infinity);
      expect(inMemory.slice(first, end).hash).toBe(alone.hash);
      expect(onDisk.slice(first, end).hash).toBe(alone.hash);
    } // prettier-ignore
  });

  test('changes with any id, border, order or number of samples', async () => {
    const hashOf = async (...samples: TokenizedSample[]): Promise<string> => (await storeOf(samples, Infinity)).hash;
    const sample = (prompt: number[], completion: number[], more: Partial<TokenizedSample> = {}): TokenizedSample => ({
      prompt: Int32Array.from(prompt),
      completion: Int32Array.from(completion),
      ...more,
    });
    const turns = [{ prompt: Int32Array.of(3), completion: Int32Array.of(4) }];
    const hashes = await Promise.all([
      hashOf(),
      hashOf(sample([1], [2, 3, 4])),
      hashOf(sample([1], [2, 3, 5])),
      hashOf(sample([1, 2], [3, 4])),
      hashOf(sample([], [1, 2, 3, 4])),
      hashOf(sample([1], [2], { turns })),
      hashOf(sample([1], [2, 3, 4], { truncated: true })),
      hashOf(sample([1], [2, 3]), sample([], [4])),
      hashOf(sample([], [4]), sample([1], [2, 3])),
      hashOf(sample([], [4]), sample([], [4])),
      hashOf(sample([], [4]), sample([], [4]), sample([], [4])),
    ]);
    expect(new Set(hashes).size).toBe(hashes.length);
  });

  test('is the one that its definition gives', async () => {
    const samples = randomSamples(3);
    const digest = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex');
    const p = 2n ** 255n - 19n;
    const b = BigInt(`0x${digest('neox-prefix: samples of a dataset')}`) % p;
    const d = samples.map((sample) => BigInt(`0x${digest(new Uint8Array(encodeSample(sample).buffer))}`));
    const sum = (d[0]! * b * b + d[1]! * b + d[2]!) % p;
    expect((await storeOf(samples, 0)).hash).toBe(digest(`3:${sum.toString(16)}`));
  });
});

test('duplicates are counted, and where the memory for them ends the count is a lower bound', () => {
  const counter = new DuplicateCounter(2 ** 13);
  const digests = Array.from({ length: 6000 }, (_, i) => createHash('sha256').update(String(i)).digest('hex'));
  for (const digest of digests) counter.add(digest);
  for (const digest of digests) counter.add(digest);
  expect([counter.duplicates, counter.isLowerBound]).toEqual([6000, false]);
  const more = Array.from({ length: 1000 }, (_, i) => createHash('sha256').update(`more ${i}`).digest('hex'));
  for (const digest of [...more, ...more]) counter.add(digest);
  expect(counter.isLowerBound).toBe(true);
  expect(counter.duplicates).toBe(6000 + 144);
});

describe('truncated samples', () => {
  const rows = { bosId: 1, eosId: 2 };

  test('learn no end, and nothing behind what was cut', () => {
    const sample = { prompt: Int32Array.of(7, 8), completion: Int32Array.of(3, 4, 5), truncated: true } as const;
    expect(sampleRows(sample, rows)).toEqual([
      { inputs: Int32Array.of(7, 8, 3, 4), targets: Int32Array.of(-1, 3, 4, 5) },
    ]);
    expect(sampleRows({ ...sample, prompt: new Int32Array(0) }, rows)).toEqual([
      { inputs: Int32Array.of(1, 3, 4), targets: Int32Array.of(3, 4, 5) },
      { inputs: Int32Array.of(3, 4), targets: Int32Array.of(4, 5) },
    ]);
    const short = { prompt: new Int32Array(0), completion: Int32Array.of(3), truncated: true } as const;
    expect(sampleRows(short, rows)).toEqual([{ inputs: Int32Array.of(1), targets: Int32Array.of(3) }]);
  });

  test('are cut at the end of what is learned, never in a prompt', () => {
    const conversation = {
      prompt: Int32Array.of(10, 11),
      completion: Int32Array.of(12, 13),
      turns: [{ prompt: Int32Array.of(14, 15), completion: Int32Array.of(16, 17) }],
    };
    const cut = (positions: number): number[] | undefined => {
      const sample = truncateSample(conversation, positions);
      if (sample !== undefined) expect(positionsOf(sample)).toBeLessThanOrEqual(positions);
      return sample && [sample.truncated === true ? 1 : 0, ...encodeSample(sample).map((id) => id & 0xff)];
    };
    expect(positionsOf(conversation)).toBe(8);
    expect(cut(8)).toEqual([0, 10, 11, 12, 13, 14, 15, 16, 17]);
    expect(cut(7)).toEqual([1, 10, 11, 12, 13, 14, 15, 16]);
    expect(cut(6)).toEqual([0, 10, 11, 12, 13]);
    expect(cut(5)).toEqual([0, 10, 11, 12, 13]);
    expect(cut(4)).toEqual([0, 10, 11, 12, 13]);
    expect(cut(3)).toEqual([1, 10, 11, 12]);
    expect(cut(2)).toBeUndefined();
    const plain = { prompt: new Int32Array(0), completion: Int32Array.of(1, 2, 3) };
    expect(positionsOf(plain)).toBe(4);
    expect(truncateSample(plain, 3)).toEqual({
      prompt: new Int32Array(0),
      completion: Int32Array.of(1, 2),
      truncated: true,
    });
    expect(truncateSample(plain, 1)).toBeUndefined();
  });
});

test('numbers near each other are read from the file at once', async () => {
  const store = new IdStore(0, folder.path);
  await store.append(Int32Array.from({ length: 300_000 }, (_, i) => i));
  await store.finish();
  const file = (store as unknown as { file: { read: (first: number, count: number) => Promise<Int32Array> } }).file;
  const read = jest.spyOn(file, 'read');
  const ranges = [{ first: 200_000, count: 3 }, { first: 10, count: 2 }, { first: 12, count: 5 }, { first: 5000, count: 1 }];
  const found = await store.read(ranges);
  expect(found.map((numbers) => [...numbers])).toEqual(ranges.map(({ first, count }) => Array.from({ length: count }, (_, i) => first + i)));
  expect(read.mock.calls).toEqual([[10, 4991], [200_000, 3]]);
  await store.close();
}); // prettier-ignore
