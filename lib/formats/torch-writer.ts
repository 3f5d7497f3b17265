import { crc32 } from 'node:zlib';

import { NeoXPrefixError } from '../base/errors';
import { writeFileAtomic } from '../base/files';
import { elementCount } from './tensor';
import { contiguousStride } from './values';

/** Where torch's own writer aligns every record, so that they can be mapped. */
const ALIGNMENT = 64;
/** Archives from 4 GiB on need records of another form. */
const MAX_ARCHIVE = 0xffff_ffff;
/** Every record lies in a folder of this name, as torch.save names it for a file that it is given as a stream. */
const FOLDER = 'archive';

/** A float32 tensor in row-major order. */
export interface TorchTensorToWrite {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/**
 * Writes one plain tensor so that `torch.load(path)` returns it, also with weights_only=True, in every torch from 1.6
 * on. The file is written atomically.
 */
export async function writeTorchTensor(path: string, { shape, data }: TorchTensorToWrite): Promise<void> {
  if (elementCount('to write', shape, path) !== data.length) {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `A tensor of shape [${shape.join(', ')}] cannot have ${data.length} elements`,
      { path },
    );
  }
  if (data.byteLength > MAX_ARCHIVE - 4096) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `Cannot write ${data.byteLength} bytes to ${path}: expected less than 4 GiB`,
      {
        path,
        hint: 'write a .safetensors file instead',
      },
    );
  }
  await writeFileAtomic(
    path,
    storedZip([
      { name: 'data.pkl', data: tensorPickle(shape, data.length) },
      { name: 'byteorder', data: Buffer.from('little') },
      { name: 'data/0', data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) },
      { name: 'version', data: Buffer.from('3\n') },
    ]),
  );
}

/** The pickle of `torch._utils._rebuild_tensor_v2(storage 0, 0, shape, stride, False, OrderedDict())`, protocol 2. */
function tensorPickle(shape: readonly number[], count: number): Buffer {
  const global = (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`);
  return Buffer.concat([
    Buffer.from([0x80, 2]),
    global('torch._utils', '_rebuild_tensor_v2'),
    Buffer.from('(('),
    pickleText('storage'),
    global('torch', 'FloatStorage'),
    pickleText('0'),
    pickleText('cpu'),
    pickleInteger(count),
    Buffer.from('tQ'),
    pickleInteger(0),
    pickleTuple(shape),
    pickleTuple(contiguousStride(shape)),
    Buffer.from([0x89]),
    global('collections', 'OrderedDict'),
    Buffer.from(')RtR.'),
  ]);
}

function pickleTuple(values: readonly number[]): Buffer {
  return Buffer.concat([Buffer.from('('), ...values.map(pickleInteger), Buffer.from('t')]);
}

function pickleText(text: string): Buffer {
  const bytes = Buffer.from(text);
  const head = Buffer.from([0x58, 0, 0, 0, 0]);
  head.writeUInt32LE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

/** BININT, or LONG1 of eight bytes for what it cannot hold. */
function pickleInteger(value: number): Buffer {
  if (value <= 0x7fffffff) {
    const bytes = Buffer.from([0x4a, 0, 0, 0, 0]);
    bytes.writeInt32LE(value, 1);
    return bytes;
  }
  const bytes = Buffer.from([0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
  bytes.writeBigInt64LE(BigInt(value), 2);
  return bytes;
}

interface ZipRecord {
  readonly name: string;
  readonly data: Uint8Array;
}

/**
 * A zip archive of stored, aligned records (APPNOTE.TXT 4.3), dated 1 January 1980 so that equal content gives equal
 * files.
 */
function storedZip(records: readonly ZipRecord[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  const push = (bytes: Uint8Array): void => {
    chunks.push(bytes);
    position += bytes.byteLength;
  };
  for (const { name, data } of records) {
    const path = Buffer.from(`${FOLDER}/${name}`);
    const common = commonFields(path, data);
    const padding = paddingFor(position + 30 + path.length);
    const head = Buffer.alloc(4);
    head.writeUInt32LE(0x04034b50);
    const lengths = Buffer.alloc(2);
    lengths.writeUInt16LE(padding.length);
    directory.push(directoryEntry(path, common, position));
    for (const bytes of [head, common, lengths, path, padding, data]) push(bytes);
  }
  const start = position;
  for (const entry of directory) push(entry);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(records.length, 8);
  end.writeUInt16LE(records.length, 10);
  end.writeUInt32LE(position - start, 12);
  end.writeUInt32LE(start, 16);
  push(end);
  return chunks;
}

/** The fields that a local header and a directory entry share, from the version needed to the length of the name. */
function commonFields(path: Buffer, data: Uint8Array): Buffer {
  const fields = Buffer.alloc(24);
  fields.writeUInt16LE(20, 0); // version needed to extract
  fields.writeUInt16LE(0x21, 8); // date; the time before it is 0
  fields.writeUInt32LE(crc32(data), 10);
  fields.writeUInt32LE(data.byteLength, 14);
  fields.writeUInt32LE(data.byteLength, 18);
  fields.writeUInt16LE(path.length, 22);
  return fields;
}

function directoryEntry(path: Buffer, common: Buffer, headerOffset: number): Buffer {
  const head = Buffer.alloc(6);
  head.writeUInt32LE(0x02014b50);
  head.writeUInt16LE(20, 4);
  const tail = Buffer.alloc(16);
  tail.writeUInt32LE(headerOffset, 12);
  return Buffer.concat([head, common, tail, path]);
}

/** An extra field, named as torch's writer names it, that moves what follows to a multiple of the alignment. */
function paddingFor(position: number): Buffer {
  const length = 4 + ((ALIGNMENT - ((position + 4) % ALIGNMENT)) % ALIGNMENT);
  const field = Buffer.alloc(length, 0x5a);
  field.write('FB', 0, 'latin1');
  field.writeUInt16LE(length - 4, 2);
  return field;
}
