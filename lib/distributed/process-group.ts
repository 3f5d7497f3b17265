import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type * as Native from '../../types/native';
import type { NativeAddon } from '../addon/addon';
import { runNative, runNativeNow } from '../addon/run-native';
import { badArgument, checkNumber, checkOneOf, checkOptions, checkSignal, checkString } from '../base/arguments';
import { isError, isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { packageVersion } from '../base/package';
import { type Launcher, LAUNCHERS, type RankEnvironment, readEnvironment } from './environment';
import { type Failure, failureOf, type Member, nameOf, peerLost } from './peers';

export interface JoinOptions {
  /**
   * Whose variables say which rank this process is: `'env'` torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT),
   * `'slurm'` those of srun, `'mpi'` those of Open MPI, MPICH or Intel MPI, `'none'` nobody's. Defaults to `'env'`
   * where those variables are set, else `'none'`.
   */
  launcher?: Launcher;
  /** The longest wait for another rank, when they meet and in one exchange, in seconds. Defaults to `600`. */
  timeoutSeconds?: number;
  /**
   * The network interface for the exchanges, for example `'eth0'`. Defaults to GLOO_SOCKET_IFNAME, else to the
   * interface that reaches the host of rank 0.
   */
  interface?: string;
  /** Where the variables are. Defaults to `process.env`. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Gives up the waiting for the others. */
  signal?: AbortSignal;
}

/** Between two looks at the store, in milliseconds. */
const LOOK = 200;
/** How long the others are watched to find out who is gone, in milliseconds. */
const WATCH = 1500;
/** How long the rank with the store waits for the others to leave, in milliseconds. */
const FAREWELL = 2000;

/** @internal What a look at the store found. */
export interface Watcher {
  /** The key that is looked at, and what to do when it is there. */
  key: string;
  found(value: string): void;
  /** Another rank is lost. */
  lost(error: NeoXPrefixError): void;
}

/**
 * The processes that train or evaluate together, one of them this one. They meet at a store at the address of rank 0
 * and exchange tensors over TCP, by c10d in libtorch; the network between them has to be trusted.
 *
 * ```ts
 * await using group = await ProcessGroup.join({ signal });
 * const result = await trainer.train(data, { group });
 * ```
 *
 * Every rank makes the same calls with the same data. Where one fails, the others get `NEOX_PEER_LOST` with its error,
 * and the group is of no more use.
 */
export class ProcessGroup implements AsyncDisposable {
  /** Number of this process, from 0. Rank 0 has encoder and optimizer, and writes. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** Number of this process among those of its host. */
  readonly localRank: number;
  /** Number of processes on this host. */
  readonly localSize: number;
  private members: Member[] = [];
  private failure: Promise<NeoXPrefixError> | undefined;
  private lostRank: number | undefined;
  private left = false;
  private exchanges = 0;
  private isWorking = false;
  private works = 0;
  private watcher: Watcher | undefined;
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> = Promise.resolve();

  private constructor(
    private readonly handle: Native.Group,
    { rank, size, localRank, localSize, hostsStore, host, port }: RankEnvironment,
    private readonly timeoutSeconds: number,
  ) {
    this.rank = rank;
    this.size = size;
    this.localRank = localRank;
    this.localSize = localSize;
    this.store = { isHere: hostsStore, place: `${host}, port ${port}` };
  }

  private readonly store: { isHere: boolean; place: string };

  /**
   * Meets the other processes of this job.
   * @returns undefined where this process is alone
   * @throws NEOX_BAD_ARGUMENT, also for variables of the launcher that are missing; NEOX_RENDEZVOUS where not all come;
   *   NEOX_RANK_MISMATCH for another version of this package; the reason of `signal`
   */
  static async join(options: JoinOptions = {}): Promise<ProcessGroup | undefined> {
    checkOptions('options', options, ['launcher', 'timeoutSeconds', 'interface', 'env', 'signal']);
    const { launcher } = options;
    if (launcher !== undefined) checkOneOf('launcher', launcher, LAUNCHERS);
    const timeout = checkNumber('timeoutSeconds', options.timeoutSeconds ?? 600, 0, 1e6, true);
    const env = options.env ?? process.env;
    if (options.interface !== undefined) checkString('interface', options.interface);
    const networkInterface = options.interface ?? (env['GLOO_SOCKET_IFNAME'] || undefined);
    const signal = checkSignal('signal', options.signal);
    const place = readEnvironment(env, launcher);
    if (place === undefined) return undefined;
    const { rank, size, host, port, hostsStore, attempt } = place;
    const deadline = performance.now() + timeout * 1000;
    const open = (): Promise<Native.Group> =>
      runNative(signal, (addon, cancel) =>
        addon.openGroup({
          ...{ rank, size, host, port, hostsStore, timeout, cancel },
          ...{ interface: networkInterface, scope: `neox/${attempt}/` },
        }),
      ).catch(async (error: unknown) => {
        // The name of a pod is not known before the pod is.
        const isEarly = isError(error) && /has no address/.test(error.message);
        if (!isEarly || performance.now() > deadline) throw withHint(error, place);
        await pauseFor(Math.min(1000, Math.max(0, deadline - performance.now()) + 1), signal);
        return open();
      });
    const handle = await open();
    const group = new ProcessGroup(handle, place, timeout);
    const came: (Member | undefined)[] = [];
    try {
      await group.meet(came, deadline, signal);
      return group;
    } catch (cause) {
      const isGone = isNeoXPrefixError(cause) && cause.code === 'NEOX_PEER_LOST';
      const error = isGone ? group.notAll(came, 'and rank 0, which has the store, is gone', cause) : cause;
      await runNative(undefined, (addon) => addon.leaveGroup(handle));
      throw withHint(error, place);
    }
  }

  /** Waits until every rank is here. Each tells the others who it is. */
  private async meet(came: (Member | undefined)[], deadline: number, signal: AbortSignal | undefined): Promise<void> {
    const { rank, size } = this;
    const self: Member = { rank, host: hostname(), pid: process.pid };
    const { torchVersion } = runNativeNow((addon) => addon.systemInfo());
    const version = `${packageVersion()}, libtorch ${torchVersion.replace(/\.\d+(\+.*)?$/, '')}`;
    if ((await this.add(`count/${rank}`, 1)) > 1)
      throw new NeoXPrefixError('NEOX_RENDEZVOUS', `Two processes say that they are rank ${rank}`);
    await this.set(`here/${rank}`, JSON.stringify({ ...self, size, version }));
    while (came.filter((member) => member !== undefined).length < size) {
      signal?.throwIfAborted();
      for (let other = 0; other < size; other++) {
        if (came[other] !== undefined) continue;
        const text = await this.get(`here/${other}`);
        if (text === null) continue;
        const said = JSON.parse(text) as Member & { size: number; version: string };
        const member = { rank: other, host: said.host, pid: said.pid };
        if (said.size !== size) throw mismatch('number of ranks', size, said.size, member);
        if (said.version !== version) throw mismatch('version', version, said.version, member);
        came[other] = member;
      }
      if (performance.now() > deadline) throw this.notAll(came, `within ${this.timeoutSeconds} s`);
      await pauseFor(20, signal);
    }
    this.members = came as Member[];
    await runNative(signal, (addon, cancel) => addon.connectGroup(this.handle, { cancel }));
    // A rank that is connected and fails at once would break off what others are still connecting.
    await this.set(`connected/${rank}`, '');
    for (let other = 0; other < size; other++) {
      while ((await this.get(`connected/${other}`)) === null) {
        if (performance.now() > deadline) {
          const text = `${nameOf(this.member(other))} could not connect within ${this.timeoutSeconds} s`;
          throw new NeoXPrefixError('NEOX_RENDEZVOUS', text.replace(/^r/, 'R'));
        }
        await pauseFor(5, signal);
      }
    }
    this.look();
  }

  private notAll(came: readonly (Member | undefined)[], when: string, cause?: unknown): NeoXPrefixError {
    const here = came.filter((member) => member !== undefined);
    const text = `${here.length} of ${this.size} ranks came ${when}: ${here.map(nameOf).join(', ')}`;
    return new NeoXPrefixError('NEOX_RENDEZVOUS', text, { cause });
  }

  /** Returns when every rank has called it. */
  async barrier(): Promise<void> {
    await this.gather([]);
  }

  /** Leaves the group. Idempotent. Whoever waits for this rank afterwards waits in vain, and is told so. */
  async dispose(): Promise<void> {
    if (this.left) return;
    this.left = true;
    clearTimeout(this.timer);
    await this.looking;
    try {
      await this.set(`left/${this.rank}`, '');
      // With the store would go what the others still ask.
      if (this.store.isHere) await this.farewell();
    } catch {
      // The store is gone already.
    }
    await runNative(undefined, (addon) => addon.leaveGroup(this.handle));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private async farewell(): Promise<void> {
    const end = performance.now() + FAREWELL;
    for (const { rank } of this.members) {
      if (rank === this.lostRank) continue;
      while (performance.now() < end && (await this.get(`left/${rank}`)) === null) await sleep(10);
    }
  }

  // ---- for the rooms above ----

  /** @internal */
  get self(): Member {
    return this.members[this.rank] as Member;
  }

  /** @internal Hosts of all ranks, each once. */
  get hosts(): string[] {
    return [...new Set(this.members.map(({ host }) => host))];
  }

  /** @internal */
  member(rank: number): Member {
    return this.members[rank] as Member;
  }

  /**
   * @internal Reserves the group for one piece of work, whose number it gives.
   * @throws NEOX_BUSY, NEOX_DISPOSED; NEOX_PEER_LOST where a rank was lost before
   */
  async begin(watcher: (number: number) => Watcher): Promise<number> {
    if (this.left) throw new NeoXPrefixError('NEOX_DISPOSED', 'The process group is disposed');
    if (this.failure !== undefined) throw await this.failure;
    if (this.isWorking) {
      throw new NeoXPrefixError('NEOX_BUSY', 'The process group is at work already', {
        hint: 'wait for it: all ranks have to do the same in the same order',
      });
    }
    this.isWorking = true;
    const number = ++this.works;
    this.watcher = watcher(number);
    return number;
  }

  /** @internal */
  end(): void {
    this.isWorking = false;
    this.watcher = undefined;
  }

  /** @internal Tells the others why this rank leaves, and leaves. */
  async fail(error: unknown): Promise<void> {
    try {
      await this.tell(failureOf(this.self, error));
    } catch {
      // They see it by the connections.
    }
    this.failure ??= Promise.resolve(peerLost(failureOf(this.self, error), error));
    await this.dispose();
  }

  /** The first failure counts: the others are what came of it. */
  private async tell(failure: Failure): Promise<void> {
    if ((await this.add('failures', 1)) === 1) await this.set('failed', JSON.stringify(failure));
  }

  /** @internal */
  async set(key: string, value: string): Promise<void> {
    await this.asking((addon) => addon.groupSet(this.handle, key, value));
  }

  /** @internal null: not there. */
  async get(key: string): Promise<string | null> {
    return this.asking((addon) => addon.groupGet(this.handle, key));
  }

  private async add(key: string, amount: number): Promise<number> {
    return this.asking((addon) => addon.groupAdd(this.handle, key, amount));
  }

  /** A store that does not answer may only be slow: it is asked again, unless this is to find out. */
  private async asking<T>(ask: (addon: NativeAddon) => Promise<T>): Promise<T> {
    const end = performance.now() + this.timeoutSeconds * 1000;
    for (;;) {
      try {
        return await runNative(undefined, ask);
      } catch (error) {
        const isSlow = isError(error) && /does not answer/.test(error.message);
        if (!isSlow || this.left || this.failure !== undefined || performance.now() > end) throw error;
      }
    }
  }

  /** @internal The values of each rank. All give as many. */
  async gather(values: readonly number[]): Promise<number[][]> {
    // Gloo has no exchange of nothing.
    const sent = values.length === 0 ? [0] : values;
    const all = await this.exchange((addon, group) => addon.groupGather(group, Float64Array.from(sent)));
    return Array.from({ length: this.size }, (_, r) => [
      ...all.subarray(r * sent.length, r * sent.length + values.length),
    ]);
  }

  /** @internal What rank 0 has. All give as many values. */
  async broadcast(values: Float32Array): Promise<Float32Array> {
    return this.exchange((addon, group) => addon.groupBroadcast(group, values, 0));
  }

  /** @internal Something that all ranks do at a time. @throws NEOX_PEER_LOST with what became of the other */
  async exchange<T>(start: (addon: NativeAddon, group: Native.Group) => Promise<T>): Promise<T> {
    if (this.left) throw new NeoXPrefixError('NEOX_DISPOSED', 'The process group is disposed');
    this.exchanges++;
    try {
      return await runNative(undefined, (addon) => start(addon, this.handle));
    } catch (error) {
      if (this.left || !isError(error)) throw error;
      throw await this.lost(error);
    }
  }

  /** Looks at the store now and then: whether a rank has failed, or wants to stop. */
  private look(): void {
    this.timer = setTimeout(() => {
      this.looking = this.lookOnce().then(() => {
        if (!this.left && this.failure === undefined) this.look();
      });
    }, LOOK).unref();
  }

  private async lookOnce(): Promise<void> {
    const { watcher } = this;
    try {
      await this.add(`beat/${this.rank}`, 1);
      const failed = await this.get('failed');
      if (failed !== null && this.failure === undefined)
        this.failure = Promise.resolve(peerLost(JSON.parse(failed) as Failure));
      const found = watcher === undefined ? null : await this.get(watcher.key);
      if (found !== null) watcher?.found(found);
    } catch (error) {
      if (this.left) return;
      void this.lost(error);
    }
    if (this.failure !== undefined) watcher?.lost(await this.failure);
  }

  /** @internal Finds out what became of the other ranks when an exchange or the store has failed. */
  async lost(error: unknown): Promise<NeoXPrefixError> {
    this.failure ??= this.investigate(error).then(async (failure) => {
      this.lostRank = failure.rank;
      await this.tell(failure).catch(() => undefined);
      return peerLost(failure, error);
    });
    return this.failure;
  }

  private async investigate(error: unknown): Promise<Failure> {
    const isSilence = isError(error) && /timed out/i.test(error.message);
    try {
      await this.set(`at/${this.rank}`, String(this.exchanges));
      const others = this.members.filter(({ rank }) => rank !== this.rank);
      const beats = (): Promise<(string | null)[]> => Promise.all(others.map(({ rank }) => this.get(`beat/${rank}`)));
      const before = await beats();
      const end = performance.now() + WATCH;
      while (performance.now() < end) {
        // A rank that fails says why.
        const failed = await this.get('failed');
        if (failed !== null) return JSON.parse(failed) as Failure;
        await sleep(50);
        await this.add(`beat/${this.rank}`, 1);
      }
      const after = await beats();
      const still = others.filter((_, i) => after[i] === before[i]);
      const silent: Member[] = [];
      for (const other of others) if ((await this.get(`at/${other.rank}`)) === null) silent.push(other);
      const culprit = still[0] ?? silent[0] ?? others[0];
      const message = isSilence ? `was silent for ${this.timeoutSeconds} s` : 'ended';
      return { ...(culprit as Member), code: undefined, message };
    } catch {
      return { ...this.storeKeeper(), code: undefined, message: `does not answer at ${this.store.place}` };
    }
  }

  /** Who is gone when the store is. */
  private storeKeeper(): Member {
    return this.members[0] as Member;
  }
}

async function pauseFor(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(milliseconds, undefined, signal === undefined ? {} : { signal }).catch(() => signal?.throwIfAborted());
}

function mismatch(field: string, own: unknown, other: unknown, member: Member): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_RANK_MISMATCH',
    `The ranks were started differently: ${field} is ${String(own)} here and ${String(other)} on ${nameOf(member)}`,
    { hint: 'start every rank with the same program, options and data' },
  );
}

function withHint(error: unknown, { rank, size, host, port }: RankEnvironment): unknown {
  if (!isNeoXPrefixError(error) || error.code !== 'NEOX_RENDEZVOUS' || error.hint !== undefined) return error;
  const { message } = error;
  const hint = /taken/.test(message)
    ? 'choose another MASTER_PORT, the same on every rank, or end the program that has it'
    : /no address of this machine/.test(message)
      ? 'set MASTER_ADDR to the host of rank 0, on every rank, or name its network interface'
      : /Two processes/.test(message)
        ? 'give each process a RANK of its own, and each job a MASTER_PORT of its own'
        : `rank ${rank} of ${size} meets the others at ${host}, port ${port}: look whether each rank was started, and whether that address is reached from here`;
  return new NeoXPrefixError('NEOX_RENDEZVOUS', message, { hint, cause: error });
}

/** @internal */
export function checkGroup(name: string, value: unknown): ProcessGroup | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof ProcessGroup)) throw badArgument(name, 'a ProcessGroup', value);
  return value;
}
