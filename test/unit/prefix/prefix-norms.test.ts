import { PrefixWeights } from '../../../lib/prefix/weights';
import { meanNorms } from '../../../lib/training/prefix-norms';

test('norms of a layer are means over positions and heads, keys and values apart', () => {
  // [P, L, 2, N, D]: 2 positions, 2 layers, 2 heads of 2
  const geometry = { prefixLength: 2, numLayers: 2, numHeads: 2, headSize: 2 };
  // prettier-ignore
  const data = Float32Array.from([
    3, 4,  0, 0,   1, 0,  0, 1,   6, 8,  6, 8,   0, 2,  0, 0,
    0, 5,  5, 0,   1, 0,  0, 1,   0, 0,  0, 0,   0, 0,  2, 0,
  ]);
  expect(meanNorms(PrefixWeights.fromTensor(data, geometry))).toEqual({ keyNorms: [3.75, 5], valueNorms: [1, 1] });
});
