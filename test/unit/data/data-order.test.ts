import { BatchPlan, type BatchPlanOptions } from '../../../lib/data/batch-plan';
import { EpochOrder, epochOrder, Permutation } from '../../../lib/data/order';
import { expectRefusal, Random, wrong } from '../../helpers';

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

describe('a permutation without a list', () => {
  const sizes = [...upTo(130), 255, 256, 257, 1000, 4095, 4097, 30_001];

  test('has each number once, whatever the count', () => {
    for (const count of sizes) {
      const permutation = new Permutation(count, 42, 3);
      const seen = new Uint8Array(count);
      for (let i = 0; i < count; i++) seen[permutation.at(i)]!++;
      expect(seen.every((times) => times === 1)).toBe(true);
    }
  });

  test('is another one for another seed and another epoch, and the same for the same', () => {
    const of = (seed: number, epoch: number): number[] =>
      upTo(1000).map((i) => new Permutation(1_000_003, seed, epoch).at(i));
    const orders = [of(42, 1), of(42, 2), of(43, 1), of(42 + 2 ** 32, 1)];
    expect(of(42, 1)).toEqual(orders[0]);
    for (const [i, a] of orders.entries()) {
      for (const b of orders.slice(0, i)) expect(a.filter((value, at) => value === b[at]).length).toBeLessThan(5);
    }
  });

  test('puts each part of the data everywhere: chi-square over 16 x 16 fields', () => {
    for (const [count, seed] of [[16_384, 1], [16_384, 2], [20_011, 3]] as const) {
      const permutation = new Permutation(count, seed, 1);
      const fields = new Float64Array(256);
      for (let i = 0; i < count; i++) fields[Math.floor((16 * i) / count) * 16 + Math.floor((16 * permutation.at(i)) / count)]!++;
      const expected = count / 256;
      const chiSquare = fields.reduce((sum, found) => sum + (found - expected) ** 2 / expected, 0);
      // 15 x 15 degrees of freedom: mean 225, standard deviation 21. A permutation fills the fields like that, the
      // identity reaches 15 * count.
      expect(chiSquare).toBeGreaterThan(225 - 5 * 21);
      expect(chiSquare).toBeLessThan(225 + 5 * 21);
    }
  }); // prettier-ignore

  test('has as many fixed points and as many neighbours in a row as chance gives', () => {
    let [fixed, neighbours] = [0, 0];
    for (const seed of upTo(200)) {
      const permutation = new Permutation(500, seed, 1);
      const order = upTo(500).map((i) => permutation.at(i));
      fixed += order.filter((value, i) => value === i).length;
      neighbours += order.filter((value, i) => i > 0 && Math.abs(value - order[i - 1]!) === 1).length;
    }
    // Poisson with means 200 and 400.
    expect(Math.abs(fixed - 200)).toBeLessThan(5 * 200 ** 0.5);
    expect(Math.abs(neighbours - 400)).toBeLessThan(5 * 400 ** 0.5);
  });
});

describe('the order of an epoch', () => {
  test('is the list that it always was up to a million samples, and is computed above', () => {
    const order = new EpochOrder(1000, 42, 3);
    expect(upTo(1000).map((i) => order.at(i))).toEqual(epochOrder(1000, 42, 3));
    const large = new EpochOrder(1_000_001, 42, 3);
    const permutation = new Permutation(1_000_001, 42, 3);
    expect(upTo(100).map((i) => large.at(i))).toEqual(upTo(100).map((i) => permutation.at(i)));
  });
});

