import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { readSafetensorsHeader, writeSafetensors } from '../../../lib/formats/safetensors';
import type { TensorEntry } from '../../../lib/formats/tensor';
import { readTensor } from '../../../lib/formats/values';
import { expectedValues, failure, fixture, mutate, ours } from '../base/files-helpers';

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'neox-safetensors-'))));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file of the given header text and number of data bytes; `length` overrides the stated header length. */
function build(header: string | Buffer, dataBytes: number, length?: bigint): string {
  const path = join(folder, 'built.safetensors');
  const bytes = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length ?? BigInt(bytes.length));
  writeFileSync(path, Buffer.concat([head, bytes, Buffer.alloc(dataBytes)]));
  return path;
}

const tensor = (dtype: string, shape: unknown, begin: unknown, end: unknown): unknown => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const json = (value: unknown): string => JSON.stringify(value);

describe('reading', () => {
  test('a file of every type that Python wrote', async () => {
    const header = await readSafetensorsHeader(fixture('mixed.safetensors'));
    expect([...header.metadata]).toEqual([
      ['format', 'pt'],
      ['note', '猫'],
    ]);
    expect([...header.unsupported]).toEqual([['j.float8', 'F8_E4M3']]);
    expect(
      [...header.tensors.values()].filter(({ dtype }) => ['U8', 'BOOL', 'I64'].includes(dtype)).map(({ name }) => name),
    ).toEqual(expect.arrayContaining(['g.mask', 'h.flags', 'i.ids']));
    for (const [name, { shape, values }] of expectedValues('mixed.safetensors')) {
      const entry = header.tensors.get(name) as TensorEntry;
      expect(entry.shape).toEqual(shape);
      expect([...(await readTensor(entry))]).toEqual(values);
    }
    const mask = await failure(readTensor(header.tensors.get('g.mask') as TensorEntry));
    expect(mask.code).toBe('NEOX_UNSUPPORTED');
    expect(mask.message).toContain('g.mask');
  });

  test('half and bfloat16 values at the edges of their range', async () => {
    const half = Uint16Array.of(0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x7e00);
    const brain = Uint16Array.of(0x3f80, 0xc000, 0x0001, 0x7f80, 0x7fc0);
    const path = join(folder, 'edges.safetensors');
    await writeSafetensors(
      path,
      [
        { name: 'half', dtype: 'F16', shape: [10], data: half },
        { name: 'brain', dtype: 'BF16', shape: [5], data: brain },
      ],
      {},
    );
    const { tensors } = await readSafetensorsHeader(path);
    const read = async (name: string): Promise<number[]> => [...(await readTensor(tensors.get(name) as TensorEntry))];
    expect(await read('half')).toEqual([
      0,
      -0,
      2 ** -24,
      1023 * 2 ** -24,
      2 ** -14,
      1,
      65504,
      Infinity,
      -Infinity,
      NaN,
    ]);
    expect(await read('brain')).toEqual([1, -2, 2 ** -133, Infinity, NaN]);
  });

  test.each([
    ['no tensors', '{}', 0],
    ['a padded header', '{}   ', 0],
    ['tensors out of order', json({ b: tensor('F32', [1], 4, 8), a: tensor('F32', [1], 0, 4) }), 8],
    [
      'an empty tensor anywhere',
      json({ a: tensor('F32', [1], 0, 4), e: tensor('F32', [0, 3], 0, 0), z: tensor('F32', [0], 4, 4) }),
      4,
    ],
    ['unknown fields in an entry', json({ a: { dtype: 'U8', shape: [], data_offsets: [0, 1], extra: 1 } }), 1],
    ['a tensor named __proto__', '{"__proto__":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1],
  ])('accepts %s', async (_, header, dataBytes) => {
    const { tensors } = await readSafetensorsHeader(build(header, dataBytes));
    expect(tensors.size).toBe((header.match(/dtype/g) ?? []).length);
  });
});

describe('refusing', () => {
  const one = json({ a: tensor('F32', [1], 0, 4) });
  test.each<[string, string | Buffer, number, bigint | undefined, string]>([
    ['a header longer than the format allows', '{}', 0, 100_000_001n, 'at most 100000000 bytes, it declares 100000001'],
    ['a header length that overflows', '{}', 0, 2n ** 64n - 1n, 'it declares 18446744073709551615'],
    ['a header longer than the file', '{}', 0, 3n, 'declares 3 bytes, the file has 2'],
    ['a header that is no object', '[]', 0, undefined, "expected the header to start with '{'"],
    ['an empty header', '', 0, undefined, "expected the header to start with '{'"],
    ['broken JSON', '{"a"', 0, undefined, 'expected JSON'],
    ['bytes that are not UTF-8', Buffer.from('7b22ff223a7b7d7d', 'hex'), 0, undefined, 'expected UTF-8 text'],
    [
      'a tensor given twice',
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      0,
      undefined,
      "'a' is given twice",
    ],
    ['a tensor given twice by an escape', '{"a":1,"\\u0061":1}', 0, undefined, "'a' is given twice"],
    ['deep nesting', '{"a":'.repeat(40) + '1' + '}'.repeat(40), 0, undefined, 'levels of nesting'],
    ['too many values', '{"a":[' + '1,'.repeat(1_000_001) + '1]}', 0, undefined, 'at most 1000000 keys and values'],
    ['metadata that are no text', '{"__metadata__":{"a":1}}', 0, undefined, 'expected text for a in __metadata__'],
    ['metadata that are no object', '{"__metadata__":[]}', 0, undefined, 'expected __metadata__ to be an object'],
    ['an entry that is no object', '{"a":1}', 0, undefined, 'tensor a: expected an object'],
    ['an unknown type', json({ a: tensor('F33', [1], 0, 4) }), 4, undefined, "unknown dtype 'F33'"],
    [
      'a type named like a method',
      json({ a: tensor('toString', [1], 0, 4) }),
      4,
      undefined,
      "unknown dtype 'toString'",
    ],
    ['no type', '{"a":{"shape":[1],"data_offsets":[0,4]}}', 4, undefined, 'expected a dtype'],
    ['a negative size', json({ a: tensor('F32', [-1], 0, 4) }), 4, undefined, 'shape of non-negative integers'],
    ['a fractional size', json({ a: tensor('F32', [1.5], 0, 4) }), 4, undefined, 'shape of non-negative integers'],
    ['a shape that overflows', json({ a: tensor('F32', [2 ** 32, 2 ** 32], 0, 4) }), 4, undefined, 'too many elements'],
    [
      'a shape that overflows to zero',
      json({ a: tensor('F32', [2 ** 52, 2 ** 52, 0], 0, 0) }),
      0,
      undefined,
      'too many elements',
    ],
    ['negative offsets', json({ a: tensor('F32', [1], -4, 0) }), 4, undefined, 'two data_offsets'],
    ['one offset', '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}', 4, undefined, 'two data_offsets'],
    ['reversed offsets', json({ a: tensor('F32', [1], 4, 0) }), 4, undefined, 'data_offsets in order, found [4, 0]'],
    [
      'offsets that disagree with the shape',
      json({ a: tensor('F32', [2], 0, 4) }),
      4,
      undefined,
      'shape [2] of F32 takes 8 bytes, its data_offsets [0, 4] span 4',
    ],
    ['half a byte', json({ a: tensor('F4', [3], 0, 1) }), 1, undefined, 'does not fill whole bytes'],
    [
      'a hole',
      json({ a: tensor('F32', [1], 0, 4), b: tensor('F32', [1], 8, 12) }),
      12,
      undefined,
      '4 bytes before tensor b belong to no tensor',
    ],
    ['a hole at the start', json({ a: tensor('F32', [1], 4, 8) }), 8, undefined, '4 bytes before tensor a'],
    [
      'an overlap',
      json({ a: tensor('F32', [2], 0, 8), b: tensor('F32', [1], 4, 8) }),
      8,
      undefined,
      'tensor b overlaps another one',
    ],
    ['missing data', one, 3, undefined, 'need 4 bytes of data, the file has 3'],
    ['trailing data', one, 5, undefined, 'need 4 bytes of data, the file has 5'],
  ])('%s', async (_, header, dataBytes, length, message) => {
    const path = build(header, dataBytes, length);
    const error = await failure(readSafetensorsHeader(path));
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ code: 'NEOX_BAD_CHECKPOINT', path });
    expect(error.message).toContain(path);
  });

  test.each([
    ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'a Git LFS pointer', 'git lfs pull'],
    ['<!DOCTYPE html><html>not found</html>', 'a web page', 'fetch the file again'],
    ['PK\x03\x04abcdefgh', 'a zip archive', '.bin'],
    ['abc', 'at least 8 bytes, the file has 3', 'incomplete'],
  ])('%j by name', async (content, what, hint) => {
    const path = join(folder, 'foreign.safetensors');
    writeFileSync(path, content, 'latin1');
    const error = await failure(readSafetensorsHeader(path));
    expect(error.message).toContain(what);
    expect(error.hint).toContain(hint);
  });

  test('mutated files give an error of ours or a header that fits the file', async () => {
    const original = readFileSync(fixture('mixed.safetensors'));
    const path = join(folder, 'mutated.safetensors');
    let refused = 0;
    for (const bytes of mutate(original, 400, 1)) {
      writeFileSync(path, bytes);
      const header = await readSafetensorsHeader(path).catch((error: unknown) => {
        ours(error);
        refused++;
      });
      for (const entry of header?.tensors.values() ?? [])
        expect(entry.offset + entry.byteLength).toBeLessThanOrEqual(bytes.length);
    }
    expect(refused).toBeGreaterThan(200);
  });
});

