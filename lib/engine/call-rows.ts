import type * as Native from '../../types/native';
import { runNative, runNativeNow } from '../addon/run-native';
import { startConstraint } from '../generation/constraints/compiler';
import type { Constraint } from '../generation/constraints/constraint';
import { formatDecoder } from '../generation/constraints/vocabulary';
import { decoderFor, Output, type RowPiece } from '../generation/output';
import type { PreparedRequest } from '../generation/request';
import { type ScoredToken, scoredTokens } from '../generation/token-scores';
import type { LoadedModel } from '../model/loaded-model';
import { goesWhole, packRows } from '../model/rows';
import { NO_CONTEXT } from '../tokenizer/backend';
import { type Collected, Collector } from './collector';
import { Job } from './job';
import { Scheduler } from './scheduler';

/** As many rows with a format advance together; a mask is found for each of them between two steps. */
const MOST_CONSTRAINED_ROWS = 64;
/** Tokens of prompts in one forward pass. */
const PREFILL_TOKENS = 2048;
/** Native work without a pause. Only other operations of the model wait for one. */
const SLICE_MICROSECONDS = 250_000;

/** What the rows of a call give, n for each prompt, one behind the other. */
export interface CalledRows {
  rows: Collected[];
  /** Of each prompt, with `promptLogprobs`. */
  promptLogprobs: (ScoredToken | null)[][] | undefined;
}

/**
 * Runs the rows of a call of a model, n for each prompt, by an engine that lives as long as the call. `onPiece` hears
 * of every new token of every row, and of its end.
 */
export async function runRows(
  model: LoadedModel,
  request: PreparedRequest,
  onPiece?: (row: number, piece: RowPiece) => void,
): Promise<CalledRows> {
  const { prompts, contexts, seeds, settings, stops, n, beams, format, signal } = request;
  const prefixes = await model.prefixHandles(request.prefixes);
  // What the texts of a prompt have in common is computed once, but for a prompt that must not be cut.
  const share =
    n > 1 && !prompts.some((prompt, i) => goesWhole(model.config, prompt.length + prefixLength(request, i)));
  const shared = share ? await sharedBeginnings(model, request, prefixes) : undefined;
  const count = prompts.length * n;
  const scheduler = new Scheduler(model, {
    maxRows: format === undefined ? count : Math.min(count, MOST_CONSTRAINED_ROWS),
    kvBudgetTokens: Infinity,
    prefillTokens: PREFILL_TOKENS,
    promptCacheBytes: 0,
    sliceMicroseconds: SLICE_MICROSECONDS,
    // Somebody reads each token, or a stop string that is found in the text ends the row.
    tokensAtOnce: onPiece !== undefined || stops.length > 0,
  });
  const constraints: Constraint[] = [];
  try {
    if (format !== undefined)
      while (constraints.length < count)
        constraints.push(await startConstraint(model, format, settings.endIds, signal));
    signal?.throwIfAborted();
    const collectors = Array.from(
      { length: count },
      (_, row) => new Collector(onPiece && ((piece) => onPiece(row, piece))),
    );
    const jobs = collectors.map((collector, row) => {
      const source = Math.floor(row / n);
      const context = contexts[source] ?? NO_CONTEXT;
      const decoder = format === undefined ? decoderFor(model, context) : formatDecoder(model.tokenizer);
      const output = new Output(model, decoder, stops, settings.logprobs >= 0);
      return new Job(row, 0, 0, (prompts[source] as Int32Array).length, 0, output, collector);
    });
    scheduler.add(jobs, signal);
    const started = constraints.splice(0);
    for (const [row, job] of jobs.entries()) {
      const source = Math.floor(row / n);
      const prompt = prompts[source] as Int32Array;
      scheduler.ready(job, {
        row,
        prompt,
        context: contexts[source],
        prefix: prefixes[source] ?? null,
        past: shared && { cache: shared.cache, row: source, tokens: prompt.length - 1 },
        settings: { ...settings, seed: seeds[source] as number, stream: row % n },
        beams,
        constraint: started[row],
        endToken: false,
        promptLogprobs: shared === undefined && row % n === 0 ? (request.promptLogprobs ?? -1) : -1,
      });
    }
    const rows = await Promise.all(collectors.map(({ result }) => result));
    const own = prompts.map((_, i) => rows[i * n]?.promptLogprobs ?? []);
    const scored = shared === undefined && request.promptLogprobs !== undefined;
    return { rows, promptLogprobs: scored ? own : shared?.promptLogprobs };
  } finally {
    for (const constraint of constraints) constraint.dispose();
    await scheduler.dispose(undefined);
    if (shared !== undefined) runNativeNow((addon) => addon.freeCache(shared.cache));
  }
}

/** Positions of the prefix of a prompt. */
export function prefixLength({ prefixes }: PreparedRequest, prompt: number): number {
  return prefixes[prompt]?.prefixLength ?? 0;
}

/** The prompts but for their last tokens, as blocks that all rows of a prompt share. */
async function sharedBeginnings(
  model: LoadedModel,
  { prompts, promptLogprobs, signal }: PreparedRequest,
  prefixes: (Native.Prefix | null)[],
): Promise<{ cache: Native.Cache; promptLogprobs: (ScoredToken | null)[][] | undefined }> {
  const packed = packRows(prompts.map((prompt) => prompt.subarray(0, -1)));
  const targets =
    promptLogprobs === undefined
      ? packed.tokens.map(() => -1)
      : packRows(prompts.map((prompt) => prompt.subarray(1))).tokens;
  const { rows, cache } = await runNative(signal, (addon, cancel) =>
    addon.score(model.native, { ...packed, prefixes, targets, top: promptLogprobs ?? 0, keep: 'blocks', cancel }),
  );
  const scores =
    promptLogprobs === undefined
      ? undefined
      : rows.map((row, i) => [null, ...scoredTokens(prompts[i]?.subarray(1) ?? [], row)]);
  return { cache, promptLogprobs: scores };
}
