import { inspect } from 'node:util';
import type * as Native from '../../types/native';
import { runNative, runNativeNow } from '../addon/run-native';
import { badArgument, checkInteger } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { PrefixWeights } from '../prefix/weights';
import type { LoadedModel } from './loaded-model';

/**
 * The keys and values of a batch of rows, as {@link NeoXModel.forward} returns them. A cache is never changed: going on
 * from it gives a new one, and the two share memory where they can. So one cache may be continued in several ways.
 */
export class KVCache {
  /** Tokens of each row, prefix not counted. */
  readonly lengths: readonly number[];
  private handle: Native.Cache | undefined;

  /** @internal */
  constructor(
    /** The model that made it and can go on from it. */
    readonly model: LoadedModel,
    handle: Native.Cache,
    /** What stands in front of each row's tokens; undefined: nothing. */
    readonly prefixes: readonly (PrefixWeights | undefined)[],
  ) {
    this.handle = handle;
    this.lengths = Array.from(runNativeNow((addon) => addon.cacheLengths(handle)));
  }

  /** B */
  get batchSize(): number {
    return this.lengths.length;
  }

  /** Tokens of the longest row, prefix not counted. */
  get length(): number {
    return Math.max(...this.lengths);
  }

  /** Length of each row's prefix; 0: none. */
  get prefixLengths(): readonly number[] {
    return this.prefixes.map((prefix) => prefix?.prefixLength ?? 0);
  }

  /** True when the cache or its model was disposed. */
  get disposed(): boolean {
    return this.handle === undefined || this.model.disposed;
  }

  /**
   * Bytes of memory that the rows' keys and values are in, prefixes not counted; a row has room to grow. Memory that it
   * shares with another cache counts in both, and is freed when the last of them is disposed.
   */
  get bytes(): number {
    return runNativeNow((addon) => addon.cacheBytes(this.native));
  }

  /** @internal */
  get native(): Native.Cache {
    if (this.handle === undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This KV cache is disposed');
    return this.handle;
  }

  /**
   * Another cache of the same rows, or of some of them, in any order and any number of times: to go on from a row in
   * several ways at once. It lives and is disposed by itself. Memory is shared, and copied for whoever goes on second.
   * @param rows rows of this cache. Defaults to all.
   */
  fork(rows?: readonly number[]): KVCache {
    if (rows === undefined) return this.derive(this.lengths.map((_, i) => i));
    if (!Array.isArray(rows) || rows.length === 0) throw badArgument('rows', 'a non-empty array of rows', rows);
    const checked = Array.from(rows, (row: unknown, i) => checkInteger(`rows[${i}]`, row, 0, this.batchSize - 1));
    return this.derive(checked);
  }

  /**
   * A cache that has only the first tokens of each row.
   * @param length tokens to keep, of all rows or of each; prefixes are not counted. At most {@link lengths}.
   */
  truncate(length: number | readonly number[]): KVCache {
    if (Array.isArray(length) && length.length !== this.batchSize)
      throw badArgument('length', `one length for each of the ${this.batchSize} rows`, length);
    const lengths = this.lengths.map((present, i) =>
      Array.isArray(length)
        ? checkInteger(`length[${i}]`, length[i], 0, present)
        : checkInteger('length', length, 0, Math.min(...this.lengths)),
    );
    return this.derive(
      lengths.map((_, i) => i),
      lengths,
    );
  }

  /**
   * The keys and values of one row, without its prefix, in the order of prefix weights: float32 [T, L, 2, N, D]. Keys
   * are in post-rotary space, so they can become a prefix: `PrefixWeights.fromTensor`.
   */
  async read(row = 0): Promise<{ data: Float32Array; shape: [number, number, 2, number, number] }> {
    checkInteger('row', row, 0, this.batchSize - 1);
    const { numLayers, numHeads, headSize } = this.model.config;
    const data = await runNative(undefined, (addon) => addon.readCache(this.model.native, this.native, row));
    return { data, shape: [this.lengths[row] ?? 0, numLayers, 2, numHeads, headSize] };
  }

  /** Frees the memory now rather than when the cache is collected. */
  dispose(): void {
    const { handle } = this;
    if (handle !== undefined) runNativeNow((addon) => addon.freeCache(handle));
    this.handle = undefined;
  }

  /**
   * What console.log shows.
   * @internal
   */
  [inspect.custom](): string {
    const rows = this.lengths.map((length, i) => `${this.prefixLengths[i] ?? 0}+${length}`).join(', ');
    return `KVCache(prefix+tokens of ${this.batchSize} rows: ${rows}${this.disposed ? '; disposed' : ''})`;
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  private derive(rows: readonly number[], lengths = rows.map((row) => this.lengths[row] as number)): KVCache {
    const handle = runNativeNow((addon) =>
      addon.forkCache(this.native, Int32Array.from(rows), Int32Array.from(lengths)),
    );
    return new KVCache(
      this.model,
      handle,
      rows.map((row) => this.prefixes[row]),
    );
  }
}
