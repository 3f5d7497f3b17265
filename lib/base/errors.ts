import { printable } from './printable';
import { types } from 'node:util';

/** Stable error codes; docs/errors.md lists them with their meaning. */
export const ERROR_CODES = [
  'NEOX_BAD_ARGUMENT',
  'NEOX_BAD_CHECKPOINT',
  'NEOX_BAD_CONFIG',
  'NEOX_BAD_DATA',
  'NEOX_BAD_EXPORT',
  'NEOX_BAD_PREFIX',
  'NEOX_BAD_TOKENIZER',
  'NEOX_BUSY',
  'NEOX_DISPOSED',
  'NEOX_FILE_NOT_FOUND',
  'NEOX_IO',
  'NEOX_LIBTORCH_NOT_FOUND',
  'NEOX_NATIVE',
  'NEOX_NATIVE_NOT_FOUND',
  'NEOX_NOT_FINITE',
  'NEOX_OUT_OF_MEMORY',
  'NEOX_PEER_LOST',
  'NEOX_PREFIX_MISMATCH',
  'NEOX_RANK_MISMATCH',
  'NEOX_REMOTE',
  'NEOX_REMOTE_UNAVAILABLE',
  'NEOX_RENDEZVOUS',
  'NEOX_RESUME_MISMATCH',
  'NEOX_TOO_LONG',
  'NEOX_UNKNOWN_PREFIX',
  'NEOX_UNSUPPORTED',
] as const;

/** One of {@link ERROR_CODES}. */
export type NeoXErrorCode = (typeof ERROR_CODES)[number];

/** What an error can say beside its message. */
export interface NeoXErrorDetails {
  /** What to do about it, printed on a line of its own. */
  hint?: string;
  /** The file concerned. */
  path?: string;
  /** What a server answered: HTTP's number, or the name of gRPC's status. */
  status?: number | string;
  /** Of NEOX_BUSY of an engine: `'full'`, try again later; or `'drained'`, it takes nothing more. */
  reason?: 'full' | 'drained';
  /** The error that it comes from. */
  cause?: unknown;
}

/** Longer messages are cut: names out of a hostile file can have any length. */
const MAX_MESSAGE = 2000;

function shortened(text: string): string {
  const plain = printable(text);
  return plain.length > MAX_MESSAGE ? `${plain.slice(0, MAX_MESSAGE)}...` : plain;
}

/** The only error class of this package. `code` is stable across versions, `message` is not. */
export class NeoXPrefixError extends Error {
  override readonly name = 'NeoXPrefixError';
  /** What kind of error it is, for programs to decide by. */
  readonly code: NeoXErrorCode;
  /** The file concerned, where there is one. */
  declare readonly path?: string;
  /** What to do about it; also the last line of `message`. */
  declare readonly hint?: string;
  /** What a server answered, with NEOX_REMOTE: HTTP's number (404), or the name of gRPC's status (`'NOT_FOUND'`). */
  declare readonly status?: number | string;
  /** Of NEOX_BUSY of an engine: whether it is full now, or takes nothing more. */
  declare readonly reason?: 'full' | 'drained';

  constructor(code: NeoXErrorCode, message: string, details: NeoXErrorDetails = {}) {
    const text = shortened(message);
    super(
      details.hint === undefined ? text : `${text}\nHint: ${details.hint}`,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    if (details.path !== undefined) this.path = details.path;
    if (details.hint !== undefined) this.hint = details.hint;
    if (details.status !== undefined) this.status = details.status;
    if (details.reason !== undefined) this.reason = details.reason;
  }
}

/**
 * True for errors of any realm: programs run our code in a realm of its own (Jest does), where the errors of Node's own
 * modules and of the addon are no instances of `Error`.
 */
export function isError(value: unknown): value is Error {
  return types.isNativeError(value) || value instanceof Error;
}

/** True for errors of this package, also across duplicate copies of it. */
export function isNeoXPrefixError(error: unknown): error is NeoXPrefixError {
  return isError(error) && error.name === 'NeoXPrefixError' && 'code' in error;
}
