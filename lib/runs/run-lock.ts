import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { constants, hostname } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { lockFile } from '../addon/addon';
import { NeoXPrefixError } from '../base/errors';
import { fileError } from '../base/files';

/** Who holds a lock, as its file says. */
export interface LockHolder {
  /** Process number, as its own container or machine counts. */
  readonly pid: number;
  readonly host: string;
}

/** Content of the file. */
interface Claim extends LockHolder {
  /** Of the running kernel, which containers share and machines do not; null where it is not told. */
  readonly boot: string | null;
  readonly token: string;
}

/** How often a holder shows that it lives, and how long another machine watches before it takes it for dead. */
const BEAT_MS = 5_000;
const WATCH_MS = 4 * BEAT_MS;

/** What a host may be called: it is shown on terminals, and the file may be anybody's. */
const HOST = /^[\w.:-]{1,253}$/;

/** How often a lock is tried that somebody else may have for a moment, who only looks who holds it. */
const TRIES = 5;

/**
 * Keeps two runs out of one folder. The lock is the kernel's (flock on run.lock): it ends with its process however that
 * ends, and knows nothing of process numbers, which mean something else in another container. Linux passes it on to NFS
 * servers unless the mount says `local_lock` or `nolock`. For those, and for other file systems that keep it to one
 * machine, the file also says which machine it is and changes every five seconds: a lock of another machine counts as
 * long as it does. On a file system without locks nothing is taken, and the error says so.
 */
export class RunLock {
  private readonly timer: NodeJS.Timeout;
  private lost = false;

  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
    private readonly claim: Claim,
    beat: number,
  ) {
    this.timer = setInterval(() => void this.beat(), beat).unref();
  }

  /**
   * @param times milliseconds between two signs of life, and how long to watch for one of another machine
   * @throws NEOX_BUSY where another run, of this process or another, holds the folder; NEOX_IO where the file system
   *   has no locks
   */
  static async take(path: string, times = { beat: BEAT_MS, watch: WATCH_MS }): Promise<RunLock> {
    for (let tries = 1; ; tries++) {
      const handle = await attempt(path, () => open(path, 'a+'));
      try {
        const problem = lockFile(handle.fd, true);
        if (problem === constants.errno.EWOULDBLOCK) {
          if (tries >= TRIES) throw busy(path, await readClaim(handle));
          await handle.close();
          await setTimeout(10 * tries);
          continue;
        }
        if (problem !== 0) {
          if ((await handle.stat()).size === 0) await rm(path, { force: true });
          throw noLocks(path, errorName(problem));
        }
        if (!(await isAt(handle, path))) {
          // Its holder removed it between the opening and the locking.
          await handle.close();
          continue;
        }
        const found = await readClaim(handle);
        if (found !== undefined && isOfOtherMachine(found) && (await showsLife(path, times.watch))) {
          throw busy(path, found);
        }
        const claim = { pid: process.pid, host: hostname(), boot: bootId(), token: randomUUID() };
        await attempt(path, async () => {
          await handle.truncate(0);
          await handle.appendFile(JSON.stringify(claim));
        });
        return new RunLock(path, handle, claim, times.beat);
      } catch (error) {
        await handle.close().catch(() => undefined);
        throw error;
      }
    }
  }

  /** @throws NEOX_BUSY when another run has taken the folder: somebody removed the lock, or this machine stood still */
  check(): void {
    if (!this.lost) return;
    throw new NeoXPrefixError('NEOX_BUSY', 'Another training run has taken the lock of this folder from this one', {
      path: this.path,
      hint: 'one of the two has to end; its last state is in the folder',
    });
  }

  /** Gives the folder to others; a lock that is another's stays. */
  async release(): Promise<void> {
    clearInterval(this.timer);
    try {
      if (await this.isOwn()) await rm(this.path, { force: true });
    } catch {
      // The lock ends with the file's closing, whether its name goes or stays.
    } finally {
      await this.handle.close();
    }
  }

  private async beat(): Promise<void> {
    try {
      const now = new Date();
      await this.handle.utimes(now, now);
      const found = await claimAt(this.path);
      if (found !== undefined && found.token !== this.claim.token) this.lost = true;
    } catch {
      // A server that does not answer for a while; the next time tells more.
    }
  }

  private async isOwn(): Promise<boolean> {
    return (await isAt(this.handle, this.path)) && (await readClaim(this.handle))?.token === this.claim.token;
  }
}

/** Who holds a lock; undefined where nobody does. */
export async function holderOf(path: string): Promise<LockHolder | undefined> {
  try {
    const handle = await open(path, 'r');
    try {
      const found = await readClaim(handle);
      return lockFile(handle.fd, false) === 0 ? undefined : found;
    } finally {
      await handle.close();
    }
  } catch {
    return undefined;
  }
}

function busy(path: string, holder: LockHolder | undefined): NeoXPrefixError {
  const who = holder === undefined ? '' : `: process ${holder.pid} on ${holder.host}`;
  return new NeoXPrefixError('NEOX_BUSY', `Another training run is at work in this folder${who}`, {
    path,
    hint: 'wait for it, or choose another folder',
  });
}

/** util.getSystemErrorName does not know all of them. */
function errorName(errno: number): string {
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? String(errno);
}

function noLocks(path: string, reason: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_IO', `The file system of ${path} has no locks (flock: ${reason})`, {
    path,
    hint: 'nothing would keep two runs apart there: choose a folder on another one, or mount it with locks',
  });
}

async function attempt<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw fileError(error, 'write', path);
  }
}

/** Whether an open file still has its name. */
async function isAt(handle: FileHandle, path: string): Promise<boolean> {
  const [own, there] = await Promise.all([handle.stat(), stat(path).catch(() => undefined)]);
  return there?.ino === own.ino && there.dev === own.dev;
}

async function readClaim(handle: FileHandle): Promise<Claim | undefined> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(1024), 0, 1024, 0);
  try {
    const { pid, host, boot, token } = JSON.parse(buffer.toString('utf8', 0, bytesRead)) as Record<string, unknown>;
    if (!Number.isSafeInteger(pid) || typeof host !== 'string' || !HOST.test(host) || typeof token !== 'string')
      return undefined;
    return { pid: pid as number, host, boot: typeof boot === 'string' ? boot : null, token };
  } catch {
    return undefined;
  }
}

async function claimAt(path: string): Promise<Claim | undefined> {
  const handle = await open(path, 'r');
  try {
    return await readClaim(handle);
  } finally {
    await handle.close();
  }
}

function isOfOtherMachine({ boot }: Claim): boolean {
  return boot === null || boot !== bootId();
}

/** Whether the file changes while it is watched. Opened anew each time: an NFS client asks its server only then. */
async function showsLife(path: string, watch: number): Promise<boolean> {
  let first: string | undefined;
  for (const end = performance.now() + watch; ;) {
    const handle = await open(path, 'r');
    try {
      const { mtimeNs } = await handle.stat({ bigint: true });
      const now = `${mtimeNs} ${(await readClaim(handle))?.token ?? ''}`;
      if (now !== (first ??= now)) return true;
    } finally {
      await handle.close();
    }
    if (performance.now() > end) return false;
    await setTimeout(watch / 20);
  }
}

function bootId(): string | null {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return null;
  }
}
