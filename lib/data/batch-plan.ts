import { badArgument, checkFunction, checkInteger, checkOneOf, checkOptions, checkSignal } from '../base/arguments';
import { EpochOrder, generator, shuffle } from './order';
import { eventLoopTurns } from './sample';

/** How samples are put into batches; see {@link BatchPlan}. */
export const BATCH_ORDERS = ['sequential', 'shuffled', 'bucketed'] as const;
/** One of {@link BATCH_ORDERS}. */
export type BatchOrder = (typeof BATCH_ORDERS)[number];

/** What a plan is made for. */
export interface BatchPlanOptions {
  /** Number of samples. */
  length: number;
  /** Tokens of a sample. Needed for `batchTokens` and for `'bucketed'`. */
  tokensOf?: (index: number) => number;
  seed: number;
  /** Counts from 1; each has an order of its own. */
  epoch: number;
  /** Samples in a batch; the last batch may have fewer. Either this or `batchTokens`. */
  batchSize?: number;
  /** Tokens in a batch: as many samples as fit. A longer sample is a batch by itself. */
  batchTokens?: number;
  /**
   * `'sequential'`: as in the dataset. `'shuffled'`: in random order. `'bucketed'`: shuffled, then sorted by length
   * within windows of about 100 batches, so that the samples of a batch are of similar length; the batches of a window
   * are in random order.
   */
  order: BatchOrder;
}

const OPTIONS = ['length', 'tokensOf', 'seed', 'epoch', 'batchSize', 'batchTokens', 'order'] as const;
const WINDOW_BATCHES = 100;
const MAX_WINDOW_SAMPLES = 2 ** 20;
/** So that the order of batches has numbers of its own, apart from those of epochs. */
const BATCH_STREAM = 0x6261_7463;

/**
 * The batches of an epoch: each sample in exactly one of them, decided by the options alone, so that any batch can be
 * had again (to resume a run) without those before it. Memory does not grow with the number of samples, but for orders
 * of up to a million, which are lists of 4 bytes a sample, and 4 bytes a window with `batchTokens`.
 */
export class BatchPlan {
  private readonly sampleAt: (position: number) => number;
  private readonly tokensOf: (index: number) => number;
  /** Samples in a window. */
  private readonly window: number;
  /** With `batchTokens`: the number of batches up to the end of each window. */
  private ends: Uint32Array | undefined;
  private last: { window: number; batches: number[][] } | undefined;

  /** @throws NEOX_BAD_ARGUMENT */
  constructor(private readonly options: BatchPlanOptions) {
    checkOptions('options', options, OPTIONS);
    const { length, tokensOf, seed, epoch, batchSize, batchTokens, order } = options;
    checkInteger('length', length, 0, 2 ** 32 - 1);
    checkInteger('seed', seed, 0);
    checkInteger('epoch', epoch, 0);
    checkOneOf('order', order, BATCH_ORDERS);
    if ((batchSize === undefined) === (batchTokens === undefined)) {
      if (batchSize === undefined)
        throw badArgument('batchSize', 'an integer of at least 1, or one for batchTokens,', batchSize);
      throw badArgument('batchTokens', 'nothing beside batchSize', batchTokens);
    }
    if (batchSize !== undefined) checkInteger('batchSize', batchSize, 1);
    if (batchTokens !== undefined) checkInteger('batchTokens', batchTokens, 1);
    if (batchTokens !== undefined || order === 'bucketed') checkFunction('tokensOf', tokensOf);
    this.tokensOf = tokensOf ?? ((): number => 1);
    if (order === 'sequential') this.sampleAt = (position) => position;
    else {
      const samples = new EpochOrder(length, seed, epoch);
      this.sampleAt = (position) => samples.at(position);
    }
    this.window = batchSize !== undefined ? batchSize * WINDOW_BATCHES : this.windowOf(batchTokens as number);
  }

