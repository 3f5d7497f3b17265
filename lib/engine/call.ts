import type * as Native from '../../types/native';
import { runNative, runNativeNow } from '../addon/run-native';
import { badArgument } from '../base/arguments';
import { namesOf } from '../base/options';
import {
  beamCompletions,
  type Completion,
  decode,
  decoderFor,
  type GenerateResult,
  Output,
  resultOf,
  type RowPiece,
  type Usage,
} from '../generation/output';
import type { PreparedRequest } from '../generation/request';
import { GENERATE_OPTIONS, type GenerateOptions, prepare, type Prompt } from '../generation/request';
import { type ScoredToken, scoredTokens } from '../generation/token-scores';
import type { LoadedModel } from '../model/loaded-model';
import { goesWhole, isTokenIds, packRows } from '../model/rows';
import { NO_CONTEXT, type TextContext } from '../tokenizer/backend';
import { generateConstrained } from './constrained';

/** The rows of a request: n for each prompt, one behind the other. */
interface Rows {
  prompts: Int32Array[];
  prefixes: (Native.Prefix | null)[];
  settings: Native.GenerateRowSettings[];
}

/** Runs a prepared request; `onPiece` hears of every new token of every row, and of its end. */
export async function run(
  model: LoadedModel,
  request: PreparedRequest,
  onPiece?: (row: number, piece: RowPiece) => void,
): Promise<GenerateResult[]> {
  const { prompts, n, format, signal } = request;
  signal?.throwIfAborted();
  if (prompts.length === 0) return [];
  const prefixes = await model.prefixHandles(request.prefixes);
  // A row that goes whole begins with all of its prompt, and shares nothing.
  const whole = anyGoesWhole(model, request);
  const share = n > 1 && format === undefined && !whole;
  const start =
    share || request.promptLogprobs !== undefined ? await prefill(model, request, prefixes, share) : undefined;
  const cache = format === undefined && !whole ? start?.cache : undefined;
  if (start !== undefined && cache === undefined) runNativeNow((addon) => addon.freeCache(start.cache));
  const completions =
    format === undefined
      ? await generateFreely(model, request, prefixes, cache, onPiece)
      : await generateConstrained(model, { ...request, format }, prefixes, onPiece);
  return prompts.map((_, i) => ({
    ...resultOf(usageOf(request, i), completions.slice(i * n, (i + 1) * n)),
    ...(start?.promptLogprobs && { promptLogprobs: start.promptLogprobs[i] as (ScoredToken | null)[] }),
  }));
}

/** The completions of the rows, n for each prompt. `start`: all of the prompts but their last tokens; it is freed. */
async function generateFreely(
  model: LoadedModel,
  request: PreparedRequest,
  prefixes: readonly (Native.Prefix | null)[],
  start: Native.Cache | undefined,
  onPiece: ((row: number, piece: RowPiece) => void) | undefined,
): Promise<Completion[]> {
  const { prompts, settings, stops, n, signal } = request;
  const cache = start && n > 1 ? repeated(start, prompts.length, n) : start;
  const stopFlags =
    stops.length === 0
      ? undefined
      : Array.from({ length: prompts.length * n }, () => runNativeNow((addon) => addon.createCancelFlag()));
  const rows: Rows = { prompts: [], prefixes: [], settings: [] };
  prompts.forEach((prompt, i) => {
    for (let stream = 0; stream < n; stream++) {
      const seed = request.seeds[i] as number;
      rows.settings.push({ ...settings, seed, stream, stop: stopFlags?.[rows.prompts.length] });
      rows.prompts.push(prompt);
      rows.prefixes.push(prefixes[i] ?? null);
    }
  });
  const scored = settings.logprobs >= 0;
  const isHeard = onPiece !== undefined || stopFlags !== undefined;
  const contextOf = (row: number): TextContext => request.contexts[Math.floor(row / n)] ?? NO_CONTEXT;
  const outputs = isHeard
    ? rows.prompts.map((_, row) => new Output(model, decoderFor(model, contextOf(row)), stops, scored))
    : undefined;
  const listener =
    outputs &&
    (([row, token, scores]: [number, number, Native.TokenScores?]): void => {
      const output = outputs[row] as Output;
      if (output.stop !== undefined) return; // the tokens that came while the row was being stopped
      const piece = output.push(token, scores);
      onPiece?.(row, piece);
      if (output.stop !== undefined) runNativeNow((addon) => addon.cancel(stopFlags?.[row] as Native.CancelFlag));
    });
  const results = await runNative(signal, (addon, cancel) =>
    addon.generate(model.native, {
      ...packRows(rows.prompts),
      prefixes: rows.prefixes,
      settings: rows.settings,
      cache,
      cachedTokens: cache && Int32Array.from(rows.prompts, (prompt) => prompt.length - 1),
      cancel,
      onToken: listener,
    }),
  ).finally(() => cache && runNativeNow((addon) => addon.freeCache(cache)));
  return results.map((result, row) => {
    const output = outputs?.[row];
    if (output === undefined) return completionOf(model, contextOf(row), result, scored);
    const { rest, completion } = output.end(output.stop === undefined ? result.finishReason : 'stop');
    onPiece?.(row, { text: rest, finishReason: completion.finishReason });
    return completion;
  });
}

