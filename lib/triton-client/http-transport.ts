import { Agent, type IncomingHttpHeaders, type IncomingMessage, request as httpRequest } from 'node:http';
import { Agent as SecureAgent, request as httpsRequest } from 'node:https';
import { promisify } from 'node:util';
import { deflate, gunzip, gzip, inflate } from 'node:zlib';
import { NeoXPrefixError } from '../base/errors';
import { decodeHttpResponse, encodeHttpRequest, JSON_LENGTH_HEADER } from '../inference-protocol/http-messages';
import type { InferRequestMessage, InferResponseMessage, StreamedResponse } from '../inference-protocol/messages';
import {
  badAnswer,
  type Call,
  type Endpoint,
  readAnswer,
  remoteError,
  tooLate,
  type Transport,
  unreachable,
} from './transport';

const COMPRESS = { gzip: promisify(gzip), deflate: promisify(deflate) };
const DECOMPRESS: Readonly<Record<string, (data: Uint8Array) => Promise<Buffer>>> = {
  gzip: promisify(gunzip),
  deflate: promisify(inflate),
};

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/**
 * The protocol over HTTP/1.1 with connections that are kept. By node:http, because fetch gives up on a response whose
 * head takes more than 300 seconds, as that of a long text may.
 */
export class HttpTransport implements Transport {
  private readonly agent: Agent;

  constructor(private readonly endpoint: Endpoint) {
    const { protocol } = endpoint.url;
    this.agent =
      protocol === 'https:' ? new SecureAgent({ keepAlive: true, ...pem(endpoint) }) : new Agent({ keepAlive: true });
  }

  async live(call: Call): Promise<boolean> {
    return (await this.send('GET', '/v2/health/live', call)).status === 200;
  }

  async ready(call: Call): Promise<boolean> {
    return (await this.send('GET', '/v2/health/ready', call)).status === 200;
  }

  async modelReady(model: string, version: string, call: Call): Promise<boolean> {
    return (await this.send('GET', `${modelPath(model, version)}/ready`, call)).status === 200;
  }

  serverMetadata(call: Call): Promise<unknown> {
    return this.json('GET', '/v2', call);
  }

  modelMetadata(model: string, version: string, call: Call): Promise<unknown> {
    return this.json('GET', modelPath(model, version), call);
  }

  modelConfig(model: string, version: string, call: Call): Promise<unknown> {
    return this.json('GET', `${modelPath(model, version)}/config`, call);
  }

  statistics(model: string, version: string, call: Call): Promise<unknown> {
    return this.json('GET', `${modelPath(model, version)}/stats`, call);
  }

  index(call: Call): Promise<unknown> {
    return this.json('POST', '/v2/repository/index', call, {});
  }

  async load(model: string, call: Call): Promise<void> {
    await this.checked('POST', `/v2/repository/models/${encodeURIComponent(model)}/load`, call, {});
  }

  async unload(model: string, call: Call): Promise<void> {
    await this.checked('POST', `/v2/repository/models/${encodeURIComponent(model)}/unload`, call, {});
  }

  async infer(request: InferRequestMessage, call: Call): Promise<InferResponseMessage> {
    const { chunks, jsonLength } = encodeHttpRequest(request);
    const answer = await this.send('POST', `${modelPath(request.model, request.version)}/infer`, call, chunks, {
      'content-type': 'application/octet-stream',
      [JSON_LENGTH_HEADER]: String(jsonLength),
    });
    if (answer.status !== 200) throw errorOf(answer);
    const length = answer.headers[JSON_LENGTH_HEADER];
    return readAnswer(() => decodeHttpResponse(answer.body, length === undefined ? undefined : Number(length)));
  }

  stream(): AsyncGenerator<StreamedResponse, void, undefined> {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', 'Streams go over gRPC, and this client has an HTTP address', {
      hint: "make a TritonClient with the server's gRPC address, 'grpc://HOST:8001'",
    });
  }

  close(): Promise<void> {
    this.agent.destroy();
    return Promise.resolve();
  }

  private async json(method: string, path: string, call: Call, body?: object): Promise<unknown> {
    const answer = await this.checked(method, path, call, body);
    return readAnswer(() => JSON.parse(answer.body.toString('utf8')) as unknown);
  }

  private async checked(method: string, path: string, call: Call, body?: object): Promise<Answer> {
    const chunks = body === undefined ? [] : [Buffer.from(JSON.stringify(body))];
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const answer = await this.send(method, path, call, chunks, headers);
    if (answer.status !== 200) throw errorOf(answer);
    return answer;
  }

  private async send(
    method: string,
    path: string,
    { signal, timeoutMs }: Call,
    chunks: readonly Uint8Array[] = [],
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    signal?.throwIfAborted();
    const { compression } = this.endpoint;
    let body = Buffer.concat(chunks);
    let sent: Readonly<Record<string, string>> = { ...this.endpoint.headers, ...headers };
    if (compression !== undefined && body.length > 0) {
      body = await COMPRESS[compression](body);
      sent = { ...sent, 'content-encoding': compression, 'accept-encoding': compression };
    }
    const answer = await this.exchange(method, path, sent, body, signal, timeoutMs);
    const decompress = DECOMPRESS[answer.headers['content-encoding'] ?? ''];
    return decompress === undefined
      ? answer
      : { ...answer, body: await decompress(answer.body).catch((error: unknown) => Promise.reject(badAnswer(error))) };
  }

  private exchange(
    method: string,
    path: string,
    headers: Readonly<Record<string, string>>,
    body: Buffer,
    signal: AbortSignal | undefined,
    timeoutMs: number,
  ): Promise<Answer> {
    const { endpoint, agent } = this;
    const { url } = endpoint;
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    return new Promise<Answer>((resolve, reject) => {
      const request = send(new URL(`${url.pathname.replace(/\/+$/, '')}${path}`, url), {
        method,
        agent,
        headers: { ...headers, ...(method === 'POST' && { 'content-length': String(body.length) }) },
      });
      let outcome: unknown;
      // The request reports its own end as an error; what ended it is what the caller shall see.
      const end = (reason: unknown): void => {
        outcome ??= reason;
        request.destroy();
      };
      const abort = (): void => end(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      const timer = timeoutMs === 0 ? undefined : setTimeout(() => end(tooLate(endpoint, timeoutMs)), timeoutMs);
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
      };
      const fail = (error: Error): void => {
        done();
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason is any value
        reject(outcome ?? unreachable(endpoint, error.message || error.name, error));
      };
      request.on('error', fail);
      request.on('response', (response: IncomingMessage) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('error', fail);
        response.on('end', () => {
          done();
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) });
        });
      });
      request.end(body);
    });
  }
}

function modelPath(model: string, version: string): string {
  const path = `/v2/models/${encodeURIComponent(model)}`;
  return version === '' ? path : `${path}/versions/${encodeURIComponent(version)}`;
}

function pem({ tls }: Endpoint): Record<string, string | Buffer> {
  const entries = Object.entries(tls).filter((entry): entry is [string, string | Uint8Array] => entry[1] !== undefined);
  return Object.fromEntries(
    entries.map(([name, value]) => [name, typeof value === 'string' ? value : Buffer.from(value)]),
  );
}

/** The reason stands in `{"error": ...}`; a proxy may answer otherwise. */
function errorOf({ status, body }: Answer): NeoXPrefixError {
  const text = body.toString('utf8');
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    const message = typeof error === 'object' && error !== null && 'message' in error ? error.message : error;
    return remoteError(status, typeof message === 'string' ? message : text.slice(0, 500));
  } catch {
    return remoteError(status, text.slice(0, 500));
  }
}
