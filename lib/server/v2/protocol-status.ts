import { isNeoXPrefixError } from '../../base/errors';

/** How an error is told: HTTP's number, the name of gRPC's status, and a text without paths and stacks. */
export interface ProtocolStatus {
  readonly http: number;
  readonly grpc: 'INVALID_ARGUMENT' | 'NOT_FOUND' | 'RESOURCE_EXHAUSTED' | 'UNAVAILABLE' | 'UNIMPLEMENTED' | 'INTERNAL';
  readonly message: string;
}

export function protocolStatus(error: unknown): ProtocolStatus {
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

/** What else goes wrong may tell of files. */
const INTERNAL: ProtocolStatus = { http: 500, grpc: 'INTERNAL', message: 'Internal error' };
