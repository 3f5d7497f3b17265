import { join, le, varint, zip, type ZipRecord } from './bytes';
import type { Random } from './random';
import type { Files, Target } from './targets';

/** Larger inputs are cut: they are slow, and what is in them fits into less. */
const MAX_BYTES = 200_000;

const NUMBERS = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  16,
  63,
  64,
  65,
  127,
  128,
  255,
  256,
  32767,
  32768,
  65535,
  65536,
  2 ** 24,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
];

/** Changes a file's bytes with no regard to what they mean. `other` is a file to take pieces of. */
export function mutateBytes(bytes: Buffer, random: Random, other: Buffer): Buffer {
  let result: Buffer = Buffer.from(bytes);
  for (let round = 1 << random.below(4); round > 0; round--) {
    const at = random.below(result.length + 1);
    const length = 1 + random.below(random.chance(4) ? 1000 : 16);
    switch (random.below(9)) {
      case 0: // cut off
        if (random.chance(4)) result = result.subarray(0, at);
        break;
      case 1: // remove
        result = join(result.subarray(0, at), result.subarray(at + length));
        break;
      case 2: // repeat
        result = join(
          result.subarray(0, at),
          ...new Array<Buffer>(1 + random.below(4)).fill(result.subarray(at, at + length)),
          result.subarray(at),
        );
        break;
      case 3: // copy over
        result.copy(result, random.below(result.length + 1), at, at + length);
        break;
      case 4: {
        // a piece of another file
        const from = random.below(other.length + 1);
        result = join(
          result.subarray(0, at),
          other.subarray(from, from + length),
          result.subarray(random.chance(2) ? at : at + length),
        );
        break;
      }
      case 5: {
        // a number of 2, 4 or 8 bytes
        const number = random.chance(8) ? -1 : random.pick(NUMBERS) + random.below(3) - 1;
        const written = le(number, random.pick([2, 4, 8]));
        if (at + written.length <= result.length) written.copy(result, at);
        break;
      }
      case 6: // one bit
        if (at < result.length) result[at] = (result[at] as number) ^ (1 << random.below(8));
        break;
      case 7: // a step up or down
        if (at < result.length) result[at] = (result[at] as number) + random.pick([-1, 1, -16, 16]);
        break;
      default:
        if (at < result.length) result[at] = random.below(256);
    }
  }
  return result.subarray(0, MAX_BYTES);
}

const JSON_LEAVES: readonly unknown[] = [
  ...[
    null,
    true,
    false,
    '',
    'a',
    '0',
    '-1',
    'F32',
    'U8',
    'F4',
    '__proto__',
    'constructor',
    'gpt_neox',
    '</s>',
    '\u0000',
    '\ud800',
    '\u202e',
  ],
  ...[0, -0, 1, -1, 2, 0.5, 1e-308, 1e308, 2 ** 31, 2 ** 32, 2 ** 52, 2 ** 53, -(2 ** 53), 16_777_216, 10_000],
  ...[[], {}, [0], [[]], { type: 'Sequence' }, { Regex: '(a+)+' }, [0, 0], [4, 0]],
];

/**
 * Changes a JSON text as a tree, with now and then what JSON.stringify would not write: repeated keys, numbers out of
 * range.
 */
export function mutateJson(bytes: Buffer, random: Random, other: Buffer): Buffer {
  const root = parsed(bytes);
  if (root === undefined) return mutateBytes(bytes, random, other);
  let tree: unknown = structuredClone(root);
  for (let round = 1 + random.below(4); round > 0; round--) tree = mutateTree(tree, random, parsed(other));
  let text = JSON.stringify(tree);
  if (random.chance(8)) text = text.replace(/"([^"\\]+)":("[^"]*"|\d+)/, (pair) => `${pair},${pair}`);
  if (random.chance(8))
    text = text.replace(/:\d+/, random.pick([':1e999', ':-0', ':NaN', ':9007199254740993', ':00', ':1.0']));
  return random.chance(8) ? mutateBytes(Buffer.from(text), random, other) : Buffer.from(text).subarray(0, MAX_BYTES);
}

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch {
    return undefined;
  }
}