/** What stands in front of the completions of a prompt. */
export function usageOf({ prompts, prefixes }: PreparedRequest, prompt: number): Omit<Usage, 'completionTokens'> {
  return { promptTokens: prompts[prompt]?.length ?? 0, prefixTokens: prefixes[prompt]?.prefixLength ?? 0 };
}

/** Whether a prompt must not be cut, so that no part of it can be computed before. */
function anyGoesWhole(model: LoadedModel, request: PreparedRequest): boolean {
  return request.prompts.some((_, i) => {
    const { promptTokens, prefixTokens } = usageOf(request, i);
    return goesWhole(model.config, prefixTokens + promptTokens);
  });
}

/** Computes the prompts but for their last tokens; with `share`, as blocks that forks share. */
export async function prefill(
  model: LoadedModel,
  { prompts, promptLogprobs, signal }: PreparedRequest,
  prefixes: (Native.Prefix | null)[],
  share: boolean,
): Promise<{ cache: Native.Cache; promptLogprobs: (ScoredToken | null)[][] | undefined }> {
  const packed = packRows(prompts.map((prompt) => prompt.subarray(0, -1)));
  const targets =
    promptLogprobs === undefined
      ? packed.tokens.map(() => -1)
      : packRows(prompts.map((prompt) => prompt.subarray(1))).tokens;
  const { rows, cache } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, {
      ...packed,
      prefixes,
      targets,
      top: promptLogprobs ?? 0,
      keep: share ? 'blocks' : 'rows',
      cancel,
    }),
  );
  const scores =
    promptLogprobs === undefined
      ? undefined
      : rows.map((row, i) => [null, ...scoredTokens(prompts[i]?.subarray(1) ?? [], row)]);
  return { cache, promptLogprobs: scores };
}

/** A cache with each row n times; the one that is given is freed. */
function repeated(cache: Native.Cache, rows: number, n: number): Native.Cache {
  const sources = Int32Array.from({ length: rows * n }, (_, row) => Math.floor(row / n));
  const fork = runNativeNow((addon) => addon.forkCache(cache, sources, new Int32Array(rows * n)));
  runNativeNow((addon) => addon.freeCache(cache));
  return fork;
}

/** What a row has said that nobody heard while it ran. */
function completionOf(
  model: LoadedModel,
  context: TextContext,
  { tokens, finishReason, scores }: Native.GenerateResult,
  scored: boolean,
): Completion {
  return {
    text: decode(model, context, tokens),
    tokens: Array.from(tokens),
    finishReason,
    ...(scored && { logprobs: scoredTokens(tokens, scores).slice(0, tokens.length) }),
  };
}

export async function generate(
  model: LoadedModel,
  prompts: Prompt | readonly Prompt[],
  options: GenerateOptions,
): Promise<GenerateResult | GenerateResult[]> {
  // A plain empty array is no prompt at all rather than one without tokens: that is what an empty list of texts
  // becomes.
  const single =
    typeof prompts === 'string' || (isTokenIds(prompts) && !(Array.isArray(prompts) && prompts.length === 0));
  const list: readonly Prompt[] = single ? [prompts] : prompts;
  if (!Array.isArray(list)) throw badArgument('prompt', 'a string, token ids, or an array of them', prompts);
  const request = prepare(model, list, options, namesOf(GENERATE_OPTIONS));
  const results = await model.track(
    request.beams === undefined ? run(model, request) : beamSearch(model, request, request.beams),
  );
  return single ? (results[0] as GenerateResult) : results;
}

export async function beamSearch(
  model: LoadedModel,
  request: PreparedRequest,
  beams: Native.BeamSettings,
): Promise<GenerateResult[]> {
  const { prompts, settings, signal } = request;
  signal?.throwIfAborted();
  if (prompts.length === 0) return [];
  const prefixes = await model.prefixHandles(request.prefixes);
  // The prompt becomes a block that all beams share.
  const cache = anyGoesWhole(model, request) ? undefined : (await prefill(model, request, prefixes, true)).cache;
  const results = await runNative(signal, (addon, cancel) =>
    addon.beamSearch(model.native, {
      ...packRows(prompts),
      ...beams,
      prefixes,
      settings: prompts.map(() => ({ ...settings, seed: 0, stream: 0 })),
      cache,
      cachedTokens: cache && Int32Array.from(prompts, (prompt) => prompt.length - 1),
      cancel,
    }),
  ).finally(() => cache && runNativeNow((addon) => addon.freeCache(cache)));
  return results.map((sequences, i) =>
    resultOf(usageOf(request, i), beamCompletions(model, request.contexts[i] ?? NO_CONTEXT, sequences)),
  );
}
