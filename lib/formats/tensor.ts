import { NeoXPrefixError } from '../base/errors';

/** Element types that a checkpoint may hold, by their safetensors names. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  I32: 4,
  I64: 8,
  F16: 2,
  BF16: 2,
  F32: 4,
  F64: 8,
} as const;

/** Bytes of an element in each type that a model computes in. */
export const COMPUTE_BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;

export type StorageDType = keyof typeof DTYPE_BYTES;

/**
 * Bytes of a file as a tensor: from `offset` on they hold the elements in little-endian order, row-major unless
 * `stride` (in elements, one per dimension) says otherwise.
 */
export interface TensorPiece {
  /** Absolute path of the file. */
  readonly file: string;
  /** What the file was when its header was read (FileReader.identity). Defaults to any. */
  readonly identity?: string;
  readonly shape: readonly number[];
  /** Byte offset of the first element from the start of the file. */
  readonly offset: number;
  /** Bytes that the tensor spans from `offset`. */
  readonly byteLength: number;
  readonly stride?: readonly number[];
}

/** Where one tensor lies. This is all that native code needs to map it, or to put it together. */
export interface TensorEntry extends TensorPiece {
  readonly name: string;
  readonly dtype: StorageDType;
  /**
   * A tensor that does not lie in one run: the pieces, put together along `axis` and then given the tensor's shape. No
   * pieces: zeros. (`file` is then the first of several, and the entry's own offset and length mean nothing.)
   */
  readonly join?: { readonly axis: number; readonly pieces: readonly TensorPiece[] };
  /** A factor of every element. Defaults to 1. */
  readonly scale?: number;
}

/** The number of elements of a shape, or an error when it cannot be counted exactly. */
export function elementCount(name: string, shape: readonly number[], path: string): number {
  let count = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new NeoXPrefixError(
        'NEOX_BAD_CHECKPOINT',
        `Tensor ${name} in ${path} has a bad shape [${shape.join(', ')}]`,
        { path },
      );
    }
    count *= size;
    if (!Number.isSafeInteger(count)) {
      throw new NeoXPrefixError(
        'NEOX_BAD_CHECKPOINT',
        `Tensor ${name} in ${path} has too many elements: shape [${shape.join(', ')}]`,
        {
          path,
        },
      );
    }
  }
  return count;
}
