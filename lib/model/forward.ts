import { runNative } from '../addon/run-native';
import { badArgument, checkInteger, checkOneOf, checkOptions, checkSignal } from '../base/arguments';
import { PrefixWeights } from '../prefix/weights';
import { KVCache } from './kv-cache';
import type { LoadedModel } from './loaded-model';
import { checkIds, checkLength, copyIds, isTokenIds, packRows, type TokenIds } from './rows';

/** What goes through the model in one forward pass. */
export interface ForwardOptions {
  /** Token ids of each row, [B][T]. Rows may have unequal lengths. */
  inputIds: readonly TokenIds[];
  /**
   * [B][T] of 0 and 1, shaped as `inputIds`: a token with 0 is padding. It is left out, wherever it stands: it takes no
   * position and nothing sees it, so a row's result is that of the row without padding. Defaults to all 1.
   */
  attentionMask?: readonly (readonly number[] | Int32Array | Uint8Array)[];
  /**
   * What stands in front of the tokens: a prefix for all rows, an array with a prefix (or undefined) for each row, or
   * the KV cache of an earlier call, which is gone on from and stays as it is. Defaults to nothing.
   */
  pastKeyValues?: PrefixWeights | readonly (PrefixWeights | undefined)[] | KVCache;
  /** Which logits to compute: of every token, of each row's last token, or none. Defaults to `'all'`. */
  logits?: 'all' | 'last' | 'none';
  /**
   * Also gives the hidden states of a layer, as transformers' `hidden_states` has them: 0 is the embedding, i what
   * block i gives, and the last, L, the last block's behind the final layer norm, which the logits are computed from.
   * -1 is L, and so on. Defaults to none.
   */
  hiddenStates?: number;
  /** Stops within a layer. */
  signal?: AbortSignal;
}

/** Logits of a batch: the scores of every vocabulary entry as the next token. */
export interface Logits {
  /** float32, row-major. Positions of padding are 0. */
  data: Float32Array;
  /** [B, T, V] with T the longest row, or [B, 1, V] for `logits: 'last'`. */
  shape: [number, number, number];
}

/** Hidden states of a batch. */
export interface HiddenStates {
  /** float32, row-major. Positions of padding are 0. */
  data: Float32Array;
  /** [B, T, H] with T the longest row. */
  shape: [number, number, number];
}

/** What a forward pass gives. */
export interface ForwardResult {
  /** Null with `logits: 'none'`. */
  logits: Logits | null;
  /** Null unless asked for. */
  hiddenStates: HiddenStates | null;
  /** Everything that the rows have seen, to go on from. */
  pastKeyValues: KVCache;
}

interface PaddedRow {
  /** Without padding. */
  ids: Int32Array;
  /** Tokens with padding. */
  width: number;
  /** Where each kept token stood. */
  positions: number[];
}

export async function forward(model: LoadedModel, options: ForwardOptions): Promise<ForwardResult> {
  if (options === undefined) throw badArgument('options', 'an object', options);
  checkOptions('options', options, ['inputIds', 'attentionMask', 'pastKeyValues', 'logits', 'hiddenStates', 'signal']);
  const signal = checkSignal('signal', options.signal);
  const mode = checkOneOf('logits', options.logits ?? 'all', ['all', 'last', 'none']);
  const rows = checkRows(model, options.inputIds, options.attentionMask);
  const past = options.pastKeyValues;
  const cache = past instanceof KVCache ? past : undefined;
  if (cache !== undefined) {
    if (cache.model !== model) throw badArgument('pastKeyValues', 'a KV cache of this model', cache);
    if (cache.batchSize !== rows.length)
      throw badArgument('pastKeyValues', `a KV cache of ${rows.length} rows`, cache.batchSize);
  }
  const prefixes =
    past instanceof KVCache
      ? []
      : rowPrefixes('pastKeyValues', past, rows.length, 'PrefixWeights, an array of them, or a KVCache');
  const { vocabSize, hiddenSize } = model.config;
  const hiddenLayer =
    options.hiddenStates === undefined ? undefined : checkLayer('hiddenStates', options.hiddenStates, model);
  rows.forEach(({ ids }, i) => {
    const before = (cache?.prefixLengths[i] ?? prefixes[i]?.prefixLength ?? 0) + (cache?.lengths[i] ?? 0);
    checkLength(`Row ${i}`, before + ids.length, model.config);
  });
  const handles = await model.prefixHandles(prefixes);
  const packed = packRows(rows.map(({ ids }) => ids));
  const result = await runNative(signal, (addon, cancel) =>
    addon.forward(model.native, {
      ...packed,
      prefixes: handles,
      cache: cache?.native,
      logits: mode,
      hiddenLayer,
      cancel,
    }),
  );
  const unpacked = (data: Float32Array, size: number): Logits => unpack(data, rows, size);
  const last = (data: Float32Array): Logits => ({ data, shape: [rows.length, 1, vocabSize] });
  const { logits, hiddenStates } = result;
  return {
    logits: logits && (mode === 'last' ? last(logits) : unpacked(logits, vocabSize)),
    hiddenStates: hiddenStates && unpacked(hiddenStates, hiddenSize),
    pastKeyValues: new KVCache(model, result.cache, cache?.prefixes ?? prefixes),
  };
}

