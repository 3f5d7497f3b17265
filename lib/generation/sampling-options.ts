import { types } from 'node:util';
import type * as Native from '../../types/native';
import { badArgument, show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { boolean, choice, completed, integer, number, type OptionTable, special, without } from '../base/options';
import type { LoadedModel } from '../model/loaded-model';
import { checkIds, isTokenIds, type TokenIds } from '../model/rows';
import { wordForms } from './word-forms';

/**
 * How the tokens of a row are chosen. Order and formulas are Hugging Face's; docs/guides/sampling.md has them.
 */
export interface SamplingOptions {
  /** Most tokens to generate. Defaults to `128`. */
  maxNewTokens?: number;
  /** Until there are so many, no token may end the text. Defaults to `0`. */
  minNewTokens?: number;
  /** Divides the logits; 0 is greedy: the most likely token, always. Defaults to `1`. */
  temperature?: number;
  /** Draws only from the k most likely tokens (and those that tie with the k-th); 0: from all. Defaults to `0`. */
  topK?: number;
  /** Draws only from the smallest set of most likely tokens whose probability reaches p. In (0, 1]. Defaults to `1`. */
  topP?: number;
  /**
   * Whether the token that crosses `topP` is in the set: by Hugging Face's rule it is, by that of rinna's script it is
   * not (but the most likely token always is). Defaults to `'huggingface'`.
   */
  topPRule?: 'huggingface' | 'rinna';
  /**
   * Draws only from tokens that are at least this fraction as likely as the most likely one. In [0, 1]. Defaults to
   * `0`.
   */
  minP?: number;
  /**
   * Locally typical sampling: draws from the tokens whose information content is nearest to the entropy, until their
   * probability reaches this. In (0, 1]. Defaults to `1`.
   */
  typicalP?: number;
  /**
   * Above 1, makes the tokens of the prompt and the text less likely (Keskar et al. 2019); the prefix has none.
   * Defaults to `1`.
   */
  repetitionPenalty?: number;
  /** Subtracted from the logits of all tokens that were generated. Defaults to `0`. */
  presencePenalty?: number;
  /** Subtracted from the logit of a token for each time it was generated. Defaults to `0`. */
  frequencyPenalty?: number;
  /** Sequences of so many tokens come only once, prompt included; 0: any. Defaults to `0`. */
  noRepeatNgramSize?: number;
  /** Numbers to add to the logits of tokens, by id; -Infinity bans a token. Defaults to none. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
  /**
   * Words that must not be generated: token ids, or text, which is banned in the tokens that it has at the start of a
   * text, behind a space and behind other text. Other tokens may still spell it. Defaults to none.
   */
  badWords?: readonly (string | TokenIds)[];
  /** Tokens that end the text and are no part of it. Defaults to the model's `eosTokenIds`. */
  eosTokenIds?: TokenIds;
  /** Goes on at the end-of-sequence token. Defaults to `false`. */
  ignoreEos?: boolean;
  /**
   * A text, or several, that ends the text and is no part of it, also across the borders of tokens. It may be, or
   * hold, what special tokens are written as. Defaults to none.
   */
  stop?: string | readonly string[];
  /**
   * Decodes the new tokens by themselves, as rinna's script does, where a SentencePiece tokenizer takes the space from
   * the first of them. Otherwise the text is what they add to that of the prompt's tokens. Defaults to `false`.
   */
  decodeAlone?: boolean;
  /**
   * Gives each token's log-probability, and this many of the most likely tokens beside it (0 to 100), under the model's
   * own distribution: before temperature, penalties and all else. Defaults to none.
   */
  logprobs?: number;
}

/** The most likely tokens that can be asked for beside each. */
const MOST_LOGPROBS = 100;

/** Number of the most likely tokens. */
export const MOST_LIKELY = { min: 0, max: MOST_LOGPROBS, symbol: 'k' };

export const SAMPLING_OPTIONS = {
  maxNewTokens: integer({ min: 0, default: 128, help: 'most tokens to generate' }),
  minNewTokens: integer({ min: 0, default: 0, help: 'no end before so many tokens' }),
  temperature: number({ min: 0, max: 1e4, default: 1, symbol: 't', help: 'divides the logits; 0: greedy' }),
  topK: integer({
    ...{ min: 0, default: 0, symbol: 'k', notWith: 'numBeams' },
    help: 'draw from the k most likely tokens; 0: from all',
  }),
  topP: number({
    ...{ above: 0, max: 1, default: 1, symbol: 'p', notWith: 'numBeams' },
    help: 'draw from the most likely tokens that reach this probability',
  }),
  topPRule: choice(['huggingface', 'rinna'], {
    ...{ default: 'huggingface', symbol: 'rule', notWith: 'numBeams' },
    help: "whether the token that crosses p is among them: Hugging Face's rule keeps it, rinna's does not",
  }),
  minP: number({
    ...{ min: 0, max: 1, default: 0, symbol: 'p', notWith: 'numBeams' },
    help: 'draw from tokens at least this fraction as likely as the most likely one',
  }),
  typicalP: number({
    ...{ above: 0, max: 1, default: 1, symbol: 'p', notWith: 'numBeams' },
    help: 'locally typical sampling',
  }),
  repetitionPenalty: number({
    ...{ above: 0, max: 1e4, default: 1 },
    help: 'above 1: tokens of the prompt and the text become less likely',
  }),
  presencePenalty: number({
    ...{ min: -1e4, max: 1e4, default: 0 },
    help: 'subtracted from the logits of generated tokens',
  }),
  frequencyPenalty: number({
    ...{ min: -1e4, max: 1e4, default: 0 },
    help: 'subtracted for each time that a token was generated',
  }),
  noRepeatNgramSize: integer({ min: 0, default: 0, help: 'sequences of n tokens come only once; 0: any' }),
  logitBias: special<NonNullable<SamplingOptions['logitBias']>>({
    help: 'added to the logits of tokens, by id; -Infinity bans a token',
  }),
  badWords: special<readonly (string | TokenIds)[]>({ help: 'words that must not come, as text or token ids' }),
  eosTokenIds: special<TokenIds>({ otherwise: "the model's", help: 'tokens that end the text' }),
  ignoreEos: boolean({ default: false, help: 'go on at the end-of-sequence token' }),
  stop: special<string | readonly string[]>({
    notWith: 'numBeams',
    help: 'a text, or several; the text ends before the first that comes',
  }),
  decodeAlone: boolean({ default: false, help: 'decode the new tokens by themselves: no space in front' }),
  logprobs: integer({
    ...{ ...MOST_LIKELY, notWith: 'numBeams' },
    help: 'log-probabilities of the tokens, and of the k most likely ones',
  }),
} satisfies OptionTable<SamplingOptions>;

/** Those that choose tokens: the others are about the text. */
const TOKEN_OPTIONS = without(SAMPLING_OPTIONS, 'stop', 'decodeAlone');

/** What a row's settings are but for its seed. */
export type SharedSettings = Omit<Native.GenerateRowSettings, 'seed' | 'stream' | 'stop'>;

/** Checks and completes. */
export function samplingSettings(model: LoadedModel, options: SamplingOptions): SharedSettings {
  const { logitBias, badWords, eosTokenIds, ignoreEos, logprobs, ...settings } = completed(TOKEN_OPTIONS, {
    ...options,
    ...openOptions(model, options),
  });
  const { minNewTokens, maxNewTokens } = settings;
  if (minNewTokens > maxNewTokens)
    throw refusal(`minNewTokens (${minNewTokens}) is larger than maxNewTokens (${maxNewTokens})`);
  const endIds = endTokens(model, eosTokenIds, ignoreEos);
  return {
    ...settings,
    endIds,
    ...biases(model, logitBias),
    badWords: bannedWords(model, badWords, endIds),
    logprobs: logprobs ?? -1,
  };
}

/**
 * What the model's generation_config.json says of options that are left open. Nothing of the draw for a beam search,
 * which has none, and no minimum above the maximum that is asked for.
 */
function openOptions(model: LoadedModel, options: SamplingOptions & { numBeams?: unknown }): object {
  const { defaults } = model.generation;
  const searches = options.numBeams !== undefined && options.numBeams !== 1;
  const most = options.maxNewTokens ?? defaults.maxNewTokens ?? SAMPLING_OPTIONS.maxNewTokens.default;
  const open = Object.entries(defaults).filter(([name, value]) => {
    if (options[name as keyof typeof defaults] !== undefined) return false;
    if (name === 'minNewTokens') return (value as number) <= most;
    const { notWith } = SAMPLING_OPTIONS[name as keyof typeof defaults] as { notWith?: string };
    return !(searches && (notWith === 'numBeams' || name === 'temperature'));
  });
  return Object.fromEntries(open);
}

/** Options that cannot go together, or one that has nothing to work on. */
export function refusal(message: string, hint?: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', message, hint === undefined ? {} : { hint });
}

export function stopStrings(model: LoadedModel, stop: unknown): string[] {
  const list: readonly unknown[] = stop === undefined ? [] : Array.isArray(stop) ? stop : [stop];
  const texts = list.map((text, i) => {
    if (typeof text !== 'string' || text === '')
      throw badArgument(Array.isArray(stop) ? `stop[${i}]` : 'stop', 'a non-empty string', text);
    return text;
  });
  if (texts.length > 0) model.checkTokenizer();
  return texts;
}

function endTokens(model: LoadedModel, eosTokenIds: unknown, ignoreEos: boolean): Int32Array {
  if (ignoreEos) {
    if (eosTokenIds !== undefined)
      throw refusal('ignoreEos: true and eosTokenIds contradict each other', 'give one of them');
    return new Int32Array(0);
  }
  if (eosTokenIds === undefined) return Int32Array.from(model.generation.eosTokenIds);
  if (!isTokenIds(eosTokenIds)) throw badArgument('eosTokenIds', 'token ids', eosTokenIds);
  return checkIds('eosTokenIds', eosTokenIds, model.config);
}

function biases(model: LoadedModel, logitBias: unknown): { biasedIds: Int32Array; biases: Float32Array } {
  if (logitBias === undefined) return { biasedIds: new Int32Array(0), biases: new Float32Array(0) };
  const isRecord =
    typeof logitBias === 'object' && logitBias !== null && !Array.isArray(logitBias) && !ArrayBuffer.isView(logitBias);
  if (!isRecord) throw badArgument('logitBias', 'a map from token ids to numbers', logitBias);
  const entries: [unknown, unknown][] = types.isMap(logitBias) ? [...logitBias] : Object.entries(logitBias);
  const ids = entries.map(([key]) => {
    const id = typeof key === 'string' && key.trim() !== '' ? Number(key) : key;
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= model.config.vocabSize)
      throw badArgument('logitBias', `token ids between 0 and ${model.config.vocabSize - 1} as keys`, key);
    return id as number;
  });
  for (const [key, bias] of entries) {
    const fits = typeof bias === 'number' && (bias === -Infinity || Number.isFinite(Math.fround(bias)));
    if (!fits) throw badArgument(`logitBias[${show(key).replaceAll("'", '')}]`, 'a finite number or -Infinity', bias);
  }
  return { biasedIds: Int32Array.from(ids), biases: Float32Array.from(entries, ([, bias]) => bias as number) };
}

/**
 * Token sequences, each once, without those that are nothing but an end token: as Hugging Face has it, badWords cannot
 * ban the end.
 */
function bannedWords(model: LoadedModel, words: unknown, endIds: Int32Array): Int32Array[] {
  if (words === undefined) return [];
  if (!Array.isArray(words) || typeof words[0] === 'number')
    throw badArgument('badWords', 'an array of strings and of token ids', words);
  const forms = words.flatMap((word: unknown, i) => {
    if (typeof word === 'string' && word !== '') return wordForms(model.tokenizer, word);
    if (!isTokenIds(word) || word.length === 0)
      throw badArgument(`badWords[${i}]`, 'a non-empty string or token ids', word);
    return [checkIds(`badWords[${i}]`, word, model.config)];
  });
  const unique = new Map(forms.filter((ids) => ids.length > 0).map((ids) => [ids.join(), ids]));
  return [...unique.values()].filter((ids) => ids.length > 1 || !endIds.includes(ids[0] as number));
}
