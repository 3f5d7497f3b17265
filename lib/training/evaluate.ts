import { types } from 'node:util';
import { NOT_FINITE_HINT, runNative } from '../addon/run-native';
import { badArgument, checkBoolean, checkFunction, checkInteger, checkOptions, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Sample } from '../data/sample';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import { JointWork } from '../distributed/joint-work';
import { checkGroup, type ProcessGroup } from '../distributed/process-group';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { PrefixWeights } from '../prefix/weights';
import { type EvaluationResult } from '../runs/events';
import { packBatch } from './batches';
import { checkMetrics, type GenerationMetric, generationMetrics } from './generation-metrics';
import { RowSource } from './row-source';
import { describeDifference } from './run-state';

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
  /**
   * The ranks that evaluate together: each a part of the batches, and all get the same result, to the bit that of one.
   * Defaults to none: this process is alone.
   */
  group?: ProcessGroup | undefined;
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

const SHARED = ['batchSize', 'twoRows', 'metrics', 'signal', 'group', 'onProgress'] as const;

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
  const group = checkGroup('group', options.group);
  const prefixLength = Math.max(...prefixes.map((prefix) => prefix?.prefixLength ?? 0));
  const { onProgress } = options;
  const run = async (joint: JointWork | undefined): Promise<EvaluationResult[]> => {
    const stop = joint?.signal ?? signal;
    const open = (): Promise<RowSource> =>
      RowSource.open(model, samples, { twoRows, prefixLength, what: 'evaluation', signal: stop });
    const source = await (joint?.each(open) ?? open());
    const { dtype, backend } = model.info();
    const base = { fingerprint: model.fingerprint, dtype, backend };
    const what = { evaluation: { batchSize, twoRows, prefixes: prefixes.length, data: source.dataset.hash }, base };
    await joint?.checkSame(what, describeDifference);
    const results = await evaluateSource(model, source, prefixes, { batchSize, signal: stop, onProgress, joint });
    const measure = generationMetrics(model, source, options.metrics, stop);
    if (measure === undefined) return results;
    const measured: EvaluationResult[] = [];
    for (const [i, result] of results.entries()) {
      const make = (): Promise<Record<string, number>> => measure(prefixes[i]);
      measured.push({ ...result, metrics: await (joint?.share(make) ?? make()) });
    }
    return measured;
  };
  return group === undefined ? run(undefined) : JointWork.run(group, signal, run);
}

interface SourceOptions {
  batchSize: number;
  signal: AbortSignal | undefined;
  onProgress?: SharedOptions['onProgress'];
  /** Of several ranks: each evaluates every size-th batch. */
  joint?: JointWork | undefined;
}

/** The evaluation itself, of rows that are checked. */
export async function evaluateSource(
  model: LoadedModel,
  source: RowSource,
  prefixes: readonly (PrefixWeights | undefined)[],
  { batchSize, signal, onProgress, joint }: SourceOptions,
): Promise<EvaluationResult[]> {
  if (source.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to evaluate');
  const [rank, size] = [joint?.rank ?? 0, joint?.size ?? 1];
  const batches = Math.ceil(source.length / batchSize);
  const handles = await model.prefixHandles(prefixes);
  // Of each batch of this rank and each prefix: loss, tokens, correct.
  const own = new Array<number>(Math.ceil(batches / size) * handles.length * 3).fill(0);
  const indicesOf = (batch: number): number[] => {
    const first = batch * batchSize;
    return Array.from({ length: Math.min(batchSize, source.length - first) }, (_, i) => first + i);
  };
  const compute = async (): Promise<void> => {
    for (let batch = rank; batch < batches; batch += size) {
      const indices = indicesOf(batch);
      const packed = packBatch(await source.rows(indices));
      for (const [i, handle] of handles.entries()) {
        const { loss, tokens, correct } = await runNative(signal, (addon, cancel) =>
          addon.evaluate(model.native, { ...packed, prefix: handle, cancel }),
        );
        if (joint === undefined && !Number.isFinite(loss)) throw notFinite(loss, indices);
        own.splice((((batch - rank) / size) * handles.length + i) * 3, 3, loss, tokens, correct);
      }
      onProgress?.({ samples: (indices.at(-1) ?? 0) + 1, totalSamples: source.length });
    }
  };
  // Whoever is stopped goes on to the exchange, in which all learn of it.
  await compute().catch((error: unknown) => {
    if (joint?.isStopping !== true) throw error;
  });
  const all = joint === undefined ? [own] : await joint.sync(own);
  const sums = handles.map(() => ({ loss: 0, tokens: 0, correct: 0 }));
  for (let batch = 0; batch < batches; batch++) {
    for (const [i, sum] of sums.entries()) {
      const at = (Math.floor(batch / size) * handles.length + i) * 3;
      const [loss = 0, tokens = 0, correct = 0] = (all[batch % size] as number[]).slice(at, at + 3);
      if (!Number.isFinite(loss)) throw notFinite(loss, indicesOf(batch));
      sum.loss += loss;
      sum.tokens += tokens;
      sum.correct += correct;
    }
  }
  return sums.map(({ loss, tokens, correct }) => ({
    loss: loss / tokens,
    perplexity: Math.exp(loss / tokens),
    accuracy: correct / tokens,
    tokens,
  }));
}

function notFinite(loss: number, indices: readonly number[]): NeoXPrefixError {
  const range = `${indices[0]} to ${indices.at(-1)}`;
  return new NeoXPrefixError('NEOX_NOT_FINITE', `The loss of samples ${range} is ${loss}`, { hint: NOT_FINITE_HINT });
}