/**
 * One prefix for all rows, or one for each.
 * @param expected what the option takes, for its error
 */
export function rowPrefixes(
  name: string,
  prefix: unknown,
  rows: number,
  expected = 'PrefixWeights, or an array of them,',
): (PrefixWeights | undefined)[] {
  if (prefix === undefined || prefix instanceof PrefixWeights) return Array.from({ length: rows }, () => prefix);
  if (!Array.isArray(prefix)) throw badArgument(name, expected, prefix);
  if (prefix.length !== rows) throw badArgument(name, `one prefix for each of the ${rows} rows`, prefix);
  return prefix.map((item: unknown, i) => {
    if (item !== undefined && !(item instanceof PrefixWeights))
      throw badArgument(`${name}[${i}]`, 'PrefixWeights or undefined', item);
    return item;
  });
}

function checkRows(model: LoadedModel, inputIds: unknown, attentionMask: unknown): PaddedRow[] {
  if (!Array.isArray(inputIds) || inputIds.length === 0)
    throw badArgument('inputIds', 'a non-empty array of rows of token ids', inputIds);
  if (attentionMask !== undefined && (!Array.isArray(attentionMask) || attentionMask.length !== inputIds.length)) {
    throw badArgument('attentionMask', `an array of ${inputIds.length} rows, as inputIds has,`, attentionMask);
  }
  return Array.from(inputIds, (row: unknown, i) => {
    if (!isTokenIds(row)) throw badArgument(`inputIds[${i}]`, 'an array of token ids', row);
    const name = `inputIds[${i}]`;
    const ids = copyIds(name, row);
    const given = (attentionMask as readonly ArrayLike<number>[] | undefined)?.[i];
    if (given !== undefined && given.length !== ids.length) {
      throw badArgument(`attentionMask[${i}]`, `${ids.length} entries, as ${name} has,`, given.length);
    }
    const positions: number[] = [];
    for (let t = 0; t < ids.length; t++) {
      const keep = given?.[t] ?? 1;
      if (keep !== 0 && keep !== 1) throw badArgument(`attentionMask[${i}][${t}]`, '0 or 1', keep);
      if (keep === 1) positions.push(t);
    }
    if (positions.length === 0) throw badArgument(name, 'at least one token that is not padding', row);
    const kept = positions.length === ids.length ? ids : positions.map((t) => ids[t] as number);
    return { ids: checkIds(name, kept, model.config), width: ids.length, positions };
  });
}

/** A layer of hidden states; below 0 it counts from the last. */
export function checkLayer(name: string, layer: unknown, model: LoadedModel): number {
  const { numLayers } = model.config;
  const checked = checkInteger(name, layer, -numLayers - 1, numLayers);
  return checked < 0 ? checked + numLayers + 1 : checked;
}

/** Puts what a packed batch gave for its tokens, `size` numbers each, where the tokens stood. */
function unpack(data: Float32Array, rows: PaddedRow[], size: number): Logits {
  const width = rows.reduce((most, row) => Math.max(most, row.width), 0);
  const shape: Logits['shape'] = [rows.length, width, size];
  if (rows.every(({ positions }) => positions.length === width)) return { data, shape };
  const padded = new Float32Array(rows.length * width * size);
  let from = 0;
  rows.forEach(({ positions }, i) => {
    for (const t of positions) {
      padded.set(data.subarray(from, from + size), (i * width + t) * size);
      from += size;
    }
  });
  return { data: padded, shape };
}
