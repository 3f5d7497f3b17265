import { ClientLeft } from '../http-error';
import type { Exchange } from '../exchange';
import { inFolder, put, storeOf } from '../openai/admin';
import type { Route } from '../router';
import type { Service } from '../service';
import { InferenceService } from './inference-service';
import { V2Http, type V2Response } from './v2-http';

/** The Open Inference Protocol over what a server has. */
export function inferenceOf(service: Service): InferenceService {
  const { engine, prefixes, baseName, model, settings } = service;
  return new InferenceService({
    engine,
    prefixes,
    baseName,
    endId: model.config.eosTokenIds[0],
    fasterTransformer: settings.fasterTransformer,
    isReady: () => !service.draining,
    repository: {
      load: async (name) => put(service, name, await inFolder(service, `${name}.safetensors`), true),
      unload: (name) => storeOf(service).remove(name),
    },
  });
}

const MODEL = '/v2/models/:model';
const VERSIONED = `${MODEL}/versions/:version`;

/** The protocol's endpoints. */
export function v2Routes(service: Service): Route[] {
  const { bodyBytes } = service.settings.limits;
  const v2 = new V2Http(inferenceOf(service), bodyBytes);
  const route = (method: Route['method'], path: string, summary: string, more: Partial<Route> = {}): Route => ({
    ...{ method, path, summary, access: 'api', errorBody: ({ message }) => ({ error: message }) },
    handle: (exchange) => answer(v2, exchange),
    ...more,
  });
  const each = (method: Route['method'], end: string, summary: string): Route[] =>
    [MODEL, VERSIONED].map((model) => route(method, `${model}${end}`, summary));
  const open = { access: 'open', always: true } as const;
  return [
    route('GET', '/v2/health/live', 'Whether the process answers, by the Open Inference Protocol', open),
    route('GET', '/v2/health/ready', 'Whether requests are taken: 200, else 400', open),
    route('GET', '/v2', 'What the server is'),
    route('GET', '/v2/models/stats', 'What all models have done'),
    ...each('GET', '/ready', 'Whether the model takes requests'),
    ...each('GET', '/config', "The model's configuration"),
    ...each('GET', '/stats', 'What the model has done'),
    ...each('GET', '', "The model's inputs and outputs"),
    ...each('POST', '/infer', 'Tensors in, tensors out'),
    ...each('POST', '/generate', 'Text in, text out'),
    ...each('POST', '/generate_stream', 'Text in, text out piece by piece'),
    route('POST', '/v2/repository/index', 'The models'),
    route('POST', '/v2/repository/models/:model/load', 'Loads a prefix of the folder', { access: 'admin' }),
    route('POST', '/v2/repository/models/:model/unload', 'Takes a prefix out', { access: 'admin' }),
  ];
}

async function answer(v2: V2Http, exchange: Exchange): Promise<void> {
  const { request, signal, path } = exchange;
  const body = await exchange.bytes(undefined, true);
  const { method = '', headers } = request;
  const response = await v2.handle({ method: method === 'HEAD' ? 'GET' : method, path, headers, body, signal });
  if (signal.reason instanceof ClientLeft) throw signal.reason;
  if (response.events === undefined) {
    const { 'content-type': type = 'text/plain', ...others } = response.headers;
    exchange.send(response.status, response.body, type, others);
    return;
  }
  await sendEvents(exchange, response.headers, response.events);
}

/** One event a write; while the client does not read, the row waits. */
async function sendEvents(
  exchange: Exchange,
  headers: V2Response['headers'],
  events: AsyncIterable<string>,
): Promise<void> {
  const { response, signal } = exchange;
  response.writeHead(200, { ...exchange.headers, ...headers });
  for await (const event of events) {
    if (response.destroyed) break;
    if (!response.write(event)) await exchange.drained();
  }
  if (signal.reason instanceof ClientLeft) throw signal.reason;
  response.end();
}
