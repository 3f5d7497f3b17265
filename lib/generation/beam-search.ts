import { badArgument, checkInteger, checkNumber } from '../arguments';
import type { NeoXModel } from '../model/neox-model';
import { packRows } from '../model/rows';
import { native } from '../native';
import { runNative } from '../native-call';
import type * as Native from '../../types/native';
import type { GenerateOptions, PreparedRequest } from './generate';
import { decode, prefill, resultOf, usageOf, type Completion, type GenerateResult } from './run';
import { refusal } from './sampling-options';

/** Beam search: the texts that are most likely as a whole, instead of one token after the other. As Hugging Face's, without sampling. */
export interface BeamOptions {
  /** Beginnings that are kept at a time; 1: no beam search. Defaults to `1`. */
  numBeams?: number;
  /** A text's log-probability is divided by its tokens ^ this: above 0 longer texts gain, below 0 shorter ones. Defaults to `1`. */
  lengthPenalty?: number;
  /**
   * When to stop: once there are `numBeams` finished texts (`true`), once the running ones are unlikely to become better (`false`), or
   * once they cannot (`'never'`). Defaults to `false`.
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
export function beamSettings(options: GenerateOptions): Native.BeamSettings | undefined {
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
    if (options[name] !== undefined) throw refusal(`${name} and numBeams: ${numBeams} do not go together`, 'a beam search does not sample');
  }
  if ((options.temperature ?? 0) !== 0) {
    throw refusal(`temperature and numBeams: ${numBeams} do not go together`, 'leave temperature out: a beam search does not sample');
  }
  const early = options.earlyStopping ?? false;
  if (typeof early !== 'boolean' && early !== 'never') throw badArgument('earlyStopping', "true, false or 'never'", early);
  return {
    numBeams,
    lengthPenalty: checkNumber('lengthPenalty', options.lengthPenalty ?? 1, -100, 100),
    earlyStopping: early === 'never' ? 'never' : early ? 'yes' : 'no',
    numReturnSequences: checkInteger('numReturnSequences', options.numReturnSequences ?? 1, 1, numBeams),
  };
}

export async function beamSearch(model: NeoXModel, request: PreparedRequest, beams: Native.BeamSettings): Promise<GenerateResult[]> {
  const { prompts, settings, signal } = request;
  signal?.throwIfAborted();
  if (prompts.length === 0) return [];
  const prefixes = await model.prefixHandles(request.prefixes);
  // The prompt becomes a block that all beams share.
  const { cache } = await prefill(model, request, prefixes, true);
  const results = await runNative(signal, (addon, cancel) =>
    addon.beamSearch(model.native, {
      ...packRows(prompts),
      ...beams,
      prefixes,
      settings: prompts.map(() => ({ ...settings, seed: 0, stream: 0 })),
      cache,
      cachedTokens: Int32Array.from(prompts, (prompt) => prompt.length - 1),
      cancel,
    }),
  ).finally(() => native().freeCache(cache));
  return results.map((sequences, i) => resultOf(usageOf(request, i), beamCompletions(model, sequences)));
}

/** The texts of a search that has ended. */
export function beamCompletions(model: NeoXModel, sequences: readonly Native.BeamResult[]): Completion[] {
  return sequences.map(({ tokens, finishReason, score }) => ({
    text: decode(model, tokens),
    tokens: Array.from(tokens),
    finishReason,
    score,
  }));
}
