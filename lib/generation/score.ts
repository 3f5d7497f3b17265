import type * as Native from '../../types/native';
import { runNative, runNativeNow } from '../addon/run-native';
import { maxPositions } from '../architecture/rope';
import { badArgument, checkInteger, checkOptions, checkSignal } from '../base/arguments';
import type { LoadedModel } from '../model/loaded-model';
import { checkIds, checkLength, goesWhole, isTokenIds, packRows } from '../model/rows';
import { PrefixWeights } from '../prefix/weights';
import { type Prompt, promptIds } from './request';
import { refusal } from './sampling-options';

/** How to score. */
export interface ScoreOptions {
  /** The prefix. Defaults to none. */
  prefix?: PrefixWeights | undefined;
  /** Stops within a layer; the promise rejects with the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

/** How likely a continuation is after its prompt. */
export interface ContinuationScore {
  /** Log-probability of the whole continuation (natural logarithm): the sum over its tokens. */
  logprob: number;
  /** Of each token, given the prompt and the tokens before. */
  tokenLogprobs: Float32Array;
  /** True when each token is the most likely one at its place: greedy generation would give the continuation. */
  isGreedy: boolean;
  /** Its tokens. */
  tokens: Int32Array;
}

/** Which prefix, and how the windows lie. */
export interface PerplexityOptions extends ScoreOptions {
  /**
   * Tokens that go through the model at a time. Defaults to as many as the model has positions for, behind the prefix.
   */
  window?: number;
  /**
   * Tokens by which the window moves on, at most `window`. All but those of the first window are scored with at least
   * `window - stride` tokens in front of them; with a stride of `window` the windows do not overlap, and the first
   * token of each is not scored. Defaults to half of `window`.
   */
  stride?: number;
}

/** How well a text is foreseen. */
export interface PerplexityResult {
  /** exp(loss). */
  perplexity: number;
  /** Mean of -log p over the scored tokens, in nats. */
  loss: number;
  /** Tokens that were scored: each but the first of the text, or of windows that do not overlap. */
  tokens: number;
}

export async function score(
  model: LoadedModel,
  prompt: Prompt,
  continuations: readonly Prompt[],
  options: ScoreOptions,
): Promise<ContinuationScore[]> {
  checkOptions('options', options, ['prefix', 'signal']);
  const { prefix, signal } = checkScoring(model, options);
  if (!Array.isArray(continuations))
    throw badArgument('continuations', 'an array of strings or of token ids', continuations);
  const { context, rest } = encodePairs(model, prompt, continuations);
  rest.forEach((ids, i) => {
    if (ids.length === 0) throw refusal(`Expected at least one token for continuations[${i}]`);
    checkLength(
      `Prompt and continuation ${i}`,
      (prefix?.prefixLength ?? 0) + context.length + ids.length - 1,
      model.config,
    );
  });
  if (rest.length === 0) return [];
  const positions = (prefix?.prefixLength ?? 0) + context.length + Math.max(...rest.map((ids) => ids.length)) - 1;
  const scores = goesWhole(model.config, positions)
    ? await scoreWhole(model, context, rest, prefix, signal)
    : await scoreBehind(model, context, rest, prefix, signal);
  return scores.map(({ logprobs, greedy }, i) => ({
    logprob: logprobs.reduce((sum, value) => sum + value, 0),
    tokenLogprobs: logprobs,
    isGreedy: greedy.every((flag) => flag === 1),
    tokens: rest[i] as Int32Array,
  }));
}

/** Each continuation with the whole context in front of it. */
async function scoreWhole(
  model: LoadedModel,
  context: Int32Array,
  rest: readonly Int32Array[],
  prefix: PrefixWeights | undefined,
  signal: AbortSignal | undefined,
): Promise<Native.ScoreResult['rows']> {
  const [handle] = await model.prefixHandles([prefix]);
  const inputs = rest.map((ids) => Int32Array.of(...context, ...ids.subarray(0, -1)));
  const silent = new Int32Array(context.length - 1).fill(-1);
  const { rows, cache } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, {
      ...packRows(inputs),
      prefixes: rest.map(() => handle ?? null),
      targets: packRows(rest.map((ids) => Int32Array.of(...silent, ...ids))).tokens,
      top: 0,
      keep: 'nothing',
      cancel,
    }),
  );
  runNativeNow((addon) => addon.freeCache(cache));
  return rows;
}

