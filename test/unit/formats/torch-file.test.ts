import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type PickleDict, type PickleList, type PickleTuple } from '../../../lib/formats/pickle';
import type { TensorEntry } from '../../../lib/formats/tensor';
import { readStateDict, readTorchFile } from '../../../lib/formats/torch-file';
import { type TorchTensor } from '../../../lib/formats/torch-objects';
import { writeTorchTensor } from '../../../lib/formats/torch-writer';
import { readTensor } from '../../../lib/formats/values';
import { expectedValues, failure, fixture, mutate, ours } from '../base/files-helpers';

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'neox-torch-'))));
afterAll(() => rmSync(folder, { recursive: true }));

const le = (value: number | bigint, bytes: 2 | 4 | 8): Buffer => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer.subarray(0, bytes);
};
const text = (value: string): Buffer => Buffer.concat([Buffer.from('X'), le(value.length, 4), Buffer.from(value)]);
const pickle = (...parts: (string | Buffer)[]): Buffer =>
  Buffer.concat([
    Buffer.from([0x80, 2]),
    ...parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)),
    Buffer.from('.'),
  ]);

/** The bytes that push a tensor over storage '0' of `count` float32 elements. */
function tensorOps(
  options: { count?: number; offset?: string; size?: string; stride?: string; type?: string; key?: string } = {},
): Buffer {
  const {
    count = 4,
    offset = 'K\x00',
    size = 'K\x04\x85',
    stride = 'K\x01\x85',
    type = 'FloatStorage',
    key = '0',
  } = options;
  const id = Buffer.concat([
    text('storage'),
    Buffer.from(`ctorch\n${type}\n`),
    text(key),
    text('cpu'),
    Buffer.from('M'),
    le(count, 2),
  ]);
  const head = Buffer.from('ctorch._utils\n_rebuild_tensor_v2\n((', 'latin1');
  return Buffer.concat([
    head,
    id,
    Buffer.from(`tQ${offset}${size}${stride}\x89ccollections\nOrderedDict\n)RtR`, 'latin1'),
  ]);
}

/** A file of torch before 1.6 around one pickle; storage '0' holds 1, 2, 3, 4. */
function legacy(object: Buffer, tail: Buffer = storages()): string {
  const path = join(folder, 'built.bin');
  const magic = pickle('\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19');
  writeFileSync(path, Buffer.concat([magic, pickle('M\xe9\x03'), pickle('}'), object, tail]));
  return path;
}

const storages = (key = '0', count = 4): Buffer =>
  Buffer.concat([pickle(']', text(key), 'a'), le(count, 8), Buffer.from(Float32Array.of(1, 2, 3, 4).buffer)]);

interface Record {
  name: string;
  data: Buffer;
  method?: number;
  flags?: number;
  localName?: string;
}

