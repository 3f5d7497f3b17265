import { isNeoXPrefixError, type NeoXErrorCode } from '../base/errors';

/** What an {@link HttpError} can say beside its message. */
export interface HttpErrorDetails {
  /** The field of the request that is wrong. */
  param?: string | undefined;
  headers?: Readonly<Record<string, string>>;
}

/** An answer that is an error: status, OpenAI's code, and a message that may go out. */
export class HttpError extends Error {
  override readonly name = 'HttpError';

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: HttpErrorDetails = {},
  ) {
    super(message);
  }
}

/** The reason of an abort because the client is gone: nobody is there to be told. */
export class ClientLeft extends Error {
  override readonly name = 'ClientLeft';
}

export function badField(param: string, message: string, code = 'neox_bad_argument'): HttpError {
  return new HttpError(400, code, message, { param });
}

/** What the library's errors are in HTTP. All others are the server's own fault. */
const KNOWN: Partial<Record<NeoXErrorCode, { status: number; code?: string; param?: string }>> = {
  NEOX_BAD_ARGUMENT: { status: 400 },
  NEOX_BAD_PREFIX: { status: 400 },
  NEOX_UNSUPPORTED: { status: 400 },
  NEOX_PREFIX_MISMATCH: { status: 400 },
  NEOX_TOO_LONG: { status: 400, code: 'context_length_exceeded' },
  NEOX_UNKNOWN_PREFIX: { status: 404, code: 'model_not_found', param: 'model' },
  NEOX_BUSY: { status: 429, code: 'queue_full' },
  NEOX_DISPOSED: { status: 503, code: 'disposed' },
  NEOX_OUT_OF_MEMORY: { status: 503, code: 'out_of_memory' },
  NEOX_NOT_FINITE: { status: 500, code: 'not_finite' },
};

export function drainingError(message = 'The server is shutting down and takes no more requests'): HttpError {
  return new HttpError(503, 'draining', message, { headers: { 'retry-after': '5', connection: 'close' } });
}

/**
 * What an error is in HTTP. Messages of what is not the client's fault stay here: they may have paths.
 * @param retryAfter seconds after which a request that found the queue full may come again
 */
export function toHttpError(error: unknown, retryAfter: () => number): HttpError {
  if (error instanceof HttpError) return error;
  const unknown = new HttpError(500, 'internal_error', 'The server failed at this request; its log says how');
  if (!isNeoXPrefixError(error)) return unknown;
  if (error.code === 'NEOX_BUSY' && error.reason === 'drained') return drainingError();
  const known = KNOWN[error.code];
  if (known === undefined) return unknown;
  const { status, code = error.code.toLowerCase(), param } = known;
  const headers = status === 429 || status === 503 ? { 'retry-after': String(retryAfter()) } : {};
  const message = status === 500 ? `The model's numbers are not finite for this request` : error.message;
  return new HttpError(status, code, message, { param, headers });
}

const TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  408: 'timeout_error',
  429: 'rate_limit_error',
};

/** The body of an error, as OpenAI's clients read it. */
export function openAiError({ status, code, message, details }: HttpError): { error: Record<string, string | null> } {
  const type = TYPES[status] ?? (status >= 500 ? 'server_error' : 'invalid_request_error');
  return { error: { message, type, param: details.param ?? null, code } };
}
