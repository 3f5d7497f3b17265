import { GenerationEngine } from '../../lib/engine/engine';
import type { EngineRequest } from '../../lib/engine/engine-request';
import type { GenerateOptions } from '../../lib/generation/request';
import type { GenerateResult } from '../../lib/generation/output';
import type { NeoXModel } from '../../lib/neox-model';
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

describe.each([...new Set(cases.map(({ model }) => model))])(
  'what transformers generates with the model %s',
  (name) => {
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
          const full = {
            ...options,
            ...(!beams && { temperature: 0 }),
            prefix: kind === 'prefix' ? prefix : undefined,
          };
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

      test('the same from an engine: greedy, sampled and beam searches in one batch, with a cold and a warm prompt cache', async () => {
        await using engine = new GenerationEngine(model, { maxRows: 8, prefillTokens: 5 });
        const requests = own.map(({ kind, prompt, options }) => {
          const searches = (options.numBeams ?? 1) > 1;
          const request = { ...(options as EngineRequest), ...(!searches && { temperature: 0 }), prompt };
          return { ...request, prefix: kind === 'prefix' ? prefix : undefined };
        });
        const searches = requests.filter(({ numBeams }) => numBeams !== undefined);
        expect(searches.length).toBeGreaterThan(8);
        expect(requests.length - searches.length).toBeGreaterThan(8);
        const drawn = requests
          .filter(({ numBeams }) => numBeams === undefined)
          .map((request, seed) => ({ ...request, temperature: 1, seed }));
        const textsOf = (result: GenerateResult) =>
          (result.completions ?? [result]).map(({ tokens, finishReason, score }) => ({ tokens, finishReason, score }));
        const alone = [];
        for (const { prompt, ...options } of [...requests, ...drawn])
          alone.push(textsOf(await model.generate(prompt, options)));
        for (let round = 0; round < 2; round++) {
          // Side by side: each greedy row and each search has a drawn one as its neighbour.
          const work = requests.map((request, i) => [
            engine.generate(request),
            ...drawn.slice(i, i + 1).map((row) => engine.generate(row)),
          ]);
          const results = await Promise.all(work.map((few) => Promise.all(few)));
          const texts = [...results.map(([first]) => first), ...results.flatMap(([, second]) => second ?? [])].map(
            (result) => textsOf(result as GenerateResult),
          );
          const withoutScores = (sequences: { tokens: number[]; finishReason: string }[][]) =>
            sequences.map((list) => list.map(({ tokens, finishReason }) => ({ tokens, finishReason })));
          expect(withoutScores(texts.slice(0, own.length))).toEqual(
            withoutScores(own.map(({ sequences }) => sequences)),
          );
          for (const [i, { sequences }] of own.entries()) {
            for (const [k, { score }] of sequences.entries()) {
              if (score !== undefined)
                expect(Math.abs((texts[i]?.[k]?.score as number) / score - 1)).toBeLessThan(1e-5);
            }
          }
          if (backend !== 'aten') expect(texts).toEqual(alone);
        }
        const { cachedTokens, running, kvReservedTokens } = engine.stats();
        expect(cachedTokens).toBeGreaterThan(0);
        expect({ running, kvReservedTokens }).toEqual({ running: 0, kvReservedTokens: 0 });
      });

      test('beam searches do not see each other in a batch', async () => {
        const beams = own.filter(
          ({ options }) => JSON.stringify(options) === JSON.stringify({ ...own[0]?.options, numBeams: 4 }),
        );
        expect(beams).toHaveLength(2);
        const prompts = beams.map(({ prompt }) => prompt);
        const results = await model.generate([...prompts, ...prompts], {
          ...beams[0]?.options,
          prefix: [...beams, ...beams].map(({ kind }) => (kind === 'prefix' ? prefix : undefined)),
        });
        expect(results.map(({ tokens }) => tokens)).toEqual(
          [...beams, ...beams].map(({ sequences }) => sequences[0]?.tokens),
        );
      });
    });
  },
);
