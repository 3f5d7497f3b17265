import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { ClientLeft, HttpError } from './http-error';
import type { Limits, RequestEvent } from './server-options';
import { parseBody } from './strict-json';

/** One request and its answer. */
export class Exchange {
  /** The client's id of the request, if it is a plain one; else a new one. */
  readonly id: string;
  /** Aborts when the client leaves, when the time is over, and when a drain ends. */
  readonly signal: AbortSignal;
  /** What the log will say of it. */
  readonly event: RequestEvent;
  params: Readonly<Record<string, string>> = {};
  /** Headers of whatever the answer is. */
  readonly headers: Record<string, string> = {};
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;

  constructor(
    readonly request: IncomingMessage,
    readonly response: ServerResponse,
    readonly limits: Limits,
  ) {
    const given = request.headers['x-request-id'];
    this.id = typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
    this.headers['x-request-id'] = this.id;
    this.signal = this.controller.signal;
    this.event = { id: this.id, method: request.method ?? '', route: 'none', status: 0, milliseconds: 0 };
    response.once('close', () => {
      if (!response.writableFinished) this.abort(new ClientLeft('the client left'));
    });
    const { requestSeconds } = limits;
    const late = (): void =>
      this.abort(new HttpError(408, 'request_timeout', `The request took longer than ${requestSeconds} s`));
    this.timer = setTimeout(late, requestSeconds * 1e3);
    this.timer.unref();
  }

  /** The request's path as it was sent, and what stands behind its question mark. */
  get path(): string {
    return (this.request.url ?? '/').split('?', 1)[0] as string;
  }

  get query(): URLSearchParams {
    return new URLSearchParams((this.request.url ?? '').split('?').slice(1).join('?'));
  }

  abort(reason: unknown): void {
    this.controller.abort(reason);
  }

  /** Nothing more happens. */
  end(): void {
    clearTimeout(this.timer);
  }

  /**
   * The body as it was sent.
   * @throws HttpError 413, as early as the length is known
   */
  async bytes(limit = this.limits.bodyBytes, takesEncodings = false): Promise<Buffer> {
    const { request } = this;
    const tooLarge = new HttpError(413, 'body_too_large', `The body is larger than ${limit} bytes`, {
      headers: { connection: 'close' },
    });
    const { 'content-length': length, 'content-encoding': encoding = 'identity' } = request.headers;
    if (encoding !== 'identity' && !takesEncodings)
      throw new HttpError(415, 'unsupported_encoding', 'Bodies are taken as they are, without Content-Encoding');
    if (Number(length ?? 0) > limit) throw tooLarge;
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of request as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw tooLarge;
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  }

  /** The JSON object that the body is. @throws HttpError 400, 413, 415 */
  async json(): Promise<Record<string, unknown>> {
    const type = this.request.headers['content-type'];
    if (type !== undefined && !/^application\/(json|[\w.-]+\+json) *(;|$)/i.test(type))
      throw new HttpError(415, 'unsupported_media_type', 'The body must be application/json');
    const body = parseBody(await this.bytes());
    this.event.content = body;
    return body;
  }

  /** Answers. */
  send(status: number, body: string | Uint8Array, type: string, headers: Readonly<Record<string, string>> = {}): void {
    const { response } = this;
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    if (response.headersSent) return;
    response.writeHead(status, { ...this.headers, ...headers, 'content-type': type, 'content-length': bytes.length });
    response.end(bytes);
  }

  sendJson(status: number, body: unknown, headers?: Readonly<Record<string, string>>): void {
    this.send(status, JSON.stringify(body), 'application/json; charset=utf-8', headers);
  }

  /** Waits until the connection takes more. Never by 'drain' alone: it does not come on a dead connection. */
  async drained(): Promise<void> {
    const { response, limits } = this;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        response.off('drain', done).off('close', done);
        resolve();
      };
      const timer = setTimeout(() => {
        this.abort(new ClientLeft(`the client took nothing for ${limits.stallSeconds} s`));
        response.destroy();
      }, limits.stallSeconds * 1e3);
      response.on('drain', done).on('close', done);
      if (response.destroyed) done();
    });
  }
}
