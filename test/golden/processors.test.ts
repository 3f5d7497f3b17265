import { createHash } from 'node:crypto';
import type { TokenSamplerOptions } from '../../lib/generation/token-sampler';
import type { NeoXModel } from '../../lib/neox-model';
import { drawLogits, EXAMPLE_MODEL, loadModel } from '../helpers';
import { generationFixture } from './fixtures';

interface ProcessorFixture {
  vocabulary: number;
  prompt: number[];
  generated: number[];
  cases: {
    options: Omit<TokenSamplerOptions, 'logitBias'> & { logitBias?: Record<string, number | string> };
    seed: number;
    deviation: number;
    kept: number;
    digest: string;
    best: [token: number, probability: number][];
  }[];
}

const { vocabulary, prompt, generated, cases } = generationFixture('processors') as ProcessorFixture;
let model: NeoXModel;
beforeAll(async () => {
  model = await loadModel(EXAMPLE_MODEL);
});
afterAll(() => model.dispose());

const named = cases.map((fixture) => ({ name: JSON.stringify(fixture.options), ...fixture }));

test.each(named)(
  'the distribution with $name is that of transformers',
  ({ options, seed, deviation, kept, digest, best }) => {
    const logitBias = Object.fromEntries(
      Object.entries(options.logitBias ?? {}).map(([token, bias]) => [
        token,
        bias === '-inf' ? -Infinity : (bias as number),
      ]),
    );
    const sampler = model.createSampler({ ...options, logitBias }, prompt);
    for (const token of generated) sampler.push(token);
    const probabilities = sampler.probabilities(drawLogits(seed, vocabulary, deviation));
    // So far below the most likely token float32 has none, and transformers' float64 has.
    const least = 1e-37 * Math.max(...probabilities);
    const tokens = [...probabilities.keys()].filter((token) => (probabilities[token] as number) > least);
    expect(tokens).toHaveLength(kept);
    expect(createHash('sha256').update(tokens.join()).digest('hex').slice(0, 16)).toBe(digest);
    for (const [token, probability] of best)
      expect(Math.abs((probabilities[token] as number) / probability - 1)).toBeLessThan(2e-5);
  },
);

test('drawn tokens come as often as their probabilities say', () => {
  // 4,000 draws from a few tokens, each from a stream of its own.
  const logits = drawLogits(1, vocabulary, 6);
  const options = { topP: 0.9, temperature: 1.3 };
  const probabilities = model.createSampler(options).probabilities(logits);
  const counts = new Map<number, number>();
  for (let seed = 0; seed < 4000; seed++) {
    const { token } = model.createSampler({ ...options, seed }).next(logits);
    counts.set(token, (counts.get(token) ?? 0) + 1);
  }
  for (const [token, count] of counts) {
    const expected = 4000 * (probabilities[token] as number);
    expect(expected).toBeGreaterThan(0);
    expect(Math.abs(count - expected)).toBeLessThan(5 * Math.sqrt(expected) + 1);
  }
  expect([...counts.values()].reduce((sum, count) => sum + count)).toBe(4000);
});
