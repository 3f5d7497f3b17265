import type { PrefixWeights } from '../prefix/weights';

/** Of each layer, the mean L2 norm of the prefix's keys, and of its values, over positions and heads. */
export function meanNorms({ data, prefixLength, numLayers, numHeads, headSize }: PrefixWeights): {
  keyNorms: number[];
  valueNorms: number[];
} {
  // [L, 2]
  const sums = new Float64Array(2 * numLayers);
  // data: [P, L, 2, N, D]
  for (let vector = 0; vector * headSize < data.length; vector++) {
    let squares = 0;
    for (let i = vector * headSize; i < (vector + 1) * headSize; i++) squares += (data[i] as number) ** 2;
    const slot = Math.floor(vector / numHeads) % sums.length;
    sums[slot] = (sums[slot] as number) + Math.sqrt(squares);
  }
  const norms = Array.from(sums, (sum) => sum / (prefixLength * numHeads));
  return { keyNorms: norms.filter((_, slot) => slot % 2 === 0), valueNorms: norms.filter((_, slot) => slot % 2 === 1) };
}
