import type { NeoXModel } from '../model/neox-model';
import { generateConstrained } from '../engine/constrained';
import { packRows } from '../model/rows';
import { native } from '../native';
import { runNative } from '../native-call';
import type * as Native from '../../types/native';
import type { TokenDecoder } from '../tokenizer/tokenizer';
import type { PreparedRequest } from './generate';
import { Output } from './output';
import { scoredTokens, type ScoredToken } from './token-scores';

/** `'stop'`: an end-of-sequence token or a stop string. `'length'`: `maxNewTokens`, or the model's last position. */
export type FinishReason = 'stop' | 'length';

/** Tokens of a request and its answer. Prompt, prefix and answer together are at most the model's positions. */
export interface Usage {
  /** Tokens of the prompt. */
  promptTokens: number;
  /** Positions of the prefix. */
  prefixTokens: number;
  /** New tokens, without end-of-sequence tokens, of all completions together. */
  completionTokens: number;
  /** Tokens of the prompt that an engine's prompt cache had. */
  cachedTokens?: number;
}

/** One text for a prompt. */
export interface Completion {
  /** The new text, without special tokens, and without a stop string. Empty when the model has no tokenizer. */
  text: string;
  /** The new token ids, without the end-of-sequence token; up to the one that completes a stop string. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** The stop string that ended the text. */
  stop?: string;
  /** Of each new token, with `logprobs`. */
  logprobs?: ScoredToken[];
  /** Of a beam search: the log-probability of the tokens under the processed distributions, divided by their number ^ `lengthPenalty`. */
  score?: number;
}

/** What a prompt gives. With several completions its own fields are those of the first. */
export interface GenerateResult extends Completion {
  /** How many tokens it took. */
  usage: Usage;
  /** All completions, with `n` or `numReturnSequences` above 1; of a beam search the best first. */
  completions?: Completion[];
  /** Of each token of the prompt, with `promptLogprobs`; null for the first, which nothing predicts. */
  promptLogprobs?: (ScoredToken | null)[];
}

/** What a row has done since the last piece. */
export interface RowPiece {
  text: string;
  token?: number;
  logprob?: ScoredToken;
  finishReason?: FinishReason;
}

/** The rows of a request: n for each prompt, one behind the other. */
interface Rows {
  prompts: Int32Array[];
  prefixes: (Native.Prefix | null)[];
  settings: Native.GenerateRowSettings[];
}

/** Runs a prepared request; `onPiece` hears of every new token of every row, and of its end. */
export async function run(
  model: NeoXModel,
  request: PreparedRequest,
  onPiece?: (row: number, piece: RowPiece) => void,
): Promise<GenerateResult[]> {
  const { prompts, n, format, signal } = request;
  signal?.throwIfAborted();
  if (prompts.length === 0) return [];
  const prefixes = await model.prefixHandles(request.prefixes);
  const share = n > 1 && format === undefined;
  const start = share || request.promptLogprobs !== undefined ? await prefill(model, request, prefixes, share) : undefined;
  if (format !== undefined && start !== undefined) native().freeCache(start.cache);
  const completions =
    format === undefined
      ? await generateFreely(model, request, prefixes, start?.cache, onPiece)
      : await generateConstrained(model, { ...request, format }, prefixes, onPiece);
  return prompts.map((_, i) => ({
    ...resultOf(usageOf(request, i), completions.slice(i * n, (i + 1) * n)),
    ...(start?.promptLogprobs && { promptLogprobs: start.promptLogprobs[i] as (ScoredToken | null)[] }),
  }));
}

