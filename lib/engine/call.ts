import { badArgument } from '../base/arguments';
import { namesOf } from '../base/options';
import { type GenerateResult, resultOf, type RowPiece } from '../generation/output';
import {
  GENERATE_OPTIONS,
  type GenerateOptions,
  prepare,
  type PreparedRequest,
  type Prompt,
} from '../generation/request';
import type { LoadedModel } from '../model/loaded-model';
import { isTokenIds } from '../model/rows';
import { prefixLength, runRows } from './call-rows';

/** Runs a prepared request; `onPiece` hears of every new token of every row, and of its end. */
export async function run(
  model: LoadedModel,
  request: PreparedRequest,
  onPiece?: (row: number, piece: RowPiece) => void,
): Promise<GenerateResult[]> {
  const { prompts, n, signal } = request;
  signal?.throwIfAborted();
  if (prompts.length === 0) return [];
  const { rows, promptLogprobs } = await runRows(model, request, onPiece);
  return prompts.map((prompt, i) => {
    const completions = rows.slice(i * n, (i + 1) * n).flatMap((row) => row.completions);
    const usage = { promptTokens: prompt.length, prefixTokens: prefixLength(request, i) };
    return { ...resultOf(usage, completions), ...(promptLogprobs && { promptLogprobs: promptLogprobs[i] ?? [] }) };
  });
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
  const results = await model.track(run(model, request));
  return single ? (results[0] as GenerateResult) : results;
}
