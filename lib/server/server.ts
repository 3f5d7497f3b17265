import type * as Http from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { badArgument, checkNumber, checkOptions } from '../base/arguments';
import { isError, NeoXPrefixError } from '../base/errors';
import { GenerationEngine } from '../engine/engine';
import { AccessControl } from './access';
import { Exchange } from './exchange';
import { ClientLeft, drainingError, HttpError, openAiError, toHttpError } from './http-error';
import { type Route, Router } from './router';
import { allRoutes } from './routes';
import { resolveServerOptions, type ServerOptions, type Settings } from './server-options';
import { ServerMetrics } from './server-metrics';
import { Service } from './service';
import { V2Grpc } from './v2/v2-grpc';
import { inferenceOf } from './v2/v2-routes';

/** Where a server listens. */
export interface ServerAddress {
  /** Of HTTP, as `http://127.0.0.1:8000`. */
  url: string;
  /** Of gRPC, as `grpc://127.0.0.1:8001`, with `grpcPort`. */
  grpcUrl?: string;
}

/** How {@link PrefixServer.close} ends. */
export interface CloseOptions {
  /** Seconds until what has not ended by itself is ended. Defaults to `30`. */
  drainSeconds?: number;
}

/** Above the 60 s of usual balancers: who closes first must not be the server, or they answer 502. */
const KEEP_ALIVE_MS = 75_000;
const HEADERS_MS = 60_000;
const BODY_MS = 30_000;

/**
 * Serves one base model and its prefixes over HTTP: each prefix is a model of OpenAI's API. The engine, the store and
 * the model stay the caller's.
 *
 * ```ts
 * await using server = new PrefixServer(engine, { port: 8000 });
 * const { url } = await server.start();
 * ```
 */
export class PrefixServer {
  private readonly settings: Settings;
  private readonly service: Service;
  private readonly access: AccessControl;
  private readonly router: Router;
  private readonly exchanges = new Set<Exchange>();
  private server: Server | undefined;
  private grpc: V2Grpc | undefined;
  private closing: Promise<void> | undefined;
  private onIdle: (() => void)[] = [];

  /** @throws NEOX_BAD_ARGUMENT, also for a host that others reach without a key */
  constructor(engine: GenerationEngine, options: ServerOptions = {}) {
    if (!(engine instanceof GenerationEngine)) throw badArgument('engine', 'a GenerationEngine', engine);
    const settings = resolveServerOptions(options);
    const own = engine.settings.prefixes;
    if (settings.prefixes !== undefined && settings.prefixes !== own)
      throw badArgument('prefixes', "the engine's own store", settings.prefixes);
    this.settings = { ...settings, prefixes: own };
    this.access = new AccessControl(this.settings);
    this.service = new Service(engine, this.settings);
    this.router = new Router(this.routes);
  }

  /** The endpoints and who may ask for them. @internal */
  get routes(): readonly Route[] {
    return (this.allRoutes ??= allRoutes(this.service));
  }
  private allRoutes: readonly Route[] | undefined;

