import type { NeoXErrorCode } from '../../base/errors';
import type { FormatSource } from './format-source';
import type { OutputFormat } from './output-format';

/** What a thread of formats is started with. */
export interface FormatThreadData {
  /** The bytes of all tokens, one behind the other; shared. */
  readonly bytes: Uint8Array;
  /** Where each token's bytes end, [V]. */
  readonly ends: Int32Array;
  /** Most bytes of memory that XGrammar may have in the thread. */
  readonly memoryBytes: number;
}

/** What a thread of formats does. Requests are answered in their order. */
export type FormatRequest =
  | { readonly what: 'compile'; readonly key: string; readonly format: OutputFormat; readonly source?: FormatSource }
  | { readonly what: 'start'; readonly key: string; readonly matcher: number }
  /** Takes tokens, and says which may come next. */
  | { readonly what: 'mask'; readonly matcher: number; readonly tokens: readonly number[] }
  | { readonly what: 'end'; readonly matcher: number }
  | { readonly what: 'forget'; readonly key: string };

export interface FormatAnswer {
  readonly error?: { readonly code: NeoXErrorCode; readonly message: string };
  /** [ceil((V + 1) / 32)] */
  readonly mask?: Int32Array;
  /** Of compiling alone. */
  readonly milliseconds?: number;
  readonly source?: FormatSource;
}
