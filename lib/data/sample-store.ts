import { tmpdir } from 'node:os';
import { DuplicateCounter } from './duplicates';
import { IdStore } from './id-store';
import type { TokenizedSample } from './sample';
import { decodeSample, encodeSample, measureSample } from './sample-codec';
import { digestOf, SampleHasher } from './sample-hash';
import { SampleIndex } from './sample-index';
import { type DatasetStatistics, noStatistics } from './statistics';

/** Where samples are kept. */
export interface StoreOptions {
  /** Bytes of token ids that are kept in memory. */
  inMemoryLimit: number;
  /** Folder of the file that takes them when they are more. */
  cacheDir: string;
}

export const defaultStoreOptions = (): StoreOptions => ({ inMemoryLimit: 64 * 2 ** 20, cacheDir: tmpdir() });

/** Samples as ids, in memory or in a file; what the datasets that view them share. Filled once, then read. */
export class SampleStore {
  readonly statistics: DatasetStatistics = noStatistics();
  isClosed = false;
  private readonly index = new SampleIndex();
  private readonly hasher = new SampleHasher();
  private duplicates: DuplicateCounter | undefined = new DuplicateCounter();
  private readonly ids: IdStore;
  private readonly reads = new Set<Promise<unknown>>();

  constructor(options: StoreOptions = defaultStoreOptions()) {
    this.ids = new IdStore(options.inMemoryLimit, options.cacheDir);
  }

  get length(): number {
    return this.index.length;
  }

  /** Whether the ids are in a file. */
  get isOnDisk(): boolean {
    return this.ids.isOnDisk;
  }

  /** The next call must wait for the promise, where there is one. */
  add(sample: TokenizedSample): Promise<void> | undefined {
    const stored = encodeSample(sample);
    const { largestId, learned } = measureSample(stored);
    const { statistics } = this;
    statistics.shortest = statistics.samples === 0 ? stored.length : Math.min(statistics.shortest, stored.length);
    statistics.longest = Math.max(statistics.longest, stored.length);
    statistics.largestId = Math.max(statistics.largestId, largestId);
    statistics.completionTokens += learned;
    statistics.promptTokens += stored.length - learned;
    statistics.samples++;
    if (sample.turns !== undefined) statistics.conversations++;
    const digest = digestOf(stored);
    this.duplicates?.add(digest);
    this.hasher.push(digest);
    this.index.push(stored.length);
    return this.ids.append(stored);
  }

  /** To be called behind the last `add`. */
  async finish(): Promise<void> {
    await this.ids.finish();
    this.statistics.duplicates = this.duplicates?.duplicates ?? 0;
    this.statistics.duplicatesAreLowerBound = this.duplicates?.isLowerBound ?? false;
    this.duplicates = undefined;
  }

  tokensOf(index: number): number {
    return this.index.lengthOf(index);
  }

  async get(indices: readonly number[]): Promise<TokenizedSample[]> {
    const reading = this.ids.read(
      indices.map((i) => ({ first: this.index.offsetOf(i), count: this.index.lengthOf(i) })),
    );
    this.reads.add(reading);
    try {
      return (await reading).map(decodeSample);
    } finally {
      this.reads.delete(reading);
    }
  }

  hash(first: number, end: number): string {
    return this.hasher.hash(first, end, (from, to) => {
      const start = this.index.offsetOf(from);
      const ids = this.ids.readSync(start, this.index.offsetOf(to) - start);
      return Array.from({ length: to - from }, (_, i) => {
        const at = this.index.offsetOf(from + i) - start;
        return ids.subarray(at, at + this.index.lengthOf(from + i));
      });
    });
  }

  /** Waits for what is being read. */
  async close(): Promise<void> {
    this.isClosed = true;
    await Promise.allSettled(this.reads);
    await this.ids.close();
  }
}
