import { GenerationEngine } from '../../lib/engine/engine';
import type { EngineRequest } from '../../lib/engine/request';
import type { GenerateOptions } from '../../lib/generation/generate';
import type { NeoXModel } from '../../lib/model/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { loadModel, packedBackendsFor } from '../helpers';
import { generationFixture, goldenPrefix, loadGoldenModel, type GoldenKind } from './fixtures';

interface GenerationCase {
  model: string;
  kind: GoldenKind;
  prompt: number[];
  options: GenerateOptions;
  sequences: { tokens: number[]; finishReason: 'stop' | 'length'; score?: number }[];
}

const cases = generationFixture('generate') as GenerationCase[];

describe.each([...new Set(cases.map(({ model }) => model))])('what transformers generates with the model %s', (name) => {
  const golden = loadGoldenModel(name);

  describe.each([...packedBackendsFor('float32').slice(0, 1), 'aten'] as const)('%s', (backend) => {
    let model: NeoXModel;
    let prefix: PrefixWeights;
    beforeAll(async () => {
      model = await loadModel(golden.directory, { dtype: 'float32', backend });
      prefix = goldenPrefix(model, golden);
    });
    afterAll(() => model.dispose());

    const own = cases.filter((fixture) => fixture.model === name);
    test.each(own.map((fixture) => ({ about: JSON.stringify(fixture.options), ...fixture })))(
      '$kind, $about',
      async ({ kind, prompt, options, sequences }) => {
        const beams = (options.numBeams ?? 1) > 1;
        const full = { ...options, ...(!beams && { temperature: 0 }), prefix: kind === 'prefix' ? prefix : undefined };
        const result = await model.generate(prompt, full);
        const completions = result.completions ?? [result];
        expect(completions.map(({ tokens, finishReason }) => ({ tokens, finishReason }))).toEqual(
          sequences.map(({ tokens, finishReason }) => ({ tokens, finishReason })),
        );
        for (const [i, { score }] of sequences.entries()) {
          if (score !== undefined) expect(Math.abs((completions[i]?.score as number) / score - 1)).toBeLessThan(1e-5);
        }
        expect(result.usage.completionTokens).toBe(completions.reduce((sum, { tokens }) => sum + tokens.length, 0));
      },
    );

    test('the same from an engine, all of them in one batch, with a cold and a warm prompt cache', async () => {
      await using engine = new GenerationEngine(model, { maxRows: 8, prefillTokens: 5 });
      const sampled = own.filter(({ options }) => (options.numBeams ?? 1) === 1);
      expect(sampled.length).toBeGreaterThan(8);
      for (let round = 0; round < 2; round++) {
        const results = await Promise.all(
          sampled.map(({ kind, prompt, options }) =>
            engine.generate({ ...(options as EngineRequest), prompt, temperature: 0, prefix: kind === 'prefix' ? prefix : undefined }),
          ),
        );
        const expected = sampled.map(({ sequences }) => sequences.map(({ tokens, finishReason }) => ({ tokens, finishReason })));
        expect(results.map(({ tokens, finishReason }) => [{ tokens, finishReason }])).toEqual(expected);
      }
      expect(engine.stats().cachedTokens).toBeGreaterThan(0);
    });

    test('beam searches do not see each other in a batch', async () => {
      const beams = own.filter(({ options }) => JSON.stringify(options) === JSON.stringify({ ...own[0]?.options, numBeams: 4 }));
      expect(beams).toHaveLength(2);
      const prompts = beams.map(({ prompt }) => prompt);
      const results = await model.generate([...prompts, ...prompts], {
        ...beams[0]?.options,
        prefix: [...beams, ...beams].map(({ kind }) => (kind === 'prefix' ? prefix : undefined)),
      });
      expect(results.map(({ tokens }) => tokens)).toEqual([...beams, ...beams].map(({ sequences }) => sequences[0]?.tokens));
    });
  });
});