describe('writing', () => {
  test('widest types first, then names; data start at a multiple of 8', async () => {
    const path = join(folder, 'written.safetensors');
    const bytes = (n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => i);
    await writeSafetensors(
      path,
      [
        { name: 'z', dtype: 'F16', shape: [1], data: bytes(2) },
        { name: 'b', dtype: 'F32', shape: [1], data: bytes(4) },
        { name: 'a', dtype: 'F32', shape: [2], data: bytes(8) },
        { name: '10', dtype: 'F64', shape: [], data: bytes(8) },
      ],
      { note: 'x' },
    );
    const file = readFileSync(path);
    const length = Number(file.readBigUInt64LE(0));
    expect(length % 8).toBe(0);
    const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets?: number[] }>;
    expect(header['__metadata__']).toEqual({ format: 'pt', note: 'x' });
    expect(
      Object.entries(header).flatMap(([name, value]) => (value.data_offsets ? [[name, value.data_offsets]] : [])),
    ).toEqual(
      expect.arrayContaining([
        ['10', [0, 8]],
        ['a', [8, 16]],
        ['b', [16, 20]],
        ['z', [20, 22]],
      ]),
    );
    expect((await readSafetensorsHeader(path)).tensors.size).toBe(4);
  });

  test('a size that disagrees with the shape, or a name used twice, writes nothing', async () => {
    const path = join(folder, 'never.safetensors');
    const good = { name: 'a', dtype: 'F32', shape: [1], data: new Float32Array(1) } as const;
    expect((await failure(writeSafetensors(path, [{ ...good, shape: [2] }], {}))).message).toContain(
      '8 bytes but has 4',
    );
    expect((await failure(writeSafetensors(path, [good, good], {}))).code).toBe('NEOX_BAD_ARGUMENT');
    expect(() => readFileSync(path)).toThrow('ENOENT');
  });
});
