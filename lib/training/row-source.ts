import { type RowOptions, type Sample, sampleRows } from '../data/sample';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import type { LoadedModel } from '../model/loaded-model';
import { asDataset, checkDataset, type CheckOptions, rowOptions, type SampleRows } from './batches';

export interface RowSourceOptions extends CheckOptions {
  twoRows: boolean;
}

/** The rows of a dataset's samples for one model, read when they are needed. */
export class RowSource {
  private constructor(
    readonly dataset: TokenizedDataset,
    private readonly options: RowOptions,
  ) {}

  /**
   * Tokenizes samples that are not, and checks every one: what is wrong with the last is found before the first step.
   * @throws NEOX_BAD_DATA for samples that cannot train anything, NEOX_TOO_LONG, each naming the sample;
   *   NEOX_BAD_CONFIG
   */
  static async open(
    model: LoadedModel,
    data: readonly Sample[] | TokenizedDataset,
    options: RowSourceOptions,
  ): Promise<RowSource> {
    const { what, signal } = options;
    const rows = rowOptions(model, options.twoRows);
    const dataset = await asDataset(model, data, what === 'evaluation' ? 'samples' : `data.${what}`, signal);
    await checkDataset(model, dataset, options);
    return new RowSource(dataset, rows);
  }

  /** Number of samples. */
  get length(): number {
    return this.dataset.length;
  }

  /** Tokens of the longest row, or a few more; without the prefix. */
  get longestRow(): number {
    return this.dataset.statistics.longest + 1;
  }

  /** The rows of the samples at these indices. */
  async rows(indices: readonly number[]): Promise<SampleRows[]> {
    return (await this.dataset.get(indices)).map((sample) => sampleRows(sample, this.options));
  }
}
