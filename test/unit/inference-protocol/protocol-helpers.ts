import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NeoXPrefixError } from '../../../lib/base/errors';
import { type Tensor, tensor } from '../../../lib/inference-protocol/tensors';

/** The error that a function throws. */
export function thrown(act: () => unknown): NeoXPrefixError {
  try {
    act();
  } catch (error) {
    return error as NeoXPrefixError;
  }
  throw new Error('Expected an error, and there was none');
}

/** Bytes of NVIDIA's client and of Triton's messages; scripts/golden/triton_messages.py recorded them. */
export const recorded = (name: string): Buffer => readFileSync(join(__dirname, '..', '..', 'fixtures', 'triton', name));

/** The tensors in the recordings. */
export const RECORDED_TENSORS: ReadonlyMap<string, Tensor> = new Map<string, Tensor>([
  [
    'ids',
    tensor('UINT32', [
      [1, 2, 3],
      [4, 5, 4294967295],
    ]),
  ],
  ['seeds', tensor('UINT64', [[0], [18446744073709551615n]])],
  [
    'words',
    tensor('INT32', [
      [[0], [-1]],
      [[7], [1]],
    ]),
  ],
  ['temperature', tensor('FP32', [[1], [0.7]])],
  ['flags', tensor('BOOL', [[true], [false]])],
  ['texts', tensor('BYTES', [['今日は'], ['']])],
  ['half', tensor('FP16', [0x3800, 0xc000])],
  ['double', tensor('FP64', [0.1])],
  ['small', tensor('INT8', [-1, 2])],
  ['unsigned', tensor('UINT8', [255])],
  ['short', tensor('INT16', [-300])],
  ['long', tensor('INT64', [-9007199254740993n])],
]);

/** Tensors for comparing: bytes as lists, whatever class holds them. */
export function plain(tensors: ReadonlyMap<string, Tensor>): unknown {
  return [...tensors].map(([name, { datatype, shape, data }]) => [
    name,
    datatype,
    shape,
    Array.from<unknown, string>(data, (item) =>
      item instanceof Uint8Array ? Buffer.from(item).toString('latin1') : String(item),
    ),
  ]);
}
