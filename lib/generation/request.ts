import { randomInt } from 'node:crypto';
import type * as Native from '../../types/native';
import { badArgument, checkOptions, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { abortSignal, completed, integer, namesOf, type OptionTable, pick, special } from '../base/options';
import { rowPrefixes } from '../model/forward';
import type { LoadedModel } from '../model/loaded-model';
import { checkIds, checkLength, isTokenIds, type TokenIds } from '../model/rows';
import type { PrefixWeights } from '../prefix/weights';
import { NO_CONTEXT, type TextContext } from '../tokenizer/backend';
import { trimEndAsPython } from '../tokenizer/streams';
import { BEAM_OPTIONS, type BeamOptions, beamSettings } from './beam-options';
import { checkFormat, type OutputFormat } from './constraints/output-format';
import {
  MOST_LIKELY,
  refusal,
  SAMPLING_OPTIONS,
  type SamplingOptions,
  samplingSettings,
  type SharedSettings,
  stopStrings,
} from './sampling-options';

/** Text, or token ids. An empty prompt (`''`) is the model's beginning-of-sequence token. */
export type Prompt = string | TokenIds;

/** How to generate, and with which prefixes. */
export interface GenerateOptions extends SamplingOptions, BeamOptions {
  /** A prefix for all prompts, or an array with one (or undefined) for each. Defaults to none. */
  prefix?: PrefixWeights | undefined | readonly (PrefixWeights | undefined)[];
  /**
   * Seed of the draws, or an array with one for each prompt. The text of a prompt depends on its own seed alone, not on
   * the prompts beside it. Integers from 0 to 2^53 - 1. Defaults to a random one for each prompt.
   */
  seed?: number | readonly number[];
  /**
   * How many texts to generate for each prompt (1 to 1024), which is computed once. Each draws from a random stream of
   * its own under the prompt's seed; the first is what `n: 1` gives. They are in {@link GenerateResult.completions}.
   * Defaults to `1`.
   */
  n?: number;
  /**
   * Also gives the prompts' log-probabilities, with this many of the most likely tokens beside each (0 to 100).
   * Defaults to none.
   */
  promptLogprobs?: number;
  /**
   * What the text must be: a JSON value by a schema, a text that a regular expression matches, or one of a list. With
   * the finish reason `'stop'` it is; a text that `maxNewTokens` ended is the beginning of one. Defaults to any text.
   */
  format?: OutputFormat;
  /** Stops within a token; the promise rejects with the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

const MOST_COMPLETIONS = 1024;

/** What a request for one text and one for several have in common, beside the sampling. */
const COMMON_OPTIONS = {
  format: special<OutputFormat>({ notWith: 'numBeams', otherwise: 'any text', help: 'what the text must be' }),
  signal: abortSignal('stops within a token'),
};

const SEED = {
  form: { kind: 'integer', min: 0, max: Number.MAX_SAFE_INTEGER },
  ...{ symbol: 'n', notWith: 'numBeams', otherwise: 'a random one' },
} as const;

export const GENERATE_OPTIONS = {
  ...SAMPLING_OPTIONS,
  promptLogprobs: integer({ ...MOST_LIKELY, notWith: 'numBeams', help: 'the same for the prompt' }),
  n: integer({ min: 1, max: MOST_COMPLETIONS, default: 1, notWith: 'numBeams', help: 'texts for each prompt' }),
  seed: special<number | readonly number[]>({ ...SEED, help: 'seed of the draws; one for all prompts, or an array' }),
  ...BEAM_OPTIONS,
  prefix: special<PrefixWeights | readonly (PrefixWeights | undefined)[]>({ help: 'one for all prompts, or an array' }),
  ...COMMON_OPTIONS,
} satisfies OptionTable<GenerateOptions>;

/** Those of them that say which rows there are. */
const ROW_OPTIONS = pick(GENERATE_OPTIONS, 'n', 'promptLogprobs');
/** Those that say how the text is read. */
const TEXT_OPTIONS = pick(GENERATE_OPTIONS, 'decodeAlone');

const SAMPLING_ONLY = namesOf(GENERATE_OPTIONS).filter((name) => GENERATE_OPTIONS[name].notWith === 'numBeams');

/** A checked request. */
export interface PreparedRequest {
  prompts: Int32Array[];
  prefixes: (PrefixWeights | undefined)[];
  seeds: number[];
  /** Of all rows. */
  settings: SharedSettings;
  stops: string[];
  /** What the text of the new tokens is read behind, for each prompt. */
  contexts: TextContext[];
  n: number;
  promptLogprobs: number | undefined;
  beams: Native.BeamSettings | undefined;
  format: OutputFormat | undefined;
  signal: AbortSignal | undefined;
}

/**
 * Checks and completes.
 * @param allowed names of the options that may be given
 */
export function prepare(
  model: LoadedModel,
  prompts: readonly Prompt[],
  options: GenerateOptions,
  allowed: readonly string[],
): PreparedRequest {
  checkOptions('options', options, allowed);
  const signal = checkSignal('signal', options.signal);
  const prefixes = rowPrefixes('prefix', options.prefix, prompts.length);
  for (const prefix of prefixes) if (prefix !== undefined) model.checkPrefix(prefix);
  const settings = samplingSettings(model, options);
  const beams = beamSettings(options, SAMPLING_ONLY);
  const format = options.format === undefined ? undefined : textFormat(model, options, settings);
  const ids = prompts.map((prompt, i) => promptIds(model, prompt, prompts.length === 1 ? 'prompt' : `prompt[${i}]`));
  ids.forEach((prompt, i) => {
    checkLength(`Prompt ${i}`, prompt.length + (prefixes[i]?.prefixLength ?? 0), model.config);
  });
  return {
    prompts: ids,
    prefixes,
    seeds: rowSeeds(options.seed, prompts.length),
    settings,
    stops: stopStrings(model, options.stop),
    contexts: completed(TEXT_OPTIONS, options).decodeAlone
      ? ids.map(() => NO_CONTEXT)
      : ids.map((prompt, i) => ({ ids: prompt, spaces: spacesAtEnd(prompts[i]) })),
    ...completed(ROW_OPTIONS, options),
    beams,
    format,
    signal,
  };
}

/** Checks a format, and that nothing but the end of the text that it asks for ends the text. */
function textFormat(
  model: LoadedModel,
  { format, ignoreEos, stop }: GenerateOptions,
  { endIds }: SharedSettings,
): OutputFormat {
  const checked = checkFormat(format);
  if (ignoreEos === true)
    throw refusal('format and ignoreEos: true do not go together', 'a text that has its format ends by an end token');
  if (stop !== undefined)
    throw refusal('format and stop do not go together', 'a stop string would end the text before it has its format');
  if (endIds.length === 0) {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', 'A format needs an end-of-sequence token, and this model has none', {
      hint: 'say with eosTokenIds which token ends a text',
    });
  }
  model.checkTokenizer();
  return checked;
}

