import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { isNeoXPrefixError, type NeoXPrefixError } from '../../../lib/base/errors';
import { fromNative } from '../../../lib/addon/run-native';
import {
  fileError,
  FileReader,
  kindOf,
  makeFolder,
  readSmallFile,
  sha256,
  sha256File,
  writeFileAtomic,
} from '../../../lib/base/files';

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
    expect(readFileSync(path)).toEqual(
      Buffer.concat([Buffer.from('häß'), Buffer.from(new Float32Array([1, 2]).buffer)]),
    );
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

describe('makeFolder', () => {
  test('makes what is missing and tells the topmost', async () => {
    expect(await makeFolder(join(folder, 'a', 'b', 'c'))).toBe(join(folder, 'a'));
    expect(existsSync(join(folder, 'a', 'b', 'c'))).toBe(true);
    expect(await makeFolder(join(folder, 'a', 'b', 'c'))).toBeUndefined();
    expect(await makeFolder(join(folder, 'a', 'b', 'd'))).toBe(join(folder, 'a', 'b', 'd'));
  });

  test('gives the reason of the system, for example a file system that is read-only', async () => {
    const mkdir = jest.spyOn(fs, 'mkdir').mockImplementation(() => {
      // So it is with Node: the recursive form says something else.
      throw Object.assign(new Error('mkdir'), {
        code: mkdir.mock.lastCall![1] === undefined ? 'EROFS' : 'ENOENT',
        syscall: 'mkdir',
      });
    });
    try {
      const error = await failure(makeFolder(join(folder, 'a', 'b')));
      expect(error.message).toBe(
        `Cannot write ${join(folder, 'a', 'b')}: EROFS\nHint: the file system is read-only; choose another folder`,
      );
    } finally {
      mkdir.mockRestore();
    }
  });

  test('in /proc, where nothing can be made', async () => {
    expect(await failure(makeFolder('/proc/neox/a'))).toMatchObject({ code: 'NEOX_IO', path: '/proc/neox/a' });
  });

  test('where a file stands, and leaves nothing behind', async () => {
    writeFileSync(join(folder, 'file'), '');
    expect((await failure(makeFolder(join(folder, 'file')))).message).toMatch(
      /: EEXIST\nHint: something else is there already/,
    );
    expect((await failure(makeFolder(join(folder, 'file', 'a')))).message).toContain(': ENOTDIR');
    symlinkSync('nowhere', join(folder, 'dangling'));
    expect((await failure(makeFolder(join(folder, 'dangling', 'a')))).message).toContain(': EEXIST');
    expect((await failure(makeFolder(join(folder, 'new', 'x'.repeat(300))))).message).toMatch(
      /: ENAMETOOLONG\nHint: choose a shorter name/,
    );
    expect(readdirSync(folder).sort()).toEqual(['dangling', 'file']);
  });

  test('two at once', async () => {
    await Promise.all([1, 2, 3].map((i) => makeFolder(join(folder, 'a', 'b', `${i % 2}`))));
    expect(readdirSync(join(folder, 'a', 'b')).sort()).toEqual(['0', '1']);
  });
});

test('a NUL character in a path is an error of this package', async () => {
  const path = join(folder, 'a\0b');
  const message = `${folder}/a\\u0000b: the path has a NUL character`;
  for (const [act, verb] of [
    [() => kindOf(path), 'read'],
    [() => readSmallFile(path, 9), 'read'],
    [() => writeFileAtomic(path, ''), 'read'],
    [() => makeFolder(path), 'read'],
  ] as const) {
    expect(await failure(act())).toMatchObject({ code: 'NEOX_IO', message: `Cannot ${verb} ${message}` });
  }
});

test('a name that is too long cannot be written, rather than not be read', async () => {
  const path = join(folder, `${'x'.repeat(300)}.safetensors`);
  expect((await failure(writeFileAtomic(path, 'x'))).message).toBe(
    `Cannot write ${path}: ENAMETOOLONG\nHint: choose a shorter name`,
  );
  expect((await failure(readSmallFile(path, 9))).message).toContain(`Cannot read ${path}: ENAMETOOLONG`);
  expect(readdirSync(folder)).toEqual([]);
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
    expect((await failure(readSmallFile(join(folder, 'big'), 10))).message).toContain(
      'expected at most 10 bytes, the file has 11',
    );
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

test.each([
  ['No space left on device', 'the disk is full; free some space or choose another folder'],
  ['Disk quota exceeded', 'the disk quota is used up; free some space or choose another folder'],
  ['Read-only file system', 'the file system is read-only; choose another folder'],
  ['it became shorter while it was read', undefined],
])('an error of the addon with a file has the hint of its reason: %s', (reason, hint) => {
  const message = `Could not write ft/1-gpu/model.wte.bin: ${reason}`;
  const error = fromNative(Object.assign(new Error(message), { code: 'NEOX_IO' })) as NeoXPrefixError;
  const text = hint === undefined ? message : `${message}\nHint: ${hint}`;
  expect([error.code, error.hint, error.message]).toEqual(['NEOX_IO', hint, text]);
});
