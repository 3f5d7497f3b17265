import { request } from 'node:http';
import type { EngineOptions } from '../../lib/engine/engine-options';
import { GenerationEngine } from '../../lib/engine/engine';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixServer } from '../../lib/server/server';
import type { RequestEvent, ServerOptions } from '../../lib/server/server-options';
import { randomPrefix } from '../helpers';

/** A server over a model, with the prefixes smile and polite. */
export interface Served {
  url: string;
  engine: GenerationEngine;
  store: PrefixStore;
  server: PrefixServer;
  /** What the log heard. */
  events: RequestEvent[];
  /** Sends JSON, or what is given as it is. */
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function serve(
  model: NeoXModel,
  options: ServerOptions = {},
  engineOptions: EngineOptions = {},
): Promise<Served> {
  const store = new PrefixStore(model);
  await store.add('smile', randomPrefix(model, 4, 7));
  await store.add('polite', randomPrefix(model, 6, 8));
  const engine = new GenerationEngine(model, { prefixes: store, ...engineOptions });
  const events: RequestEvent[] = [];
  const server = new PrefixServer(engine, {
    ...{ port: 0, baseName: 'base', onRequest: (event: RequestEvent) => void events.push(event) },
    ...options,
  });
  const { url } = await server.start();
  return {
    ...{ url, engine, store, server, events },
    post: (path, body, headers = {}) =>
      fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body),
      }),
    async [Symbol.asyncDispose]() {
      await server.close({ drainSeconds: 0 });
      await engine.dispose();
      await store.dispose();
    },
  };
}

/** The data of each event of a stream. */
export function eventsOf(text: string): string[] {
  return text
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice(6));
}

/** What a request with any headers and path gives: fetch corrects some. */
export function raw(
  url: string,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<{ status: number; body: string; headers: Record<string, string | string[] | undefined> }> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    request({ hostname, port, path, method, headers }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body, headers: response.headers }));
    })
      .on('error', reject)
      .end();
  });
}
