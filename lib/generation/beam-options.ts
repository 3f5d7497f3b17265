import type * as Native from '../../types/native';
import { checkInteger } from '../base/arguments';
import { booleanOr, completed, integer, namesOf, number, type OptionTable } from '../base/options';
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

const MOST_BEAMS = 256;

export const BEAM_OPTIONS = {
  numBeams: integer({
    ...{ min: 1, max: MOST_BEAMS, default: 1 },
    help: 'beam search with n beams, instead of drawing',
  }),
  lengthPenalty: number({
    ...{ min: -100, max: 100, default: 1 },
    help: 'above 0 longer texts gain, below 0 shorter ones',
  }),
  earlyStopping: booleanOr('never', {
    default: false,
    help: 'stop once n texts are finished; never: once no better one can come',
  }),
  numReturnSequences: integer({ min: 1, default: 1, help: 'texts to give of each search' }),
} satisfies OptionTable<BeamOptions>;

/**
 * Checks and completes; undefined where no beam search is asked for.
 * @param samplingOnly names of options that a beam search, which does not sample, has no use for
 */
export function beamSettings(
  options: BeamOptions & { readonly temperature?: number },
  samplingOnly: readonly string[],
): Native.BeamSettings | undefined {
  const numBeams = BEAM_OPTIONS.numBeams.check('numBeams', options.numBeams ?? BEAM_OPTIONS.numBeams.default);
  if (numBeams === 1) {
    for (const name of namesOf(BEAM_OPTIONS)) {
      if (name !== 'numBeams' && options[name] !== undefined) {
        throw refusal(
          `${name} is an option of beam search`,
          name === 'numReturnSequences' ? 'set numBeams above 1, or sample n texts' : 'set numBeams above 1',
        );
      }
    }
    return undefined;
  }
  for (const name of samplingOnly) {
    if ((options as Readonly<Record<string, unknown>>)[name] !== undefined)
      throw refusal(`${name} and numBeams: ${numBeams} do not go together`, 'a beam search does not sample');
  }
  if ((options.temperature ?? 0) !== 0) {
    throw refusal(
      `temperature and numBeams: ${numBeams} do not go together`,
      'leave temperature out: a beam search does not sample',
    );
  }
  const { earlyStopping, lengthPenalty, numReturnSequences } = completed(BEAM_OPTIONS, options);
  return {
    numBeams,
    lengthPenalty,
    earlyStopping: earlyStopping === 'never' ? 'never' : earlyStopping ? 'yes' : 'no',
    numReturnSequences: checkInteger('numReturnSequences', numReturnSequences, 1, numBeams),
  };
}
