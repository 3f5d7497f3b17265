import { isError, isNeoXPrefixError, type NeoXErrorCode, NeoXPrefixError } from '../base/errors';

/** One of the processes of a group. */
export interface Member {
  rank: number;
  host: string;
  pid: number;
}

/** What a rank that fails leaves in the store for the others. */
export interface Failure extends Member {
  /** Undefined: it ended without a word, or was silent. */
  code: NeoXErrorCode | undefined;
  message: string;
}

export function nameOf({ rank, host, pid }: Member): string {
  return `rank ${rank} (host ${host}, pid ${pid})`;
}

/** What a rank says of its own error. */
export function failureOf(member: Member, error: unknown): Failure {
  const message = isError(error) ? (error.message.split('\n')[0] ?? '') : String(error);
  return { ...member, code: isNeoXPrefixError(error) ? error.code : 'NEOX_NATIVE', message };
}

/** The error of the ranks that go on living. */
export function peerLost(failure: Failure, cause?: unknown): NeoXPrefixError {
  const { code, message } = failure;
  const what = code === undefined ? `${nameOf(failure)} ${message}` : `${nameOf(failure)} failed: ${code}: ${message}`;
  return new NeoXPrefixError('NEOX_PEER_LOST', what.replace(/^r/, 'R'), {
    hint: 'look at what that rank printed; a run with an output folder goes on with resume, also with another number of ranks',
    ...(cause === undefined ? {} : { cause }),
  });
}
