import type { NeoXModel } from '../../lib/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { EXAMPLE_MODEL, loadModel, randomPrefix } from '../helpers';

let model: NeoXModel;
beforeAll(async () => {
  model = await loadModel(EXAMPLE_MODEL);
});
afterAll(() => model.dispose());

/** log softmax of the logits of one position, at a token. */
function logprobAt(logits: Float32Array, token: number): number {
  const largest = Math.max(...logits);
  return (logits[token] as number) - largest - Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0));
}

/** The log-probability of the last `count` tokens of a row, by a forward pass over all of it. */
async function tail(ids: readonly number[], count: number, prefix?: PrefixWeights): Promise<number[]> {
  const { logits } = await model.forward({ inputIds: [ids], pastKeyValues: [prefix] });
  const { vocabSize } = model.config;
  return ids.slice(-count).map((token, i) => {
    const at = ids.length - count + i - 1;
    return logprobAt((logits?.data as Float32Array).subarray(at * vocabSize, (at + 1) * vocabSize), token);
  });
}

const encode = (text: string): number[] => [...model.tokenizer.encode(text)];

test('continuations in text are encoded together with their prompt', async () => {
  const prompt = '今日は雨で';
  const continuations = ['した。', 'した。 風が強いです。', 'は'];
  const prefix = randomPrefix(model, 4);
  const results = await model.score(prompt, continuations, { prefix });
  for (const [i, text] of continuations.entries()) {
    const all = encode(prompt + text);
    const own = all.slice(encode(prompt).length);
    // By itself the text would begin with a space of SentencePiece's.
    expect(own).not.toEqual(encode(text));
    expect(Array.from(results[i]?.tokens ?? [])).toEqual(own);
    const expected = await tail(all, own.length, prefix);
    expected.forEach((value, j) => expect(results[i]?.tokenLogprobs[j]).toBeCloseTo(value, 4));
    expect(results[i]?.logprob).toBeCloseTo(
      expected.reduce((sum, value) => sum + value, 0),
      3,
    );
  }
});

test('spaces at the end of the prompt belong to the continuation; an empty prompt is the start token', async () => {
  const [first] = await model.score('今日は雨でした。 ', ['風が']);
  const [second] = await model.score('今日は雨でした。', [' 風が']);
  expect(first).toEqual(second);
  const [start] = await model.score('', ['今日は']);
  const bos = model.config.bosTokenId as number;
  expect(Array.from(start?.tokens ?? [])).toEqual(encode('今日は'));
  expect(start).toEqual((await model.score([bos], [encode('今日は')]))[0]);
});

test('token ids and text may be mixed', async () => {
  const ids = encode('今日は雨で');
  const text = encode('です');
  const [a, b] = await model.score(ids, ['です', text]);
  expect(a).toEqual(b);
});

test('isGreedy is what greedy generation gives', async () => {
  const { tokens } = await model.generate('今日は', { temperature: 0, maxNewTokens: 5, ignoreEos: true });
  const wrong = [...tokens.slice(0, 4), (tokens[4] as number) + 1];
  const results = await model.score('今日は', [tokens, wrong, tokens.slice(0, 1)]);
  expect(results.map(({ isGreedy }) => isGreedy)).toEqual([true, false, true]);
});

test('a long text in windows: one window is the whole', async () => {
  const text =
    '今日は天気がよかったです。 公園で犬と歩きました。 明日の長野は曇りで、最高気温は8度の見込みです。'.repeat(3);
  const ids = encode(text);
  const whole = await model.perplexity(text);
  const expected = await tail(ids, ids.length - 1);
  expect(whole.tokens).toBe(ids.length - 1);
  expect(whole.loss).toBeCloseTo(-expected.reduce((sum, value) => sum + value, 0) / expected.length, 5);
  expect(await model.perplexity(ids, { window: ids.length, stride: 1 })).toEqual(whole);
  const short = await model.perplexity(text, { window: 4 });
  expect(short.tokens).toBe(whole.tokens);
  expect(short.loss).not.toBeCloseTo(whole.loss, 2);
});

test('windows that do not overlap: each is a text of its own', async () => {
  const ids = encode('今日は天気がよかったです。 公園で犬と歩きました。'.repeat(4)).slice(0, 41);
  const { tokens, loss } = await model.perplexity(ids, { window: 10, stride: 10 });
  const parts = [0, 10, 20, 30].map((begin) => ids.slice(begin, begin + 10));
  const own = await Promise.all(parts.map((part) => model.perplexity(part)));
  // The last window has one token, which nothing predicts.
  expect(tokens).toBe(4 * 9);
  expect(loss).toBeCloseTo(own.reduce((sum, part) => sum + part.loss, 0) / 4, 6);
});

test('a text longer than the model’s positions', async () => {
  const ids = encode('今日は天気がよかったです。'.repeat(400));
  expect(ids.length).toBeGreaterThan(model.config.maxPositionEmbeddings);
  const prefix = randomPrefix(model, 6);
  const { tokens, perplexity } = await model.perplexity(ids, { prefix });
  expect(tokens).toBe(ids.length - 1);
  expect(perplexity).toBeGreaterThan(1);
});

test('embeddings of many texts are those of each alone', async () => {
  const texts = Array.from({ length: 30 }, (_, i) => '今日は天気がよかったです。'.repeat(1 + (i % 11)));
  const prefix = randomPrefix(model, 3);
  const together = await model.embed(texts, {
    prefix: texts.map((_, i) => (i % 2 === 0 ? prefix : undefined)),
    pooling: 'mean',
  });
  for (const i of [0, 7, 29]) {
    const [alone] = await model.embed([texts[i] as string], {
      prefix: i % 2 === 0 ? prefix : undefined,
      pooling: 'mean',
    });
    expect(together[i]).toEqual(alone);
    expect(alone).toHaveLength(model.config.hiddenSize);
  }
});

test('aborting ends the work', async () => {
  const reason = new Error('enough');
  const controller = new AbortController();
  controller.abort(reason);
  const { signal } = controller;
  await expect(model.score('今日は', ['a'], { signal })).rejects.toBe(reason);
  await expect(model.perplexity('今日は雨です', { signal })).rejects.toBe(reason);
  await expect(model.embed(['今日は'], { signal })).rejects.toBe(reason);
  await expect(model.generate('今日は', { numBeams: 2, signal })).rejects.toBe(reason);
  const later = new AbortController();
  const work = model.generate('今日は', { numBeams: 4, maxNewTokens: 1500, ignoreEos: true, signal: later.signal });
  setTimeout(() => later.abort(reason), 30);
  await expect(work).rejects.toBe(reason);
});
