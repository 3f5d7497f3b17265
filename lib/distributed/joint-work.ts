import { setTimeout as sleep } from 'node:timers/promises';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import type { NativeAddon } from '../addon/addon';
import type * as Native from '../../types/native';
import { nameOf } from './peers';
import type { ProcessGroup } from './process-group';

/** Between two looks at the store for what rank 0 says, in milliseconds. */
const LOOK = 10;

/** What a rank leaves in the store when it is asked to stop. */
interface Stop {
  rank: number;
}

/**
 * Something that the ranks of a group do together, from the check that all mean the same to its end.
 *
 * Rules that keep every rank from waiting in vain: all call `share`, `sync` and `exchange` in the same order, and what
 * decides on the order is the same on all of them. Whoever is asked to stop goes on to the next `share` or `sync`, in
 * which all learn of it and stop together. Whoever fails says so in the store and leaves, which ends the exchanges of
 * the others.
 */
export class JointWork {
  private readonly controller = new AbortController();
  private shares = 0;
  private stop: Stop | undefined;
  private waited = 0;
  private prefix = '';

  private constructor(
    readonly group: ProcessGroup,
    private readonly outer: AbortSignal | undefined,
  ) {}

  /**
   * Does the work and leaves the group in order.
   * @param signal stops the work on all ranks
   * @throws what `body` throws; NEOX_PEER_LOST where another rank fails; NEOX_RANK_MISMATCH
   */
  static async run<T>(
    group: ProcessGroup,
    signal: AbortSignal | undefined,
    body: (work: JointWork) => Promise<T>,
  ): Promise<T> {
    const work = new JointWork(group, signal);
    await group.begin((number) => {
      work.prefix = `work/${number}/`;
      return {
        key: `${work.prefix}stop`,
        found: (text) => work.onStop(JSON.parse(text) as Stop),
        lost: (error) => work.controller.abort(error),
      };
    });
    const onAbort = (): void => work.requestStop();
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await body(work);
    } catch (error) {
      if (!work.isKnown(error)) await group.fail(error);
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      group.end();
    }
  }

  get rank(): number {
    return this.group.rank;
  }

  get size(): number {
    return this.group.size;
  }

  /** Whether a rank was asked to stop. */
  get isStopping(): boolean {
    return this.stop !== undefined;
  }

  /** Aborts where any rank stops or fails. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Seconds in which this rank waited for others, since it was asked last. */
  takeWaited(): number {
    const seconds = this.waited;
    this.waited = 0;
    return seconds;
  }

  private requestStop(): void {
    const { rank, group } = this;
    this.onStop({ rank });
    // Where it fails the store is gone, and all stop for that.
    void group.set(`${this.prefix}stop`, JSON.stringify({ rank })).catch(() => undefined);
  }

  private onStop(stop: Stop): void {
    this.stop ??= stop;
    this.controller.abort(this.stopReason());
  }

  private stopReason(): unknown {
    if (this.outer?.aborted === true) return this.outer.reason;
    const { stop, group } = this;
    const who = nameOf(group.member(stop?.rank ?? 0));
    return new DOMException(`The work was stopped on ${who}`, 'AbortError');
  }

  /** Whether the other ranks know of an error: because it is their own, too. */
  private isKnown(error: unknown): boolean {
    if (this.stop !== undefined && this.signal.aborted && error === this.signal.reason) return true;
    return isNeoXPrefixError(error) && (error.code === 'NEOX_PEER_LOST' || error.code === 'NEOX_RANK_MISMATCH');
  }

  /**
   * What each rank does for itself, however long it takes; returns when all have done it.
   * @throws where any rank was asked to stop, on all of them
   */
  async each<T>(make: () => Promise<T>): Promise<T> {
    const { group, rank, size } = this;
    const key = `${this.prefix}each/${++this.shares}/`;
    let value: T | undefined;
    try {
      value = await make();
    } catch (error) {
      if (this.stop === undefined || !this.signal.aborted) throw error;
    }
    await group.set(`${key}${rank}`, this.stop === undefined ? '' : 'stop');
    let isStopping = false;
    for (let other = 0; other < size; other++)
      if ((await this.waitFor(`${key}${other}`)) !== '') {
        isStopping = true;
        this.stop ??= { rank: other };
      }
    if (isStopping) throw this.stopped();
    return value as T;
  }

  /**
   * Compares what the ranks are about to do, before the first exchange.
   * @param describeDifference undefined where two are the same
   * @throws NEOX_RANK_MISMATCH on all ranks where one differs
   */
  async checkSame<T>(what: T, describeDifference: (first: T, own: T) => string | undefined): Promise<void> {
    const { group, rank, size, prefix } = this;
    const first = await this.share(() => Promise.resolve(what));
    const difference = describeDifference(first, JSON.parse(JSON.stringify(what)) as T);
    if (rank > 0) await group.set(`${prefix}same/${rank}`, difference ?? '');
    const found = await this.share(async () => {
      for (let other = 1; other < size; other++) {
        const said = await this.waitFor(`${prefix}same/${other}`);
        if (said !== '') return { rank: other, said };
      }
      return null;
    });
    if (found === null) return;
    throw new NeoXPrefixError(
      'NEOX_RANK_MISMATCH',
      `The ranks were started differently: ${found.said} on ${nameOf(group.member(found.rank))}`,
      { hint: 'start every rank with the same program, options and data' },
    );
  }

  /** What rank 0 makes, as JSON, on all ranks. The others wait for it as long as rank 0 lives. */
  async share<T>(make: () => Promise<T>): Promise<T> {
    const { group, rank, signal } = this;
    const key = `${this.prefix}share/${++this.shares}`;
    if (rank > 0) {
      const text = await this.waitFor(key);
      if (text === '') throw this.stopped();
      return (JSON.parse(text) as { value: T }).value;
    }
    let value: T | undefined;
    try {
      value = await make();
    } catch (error) {
      if (this.stop === undefined || !signal.aborted) throw error;
    }
    // For all ranks, this one decides whether they stop here.
    const stop = this.stop !== undefined;
    await group.set(key, stop ? '' : JSON.stringify({ value }));
    if (stop) throw this.stopped();
    return value as T;
  }

  /** Waits for a key of the store that another rank sets. */
  private async waitFor(key: string): Promise<string> {
    const { group, signal } = this;
    const started = performance.now();
    for (let pause = 1; ; pause = Math.min(LOOK, pause * 2)) {
      const text = await group.get(key).catch(async (error: unknown) => {
        throw await group.lost(error);
      });
      if (text !== null) {
        this.waited += (performance.now() - started) / 1000;
        return text;
      }
      // Whoever stops is heard of by way of the key.
      if (signal.aborted && this.stop === undefined) throw signal.reason;
      await sleep(pause);
    }
  }

  /**
   * The values of all ranks; all give as many.
   * @throws where any rank was asked to stop, on all of them
   */
  async sync(values: readonly number[]): Promise<number[][]> {
    const all = await this.gather([this.stop === undefined ? 0 : 1, ...values]);
    const stopping = all.findIndex(([flag]) => flag !== 0);
    if (stopping >= 0) {
      this.stop ??= { rank: stopping };
      throw this.stopped();
    }
    return all.map(([, ...rest]) => rest);
  }

  private stopped(): unknown {
    this.onStop(this.stop ?? { rank: 0 });
    return this.signal.reason;
  }

  /** The values of all ranks, whether they stop or not. */
  async gather(values: readonly number[]): Promise<number[][]> {
    return this.timed(() => this.group.gather(values));
  }

  /** What rank 0 has. */
  async broadcast(values: Float32Array): Promise<Float32Array> {
    return this.timed(() => this.group.broadcast(values));
  }

  async exchange(start: (addon: NativeAddon, group: Native.Group) => Promise<void>): Promise<void> {
    await this.timed(() => this.group.exchange(start));
  }

  private async timed<T>(exchange: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      return await exchange();
    } finally {
      this.waited += (performance.now() - started) / 1000;
    }
  }
}
