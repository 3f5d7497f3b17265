import type * as Native from '../../types/native';
import { badArgument, checkInteger, checkNumber } from '../base/arguments';
import { refusal } from './sampling-options';

/**
 * Beam search: the texts that are most likely as a whole, instead of one token after the other. As Hugging Face's,
 * without sampling.
 */
export interface BeamOptions {
  /** Beginnings that are kept at a time; 1: no beam search. Defaults to `1`. */
  numBeams?: number;
  /**
   * A text's log-probability is divided by its tokens ^ this: above 0 longer texts gain, below 0 shorter ones. Defaults
   * to `1`.
   */
  lengthPenalty?: number;
  /**
   * When to stop: once there are `numBeams` finished texts (`true`), once the running ones are unlikely to become
   * better (`false`), or once they cannot (`'never'`). Defaults to `false`.
   */
  earlyStopping?: boolean | 'never';
  /** How many of the finished texts to give, at most `numBeams`; the best comes first. Defaults to `1`. */
  numReturnSequences?: number;
}

export const BEAM_OPTIONS = [
  'numBeams',
  'lengthPenalty',
  'earlyStopping',
  'numReturnSequences',
] as const satisfies readonly (keyof BeamOptions)[];

const MOST_BEAMS = 256;

/** What a beam search, which does not sample, has no use for. */
const SAMPLING_ONLY = [
  'topK',
  'topP',
  'topPRule',
  'minP',
  'typicalP',
  'seed',
  'n',
  'stop',
  'logprobs',
  'promptLogprobs',
  'format',
] as const;

/** Checks and completes; undefined where no beam search is asked for. */
export function beamSettings(
  options: BeamOptions & Readonly<Partial<Record<(typeof SAMPLING_ONLY)[number] | 'temperature', unknown>>>,
): Native.BeamSettings | undefined {
  const numBeams = checkInteger('numBeams', options.numBeams ?? 1, 1, MOST_BEAMS);
  if (numBeams === 1) {
    for (const name of BEAM_OPTIONS) {
      if (name !== 'numBeams' && options[name] !== undefined) {
        throw refusal(
          `${name} is an option of beam search`,
          name === 'numReturnSequences' ? 'set numBeams above 1, or sample n texts' : 'set numBeams above 1',
        );
      }
    }
    return undefined;
  }
  for (const name of SAMPLING_ONLY) {
    if (options[name] !== undefined)
      throw refusal(`${name} and numBeams: ${numBeams} do not go together`, 'a beam search does not sample');
  }
  if ((options.temperature ?? 0) !== 0) {
    throw refusal(
      `temperature and numBeams: ${numBeams} do not go together`,
      'leave temperature out: a beam search does not sample',
    );
  }
  const early = options.earlyStopping ?? false;
  if (typeof early !== 'boolean' && early !== 'never')
    throw badArgument('earlyStopping', "true, false or 'never'", early);
  return {
    numBeams,
    lengthPenalty: checkNumber('lengthPenalty', options.lengthPenalty ?? 1, -100, 100),
    earlyStopping: early === 'never' ? 'never' : early ? 'yes' : 'no',
    numReturnSequences: checkInteger('numReturnSequences', options.numReturnSequences ?? 1, 1, numBeams),
  };
}