/** All continuations behind the context, which is computed once. */
async function scoreBehind(
  model: LoadedModel,
  context: Int32Array,
  rest: readonly Int32Array[],
  prefix: PrefixWeights | undefined,
  signal: AbortSignal | undefined,
): Promise<Native.ScoreResult['rows']> {
  const prefixes = await model.prefixHandles([prefix]);
  const before = context.subarray(0, -1);
  const start = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, {
      ...packRows([before]),
      prefixes,
      targets: before.map(() => -1),
      top: 0,
      keep: 'blocks',
      cancel,
    }),
  );
  const zeros = new Int32Array(rest.length);
  const cache = runNativeNow((addon) => addon.forkCache(start.cache, zeros, zeros));
  runNativeNow((addon) => addon.freeCache(start.cache));
  const last = context[context.length - 1] as number;
  const inputs = rest.map((ids) => {
    const input = new Int32Array(ids.length);
    input[0] = last;
    input.set(ids.subarray(0, -1), 1);
    return input;
  });
  const targets = packRows(rest).tokens;
  const { rows } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, { ...packRows(inputs), prefixes: [], cache, targets, top: 0, keep: 'nothing', cancel }),
  ).finally(() => runNativeNow((addon) => addon.freeCache(cache)));
  return rows;
}

export async function perplexity(
  model: LoadedModel,
  text: Prompt,
  options: PerplexityOptions,
): Promise<PerplexityResult> {
  checkOptions('options', options, ['prefix', 'window', 'stride', 'signal']);
  const { prefix, signal } = checkScoring(model, options);
  const room = maxPositions(model.config) - (prefix?.prefixLength ?? 0);
  const window = checkInteger('window', options.window ?? Math.max(2, room), 2);
  checkLength('The window', window + (prefix?.prefixLength ?? 0), model.config);
  const stride = checkInteger('stride', options.stride ?? Math.floor(window / 2), 1, window);
  const ids = promptIds(model, text, 'text');
  if (ids.length < 2) throw refusal('Expected at least two tokens for text: the first one is not scored');
  const rows: Int32Array[] = [];
  const targets: Int32Array[] = [];
  for (let begin = 0, scored = 1; scored < ids.length; begin += stride) {
    const end = Math.min(begin + window, ids.length);
    // The last token of a window predicts nothing in it.
    rows.push(ids.subarray(begin, end - 1));
    const wanted = ids.slice(begin + 1, end);
    wanted.fill(-1, 0, Math.max(0, scored - begin - 1));
    targets.push(wanted);
    scored = end;
  }
  const tokens = targets.reduce((sum, row) => sum + row.filter((id) => id >= 0).length, 0);
  const [handle] = await model.prefixHandles([prefix]);
  const { rows: scores, cache } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, {
      ...packRows(rows),
      prefixes: rows.map(() => handle ?? null),
      targets: packRows(targets).tokens,
      top: 0,
      keep: 'nothing',
      cancel,
    }),
  );
  runNativeNow((addon) => addon.freeCache(cache));
  const total = scores.reduce((sum, { logprobs }) => logprobs.reduce((part, value) => part - value, sum), 0);
  return { perplexity: Math.exp(total / tokens), loss: total / tokens, tokens };
}

function checkScoring(
  model: LoadedModel,
  options: ScoreOptions,
): { prefix: PrefixWeights | undefined; signal: AbortSignal | undefined } {
  const { prefix } = options;
  if (prefix !== undefined && !(prefix instanceof PrefixWeights)) throw badArgument('prefix', 'PrefixWeights', prefix);
  prefix?.checkFits(model.config, model.fingerprint);
  return { prefix, signal: checkSignal('signal', options.signal) };
}

/**
 * The tokens of a prompt and of continuations. Texts are encoded together, as lm-evaluation-harness does it: what the
 * encoding of both has behind the prompt's own is the continuation, and spaces at the end of the prompt belong to it.
 * Where the two grow into one token, and where the prompt is token ids or empty, a continuation is encoded by itself.
 */
function encodePairs(
  model: LoadedModel,
  prompt: Prompt,
  continuations: readonly unknown[],
): { context: Int32Array; rest: Int32Array[] } {
  const text = typeof prompt === 'string' ? prompt.trimEnd() : '';
  const context = promptIds(model, typeof prompt === 'string' ? text : prompt, 'prompt');
  const spaces = typeof prompt === 'string' ? prompt.slice(text.length) : '';
  const rest = continuations.map((item, i) => {
    if (isTokenIds(item)) return checkIds(`continuations[${i}]`, item, model.config);
    if (typeof item !== 'string') throw badArgument(`continuations[${i}]`, 'a string or token ids', item);
    if (text !== '') {
      const both = model.tokenizer.encode(`${text}${spaces}${item}`);
      if (context.every((id, j) => id === both[j])) return both.subarray(context.length);
    }
    return model.tokenizer.encode(spaces + item);
  });
  return { context, rest };
}
