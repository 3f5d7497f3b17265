import { types } from 'node:util';
import { badArgument, show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';

/** What holds the elements of each type. */
const ARRAYS = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: Uint16Array,
  BF16: Uint16Array,
  FP32: Float32Array,
  FP64: Float64Array,
} as const;

type NumericDatatype = keyof typeof ARRAYS;

/** Element types of the protocol. */
export type TensorDatatype = NumericDatatype | 'BYTES';

/**
 * A tensor by its type: elements in row-major order, and the shape. BOOL has a byte an element (0 or 1), FP16 and BF16
 * their 16 bits, BYTES any bytes an element.
 */
export type Tensor = {
  [D in TensorDatatype]: {
    datatype: D;
    data: D extends NumericDatatype ? InstanceType<(typeof ARRAYS)[D]> : Uint8Array[];
    shape: number[];
  };
}[TensorDatatype];

/** A tensor of one type. */
export type TensorOf<D extends TensorDatatype> = Extract<Tensor, { datatype: D }>;

/** One element as JavaScript writes it; of BYTES a string stands for its UTF-8. */
export type TensorElement = number | bigint | boolean | string | Uint8Array;
/** Elements, row by row. */
export type NestedElements = TensorElement | readonly NestedElements[];

const MAX_RANK = 32;

export function isDatatype(value: unknown): value is TensorDatatype {
  return value === 'BYTES' || (typeof value === 'string' && Object.hasOwn(ARRAYS, value));
}

/** Checks a type's name. */
export function checkDatatype(name: string, value: unknown): TensorDatatype {
  if (!isDatatype(value)) throw badArgument(name, `one of ${[...Object.keys(ARRAYS), 'BYTES'].join(', ')}`, value);
  return value;
}

/** Elements of a shape. */
export function elementsOf(name: string, shape: unknown): number {
  if (!Array.isArray(shape) || shape.length > MAX_RANK) throw badArgument(name, 'the sizes of a shape', shape);
  let count = 1;
  for (const [i, size] of shape.entries()) {
    if (!Number.isSafeInteger(size) || (size as number) < 0)
      throw badArgument(`${name}[${i}]`, 'an integer of at least 0', size);
    count *= size as number;
    if (!Number.isSafeInteger(count)) throw badArgument(name, 'a shape of less than 2^53 elements', shape.join());
  }
  return count;
}

/**
 * A tensor of values that are written row by row: `tensor('UINT32', [[1, 2], [3, 4]])` has the shape [2, 2]. FP16 and
 * BF16 take the bits of their elements.
 * @throws NEOX_BAD_ARGUMENT for rows of unequal length, and for a value that the type does not have
 */
export function tensor<D extends TensorDatatype>(datatype: D, values: NestedElements): TensorOf<D> {
  checkDatatype('datatype', datatype);
  const shape: number[] = [];
  for (let inner = values; isList(inner); inner = inner[0] as NestedElements) {
    if (shape.push(inner.length) > MAX_RANK) throw badArgument('values', `at most ${MAX_RANK} dimensions`, values);
    if (inner.length === 0) break;
  }
  return fromElements('values', datatype, shape, values);
}

/**
 * A tensor of a known shape out of elements that are nested by it, or flat.
 * @throws NEOX_BAD_ARGUMENT
 */
export function fromElements<D extends TensorDatatype>(
  name: string,
  datatype: D,
  shape: readonly number[],
  values: unknown,
): TensorOf<D> {
  const count = elementsOf(`the shape of ${name}`, shape);
  const isFlat = isList(values) && !isList(values[0]);
  const elements: unknown[] = isFlat ? [...values] : [];
  if (!isFlat) flatten(name, values, shape, 0, elements);
  if (elements.length !== count) throw sizeError(name, shape, `${count} elements`, `${elements.length}`);
  const type: TensorDatatype = datatype;
  if (type === 'BYTES') {
    const data = elements.map((value, i) => bytesElement(`${name}[${i}]`, value));
    return { datatype, data, shape: [...shape] } as TensorOf<D>;
  }
  const data = new ARRAYS[type](count);
  for (const [i, value] of elements.entries()) data[i] = numericElement(`${name}[${i}]`, type, value, data);
  return { datatype, data, shape: [...shape] } as TensorOf<D>;
}

function isList(value: unknown): value is readonly NestedElements[] {
  return Array.isArray(value);
}

function flatten(name: string, value: unknown, shape: readonly number[], depth: number, into: unknown[]): void {
  if (depth === shape.length) {
    if (isList(value)) throw badArgument(name, `${shape.length} levels of nesting`, value);
    into.push(value);
    return;
  }
  if (!isList(value) || value.length !== shape[depth])
    throw badArgument(`${name} at depth ${depth}`, `an array of ${shape[depth] ?? 0}, as the shape has it`, value);
  for (const item of value) flatten(name, item, shape, depth + 1, into);
}

function bytesElement(name: string, value: unknown): Uint8Array {
  if (typeof value === 'string') return Buffer.from(value, 'utf8');
  if (!types.isUint8Array(value)) throw badArgument(name, 'a string or a Uint8Array', value);
  return value;
}

