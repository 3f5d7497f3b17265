/** Token ids that are something else when they are read again: only what was checked may reach the addon. */
import { native } from '../../lib/addon/addon';
import type { NeoXModel } from '../../lib/neox-model';
import { failureOf, loadModel, temporaryFolder, wrong, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const FAR = 2 ** 30;
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeRandomModel(folder.path), { dtype: 'float32' });
});

afterAll(() => model.dispose());

class Lying extends Int32Array {
  override *[Symbol.iterator](): ArrayIterator<number> {
    for (let i = 0; i < this.length; i++) yield FAR;
  }
  override slice(): Int32Array<ArrayBuffer> {
    return Int32Array.of(FAR, FAR);
  }
}

/** Gives each element as it is once, and then another. */
function changing(ids: number[]): number[] {
  const reads = new Map<string | symbol, number>();
  return new Proxy(ids, {
    get(target, key, receiver): unknown {
      const value = Reflect.get(target, key, receiver) as unknown;
      if (typeof key !== 'string' || !/^\d+$/.test(key)) return value;
      const read = reads.get(key) ?? 0;
      reads.set(key, read + 1);
      // isTokenIds reads once, to see what it is.
      return read < 2 ? value : FAR;
    },
  });
}

class LyingArray extends Array<number> {
  override *[Symbol.iterator](): ArrayIterator<number> {
    for (let i = 0; i < this.length; i++) yield FAR;
  }
}

const shared = (ids: number[]): Int32Array => {
  const array = new Int32Array(new SharedArrayBuffer(4 * ids.length));
  array.set(ids);
  return array;
};

const KINDS: [string, (ids: number[]) => never][] = [
  ['a subclass with an iterator of its own', (ids) => wrong(new Lying(ids))],
  ['a subclass of Array', (ids) => wrong(LyingArray.from(ids))],
  ['a Proxy', (ids) => wrong(changing(ids))],
  ['shared memory', (ids) => wrong(shared(ids))],
];

describe.each(KINDS)('%s', (_, make) => {
  const greedy = { maxNewTokens: 4, temperature: 0, ignoreEos: true } as const;

  test('as a prompt', async () => {
    const expected = await model.generate([[3, 5]], greedy);
    expect(await model.generate([make([3, 5])], greedy)).toEqual(expected);
  });

  test('as a row of forward, with and without a mask', async () => {
    const plain = await model.forward({ inputIds: [[3, 5, 7]] });
    expect((await model.forward({ inputIds: [make([3, 5, 7])] })).logits).toEqual(plain.logits);
    const inputIds = [make([0, 3, 5, 7])];
    const masked = await model.forward({ inputIds, attentionMask: [[0, 1, 1, 1]], logits: 'last' });
    const { vocabSize } = model.config;
    expect(masked.logits?.data).toEqual(plain.logits?.data.slice(-vocabSize));
  });

  test('as end tokens and bad words', async () => {
    const options = { maxNewTokens: 4, minNewTokens: 2, temperature: 0 };
    const expected = await model.generate([[3]], { ...options, eosTokenIds: [2, 4], badWords: [[5, 6], [7]] });
    const given = { eosTokenIds: make([2, 4]), badWords: [make([5, 6]), make([7])] };
    expect(await model.generate([[3]], { ...options, ...given })).toEqual(expected);
  });

  test('in a sampler', () => {
    const logits = new Float32Array(model.config.vocabSize);
    const options = { temperature: 0, repetitionPenalty: 2, minNewTokens: 1, eosTokenIds: make([2, 4]) };
    const sampler = model.createSampler({ ...options, badWords: [make([3, 5])] }, make([3, 5]));
    expect(sampler.next(logits)).toEqual({ token: 0, ends: false });
  });

  test('as a continuation and a text to embed', async () => {
    expect(await model.score([3], [make([5, 7])])).toEqual(await model.score([3], [[5, 7]]));
    expect(await model.embed([make([5, 7])])).toEqual(await model.embed([[5, 7]]));
  });
});

test('an array that is too long is refused before it is looked at', async () => {
  const started = performance.now();
  const error = await failureOf(model.forward({ inputIds: [new Array<number>(2 ** 27)] }));
  expect(error).toMatchObject({ code: 'NEOX_BAD_ARGUMENT', message: expect.stringMatching(/inputIds\[0\]/) as string });
  expect(performance.now() - started).toBeLessThan(50);
});

describe('the addon checks by itself', () => {
  const SETTINGS = {
    ...{ temperature: 0, topK: 0, topP: 1, topPRule: 'huggingface', minP: 0, typicalP: 1, seed: 1, stream: 0 },
    ...{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, noRepeatNgramSize: 0, minNewTokens: 0 },
    ...{ biasedIds: new Int32Array(0), biases: new Float32Array(0), badWords: [], endIds: new Int32Array(0) },
    logprobs: -1,
  } as const;

  test.each<[string, object, number[]]>([
    ['a prompt under a penalty', { repetitionPenalty: 2 }, [FAR]],
    ['a token below 0', { repetitionPenalty: 2 }, [-1]],
    ['an n-gram', { noRepeatNgramSize: 1 }, [FAR]],
    ['a bias', { biasedIds: Int32Array.of(FAR), biases: Float32Array.of(1) }, []],
    ['a bad word', { badWords: [Int32Array.of(FAR)] }, []],
    ['a bad word of nothing', { badWords: [new Int32Array(0)] }, []],
    ['an end token', { endIds: Int32Array.of(FAR), minNewTokens: 1 }, []],
  ])('%s', async (_, change, prompt) => {
    const error = await failureOf(() => {
      const sampler = native().createSampler(wrong({ ...SETTINGS, ...change }), Int32Array.from(prompt));
      native().sampleToken(sampler, new Float32Array(model.config.vocabSize));
    });
    expect(error).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  });

  test.each([FAR, 64, -1])('the tokens and targets of a batch: %i', async (id) => {
    const rows = { tokens: Int32Array.of(3, id), lengths: Int32Array.of(2), prefixes: [null] };
    const forward = native().forward(model.native, { ...rows, logits: 'last' });
    expect(await failureOf(forward)).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
    if (id < 0) return;
    const targets = { ...rows, tokens: Int32Array.of(3, 5), targets: Int32Array.of(-1, id) };
    const score = native().score(model.native, { ...targets, top: 0, keep: 'nothing' });
    expect(await failureOf(score)).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  });
});
