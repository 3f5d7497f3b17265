import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { type NeoXErrorCode, NeoXPrefixError } from './errors';
import { fileError, kindOf, listFolder, makeFolder, removeEmptyFolders, syncFolder } from './files';

/** What would be written, for {@link checkReplaceable}. */
export interface Replaceable {
  overwrite: boolean;
  kind: 'file' | 'folder';
  /** Whether what is there, of this kind, is what would be written; nothing else is ever replaced. */
  isOurs: () => Promise<boolean> | boolean;
  /** What errors call it, as 'an export'. */
  what: string;
  code: NeoXErrorCode;
  /** What to do, beside `overwrite: true`, where there is one already, and where there is something else. */
  hints: { ours: string; other: string };
}

/**
 * Whether a path may be written: there is nothing, or, with `overwrite`, what it is to be, or an empty folder.
 * @throws `code`
 */
export async function checkReplaceable(path: string, target: Replaceable): Promise<void> {
  const kind = await kindOf(path);
  if (kind === undefined) return;
  const fits = kind === target.kind;
  const isOurs = fits && (await target.isOurs());
  const isFree = isOurs || (fits && kind === 'folder' && (await listFolder(path)).length === 0);
  if (target.overwrite && isFree) return;
  throw new NeoXPrefixError(
    target.code,
    isOurs ? `There is ${target.what} already: ${path}` : `Something else is there already: ${path}`,
    { path, hint: isOurs ? target.hints.ours : target.hints.other },
  );
}

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
