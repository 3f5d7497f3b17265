import { badArgument, checkBoolean, checkFunction, checkInteger, checkOptions, checkSignal } from '../arguments';
import type { Sample } from '../data/sample';
import { NeoXPrefixError } from '../errors';
import { checkModel, type NeoXModel } from '../model/neox-model';
import { NOT_FINITE_HINT, runNative } from '../native-call';
import { PrefixWeights } from '../prefix/weights';
import { packBatch, prepareRows, type SampleRows } from './batches';

export interface EvaluateOptions {
  /** Defaults to none: the base model alone. */
  prefix?: PrefixWeights | undefined;
  /** Samples in a batch; changes speed and memory, not the result. Defaults to `8`. */
  batchSize?: number;
  /** See {@link TrainerOptions.twoRows}. Defaults to `true`. */
  twoRows?: boolean;
  signal?: AbortSignal;
  /** Called after each batch. */
  onProgress?: (progress: { samples: number; totalSamples: number }) => void;
}

export interface EvaluationResult {
  /** Mean over all target tokens of -log p(target), in nats. */
  loss: number;
  /** exp(loss). */
  perplexity: number;
  /** Share of target tokens that were the model's most likely one. */
  accuracy: number;
  /** Target tokens. */
  tokens: number;
}

/**
 * Loss and perplexity of a model over samples, with a prefix or without. Weighted by tokens: a long sample counts more than a short one.
 * @throws NEOX_BAD_ARGUMENT, NEOX_BAD_DATA, NEOX_TOO_LONG, NEOX_PREFIX_MISMATCH, NEOX_DISPOSED; NEOX_NOT_FINITE with the samples whose
 *   loss is NaN or infinite
 */
export async function evaluate(model: NeoXModel, samples: readonly Sample[], options: EvaluateOptions = {}): Promise<EvaluationResult> {
  checkModel(model);
  checkOptions('options', options, ['prefix', 'batchSize', 'twoRows', 'signal', 'onProgress']);
  const { prefix } = options;
  if (prefix !== undefined && !(prefix instanceof PrefixWeights)) throw badArgument('prefix', 'PrefixWeights', prefix);
  const signal = checkSignal('signal', options.signal);
  if (options.onProgress !== undefined) checkFunction('onProgress', options.onProgress);
  const twoRows = checkBoolean('twoRows', options.twoRows ?? true);
  const batchSize = checkInteger('batchSize', options.batchSize ?? 8, 1);
  const rows = await prepareRows(model, samples, { twoRows, prefixLength: prefix?.prefixLength ?? 0, what: 'evaluation', signal });
  return evaluateRows(model, rows, { prefix, batchSize, signal, onProgress: options.onProgress });
}

interface RowsOptions {
  prefix: PrefixWeights | undefined;
  batchSize: number;
  signal: AbortSignal | undefined;
  onProgress?: EvaluateOptions['onProgress'] | undefined;
}

export async function evaluateRows(model: NeoXModel, rows: readonly SampleRows[], options: RowsOptions): Promise<EvaluationResult> {
  if (rows.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to evaluate');
  const [handle] = await model.prefixHandles([options.prefix]);
  let [loss, tokens, correct] = [0, 0, 0];
  for (let first = 0; first < rows.length; first += options.batchSize) {
    const batch = packBatch(rows.slice(first, first + options.batchSize));
    const sum = await runNative(options.signal, (addon, cancel) =>
      addon.evaluate(model.native, { ...batch, prefix: handle ?? null, cancel }),
    );
    if (!Number.isFinite(sum.loss)) {
      const last = Math.min(first + options.batchSize, rows.length) - 1;
      throw new NeoXPrefixError('NEOX_NOT_FINITE', `The loss of samples ${first} to ${last} is ${sum.loss}`, { hint: NOT_FINITE_HINT });
    }
    loss += sum.loss;
    tokens += sum.tokens;
    correct += sum.correct;
    options.onProgress?.({ samples: Math.min(first + options.batchSize, rows.length), totalSamples: rows.length });
  }
  const mean = loss / tokens;
  return { loss: mean, perplexity: Math.exp(mean), accuracy: correct / tokens, tokens };
}
