import { inspect } from 'node:util';
import { checkInteger } from '../arguments';
import { NeoXPrefixError } from '../errors';
import { native } from '../native';
import { runNative } from '../native-call';
import type * as Native from '../../types/native';
import type { NeoXModel } from './neox-model';

/**
 * The keys and values of a batch of rows, as {@link NeoXModel.forward} returns them. A cache is never changed: going on from it gives a
 * new one, and the two share memory where they can. So one cache may be continued in several ways.
 */
export class KVCache {
  /** Tokens of each row, prefix not counted. */
  readonly lengths: readonly number[];
  private handle: Native.Cache | undefined;

  /** @internal */
  constructor(
    /** The model that made it and can go on from it. */
    readonly model: NeoXModel,
    handle: Native.Cache,
    /** Length of each row's prefix; 0: none. */
    readonly prefixLengths: readonly number[],
  ) {
    this.handle = handle;
    this.lengths = Array.from(native().cacheLengths(handle));
  }

  /** B */
  get batchSize(): number {
    return this.lengths.length;
  }

  /** True when the cache or its model was disposed. */
  get disposed(): boolean {
    return this.handle === undefined || this.model.disposed;
  }

  /** @internal */
  get native(): Native.Cache {
    if (this.handle === undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This KV cache is disposed');
    return this.handle;
  }

  /**
   * The keys and values of one row, without its prefix, in the order of prefix weights: float32 [T, L, 2, N, D]. Keys are in post-rotary
   * space, so they can become a prefix: `PrefixWeights.fromTensor`.
   */
  async read(row = 0): Promise<{ data: Float32Array; shape: [number, number, 2, number, number] }> {
    checkInteger('row', row, 0, this.batchSize - 1);
    const { numLayers, numHeads, headSize } = this.model.config;
    const data = await runNative(undefined, (addon) => addon.readCache(this.model.native, this.native, row));
    return { data, shape: [this.lengths[row] ?? 0, numLayers, 2, numHeads, headSize] };
  }

  /** Frees the memory now rather than when the cache is collected. */
  dispose(): void {
    if (this.handle !== undefined) native().freeCache(this.handle);
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
}
