import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { fileError, kindOf, makeFolder, removeEmptyFolders, syncFolder } from './files';

/** Has `fill` make a folder beside `target` and gives it that name when it is complete. */
export async function inNewFolder<T>(
  target: string,
  overwrite: boolean,
  fill: (folder: string) => Promise<T>,
): Promise<T> {
  const parent = dirname(target);
  const unique = `${process.pid}-${randomBytes(6).toString('hex')}`;
  const folder = join(parent, `.${basename(target)}.${unique}.tmp`);
  const old = join(parent, `.${basename(target)}.${unique}.old`);
  const created = await makeFolder(parent);
  try {
    await attempt(folder, () => mkdir(folder));
    const result = await fill(folder);
    const replaced = overwrite && (await kindOf(target)) !== undefined;
    if (replaced) await move(target, old);
    try {
      await move(folder, target);
    } catch (error) {
      if (replaced) await move(old, target);
      throw error;
    }
    await syncFolder(parent);
    if (replaced) await rm(old, { recursive: true, force: true });
    return result;
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    if (created !== undefined) await removeEmptyFolders(parent, created);
    throw error;
  }
}

export async function move(from: string, to: string): Promise<void> {
  await attempt(to, () => rename(from, to));
}

export async function attempt<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw fileError(error, 'write', path);
  }
}