type Tree = Record<string, unknown> | unknown[];

function mutateTree(root: unknown, random: Random, other: unknown): unknown {
  const trees = treesOf(root);
  const tree = trees.length === 0 ? undefined : random.pick(trees);
  const keys = Object.keys(tree ?? {});
  if (tree === undefined || keys.length === 0) return random.chance(4) ? random.pick(JSON_LEAVES) : root;
  const at = tree as Record<string, unknown>;
  const key = random.pick(keys);
  switch (random.below(7)) {
    case 0:
      if (Array.isArray(tree)) tree.splice(Number(key), 1);
      else Reflect.deleteProperty(at, key);
      break;
    case 1:
      at[key] = structuredClone(at[random.pick(keys)]);
      break;
    case 2: {
      const name = random.chance(2)
        ? random.pick(keys) + random.pick(['', '_', '\0', 'é'])
        : String(random.pick(JSON_LEAVES));
      if (Array.isArray(tree)) tree.push(structuredClone(at[key]));
      else if (name !== '__proto__') at[name] = structuredClone(at[key]);
      break;
    }
    case 3: {
      const found = treesOf(other);
      if (found.length > 0) at[key] = structuredClone(random.pick(found));
      break;
    }
    case 4:
      if (typeof at[key] === 'number') at[key] = at[key] + random.pick([1, -1, 4, -4, 0.5, 2 ** 32]);
      break;
    case 5:
      at[key] = random.chance(2) ? [at[key]] : { [random.pick(['type', 'a', 'content', 'dtype'])]: at[key] };
      break;
    default:
      at[key] = structuredClone(random.pick(JSON_LEAVES));
  }
  return root;
}

function treesOf(root: unknown): Tree[] {
  const trees: Tree[] = [];
  const open: unknown[] = [root];
  while (open.length > 0 && trees.length < 5000) {
    const value = open.pop();
    if (value === null || typeof value !== 'object') continue;
    trees.push(value as Tree);
    for (const inner of Object.values(value)) open.push(inner);
  }
  return trees;
}

/** Header as a tree, its length put right, the data made to fit or not. */
function mutateSafetensors(bytes: Buffer, random: Random, other: Buffer): Buffer {
  const split = (file: Buffer): [Buffer, Buffer] => {
    const length = file.length < 8 ? 0 : Number(file.readBigUInt64LE(0));
    const end = length > file.length ? file.length : 8 + length;
    return [file.subarray(8, end), file.subarray(end)];
  };
  const [header, data] = split(bytes);
  const changed = mutateJson(header, random, split(other)[0]);
  const kept = random.chance(4) ? mutateBytes(data, random, data) : data;
  return join(le(random.chance(16) ? random.pick(NUMBERS) : changed.length, 8), changed, kept);
}

/** Opcodes that take no argument, or a short one. */
const OPCODES = [
  '(',
  't',
  ')',
  '}',
  ']',
  's',
  'u',
  'a',
  'e',
  'N',
  '\x88',
  '\x89',
  'R',
  'Q',
  'b',
  '.',
  '\x85',
  '\x86',
  '\x87',
  'K\x01',
  'K\0',
  'h\0',
  'q\0',
  'h\x01',
];
const OPERANDS = [
  'J\xff\xff\xff\xff',
  'M\xff\xff',
  '\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f',
  'X\x01\0\0\0a',
  'ccollections\nOrderedDict\n',
  'ctorch\nHalfStorage\n',
];
const GLOBALS = [
  'ctorch\nSize\n',
  'ctorch._utils\n_rebuild_parameter\n',
  'cposix\nsystem\n',
  'ctorch\nLongStorage\n',
  '0',
  '2',
  'G\x7f\xf0\0\0\0\0\0\0',
];

