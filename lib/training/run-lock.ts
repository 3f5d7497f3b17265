import { readFileSync } from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import { NeoXPrefixError } from '../errors';
import { fileError } from '../files';

/**
 * Keeps two runs out of one folder. The lock names its process so that what a killed process left counts for nothing: process numbers come again
 * (in a container it is often 1), so the process's start time and the machine's boot are part of the name.
 */
export class RunLock {
  private constructor(private readonly path: string) {}

  /** @throws NEOX_BUSY where another run, of this process or another, holds the folder */
  static async take(path: string): Promise<RunLock> {
    const own = processName(process.pid);
    for (let attempt = 0; ; attempt++) {
      try {
        const handle = await open(path, 'wx');
        try {
          await handle.writeFile(JSON.stringify({ pid: process.pid, process: own }));
        } finally {
          await handle.close();
        }
        return new RunLock(path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt > 3) throw fileError(error, 'write', path);
      }
      const holder = await holderOf(path);
      if (holder !== undefined) {
        throw new NeoXPrefixError('NEOX_BUSY', `Another training run is at work in this folder: process ${holder}`, {
          path,
          hint: 'wait for it, or choose another folder',
        });
      }
      await rm(path, { force: true });
    }
  }

  async release(): Promise<void> {
    await rm(this.path, { force: true }).catch(() => undefined);
  }
}

/** The number of the living process that holds a lock; undefined where there is none. */
export async function holderOf(path: string): Promise<number | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '');
  const match = /^\{"pid":(\d{1,10}),"process":"([^"]{1,200})"\}$/.exec(text);
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
