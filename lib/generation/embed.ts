import { runNative, runNativeNow } from '../addon/run-native';
import { badArgument, checkOneOf, checkOptions, checkSignal } from '../base/arguments';
import { checkLayer, rowPrefixes } from '../model/forward';
import type { LoadedModel } from '../model/loaded-model';
import { checkLength, packRows } from '../model/rows';
import type { PrefixWeights } from '../prefix/weights';
import { type Prompt, promptIds } from './request';

/** What a vector is made of. */
export interface EmbedOptions {
  /** A prefix for all texts, or an array with one (or undefined) for each. Defaults to none. */
  prefix?: PrefixWeights | undefined | readonly (PrefixWeights | undefined)[];
  /**
   * The hidden state of the last token, which has seen the whole text, or the mean over all tokens. Defaults to
   * `'last'`.
   */
  pooling?: 'last' | 'mean';
  /**
   * The layer that hidden states are taken from, as {@link ForwardOptions.hiddenStates} counts them. Defaults to `-1`,
   * the last.
   */
  layer?: number;
  /** Stops within a layer; the promise rejects with the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

/** Tokens that go through the model at a time. */
const BATCH_TOKENS = 2048;

export async function embed(
  model: LoadedModel,
  texts: readonly Prompt[],
  options: EmbedOptions,
): Promise<Float32Array[]> {
  checkOptions('options', options, ['prefix', 'pooling', 'layer', 'signal']);
  const signal = checkSignal('signal', options.signal);
  const pooling = checkOneOf('pooling', options.pooling ?? 'last', ['last', 'mean']);
  const hiddenLayer = checkLayer('layer', options.layer ?? -1, model);
  if (!Array.isArray(texts)) throw badArgument('texts', 'an array of strings or of token ids', texts);
  const prefixes = rowPrefixes('prefix', options.prefix, texts.length);
  for (const prefix of prefixes) prefix?.checkFits(model.config, model.fingerprint);
  const rows = texts.map((text: Prompt, i) => promptIds(model, text, `texts[${i}]`));
  rows.forEach((ids, i) => checkLength(`Text ${i}`, ids.length + (prefixes[i]?.prefixLength ?? 0), model.config));
  const handles = await model.prefixHandles(prefixes);
  const results: Float32Array[] = [];
  while (results.length < rows.length) {
    const begin = results.length;
    let end = begin;
    for (let tokens = 0; end < rows.length; end++) {
      tokens += (rows[end] as Int32Array).length;
      if (end > begin && tokens > BATCH_TOKENS) break;
    }
    const batch = rows.slice(begin, end);
    const { hiddenStates, cache } = await runNative(signal, (addon, cancel) =>
      addon.forward(model.native, {
        ...packRows(batch),
        prefixes: handles.slice(begin, end),
        logits: 'none',
        hiddenLayer,
        cancel,
      }),
    );
    runNativeNow((addon) => addon.freeCache(cache));
    results.push(...pool(hiddenStates as Float32Array, batch, model.config.hiddenSize, pooling));
  }
  return results;
}

/** A vector [H] for each row of a packed batch [M, H]. */
function pool(
  states: Float32Array,
  rows: readonly Int32Array[],
  size: number,
  pooling: 'last' | 'mean',
): Float32Array[] {
  let from = 0;
  return rows.map(({ length }) => {
    const own = states.subarray(from * size, (from + length) * size);
    from += length;
    if (pooling === 'last') return own.slice(-size);
    return Float32Array.from({ length: size }, (_, h) => {
      let sum = 0;
      for (let i = h; i < own.length; i += size) sum += own[i] as number;
      return sum / length;
    });
  });
}