function mutatePickle(bytes: Buffer, random: Random, other: Buffer): Buffer {
  if (random.chance(3)) return mutateBytes(bytes, random, other);
  let result = bytes;
  for (let round = 1 + random.below(3); round > 0; round--) {
    const at = random.below(result.length + 1);
    const inserted = Buffer.from(random.pick(random.pick([OPCODES, OPERANDS, GLOBALS])), 'latin1');
    result = join(result.subarray(0, at), inserted, result.subarray(random.chance(2) ? at : at + inserted.length));
  }
  return result;
}

/** The records of an archive, as far as they can be found by their local headers. */
function recordsOf(bytes: Buffer): ZipRecord[] {
  const records: ZipRecord[] = [];
  let at = 0;
  while (at + 30 <= bytes.length && bytes.readUInt32LE(at) === 0x04034b50) {
    const start = at + 30 + bytes.readUInt16LE(at + 26) + bytes.readUInt16LE(at + 28);
    // torch.save states the size behind the data; then the next header says where they end.
    const next = bytes.indexOf('PK', start);
    const stated = bytes.readUInt32LE(at + 18);
    const end = stated > 0 ? start + stated : next < 0 ? bytes.length : next;
    records.push({
      name: bytes.toString('latin1', at + 30, at + 30 + bytes.readUInt16LE(at + 26)),
      data: bytes.subarray(start, end),
    });
    at = bytes.indexOf('PK\x03\x04', end, 'latin1');
    if (at < 0) break;
  }
  return records;
}

function mutateTorch(bytes: Buffer, random: Random, other: Buffer): Buffer {
  if (bytes.length < 4 || bytes.readUInt32LE(0) !== 0x04034b50) return mutatePickle(bytes, random, other);
  if (random.chance(4)) return mutateBytes(bytes, random, other);
  const records = recordsOf(bytes);
  const pickle = records.find(({ name }) => name.endsWith('data.pkl'));
  if (pickle === undefined) return mutateBytes(bytes, random, other);
  const record = random.pick(records);
  switch (random.below(8)) {
    case 0:
      record.name = random.pick([
        `${record.name}x`,
        '../x',
        record.name.slice(1),
        random.pick(records).name,
        'archive/data/0',
        '',
      ]);
      break;
    case 1:
      records.push({ ...record });
      break;
    case 2:
      records.splice(random.below(records.length), 1);
      break;
    case 3:
      Object.assign(record, {
        [random.pick(['size', 'unpackedSize', 'offset', 'localExtraLength'])]: random.pick(NUMBERS) % 2 ** 16,
      });
      break;
    case 4:
      Object.assign(record, { [random.pick(['method', 'flags'])]: random.below(16) });
      break;
    case 5:
      record.extra = join(
        le(1, 2),
        le(24, 2),
        le(random.pick(NUMBERS), 8),
        le(random.pick(NUMBERS), 8),
        le(random.pick(NUMBERS), 8),
      );
      if (random.chance(2)) record.size = record.unpackedSize = 0xffffffff;
      break;
    default:
      pickle.data = mutatePickle(
        pickle.data,
        random,
        recordsOf(other).find(({ name }) => name.endsWith('data.pkl'))?.data ?? other,
      );
  }
  return zip(records).subarray(0, MAX_BYTES);
}

/** Top-level fields of a protobuf message: where each starts and ends. */
function fieldsOf(bytes: Buffer): Buffer[] {
  const fields: Buffer[] = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const wire = (bytes[at++] as number) & 7;
    if (wire === 2) {
      let length = 0;
      for (let shift = 0; at < bytes.length && shift < 28; shift += 7) {
        length |= ((bytes[at] as number) & 0x7f) << shift;
        if ((bytes[at++] as number) < 0x80) break;
      }
      at += length;
    } else if (wire === 0) while (at < bytes.length && (bytes[at++] as number) >= 0x80);
    else at += wire === 5 ? 4 : 8;
    fields.push(bytes.subarray(start, Math.min(at, bytes.length)));
  }
  return fields;
}

