/** Stable error codes; docs/errors.md lists them with their meaning. */
export const ERROR_CODES = [
  'NEOX_BAD_ARGUMENT',
  'NEOX_BAD_CHECKPOINT',
  'NEOX_BAD_CONFIG',
  'NEOX_BAD_DATA',
  'NEOX_BAD_EXPORT',
  'NEOX_BAD_PREFIX',
  'NEOX_BAD_TOKENIZER',
  'NEOX_BUILD_FAILED',
  'NEOX_DISPOSED',
  'NEOX_FILE_NOT_FOUND',
  'NEOX_IO',
  'NEOX_LIBTORCH_NOT_FOUND',
  'NEOX_NATIVE',
  'NEOX_NATIVE_NOT_FOUND',
  'NEOX_OUT_OF_MEMORY',
  'NEOX_PREFIX_MISMATCH',
  'NEOX_TOO_LONG',
  'NEOX_UNSUPPORTED',
] as const;

export type NeoXErrorCode = (typeof ERROR_CODES)[number];

export interface NeoXErrorDetails {
  /** What to do about it, printed on a line of its own. */
  hint?: string;
  /** The file concerned. */
  path?: string;
  cause?: unknown;
}

/** The only error class of this package. `code` is stable across versions, `message` is not. */
export class NeoXPrefixError extends Error {
  override readonly name = 'NeoXPrefixError';
  readonly code: NeoXErrorCode;
  declare readonly path?: string;
  declare readonly hint?: string;

  constructor(code: NeoXErrorCode, message: string, details: NeoXErrorDetails = {}) {
    const text = details.hint === undefined ? message : `${message}\nHint: ${details.hint}`;
    super(text, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.path !== undefined) this.path = details.path;
    if (details.hint !== undefined) this.hint = details.hint;
  }
}

/** True for errors of this package, also across duplicate copies of it. */
export function isNeoXPrefixError(error: unknown): error is NeoXPrefixError {
  return error instanceof Error && error.name === 'NeoXPrefixError' && 'code' in error;
}
