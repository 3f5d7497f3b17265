import { isError } from './errors';
import { createHash, randomBytes } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

import { NeoXPrefixError } from './errors';

/** Largest single read or write; some kernels and Node versions refuse 2 GiB and more. */
const MAX_TRANSFER = 64 * 1024 * 1024;

const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full; free some space or choose another folder',
  EDQUOT: 'the disk quota is used up; free some space or choose another folder',
  EACCES: 'check the permissions of the file and its folder',
  EPERM: 'check the permissions of the file and its folder',
  EROFS: 'the file system is read-only; choose another folder',
  EISDIR: 'this path is a folder; name a file in it',
  EEXIST: 'something else is there already; choose another path',
  ENOTDIR: 'a part of this path is a file where a folder is needed',
  EMFILE: 'too many files are open; raise the limit (ulimit -n)',
  ENAMETOOLONG: 'choose a shorter name',
};

/** The words of the system for some of them: the addon's messages end in these. */
const REASONS: Readonly<Record<string, string>> = {
  'No space left on device': 'ENOSPC',
  'Disk quota exceeded': 'EDQUOT',
  'Permission denied': 'EACCES',
  'Read-only file system': 'EROFS',
  'Too many open files': 'EMFILE',
};

/** What to do about an error of the addon with a file, by the reason that its message ends in. */
export function hintOfReason(message: string): string | undefined {
  return HINTS[REASONS[message.slice(message.lastIndexOf(': ') + 2)] ?? ''];
}

