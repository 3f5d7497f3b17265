import { types } from 'node:util';
import { isError } from '../base/errors';
import { badArgument, checkInteger, checkOneOf, checkOptions, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { InferRequestMessage, InferResponseMessage, StreamedResponse } from '../inference-protocol/messages';

/** How a request is sent. */
export interface CallOptions {
  /**
   * Gives up: the promise rejects with the signal's reason, the call is cancelled or its connection closed.
   * FasterTransformer computes on all the same. Defaults to none.
   */
  signal?: AbortSignal;
  /** Milliseconds until NEOX_REMOTE_UNAVAILABLE; 0: none. Defaults to the client's. */
  timeoutMs?: number;
}

/** {@link CallOptions}, complete. */
export interface Call {
  readonly signal: AbortSignal | undefined;
  readonly timeoutMs: number;
}

/** The protocol over one of its two carriers. What describes something is given as it comes. */
export interface Transport {
  live(call: Call): Promise<boolean>;
  ready(call: Call): Promise<boolean>;
  modelReady(model: string, version: string, call: Call): Promise<boolean>;
  serverMetadata(call: Call): Promise<unknown>;
  modelMetadata(model: string, version: string, call: Call): Promise<unknown>;
  modelConfig(model: string, version: string, call: Call): Promise<unknown>;
  statistics(model: string, version: string, call: Call): Promise<unknown>;
  index(call: Call): Promise<unknown>;
  load(model: string, call: Call): Promise<void>;
  unload(model: string, call: Call): Promise<void>;
  infer(request: InferRequestMessage, call: Call): Promise<InferResponseMessage>;
  /** The responses to one request. Leaving the loop cancels it. */
  stream(request: InferRequestMessage, call: Call): AsyncGenerator<StreamedResponse, void, undefined>;
  close(): Promise<void>;
}

/** Certificates in PEM, for `grpcs` and `https`. */
export interface TlsOptions {
  /** Of the authorities to trust. Defaults to those of Node. */
  ca?: string | Uint8Array;
  /** The client's own certificate and key, where the server wants one. Defaults to none. */
  cert?: string | Uint8Array;
  key?: string | Uint8Array;
}

/** Where a server is, and how to reach it. */
export interface Endpoint {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly compression: 'gzip' | 'deflate' | undefined;
  readonly tls: TlsOptions;
}

const PROTOCOLS = ['http:', 'https:', 'grpc:', 'grpcs:'];
const MAX_TIMEOUT = 2 ** 31 - 1;

export interface EndpointOptions {
  /** Sent with every request (gRPC: metadata), such as `{ authorization: 'Bearer ...' }`. Defaults to none. */
  headers?: Readonly<Record<string, string>>;
  /** How requests are compressed. Defaults to not at all. */
  compression?: 'gzip' | 'deflate';
  tls?: TlsOptions;
}

/** @throws NEOX_BAD_ARGUMENT */
export function checkEndpoint(url: unknown, options: EndpointOptions): Endpoint {
  const text = checkString('url', url);
  const parsed = URL.canParse(text) ? new URL(text) : undefined;
  if (parsed === undefined || !PROTOCOLS.includes(parsed.protocol) || parsed.hostname === '') {
    throw badArgument('url', "an address such as 'grpc://gpu:8001' or 'http://gpu:8000'", url, `with ${SCHEMES}`);
  }
  const headers = checkOptions('headers', options.headers, Object.keys(options.headers ?? {}));
  for (const [name, value] of Object.entries(headers)) {
    if (!/^[\w.-]+$/.test(name)) throw badArgument('headers', 'names of letters, digits, - _ and .', name);
    if (typeof value !== 'string' || !/^[\x20-\x7e]*$/.test(value))
      throw badArgument(`headers.${name}`, 'a line of ASCII', value);
  }
  const { compression } = options;
  if (compression !== undefined) checkOneOf('compression', compression, ['gzip', 'deflate']);
  const tls = checkOptions('tls', options.tls, ['ca', 'cert', 'key']) as TlsOptions;
  for (const [name, value] of Object.entries(tls)) {
    if (value !== undefined && typeof value !== 'string' && !types.isUint8Array(value))
      throw badArgument(`tls.${name}`, 'PEM text', value);
  }
  if ((tls.cert === undefined) !== (tls.key === undefined))
    throw badArgument('tls', 'both cert and key, or none of them', tls);
  return { url: parsed, headers: headers as Record<string, string>, compression, tls };
}

const SCHEMES = 'grpc://, grpcs://, http:// or https://';

export function checkTimeout(value: unknown): number {
  return checkInteger('timeoutMs', value, 0, MAX_TIMEOUT);
}

/** An error that the server told. @param status HTTP's number, or gRPC's name */
export function remoteError(status: number | string, message: string, cause?: unknown): NeoXPrefixError {
  const isBusy = status === 503 || status === 'UNAVAILABLE';
  return new NeoXPrefixError(
    isBusy ? 'NEOX_REMOTE_UNAVAILABLE' : 'NEOX_REMOTE',
    `The server answered ${status}: ${message === '' ? 'no reason given' : message}`,
    { status, ...(cause !== undefined && { cause }) },
  );
}

export function unreachable({ url }: Endpoint, reason: string, cause?: unknown): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_REMOTE_UNAVAILABLE', `No server could be reached at ${url.href}: ${reason}`, {
    hint: 'is it running, and is this its address? Triton answers HTTP on port 8000 and gRPC on 8001',
    ...(cause !== undefined && { cause }),
  });
}

export function tooLate({ url }: Endpoint, timeoutMs: number): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_REMOTE_UNAVAILABLE', `${url.href} did not answer within ${timeoutMs} ms`, {
    hint: 'raise timeoutMs, or ask for fewer tokens',
  });
}

/** An answer that is none of the protocol. */
export function badAnswer(cause: unknown): NeoXPrefixError {
  const reason = isError(cause) ? (cause.message.split('\n')[0] as string) : String(cause);
  return new NeoXPrefixError('NEOX_REMOTE', `The server's answer is not usable: ${reason}`, { cause });
}

/** Reads an answer; what is wrong with it is the server's fault. */
export function readAnswer<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw badAnswer(error);
  }
}
