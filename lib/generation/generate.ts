import { randomInt } from 'node:crypto';
import { badArgument, checkBoolean, checkInteger, checkNumber, checkOptions, checkSignal } from '../arguments';
import { rowPrefixes } from '../model/forward';
import type { NeoXModel } from '../model/neox-model';
import { checkIds, checkLength, isTokenIds, packRows, type TokenIds } from '../model/rows';
import { NeoXPrefixError } from '../errors';
import { runNative } from '../native-call';
import type { PrefixWeights } from '../prefix/weights';
import type * as Native from '../../types/native';

/** Text, or token ids. An empty prompt (`''`) is the model's beginning-of-sequence token. */
export type Prompt = string | TokenIds;

/** How tokens are drawn, and when a text ends. */
export interface SamplingOptions {
  /** Most tokens to generate. Defaults to `128`. */
  maxNewTokens?: number;
  /** Divides the logits; 0 is greedy: the most likely token, always. Defaults to `1`. */
  temperature?: number;
  /** Draws only from the k most likely tokens; 0: from all. Defaults to `0`. */
  topK?: number;
  /**
   * Draws only from the smallest set of most likely tokens whose probability reaches p, by Hugging Face's rule: the token that crosses
   * p is in the set. (rinna's script leaves it out.) In (0, 1]. Defaults to `1`.
   */
  topP?: number;
  /** Goes on at the end-of-sequence token. Defaults to `false`. */
  ignoreEos?: boolean;
}

