import { show } from '../base/arguments';
import { get, type JsonObject } from '../formats/json';
import type { GPTNeoXConfig } from './config';

/** What a request leaves open and the model's generation_config.json says. */
export interface GenerationDefaults {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly typicalP?: number;
  readonly repetitionPenalty?: number;
  readonly noRepeatNgramSize?: number;
  readonly maxNewTokens?: number;
  readonly minNewTokens?: number;
}

/** How a model is to be generated with: its generation_config.json, and config.json where that says nothing. */
export interface GenerationConfig {
  /** Generation ends at any of these; may be empty. */
  readonly eosTokenIds: readonly number[];
  /** What an empty prompt starts from; null: there is none. */
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
  /** Options of generation that a request need not give. */
  readonly defaults: GenerationDefaults;
}

type Read = (value: number) => boolean;
const isWhole: Read = (value) => Number.isSafeInteger(value) && value >= 0;
const isShare: Read = (value) => value > 0 && value <= 1;
const isPositive: Read = (value) => value > 0 && value <= 1e4;

/** Those that have no effect without `do_sample`, as in transformers. */
const SAMPLED: readonly (readonly [key: string, name: keyof GenerationDefaults, valid: Read])[] = [
  ['temperature', 'temperature', isPositive],
  ['top_k', 'topK', isWhole],
  ['top_p', 'topP', isShare],
  ['min_p', 'minP', (value) => value >= 0 && value <= 1],
  ['typical_p', 'typicalP', isShare],
];
const ALWAYS: typeof SAMPLED = [
  ['repetition_penalty', 'repetitionPenalty', isPositive],
  ['no_repeat_ngram_size', 'noRepeatNgramSize', isWhole],
  ['max_new_tokens', 'maxNewTokens', isWhole],
  ['min_new_tokens', 'minNewTokens', isWhole],
];
/** Other keys change what transformers generates, unless they have one of these values. */
const WITHOUT_EFFECT: Readonly<Record<string, unknown>> = {
  ...{ num_beams: 1, num_beam_groups: 1, num_return_sequences: 1, length_penalty: 1, early_stopping: false },
  ...{ penalty_alpha: null, epsilon_cutoff: 0, eta_cutoff: 0, top_h: null, diversity_penalty: 0, min_length: 0 },
  ...{ bad_words_ids: null, suppress_tokens: null, begin_suppress_tokens: null, forced_bos_token_id: null },
  ...{ forced_eos_token_id: null, sequence_bias: null, guidance_scale: null, stop_strings: null, max_time: null },
  ...{ encoder_repetition_penalty: 1, encoder_no_repeat_ngram_size: 0, exponential_decay_length_penalty: null },
};

/** What there is without a generation_config.json. */
export function plainGeneration({ eosTokenIds, bosTokenId, padTokenId }: GPTNeoXConfig): GenerationConfig {
  return { eosTokenIds, bosTokenId, padTokenId, defaults: {} };
}

/**
 * Reads the content of a generation_config.json as transformers does it: temperature, top-k and their like count with
 * `do_sample` alone, and an explicit `"do_sample": false` is greedy.
 * @param path named in warnings
 */
export function resolveGeneration(
  json: JsonObject,
  config: GPTNeoXConfig,
  path: string,
): { generation: GenerationConfig; warnings: string[] } {
  const warnings: string[] = [];
  const ignored = (key: string): void => {
    warnings.push(`${path}: ${key} ${show(get(json, key))} is ignored`);
  };
  const tokens = (key: string): number[] | undefined => {
    const value = get(json, key) ?? undefined;
    if (value === undefined) return undefined;
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    const known = ids.filter((id): id is number => isToken(id, config));
    if (known.length < ids.length) ignored(key);
    return known.length > 0 ? known : undefined;
  };
  const samples = get(json, 'do_sample') ?? undefined;
  const defaults: Record<string, number> = {};
  for (const [key, name, valid] of samples === true ? [...SAMPLED, ...ALWAYS] : ALWAYS) {
    const value = get(json, key) ?? undefined;
    if (value === undefined) continue;
    if (typeof value === 'number' && valid(value)) defaults[name] = value;
    else ignored(key);
  }
  // Where do_sample says yes and nothing of top_k, transformers takes its own default, 50.
  if (samples === true && (get(json, 'top_k') ?? undefined) === undefined) defaults['topK'] = 50;
  if (samples === false) defaults['temperature'] = 0;
  for (const [key, value] of Object.entries(WITHOUT_EFFECT)) {
    const stated = get(json, key) ?? null;
    if (stated !== null && stated !== value) ignored(key);
  }
  return {
    generation: {
      eosTokenIds: tokens('eos_token_id') ?? config.eosTokenIds,
      bosTokenId: tokens('bos_token_id')?.[0] ?? config.bosTokenId,
      padTokenId: tokens('pad_token_id')?.[0] ?? config.padTokenId,
      defaults,
    },
    warnings,
  };
}

function isToken(id: unknown, { vocabSize }: GPTNeoXConfig): boolean {
  return typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize;
}