  /** Number of batches. With `batchTokens` the first use goes over the whole epoch, unless {@link prepare} has. */
  get length(): number {
    const { length, batchSize } = this.options;
    if (batchSize !== undefined) return Math.ceil(length / batchSize);
    return this.windowEnds().at(-1) ?? 0;
  }

  /**
   * Goes over the epoch, where that is needed, and lets the event loop turn meanwhile: a second or two for a million
   * samples.
   */
  async prepare(signal?: AbortSignal): Promise<void> {
    if (this.options.batchSize !== undefined || this.ends !== undefined) return;
    const turn = eventLoopTurns(checkSignal('signal', signal));
    for (const ends = this.counted(); ends.next().done !== true;) await turn();
  }

  /** The samples of a batch, which counts from 0. */
  at(batch: number): number[] {
    const { length } = this;
    if (length === 0) throw badArgument('batch', 'no index, as there is no batch,', batch);
    checkInteger('batch', batch, 0, length - 1);
    const { batchSize, order } = this.options;
    if (batchSize !== undefined && order !== 'bucketed')
      return this.samples(batch * batchSize, (batch + 1) * batchSize);
    if (batchSize !== undefined)
      return this.batchesOf(Math.floor(batch / WINDOW_BATCHES))[batch % WINDOW_BATCHES] as number[];
    const ends = this.windowEnds();
    const window = firstAbove(ends, batch);
    return this.batchesOf(window)[batch - (window === 0 ? 0 : (ends[window - 1] as number))] as number[];
  }

  /** Samples in a window of about 100 batches of so many tokens. */
  private windowOf(batchTokens: number): number {
    const { length } = this.options;
    let tokens = 0;
    for (let i = 0; i < length; i++) tokens += this.tokensOf(i);
    const samples = Math.round((WINDOW_BATCHES * batchTokens * length) / Math.max(1, tokens));
    return Math.min(MAX_WINDOW_SAMPLES, Math.max(WINDOW_BATCHES, samples));
  }

  private windowEnds(): Uint32Array {
    for (const ends = this.counted(); this.ends === undefined;) ends.next();
    return this.ends;
  }

  /** Counts the batches, window by window. */
  private *counted(): Generator<void, void, void> {
    const ends = new Uint32Array(Math.ceil(this.options.length / this.window));
    let batches = 0;
    for (let window = 0; window < ends.length; window++) {
      ends[window] = batches += this.composed(window).length;
      yield;
    }
    this.ends = ends;
  }

  private samples(first: number, end: number): number[] {
    return Array.from({ length: Math.min(end, this.options.length) - first }, (_, i) => this.sampleAt(first + i));
  }

  /** The batches of a window in the order of the epoch; those of the last window that was asked for are kept. */
  private batchesOf(window: number): number[][] {
    if (this.last?.window !== window) {
      const batches = this.composed(window);
      const { order, seed, epoch } = this.options;
      if (order === 'bucketed')
        shuffle(batches, generator(seed, (BATCH_STREAM + Math.imul(epoch, 0x9e3779b1) + window) >>> 0));
      this.last = { window, batches };
    }
    return this.last.batches;
  }

  /** The batches of a window as they fill up. */
  private composed(window: number): number[][] {
    const { batchSize = Infinity, batchTokens = Infinity, order } = this.options;
    const samples = this.samples(window * this.window, (window + 1) * this.window);
    // The sort is stable, so equal lengths stay in their random order.
    if (order === 'bucketed') samples.sort((a, b) => this.tokensOf(a) - this.tokensOf(b));
    const batches: number[][] = [];
    let tokens = 0;
    for (const sample of samples) {
      const more = this.tokensOf(sample);
      const batch = batches.at(-1);
      if (batch !== undefined && batch.length < batchSize && tokens + more <= batchTokens) {
        batch.push(sample);
        tokens += more;
      } else {
        batches.push([sample]);
        tokens = more;
      }
    }
    return batches;
  }
}

/** The first index whose value is above a number, in a list that rises. */
function firstAbove(list: Uint32Array, value: number): number {
  let [low, high] = [0, list.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((list[middle] as number) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
