import { maxPositions } from '../architecture/rope';
import { badArgument, checkOptions } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { boolean, completed, integer, namesOf, type OptionTable, pick, special } from '../base/options';
import { BEAM_OPTIONS, type BeamOptions } from '../generation/beam-options';
import {
  GENERATE_OPTIONS,
  prepare,
  type PreparedRequest,
  type Prompt,
  STREAM_OPTIONS,
  type StreamOptions,
} from '../generation/request';
import { refusal } from '../generation/sampling-options';
import type { LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import type { PrefixWeights } from '../prefix/weights';
import type { PrefixStore } from './prefix-store';
import type { HeldPrefix } from './resident-prefixes';

const HIGHEST_PRIORITY = 100;

/** One generation: a prompt, its prefix, and how to go on. A beam search is one row, whose result comes at its end. */
export interface EngineRequest extends Omit<StreamOptions, 'prefix'>, BeamOptions {
  /** Text, or token ids. */
  prompt: Prompt;
  /** A prefix, or its name in the engine's store. Defaults to none. */
  prefix?: PrefixWeights | string | undefined;
  /**
   * How many texts to generate (1 to 1024), as {@link GenerateOptions.n} has it; each is a row of its own. Defaults to
   * `1`.
   */
  n?: number;
  /**
   * As {@link GenerateOptions.promptLogprobs}; such a prompt goes through the model whole, without the prompt cache.
   * With `maxNewTokens: 0` that is all. Defaults to none.
   */
  promptLogprobs?: number;
  /**
   * Also gives the end-of-sequence token that ended a text, in {@link Completion.end}, with its log-probability where
   * `logprobs` asks for them. It is no part of the text, its tokens and their number. Defaults to `false`.
   */
  endToken?: boolean;
  /**
   * A request of priority p is admitted ahead of up to 16 p that came before it and still wait, so that nobody waits
   * for ever. From 0 to
   * 100. Defaults to `0`.
   */
  priority?: number;
}

const PREPARED_OPTIONS = { ...STREAM_OPTIONS, ...pick(GENERATE_OPTIONS, 'n', 'promptLogprobs'), ...BEAM_OPTIONS };
export const REQUEST_OPTIONS = {
  prompt: special<Prompt>({ help: 'text, or token ids' }),
  ...PREPARED_OPTIONS,
  prefix: special<PrefixWeights | string>({ help: "a prefix, or its name in the engine's store" }),
  endToken: boolean({ default: false, help: 'the end-of-sequence token with the result' }),
  priority: integer({
    ...{ min: 0, max: HIGHEST_PRIORITY, default: 0 },
    help: 'ahead of up to 16 n requests that came before and still wait',
  }),
} satisfies OptionTable<EngineRequest>;
/** What a stream takes. */
export const STREAM_REQUEST_KEYS = namesOf(REQUEST_OPTIONS).filter((name) => !(name in BEAM_OPTIONS));
export const REQUEST_KEYS = namesOf(REQUEST_OPTIONS);

/** A checked request. */
export interface PreparedEngineRequest extends PreparedRequest {
  priority: number;
  endToken: boolean;
  /** The name that it calls its prefix by. */
  prefixName: string | undefined;
  /** The prefix as it is now, whatever becomes of its name. */
  prefix: HeldPrefix | undefined;
  /** Tokens of KV cache that each of its rows may come to need. */
  cost: number;
}

/**
 * Checks and completes.
 * @throws NEOX_BAD_ARGUMENT, NEOX_UNKNOWN_PREFIX, NEOX_PREFIX_MISMATCH, NEOX_UNSUPPORTED; NEOX_TOO_LONG, also for
 *   what is beyond `budget`
 */
export function prepareRequest(
  model: LoadedModel,
  request: EngineRequest,
  keys: readonly string[],
  prefixes: PrefixStore | undefined,
  budget: number,
): PreparedEngineRequest {
  if (request === undefined) throw badArgument('request', 'an object', request);
  checkOptions('request', request, keys);
  const { prompt, priority, prefix, endToken, ...options } = request;
  const named = typeof prefix === 'string' ? holdNamed(prefixes, prefix) : undefined;
  const given = typeof prefix === 'string' ? undefined : prefix;
  const prepared = prepare(
    model,
    [prompt],
    given === undefined ? options : { ...options, prefix: given },
    namesOf(PREPARED_OPTIONS),
  );
  if (endToken === true && prepared.beams !== undefined) {
    throw refusal('endToken and a beam search do not go together', 'its texts come without their ends');
  }
  const [own] = prepared.prefixes;
  const held = named ?? (own && { prefixLength: own.prefixLength, load: () => model.prefixHandle(own) });
  const prefixLength = held?.prefixLength ?? 0;
  const promptTokens = (prepared.prompts[0] as Int32Array).length;
  checkLength('Prompt 0', promptTokens + prefixLength, model.config);
  const length = Math.min(promptTokens + prepared.settings.maxNewTokens, maxPositions(model.config) - prefixLength);
  const beams = prepared.beams?.numBeams ?? 1;
  const cost = beams * length;
  if (cost > budget) {
    throw new NeoXPrefixError(
      'NEOX_TOO_LONG',
      `The request needs ${cost} tokens of KV cache, ${beams > 1 ? `in each of ${beams} beams` : 'for'} ${promptTokens} of its prompt and up to ${length - promptTokens} new ones, and the engine has ${budget}`,
      {
        hint: `shorten the prompt, lower maxNewTokens${beams > 1 ? ' or numBeams' : ''}, or give the engine a larger KV budget`,
      },
    );
  }
  return {
    ...prepared,
    ...completed(pick(REQUEST_OPTIONS, 'priority', 'endToken'), { priority, endToken }),
    prefixName: typeof prefix === 'string' ? prefix : undefined,
    prefix: held,
    cost,
  };
}

function holdNamed(prefixes: PrefixStore | undefined, name: string): HeldPrefix {
  if (prefixes !== undefined) return prefixes.hold(name);
  throw badArgument('prefix', 'PrefixWeights', name, "names are those of the engine's option prefixes, a PrefixStore");
}
