import { maxPositions } from '../architecture/rope';
import { NeoXPrefixError } from '../base/errors';
import { eventLoopTurns, type RowOptions, type Sample, sampleRows, type TokenizedSample } from '../data/sample';
import { positionsOf } from '../data/sample-codec';
import { TokenizedDataset } from '../data/tokenized-dataset';
import type { LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import type { SampleRows } from './batches';

/** What a check of samples needs to know. */
interface CheckOptions {
  prefixLength: number;
  /** What errors call the data, for example `'train'`. */
  what: string;
  signal: AbortSignal | undefined;
}

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

/** What a model wants around a row. @throws NEOX_BAD_CONFIG for a model without begin or end id */
function rowOptions(model: LoadedModel, twoRows: boolean): Required<RowOptions> {
  const bosId = model.config.bosTokenId;
  const eosId = model.config.eosTokenIds[0];
  if (bosId === null || eosId === undefined) {
    throw new NeoXPrefixError(
      'NEOX_BAD_CONFIG',
      'The model has no bos_token_id or eos_token_id, and training rows begin and end with them',
      {
        path: model.checkpoint.directory,
        hint: 'add both to config.json',
      },
    );
  }
  return { bosId, eosId, twoRows };
}

/** Samples as they are given to training and evaluation, as a dataset. `name` is what errors call them. */
async function asDataset(
  model: LoadedModel,
  samples: readonly Sample[] | TokenizedDataset,
  name: string,
  signal?: AbortSignal,
): Promise<TokenizedDataset> {
  if (samples instanceof TokenizedDataset) return samples;
  // Ids need no tokenizer, so one is asked for only when there is text.
  const tokenizer = { encode: (text: string): Int32Array => model.tokenizer.encode(text) };
  return TokenizedDataset.from(samples, { tokenizer, name, ...(signal === undefined ? {} : { signal }) });
}

/**
 * Checks that every sample fits the model, behind a prefix.
 * @throws NEOX_TOO_LONG, NEOX_BAD_DATA for an id outside the vocabulary, each naming the sample
 */
async function checkDataset(
  model: LoadedModel,
  dataset: TokenizedDataset,
  { what, prefixLength, signal }: CheckOptions,
): Promise<void> {
  const { vocabSize } = model.config;
  const { longest, largestId } = dataset.statistics;
  // Of the whole, also for a view: so this is quick where all is well, and else each sample is looked at.
  const mayBeLong = exceeds(model, longest + 1 + prefixLength);
  if (!mayBeLong && largestId < vocabSize) return;
  const turn = eventLoopTurns(signal);
  for (let first = 0; first < dataset.length; first += 64) {
    const indices = Array.from({ length: Math.min(64, dataset.length - first) }, (_, i) => first + i);
    const isSuspect =
      largestId >= vocabSize || indices.some((i) => exceeds(model, dataset.tokensOf(i) + 1 + prefixLength));
    await turn();
    if (!isSuspect) continue;
    for (const [i, sample] of (await dataset.get(indices)).entries())
      checkSample(model, sample, `${what} sample ${first + i}`, prefixLength);
  }
}

function exceeds(model: LoadedModel, positions: number): boolean {
  return positions > maxPositions(model.config);
}

function checkSample(model: LoadedModel, sample: TokenizedSample, name: string, prefixLength: number): void {
  const { vocabSize } = model.config;
  checkLength(name, positionsOf(sample) + prefixLength, model.config);
  for (const { prompt, completion } of [sample, ...(sample.turns ?? [])]) {
    const wrong = prompt.find((id) => id >= vocabSize) ?? completion.find((id) => id >= vocabSize);
    if (wrong === undefined) continue;
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `${name} has the token id ${wrong}, and the model's ids end at ${vocabSize - 1}`,
    );
  }
}
