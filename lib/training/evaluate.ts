import { types } from 'node:util';
import { NOT_FINITE_HINT, runNative } from '../addon/run-native';
import { badArgument, checkBoolean, checkFunction, checkInteger, checkOptions, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Sample } from '../data/sample';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { PrefixWeights } from '../prefix/weights';
import { type EvaluationResult } from '../runs/events';
import { packBatch, type SampleRows } from './batches';
import { checkMetrics, type GenerationMetric, generationMetrics } from './generation-metrics';
import { RowSource } from './row-source';

interface SharedOptions {
  /** Samples in a batch; changes speed and memory, not the result. Defaults to `8`. */
  batchSize?: number;
  /** See {@link TrainerOptions.twoRows}. Defaults to `true`. */
  twoRows?: boolean;
  /**
   * Figures of what the model writes (greedily) behind the prompt of each sample, by name: each is the mean over the
   * samples of what its function says. Defaults to none.
   */
  metrics?: Readonly<Record<string, GenerationMetric>>;
  /** Stops within a layer. */
  signal?: AbortSignal;
  /** Called after each batch. */
  onProgress?: (progress: { samples: number; totalSamples: number }) => void;
}

export interface EvaluateOptions extends SharedOptions {
  /** Defaults to none: the base model alone. */
  prefix?: PrefixWeights | undefined;
}

export interface EvaluatePrefixesOptions extends SharedOptions {
  /** By name, the prefixes to compare; undefined is the base model alone. */
  prefixes: Readonly<Record<string, PrefixWeights | undefined>>;
}

const SHARED = ['batchSize', 'twoRows', 'metrics', 'signal', 'onProgress'] as const;

/**
 * Loss, perplexity and accuracy of a model over samples, with a prefix or without. Weighted by tokens: a long sample
 * counts more than a short one.
 * @throws NEOX_BAD_ARGUMENT, NEOX_BAD_DATA, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_NOT_FINITE, NEOX_DISPOSED; the
 *   reason of `signal`
 */
export async function evaluate(
  model: LoadedModel,
  samples: readonly Sample[] | TokenizedDataset,
  options: EvaluateOptions = {},
): Promise<EvaluationResult> {
  checkOptions('options', options, ['prefix', ...SHARED]);
  const { prefix, ...shared } = options;
  if (prefix !== undefined && !(prefix instanceof PrefixWeights)) throw badArgument('prefix', 'PrefixWeights', prefix);
  const [result] = await evaluateAll(model, samples, [prefix], shared);
  return result as EvaluationResult;
}

/**
 * {@link evaluate} for several prefixes in one pass: the data is read and tokenized once, and each batch is evaluated
 * with every prefix.
 * @returns a result for each name, in the order of `prefixes`
 * @throws as evaluate
 */
export async function evaluatePrefixes<Name extends string>(
  model: LoadedModel,
  samples: readonly Sample[] | TokenizedDataset,
  options: EvaluatePrefixesOptions & { prefixes: Readonly<Record<Name, PrefixWeights | undefined>> },
): Promise<Record<Name, EvaluationResult>> {
  checkOptions('options', options, ['prefixes', ...SHARED]);
  const { prefixes, ...shared } = options;
  if (prefixes === null || typeof prefixes !== 'object' || types.isMap(prefixes) || Array.isArray(prefixes))
    throw badArgument('prefixes', 'an object of PrefixWeights by name', prefixes);
  const names = Object.keys(prefixes) as Name[];
  for (const name of names) {
    const prefix: unknown = prefixes[name];
    if (prefix !== undefined && !(prefix instanceof PrefixWeights))
      throw badArgument(`prefixes.${name}`, 'PrefixWeights or undefined', prefix);
  }
  if (names.length === 0) throw badArgument('prefixes', 'at least one prefix', prefixes);
  const list = names.map((name) => prefixes[name]);
  const results = await evaluateAll(model, samples, list, shared);
  return Object.fromEntries(names.map((name, i) => [name, results[i]])) as Record<Name, EvaluationResult>;
}

async function evaluateAll(
  model: LoadedModel,
  samples: readonly Sample[] | TokenizedDataset,
  prefixes: readonly (PrefixWeights | undefined)[],
  options: SharedOptions,
): Promise<EvaluationResult[]> {
  checkModel(model);
  const signal = checkSignal('signal', options.signal);
  if (options.onProgress !== undefined) checkFunction('onProgress', options.onProgress);
  checkMetrics(options.metrics);
  const twoRows = checkBoolean('twoRows', options.twoRows ?? true);
  const batchSize = checkInteger('batchSize', options.batchSize ?? 8, 1);
  const prefixLength = Math.max(...prefixes.map((prefix) => prefix?.prefixLength ?? 0));
  const source = await RowSource.open(model, samples, { twoRows, prefixLength, what: 'evaluation', signal });
  const results = await evaluateSource(model, source, prefixes, { batchSize, signal, onProgress: options.onProgress });
  const measure = generationMetrics(model, source, options.metrics, signal);
  if (measure === undefined) return results;
  const measured: EvaluationResult[] = [];
  for (const [i, result] of results.entries()) measured.push({ ...result, metrics: await measure(prefixes[i]) });
  return measured;
}

interface SourceOptions {
  batchSize: number;
  signal: AbortSignal | undefined;
  onProgress?: SharedOptions['onProgress'];
}

/** The evaluation itself, of rows that are checked. */
export async function evaluateSource(
  model: LoadedModel,
  source: RowSource,
  prefixes: readonly (PrefixWeights | undefined)[],
  { batchSize, signal, onProgress }: SourceOptions,
): Promise<EvaluationResult[]> {
  if (source.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to evaluate');
  const handles = await model.prefixHandles(prefixes);
  const sums = handles.map(() => ({ loss: 0, tokens: 0, correct: 0 }));
  for (let first = 0; first < source.length; first += batchSize) {
    const indices = Array.from({ length: Math.min(batchSize, source.length - first) }, (_, i) => first + i);
    const rows: SampleRows[] = await source.rows(indices);
    for (const [i, handle] of handles.entries()) {
      const batch = packBatch(rows);
      const part = await runNative(signal, (addon, cancel) =>
        addon.evaluate(model.native, { ...batch, prefix: handle, cancel }),
      );
      if (!Number.isFinite(part.loss)) throw notFinite(part.loss, first, indices.length);
      const sum = sums[i] as typeof part;
      sum.loss += part.loss;
      sum.tokens += part.tokens;
      sum.correct += part.correct;
    }
    onProgress?.({ samples: first + indices.length, totalSamples: source.length });
  }
  return sums.map(({ loss, tokens, correct }) => ({
    loss: loss / tokens,
    perplexity: Math.exp(loss / tokens),
    accuracy: correct / tokens,
    tokens,
  }));
}

function notFinite(loss: number, first: number, count: number): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_NOT_FINITE', `The loss of samples ${first} to ${first + count - 1} is ${loss}`, {
    hint: NOT_FINITE_HINT,
  });
}
