import { constants, readFileSync } from 'node:fs';
import { copyFile, link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { NeoXPrefixError } from '../base/errors';
import { fileError, sha256, temporaryBeside } from '../base/files';

/**
 * Keeps two runs out of one folder. The lock names its process so that what a killed process left counts for nothing:
 * process numbers come again (in a container it is often 1), so the process's start time and the machine's boot are
 * part of the name.
 */
export class RunLock {
  private constructor(private readonly path: string) {}

  /** @throws NEOX_BUSY where another run, of this process or another, holds the folder */
  static async take(path: string): Promise<RunLock> {
    // Written whole before it has its name: a lock that is still empty would look like that of a dead process.
    const own = temporaryBeside(path);
    try {
      await writeFile(own, JSON.stringify({ pid: process.pid, process: processName(process.pid) }), { flag: 'wx' });
      for (let attempt = 0; ; attempt++) {
        if (await isLinked(own, path, attempt > 50)) return new RunLock(path);
        const found = await textOf(path);
        const holder = livingHolder(found);
        if (holder !== undefined) throw busy(path, holder);
        if (found !== undefined && (await replacesDead(own, path, found))) return new RunLock(path);
      }
    } catch (error) {
      throw fileError(error, 'write', path);
    } finally {
      await rm(own, { force: true });
    }
  }

  async release(): Promise<void> {
    await rm(this.path, { force: true }).catch(() => undefined);
  }
}

function busy(path: string, holder: number): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BUSY', `Another training run is at work in this folder: process ${holder}`, {
    path,
    hint: 'wait for it, or choose another folder',
  });
}

/** What file systems say that have no second names for a file. */
const NO_LINKS: readonly string[] = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'];

/** Gives a file its second name; false where the name is taken. */
async function isLinked(own: string, path: string, last: boolean): Promise<boolean> {
  try {
    await link(own, path).catch(async (error: unknown) => {
      if (!NO_LINKS.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      await copyFile(own, path, constants.COPYFILE_EXCL);
    });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST' && !last) return false;
    throw error;
  }
}

/**
 * Puts a lock in the place of a dead one. Who does that has to be one: with a claim that is named after the dead lock,
 * so that nobody can replace what came instead of it. False where somebody else was faster.
 */
async function replacesDead(own: string, path: string, dead: string): Promise<boolean> {
  const claim = join(dirname(path), `.${basename(path)}.0-${sha256(dead).slice(0, 12)}.tmp`);
  if (!(await isLinked(own, claim, false))) {
    // The claim of a process that was killed at this very moment.
    if (livingHolder(await textOf(claim)) === undefined) await rm(claim, { force: true });
    await setTimeout(5);
    return false;
  }
  try {
    if ((await textOf(path)) !== dead) return false;
    await rename(own, path);
    return true;
  } finally {
    await rm(claim, { force: true });
  }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The number of the living process that holds a lock; undefined where there is none. */
export async function holderOf(path: string): Promise<number | undefined> {
  return livingHolder(await textOf(path).catch(() => undefined));
}

function livingHolder(lock: string | undefined): number | undefined {
  const match = /^\{"pid":(\d{1,10}),"process":"([^"]{1,200})"\}$/.exec(lock ?? '');
  if (match === null) return undefined;
  const pid = Number(match[1]);
  return processName(pid) === match[2] ? pid : undefined;
}

/** A name that no other process has, living or dead; undefined for a process that is not there. */
function processName(pid: number): string | undefined {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command's name, in parentheses, may hold spaces; the start time is the 20th field behind it.
    const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
    return `${boot}:${pid}:${start}`;
  } catch {
    return undefined;
  }
}
