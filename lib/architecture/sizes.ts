import type { GPTNeoXConfig } from './config';

/** Values of the keys and values of one position in all layers: L*2*H. */
export function keyValueWidth({ numLayers, hiddenSize }: Pick<GPTNeoXConfig, 'numLayers' | 'hiddenSize'>): number {
  return numLayers * 2 * hiddenSize;
}
