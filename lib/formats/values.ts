import { NeoXPrefixError } from '../base/errors';
import { FileReader } from '../base/files';
import { DTYPE_BYTES, elementCount, type StorageDType, type TensorEntry, type TensorPiece } from './tensor';

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
  const values = entry.join === undefined ? await readPiece(entry, entry) : await readJoined(entry, entry.join);
  const { scale } = entry;
  return scale === undefined ? values : values.map((value) => value * scale);
}

async function readPiece(entry: TensorEntry, piece: TensorPiece): Promise<Float32Array> {
  return FileReader.use(
    piece.file,
    async (reader) => {
      const stored = toFloat32(entry, await reader.read(piece.offset, piece.byteLength));
      if (piece.stride === undefined) return stored;
      const values = new Float32Array(elementCount(entry.name, piece.shape, piece.file));
      copyStrided(values, stored, piece.shape, piece.stride);
      return values;
    },
    piece.identity,
  );
}

async function readJoined(
  entry: TensorEntry,
  { axis, pieces }: NonNullable<TensorEntry['join']>,
): Promise<Float32Array> {
  const values = new Float32Array(elementCount(entry.name, entry.shape, entry.file));
  // Joining along a dimension is taking turns: so many elements of each piece, again and again.
  const turns = pieces.map(({ shape }) => shape.slice(axis).reduce((product, size) => product * size, 1));
  const all = turns.reduce((sum, turn) => sum + turn, 0);
  let start = 0;
  for (const [i, piece] of pieces.entries()) {
    const own = await readPiece(entry, piece);
    const turn = turns[i] as number;
    for (let from = 0, to = start; from < own.length; from += turn, to += all)
      values.set(own.subarray(from, from + turn), to);
    start += turn;
  }
  return values;
}

/** target in row-major order = source at the given steps. */
function copyStrided(
  target: Float32Array,
  source: Float32Array,
  shape: readonly number[],
  stride: readonly number[],
): void {
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

/**
 * The position in storage, in elements from the tensor's start, of the element that is number `index` in row-major
 * order.
 */
export function storagePosition({ shape, stride }: Pick<TensorPiece, 'shape' | 'stride'>, index: number): number {
  if (stride === undefined) return index;
  let position = 0;
  let rest = index;
  for (let d = shape.length - 1; d >= 0; d--) {
    const size = shape[d] as number;
    position += (rest % size) * (stride[d] as number);
    rest = Math.floor(rest / size);
  }
  return position;
}

/**
 * The piece of a joined tensor that holds the element number `index` in row-major order, and that element's number in
 * the piece.
 */
export function pieceOf(
  { axis, pieces }: NonNullable<TensorEntry['join']>,
  index: number,
): { piece: TensorPiece; index: number } {
  const turns = pieces.map(({ shape }) => shape.slice(axis).reduce((product, size) => product * size, 1));
  const all = turns.reduce((sum, turn) => sum + turn, 0);
  const round = Math.floor(index / all);
  let rest = index % all;
  for (const [i, turn] of turns.entries()) {
    if (rest < turn) return { piece: pieces[i] as TensorPiece, index: round * turn + rest };
    rest -= turn;
  }
  throw new RangeError(`element ${index} is not in the pieces`);
}

/**
 * Little-endian bytes of the entry's dtype, decoded. Node runs on little-endian machines only, so typed arrays serve.
 */
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
