import { badArgument, checkBoolean, checkInteger, checkNumber, checkOptions, checkSignal } from '../base/arguments';
import { type CallOptions, checkTimeout } from './transport';

/** The same for all prompts, or an array with one for each. */
export type ForEachPrompt<T> = T | readonly T[];

/**
 * How a model of FasterTransformer generates. Without `topK` and `topP` it takes the most likely token, always; what is
 * not given is the server's to choose.
 */
export interface TritonGenerateOptions extends CallOptions {
  /** The task whose prefix stands in front of the text, by name or id. Defaults to none. */
  task?: ForEachPrompt<string | number>;
  /** Most tokens to generate. Defaults to `128`. */
  maxNewTokens?: ForEachPrompt<number>;
  /** Draws from the k most likely tokens (0 to 1024); 1 is greedy. Defaults to the server's. */
  topK?: ForEachPrompt<number>;
  /** Draws from the most likely tokens that reach this probability, in [0, 1]. Defaults to the server's. */
  topP?: ForEachPrompt<number>;
  /** Divides the logits; above 0. Defaults to the server's. */
  temperature?: ForEachPrompt<number>;
  /** Above 1, makes tokens that were there less likely. Defaults to the server's. */
  repetitionPenalty?: ForEachPrompt<number>;
  /** Exponent of the length by which a beam's score is divided. Defaults to the server's. */
  lenPenalty?: ForEachPrompt<number>;
  /** Beams of a search, for all prompts alike. Defaults to the server's, which is 1. */
  beamWidth?: ForEachPrompt<number>;
  /** Penalty for beams of one origin. Defaults to the server's. */
  beamDiversity?: ForEachPrompt<number>;
  /** Factor by which `topP` falls with each token, in (0, 1]. Defaults to the server's. */
  topPDecay?: ForEachPrompt<number>;
  /** How low `topP` falls, in (0, 1]. Defaults to the server's. */
  topPMin?: ForEachPrompt<number>;
  /** The token that resets `topP`. Defaults to the server's. */
  topPResetId?: ForEachPrompt<number>;
  /** Seed of the draws, from 0 to 2^64 - 1. Defaults to a random one for each prompt. */
  seed?: ForEachPrompt<number | bigint>;
  /** Words that must not come: token ids, or text, which is banned as the tokenizer writes it. Defaults to none. */
  badWords?: readonly (string | readonly number[])[];
  /**
   * What ends the text: a string, which is no part of it, or token ids, which are. The server stops where the tokens of
   * a string come as the tokenizer writes them; the text ends before the string in any case. Defaults to none.
   */
  stop?: string | readonly (string | readonly number[])[];
  /** The token that begins an empty prompt. Defaults to that of the tokenizer or of config.ini. */
  startId?: number;
  /** The token that ends a text and is no part of it. Defaults to that of the tokenizer or of config.ini. */
  endId?: number;
  /** Gives log-probabilities, for all prompts alike. Defaults to `false`. */
  logprobs?: ForEachPrompt<boolean>;
  /**
   * Lets beams above 1 go together with a task, though FasterTransformer's bookkeeping of beams does not count the
   * prefix. Defaults to `false`.
   */
  allowBeams?: boolean;
}

const KEYS = [
  ...['task', 'maxNewTokens', 'topK', 'topP', 'temperature', 'repetitionPenalty', 'lenPenalty', 'beamWidth'],
  ...['beamDiversity', 'topPDecay', 'topPMin', 'topPResetId', 'seed', 'badWords', 'stop', 'startId', 'endId'],
  ...['logprobs', 'allowBeams', 'signal', 'timeoutMs'],
];

const MAX_ID = 2 ** 32 - 1;
const MAX_NEW_TOKENS = 2 ** 20;
const MAX_TOP_K = 1024;
const MAX_BEAMS = 1024;

/** Checked; `undefined` where a row's option is not given. */
export interface CheckedOptions {
  readonly maxNewTokens: readonly number[];
  /** Inputs of the backend with one number a row, by name. */
  readonly numbers: ReadonlyMap<string, readonly number[]>;
  readonly seeds: readonly (number | bigint)[] | undefined;
  /** One a row; undefined where a row has none. */
  readonly tasks: readonly (string | number | undefined)[] | undefined;
  readonly beamWidth: number;
  readonly logprobs: boolean;
  readonly allowBeams: boolean;
  readonly badWords: readonly (string | readonly number[])[];
  readonly stop: readonly (string | readonly number[])[];
  readonly startId: number | undefined;
  readonly endId: number | undefined;
}

type Check<T> = (name: string, value: unknown) => T;

const fraction: Check<number> = (name, value) => checkNumber(name, value, 0, 1, true);
const id: Check<number> = (name, value) => checkInteger(name, value, 0, MAX_ID);

