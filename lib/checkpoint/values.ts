import { NeoXPrefixError } from '../errors';
import { FileReader } from '../files';
import { DTYPE_BYTES, elementCount, type StorageDType, type TensorEntry } from './tensor';

/** The steps, in elements, of a row-major tensor. */
export function contiguousStride(shape: readonly number[]): number[] {
  const stride = new Array<number>(shape.length).fill(1);
  for (let d = shape.length - 2; d >= 0; d--) stride[d] = (stride[d + 1] as number) * (shape[d + 1] as number);
  return stride;
}

/**
 * Reads one tensor into memory as float32, row-major, whatever its layout on disk. For small tensors (a prefix, a
 * layer norm); the weights of a model are mapped, not read.
 * @throws NEOX_UNSUPPORTED for integer and boolean tensors
 */
export async function readTensor(entry: TensorEntry): Promise<Float32Array> {
  return FileReader.use(entry.file, async (reader) => {
    const stored = toFloat32(entry, await reader.read(entry.offset, entry.byteLength));
    if (entry.stride === undefined) return stored;
    const values = new Float32Array(elementCount(entry.name, entry.shape, entry.file));
    copyStrided(values, stored, entry.shape, entry.stride);
    return values;
  });
}

/** target in row-major order = source at the given steps. */
function copyStrided(target: Float32Array, source: Float32Array, shape: readonly number[], stride: readonly number[]): void {
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < target.length; to++) {
    target[to] = source[from] as number;
    for (let d = shape.length - 1; d >= 0; d--) {
      from += stride[d] as number;
      index[d] = (index[d] as number) + 1;
      if ((index[d] as number) < (shape[d] as number)) break;
      from -= (stride[d] as number) * (shape[d] as number);
      index[d] = 0;
    }
  }
}

/** The position in storage, in elements from the tensor's start, of the element that is number `index` in row-major order. */
export function storagePosition(entry: TensorEntry, index: number): number {
  if (entry.stride === undefined) return index;
  let position = 0;
  let rest = index;
  for (let d = entry.shape.length - 1; d >= 0; d--) {
    const size = entry.shape[d] as number;
    position += (rest % size) * (entry.stride[d] as number);
    rest = Math.floor(rest / size);
  }
  return position;
}

/** Little-endian bytes of the entry's dtype, decoded. Node runs on little-endian machines only, so typed arrays serve. */
export function toFloat32(entry: TensorEntry, bytes: Buffer<ArrayBuffer>): Float32Array {
  const count = bytes.byteLength / DTYPE_BYTES[entry.dtype];
  switch (entry.dtype) {
    case 'F32':
      return new Float32Array(bytes.buffer, bytes.byteOffset, count);
    case 'F64':
      return Float32Array.from(new Float64Array(bytes.buffer, bytes.byteOffset, count));
    case 'F16':
      return Float32Array.from(new Uint16Array(bytes.buffer, bytes.byteOffset, count), halfToFloat);
    case 'BF16': {
      const bits = Uint32Array.from(new Uint16Array(bytes.buffer, bytes.byteOffset, count), (half) => half << 16);
      return new Float32Array(bits.buffer);
    }
    default:
      throw new NeoXPrefixError(
        'NEOX_UNSUPPORTED',
        `Tensor ${entry.name} in ${entry.file} holds ${entry.dtype}; expected ${FLOAT_DTYPES.join(', ')}`,
        {
          path: entry.file,
        },
      );
  }
}

/** The types that model weights and prefixes may have. */
export const FLOAT_DTYPES: readonly StorageDType[] = ['F32', 'F16', 'BF16', 'F64'];

/** IEEE 754 binary16. */
function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