/** A zip archive of stored records; `damage` may change the bytes of its directory. */
function zip(records: Record[], damage: (directory: Buffer, all: Buffer) => void = () => undefined): string {
  const body: Buffer[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  for (const { name, data, method = 0, flags = 0, localName = name } of records) {
    const common = (): Buffer =>
      Buffer.concat([le(20, 2), le(flags, 2), le(method, 2), le(0, 8), le(data.length, 4), le(data.length, 4)]);
    const local = Buffer.concat([
      le(0x04034b50, 4),
      common(),
      le(localName.length, 2),
      le(0, 2),
      Buffer.from(localName),
      data,
    ]);
    directory.push(
      Buffer.concat([
        le(0x02014b50, 4),
        le(20, 2),
        common(),
        le(name.length, 2),
        le(0, 8),
        le(0, 4),
        le(position, 4),
        Buffer.from(name),
      ]),
    );
    body.push(local);
    position += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.concat([
    le(0x06054b50, 4),
    le(0, 4),
    le(records.length, 2),
    le(records.length, 2),
    le(central.length, 4),
    le(position, 4),
    le(0, 2),
  ]);
  damage(central, end);
  const path = join(folder, 'built.zip.bin');
  writeFileSync(path, Buffer.concat([...body, central, end]));
  return path;
}

const goodRecords = (): Record[] => [
  { name: 'archive/data.pkl', data: pickle('}', text('w'), tensorOps(), 's') },
  { name: 'archive/data/0', data: Buffer.from(Float32Array.of(1, 2, 3, 4).buffer) },
];

async function readAll(path: string): Promise<Map<string, { shape: readonly number[]; values: number[] }>> {
  const result = new Map<string, { shape: readonly number[]; values: number[] }>();
  for (const [name, entry] of await readStateDict(path))
    result.set(name, { shape: entry.shape, values: [...(await readTensor(entry))] });
  return result;
}

describe('files that Python wrote', () => {
  const names = ['dtypes', 'views', 'wrapped', 'state_dict', 'parameter'];
  test.each(names.flatMap((name) => [`${name}.bin`, `${name}.legacy.bin`]))('%s', async (name) => {
    const read = await readAll(fixture(name));
    const expected = expectedValues(name);
    expect([...read.keys()]).toEqual(expected.map(([key]) => key));
    for (const [key, tensor] of expected) expect([key, read.get(key)]).toEqual([key, tensor]);
  });

  test.each(['views.bin', 'views.legacy.bin'])('%s: views share the bytes of their storage', async (name) => {
    const entries = await readStateDict(fixture(name));
    const [whole, rows, transposed] = ['whole', 'rows', 'transposed'].map((key) => entries.get(key) as TensorEntry) as [
      TensorEntry,
      TensorEntry,
      TensorEntry,
    ];
    expect(rows.offset - whole.offset).toBe(6 * 4);
    expect(rows.stride).toBeUndefined();
    expect(transposed).toMatchObject({ offset: whole.offset, shape: [6, 4], stride: [1, 6], byteLength: 96 });
  });

  test('integers keep their types, and cannot be read as numbers with a point', async () => {
    const entries = await readStateDict(fixture('integers.bin'));
    expect([...entries.values()].map(({ dtype }) => dtype)).toEqual(['I64', 'U8', 'BOOL', 'F32']);
    expect((await failure(readTensor(entries.get('long') as TensorEntry))).message).toContain(
      'holds I64; expected F32, F16, BF16, F64',
    );
  });

  test('everything around the tensors is there', async () => {
    const { root, format } = await readTorchFile(fixture('wrapped.legacy.bin'));
    expect(format).toBe('legacy');
    const items = (root as PickleDict).items;
    expect([...items.keys()]).toEqual(['epoch', 'big', 'rate', 'done', 'model']);
    expect([items.get('epoch'), items.get('big'), items.get('rate'), items.get('done')]).toEqual([
      3,
      2 ** 40,
      1e-4,
      true,
    ]);
    const names = ((await readTorchFile(fixture('state_dict.bin'))).root as PickleDict).items.get(
      'names',
    ) as PickleList;
    expect(names.items[0]).toBe('weight');
    expect((names.items[1] as PickleTuple).items).toEqual(['bias', null]);
  });

  test.each([
    ['namespace.bin', 'NEOX_UNSUPPORTED', 'the global argparse.Namespace'],
    ['float8.bin', 'NEOX_UNSUPPORTED', 'the global torch._utils._rebuild_tensor_v3'],
    ['expanded.bin', 'NEOX_UNSUPPORTED', 'an expanded tensor of shape [4, 6] and stride [0, 1]'],
    ['protocol4.bin', 'NEOX_UNSUPPORTED', 'pickle protocol 4'],
    ['torchscript.bin', 'NEOX_UNSUPPORTED', 'a TorchScript program'],
    ['prefix.checkpoint', 'NEOX_BAD_CHECKPOINT', 'expected a dictionary of tensors, found a single tensor'],
    ['mixed.safetensors', 'NEOX_BAD_CHECKPOINT', 'expected a zip archive or a pickle'],
  ])('%s is refused: %s, %s', async (name, code, message) => {
    const error = await failure(readStateDict(fixture(name)));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
    expect(error.message).toContain(fixture(name));
  });
});

describe('pickles made by hand', () => {
  test('a good one is read, so that the bad ones below are bad for their own reason', async () => {
    expect(await readAll(legacy(pickle('}', text('w'), tensorOps(), 's')))).toEqual(
      new Map([['w', { shape: [4], values: [1, 2, 3, 4] }]]),
    );
  });

  test('text and dictionaries of Python 2', async () => {
    const pairs = pickle('ccollections\nOrderedDict\n]](U\x01w', tensorOps(), 'ea\x85R');
    expect([...(await readAll(legacy(pairs))).keys()]).toEqual(['w']);
  });

  const call = (global: string, ...args: (string | Buffer)[]): Buffer => pickle(`c${global}\n(`, ...args, 'tR');
  test.each<[string, Buffer, string, string]>([
    ['os.system', call('posix\nsystem', text('true')), 'NEOX_UNSUPPORTED', 'the global posix.system'],
    ['eval', call('builtins\neval', text('1')), 'NEOX_UNSUPPORTED', 'the global builtins.eval'],
    [
      'a global by attribute path',
      call('torch\nFloatStorage.__init__'),
      'NEOX_UNSUPPORTED',
      'the global torch.FloatStorage.__init__',
    ],
    ['a global named like a method', call('torch\ntoString'), 'NEOX_UNSUPPORTED', 'the global torch.toString'],
    ['INST', pickle('(ios\nsystem\n'), 'NEOX_UNSUPPORTED', 'the opcode INST'],
    ['OBJ', pickle('(o'), 'NEOX_UNSUPPORTED', 'the opcode OBJ'],
    ['STACK_GLOBAL', pickle(text('os'), text('system'), '\x93'), 'NEOX_UNSUPPORTED', 'the opcode STACK_GLOBAL'],
    ['EXT1', pickle('\x82\x01'), 'NEOX_UNSUPPORTED', 'the opcode EXT1'],
    ['PERSID', pickle('Px\n'), 'NEOX_UNSUPPORTED', 'the opcode PERSID'],
    ['an opcode that does not exist', pickle('\xff'), 'NEOX_UNSUPPORTED', 'the opcode 0xff'],
    [
      'a call of a storage type',
      call('torch\nFloatStorage', 'K\x04'),
      'NEOX_UNSUPPORTED',
      'a call of torch.FloatStorage',
    ],
    ['a call of a number', pickle('K\x01)R'), 'NEOX_BAD_CHECKPOINT', 'calls something that is no function'],
    ['state of a list', pickle(']}b'), 'NEOX_UNSUPPORTED', 'state set on something else'],
    [
      'items set on a tensor',
      pickle(tensorOps(), 'K\x01K\x02s'),
      'NEOX_BAD_CHECKPOINT',
      'sets items of something that is no dictionary',
    ],
    ['an item appended to a tuple', pickle(')K\x01a'), 'NEOX_BAD_CHECKPOINT', 'appends to something that is no list'],
    ['a key that is a list', pickle('}]K\x01s'), 'NEOX_UNSUPPORTED', 'a dictionary key that is no text or number'],
    ['a key without a value', pickle('}(K\x01u'), 'NEOX_BAD_CHECKPOINT', 'a key without a value'],
    ['a memo that is not set', pickle('h\x05'), 'NEOX_BAD_CHECKPOINT', 'uses memo 5, which is not set'],
    ['a mark that is not set', pickle('t'), 'NEOX_BAD_CHECKPOINT', 'a mark that is not set'],
    ['a mark taken as a value', pickle('(\x85'), 'NEOX_BAD_CHECKPOINT', 'a value from an empty stack'],
    ['an empty stack', pickle(''), 'NEOX_BAD_CHECKPOINT', 'a value from an empty stack'],
    ['values left over', pickle('NN'), 'NEOX_BAD_CHECKPOINT', 'values are left on its stack'],
    ['text that is not UTF-8', pickle('U\x01\xff'), 'NEOX_BAD_CHECKPOINT', 'a text in it is not UTF-8'],
    ['text longer than the file', pickle('X\xff\xff\xff\xff'), 'NEOX_BAD_CHECKPOINT', 'it ends in the middle'],
    ['a global with an endless name', pickle(`c${'x'.repeat(300)}`), 'NEOX_BAD_CHECKPOINT', 'longer than 256 bytes'],
    ['a stack that grows without end', pickle('N'.repeat(100_002)), 'NEOX_BAD_CHECKPOINT', 'its stack grows beyond'],
    [
      'more operations than any file has',
      pickle(']', 'Na'.repeat(500_001)),
      'NEOX_BAD_CHECKPOINT',
      'more than 1000000 operations',
    ],
    ['a list multiplied by calls', multiplied(), 'NEOX_BAD_CHECKPOINT', 'more than 1000000 operations'],
    [
      'a persistent id that is a text',
      pickle(text('x'), 'Q'),
      'NEOX_UNSUPPORTED',
      'a persistent id that is no storage',
    ],
    [
      'an unknown storage type',
      pickle(tensorOps({ type: 'QInt8Storage' })),
      'NEOX_UNSUPPORTED',
      'the global torch.QInt8Storage',
    ],
    [
      'a storage that is described twice',
      pickle(tensorOps(), tensorOps({ count: 5 }), '\x86'),
      'NEOX_BAD_CHECKPOINT',
      'described in two ways',
    ],
    [
      'a tensor beyond its storage',
      pickle(tensorOps({ offset: 'K\x01' })),
      'NEOX_BAD_CHECKPOINT',
      'shape [4] and stride [1] at 1 reaches beyond storage 0 of 4',
    ],
    [
      'a stride beyond its storage',
      pickle(tensorOps({ stride: 'K\x02\x85' })),
      'NEOX_BAD_CHECKPOINT',
      'reaches beyond storage 0',
    ],
    [
      'a negative offset',
      pickle(tensorOps({ offset: 'J\xff\xff\xff\xff' })),
      'NEOX_BAD_CHECKPOINT',
      'a bad offset, size or stride',
    ],
    [
      'a negative stride',
      pickle(tensorOps({ stride: 'J\xff\xff\xff\xff\x85' })),
      'NEOX_BAD_CHECKPOINT',
      'a bad offset, size or stride',
    ],
    [
      'sizes and strides of two ranks',
      pickle(tensorOps({ stride: ')' })),
      'NEOX_BAD_CHECKPOINT',
      'a bad offset, size or stride',
    ],
    [
      'sizes that overflow',
      pickle(tensorOps({ size: bigSizes(), stride: 'K\x00K\x00\x86' })),
      'NEOX_BAD_CHECKPOINT',
      'too many elements',
    ],
    [
      'an expanded tensor',
      pickle(tensorOps({ size: 'M\xff\xff\x85', stride: 'K\x00\x85' })),
      'NEOX_UNSUPPORTED',
      'an expanded tensor of shape [65535]',
    ],
  ])('%s', async (_, object, code, message) => {
    const error = await failure(readTorchFile(legacy(object)));
    expect(error.message).toContain(message);
    expect(error.code).toBe(code);
  });

  /** 30,000 pairs, memoised, then made into an OrderedDict again and again. */
  function multiplied(): Buffer {
    return pickle(
      ']q\x00(',
      'K\x01K\x01\x86'.repeat(30_000),
      'e',
      'ccollections\nOrderedDict\nq\x01',
      ...Array<string>(40).fill('h\x01h\x00\x85R'),
    );
  }

  function bigSizes(): string {
    const size = '\x8a\x07\x00\x00\x00\x00\x00\x00\x01';
    return `${size}${size}\x86`;
  }

  test('a list that contains itself does no harm', async () => {
    const { root } = await readTorchFile(legacy(pickle(']q\x00h\x00a', tensorOps(), 'a')));
    expect((root as PickleList).items[0]).toBe(root);
    expect((await failure(readStateDict(legacy(pickle(']q\x00h\x00a', tensorOps(), 'a'))))).message).toContain(
      'expected a dictionary of tensors',
    );
  });

  test.each<[string, Buffer, string]>([
    ['a storage of another length', storages('0', 5), 'the storage 0 has 5 elements, expected 4'],
    [
      'a storage of a negative length',
      Buffer.concat([pickle(']', text('0'), 'a'), le(2n ** 64n - 1n, 8)]),
      'has -1 elements',
    ],
    ['a storage that no tensor uses', storages('1'), 'the storage 1 belongs to no tensor'],
    ['no storages', pickle(']'), 'the storage 0 is not in the file'],
    ['a key given twice', pickle(']', text('0'), 'a', text('0'), 'a'), 'a storage key is given twice'],
    ['keys that are no list', pickle('}'), 'expected a list of storage keys'],
    ['keys that are no text', pickle(']K\x00a'), 'expected a list of storage keys'],
    ['data that end early', storages().subarray(0, -1), 'reaches beyond the end of the file'],
  ])('after the pickles: %s', async (_, tail, message) => {
    expect((await failure(readTorchFile(legacy(pickle(tensorOps()), tail)))).message).toContain(message);
  });

  test('another pickle than one of torch.save', async () => {
    const path = join(folder, 'other.pkl');
    writeFileSync(path, pickle('K\x01'));
    expect((await failure(readTorchFile(path))).message).toContain('a Python pickle that torch.save did not write');
  });
});

describe('archives made by hand', () => {
  test('a good one is read', async () => {
    expect((await readAll(zip(goodRecords()))).get('w')?.values).toEqual([1, 2, 3, 4]);
  });

  const changed = (index: number, change: Partial<Record>): Record[] =>
    goodRecords().map((record, i) => (i === index ? { ...record, ...change } : record));
  const extra = (record: Record): Record[] => [...goodRecords(), record];
  test.each<[string, Record[], string]>([
    ['a compressed entry', changed(1, { method: 8 }), 'the entry "archive/data/0" is compressed (method 8)'],
    ['an encrypted entry', changed(1, { flags: 1 }), 'is encrypted'],
    ['a name given twice', extra(goodRecords()[1] as Record), 'the entry "archive/data/0" is given twice'],
    [
      'a name that climbs out',
      extra({ name: 'archive/../../x', data: Buffer.alloc(0) }),
      'leads outside of the archive',
    ],
    ['an absolute name', extra({ name: '/etc/passwd', data: Buffer.alloc(0) }), 'leads outside of the archive'],
    ['a name with a backslash', extra({ name: 'a\\..\\b', data: Buffer.alloc(0) }), 'leads outside of the archive'],
    ['two names for one entry', changed(1, { localName: 'archive/data/1' }), 'has another name in its local header'],
    ['no pickle', goodRecords().slice(1), 'expected one entry */data.pkl in the archive, found 0'],
    ['two pickles', extra({ name: 'b/data.pkl', data: Buffer.alloc(0) }), 'found 2'],
    ['no storage', goodRecords().slice(0, 1), 'the storage 0 is not in the archive'],
    [
      'a storage of another size',
      changed(1, { data: Buffer.alloc(12) }),
      'has 12 bytes; its 4 elements of F32 take 16',
    ],
    ['a pickle that ends early', changed(0, { data: pickle('}').subarray(0, 3) }), 'it ends in the middle'],
    [
      'big-endian data',
      extra({ name: 'archive/byteorder', data: Buffer.from('big') }),
      'was saved on a big-endian machine',
    ],
  ])('%s', async (_, records, message) => {
    expect((await failure(readTorchFile(zip(records)))).message).toContain(message);
  });

  test.each<[string, (directory: Buffer, end: Buffer) => void, string]>([
    ['a count that is wrong', (_, end) => end.writeUInt16LE(7, 10), 'states 7 entries and has 2'],
    [
      'a directory beyond the file',
      (_, end) => end.writeUInt32LE(0x7fffffff, 16),
      'reaches beyond the end of the file',
    ],
    ['a directory larger than the limit', (_, end) => end.writeUInt32LE(0x7fffffff, 12), 'expected at most 67108864'],
    ['a damaged directory', (directory) => directory.writeUInt8(0, 0), 'its directory is damaged'],
    [
      'a name longer than the directory',
      (directory) => directory.writeUInt16LE(0xffff, 28),
      'its directory is damaged',
    ],
    [
      'a 64-bit size that is not there',
      (directory) => directory.writeUInt32LE(0xffffffff, 24),
      'its directory is damaged',
    ],
    [
      'entries over one another',
      (directory) => directory.writeUInt32LE(1, directory.length - 14 - 4),
      'overlaps another one',
    ],
  ])('%s', async (_, damage, message) => {
    expect((await failure(readTorchFile(zip(goodRecords(), damage)))).message).toContain(message);
  });

  test('a file that was cut off', async () => {
    const path = join(folder, 'cut.bin');
    writeFileSync(path, readFileSync(fixture('dtypes.bin')).subarray(0, -30));
    expect((await failure(readTorchFile(path))).message).toMatch(
      /no directory at its end\nHint: the file is incomplete/,
    );
  });
});

test.each(['views.bin', 'wrapped.legacy.bin', 'dtypes.bin', 'integers.legacy.bin'])(
  'mutations of %s give an error of ours or tensors inside the file',
  async (name) => {
    const original = readFileSync(fixture(name));
    const path = join(folder, 'mutated.bin');
    let refused = 0;
    for (const bytes of mutate(original, 300, 2)) {
      writeFileSync(path, bytes);
      try {
        for (const entry of (await readStateDict(path)).values()) {
          expect(entry.offset + entry.byteLength).toBeLessThanOrEqual(bytes.length);
          if (entry.dtype === 'F32')
            expect(await readTensor(entry)).toHaveLength(entry.shape.reduce((count, size) => count * size, 1));
        }
      } catch (error) {
        ours(error);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(50);
  },
);

describe('writeTorchTensor', () => {
  test.each([[[2, 3]], [[300, 300]], [[]], [[0, 4]]])('shape %j comes back, at an aligned place', async (shape) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const data = Float32Array.from({ length: count }, (_, i) => i / 3);
    const path = join(folder, 'written.checkpoint');
    await writeTorchTensor(path, { shape, data });
    const { root, format } = await readTorchFile(path);
    const entry = (root as TorchTensor).entry('t');
    expect([format, entry.shape, entry.offset % 64]).toEqual(['zip', shape, 0]);
    expect(Buffer.from((await readTensor(entry)).buffer)).toEqual(Buffer.from(data.buffer));
  });

  test('equal content gives equal bytes', async () => {
    const [a, b] = [join(folder, 'a'), join(folder, 'b')];
    for (const path of [a, b]) await writeTorchTensor(path, { shape: [2], data: Float32Array.of(1, 2) });
    expect(readFileSync(a)).toEqual(readFileSync(b));
  });

  test('a shape that does not fit the values', async () => {
    const error = await failure(writeTorchTensor(join(folder, 'never'), { shape: [3], data: new Float32Array(2) }));
    expect(error.message).toContain('shape [3] cannot have 2 elements');
  });
});