/** How to generate, and with which prefixes. */
export interface GenerateOptions extends SamplingOptions {
  /** A prefix for all prompts, or an array with one (or undefined) for each. Defaults to none. */
  prefix?: PrefixWeights | undefined | readonly (PrefixWeights | undefined)[];
  /**
   * Seed of the draws, or an array with one for each prompt. The text of a prompt depends on its own seed alone, not on the prompts beside
   * it. Integers from 0 to 2^53 - 1. Defaults to a random one for each prompt.
   */
  seed?: number | readonly number[];
  /** Stops within a token; the promise rejects with the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

/** `'stop'`: the end-of-sequence token. `'length'`: `maxNewTokens`, or the model's last position. */
export type FinishReason = 'stop' | 'length';

/** Tokens of a request and its answer. Prompt, prefix and answer together are at most the model's positions. */
export interface Usage {
  /** Tokens of the prompt. */
  promptTokens: number;
  /** Positions of the prefix. */
  prefixTokens: number;
  /** New tokens, without the end-of-sequence token. */
  completionTokens: number;
}

/** The answer to one prompt. */
export interface GenerateResult {
  /** The new text, without special tokens. Empty when the model has no tokenizer. */
  text: string;
  /** The new token ids, without the end-of-sequence token. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** How many tokens it took. */
  usage: Usage;
}

export const GENERATE_OPTIONS = ['maxNewTokens', 'temperature', 'topK', 'topP', 'ignoreEos', 'prefix', 'seed', 'signal'] as const;

/** A checked request: the rows' tokens, prefixes and settings. */
export interface PreparedRequest {
  rows: Int32Array[];
  prefixes: (PrefixWeights | undefined)[];
  settings: Native.GenerateRowSettings[];
  signal: AbortSignal | undefined;
}

export async function generate(
  model: NeoXModel,
  prompts: Prompt | readonly Prompt[],
  options: GenerateOptions,
): Promise<GenerateResult | GenerateResult[]> {
  // A plain empty array is no prompt at all rather than one without tokens: that is what an empty list of texts becomes.
  const single = typeof prompts === 'string' || (isTokenIds(prompts) && !(Array.isArray(prompts) && prompts.length === 0));
  const list: readonly Prompt[] = single ? [prompts] : prompts;
  if (!Array.isArray(list)) throw badArgument('prompt', 'a string, token ids, or an array of them', prompts);
  const request = prepare(model, list, options);
  const results = await run(model, request);
  return single ? (results[0] as GenerateResult) : results;
}

/** Checks and completes. */
export function prepare(model: NeoXModel, prompts: readonly Prompt[], options: GenerateOptions): PreparedRequest {
  checkOptions('options', options, GENERATE_OPTIONS);
  const signal = checkSignal('signal', options.signal);
  const prefixes = rowPrefixes('prefix', options.prefix, prompts.length);
  for (const prefix of prefixes) prefix?.checkFits(model.config, model.fingerprint);
  const ignoreEos = checkBoolean('ignoreEos', options.ignoreEos ?? false);
  const shared = {
    temperature: checkNumber('temperature', options.temperature ?? 1, 0, 1e4),
    topK: checkInteger('topK', options.topK ?? 0, 0),
    topP: checkNumber('topP', options.topP ?? 1, 0, 1, true),
    maxNewTokens: checkInteger('maxNewTokens', options.maxNewTokens ?? 128, 0),
    stopIds: Int32Array.from(ignoreEos ? [] : model.config.eosTokenIds),
  };
  const rows = prompts.map((prompt, i) => promptIds(model, prompt, prompts.length === 1 ? 'prompt' : `prompt[${i}]`));
  rows.forEach((row, i) => {
    checkLength(`Prompt ${i}`, row.length + (prefixes[i]?.prefixLength ?? 0), model.config);
  });
  const seeds = rowSeeds(options.seed, prompts.length);
  return { rows, prefixes, settings: seeds.map((seed) => ({ ...shared, seed })), signal };
}

/** Runs a prepared request; `onToken` hears of every new token. */
export function run(model: NeoXModel, request: PreparedRequest, onToken?: (row: number, token: number) => void): Promise<GenerateResult[]> {
  return model.track(runTracked(model, request, onToken));
}

async function runTracked(
  model: NeoXModel,
  request: PreparedRequest,
  onToken: ((row: number, token: number) => void) | undefined,
): Promise<GenerateResult[]> {
  const { rows, settings, signal } = request;
  signal?.throwIfAborted();
  if (rows.length === 0) return [];
  const prefixes = await model.prefixHandles(request.prefixes);
  const listener = onToken === undefined ? undefined : ([row, token]: [number, number]): void => onToken(row, token);
  const results = await runNative(signal, (addon, cancel) =>
    addon.generate(model.native, { ...packRows(rows), prefixes, settings, cancel, onToken: listener }),
  );
  return results.map(({ tokens, finishReason }, i) => ({
    text: model.hasTokenizer ? model.tokenizer.decode(tokens, { skipSpecialTokens: true }) : '',
    tokens: Array.from(tokens),
    finishReason,
    usage: usageOf(request, i, tokens.length),
  }));
}

export function usageOf({ rows, prefixes }: PreparedRequest, row: number, completionTokens: number): Usage {
  return { promptTokens: rows[row]?.length ?? 0, prefixTokens: prefixes[row]?.prefixLength ?? 0, completionTokens };
}

function promptIds(model: NeoXModel, prompt: unknown, name: string): Int32Array {
  if (typeof prompt !== 'string' && !isTokenIds(prompt)) throw badArgument(name, 'a string or token ids', prompt);
  const ids = typeof prompt === 'string' ? model.tokenizer.encode(prompt) : prompt;
  if (ids.length > 0) return checkIds(name, ids, model.config);
  const bos = model.config.bosTokenId;
  if (bos === null) {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `Expected at least one token for ${name}: the model has no beginning-of-sequence token to start from`,
    );
  }
  return Int32Array.of(bos);
}

function rowSeeds(seed: unknown, rows: number): number[] {
  if (seed === undefined) return Array.from({ length: rows }, () => randomInt(2 ** 47));
  if (!Array.isArray(seed)) return Array.from({ length: rows }, () => checkSeed('seed', seed, ', or an array with one for each prompt,'));
  if (seed.length !== rows) throw badArgument('seed', `one seed for each of the ${rows} prompts`, seed);
  return seed.map((item: unknown, i) => checkSeed(`seed[${i}]`, item));
}

function checkSeed(name: string, seed: unknown, others = ''): number {
  if (typeof seed !== 'number' || !Number.isSafeInteger(seed) || seed < 0) {
    throw badArgument(name, `an integer from 0 to 2^53 - 1${others}`, seed);
  }
  return seed;
}
