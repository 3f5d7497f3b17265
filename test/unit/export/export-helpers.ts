import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import type { Checkpoint } from '../../../lib/checkpoint/checkpoint';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { expectedShapes, resolveConfig } from '../../../lib/architecture/architectures';
import { writeSafetensors } from '../../../lib/formats/safetensors';
import { PrefixWeights } from '../../../lib/prefix/weights';

/** A model that FasterTransformer computes as it is: no warnings. */
export const PLAIN_CONFIG = {
  model_type: 'gpt_neox',
  vocab_size: 16,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 96,
  hidden_act: 'gelu_fast',
  layer_norm_eps: 1e-5,
  rotary_pct: 0.25,
  rotary_emb_base: 10000,
  use_parallel_residual: true,
  bos_token_id: 1,
  eos_token_id: 2,
};

export type DType = 'F32' | 'F16' | 'BF16';
export type Bits = Float32Array | Uint16Array;

/** Numbers without a pattern that a wrong order could keep; as half-precision bits they are finite. */
export function values(count: number, dtype: DType, seed: number): Bits {
  const result = dtype === 'F32' ? new Float32Array(count) : new Uint16Array(count);
  let state = seed * 7919 + 1;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    result[i] = dtype === 'F32' ? (state - 2 ** 31) / 2 ** 31 : (state >>> 16) & 0xbbff;
  }
  return result;
}

export interface SmallCheckpoint {
  readonly checkpoint: Checkpoint;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Bits }>;
}

/** Writes a checkpoint and opens it. `replace` gives other content for some tensors. */
export async function writeCheckpoint(
  folder: string,
  changes: object = {},
  dtype: DType = 'F32',
  replace: Record<string, Bits> = {},
): Promise<SmallCheckpoint> {
  const json = { ...PLAIN_CONFIG, ...changes };
  const { config } = resolveConfig(json, 'config.json');
  const tensors = new Map(
    [...expectedShapes(config)].map(([name, shape], seed) => {
      const count = shape.reduce((product, size) => product * size, 1);
      return [name, { shape, data: replace[name] ?? values(count, dtype, seed) }];
    }),
  );
  await writeFile(join(folder, 'config.json'), JSON.stringify(json));
  await writeSafetensors(
    join(folder, 'model.safetensors'),
    [...tensors].map(([name, { shape, data }]) => ({ name, dtype, shape, data })),
    {},
  );
  return { checkpoint: await openCheckpoint(folder), tensors };
}

/** A prefix whose values are whole numbers up to 2048, which float16 holds exactly. */
export function wholeNumberPrefix(checkpoint: Checkpoint, prefixLength: number, seed = 0): PrefixWeights {
  const { numLayers, numHeads, headSize } = checkpoint.config;
  const count = prefixLength * numLayers * 2 * numHeads * headSize;
  return PrefixWeights.fromTensor(
    Float32Array.from({ length: count }, (_, i) => ((i + seed) * 7) % 2048),
    { prefixLength, numLayers, numHeads, headSize },
  );
}