describe('a plan of batches', () => {
  const random = new Random(3);
  const lengths = Array.from({ length: 5000 }, () => random.integer(1, 60) ** 2);
  const options = (changes: Partial<BatchPlanOptions>): BatchPlanOptions => ({
    length: lengths.length,
    tokensOf: (i) => lengths[i]!,
    seed: 42,
    epoch: 1,
    order: 'shuffled',
    ...changes,
  });
  const batches = (plan: BatchPlan): number[][] => upTo(plan.length).map((i) => plan.at(i));
  const tokens = (batch: readonly number[]): number => batch.reduce((sum, i) => sum + lengths[i]!, 0);
  const spread = (batch: readonly number[]): number =>
    Math.max(...batch.map((i) => lengths[i]!)) - Math.min(...batch.map((i) => lengths[i]!));
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

  const KINDS = (['sequential', 'shuffled', 'bucketed'] as const).flatMap((order) => [
    { order, batchSize: 7 },
    { order, batchTokens: 8000 },
  ]);

  test.each(KINDS)('%p: each sample once, any batch alone, decided by seed and epoch', (kind) => {
    const plan = batches(new BatchPlan(options(kind)));
    expect(plan.flat().sort((a, b) => a - b)).toEqual(upTo(lengths.length));
    const again = new BatchPlan(options(kind));
    for (const i of [plan.length - 1, 0, 401, 3, 402]) expect(again.at(i)).toEqual(plan[i]);
    const others = [
      batches(new BatchPlan(options({ ...kind, epoch: 2 }))),
      batches(new BatchPlan(options({ ...kind, seed: 1 }))),
    ];
    for (const other of others) {
      if (kind.order === 'sequential') expect(other).toEqual(plan);
      else expect(other.slice(0, 20)).not.toEqual(plan.slice(0, 20));
    }
  });

  test('by samples: full batches but for the last', () => {
    const sequential = batches(new BatchPlan(options({ batchSize: 64, order: 'sequential', length: 130 })));
    expect(sequential).toEqual([upTo(64), upTo(64).map((i) => 64 + i), [128, 129]]);
    const shuffled = batches(new BatchPlan(options({ batchSize: 3, length: 100 })));
    expect(shuffled.flat()).toEqual(epochOrder(100, 42, 1));
    const bucketed = batches(new BatchPlan(options({ batchSize: 64, order: 'bucketed' })));
    expect(bucketed.filter((batch) => batch.length !== 64).map((batch) => batch.length)).toEqual([5000 % 64]);
  });

  test('by tokens: as many samples as fit, a longer one alone', () => {
    for (const order of ['sequential', 'shuffled', 'bucketed'] as const) {
      const plan = batches(new BatchPlan(options({ batchTokens: 3000, order })));
      for (const batch of plan) if (batch.length > 1) expect(tokens(batch)).toBeLessThanOrEqual(3000);
      expect(plan.filter((batch) => tokens(batch) > 3000).length).toBe(
        lengths.filter((length) => length > 3000).length,
      );
      expect(mean(plan.map(tokens))).toBeGreaterThan(1700);
    }
    // One after the other, each batch takes what fits but at the end of a window.
    const plan = batches(new BatchPlan(options({ batchTokens: 3000, order: 'sequential' })));
    const early = plan.filter((batch, i) => i + 1 < plan.length && tokens(batch) + lengths[plan[i + 1]![0]!]! <= 3000);
    expect(early.length).toBeLessThanOrEqual(Math.ceil(plan.length / 60));
  });

  test('prepared, it has gone over the epoch', async () => {
    for (const kind of KINDS) {
      const plan = new BatchPlan(options(kind));
      await plan.prepare();
      const compose = jest.spyOn(plan as unknown as { composed: () => unknown }, 'composed');
      expect(plan.length).toBe(new BatchPlan(options(kind)).length);
      expect(compose).not.toHaveBeenCalled();
    }
    const reason = new Error('enough');
    await expect(new BatchPlan(options(KINDS[1]!)).prepare(AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  test('bucketed: alike within a batch, mixed over the epoch', () => {
    for (const size of [{ batchSize: 8 }, { batchTokens: 8000 }]) {
      const shuffled = batches(new BatchPlan(options(size)));
      const bucketed = batches(new BatchPlan(options({ ...size, order: 'bucketed' })));
      expect(mean(bucketed.map(spread))).toBeLessThan(0.1 * mean(shuffled.map(spread)));
      // Long and short batches come in any order: neighbours differ as two of a kind would by chance.
      const centres = bucketed.map((batch) => mean(batch.map((i) => lengths[i]!)));
      const steps = mean(centres.slice(1).map((value, i) => Math.abs(value - centres[i]!)));
      const byChance = mean(upTo(5000).map(() => Math.abs(random.pick(centres) - random.pick(centres))));
      expect(steps).toBeGreaterThan(0.7 * byChance);
    }
  });

  test('of nothing, and of one sample', () => {
    for (const kind of KINDS) {
      expect(new BatchPlan(options({ ...kind, length: 0 })).length).toBe(0);
      expect(batches(new BatchPlan(options({ ...kind, length: 1 })))).toEqual([[0]]);
    }
    expect(
      batches(new BatchPlan(options({ length: 2, order: 'sequential', batchSize: 5, tokensOf: wrong(undefined) }))),
    ).toEqual([[0, 1]]);
  });

  test('wrong options are refused by name', async () => {
    const plan = (changes: object): BatchPlan => new BatchPlan(options({ batchSize: 4, ...changes }));
    for (const [act, text] of [
      [() => plan({ batchsize: 4 }), "Unknown option 'batchsize' in options\nHint: did you mean 'batchSize'?"],
      [() => plan({ order: 'sorted' }), "Expected one of 'sequential', 'shuffled', 'bucketed' for order but received 'sorted' of type string"],
      [() => plan({ batchTokens: 5 }), 'Expected nothing beside batchSize for batchTokens but received 5 of type number'],
      [() => plan({ batchSize: undefined }), 'Expected an integer of at least 1, or one for batchTokens, for batchSize but received undefined of type undefined'],
      [() => plan({ batchSize: 0 }), 'Expected an integer of at least 1 for batchSize but received 0 of type number'],
      [() => plan({ batchSize: undefined, batchTokens: 0 }), 'Expected an integer of at least 1 for batchTokens but received 0 of type number'],
      [() => plan({ order: 'bucketed', tokensOf: undefined }), 'Expected a function for tokensOf but received undefined of type undefined'],
      [() => plan({ length: -1 }), 'Expected an integer between 0 and 4294967295 for length but received -1 of type number'],
      [() => plan({ seed: 0.5 }), 'Expected an integer of at least 0 for seed but received 0.5 of type number'],
      [() => plan({ epoch: '1' }), "Expected an integer of at least 0 for epoch but received '1' of type string"],
      [() => plan({ length: 8 }).at(2), 'Expected an integer between 0 and 1 for batch but received 2 of type number'],
      [() => plan({ length: 0 }).at(0), 'Expected no index, as there is no batch, for batch but received 0 of type number'],
    ] as const) await expectRefusal({ name: '', act, text });
  }); // prettier-ignore
});