/** The tokens of a prompt, at least one. */
export function promptIds(model: LoadedModel, prompt: unknown, name: string): Int32Array {
  if (typeof prompt !== 'string' && !isTokenIds(prompt)) throw badArgument(name, 'a string or token ids', prompt);
  const ids = typeof prompt === 'string' ? model.tokenizer.encode(prompt) : prompt;
  if (ids.length > 0) return checkIds(name, ids, model.config);
  const bos = model.generation.bosTokenId;
  if (bos === null) {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `Expected at least one token for ${name}: the model has no beginning-of-sequence token to start from`,
    );
  }
  return Int32Array.of(bos);
}

/** The white space that a text ends in is there already, whether its tokens have it or not. */
export function spacesAtEnd(prompt: Prompt | undefined): number {
  return typeof prompt === 'string' ? prompt.length - trimEndAsPython(prompt).length : 0;
}

function rowSeeds(seed: unknown, rows: number): number[] {
  if (seed === undefined) return Array.from({ length: rows }, () => randomInt(2 ** 47));
  if (!Array.isArray(seed))
    return Array.from({ length: rows }, () => checkSeed('seed', seed, ', or an array with one for each prompt,'));
  if (seed.length !== rows) throw badArgument('seed', `one seed for each of the ${rows} prompts`, seed);
  return seed.map((item: unknown, i) => checkSeed(`seed[${i}]`, item));
}

export function checkSeed(name: string, seed: unknown, others = ''): number {
  if (typeof seed !== 'number' || !Number.isSafeInteger(seed) || seed < 0) {
    throw badArgument(name, `an integer from 0 to 2^53 - 1${others}`, seed);
  }
  return seed;
}

/** How to generate one text: {@link SamplingOptions} with one prefix and one seed. */
export interface StreamOptions extends SamplingOptions {
  /** The prefix. Defaults to none. */
  prefix?: PrefixWeights | undefined;
  /** Seed of the draws, an integer from 0 to 2^53 - 1. Defaults to a random one. */
  seed?: number;
  /** As {@link GenerateOptions.format}. Defaults to any text. */
  format?: OutputFormat;
  /** Stops within a token; the loop throws the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

export const STREAM_OPTIONS = {
  ...SAMPLING_OPTIONS,
  prefix: special<PrefixWeights>({ help: 'the prefix' }),
  seed: special<number>({ ...SEED, help: 'seed of the draws' }),
  ...COMMON_OPTIONS,
} satisfies OptionTable<StreamOptions>;
