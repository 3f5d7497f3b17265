import { maxPositions } from '../architecture/rope';
import type { GPTNeoXConfig } from '../architecture/config';
import { keyValueWidth } from '../architecture/sizes';
import { badArgument, checkInteger } from '../base/arguments';
import { type Completed, completeOptions, integer, type OptionTable, special } from '../base/options';
import { COMPUTE_BYTES } from '../formats/tensor';
import type { ComputeDType, LoadedModel } from '../model/loaded-model';
import { PrefixStore } from './prefix-store';

/** Settings of a {@link GenerationEngine}. */
export interface EngineOptions {
  /** Most requests that run at once; more wait. Defaults to `32`. */
  maxRows?: number;
  /**
   * Most bytes that the keys and values of running requests may take. A request reserves what it may come to need: its
   * prompt and `maxNewTokens`, for each beam of a beam search. Defaults to 1 GiB, or one row of the model's full length
   * where that is more.
   */
  kvBudgetBytes?: number;
  /** The same in tokens, instead of `kvBudgetBytes`. */
  kvBudgetTokens?: number;
  /** Most requests that wait, beside those that run; others are refused with NEOX_BUSY. Defaults to `256`. */
  maxQueue?: number;
  /**
   * Most tokens of prompts that one step takes beside the running rows: a long prompt holds the others up by a part of
   * itself at a time. Defaults to `128`.
   */
  prefillTokens?: number;
  /**
   * Most bytes for keys and values of prompts' beginnings, kept so that a beginning that comes again behind the same
   * prefix is not computed again; 0: none. Defaults to 64 MiB.
   */
  promptCacheBytes?: number;
  /** Tokens that a stream may have unread before its own row waits. Defaults to `64`. */
  maxUnread?: number;
  /** Where requests find the prefixes that they name. Defaults to none: prefixes are given as PrefixWeights. */
  prefixes?: PrefixStore;
}

export const ENGINE_OPTIONS = {
  maxRows: integer({ min: 1, max: 4096, default: 32, help: 'requests that run at once' }),
  kvBudgetBytes: integer({
    ...{ min: 1, symbol: 'bytes', otherwise: '1 GiB' },
    help: 'for the keys and values of running requests',
  }),
  kvBudgetTokens: integer({ min: 1, notWith: 'kvBudgetBytes', help: 'the same in tokens' }),
  maxQueue: integer({ min: 0, default: 256, help: 'requests that wait, beside those that run' }),
  prefillTokens: integer({
    ...{ min: 1, default: 128 },
    help: 'of prompts in one step, so that a long prompt does not pause the running rows',
  }),
  promptCacheBytes: integer({
    ...{ min: 0, default: 64 * 2 ** 20, symbol: 'bytes' },
    help: 'for the beginnings of earlier prompts; 0: none',
  }),
  maxUnread: integer({ min: 1, default: 64, help: 'tokens that a stream may be ahead of its reader' }),
  prefixes: special<PrefixStore>({ help: 'where requests find the prefixes that they name' }),
} satisfies OptionTable<EngineOptions>;

export interface ResolvedOptions extends Omit<Completed<typeof ENGINE_OPTIONS>, 'kvBudgetBytes'> {
  kvBudgetTokens: number;
}

const DEFAULT_BUDGET = 2 ** 30;

/** Bytes of the keys and values of one token. */
export function bytesPerToken(config: GPTNeoXConfig, dtype: ComputeDType): number {
  return keyValueWidth(config) * COMPUTE_BYTES[dtype];
}

export function resolveOptions(options: EngineOptions, model: LoadedModel): ResolvedOptions {
  const { config, computeDtype } = model;
  const { kvBudgetBytes, kvBudgetTokens, ...rest } = completeOptions(ENGINE_OPTIONS, options);
  const { prefixes } = rest;
  if (prefixes !== undefined && !(prefixes instanceof PrefixStore && prefixes.serves(model))) {
    throw badArgument('prefixes', 'a PrefixStore of the same model', prefixes);
  }
  const perToken = bytesPerToken(config, computeDtype);
  if (kvBudgetBytes !== undefined && kvBudgetTokens !== undefined) {
    throw badArgument('kvBudgetTokens', 'nothing, since kvBudgetBytes is given,', kvBudgetTokens);
  }
  const bytes = kvBudgetBytes && checkInteger('kvBudgetBytes', kvBudgetBytes, perToken);
  const largest = Math.max(maxPositions(config), Math.floor(DEFAULT_BUDGET / perToken));
  return { ...rest, kvBudgetTokens: kvBudgetTokens ?? (bytes === undefined ? largest : Math.floor(bytes / perToken)) };
}
