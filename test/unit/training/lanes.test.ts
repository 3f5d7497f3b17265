import { dealToLanes } from '../../../lib/training/lanes';
import { Random } from '../../helpers';

test('the longest samples first, each to the lane with the fewest tokens; in a lane they keep their order', () => {
  expect(dealToLanes([5, 9, 4, 4, 1], 2)).toEqual([
    [1, 3],
    [0, 2, 4],
  ]);
  expect(dealToLanes([1, 1, 1, 1, 1], 2)).toEqual([
    [0, 2, 4],
    [1, 3],
  ]);
});

test('one lane has all in their order; with fewer samples than lanes the first lanes have one each', () => {
  expect(dealToLanes([1, 7, 3], 1)).toEqual([[0, 1, 2]]);
  expect(dealToLanes([1, 7, 3], 5)).toEqual([[1], [2], [0]]);
  expect(dealToLanes([], 3)).toEqual([]);
});

test('each sample is dealt once, and 16 samples of usual lengths balance in 4 lanes', () => {
  const random = new Random(3);
  let share = 0;
  for (let round = 0; round < 100; round++) {
    const tokens = Array.from({ length: 16 }, () => Math.ceil(60 * Math.exp(1.2 * (random.next() - 0.5))));
    const lanes = dealToLanes(tokens, 4);
    expect(lanes.flat().sort((a, b) => a - b)).toEqual(tokens.map((_, i) => i));
    const loads = lanes.map((lane) => lane.reduce((sum, i) => sum + (tokens[i] ?? 0), 0));
    share += loads.reduce((sum, load) => sum + load, 0) / (4 * Math.max(...loads)) / 100;
  }
  expect(share).toBeGreaterThan(0.9);
});
