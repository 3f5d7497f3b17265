import { NeoXPrefixError } from '../base/errors';
import { FileReader, writeFileAtomic } from '../base/files';
import { get, isObject, parseJsonObject } from './json';
import { DTYPE_BYTES, elementCount, type StorageDType, type TensorEntry } from './tensor';

/** The format's own limit on the header (safetensors/src/tensor.rs). */
const MAX_HEADER = 100_000_000;

/** Types that the format knows and nothing here computes with, by their size in bits. */
const OTHER_DTYPE_BITS: Readonly<Record<string, number>> = {
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  U16: 16,
  U32: 32,
  U64: 64,
  C64: 64,
};

export interface SafetensorsHeader {
  /** Absolute path of the file. */
  readonly path: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Tensors of a type that nothing here computes with: name to type. An error only when one of them is needed. */
  readonly unsupported: ReadonlyMap<string, string>;
}

interface Slot {
  readonly name: string;
  readonly begin: number;
  readonly end: number;
}

/**
 * Reads and checks the header of a safetensors file; no tensor is read.
 * @throws NEOX_BAD_CHECKPOINT for everything that the format forbids: a header that does not fit, unknown types, sizes
 *   that disagree with shapes, tensors that overlap or leave holes, missing or trailing bytes
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  return FileReader.use(path, async (reader) => {
    const bad = (problem: string, hint?: string): NeoXPrefixError => badFile(reader.path, problem, hint);
    const isNamed = reader.path.endsWith('.safetensors');
    if (reader.size < 8 && !isNamed) throw unknownFile(reader.path);
    if (reader.size < 8) throw bad(`expected at least 8 bytes, the file has ${reader.size}`, 'the file is incomplete');
    const start = await reader.read(0, Math.min(reader.size, 32));
    const foreign = foreignFormat(start);
    if (foreign !== undefined) throw bad(`it is ${foreign.what}`, foreign.hint);
    const declared = start.readBigUInt64LE(0);
    if (declared > BigInt(MAX_HEADER) && !isNamed) throw unknownFile(reader.path);
    if (declared > BigInt(MAX_HEADER))
      throw bad(`expected a header of at most ${MAX_HEADER} bytes, it declares ${declared}`);
    const headerLength = Number(declared);
    const dataStart = 8 + headerLength;
    if (dataStart > reader.size) {
      throw bad(
        `its header declares ${headerLength} bytes, the file has ${reader.size - 8} after the length`,
        'the file is incomplete',
      );
    }
    const bytes = await reader.read(8, headerLength);
    if (bytes[0] !== 0x7b) throw bad("expected the header to start with '{'");
    const header = parseJsonObject(bytes, 'NEOX_BAD_CHECKPOINT', 'The header of safetensors file', reader.path);
    return readEntries(header, reader, dataStart);
  });
}

function readEntries(
  header: Readonly<Record<string, unknown>>,
  { path, identity, size }: FileReader,
  dataStart: number,
): SafetensorsHeader {
  const tensors = new Map<string, TensorEntry>();
  const unsupported = new Map<string, string>();
  const slots: Slot[] = [];
  let metadata = new Map<string, string>();
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') {
      metadata = readMetadata(value, path);
      continue;
    }
    const { dtype, shape, begin, end } = readEntry(name, value, path);
    slots.push({ name, begin, end });
    const byteLength = end - begin;
    if (isStorageDType(dtype))
      tensors.set(name, { name, file: path, identity, dtype, shape, offset: dataStart + begin, byteLength });
    else unsupported.set(name, dtype);
  }
  checkTiling(slots, path, size - dataStart);
  return { path, metadata, tensors, unsupported };
}

function readMetadata(value: unknown, path: string): Map<string, string> {
  if (!isObject(value)) throw badFile(path, 'expected __metadata__ to be an object');
  const metadata = new Map<string, string>();
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string')
      throw badFile(path, `expected text for ${key} in __metadata__, found ${JSON.stringify(text).slice(0, 60)}`);
    metadata.set(key, text);
  }
  return metadata;
}

function readEntry(
  name: string,
  value: unknown,
  path: string,
): { dtype: string; shape: number[]; begin: number; end: number } {
  const bad = (problem: string): NeoXPrefixError => badFile(path, `tensor ${name.slice(0, 200)}: ${problem}`);
  if (!isObject(value)) throw bad('expected an object');
  const dtype = get(value, 'dtype');
  const shape = get(value, 'shape');
  const offsets = get(value, 'data_offsets');
  if (typeof dtype !== 'string') throw bad('expected a dtype');
  const bits = isStorageDType(dtype)
    ? DTYPE_BYTES[dtype] * 8
    : Object.hasOwn(OTHER_DTYPE_BITS, dtype)
      ? OTHER_DTYPE_BITS[dtype]
      : undefined;
  if (bits === undefined) throw bad(`unknown dtype '${dtype.slice(0, 40)}'`);
  if (!isSizes(shape)) throw bad('expected a shape of non-negative integers');
  if (!isSizes(offsets) || offsets.length !== 2) throw bad('expected two data_offsets, non-negative integers');
  const [begin, end] = offsets as [number, number];
  if (end < begin) throw bad(`expected data_offsets in order, found [${begin}, ${end}]`);
  const size = (elementCount(name, shape, path) * bits) / 8;
  if (!Number.isSafeInteger(size)) throw bad(`its shape [${shape.join(', ')}] of ${dtype} does not fill whole bytes`);
  if (end - begin !== size) {
    throw bad(
      `its shape [${shape.join(', ')}] of ${dtype} takes ${size} bytes, its data_offsets [${begin}, ${end}] span ${end - begin}`,
    );
  }
  return { dtype, shape: [...shape], begin, end };
}

/** The tensors have to cover the data exactly: no hole, no overlap, nothing missing and nothing after. */
function checkTiling(slots: Slot[], path: string, dataLength: number): void {
  slots.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let position = 0;
  for (const { name, begin, end } of slots) {
    if (begin > position) throw badFile(path, `${begin - position} bytes before tensor ${name} belong to no tensor`);
    if (begin < position) throw badFile(path, `tensor ${name} overlaps another one`);
    position = end;
  }
  if (position > dataLength) {
    throw badFile(
      path,
      `its tensors need ${position} bytes of data, the file has ${dataLength}`,
      'the file is incomplete; fetch it again',
    );
  }
  if (position < dataLength)
    throw badFile(path, `its tensors need ${position} bytes of data, the file has ${dataLength}`);
}

