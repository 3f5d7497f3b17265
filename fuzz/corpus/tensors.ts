import { deflateRawSync } from 'node:zlib';

import {
  floats,
  join,
  le,
  legacyStorages,
  legacyTorch,
  long,
  pickle,
  safetensors,
  tensor,
  tensorOps,
  text,
  torchRecords,
  zip,
} from '../bytes';
import type { ZipOptions, ZipRecord } from '../bytes';
import { replaced, type AbuseCase } from './case';

type Row = readonly [name: string, bytes: () => Buffer, message: string, code?: AbuseCase['code']];

function rows(format: 'safetensors' | 'torch', path: string, list: readonly Row[]): AbuseCase[] {
  return list.map(([name, bytes, message, code = 'NEOX_BAD_CHECKPOINT']) => {
    return { format, name, files: () => replaced(format, path, bytes()), code, message, path };
  });
}

const four = tensor('F32', [4], 0, 16);
const manyTensors = (count: number): string =>
  `{${Array.from({ length: count }, (_, i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`).join(',')}}`;

/** What readers of safetensors in other languages fell for; each is a known defect of one of them. */
const SAFETENSORS = rows('safetensors', 'model.safetensors', [
  [
    'a length of 2^64 - 1, which wraps when 8 is added',
    () => safetensors('{}', 0, 2n ** 64n - 1n),
    'it declares 18446744073709551615',
  ],
  [
    'a length of 2^63, negative as a signed number',
    () => safetensors('{}', 0, 2n ** 63n),
    'it declares 9223372036854775808',
  ],
  [
    'a header of the largest size in a file of ten bytes',
    () => safetensors('{}', 0, 100_000_000n),
    'declares 100000000 bytes, the file has 2',
  ],
  ['no header', () => safetensors('', 16), "expected the header to start with '{'"],
  [
    'a zip archive behind the header (two formats in one file)',
    () => join(safetensors('{}'), zip(torchRecords())),
    'need 0 bytes of data',
  ],
  [
    'a shape whose product wraps to 0',
    () => safetensors({ w: tensor('F32', [2 ** 32, 2 ** 32], 0, 0) }),
    'too many elements',
  ],
  [
    'a shape whose product wraps to 4',
    () => safetensors({ w: tensor('F32', [4, 2 ** 31, 2 ** 31, 4], 0, 16) }, 16),
    'too many elements',
  ],
  [
    'a shape beyond exact numbers',
    () => safetensors('{"w":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,0]}}'),
    'shape of non-negative',
  ],
  [
    'a size of 1e308',
    () => safetensors('{"w":{"dtype":"U8","shape":[1e308],"data_offsets":[0,0]}}'),
    'shape of non-negative',
  ],
  [
    'a size that is infinite once read',
    () => safetensors('{"w":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}}'),
    'shape of non-negative',
  ],
  ['NaN as a size', () => safetensors('{"w":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'), 'expected JSON'],
  ['sizes as text', () => safetensors({ w: tensor('F32', ['4'], 0, 16) }, 16), 'shape of non-negative'],
  [
    'a shape of 65 dimensions',
    () => safetensors({ w: tensor('F32', new Array(65).fill(1), 0, 4) }, 4),
    'shape of non-negative',
  ],
  [
    'offsets whose difference is right and whose place is outside',
    () => safetensors({ w: tensor('F32', [4], 2 ** 52, 2 ** 52 + 16) }, 16),
    'belong to no tensor',
  ],
  [
    'an unknown type, where other readers skip all checks',
    () => safetensors({ w: tensor('Q4_K', [4], 0, 1e9) }, 16),
    "unknown dtype 'Q4_K'",
  ],
  ['a type that is an object', () => safetensors({ w: tensor({ F32: 1 }, [4], 0, 16) }, 16), 'expected a dtype'],
  ['the same range for two tensors', () => safetensors({ v: four, w: four }, 16), 'overlaps another one'],
  [
    'a tensor inside another one',
    () => safetensors({ v: four, w: tensor('F32', [1], 4, 8) }, 16),
    'overlaps another one',
  ],
  [
    'a hole between two tensors',
    () => safetensors({ v: four, w: tensor('F32', [1], 20, 24) }, 24),
    'belong to no tensor',
  ],
  ['bytes behind the last tensor', () => safetensors({ w: four }, 17), 'need 16 bytes of data, the file has 17'],
  [
    'a tensor given twice',
    () => safetensors(`{"w":${JSON.stringify(four)},"w":${JSON.stringify(four)}}`, 16),
    "the key 'w' is given twice",
  ],
  [
    'a tensor given twice, once by escapes',
    () => safetensors(`{"w":${JSON.stringify(four)},"\\u0077":${JSON.stringify(four)}}`, 16),
    'is given twice',
  ],
  [
    'the offsets of a tensor given twice',
    () => safetensors('{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"data_offsets":[0,1]}}', 16),
    'is given twice',
  ],
  [
    'two lots of metadata',
    () => safetensors('{"__metadata__":{},"__metadata__":{"a":"b"}}'),
    "'__metadata__' is given twice",
  ],
  [
    'metadata with a list in it',
    () => safetensors({ __metadata__: { a: ['b'] } }),
    'expected text for a in __metadata__',
  ],
  [
    'nesting that would overflow a recursive parser',
    () => safetensors(`{"w":${'['.repeat(100_000)}`),
    'levels of nesting',
  ],
  ['a million and one values', () => safetensors(`{"w":[${'0,'.repeat(1_000_001)}0]}`), 'keys and values'],
  [
    'a key of four million characters',
    () => safetensors({ ['k'.repeat(4e6)]: tensor('F33', [1], 0, 4) }, 4),
    "unknown dtype 'F33'",
  ],
  ['100,000 empty tensors', () => safetensors(manyTensors(100_000)), 'at most 1000000 keys and values'],
  [
    'names that steer a terminal',
    () => safetensors({ '\u001b[2Jw\u202e': tensor('F33', [1], 0, 4) }, 4),
    'tensor \\u001b[2Jw\\u202e: unknown',
  ],
  ['an unfinished text', () => safetensors('{"w'), 'expected JSON'],
  ['a NUL in the header', () => safetensors('{"w":\0}'), 'expected JSON'],
  ['bytes that are not UTF-8', () => safetensors(Buffer.from('{"\xff":1}', 'latin1')), 'expected UTF-8 text'],
]);

const index =
  (value: unknown): AbuseCase['files'] =>
  () => {
    return replaced(
      'safetensors',
      'model.safetensors.index.json',
      typeof value === 'string' ? value : JSON.stringify(value),
      3,
    );
  };
const INDEXES = (
  [
    ['a shard outside of the folder', { weight_map: { w: '../model.safetensors' } }, 'plain name'],
    ['a shard by its absolute path', { weight_map: { w: '/etc/passwd' } }, 'plain name'],
    ['a shard whose name has a NUL', { weight_map: { w: 'a\0.safetensors' } }, 'plain name'],
    ['a shard that is the index', { weight_map: { w: 'model.safetensors.index.json' } }, 'plain name'],
    ['a shard that is a number', { weight_map: { w: 7 } }, 'plain name'],
    ['a map that is a list', { weight_map: ['a.safetensors'] }, 'expected an object weight_map'],
    ['a tensor in two shards', '{"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}', "'w' is given twice"],
    ['nesting', `{"weight_map":${'{"a":'.repeat(5000)}`, 'levels of nesting'],
  ] as const
).map(([name, value, message]): AbuseCase => {
  const path = 'model.safetensors.index.json';
  return {
    format: 'safetensors',
    name: `an index with ${name}`,
    files: index(value),
    code: 'NEOX_BAD_CHECKPOINT',
    message,
    path,
  };
});

/** LONG1 and APPEND */
const longNumber = join('\x8a\xff', Buffer.alloc(255, 0x7f), 'a');
const call = (global: string, ...args: (string | Buffer)[]): Buffer =>
  legacyTorch(pickle(`c${global}\n(`, ...args, 'tR'));
const zipped = (object: Buffer): Buffer => zip(torchRecords(object));
const withRecord = (...extra: ZipRecord[]): Buffer => zip([...torchRecords(), ...extra]);
const changed = (at: number, change: Partial<ZipRecord>, options: ZipOptions = {}): Buffer =>
  zip(
    torchRecords().map((record, i) => (i === at ? { ...record, ...change } : record)),
    options,
  );
const bomb = deflateRawSync(Buffer.alloc(50_000_000));
/** A zip64 field: unpacked size, size and offset of the local header. */
const wide = (unpacked: bigint, packed: bigint, offset: bigint): Partial<ZipRecord> => {
  const extra = join(le(1, 2), le(24, 2), le(unpacked, 8), le(packed, 8), le(offset, 8));
  return { size: 0xffffffff, unpackedSize: 0xffffffff, offset: 0xffffffff, extra };
};
/** The 64-bit end record and its locator; `at` is where the locator says that the record is. */
const end64 = (at: number | bigint, size: bigint, offset: bigint): Buffer =>
  join(
    le(0x06064b50, 4),
    le(44, 8),
    le(0, 4),
    le(0, 8),
    le(2, 8),
    le(2, 8),
    le(size, 8),
    le(offset, 8),
    le(0x07064b50, 4),
    le(0, 4),
    le(at, 8),
    le(1, 4),
  );

const TORCH_ARCHIVES = rows('torch', 'pytorch_model.bin', [
  [
    'a zip bomb: 50 MB in 50 kB',
    () => changed(1, { data: bomb, method: 8, size: bomb.length, unpackedSize: 50_000_000 }),
    'is compressed (method 8)',
  ],
  [
    'a zip bomb in place of the pickle',
    () => changed(0, { data: bomb, method: 8, size: bomb.length, unpackedSize: 50_000_000 }),
    'is compressed (method 8)',
  ],
  ['an entry said to be stored, of two sizes', () => changed(1, { unpackedSize: 1 << 30 }), 'is compressed (method 0)'],
  ['an encrypted entry', () => changed(1, { flags: 1 }), 'is encrypted'],
  [
    'a name that climbs out',
    () => withRecord({ name: 'archive/../../../etc/cron.d/x', data: Buffer.alloc(1) }),
    'leads outside of the archive',
  ],
  [
    'an absolute name',
    () => withRecord({ name: '/etc/passwd', data: Buffer.alloc(1) }),
    'leads outside of the archive',
  ],
  [
    'a name with a NUL',
    () => withRecord({ name: 'archive/data/0\0.txt', data: Buffer.alloc(1) }),
    'leads outside of the archive',
  ],
  ['one name twice', () => withRecord({ name: 'archive/data/0', data: floats(9, 9, 9, 9) }), 'is given twice'],
  [
    'two names for one place',
    () => withRecord({ name: 'archive/data/1', data: Buffer.alloc(0), offset: 0 }),
    'overlaps another one',
  ],
  [
    'a local header with another name',
    () => changed(0, { localName: 'archive/xxxx.pkl' }),
    'has another name in its local header',
  ],
  ['an entry whose data lie in the next one', () => changed(0, { localExtraLength: 20 }), 'overlaps what is behind it'],
  [
    'entries that reach into the directory',
    () => changed(1, { size: 200, unpackedSize: 200 }),
    'reach into its directory',
  ],
  [
    'a directory outside of the file',
    () => changed(0, {}, { directoryOffset: 0xfffffff0 }),
    'reaches beyond the end of the file',
  ],
  ['a directory of 2 GB', () => changed(0, {}, { directorySize: 0x7fffffff }), 'expected at most 67108864'],
  ['more entries than there are', () => changed(0, {}, { count: 65_535 }), 'states 65535 entries and has 2'],
  [
    'a size of 2^64 - 1',
    () => changed(1, wide(2n ** 64n - 1n, 2n ** 64n - 1n, 0n)),
    'a size or offset of 18446744073709551615 bytes',
  ],
  [
    'a size that wraps with its offset',
    () => changed(1, wide(2n ** 52n - 8n, 2n ** 52n - 8n, 2n ** 51n)),
    'reach into its directory',
  ],
  [
    'a 64-bit directory outside of the file',
    () => changed(0, {}, { beforeEnd: end64(0, 100n, 2n ** 51n) }),
    '64-bit end record is damaged',
  ],
  [
    'a 64-bit end record outside of the file',
    () => changed(0, {}, { beforeEnd: end64(2n ** 51n, 100n, 0n) }),
    '64-bit end record is damaged',
  ],
  ['no end record', () => changed(0, {}, { comment: Buffer.alloc(10) }).subarray(0, -1), 'no directory at its end'],
  ['two pickles', () => withRecord({ name: 'b/data.pkl', data: pickle('N') }), 'found 2'],
  ['no pickle', () => zip(torchRecords().slice(1)), 'found 0'],
  ['a pickle in the wrong place', () => zip([{ name: 'a/b/data.pkl', data: pickle('N') }]), 'found 0'],
  [
    'a program',
    () => withRecord({ name: 'archive/constants.pkl', data: pickle(')') }),
    'is a TorchScript program',
    'NEOX_UNSUPPORTED',
  ],
  [
    'big-endian numbers',
    () => withRecord({ name: 'archive/byteorder', data: Buffer.from('big') }),
    'big-endian',
    'NEOX_UNSUPPORTED',
  ],
  [
    'a storage that is too small',
    () => changed(1, { data: floats(1, 2, 3) }),
    'has 12 bytes; its 4 elements of F32 take 16',
  ],
  ['a storage that is not there', () => zip(torchRecords().slice(0, 1)), 'the storage 0 is not in the archive'],
  [
    'a storage named by a path',
    () => zipped(pickle('}', text('w'), tensorOps({ key: '../data.pkl' }), 's')),
    'is not in the archive',
  ],
  [
    'a storage of 2^60 elements',
    () => zipped(pickle(tensorOps({ count: long(2n ** 60n) }))),
    'a bad number of elements',
  ],
  [
    'a storage of -4 elements',
    () => zipped(pickle(tensorOps({ count: 'J\xfc\xff\xff\xff' }))),
    'a bad number of elements',
  ],
]);

const TORCH_PICKLES = rows('torch', 'pytorch_model.bin', [
  [
    'os.system',
    () => call('posix\nsystem', text('touch /tmp/neox-prefix-was-here')),
    'the global posix.system',
    'NEOX_UNSUPPORTED',
  ],
  ['nt.system', () => call('nt\nsystem', text('calc')), 'the global nt.system', 'NEOX_UNSUPPORTED'],
  ['eval', () => call('builtins\neval', text('1')), 'the global builtins.eval', 'NEOX_UNSUPPORTED'],
  [
    'getattr, the way around a list of forbidden names',
    () => call('builtins\ngetattr', text('x'), text('y')),
    'builtins.getattr',
    'NEOX_UNSUPPORTED',
  ],
  [
    'torch.load inside a file of torch',
    () => call('torch\nload', text('x')),
    'the global torch.load',
    'NEOX_UNSUPPORTED',
  ],
  ['torch.hub.load', () => call('torch.hub\nload', text('x')), 'the global torch.hub.load', 'NEOX_UNSUPPORTED'],
  [
    'numpy.core.multiarray._reconstruct',
    () => call('numpy.core.multiarray\n_reconstruct'),
    '_reconstruct',
    'NEOX_UNSUPPORTED',
  ],
  ['a name from JavaScript', () => call('torch\n__proto__'), 'the global torch.__proto__', 'NEOX_UNSUPPORTED'],
  [
    'a global that steers a terminal',
    () => call('torch\n\x1b]0;x\x07'),
    'the global torch.\\u001b]0;x\\u0007',
    'NEOX_UNSUPPORTED',
  ],
  [
    'os.system in the zip format',
    () => zipped(pickle('cposix\nsystem\n(', text('true'), 'tR')),
    'the global posix.system',
    'NEOX_UNSUPPORTED',
  ],
  ['INST', () => legacyTorch(pickle('(iposix\nsystem\n')), 'the opcode INST', 'NEOX_UNSUPPORTED'],
  [
    'STACK_GLOBAL',
    () => legacyTorch(pickle(text('posix'), text('system'), '\x93')),
    'the opcode STACK_GLOBAL',
    'NEOX_UNSUPPORTED',
  ],
  ['an extension', () => legacyTorch(pickle('\x84\x01\0\0\0')), 'the opcode EXT4', 'NEOX_UNSUPPORTED'],
  [
    'NEWOBJ of a storage type',
    () => legacyTorch(pickle('ctorch\nFloatStorage\n)\x81')),
    'a call of torch.FloatStorage',
    'NEOX_UNSUPPORTED',
  ],
  [
    'BUILD on a tensor',
    () => legacyTorch(pickle(tensorOps(), '}b')),
    'state set on something else',
    'NEOX_UNSUPPORTED',
  ],
  [
    'SETITEM on a tensor',
    () => legacyTorch(pickle(tensorOps(), 'K\x00K\x00s')),
    'sets items of something that is no dictionary',
  ],
  [
    'SETITEM on a number',
    () => legacyTorch(pickle('K\x05K\x00K\x00s')),
    'sets items of something that is no dictionary',
  ],
  [
    'a list that contains itself',
    () => legacyTorch(pickle(']q\x00h\x00a0', tensorOps())),
    'the opcode POP',
    'NEOX_UNSUPPORTED',
  ],
  [
    'a tuple of a list of itself as sizes',
    () => legacyTorch(pickle(tensorOps({ size: ']q\x09h\x09\x85a\x85' }))),
    'a bad offset, size or stride',
  ],
  [
    'lists in lists, 90,000 deep',
    () => legacyTorch(pickle(']'.repeat(90_000), 'a'.repeat(89_999)), pickle(']')),
    'expected a dictionary of tensors',
  ],
  [
    'tuples in tuples, 200,000 deep',
    () => legacyTorch(pickle(')', '\x85'.repeat(200_000)), pickle(']')),
    'expected a dictionary of tensors',
  ],
  [
    'a tuple doubled sixty times',
    () => legacyTorch(pickle('K\x01', 'q\x00h\x00\x86'.repeat(60)), pickle(']')),
    'expected a dictionary of tensors',
  ],
  ['more values than the stack holds', () => legacyTorch(pickle('N'.repeat(100_002))), 'its stack grows beyond'],
  [
    'more operations than any file has',
    () => legacyTorch(pickle(']', 'Na'.repeat(500_001))),
    'more than 1000000 operations',
  ],
  ['a text of 4 GB', () => legacyTorch(pickle('X\xff\xff\xff\xff')), 'it ends in the middle'],
  [
    'numbers of 255 bytes',
    () => legacyTorch(pickle(']', Buffer.alloc(258 * 1000, longNumber)), pickle(']')),
    'a whole number of 255 bytes',
  ],
  ['a memo of number 2^32 - 1', () => legacyTorch(pickle('Nr\xff\xff\xff\xff')), 'it sets memo 4294967295'],
  [
    'numbers as keys that could be made to collide',
    () => legacyTorch(pickle('}', long(2n ** 62n), 'Ns')),
    'no text or number',
    'NEOX_UNSUPPORTED',
  ],
  [
    'an offset outside of the storage',
    () => legacyTorch(pickle(tensorOps({ offset: 'K\x01' }))),
    'reaches beyond storage 0',
  ],
  [
    'an offset near 2^53',
    () => legacyTorch(pickle(tensorOps({ offset: long(2n ** 53n - 1n) }))),
    'reaches beyond storage 0',
  ],
  [
    'a stride outside of the storage',
    () => legacyTorch(pickle(tensorOps({ stride: 'K\x02\x85' }))),
    'reaches beyond storage 0',
  ],
  [
    'a stride that overflows with its size',
    () => legacyTorch(pickle(tensorOps({ size: 'M\xff\xff\x85', stride: join(long(2n ** 52n), '\x85') }))),
    'reaches beyond storage 0',
  ],
  [
    'a negative stride',
    () => legacyTorch(pickle(tensorOps({ stride: 'J\xff\xff\xff\xff\x85' }))),
    'a bad offset, size or stride',
  ],
  [
    'a view that repeats one number 2^40 times',
    () => legacyTorch(pickle(tensorOps({ size: join(long(2n ** 40n), '\x85'), stride: 'K\x00\x85' }))),
    'an expanded tensor',
    'NEOX_UNSUPPORTED',
  ],
  [
    'sizes whose product overflows',
    () =>
      legacyTorch(
        pickle(tensorOps({ size: join(long(2n ** 52n), long(2n ** 52n), '\x86'), stride: 'K\x00K\x00\x86' })),
      ),
    'too many elements',
  ],
  [
    'one storage of two lengths',
    () => legacyTorch(pickle(tensorOps(), tensorOps({ count: 'K\x05' }), '\x86')),
    'described in two ways',
  ],
  [
    'a length of -1 before the data',
    () => legacyTorch(pickle(tensorOps()), legacyStorages(-1)),
    'has -1 elements, expected 4',
  ],
  [
    'a length of 2^62 before the data',
    () => legacyTorch(pickle(tensorOps({ count: long(2n ** 50n) })), legacyStorages(2n ** 50n)),
    'reaches beyond the end of the file',
  ],
  [
    'data that end early',
    () => legacyTorch(pickle(tensorOps()), legacyStorages(4, floats(1, 2))),
    'reaches beyond the end of the file',
  ],
  [
    'no data',
    () => legacyTorch(pickle(tensorOps()), pickle(']', text('0'), 'a')),
    'reaches beyond the end of the file',
  ],
  ['a pickle of something else', () => pickle('K\x01'), 'a Python pickle that torch.save did not write'],
  ['a pickle without an end', () => join('\x80\x02', 'N'.repeat(2000)), 'it ends in the middle'],
  ['an empty file', () => Buffer.alloc(0), 'expected a zip archive or a pickle'],
  ['a web page', () => Buffer.from('<!DOCTYPE html><html></html>'), 'it is a web page'],
]);

export const TENSOR_CASES: readonly AbuseCase[] = [...SAFETENSORS, ...INDEXES, ...TORCH_ARCHIVES, ...TORCH_PICKLES];
