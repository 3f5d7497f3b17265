import { badArgument } from '../base/arguments';
import { generate } from '../engine/call';
import { type GenerateResult } from '../generation/output';
import { type Prompt, promptIds } from '../generation/request';
import type { LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import type { PrefixWeights } from '../prefix/weights';
import type { TrainingEvent } from '../runs/events';
import type { RowSource } from './row-source';

type Samples = Extract<TrainingEvent, { type: 'samples' }>['samples'];

const COUNT = 3;
/** Tokens of a text that its continuation starts from, where a sample has no prompt. */
const BEGINNING = 6;
const NEW_TOKENS = 48;

/** Checks prompts of one's own: what is wrong with them is to be found before the run, whose beginning they are in. */
export function checkPrompts(name: string, prompts: readonly Prompt[], model: LoadedModel, prefixLength: number): void {
  if (!Array.isArray(prompts)) throw badArgument(name, 'an array of prompts', prompts);
  // What is written is shown as text.
  if (prompts.length > 0) model.checkTokenizer();
  for (const [i, prompt] of prompts.entries()) {
    const item = `${name}[${i}]`;
    checkLength(item, promptIds(model, prompt, item).length + prefixLength, model.config);
  }
}

/**
 * Prompts for a run's report: those of the first samples, or the beginnings of their texts. None for a model without a
 * tokenizer.
 */
export async function promptsOf(model: LoadedModel, source: RowSource): Promise<Int32Array[]> {
  if (!model.hasTokenizer) return [];
  const samples = await source.dataset.get(Array.from({ length: Math.min(COUNT, source.length) }, (_, i) => i));
  return samples.map(({ prompt, completion }) => (prompt.length > 0 ? prompt : completion.slice(0, BEGINNING)));
}

/** What the model writes behind the prompts, greedily. */
export async function writeSamples(
  model: LoadedModel,
  prompts: readonly Prompt[],
  prefix: PrefixWeights | undefined,
  signal: AbortSignal | undefined,
): Promise<Samples> {
  const options = { prefix, temperature: 0, maxNewTokens: NEW_TOKENS, ...(signal === undefined ? {} : { signal }) };
  const results = (await generate(model, prompts, options)) as GenerateResult[];
  return results.map(({ text, finishReason }, i) => {
    const prompt = prompts[i] as Prompt;
    return {
      prompt: typeof prompt === 'string' ? prompt : model.tokenizer.decode(prompt, { skipSpecialTokens: true }),
      text,
      finishReason,
    };
  });
}
