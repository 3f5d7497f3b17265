import type { GPTNeoXConfig } from '../architecture/config';
import { DTYPE_BYTES, type StorageDType, type TensorEntry, type TensorPiece } from '../formats/tensor';
import type { FilePlan } from './file-plan';

/** A weight as the model knows it, and its files in the order of the ranks. */
export interface SplitTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly files: readonly (FilePlan & { readonly path: string })[];
}

/**
 * Undoes what an export does to a tensor: says where its elements lie in the files. Shapes: O and I output and input
 * features of a linear layer, N heads, D head size, T ranks.
 */
export function joinFiles(
  { name, shape, files }: SplitTensor,
  config: GPTNeoXConfig,
  dtype: StorageDType,
): TensorEntry {
  const [first] = files;
  if (first === undefined) throw new RangeError(`no files for ${name}`);
  const whole = { name, dtype, shape, file: first.path, offset: 0, byteLength: first.elements * DTYPE_BYTES[dtype] };
  const rows = shape[0] as number;
  const columns = shape[1];
  const share = rows / files.length;
  const join = (axis: number, piece: readonly number[], stride?: readonly number[]): TensorEntry => {
    return { ...whole, join: { axis, pieces: files.map((file) => pieceOf(file, dtype, piece, stride)) } };
  };
  switch (first.layout) {
    case 'output_split':
      // [I, O/T] as [O/T, I]
      return columns === undefined ? join(0, [share]) : join(0, [share, columns], [1, share]);
    case 'input_split':
      // [I/T, O] as [O, I/T]
      return join(1, [rows, (columns as number) / files.length], [1, rows]);
    case 'qkv': {
      const { numHeads, headSize } = config;
      const heads = numHeads / files.length;
      const [kind, head] = [heads * headSize, headSize];
      // [I, 3, N/T, D] or [3, N/T, D] as [N/T, 3, D, I] or [N/T, 3, D]
      return columns === undefined
        ? join(0, [heads, 3, headSize], [head, kind, 1])
        : join(0, [heads, 3, headSize, columns], [head, kind, 1, 3 * kind]);
    }
    case 'bias':
      return first.divisor === 1 ? whole : { ...whole, scale: first.divisor };
    default:
      return whole;
  }
}

/** A prefix [P, L, 2, N, D] in the files [L, 2, N/T, P, D] of a task, in the order of the ranks. */
export function joinPrefix(
  name: string,
  { numLayers, numHeads, headSize }: Pick<GPTNeoXConfig, 'numLayers' | 'numHeads' | 'headSize'>,
  prefixLength: number,
  files: readonly { readonly path: string; readonly elements: number }[],
  dtype: StorageDType,
): TensorEntry {
  const heads = numHeads / files.length;
  const [head, kind] = [prefixLength * headSize, heads * prefixLength * headSize];
  const shape = [prefixLength, numLayers, 2, numHeads, headSize];
  const pieces = files.map((file) =>
    pieceOf(file, dtype, [prefixLength, numLayers, 2, heads, headSize], [headSize, 2 * kind, kind, head, 1]),
  );
  return { name, dtype, shape, file: files[0]?.path ?? '', offset: 0, byteLength: 0, join: { axis: 3, pieces } };
}

function pieceOf(
  { path, elements }: { readonly path: string; readonly elements: number },
  dtype: StorageDType,
  shape: readonly number[],
  stride: readonly number[] | undefined,
): TensorPiece {
  return {
    file: path,
    offset: 0,
    byteLength: elements * DTYPE_BYTES[dtype],
    shape,
    ...(stride === undefined ? {} : { stride }),
  };
}
