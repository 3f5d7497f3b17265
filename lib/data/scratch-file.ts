import { randomBytes } from 'node:crypto';
import { readSync } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { fileError } from '../base/files';

const FOLDER_HINT = 'free some space there, or name another folder with cacheDir';

/** Closes what was forgotten, before Node complains of it. */
const forgotten = new FinalizationRegistry<FileHandle>((handle) => void handle.close().catch(() => undefined));

/**
 * A file of 32-bit numbers that is there as long as it is open: it has no name from the start, so nothing of it is left
 * whatever happens.
 */
export class ScratchFile {
  /** Numbers in the file. */
  length = 0;

  private constructor(
    private readonly folder: string,
    private readonly handle: FileHandle,
  ) {
    forgotten.register(this, handle, this);
  }

  static async create(folder: string): Promise<ScratchFile> {
    const path = join(resolve(folder), `neox-prefix-${process.pid}-${randomBytes(6).toString('hex')}.ids`);
    try {
      const handle = await open(path, 'wx+', 0o600);
      await rm(path);
      return new ScratchFile(resolve(folder), handle);
    } catch (error) {
      throw explained(error, 'create a temporary file in', resolve(folder));
    }
  }

  async append(numbers: Int32Array): Promise<void> {
    const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    try {
      for (let done = 0; done < bytes.length;) {
        done += (await this.handle.write(bytes, done, bytes.length - done, 4 * this.length + done)).bytesWritten;
      }
    } catch (error) {
      throw explained(error, `write, behind ${4 * this.length} bytes, to a temporary file in`, this.folder);
    }
    this.length += numbers.length;
  }

  async read(first: number, count: number): Promise<Int32Array> {
    const numbers = new Int32Array(count);
    const bytes = new Uint8Array(numbers.buffer);
    try {
      for (let done = 0; done < bytes.length;) {
        const { bytesRead } = await this.handle.read(bytes, done, bytes.length - done, 4 * first + done);
        if (bytesRead === 0) throw this.tooShort(first + count);
        done += bytesRead;
      }
    } catch (error) {
      throw explained(error, 'read a temporary file in', this.folder);
    }
    return numbers;
  }

  readSync(first: number, count: number): Int32Array {
    const numbers = new Int32Array(count);
    const bytes = new Uint8Array(numbers.buffer);
    for (let done = 0; done < bytes.length;) {
      const bytesRead = readSync(this.handle.fd, bytes, done, bytes.length - done, 4 * first + done);
      if (bytesRead === 0) throw this.tooShort(first + count);
      done += bytesRead;
    }
    return numbers;
  }

  /** Waits for what is being read. */
  async close(): Promise<void> {
    forgotten.unregister(this);
    await this.handle.close();
  }

  private tooShort(wanted: number): NeoXPrefixError {
    return new NeoXPrefixError('NEOX_IO', `A temporary file in ${this.folder} ends before ${4 * wanted} bytes`, {
      path: this.folder,
    });
  }
}

/** An error of the file system as ours; the file has no name, so its folder is named. */
function explained(error: unknown, action: string, folder: string): unknown {
  if (isNeoXPrefixError(error)) return error;
  const general = fileError(error, action, folder);
  const code = (error as NodeJS.ErrnoException).code;
  if (!isNeoXPrefixError(general) || (code !== 'ENOSPC' && code !== 'EDQUOT')) return general;
  const what = code === 'ENOSPC' ? 'the disk is full' : 'the disk quota is used up';
  return new NeoXPrefixError('NEOX_IO', `Cannot ${action} ${folder}: ${code}`, {
    path: folder,
    hint: `${what}; ${FOLDER_HINT}`,
    cause: error,
  });
}
