import { isError } from '../base/errors';
import type { CancelFlag } from '../../types/native';
import { ERROR_CODES, type NeoXErrorCode, NeoXPrefixError } from '../base/errors';
import { hintOfReason } from '../base/files';
import { native, type NativeAddon } from './addon';

/** What to do about results that are not finite. */
export const NOT_FINITE_HINT =
  'look at the prefix with `neox-prefix inspect`; float16 overflows early: try dtype float32 or bfloat16; else the weights are damaged';

/** Hints for errors of the addon, whose messages have none. */
const HINTS: Partial<Record<NeoXErrorCode, string>> = { NEOX_NOT_FINITE: NOT_FINITE_HINT };

/**
 * Runs an asynchronous native operation: an AbortSignal sets its cancel flag and its reason is what the caller gets, a
 * native error becomes a NeoXPrefixError whose stack leads to the caller.
 */
export async function runNative<T>(
  signal: AbortSignal | undefined,
  start: (addon: NativeAddon, cancel: CancelFlag) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const addon = native();
  const cancel = addon.createCancelFlag();
  const onAbort = (): void => addon.cancel(cancel);
  signal?.addEventListener('abort', onAbort, { once: true });
  const { stack } = new Error();
  try {
    return await start(addon, cancel);
  } catch (error) {
    signal?.throwIfAborted();
    throw fromNative(error, stack);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

/** A native operation that takes no time, with the same errors. */
export function runNativeNow<T>(call: (addon: NativeAddon) => T): T {
  try {
    return call(native());
  } catch (error) {
    throw fromNative(error, new Error().stack);
  }
}

/**
 * An error of the addon, which has one of our codes, as an error of this package. Others stay what they are: a
 * callback's own.
 */
export function fromNative(error: unknown, stack?: string): unknown {
  if (!isError(error) || error instanceof NeoXPrefixError || !('code' in error)) return error;
  const code = ERROR_CODES.find((known) => known === error.code);
  if (code === undefined) return error;
  const hint = HINTS[code] ?? (code === 'NEOX_IO' ? hintOfReason(error.message) : undefined);
  const own = new NeoXPrefixError(code, error.message, hint === undefined ? { cause: error } : { hint, cause: error });
  if (stack !== undefined) own.stack = `${own.name}: ${own.message}\n${stack.split('\n').slice(2).join('\n')}`;
  return own;
}