  /**
   * Listens. Resolves when requests are answered.
   * @throws NEOX_IO where the port is taken
   */
  async start(): Promise<ServerAddress> {
    if (this.closing !== undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This server is closed');
    this.open();
    const { createServer } = createRequire(__filename)('node:http') as typeof Http;
    const server = createServer(this.handler);
    this.server = server;
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    server.headersTimeout = HEADERS_MS;
    server.requestTimeout = BODY_MS;
    server.maxConnections = this.settings.limits.connections;
    const { host, port } = this.settings;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const what = `Cannot listen at ${host}:${port}: ${error.message}`;
        reject(new NeoXPrefixError('NEOX_IO', what, { cause: error }));
      });
      server.listen(port, host, resolve);
    });
    const { port: found, family, address } = server.address() as AddressInfo;
    const at = family === 'IPv6' ? `[${address}]` : address;
    const url = `http://${at}:${found}`;
    const { grpcPort, limits } = this.settings;
    if (grpcPort === undefined) return { url };
    try {
      this.grpc = await V2Grpc.listen(inferenceOf(this.service), {
        host,
        port: grpcPort,
        maxBytes: limits.bodyBytes,
        access: (authorization, isAdmin) => this.grpcAccess(authorization, isAdmin),
      });
    } catch (error) {
      server.close();
      throw error;
    }
    return { url, grpcUrl: `grpc://${at}:${this.grpc.port}` };
  }

  /** Answers one request of a server that is somebody else's: `createServer(server.handler)`. */
  readonly handler = (request: IncomingMessage, response: ServerResponse): void => {
    void this.answer(request, response);
  };

  /**
   * Takes no more requests, waits for the present ones, ends what is left after `drainSeconds`, and stops listening.
   * Repeated calls give the same promise.
   */
  close(options: CloseOptions = {}): Promise<void> {
    checkOptions('options', options, ['drainSeconds']);
    const seconds = checkNumber('drainSeconds', options.drainSeconds ?? 30, 0, 1e6);
    this.closing ??= this.shut(seconds);
    return this.closing;
  }

  /** {@link close} without waiting, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ drainSeconds: 0 });
  }

  /** Ends what still drains now. @internal */
  endNow(): void {
    const error = drainingError('The server was shut down before the request had ended');
    for (const exchange of this.exchanges) exchange.abort(error);
    this.grpc?.close(error);
  }

  private grpcAccess(authorization: string | undefined, isAdmin: boolean): 'allowed' | 'unknown' | 'forbidden' {
    try {
      this.access.check(isAdmin ? 'admin' : 'api', authorization);
      return 'allowed';
    } catch (error) {
      return error instanceof HttpError && error.status === 403 ? 'forbidden' : 'unknown';
    }
  }

  private open(): void {
    const { service, settings } = this;
    if (settings.metrics !== 'off') service.metrics ??= ServerMetrics.create(service, settings.metrics);
  }

  private async shut(seconds: number): Promise<void> {
    this.service.draining = true;
    const timer = setTimeout(() => this.endNow(), seconds * 1e3);
    await this.grpc?.drain();
    if (this.exchanges.size > 0) await new Promise<void>((resolve) => this.onIdle.push(resolve));
    clearTimeout(timer);
    const { server } = this;
    if (server === undefined) return;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    // Answers are on their way; connections that go on all the same are cut.
    const cut = setTimeout(() => server.closeAllConnections(), 500);
    await closed;
    clearTimeout(cut);
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const begin = performance.now();
    const exchange = new Exchange(request, response, this.settings.limits);
    this.exchanges.add(exchange);
    let route: Route | undefined;
    try {
      this.open();
      await this.dispatch(exchange, (found) => (route = found));
    } catch (error) {
      this.refuse(exchange, error, route);
    } finally {
      exchange.end();
      this.exchanges.delete(exchange);
      if (this.exchanges.size === 0) for (const resolve of this.onIdle.splice(0)) resolve();
      this.report(exchange, performance.now() - begin);
    }
  }

  private async dispatch(exchange: Exchange, note: (route: Route) => void): Promise<void> {
    const { request, headers } = exchange;
    if (this.service.draining) headers['connection'] = 'close';
    this.access.checkHost(request);
    Object.assign(headers, this.access.corsHeaders(request));
    if (request.method === 'OPTIONS') {
      const isKnown = headers['access-control-allow-origin'] !== undefined;
      exchange.event.route = 'preflight';
      exchange.send(204, '', 'text/plain', isKnown ? this.access.preflightHeaders() : {});
      return;
    }
    let match;
    try {
      match = this.router.find(request.method ?? 'GET', exchange.path);
    } catch (error) {
      // What there is, is told to those who may ask.
      this.access.check('api', request.headers.authorization);
      throw error;
    }
    const { route, params } = match;
    note(route);
    exchange.params = params;
    exchange.event.route = route.path;
    this.access.check(route.access, request.headers.authorization);
    if (this.service.draining && route.always !== true) throw drainingError();
    await route.handle(exchange);
  }

  private refuse(exchange: Exchange, error: unknown, route: Route | undefined): void {
    const { event, response } = exchange;
    if (error instanceof ClientLeft || (exchange.signal.aborted && exchange.signal.reason instanceof ClientLeft)) {
      Object.assign(event, { status: 499, error: 'client_left' });
      if (event.model !== undefined) this.service.metrics?.textEnded(event.model, 'client_left');
      response.destroy();
      return;
    }
    const known = toHttpError(error, () => this.service.retryAfter());
    event.error = known.code;
    if (known.status === 500 && isError(error)) event.stack = error.stack ?? error.message;
    if (event.model !== undefined)
      this.service.metrics?.textEnded(event.model, known.status === 429 || known.status < 500 ? 'refused' : 'error');
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const { request } = exchange;
    // A body that nobody reads stays in the connection: it is not used again.
    const isRead = request.complete || request.headers['content-length'] === undefined;
    const headers = { ...known.details.headers, ...(isRead ? {} : { connection: 'close' }) };
    const body = route?.errorBody?.(known) ?? openAiError(known);
    exchange.sendJson(known.status, body, headers);
  }

  private report(exchange: Exchange, milliseconds: number): void {
    const { event, response } = exchange;
    if (event.status === 0) event.status = response.statusCode;
    event.milliseconds = Math.round(milliseconds * 10) / 10;
    this.service.metrics?.answered(event.route, event.status);
    if (!this.settings.logContent) delete event.content;
    try {
      this.settings.onRequest?.(event);
    } catch {
      // What listens is not to end what is listened to.
    }
  }
}