function mutateProtobuf(bytes: Buffer, random: Random, other: Buffer): Buffer {
  if (random.chance(4)) return mutateBytes(bytes, random, other);
  const fields = fieldsOf(bytes);
  if (fields.length === 0) return mutateBytes(bytes, random, other);
  for (let round = 1 + random.below(4); round > 0; round--) {
    // Half the time one of the last fields: the settings and the rules stand there, behind all pieces.
    const at = random.chance(2) ? random.below(fields.length) : Math.max(0, fields.length - 1 - random.below(3));
    const field = fields[at] as Buffer;
    switch (random.below(6)) {
      case 0:
        fields.splice(at, 1);
        break;
      case 1:
        fields.push(random.pick(fields));
        break;
      case 2:
        fields[at] = random.pick(fieldsOf(other).concat(fields));
        break;
      case 3: {
        // the content of a field, its length put right
        if ((field[0] ?? 0) % 8 !== 2) break;
        const content = mutateBytes(contentOf(field), random, contentOf(random.pick(fields)));
        fields[at] = join(field.subarray(0, 1), varint(content.length), content);
        break;
      }
      case 4: {
        // a message's own fields
        const content = mutateBytes(join(...shuffled(fieldsOf(contentOf(field)), random)), random, contentOf(field));
        fields[at] = join(field.subarray(0, 1), varint(content.length), content);
        break;
      }
      default:
        fields[at] = mutateBytes(field, random, field);
    }
    if (fields.length === 0) break;
  }
  return Buffer.concat(fields).subarray(0, MAX_BYTES);
}

function contentOf(field: Buffer): Buffer {
  let at = 1;
  while (at < field.length && (field[at++] as number) >= 0x80);
  return field.subarray(at);
}

function shuffled<T>(list: readonly T[], random: Random): T[] {
  const result = [...list];
  if (result.length > 1) result.push(...result.splice(random.below(result.length), 1));
  return result;
}

const INI_VALUES = [
  '0',
  '1',
  '-1',
  '2',
  '16777216',
  '1e308',
  '0x10',
  '017',
  '9'.repeat(30),
  '',
  'smile',
  '../x',
  '\0',
  '100000',
  'fp16',
  '; c',
  '1 ; c',
  '%d',
  '1\r',
];

function mutateIni(bytes: Buffer, random: Random, other: Buffer): Buffer {
  if (random.chance(5)) return mutateBytes(bytes, random, other);
  const lines = bytes.toString('latin1').split('\n');
  for (let round = 1 + random.below(3); round > 0; round--) {
    const at = random.below(lines.length);
    const [key = ''] = (lines[at] ?? '').split(/\s*[=:]/);
    const line = random.pick([
      `${key} = ${random.pick(INI_VALUES)}`,
      `${key}:${random.pick(INI_VALUES)}`,
      `[${random.pick(['gptneox', 'task_0', 'task_1', '', 'x'.repeat(210)])}]`,
      random.pick(lines),
      ` ${lines[at] ?? ''}`,
      random.pick(other.toString('latin1').split('\n')),
      'use_gptj_residual = 1',
    ]);
    lines.splice(at, random.below(2), line);
  }
  return Buffer.from(lines.join('\n'), 'latin1');
}

/** Changes one file of a folder, in the way of its format; `others` are folders to take pieces of. */
export function mutateFiles(target: Target, files: Files, others: Files, random: Random): Files {
  const names = target.names.filter((name) => name in files);
  const name = random.pick(names.length > 0 ? names : Object.keys(files));
  const bytes = files[name] as Buffer;
  const other = others[name] ?? bytes;
  return { ...files, [name]: mutatorOf(name)(bytes, random, other) };
}

function mutatorOf(name: string): (bytes: Buffer, random: Random, other: Buffer) => Buffer {
  if (name.endsWith('.safetensors')) return mutateSafetensors;
  if (name.endsWith('.json')) return mutateJson;
  if (name.endsWith('.bin')) return mutateTorch;
  if (name.endsWith('.ini')) return mutateIni;
  return name.endsWith('.model') ? mutateProtobuf : mutateBytes;
}