/** What an element becomes in its array; an integer that wraps around is refused. */
function numericElement(
  name: string,
  datatype: NumericDatatype,
  value: unknown,
  array: InstanceType<(typeof ARRAYS)[NumericDatatype]>,
): never {
  // Assigned to an element of any of the arrays, which TypeScript can only say as `never`.
  if (datatype === 'BOOL') {
    if (typeof value !== 'boolean' && value !== 0 && value !== 1) throw badArgument(name, 'a boolean', value);
    return Number(value) as never;
  }
  if (datatype === 'FP32' || datatype === 'FP64') {
    if (typeof value !== 'number') throw badArgument(name, 'a number', value);
    return value as never;
  }
  const isWhole = typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value));
  if (!isWhole) throw badArgument(name, 'an integer of less than 2^53, or a bigint,', value);
  const bits = array.BYTES_PER_ELEMENT * 8;
  const isSigned = datatype.startsWith('INT');
  const kept = isSigned ? BigInt.asIntN(bits, BigInt(value)) : BigInt.asUintN(bits, BigInt(value));
  if (kept !== BigInt(value)) throw badArgument(name, `a number of type ${datatype}`, value);
  return (bits === 64 ? kept : Number(kept)) as never;
}

function sizeError(name: string, shape: readonly number[], expected: string, found: string): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_BAD_ARGUMENT',
    `The tensor '${name}' of shape [${shape.join(', ')}] takes ${expected} and has ${found}`,
  );
}

/** Checks a tensor that JavaScript gives: its type, that its array is of that type, and its size. */
export function checkTensor(name: string, value: unknown): Tensor {
  if (value === null || typeof value !== 'object') throw badArgument(name, 'a tensor', value, TENSOR_HINT);
  const { datatype, data, shape } = value as Record<string, unknown>;
  const type = checkDatatype(`${name}.datatype`, datatype);
  const count = elementsOf(`${name}.shape`, shape);
  const fits =
    type === 'BYTES'
      ? Array.isArray(data) && data.every((item) => types.isUint8Array(item))
      : ArrayBuffer.isView(data) && data.constructor.name === ARRAYS[type].name;
  if (!fits) {
    const expected = type === 'BYTES' ? 'an array of Uint8Array' : `a ${ARRAYS[type].name}`;
    throw badArgument(`${name}.data`, `${expected}, which ${type} needs,`, data, TENSOR_HINT);
  }
  const { length } = data as { length: number };
  if (length !== count) throw sizeError(name, shape as number[], `${count} elements`, String(length));
  return value as Tensor;
}

const TENSOR_HINT = "tensor('UINT32', [[1, 2]]) makes one";

/** The bytes of a tensor on the wire: little-endian; each element of BYTES behind its length in 4 bytes. */
export function tensorBytes({ datatype, data }: Tensor): Uint8Array {
  if (datatype !== 'BYTES') return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const bytes = Buffer.allocUnsafe(data.reduce((sum, item) => sum + 4 + item.length, 0));
  let at = 0;
  for (const item of data) {
    at = bytes.writeUInt32LE(item.length, at);
    bytes.set(item, at);
    at += item.length;
  }
  return bytes;
}

/**
 * A tensor out of its bytes, with memory of its own.
 * @throws NEOX_BAD_ARGUMENT when there are more or fewer than its shape takes
 */
export function tensorFromBytes(
  name: string,
  datatype: TensorDatatype,
  shape: readonly number[],
  bytes: Uint8Array,
): Tensor {
  const count = elementsOf(`the shape of ${name}`, shape);
  if (datatype === 'BYTES') return { datatype, data: splitBytes(name, shape, count, bytes), shape: [...shape] };
  const expected = count * ARRAYS[datatype].BYTES_PER_ELEMENT;
  if (bytes.length !== expected) throw sizeError(name, shape, `${expected} bytes`, String(bytes.length));
  // A copy: bytes of a message may lie at any place of a larger buffer, where no array of wider elements can begin.
  const data = new ARRAYS[datatype](new Uint8Array(bytes).buffer);
  return { datatype, data, shape: [...shape] } as Tensor;
}

function splitBytes(name: string, shape: readonly number[], count: number, bytes: Uint8Array): Uint8Array[] {
  const source = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const elements: Uint8Array[] = [];
  let at = 0;
  while (at + 4 <= source.length && elements.length < count) {
    const end = at + 4 + source.readUInt32LE(at);
    if (end > source.length) break;
    elements.push(new Uint8Array(source.subarray(at + 4, end)));
    at = end;
  }
  if (elements.length !== count || at !== source.length)
    throw sizeError(name, shape, `${count} elements with their lengths`, `${source.length} bytes that are not that`);
  return elements;
}

/** The elements for JSON, flat. @throws NEOX_BAD_ARGUMENT for what JSON cannot write */
export function jsonElements(name: string, { datatype, data }: Tensor): (number | boolean | string)[] {
  const cannot = (what: unknown): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_ARGUMENT', `The tensor '${name}' of type ${datatype} has no JSON: ${show(what)}`, {
      hint: 'send it, or ask for it, as binary data',
    });
  if (datatype === 'BYTES') {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return data.map((item) => {
      try {
        return text.decode(item);
      } catch {
        throw cannot('bytes that are not UTF-8');
      }
    });
  }
  if (datatype === 'FP16' || datatype === 'BF16') throw cannot('numbers of 16 bits');
  return Array.from<number | bigint, number | boolean>(data, (value) => {
    if (datatype === 'BOOL') return value !== 0;
    const number = Number(value);
    if (!Number.isFinite(number) || (typeof value === 'bigint' && !Number.isSafeInteger(number))) throw cannot(value);
    return number;
  });
}
