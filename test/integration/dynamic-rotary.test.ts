import { mkdir } from 'node:fs/promises';
import { GenerationEngine } from '../../lib/engine/engine';
import type { NeoXModel } from '../../lib/neox-model';
import { loadModel, Random, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
let model: NeoXModel;
beforeAll(async () => {
  const path = folder.join('model');
  await mkdir(path);
  await writeRandomModel(path, {
    max_position_embeddings: 32,
    rotary_pct: 1,
    rope_scaling: { type: 'dynamic', factor: 2 },
  });
  model = await loadModel(path);
});
afterAll(() => model.dispose());

/** log softmax at a token. */
function logprobAt(logits: Float32Array, token: number): number {
  const largest = Math.max(...logits);
  return (logits[token] as number) - largest - Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0));
}

// Beyond the trained length, keys depend on how long the row is when they are made: a row that is cut is another row.
describe.each([
  [40, 0],
  [30, 0],
  [30, 6],
])('a prompt of %i tokens behind a prefix of %i, where 32 were trained', (length, prefixLength) => {
  const prompt = new Random(length).ids(length, 64);

  test.each([5, 1])('score gives the log-probabilities of one pass, with %i tokens', async (count) => {
    const prefix = prefixLength > 0 ? randomPrefix(model, prefixLength) : undefined;
    const continuations = [1, 2].map((seed) => new Random(seed).ids(count, 64));
    const scores = await model.score(prompt, continuations, { prefix });
    for (const [i, ids] of continuations.entries()) {
      const inputIds = [[...prompt, ...ids.slice(0, -1)]];
      const { logits } = await model.forward({ inputIds, pastKeyValues: [prefix] });
      const expected = ids.map((token, j) => {
        const at = prompt.length - 1 + j;
        return logprobAt((logits?.data as Float32Array).subarray(at * 64, (at + 1) * 64), token);
      });
      expected.forEach((value, j) => expect(scores[i]?.tokenLogprobs[j]).toBeCloseTo(value, 4));
      expect(scores[i]?.logprob).toBeCloseTo(
        expected.reduce((sum, value) => sum + value, 0),
        4,
      );
    }
  });

  test('what is computed before a text does not change it: n, log-probabilities of the prompt, beams', async () => {
    const prefix = prefixLength > 0 ? randomPrefix(model, prefixLength) : undefined;
    const options = { prefix, maxNewTokens: 12, ignoreEos: true, logprobs: 0 };
    await using engine = new GenerationEngine(model);
    const { tokens, logprobs } = await model.generate(prompt, { ...options, seed: 4 });
    expect(await model.generate(prompt, { ...options, seed: 4, n: 3 })).toMatchObject({ tokens, logprobs });
    expect(await model.generate(prompt, { ...options, seed: 4, promptLogprobs: 0 })).toMatchObject({
      tokens,
      logprobs,
    });
    expect(await engine.generate({ ...options, prompt, seed: 4, n: 2 })).toMatchObject({ tokens, logprobs });
    const beams = { prefix, maxNewTokens: 12, ignoreEos: true, numBeams: 3 };
    const search = await model.generate(prompt, beams);
    expect(await engine.generate({ ...beams, prompt })).toMatchObject({ tokens: search.tokens, score: search.score });
  });
});
