import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { isNeoXPrefixError, type NeoXPrefixError } from '../../lib/errors';
import { fileError, FileReader, kindOf, readSmallFile, sha256, sha256File, writeFileAtomic } from '../../lib/files';

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'neox-files-'))));
afterEach(() => rmSync(folder, { recursive: true }));

async function failure(work: Promise<unknown>): Promise<NeoXPrefixError> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isNeoXPrefixError(error)) throw new Error(`expected a NeoXPrefixError, got ${String(error)}`);
  return error;
}

describe('writeFileAtomic', () => {
  test('writes text, views of any element type and asynchronous chunks, and leaves nothing beside', async () => {
    const path = join(folder, 'a');
    const wide = new Float32Array([0, 1, 2, 3]).subarray(1, 3);
    await writeFileAtomic(path, ['häß', wide]);
    expect(readFileSync(path)).toEqual(Buffer.concat([Buffer.from('häß'), Buffer.from(new Float32Array([1, 2]).buffer)]));
    async function* later(): AsyncGenerator<string> {
      yield 'one';
      await Promise.resolve();
      yield 'two';
    }
    await writeFileAtomic(path, later());
    expect(readFileSync(path, 'utf8')).toBe('onetwo');
    expect(readdirSync(folder)).toEqual(['a']);
  });

  test('keeps the old file, and nothing else, when the chunks throw', async () => {
    const path = join(folder, 'a');
    writeFileSync(path, 'old');
    const reason = new Error('stopped');
    async function* stopping(): AsyncGenerator<string> {
      yield 'new';
      await Promise.resolve();
      throw reason;
    }
    await expect(writeFileAtomic(path, stopping())).rejects.toBe(reason);
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['a']);
  });

  test('names the path when the folder is missing, is a file, or the target is a folder', async () => {
    const missing = await failure(writeFileAtomic(join(folder, 'no', 'a'), 'x'));
    expect([missing.code, missing.path]).toEqual(['NEOX_IO', join(folder, 'no', 'a')]);
    expect(missing.message).toContain('the folder that should hold the file does not exist');
    writeFileSync(join(folder, 'file'), '');
    expect((await failure(writeFileAtomic(join(folder, 'file', 'a'), 'x'))).message).toContain('ENOTDIR');
    expect((await failure(writeFileAtomic(folder, 'x'))).message).toMatch(/EISDIR\nHint: this path is a folder/);
  });
});

describe('fileError', () => {
  const errno = (code: string): Error => Object.assign(new Error(code), { code, syscall: 'write', errno: -1 });

  test.each([
    ['ENOSPC', 'the disk is full'],
    ['EACCES', 'check the permissions'],
    ['EROFS', 'read-only'],
  ])('%s becomes NEOX_IO with a hint', (code, hint) => {
    const error = fileError(errno(code), 'write', '/a/b') as NeoXPrefixError;
    expect(error).toMatchObject({ code: 'NEOX_IO', path: '/a/b' });
    expect(error.message).toContain(`Cannot write /a/b: ${code}`);
    expect(error.hint).toContain(hint);
  });

  test('leaves other errors alone', () => {
    const other = new TypeError('x');
    expect(fileError(other, 'read', '/a')).toBe(other);
  });
});

describe('FileReader', () => {
  test('reads exact ranges and refuses what lies outside of the file', async () => {
    const path = join(folder, 'a');
    writeFileSync(path, 'abcdef');
    await FileReader.use(path, async (reader) => {
      expect(reader.size).toBe(6);
      expect((await reader.read(2, 3)).toString()).toBe('cde');
      expect((await failure(reader.read(4, 3))).message).toContain('expected at least 7 bytes, the file has 6');
    });
  });

  test('a file that shrinks while it is read is an error, not a short buffer', async () => {
    const path = join(folder, 'a');
    writeFileSync(path, 'abcdef');
    await FileReader.use(path, async (reader) => {
      writeFileSync(path, 'ab');
      expect((await failure(reader.read(0, 6))).code).toBe('NEOX_IO');
    });
  });

  test('says what a path is when it is no file', async () => {
    expect((await failure(readSmallFile(join(folder, 'no'), 10))).code).toBe('NEOX_FILE_NOT_FOUND');
    expect((await failure(readSmallFile(folder, 10))).message).toContain('it is a folder');
    expect((await failure(readSmallFile('/dev/zero', 10))).message).toContain('not a regular file');
    writeFileSync(join(folder, 'big'), 'x'.repeat(11));
    expect((await failure(readSmallFile(join(folder, 'big'), 10))).message).toContain('expected at most 10 bytes, the file has 11');
  });

  test('kindOf', async () => {
    writeFileSync(join(folder, 'a'), '');
    symlinkSync('nowhere', join(folder, 'dangling'));
    expect(await Promise.all(['a', '.', 'no', 'a/b', 'dangling'].map((name) => kindOf(join(folder, name))))).toEqual([
      'file',
      'folder',
      undefined,
      undefined,
      undefined,
    ]);
  });
});

test('sha256 of pieces and of a file agree with the published value', async () => {
  const abc = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';
  writeFileSync(join(folder, 'a'), 'abc');
  expect(sha256('a', Buffer.from('bc'))).toBe(abc);
  expect(await sha256File(join(folder, 'a'))).toBe(abc);
});