export function isStorageDType(dtype: string): dtype is StorageDType {
  return Object.hasOwn(DTYPE_BYTES, dtype);
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length <= 64 && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function badFile(path: string, problem: string, hint?: string): NeoXPrefixError {
  const details = hint === undefined ? { path } : { path, hint };
  return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The safetensors file ${path} is not usable: ${problem}`, details);
}

/** Recognises, from its first bytes, a file that somebody renamed or did not fetch. */
export function foreignFormat(start: Uint8Array): { what: string; hint: string } | undefined {
  const text = Buffer.from(start.buffer, start.byteOffset, Math.min(start.byteLength, 32)).toString('latin1');
  if (text.startsWith('version https://git-lfs')) {
    return { what: 'a Git LFS pointer, not the file itself', hint: 'fetch the file with `git lfs pull`' };
  }
  if (text.startsWith('PK')) return { what: 'a zip archive', hint: 'a PyTorch file is named .bin, .pt or .checkpoint' };
  if (text.startsWith('\x80\x02'))
    return { what: 'a Python pickle', hint: 'a PyTorch file is named .bin, .pt or .checkpoint' };
  if (/^\s*<(!doctype|html|\?xml)/i.test(text))
    return { what: 'a web page', hint: 'the download failed; fetch the file again' };
  if (text.startsWith('GGUF')) return { what: 'a GGUF file', hint: 'use the safetensors files that it was made from' };
  return undefined;
}

/** Of a file whose name does not say what it should be. */
function unknownFile(path: string): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_BAD_CHECKPOINT',
    `${path} is of no known format: neither a safetensors file nor one of torch.save`,
    {
      path,
    },
  );
}

/** A tensor to be written; `data` holds its elements in row-major order, as its dtype lays them out in memory. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
  readonly data: NodeJS.ArrayBufferView;
}

/**
 * Writes a safetensors file (atomically) as the reference writer lays it out: widest types first, then by name, the
 * header padded so that the data start at a multiple of 8.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const ordered = [...tensors].sort(
    (a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  const entries: [string, unknown][] = [['__metadata__', { format: 'pt', ...metadata }]];
  let position = 0;
  for (const { name, dtype, shape, data } of ordered) {
    const size = elementCount(name, shape, path) * DTYPE_BYTES[dtype];
    if (data.byteLength !== size || entries.some(([known]) => known === name)) {
      throw new NeoXPrefixError(
        'NEOX_BAD_ARGUMENT',
        `Tensor ${name} needs a name of its own and ${size} bytes but has ${data.byteLength}`,
        { path },
      );
    }
    entries.push([name, { dtype, shape, data_offsets: [position, position + size] }]);
    position += size;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const padded = Buffer.alloc(Math.ceil(json.length / 8) * 8, ' ');
  json.copy(padded);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  await writeFileAtomic(path, [length, padded, ...ordered.map(({ data }) => data)]);
}
