import type * as Native from '../../types/native';
import { startConstraint } from '../generation/constraints/compiler';
import type { Constraint } from '../generation/constraints/constraint';
import type { OutputFormat } from '../generation/constraints/output-format';
import { formatDecoder } from '../generation/constraints/vocabulary';
import type { Completion, RowPiece } from '../generation/output';
import { Output } from '../generation/output';
import type { PreparedRequest } from '../generation/request';
import type { LoadedModel } from '../model/loaded-model';
import { Collector } from './collector';
import { Job } from './job';
import { Scheduler } from './scheduler';

/** As many rows of a call advance together; a mask is found for each of them between two steps. */
const MOST_ROWS = 64;
const PREFILL_TOKENS = 2048;

/**
 * Generates texts that have a format, for a call of {@link NeoXModel}: by an engine that lives as long as the call.
 * Gives the completions of the rows, n for each prompt; `onPiece` hears of every new token of every row, and of its
 * end.
 */
export async function generateConstrained(
  model: LoadedModel,
  request: PreparedRequest & { format: OutputFormat },
  prefixes: readonly (Native.Prefix | null)[],
  onPiece?: (row: number, piece: RowPiece) => void,
): Promise<Completion[]> {
  const { prompts, seeds, settings, n, format, signal } = request;
  const count = prompts.length * n;
  const scheduler = new Scheduler(model, {
    maxRows: Math.min(count, MOST_ROWS),
    kvBudgetTokens: Infinity,
    prefillTokens: PREFILL_TOKENS,
    promptCacheBytes: 0,
  });
  const constraints: Constraint[] = [];
  try {
    while (constraints.length < count) constraints.push(await startConstraint(model, format, settings.endIds, signal));
    signal?.throwIfAborted();
    const collectors = constraints.map((_, row) => new Collector(onPiece && ((piece) => onPiece(row, piece))));
    const jobs = collectors.map((collector, row) => {
      const prompt = prompts[Math.floor(row / n)] as Int32Array;
      const output = new Output(model, formatDecoder(model.tokenizer), [], settings.logprobs >= 0);
      return new Job(row, 0, 0, prompt.length, 0, output, collector);
    });
    scheduler.add(jobs, signal);
    constraints.splice(0).forEach((constraint, row) => {
      const source = Math.floor(row / n);
      scheduler.ready(jobs[row] as Job, {
        prompt: prompts[source] as Int32Array,
        prefix: prefixes[source] ?? null,
        settings: { ...settings, seed: seeds[source] as number, stream: row % n },
        constraint,
        endToken: false,
        promptLogprobs: -1,
      });
    });
    const results = await Promise.all(collectors.map(({ result }) => result));
    return results.flatMap(({ completions }) => completions);
  } finally {
    for (const constraint of constraints) constraint.dispose();
    await scheduler.dispose(undefined);
  }
}