/** The completions of the rows, n for each prompt. `start`: all of the prompts but their last tokens; it is freed. */
async function generateFreely(
  model: NeoXModel,
  request: PreparedRequest,
  prefixes: readonly (Native.Prefix | null)[],
  start: Native.Cache | undefined,
  onPiece: ((row: number, piece: RowPiece) => void) | undefined,
): Promise<Completion[]> {
  const { prompts, settings, stops, n, signal } = request;
  const cache = start && n > 1 ? repeated(start, prompts.length, n) : start;
  const stopFlags = stops.length === 0 ? undefined : Array.from({ length: prompts.length * n }, () => native().createCancelFlag());
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
  const outputs = isHeard ? rows.prompts.map(() => new Output(decoderFor(model), stops, scored)) : undefined;
  const listener =
    outputs &&
    (([row, token, scores]: [number, number, Native.TokenScores?]): void => {
      const output = outputs[row] as Output;
      if (output.stop !== undefined) return; // the tokens that came while the row was being stopped
      const piece = output.push(token, scores);
      onPiece?.(row, piece);
      if (output.stop !== undefined) native().cancel(stopFlags?.[row] as Native.CancelFlag);
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
  ).finally(() => cache && native().freeCache(cache));
  return results.map((result, row) => {
    const output = outputs?.[row];
    if (output === undefined) return completionOf(model, result, scored);
    const { rest, completion } = output.end(output.stop === undefined ? result.finishReason : 'stop');
    onPiece?.(row, { text: rest, finishReason: completion.finishReason });
    return completion;
  });
}

/** The result of a prompt with these completions. */
export function resultOf(usage: Omit<Usage, 'completionTokens'>, completions: Completion[]): GenerateResult {
  const completionTokens = completions.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return { ...(completions[0] as Completion), usage: { ...usage, completionTokens }, ...(completions.length > 1 && { completions }) };
}

/** What stands in front of the completions of a prompt. */
export function usageOf({ prompts, prefixes }: PreparedRequest, prompt: number): Omit<Usage, 'completionTokens'> {
  return { promptTokens: prompts[prompt]?.length ?? 0, prefixTokens: prefixes[prompt]?.prefixLength ?? 0 };
}

export function decode(model: NeoXModel, tokens: Int32Array): string {
  return model.hasTokenizer ? model.tokenizer.decode(tokens, { skipSpecialTokens: true }) : '';
}

/** Decodes the tokens of a row; undefined without a tokenizer. */
export function decoderFor(model: NeoXModel): TokenDecoder | undefined {
  return model.hasTokenizer ? model.tokenizer.createDecoder({ skipSpecialTokens: true }) : undefined;
}

/** Computes the prompts but for their last tokens; with `share`, as blocks that forks share. */
export async function prefill(
  model: NeoXModel,
  { prompts, promptLogprobs, signal }: PreparedRequest,
  prefixes: (Native.Prefix | null)[],
  share: boolean,
): Promise<{ cache: Native.Cache; promptLogprobs: (ScoredToken | null)[][] | undefined }> {
  const packed = packRows(prompts.map((prompt) => prompt.subarray(0, -1)));
  const targets = promptLogprobs === undefined ? packed.tokens.map(() => -1) : packRows(prompts.map((prompt) => prompt.subarray(1))).tokens;
  const { rows, cache } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, { ...packed, prefixes, targets, top: promptLogprobs ?? 0, keep: share ? 'blocks' : 'rows', cancel }),
  );
  const scores =
    promptLogprobs === undefined ? undefined : rows.map((row, i) => [null, ...scoredTokens(prompts[i]?.subarray(1) ?? [], row)]);
  return { cache, promptLogprobs: scores };
}

/** A cache with each row n times; the one that is given is freed. */
function repeated(cache: Native.Cache, rows: number, n: number): Native.Cache {
  const sources = Int32Array.from({ length: rows * n }, (_, row) => Math.floor(row / n));
  const fork = native().forkCache(cache, sources, new Int32Array(rows * n));
  native().freeCache(cache);
  return fork;
}

/** What a row has said that nobody heard while it ran. */
function completionOf(model: NeoXModel, { tokens, finishReason, scores }: Native.GenerateResult, scored: boolean): Completion {
  return {
    text: decode(model, tokens),
    tokens: Array.from(tokens),
    finishReason,
    ...(scored && { logprobs: scoredTokens(tokens, scores).slice(0, tokens.length) }),
  };
}
