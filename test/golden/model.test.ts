import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixWeights } from '../../lib/prefix/weights';
import type { Logits } from '../../lib/model/forward';
import { backendsFor, loadModel } from '../helpers';
import { TOLERANCES } from '../tolerances';
import { difference, GOLDEN_KINDS, goldenModelNames, loadGoldenModel, type GoldenTensor } from './fixtures';

/** Logits [T, V] of one row, without the padding at the end of a shorter row. */
function rowOf({ data, shape }: Logits, row: number, tokens: number): Float32Array {
  const [, width, vocab] = shape;
  return data.slice(row * width * vocab, (row * width + tokens) * vocab);
}

describe.each(goldenModelNames())('the model %s', (name) => {
  const golden = loadGoldenModel(name);
  const { rows, targets, losses } = golden.reference;

  describe.each(golden.dtypes.flatMap((dtype) => backendsFor(dtype).map((backend) => ({ dtype, backend }))))(
    '$dtype, $backend',
    ({ dtype, backend }) => {
      const tolerance = TOLERANCES[dtype];
      let model: NeoXModel;
      let prefix: PrefixWeights;

      beforeAll(async () => {
        model = await loadModel(golden.directory, { dtype, backend });
        const { numLayers, numHeads, headSize } = model.config;
        prefix = PrefixWeights.fromTensor(golden.prefix.data, {
          prefixLength: golden.reference.prefixLength,
          numLayers,
          numHeads,
          headSize,
        });
      });
      afterAll(() => model.dispose());

      function expectLogits(actual: Float32Array, expected: GoldenTensor): void {
        const { max, mean } = difference(actual, expected.data);
        expect({
          max: max <= tolerance.logits ? 'close' : max,
          mean: mean <= tolerance.logitsMean ? 'close' : mean,
        }).toEqual({
          max: 'close',
          mean: 'close',
        });
      }

      it('was loaded as asked', () => {
        expect(model.info()).toMatchObject({ dtype, backend });
      });

      describe.each(GOLDEN_KINDS)('%s', (kind) => {
        const past = (): { pastKeyValues?: PrefixWeights } => (kind === 'prefix' ? { pastKeyValues: prefix } : {});

        it('gives the logits of a ragged batch', async () => {
          const { logits } = await model.forward({ inputIds: rows, ...past() });
          expect(logits?.shape).toEqual([
            rows.length,
            Math.max(...rows.map((row) => row.length)),
            model.config.vocabSize,
          ]);
          rows.forEach((row, i) => expectLogits(rowOf(logits as Logits, i, row.length), golden.logits(dtype, kind, i)));
        });

        it.each(['left', 'right', 'inner'] as const)(
          'gives them for padding on the %s too, and zeros for the padding',
          async (side) => {
            const width = Math.max(...rows.map((row) => row.length)) + 2;
            // The padding is a token that means something elsewhere.
            const inputIds = rows.map((): number[] => new Array<number>(width).fill(7));
            const attentionMask = rows.map((): number[] => new Array<number>(width).fill(0));
            const places = rows.map((row, i) =>
              row.map((id, t) => {
                // Inner padding: one half of the row at the start, the other at the end.
                const atEnd = side === 'left' || (side === 'inner' && t >= row.length / 2);
                const place = atEnd ? width - row.length + t : t;
                (inputIds[i] as number[])[place] = id;
                (attentionMask[i] as number[])[place] = 1;
                return place;
              }),
            );
            const { logits } = await model.forward({ inputIds, attentionMask, ...past() });
            const { data, shape } = logits as Logits;
            const vocab = model.config.vocabSize;
            expect(shape).toEqual([rows.length, width, vocab]);
            rows.forEach((_, i) => {
              const at = (t: number): Float32Array =>
                data.subarray((i * width + t) * vocab, (i * width + t + 1) * vocab);
              const kept = (places[i] as number[]).flatMap((t) => [...at(t)]);
              expectLogits(Float32Array.from(kept), golden.logits(dtype, kind, i));
              for (let t = 0; t < width; t++)
                if (attentionMask[i]?.[t] === 0) expect(at(t).every((value) => value === 0)).toBe(true);
            });
          },
        );

        it('gives the logits of the last tokens, or none', async () => {
          const { logits } = await model.forward({ inputIds: rows, logits: 'last', ...past() });
          expect(logits?.shape).toEqual([rows.length, 1, model.config.vocabSize]);
          rows.forEach((_, i) => {
            const all = golden.logits(dtype, kind, i);
            const [tokens, vocab] = all.shape as [number, number];
            expectLogits(rowOf(logits as Logits, i, 1), {
              shape: [1, vocab],
              data: all.data.slice((tokens - 1) * vocab),
            });
          });
          expect((await model.forward({ inputIds: rows, logits: 'none', ...past() })).logits).toBeNull();
        });

        it('goes on from a cache as in one call', async () => {
          const row = rows.at(-1) as number[];
          const { split } = golden.reference;
          const first = await model.forward({ inputIds: [row.slice(0, split)], ...past() });
          const rest = await model.forward({ inputIds: [row.slice(split)], pastKeyValues: first.pastKeyValues });
          const joined = Float32Array.from([...(first.logits as Logits).data, ...(rest.logits as Logits).data]);
          expectLogits(joined, golden.splitLogits(dtype, kind));
          expect(rest.pastKeyValues.lengths).toEqual([row.length]);
          expect(first.pastKeyValues.lengths).toEqual([split]);
        });

        it('gives the loss, the count of targets and that of the hits', async () => {
          const [handle] = await model.prefixHandles([kind === 'prefix' ? prefix : undefined]);
          const sum = await native().evaluate(model.native, {
            tokens: Int32Array.from(rows.flat()),
            targets: Int32Array.from(targets.flat()),
            lengths: Int32Array.from(rows, (row) => row.length),
            prefix: handle ?? null,
          });
          const { sum: expected, count } = losses[dtype]?.[kind] as { sum: number; count: number };
          expect(sum.tokens).toBe(count);
          expect(Math.abs(sum.loss - expected) / count).toBeLessThanOrEqual(tolerance.loss);
          const hits = rows.reduce(
            (found, _, i) => found + hitsOf(golden.logits(dtype, kind, i), targets[i] as number[]),
            0,
          );
          if (dtype === 'float32') expect(sum.correct).toBe(hits);
        });
      });
    },
  );
});

/** The targets that golden logits [T, V] hold for the most likely token. */
function hitsOf({ data, shape }: GoldenTensor, targets: readonly number[]): number {
  const vocab = shape[1] as number;
  return targets.filter((target, t) => {
    const logits = data.subarray(t * vocab, (t + 1) * vocab);
    return target !== -1 && logits.indexOf(Math.max(...logits)) === target;
  }).length;
}

test.each([
  ['sequential', 'float32'],
  ['bfloat16', 'bfloat16'],
  // On a CPU float16 is slow, and float32 holds the same values.
  ['float16', 'float32'],
] as const)('dtype auto of the model %s is %s', async (name, dtype) => {
  await using model = await loadModel(loadGoldenModel(name).directory);
  expect(model.dtype).toBe(dtype);
});
