import { NeoXModel } from '../../lib/model/neox-model';
import { native } from '../../lib/native';
import { PrefixWeights } from '../../lib/prefix/weights';
import type { Logits } from '../../lib/model/forward';
import { backendsFor, loadModel } from '../helpers';
import { TOLERANCES } from '../tolerances';
import { difference, GOLDEN_KINDS, goldenModelNames, loadGoldenModel, type GoldenKind, type GoldenTensor } from './fixtures';

/** Logits [T, V] of one row, without the padding at the end of a shorter row. */
function rowOf({ data, shape }: Logits, row: number, tokens: number): Float32Array {
  const [, width, vocab] = shape;
  return data.slice(row * width * vocab, (row * width + tokens) * vocab);
}

describe.each(goldenModelNames())('the model %s', (name) => {
  const golden = loadGoldenModel(name);
  const { rows, targets, losses } = golden.reference;

  describe.each(golden.dtypes.flatMap((dtype) => backendsFor(dtype).map((backend) => ({ dtype, backend }))))('$dtype, $backend', ({ dtype, backend }) => {
    const tolerance = TOLERANCES[dtype];
    let model: NeoXModel;
    let prefix: PrefixWeights;

    beforeAll(async () => {
      model = await loadModel(golden.directory, { dtype, backend });
      const { numLayers, numHeads, headSize } = model.config;
      prefix = PrefixWeights.fromTensor(golden.prefix.data, { prefixLength: golden.reference.prefixLength, numLayers, numHeads, headSize });
    });
    afterAll(() => model.dispose());

    /** The rows that fit the model's positions; the others are refused. */
    function fitting(kind: GoldenKind): number[] {
      const before = kind === 'prefix' ? prefix.prefixLength : 0;
      return [...rows.keys()].filter((i) => before + (rows[i] as number[]).length <= model.config.maxPositionEmbeddings);
    }

    function expectLogits(actual: Float32Array, expected: GoldenTensor): void {
      const { max, mean } = difference(actual, expected.data);
      expect({ max: max <= tolerance.logits ? 'close' : max, mean: mean <= tolerance.logitsMean ? 'close' : mean }).toEqual({
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
        const use = fitting(kind);
        const { logits } = await model.forward({ inputIds: use.map((i) => rows[i] as number[]), ...past() });
        expect(logits?.shape).toEqual([use.length, Math.max(...use.map((i) => (rows[i] as number[]).length)), model.config.vocabSize]);
        use.forEach((row, i) => expectLogits(rowOf(logits as Logits, i, (rows[row] as number[]).length), golden.logits(dtype, kind, row)));
      });

      it.each(['left', 'right', 'inner'] as const)('gives them for padding on the %s too, and zeros for the padding', async (side) => {
        const use = fitting(kind);
        const width = Math.max(...use.map((i) => (rows[i] as number[]).length)) + 2;
        // The padding is a token that means something elsewhere.
        const inputIds = use.map((): number[] => new Array<number>(width).fill(7));
        const attentionMask = use.map((): number[] => new Array<number>(width).fill(0));
        const places = use.map((row, i) => {
          const length = (rows[row] as number[]).length;
          const from = side === 'left' ? width - length : 0;
          // Inner padding: one half at the start, the other at the end.
          const spread = side === 'inner' ? (t: number) => (t < length / 2 ? t : width - length + t) : (t: number) => from + t;
          return (rows[row] as number[]).map((id, t) => {
            (inputIds[i] as number[])[spread(t)] = id;
            (attentionMask[i] as number[])[spread(t)] = 1;
            return spread(t);
          });
        });
        const { logits } = await model.forward({ inputIds, attentionMask, ...past() });
        const { data, shape } = logits as Logits;
        const vocab = model.config.vocabSize;
        expect(shape).toEqual([use.length, width, vocab]);
        use.forEach((row, i) => {
          const kept = (places[i] as number[]).map((t) => data.subarray((i * width + t) * vocab, (i * width + t + 1) * vocab));
          expectLogits(Float32Array.from(kept.flatMap((values) => [...values])), golden.logits(dtype, kind, row));
          for (let t = 0; t < width; t++) {
            if (attentionMask[i]?.[t] === 1) continue;
            expect(data.subarray((i * width + t) * vocab, (i * width + t + 1) * vocab).every((value) => value === 0)).toBe(true);
          }
        });
      });

      it('gives the logits of the last tokens, or none', async () => {
        const use = fitting(kind);
        const inputIds = use.map((i) => rows[i] as number[]);
        const { logits } = await model.forward({ inputIds, logits: 'last', ...past() });
        expect(logits?.shape).toEqual([use.length, 1, model.config.vocabSize]);
        use.forEach((row, i) => {
          const all = golden.logits(dtype, kind, row);
          const [tokens, vocab] = all.shape as [number, number];
          expectLogits(rowOf(logits as Logits, i, 1), { shape: [1, vocab], data: all.data.slice((tokens - 1) * vocab) });
        });
        expect((await model.forward({ inputIds, logits: 'none', ...past() })).logits).toBeNull();
      });

      it('goes on from a cache as in one call', async () => {
        const row = rows.at(-1) as number[];
        if (!fitting(kind).includes(rows.length - 1)) {
          const tooLong = { code: 'NEOX_TOO_LONG', message: expect.stringContaining('Row 0 needs 17 positions, prefix included, and the model has 14') as string };
          await expect(model.forward({ inputIds: [row], ...past() })).rejects.toMatchObject(tooLong);
          return;
        }
        const { split } = golden.reference;
        const first = await model.forward({ inputIds: [row.slice(0, split)], ...past() });
        const rest = await model.forward({ inputIds: [row.slice(split)], pastKeyValues: first.pastKeyValues });
        const joined = Float32Array.from([...(first.logits as Logits).data, ...(rest.logits as Logits).data]);
        expectLogits(joined, golden.splitLogits(dtype, kind));
        expect(rest.pastKeyValues.lengths).toEqual([row.length]);
        expect(first.pastKeyValues.lengths).toEqual([split]);
      });

      it('gives the loss, the count of targets and that of the hits', async () => {
        const use = fitting(kind);
        const [handle] = await model.prefixHandles([kind === 'prefix' ? prefix : undefined]);
        const sum = await native().evaluate(model.native, {
          tokens: Int32Array.from(use.flatMap((i) => rows[i] as number[])),
          targets: Int32Array.from(use.flatMap((i) => targets[i] as number[])),
          lengths: Int32Array.from(use, (i) => (rows[i] as number[]).length),
          prefix: handle ?? null,
        });
        const scored = use.flatMap((i) => scores(golden.logits(dtype, kind, i), targets[i] as number[]));
        expect(sum.tokens).toBe(scored.length);
        const expected = use.length === rows.length ? (losses[dtype]?.[kind].sum as number) : scored.reduce((total, { loss }) => total + loss, 0);
        expect(Math.abs(sum.loss - expected) / scored.length).toBeLessThanOrEqual(tolerance.loss);
        if (dtype === 'float32') expect(sum.correct).toBe(scored.filter(({ hit }) => hit).length);
      });
    });
  });
});

/** Loss and hit of each target, from golden logits [T, V], in double precision. */
function scores({ data, shape }: GoldenTensor, targets: readonly number[]): { loss: number; hit: boolean }[] {
  const vocab = shape[1] as number;
  return targets.flatMap((target, t) => {
    if (target === -1) return [];
    const logits = Array.from(data.subarray(t * vocab, (t + 1) * vocab));
    const most = Math.max(...logits);
    const loss = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)) - (logits[target] as number);
    return [{ loss, hit: logits.indexOf(most) === target }];
  });
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