/** Options of one number a row, and the inputs that they become. */
const NUMBERS: readonly (readonly [option: keyof TritonGenerateOptions, input: string, check: Check<number>])[] = [
  ['topK', 'runtime_top_k', (name, value) => checkInteger(name, value, 0, MAX_TOP_K)],
  ['topP', 'runtime_top_p', (name, value) => checkNumber(name, value, 0, 1)],
  ['temperature', 'temperature', positiveTemperature],
  ['repetitionPenalty', 'repetition_penalty', (name, value) => checkNumber(name, value, 0, 1e4, true)],
  ['lenPenalty', 'len_penalty', (name, value) => checkNumber(name, value)],
  ['beamDiversity', 'beam_search_diversity_rate', (name, value) => checkNumber(name, value)],
  ['topPDecay', 'top_p_decay', fraction],
  ['topPMin', 'top_p_min', fraction],
  ['topPResetId', 'top_p_reset_ids', id],
];

/** @throws NEOX_BAD_ARGUMENT */
export function checkGenerateOptions(options: TritonGenerateOptions, rows: number): CheckedOptions {
  checkOptions('options', options, KEYS);
  checkSignal('signal', options.signal);
  if (options.timeoutMs !== undefined) checkTimeout(options.timeoutMs);
  const numbers = new Map<string, readonly number[]>();
  for (const [option, input, check] of NUMBERS) {
    const value = options[option];
    if (value !== undefined) numbers.set(input, eachRow(option, value, rows, check));
  }
  return {
    maxNewTokens: eachRow('maxNewTokens', options.maxNewTokens ?? 128, rows, (name, value) =>
      checkInteger(name, value, 1, MAX_NEW_TOKENS),
    ),
    numbers,
    seeds: options.seed === undefined ? undefined : eachRow('seed', options.seed, rows, checkSeed64),
    tasks: options.task === undefined ? undefined : taskOfEach(options.task, rows),
    beamWidth: forAll('beamWidth', options.beamWidth ?? 1, rows, (name, value) =>
      checkInteger(name, value, 1, MAX_BEAMS),
    ),
    logprobs: forAll('logprobs', options.logprobs ?? false, rows, checkBoolean),
    allowBeams: checkBoolean('allowBeams', options.allowBeams ?? false),
    badWords: checkWords('badWords', options.badWords ?? []),
    stop: checkWords('stop', typeof options.stop === 'string' ? [options.stop] : (options.stop ?? [])),
    startId: options.startId === undefined ? undefined : id('startId', options.startId),
    endId: options.endId === undefined ? undefined : id('endId', options.endId),
  };
}

function positiveTemperature(name: string, value: unknown): number {
  if (value === 0) throw badArgument(name, 'a number above 0', value, 'FasterTransformer is greedy with topK: 1');
  return checkNumber(name, value, 0, 1e4, true);
}

function checkSeed64(name: string, value: unknown): number | bigint {
  const isSeed =
    typeof value === 'bigint'
      ? value >= 0n && value < 2n ** 64n
      : Number.isSafeInteger(value) && (value as number) >= 0;
  if (!isSeed) throw badArgument(name, 'an integer from 0 to 2^53 - 1, or a bigint below 2^64,', value);
  return value as number | bigint;
}

function eachRow<T>(name: string, value: unknown, rows: number, check: Check<T>): T[] {
  if (!Array.isArray(value)) return new Array<T>(rows).fill(check(name, value));
  if (value.length !== rows) throw badArgument(name, `one value, or one for each of the ${rows} prompts`, value);
  return value.map((item: unknown, i) => check(`${name}[${i}]`, item));
}

/** The backend reads the first row's value for all rows. */
function forAll<T>(name: string, value: unknown, rows: number, check: Check<T>): T {
  const values = eachRow(name, value, rows, check);
  if (values.every((item) => item === values[0])) return values[0] as T;
  throw badArgument(
    name,
    'the same for all prompts',
    value,
    'FasterTransformer reads that of the first prompt alone: make a call for each',
  );
}

function taskOfEach(task: unknown, rows: number): (string | number | undefined)[] {
  return eachRow('task', task, rows, (_, value) => (value ?? undefined) as string | number | undefined);
}

function checkWords(name: string, words: unknown): (string | readonly number[])[] {
  if (!Array.isArray(words) || typeof words[0] === 'number')
    throw badArgument(name, 'an array of strings and of token ids', words);
  return words.map((word: unknown, i) => {
    if (typeof word === 'string' && word !== '') return word;
    const isIds = Array.isArray(word) && word.length > 0;
    if (!isIds) throw badArgument(`${name}[${i}]`, 'a non-empty string or token ids', word);
    return word.map((token: unknown, j) => checkInteger(`${name}[${i}][${j}]`, token, 0, 2 ** 31 - 1));
  });
}
