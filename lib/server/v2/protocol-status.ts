import { isNeoXPrefixError } from '../../base/errors';
import { HttpError } from '../http-error';

/** How an error is told: HTTP's number, the name of gRPC's status, and a text without paths and stacks. */
export interface ProtocolStatus {
  readonly http: number;
  readonly grpc:
    | 'INVALID_ARGUMENT'
    | 'PERMISSION_DENIED'
    | 'DEADLINE_EXCEEDED'
    | 'NOT_FOUND'
    | 'RESOURCE_EXHAUSTED'
    | 'UNAVAILABLE'
    | 'UNIMPLEMENTED'
    | 'INTERNAL';
  readonly message: string;
}

export function protocolStatus(error: unknown): ProtocolStatus {
  if (error instanceof HttpError) {
    const { status, message } = error;
    return { http: status, grpc: GRPC[status] ?? 'INVALID_ARGUMENT', message };
  }
  if (!isNeoXPrefixError(error)) return INTERNAL;
  const { message } = error;
  switch (error.code) {
    case 'NEOX_BAD_ARGUMENT':
    case 'NEOX_TOO_LONG':
    case 'NEOX_PREFIX_MISMATCH':
      return { http: 400, grpc: 'INVALID_ARGUMENT', message };
    case 'NEOX_UNKNOWN_PREFIX':
      return { http: 404, grpc: 'NOT_FOUND', message };
    case 'NEOX_UNSUPPORTED':
      return { http: 501, grpc: 'UNIMPLEMENTED', message };
    case 'NEOX_BUSY':
      return error.reason === 'drained'
        ? { http: 503, grpc: 'UNAVAILABLE', message }
        : { http: 429, grpc: 'RESOURCE_EXHAUSTED', message };
    case 'NEOX_DISPOSED':
      return { http: 503, grpc: 'UNAVAILABLE', message: 'The server is shutting down' };
    case 'NEOX_OUT_OF_MEMORY':
      return { http: 503, grpc: 'UNAVAILABLE', message: 'The server is out of memory' };
    case 'NEOX_NOT_FINITE':
      return { http: 500, grpc: 'INTERNAL', message };
    default:
      return INTERNAL;
  }
}

/** Of what the server itself refuses. */
const GRPC: Readonly<Record<number, ProtocolStatus['grpc']>> = {
  403: 'PERMISSION_DENIED',
  404: 'NOT_FOUND',
  408: 'DEADLINE_EXCEEDED',
  503: 'UNAVAILABLE',
};

/** What else goes wrong may tell of files. */
const INTERNAL: ProtocolStatus = { http: 500, grpc: 'INTERNAL', message: 'Internal error' };
