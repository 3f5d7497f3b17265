/** Writers of the file formats that check nothing, so that they can write what no honest program would. */

export type Bytes = Buffer | Uint8Array | string;

/** Text stands for its Latin-1 bytes, as pickle opcodes are written. */
export function join(...parts: readonly Bytes[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)));
}

export function le(value: number | bigint, bytes: 2 | 4 | 8): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return buffer.subarray(0, bytes);
}

export function floats(...values: number[]): Buffer {
  return Buffer.from(Float32Array.from(values).buffer);
}

// ---- safetensors ----

/** A safetensors file; `length` overrides the stated length of the header. */
export function safetensors(header: unknown, data: Buffer | number = 0, length?: bigint): Buffer {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  return join(le(length ?? text.length, 8), text, typeof data === 'number' ? Buffer.alloc(data) : data);
}

export function tensor(dtype: unknown, shape: unknown, begin: unknown, end: unknown): Record<string, unknown> {
  return { dtype, shape, data_offsets: [begin, end] };
}

// ---- pickle ----

export function pickle(...parts: readonly Bytes[]): Buffer {
  return join('\x80\x02', ...parts, '.');
}

/** BINUNICODE */
export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return join('X', le(bytes.length, 4), bytes);
}

/** LONG1 */
export function long(value: bigint): Buffer {
  return join('\x8a\x09', le(value, 8), '\0');
}

export interface TensorOps {
  count?: Bytes;
  offset?: Bytes;
  size?: Bytes;
  stride?: Bytes;
  storage?: string;
  key?: string;
  location?: string;
}

/** The opcodes that make a float32 tensor of four elements over storage '0'. */
export function tensorOps(options: TensorOps = {}): Buffer {
  const { count = 'K\x04', offset = 'K\x00', size = 'K\x04\x85', stride = 'K\x01\x85' } = options;
  const { storage = 'torch\nFloatStorage', key = '0', location = 'cpu' } = options;
  const id = join('(', text('storage'), `c${storage}\n`, text(key), text(location), count, 'tQ');
  return join('ctorch._utils\n_rebuild_tensor_v2\n(', id, offset, size, stride, '\x89ccollections\nOrderedDict\n)RtR');
}

/** A file of torch before 1.6 around the pickle of an object; `tail` is what stands behind. */
export function legacyTorch(object: Buffer, tail: Buffer = legacyStorages()): Buffer {
  return join(
    pickle('\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'),
    pickle('M\xe9\x03'),
    pickle('}'),
    object,
    tail,
  );
}

export function legacyStorages(count: number | bigint = 4, data: Buffer = floats(1, 2, 3, 4)): Buffer {
  return join(pickle(']', text('0'), 'a'), le(count, 8), data);
}

// ---- zip ----

export interface ZipRecord {
  name: string;
  data: Buffer;
  method?: number;
  flags?: number;
  /** The name in the local header. */
  localName?: string;
  /** The length that the local header states of an extra field, which is not written. */
  localExtraLength?: number;
  /** Sizes and place that the directory states. */
  size?: number;
  unpackedSize?: number;
  offset?: number;
  /** An extra field of the directory. */
  extra?: Buffer;
}

export interface ZipOptions {
  count?: number;
  directoryOffset?: number;
  directorySize?: number;
  /** Between the directory and the end record. */
  beforeEnd?: Buffer;
  comment?: Buffer;
}

export function zip(records: readonly ZipRecord[], options: ZipOptions = {}): Buffer {
  const body: Buffer[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  for (const { name, data, method = 0, flags = 0, localName = name, localExtraLength = 0, ...stated } of records) {
    const { size = data.length, unpackedSize = size, offset = position, extra = Buffer.alloc(0) } = stated;
    const common = join(le(20, 2), le(flags, 2), le(method, 2), le(0, 8), le(size, 4), le(unpackedSize, 4));
    const [inside, central] = [Buffer.from(localName), Buffer.from(name)];
    const local = join(le(0x04034b50, 4), common, le(inside.length, 2), le(localExtraLength, 2), inside, data);
    const place = join(le(central.length, 2), le(extra.length, 2), le(0, 8), le(0, 2), le(offset, 4));
    directory.push(join(le(0x02014b50, 4), le(20, 2), common, place, central, extra));
    body.push(local);
    position += local.length;
  }
  const central = join(...directory);
  const { count = records.length, directoryOffset = position, directorySize = central.length } = options;
  const { beforeEnd = Buffer.alloc(0), comment = Buffer.alloc(0) } = options;
  const counts = join(le(count, 2), le(count, 2), le(directorySize, 4), le(directoryOffset, 4));
  return join(...body, central, beforeEnd, le(0x06054b50, 4), le(0, 4), counts, le(comment.length, 2), comment);
}

/** What torch.save writes for `{"w": tensor}`. */
export function torchRecords(object: Buffer = pickle('}', text('w'), tensorOps(), 's')): ZipRecord[] {
  return [
    { name: 'archive/data.pkl', data: object },
    { name: 'archive/data/0', data: floats(1, 2, 3, 4) },
  ];
}

// ---- protobuf (SentencePiece) ----

export function varint(value: number | bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

export function bytesField(field: number, ...content: readonly Bytes[]): Buffer {
  const bytes = join(...content);
  return join(varint(field * 8 + 2), varint(bytes.length), bytes);
}

export function intField(field: number, value: number | bigint): Buffer {
  return join(varint(field * 8), varint(value));
}

export function floatField(field: number, value: number): Buffer {
  return join(varint(field * 8 + 5), floats(value));
}

/** A piece of a SentencePiece model; type 1 is normal, 2 unknown, 3 control, 4 user-defined, 6 a byte. */
export function piece(content: string | Buffer, type = 1, score = -1): Buffer {
  return bytesField(1, bytesField(1, Buffer.from(content)), floatField(2, score), intField(3, type));
}

export const UNKNOWN_PIECE = piece('<unk>', 2, 0);

/** A charsmap with the rule 'a' -> `texts`; its units can be tampered with. */
export function charsmap(
  change: (units: Uint32Array) => void = () => undefined,
  texts: Bytes = 'b\0',
  size = 512,
): Buffer {
  const units = new Uint32Array(size);
  if (size > 256) {
    units[0] = 256 << 10;
    // The root's children lie at 256 ^ label; the leaf of 'a' at its own index ^ 1.
    units[256 ^ 0x61] = 0x61 | 0x100 | (1 << 10);
    units[256 ^ 0x61 ^ 1] = 0x80000000;
  }
  change(units);
  return join(le(size * 4, 4), Buffer.from(units.buffer), texts);
}

export function rules(map: Buffer): Buffer {
  return bytesField(3, bytesField(2, map));
}
