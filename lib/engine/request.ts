import { badArgument, checkInteger, checkOptions } from '../arguments';
import { NeoXPrefixError } from '../errors';
import { prepare, type GenerateOptions, type PreparedRequest, type Prompt } from '../generation/generate';
import { STREAM_OPTIONS, type StreamOptions } from '../generation/stream';
import type { NeoXModel } from '../model/neox-model';
import { checkLength, maxPositions } from '../model/rows';
import type { PrefixStore } from '../prefix/store';
import type { PrefixWeights } from '../prefix/weights';

const HIGHEST_PRIORITY = 100;

/** One generation: a prompt, its prefix, and how to go on. */
export interface EngineRequest extends Omit<StreamOptions, 'prefix'> {
  /** Text, or token ids. */
  prompt: Prompt;
  /** A prefix, or its name in the engine's store. Defaults to none. */
  prefix?: PrefixWeights | string | undefined;
  /**
   * How many texts to generate (1 to 1024), as {@link GenerateOptions.n} has it; each is a row of its own. Streams give one. Defaults to `1`.
   */
  n?: number;
  /**
   * A request of priority p is admitted ahead of up to 16 p that came before it and still wait, so that nobody waits for ever. From 0 to
   * 100. Defaults to `0`.
   */
  priority?: number;
}

const PREPARED_KEYS = [...STREAM_OPTIONS, 'n'] as const satisfies readonly (keyof GenerateOptions)[];
const REQUEST_KEYS: readonly string[] = [...PREPARED_KEYS, 'prompt', 'priority'] satisfies readonly (keyof EngineRequest)[];

/** A checked request. */
export interface PreparedEngineRequest extends PreparedRequest {
  priority: number;
  prefixLength: number;
  /** Tokens of KV cache that each of its rows may come to need. */
  cost: number;
  /** The prefix as it is now, whatever becomes of its name. */
  weights: () => PrefixWeights | undefined | Promise<PrefixWeights>;
}

/** @throws NEOX_BAD_ARGUMENT, NEOX_PREFIX_MISMATCH, NEOX_UNSUPPORTED; NEOX_TOO_LONG, also for what is beyond `budget` */
export function prepareRequest(
  model: NeoXModel,
  request: EngineRequest,
  prefixes: PrefixStore | undefined,
  budget: number,
): PreparedEngineRequest {
  if (request === undefined) throw badArgument('request', 'an object', request);
  checkOptions('request', request, REQUEST_KEYS);
  const { prompt, priority, prefix, ...options } = request;
  const held = typeof prefix === 'string' ? holdNamed(prefixes, prefix) : undefined;
  const given = typeof prefix === 'string' ? undefined : prefix;
  const prepared = prepare(model, [prompt], given === undefined ? options : { ...options, prefix: given }, PREPARED_KEYS);
  const prefixLength = (held ?? given)?.prefixLength ?? 0;
  const promptTokens = (prepared.prompts[0] as Int32Array).length;
  checkLength('Prompt 0', promptTokens + prefixLength, model.config);
  const cost = Math.min(promptTokens + prepared.settings.maxNewTokens, maxPositions(model.config) - prefixLength);
  if (cost > budget) {
    throw new NeoXPrefixError(
      'NEOX_TOO_LONG',
      `The request needs ${cost} tokens of KV cache, for ${promptTokens} of its prompt and up to ${cost - promptTokens} new ones, and the engine has ${budget}`,
      { hint: 'shorten the prompt, lower maxNewTokens, or give the engine a larger KV budget' },
    );
  }
  return {
    ...prepared,
    priority: checkInteger('priority', priority ?? 0, 0, HIGHEST_PRIORITY),
    prefixLength,
    cost,
    weights: () => held?.load() ?? given,
  };
}

function holdNamed(prefixes: PrefixStore | undefined, name: string): ReturnType<PrefixStore['hold']> {
  if (prefixes !== undefined) return prefixes.hold(name);
  throw badArgument('prefix', 'PrefixWeights', name, "names are those of the engine's option prefixes, a PrefixStore");
}
