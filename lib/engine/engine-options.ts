import type { GPTNeoXConfig } from '../architecture/config';
import { badArgument, checkInteger, checkOptions } from '../base/arguments';
import type { ComputeDType, LoadedModel } from '../model/loaded-model';
import { maxPositions } from '../model/rows';
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

const ENGINE_OPTIONS: readonly (keyof EngineOptions)[] = [
  'maxRows',
  'kvBudgetBytes',
  'kvBudgetTokens',
  'maxQueue',
  'prefillTokens',
  'promptCacheBytes',
  'maxUnread',
  'prefixes',
];

export interface ResolvedOptions {
  maxRows: number;
  kvBudgetTokens: number;
  maxQueue: number;
  prefillTokens: number;
  promptCacheBytes: number;
  maxUnread: number;
  prefixes: PrefixStore | undefined;
}

const DEFAULT_BUDGET = 2 ** 30;

/** Bytes of the keys and values of one token. */
export function bytesPerToken({ numLayers, hiddenSize }: GPTNeoXConfig, dtype: ComputeDType): number {
  return 2 * numLayers * hiddenSize * (dtype === 'float32' ? 4 : 2);
}

export function resolveOptions(options: EngineOptions, model: LoadedModel): ResolvedOptions {
  const { config, computeDtype } = model;
  checkOptions('options', options, ENGINE_OPTIONS);
  const { kvBudgetBytes, kvBudgetTokens, prefixes } = options;
  if (prefixes !== undefined && !(prefixes instanceof PrefixStore && prefixes.serves(model))) {
    throw badArgument('prefixes', 'a PrefixStore of the same model', prefixes);
  }
  const perToken = bytesPerToken(config, computeDtype);
  if (kvBudgetBytes !== undefined && kvBudgetTokens !== undefined) {
    throw badArgument('kvBudgetTokens', 'nothing, since kvBudgetBytes is given,', kvBudgetTokens);
  }
  const budget =
    kvBudgetTokens !== undefined
      ? checkInteger('kvBudgetTokens', kvBudgetTokens, 1)
      : kvBudgetBytes !== undefined
        ? Math.floor(checkInteger('kvBudgetBytes', kvBudgetBytes, perToken) / perToken)
        : Math.max(maxPositions(config), Math.floor(DEFAULT_BUDGET / perToken));
  return {
    maxRows: checkInteger('maxRows', options.maxRows ?? 32, 1, 4096),
    kvBudgetTokens: budget,
    maxQueue: checkInteger('maxQueue', options.maxQueue ?? 256, 0),
    prefillTokens: checkInteger('prefillTokens', options.prefillTokens ?? 128, 1),
    promptCacheBytes: checkInteger('promptCacheBytes', options.promptCacheBytes ?? 64 * 2 ** 20, 0),
    maxUnread: checkInteger('maxUnread', options.maxUnread ?? 64, 1),
    prefixes,
  };
}
