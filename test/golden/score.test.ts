import type { NeoXModel } from '../../lib/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { backendsFor, loadModel } from '../helpers';
import { TOLERANCES } from '../tolerances';
import { generationFixture, goldenPrefix, loadGoldenModel, type GoldenKind } from './fixtures';

interface ScoreCase {
  model: string;
  kind: GoldenKind;
  prompt: number[];
  scores: { tokens: number[]; logprobs: number[]; isGreedy: boolean }[];
  text: number[];
  windows: { window: number; stride: number; loss: number; tokens: number }[];
  /** The three most likely tokens behind each token of the prompt. */
  top: [token: number, logprob: number][][];
  /** Hidden states of the prompt, layer by layer: of its last token, and the mean over its tokens. */
  last: number[][];
  mean: number[][];
}

const cases = generationFixture('score') as ScoreCase[];
const TOLERANCE = TOLERANCES.float32.logits;

const worst = (actual: ArrayLike<number>, expected: readonly number[]): number => {
  expect(actual).toHaveLength(expected.length);
  return Math.max(...expected.map((value, i) => Math.abs((actual[i] as number) - value)));
};

describe.each(cases.map((fixture) => ({ about: `${fixture.model}, ${fixture.kind}`, fixture })))(
  '$about',
  ({ fixture }) => {
    const golden = loadGoldenModel(fixture.model);
    describe.each(backendsFor('float32'))('%s', (backend) => {
      let model: NeoXModel;
      let prefix: PrefixWeights | undefined;
      beforeAll(async () => {
        model = await loadModel(golden.directory, { dtype: 'float32', backend });
        prefix = fixture.kind === 'prefix' ? goldenPrefix(model, golden) : undefined;
      });
      afterAll(() => model.dispose());

      test('log-probabilities of continuations', async () => {
        const results = await model.score(
          fixture.prompt,
          fixture.scores.map(({ tokens }) => tokens),
          { prefix },
        );
        for (const [i, { tokens, logprobs, isGreedy }] of fixture.scores.entries()) {
          const result = results[i] as (typeof results)[number];
          expect(Array.from(result.tokens)).toEqual(tokens);
          expect(worst(result.tokenLogprobs, logprobs)).toBeLessThan(TOLERANCE);
          expect(result.logprob).toBeCloseTo(
            result.tokenLogprobs.reduce((sum, value) => sum + value, 0),
            6,
          );
          expect(result.isGreedy).toBe(isGreedy);
        }
        expect(fixture.scores.map(({ isGreedy }) => isGreedy)).toContain(true);
      });

      test('the perplexity in windows', async () => {
        for (const { window, stride, loss, tokens } of fixture.windows) {
          const result = await model.perplexity(fixture.text, { prefix, window, stride });
          expect(result.tokens).toBe(tokens);
          expect(tokens).toBe(fixture.text.length - 1);
          expect(Math.abs(result.loss - loss)).toBeLessThan(TOLERANCES.float32.loss);
          expect(result.perplexity).toBe(Math.exp(result.loss));
        }
      });

      test('hidden states of every layer, and embeddings', async () => {
        const { numLayers, hiddenSize } = model.config;
        const { prompt } = fixture;
        for (let layer = 0; layer <= numLayers; layer++) {
          const { hiddenStates } = await model.forward({
            inputIds: [prompt],
            pastKeyValues: [prefix],
            hiddenStates: layer,
            logits: 'none',
          });
          expect(hiddenStates?.shape).toEqual([1, prompt.length, hiddenSize]);
          const [last, mean] = [fixture.last[layer] as number[], fixture.mean[layer] as number[]];
          expect(worst(hiddenStates?.data.slice(-hiddenSize) as Float32Array, last)).toBeLessThan(TOLERANCE);
          // The text before is longer: it must not be seen.
          const [, embedded] = await model.embed([[...prompt, ...prompt], prompt], {
            prefix,
            layer: layer - numLayers - 1,
          });
          expect(worst(embedded as Float32Array, last)).toBeLessThan(TOLERANCE);
          const [pooled] = await model.embed([prompt], { prefix, layer, pooling: 'mean' });
          expect(worst(pooled as Float32Array, mean)).toBeLessThan(TOLERANCE);
        }
        expect((await model.embed([prompt], { prefix }))[0]).toEqual(
          (await model.embed([prompt], { prefix, layer: numLayers }))[0],
        );
      });

      test('log-probabilities of a prompt and of new tokens', async () => {
        const { prompt, top, scores } = fixture;
        const greedy = scores.at(-1) as ScoreCase['scores'][number];
        const { promptLogprobs, logprobs, tokens } = await model.generate(prompt, {
          prefix,
          temperature: 0,
          repetitionPenalty: 1.0001, // the processed logits are others, the log-probabilities are the model's own
          ignoreEos: true,
          maxNewTokens: greedy.tokens.length,
          promptLogprobs: 3,
          logprobs: 2,
        });
        expect(tokens).toEqual(greedy.tokens);
        expect(promptLogprobs).toHaveLength(prompt.length);
        expect(promptLogprobs?.[0]).toBeNull();
        prompt.slice(1).forEach((token, i) => {
          const scored = promptLogprobs?.[i + 1];
          const expected = top[i] as [number, number][];
          expect(scored?.token).toBe(token);
          expect(scored?.top.map((item) => item.token)).toEqual(expected.map(([id]) => id));
          const values = scored?.top.map((item) => item.logprob) as number[];
          expect(
            worst(
              values,
              expected.map(([, value]) => value),
            ),
          ).toBeLessThan(TOLERANCE);
        });
        expect(logprobs?.map(({ token }) => token)).toEqual(tokens);
        const values = logprobs?.map(({ logprob }) => logprob) as number[];
        expect(worst(values, greedy.logprobs)).toBeLessThan(TOLERANCE);
        for (const scored of logprobs ?? []) {
          expect(scored.top).toHaveLength(2);
          expect(scored.top[0]).toEqual({ token: scored.token, logprob: scored.logprob });
        }
      });
    });
  },
);
