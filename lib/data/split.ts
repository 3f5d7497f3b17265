import { badArgument, checkInteger, checkOptions } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { TokenizedDataset } from './tokenized-dataset';

/** How many samples train, and how many validate. */
export interface SplitCounts {
  /** The first so many train; at least 1. */
  train: number;
  /** The last so many validate; may be 0. */
  validation: number;
}

/**
 * Splits by count, as rinna's script: the first `train` samples train, the last `validation` validate, what lies
 * between is left out. The parts of a TokenizedDataset are views of it.
 *
 * @throws NEOX_BAD_ARGUMENT; NEOX_BAD_DATA when there are fewer than `train + validation` samples.
 */
export function splitDataset(
  samples: TokenizedDataset,
  counts: SplitCounts,
): { train: TokenizedDataset; validation: TokenizedDataset };
export function splitDataset<T>(samples: readonly T[], counts: SplitCounts): { train: T[]; validation: T[] };
export function splitDataset(
  samples: TokenizedDataset | readonly unknown[],
  counts: SplitCounts,
): { train: unknown; validation: unknown } {
  if (!Array.isArray(samples) && !(samples instanceof TokenizedDataset))
    throw badArgument('samples', 'an array', samples);
  const { train, validation } = checkOptions('counts', counts, ['train', 'validation']) as unknown as SplitCounts;
  checkInteger('train', train, 1);
  checkInteger('validation', validation, 0);
  const { length } = samples;
  if (length < train + validation) {
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `${train} training and ${validation} validation samples were asked for, but there are only ${length} samples`,
    );
  }
  return { train: samples.slice(0, train), validation: samples.slice(length - validation, length) };
}