function errnoOf(error: unknown): string | undefined {
  if (!isError(error) || !('code' in error) || !('syscall' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Turns an error of the file system into ours; anything else is returned as it is.
 * @param action what was tried, as a verb: 'read', 'write'
 */
export function fileError(error: unknown, action: string, path: string): unknown {
  if (isError(error) && 'code' in error && error.code === 'ERR_INVALID_ARG_VALUE' && path.includes('\0')) {
    return new NeoXPrefixError('NEOX_IO', `Cannot ${action} ${path}: the path has a NUL character`, {
      path,
      cause: error,
    });
  }
  const code = errnoOf(error);
  if (code === undefined) return error;
  if (code === 'ENOENT' && action !== 'write') {
    return new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file or folder: ${path}`, { path, cause: error });
  }
  const hint = code === 'ENOENT' ? 'the folder that should hold the file does not exist' : HINTS[code];
  const details = hint === undefined ? { path, cause: error } : { path, hint, cause: error };
  return new NeoXPrefixError('NEOX_IO', `Cannot ${action} ${path}: ${code}`, details);
}

async function attempt<T>(action: string, path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw fileError(error, action, path);
  }
}

/** What a path names, or undefined when there is nothing. */
export async function kindOf(path: string): Promise<'file' | 'folder' | 'other' | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other';
  } catch (error) {
    // Of a name that is too long there can be nothing; whoever writes or reads it says so.
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(errnoOf(error) ?? '')) return undefined;
    throw fileError(error, 'read', path);
  }
}

/** The names in a folder, sorted. */
export async function listFolder(path: string): Promise<string[]> {
  return (await attempt('read', path, () => readdir(path))).sort();
}

/**
 * Creates a folder and its parents; nothing happens when it is there, and nothing stays of what was begun when it
 * fails. One by one: Node's recursive mkdir says ENOENT where the file system is read-only, and never returns in /proc.
 * @returns the topmost folder that was made; undefined when it was there
 */
export async function makeFolder(path: string): Promise<string | undefined> {
  const target = resolve(path);
  const missing: string[] = [];
  for (let at = target; (await kindOf(at)) === undefined; at = dirname(at)) missing.unshift(at);
  if (missing.length === 0 && (await kindOf(target)) !== 'folder') missing.push(target);
  const made: string[] = [];
  for (const folder of missing) {
    try {
      await mkdir(folder);
      made.push(folder);
    } catch (error) {
      // Another process may have been faster.
      if (errnoOf(error) === 'EEXIST' && (await kindOf(folder)) === 'folder') continue;
      if (made.length > 0) await removeEmptyFolders(made.at(-1) as string, made[0] as string);
      throw fileError(error, 'write', path);
    }
  }
  return made[0];
}

/** Removes the folders from `from` up to `last` as long as they are empty. */
export async function removeEmptyFolders(from: string, last: string): Promise<void> {
  for (let folder = resolve(from); folder.length >= last.length; folder = dirname(folder)) {
    try {
      await rmdir(folder);
    } catch {
      return;
    }
  }
}

/**
 * Names a file and its content: device, inode, size, and the times of the last change of content and of status in
 * nanoseconds. native/core/checkpoint/mapped_file.cc writes the same, so that what is mapped is what was read.
 */
function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return [dev, ino, size, mtimeNs, ctimeNs].join(':');
}

/** The {@link FileReader.identity} of a file that is not opened. */
export async function fileIdentity(path: string): Promise<string> {
  return identityOf(await attempt('read', path, () => stat(path, { bigint: true })));
}

const CHANGED_HINT = 'open it again once nobody writes to it; put a new version beside the old one and rename it';

/** A regular file opened for reading at given places. */
export class FileReader {
  private constructor(
    /** Absolute path. */
    readonly path: string,
    /** Bytes in the file when it was opened. */
    readonly size: number,
    /** Which file it is and which content it had when it was opened, see {@link identityOf}. */
    readonly identity: string,
    private readonly handle: FileHandle,
  ) {}

  /**
   * Opens a file, calls `use` and closes the file whatever happens.
   * @param identity what the file was when it was read before; another one is an error
   */
  static async use<T>(path: string, use: (reader: FileReader) => Promise<T>, identity?: string): Promise<T> {
    const absolute = resolve(path);
    // O_NONBLOCK: opening a named pipe must not wait for its writer.
    const handle = await attempt('read', absolute, () => open(absolute, constants.O_RDONLY | constants.O_NONBLOCK));
    try {
      const found = await attempt('read', absolute, () => handle.stat({ bigint: true }));
      if (!found.isFile()) {
        const kind = found.isDirectory() ? 'a folder' : 'not a regular file';
        throw new NeoXPrefixError('NEOX_IO', `Cannot read ${absolute}: it is ${kind}`, { path: absolute });
      }
      if (identity !== undefined && identity !== identityOf(found)) {
        throw new NeoXPrefixError(
          'NEOX_IO',
          `Cannot read ${absolute}: it was replaced or changed since its header was read`,
          { path: absolute, hint: CHANGED_HINT },
        );
      }
      return await use(new FileReader(absolute, Number(found.size), identityOf(found), handle));
    } finally {
      await handle.close();
    }
  }

  /** Reads exactly `length` bytes from `offset`; a file that ends before is an error. */
  async read(offset: number, length: number): Promise<Buffer<ArrayBuffer>> {
    if (offset < 0 || length < 0 || offset + length > this.size) throw this.tooShort(offset + length);
    // Not from Node's pool: callers view these bytes as wider numbers, which needs an aligned start.
    const bytes = Buffer.from(new ArrayBuffer(length));
    let done = 0;
    while (done < length) {
      const want = Math.min(length - done, MAX_TRANSFER);
      const { bytesRead } = await attempt('read', this.path, () => this.handle.read(bytes, done, want, offset + done));
      if (bytesRead === 0) throw this.tooShort(offset + length);
      done += bytesRead;
    }
    return bytes;
  }

  private tooShort(wanted: number): NeoXPrefixError {
    return new NeoXPrefixError(
      'NEOX_IO',
      `Cannot read ${this.path}: expected at least ${wanted} bytes, the file has ${this.size}`,
      {
        path: this.path,
        hint: 'the file is incomplete or was changed while it was read',
      },
    );
  }
}

/** A whole small file; more than `maxBytes` is an error, so that a wrong path cannot fill the memory. */
export async function readSmallFile(path: string, maxBytes: number): Promise<Buffer> {
  return FileReader.use(path, async (reader) => {
    if (reader.size > maxBytes) {
      throw new NeoXPrefixError(
        'NEOX_IO',
        `Cannot read ${reader.path}: expected at most ${maxBytes} bytes, the file has ${reader.size}`,
        {
          path: reader.path,
          hint: 'this does not look like the file that is meant',
        },
      );
    }
    return reader.read(0, reader.size);
  });
}

/** SHA-256 of the given pieces one after the other, in lower-case hexadecimal. */
export function sha256(...pieces: readonly (string | NodeJS.ArrayBufferView)[]): string {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  return hash.digest('hex');
}

/** SHA-256 of a file's bytes, in lower-case hexadecimal. */
export async function sha256File(path: string): Promise<string> {
  return FileReader.use(path, async (reader) => {
    const hash = createHash('sha256');
    const step = 8 * 1024 * 1024;
    for (let offset = 0; offset < reader.size; offset += step) {
      hash.update(await reader.read(offset, Math.min(step, reader.size - offset)));
    }
    return hash.digest('hex');
  });
}

export type Chunk = string | NodeJS.ArrayBufferView;

/** A hidden name beside a path that nobody else has; run folders know from it what a killed process left. */
export function temporaryBeside(path: string): string {
  return join(dirname(path), `.${basename(path).slice(0, 100)}.${process.pid}-${randomBytes(6).toString('hex')}.tmp`);
}

/**
 * Writes a file so that the path holds either the old content or all of the new, whatever happens in between: a
 * temporary file beside it is written, synced and renamed, then the folder is synced. On an error the temporary file is
 * removed. An error thrown by the iteration of `chunks` (a cancelled export, say) comes out unchanged.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Chunk | Iterable<Chunk> | AsyncIterable<Chunk>,
): Promise<void> {
  const target = resolve(path);
  const folder = dirname(target);
  const temporary = temporaryBeside(target);
  if ((await kindOf(target)) === 'folder') {
    throw new NeoXPrefixError('NEOX_IO', `Cannot write ${target}: EISDIR`, {
      path: target,
      hint: HINTS['EISDIR'] as string,
    });
  }
  const handle = await attempt('write', target, () => open(temporary, 'wx'));
  try {
    try {
      const pieces = typeof chunks === 'string' || ArrayBuffer.isView(chunks) ? [chunks] : chunks;
      for await (const chunk of pieces) await writeChunk(handle, target, chunk);
      await attempt('write', target, () => handle.sync());
    } finally {
      await attempt('write', target, () => handle.close());
    }
    await attempt('write', target, () => rename(temporary, target));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
  await syncFolder(folder);
}

async function writeChunk(handle: FileHandle, path: string, chunk: Chunk): Promise<void> {
  const bytes =
    typeof chunk === 'string' ? Buffer.from(chunk) : new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  let done = 0;
  while (done < bytes.byteLength) {
    const want = Math.min(bytes.byteLength - done, MAX_TRANSFER);
    const { bytesWritten } = await attempt('write', path, () => handle.write(bytes, done, want));
    done += bytesWritten;
  }
}

/** Makes a rename in this folder survive a power failure. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await attempt('write', folder, () => open(folder, 'r'));
  try {
    await handle.sync();
  } catch (error) {
    // Some network file systems cannot sync a folder; the file itself is already safe there.
    if (errnoOf(error) !== 'EINVAL' && errnoOf(error) !== 'ENOTSUP') throw fileError(error, 'write', folder);
  } finally {
    await handle.close();
  }
}

/** Bytes of a file, or undefined when there is none. */
export async function fileSize(directory: string, name: string): Promise<number | undefined> {
  const path = join(directory, name);
  try {
    return (await stat(path)).size;
  } catch (cause) {
    if (isError(cause) && 'code' in cause && cause.code === 'ENOENT') return undefined;
    throw fileError(cause, 'read', path);
  }
}
