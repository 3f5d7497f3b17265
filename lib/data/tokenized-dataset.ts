import { badArgument, checkInteger, checkOptions, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { type Encoder, eventLoopTurns, type Sample, type TokenizedSample, tokenizeSample } from './sample';
import { SampleStore } from './sample-store';
import type { DatasetStatistics } from './statistics';

/** How samples in memory become a dataset. */
export interface FromSamplesOptions {
  /** Needed for samples that are text. */
  tokenizer?: Encoder;
  signal?: AbortSignal;
  /** What errors call the samples. Defaults to `'samples'`. */
  name?: string;
}

/**
 * Training samples as token ids, in memory or in a file on disk; immutable. Made by {@link openDataset} or {@link
 * TokenizedDataset.from}.
 *
 * ```ts
 * await using dataset = await openDataset('faq.jsonl', { tokenizer: model.tokenizer });
 * console.log(dataset.length, dataset.statistics.longest);
 * const { train, validation } = splitDataset(dataset, { train: 900, validation: 100 });
 * ```
 */
export class TokenizedDataset implements AsyncDisposable {
  private hashed: string | undefined;

  private constructor(
    private readonly store: SampleStore,
    private readonly first: number,
    /** Number of samples. */
    readonly length: number,
    private readonly isView: boolean,
  ) {}

  /** @internal A dataset of all that is in a store, which it closes. */
  static of(store: SampleStore): TokenizedDataset {
    return new TokenizedDataset(store, 0, store.length, false);
  }

  /**
   * Samples in memory as a dataset.
   *
   * @throws NEOX_BAD_ARGUMENT for a wrong type, NEOX_BAD_DATA for a completion without tokens, each naming the sample;
   *   the reason of `signal`
   * when it aborts.
   */
  static async from(samples: readonly Sample[], options?: FromSamplesOptions): Promise<TokenizedDataset> {
    const {
      tokenizer,
      signal,
      name = 'samples',
    } = checkOptions('options', options, ['tokenizer', 'signal', 'name']) as FromSamplesOptions;
    if (!Array.isArray(samples)) throw badArgument(name, 'an array of { prompt?, completion }', samples);
    if (tokenizer !== undefined && typeof tokenizer.encode !== 'function')
      throw badArgument('tokenizer', 'a tokenizer', tokenizer);
    const turn = eventLoopTurns(checkSignal('signal', signal));
    const encoder = tokenizer ?? {
      encode: (text) => {
        throw badArgument('tokenizer', 'a tokenizer (a sample is text)', text);
      },
    };
    const store = new SampleStore({ inMemoryLimit: Infinity, cacheDir: '' });
    for (const [i, sample] of (samples as Sample[]).entries()) {
      await turn();
      await store.add(tokenizeSample(sample, encoder, `${name}[${i}]`));
    }
    await store.finish();
    return TokenizedDataset.of(store);
  }

  /**
   * Identity of the samples: SHA-256 over all their ids and the borders of prompts and completions, in order. Equal for
   * the same samples however they were read or stored, and for a view the same as for a dataset of its samples alone.
   */
  get hash(): string {
    this.checkOpen();
    return (this.hashed ??= this.store.hash(this.first, this.first + this.length));
  }

  /** What was found when the samples were read. A view has the statistics of the whole. */
  get statistics(): DatasetStatistics {
    return { ...this.store.statistics };
  }

  /** Whether the ids are in a temporary file, and not in memory. */
  get isOnDisk(): boolean {
    return this.store.isOnDisk;
  }

  /**
   * Prompt and completion of the samples at these indices, in their order.
   *
   * @throws NEOX_BAD_ARGUMENT for an index out of range, NEOX_DISPOSED, NEOX_IO
   */
  async get(indices: readonly number[]): Promise<TokenizedSample[]> {
    this.checkOpen();
    return this.store.get(Array.from(indices, (index, i) => this.first + this.checkIndex(`indices[${i}]`, index)));
  }

  /** Tokens of a sample, prompt and completion, without reading it. */
  tokensOf(index: number): number {
    return this.store.tokensOf(this.first + this.checkIndex('index', index));
  }

  /** The samples from `first` up to and without `end`, as a view: it is open as long as the dataset that it is from. */
  slice(first: number, end: number): TokenizedDataset {
    checkInteger('first', first, 0, this.length);
    checkInteger('end', end, first, this.length);
    return new TokenizedDataset(this.store, this.first + first, end - first, true);
  }

  /** Frees the memory or the file, once what is being read is read. Closing a view does nothing. */
  async close(): Promise<void> {
    if (!this.isView) await this.store.close();
  }

  /** As {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private checkOpen(): void {
    if (this.store.isClosed) throw new NeoXPrefixError('NEOX_DISPOSED', 'The dataset is closed');
  }

  private checkIndex(name: string, index: number): number {
    if (this.length === 0) throw badArgument(name, 'no index, as the dataset is empty,', index);
    return checkInteger(name, index, 0, this.length - 1);
  }
}
