import { types } from 'node:util';
import { badArgument, checkFunction } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { generate } from '../engine/call';
import { type GenerateResult } from '../generation/output';
import type { LoadedModel } from '../model/loaded-model';
import type { PrefixWeights } from '../prefix/weights';
import type { RowSource } from './row-source';

/** What a metric judges: one sample, and what the model wrote. */
export interface GeneratedSample {
  /** Number of the sample in the data. */
  index: number;
  /** The sample's prompt; '' where it has none. */
  prompt: string;
  /** What the sample has behind the prompt. */
  reference: string;
  /**
   * What the model wrote behind the prompt, greedily, in as many tokens as the reference has and a quarter more (16 at
   * least).
   */
  text: string;
}

/** A figure for one sample, for example 1 where text and reference are equal and 0 where not. */
export type GenerationMetric = (sample: GeneratedSample) => number | Promise<number>;

/** Rows that are generated at a time. */
const BATCH = 16;

export function checkMetrics(metrics: unknown): void {
  if (metrics === undefined) return;
  if (metrics === null || typeof metrics !== 'object' || Array.isArray(metrics) || types.isMap(metrics))
    throw badArgument('metrics', 'an object of functions by name', metrics);
  for (const [name, metric] of Object.entries(metrics)) checkFunction(`metrics.${name}`, metric as unknown);
}

/** A function that gives the means of all metrics for a prefix; undefined where there is no metric. */
export function generationMetrics(
  model: LoadedModel,
  source: RowSource,
  metrics: Readonly<Record<string, GenerationMetric>> | undefined,
  signal: AbortSignal | undefined,
): ((prefix: PrefixWeights | undefined) => Promise<Record<string, number>>) | undefined {
  const list = Object.entries(metrics ?? {});
  if (list.length === 0) return undefined;
  return async (prefix) => {
    const sums = list.map(() => 0);
    for (let first = 0; first < source.length; first += BATCH) {
      const indices = Array.from({ length: Math.min(BATCH, source.length - first) }, (_, i) => first + i);
      const samples = await source.dataset.get(indices);
      const room = Math.max(16, Math.ceil(1.25 * Math.max(...samples.map(({ completion }) => completion.length))));
      const results = (await generate(
        model,
        samples.map(({ prompt }) => prompt),
        // As the reference, which is read by itself.
        { prefix, temperature: 0, maxNewTokens: room, decodeAlone: true, ...(signal === undefined ? {} : { signal }) },
      )) as GenerateResult[];
      for (const [i, { prompt, completion }] of samples.entries()) {
        const decode = (ids: Int32Array): string => model.tokenizer.decode(ids, { skipSpecialTokens: true });
        const generated = {
          index: first + i,
          prompt: decode(prompt),
          reference: decode(completion),
          text: results[i]?.text ?? '',
        };
        for (const [m, [name, metric]] of list.entries()) {
          const value: unknown = await metric(generated);
          if (typeof value !== 'number' || !Number.isFinite(value))
            throw new NeoXPrefixError(
              'NEOX_BAD_ARGUMENT',
              `Expected a finite number from metrics.${name} but it returned ${String(value)}`,
            );
          sums[m] = (sums[m] as number) + value;
        }
      }
    }
    return Object.fromEntries(list.map(([name], m) => [name, (sums[m] as number) / source.length]));
  };
}
