// The Open Inference Protocol over HTTP: routes under /v2, for whatever HTTP server stands in front.
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import { badArgument } from '../../base/arguments';
import { isError, NeoXPrefixError } from '../../base/errors';
import { get, isObject, type JsonObject } from '../../formats/json';
import {
  decodeHttpRequest,
  encodeHttpResponse,
  JSON_LENGTH_HEADER,
  wantsBinary,
} from '../../inference-protocol/http-messages';
import type { InferParameterValue, InferRequestMessage, InferResponseMessage } from '../../inference-protocol/messages';
import { fromElements, jsonElements, type Tensor } from '../../inference-protocol/tensors';
import { HttpError } from '../http-error';
import type { InferenceService } from './inference-service';
import { protocolStatus } from './protocol-status';

/** A request, its body read. */
export interface V2Request {
  readonly method: string;
  /** With percent signs as they came. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Uint8Array;
  /** Aborted when the client leaves. */
  readonly signal: AbortSignal;
}

/** A response; of a stream the events come one by one, and `body` is empty. */
export interface V2Response {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly events?: AsyncGenerator<string, void, undefined>;
}

type Handler = (request: V2Request, name: string, version: string) => V2Response | Promise<V2Response>;

interface Route {
  readonly method: string;
  readonly pattern: RegExp;
  readonly handle: Handler;
}

const MODEL = '/v2/models/([^/]+)(?:/versions/([^/]+))?';
const DECOMPRESS = { gzip: promisify(gunzip), deflate: promisify(inflate) };

/** Answers requests under /v2. */
export class V2Http {
  private readonly routes: readonly Route[];

  /** @param maxBytes of a body, inflated */
  constructor(
    private readonly service: InferenceService,
    private readonly maxBytes: number,
  ) {
    const route = (method: string, pattern: string, handle: Handler): Route => ({
      method,
      pattern: new RegExp(`^${pattern}$`),
      handle,
    });
    this.routes = [
      route('GET', '/v2/health/live', () => empty(200)),
      // Triton answers 400 where it is not ready, and its clients look for 200 alone.
      route('GET', '/v2/health/ready', () => empty(service.host.isReady() ? 200 : 400)),
      route('GET', '/v2/?', () => json(service.serverMetadata())),
      route('GET', '/v2/models/stats', () => json(service.statistics('', ''))),
      route('GET', `${MODEL}/ready`, (_, name, version) => empty(service.isModelReady(name, version) ? 200 : 400)),
      route('GET', `${MODEL}/config`, (_, name, version) => json(service.modelConfig(name, version))),
      route('GET', `${MODEL}/stats`, (_, name, version) => json(service.statistics(name, version))),
      route('GET', MODEL, (_, name, version) => json(service.modelMetadata(name, version))),
      route('POST', `${MODEL}/infer`, (request, name, version) => this.infer(request, name, version)),
      route('POST', `${MODEL}/generate`, (request, name, version) => this.generate(request, name, version)),
      route('POST', `${MODEL}/generate_stream`, (request, name, version) =>
        this.generateStream(request, name, version),
      ),
      route('POST', '/v2/repository/index', ({ body }) => json(service.index(get(objectOf(body), 'ready') === true))),
      route('POST', '/v2/repository/models/([^/]+)/load', async ({ body }, name) => {
        refuseParameters(objectOf(body));
        await service.load(name);
        return empty(200);
      }),
      route('POST', '/v2/repository/models/([^/]+)/unload', async (_, name) => {
        await service.unload(name);
        return empty(200);
      }),
    ];
  }

  /** Never throws: what goes wrong is the response. */
  async handle(request: V2Request): Promise<V2Response> {
    try {
      const found = this.routes.flatMap((route) => {
        const match = route.pattern.exec(request.path);
        return match === null ? [] : [{ route, match }];
      });
      const [first] = found.filter(({ route }) => route.method === request.method);
      if (first === undefined) {
        if (found.length === 0) return failure(404, 'Not Found');
        const allow = found.map(({ route }) => route.method).join(', ');
        return { ...failure(405, `Method ${request.method} is not allowed here`), headers: { ...JSON_TYPE, allow } };
      }
      const [, name = '', version = ''] = first.match;
      const body = await this.inflated(request);
      return await first.route.handle({ ...request, body }, decoded(name), decoded(version));
    } catch (error) {
      // What a time limit or a drain aborts has a reason that is told; a client that left hears nothing.
      if (request.signal.aborted && !(request.signal.reason instanceof HttpError)) return empty(499);
      if (error instanceof TooLarge) return failure(413, error.message);
      const { http, message } = protocolStatus(request.signal.aborted ? request.signal.reason : error);
      return failure(http, message);
    }
  }

  private async infer({ headers, body, signal }: V2Request, name: string, version: string): Promise<V2Response> {
    const given = headers[JSON_LENGTH_HEADER];
    const request = decodeHttpRequest(body, given === undefined ? undefined : wholeNumber(given), name, version);
    const response = await this.service.infer(request, signal);
    const { chunks, jsonLength } = encodeHttpResponse(response, wantsBinary(request));
    return {
      status: 200,
      headers:
        jsonLength === undefined
          ? JSON_TYPE
          : { 'content-type': 'application/octet-stream', [JSON_LENGTH_HEADER]: String(jsonLength) },
      body: Buffer.concat(chunks),
    };
  }

  private async generate({ body, signal }: V2Request, name: string, version: string): Promise<V2Response> {
    const request = this.generateRequest(body, name, version);
    return json(flatResponse(await this.service.infer(request, signal)));
  }

  /** Errors that come before the first response have a status of their own; later ones are an event. */
  private async generateStream({ body, signal }: V2Request, name: string, version: string): Promise<V2Response> {
    const responses = this.service.stream(this.generateRequest(body, name, version), signal);
    const first = await responses.next();
    return {
      status: 200,
      headers: {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        'x-accel-buffering': 'no',
      },
      body: new Uint8Array(0),
      events: events(first, responses),
    };
  }

  /** Triton's generate extension: keys that are inputs become tensors, the others and `parameters` are parameters. */
  private generateRequest(body: Uint8Array, model: string, version: string): InferRequestMessage {
    const specs = new Map(this.service.inputsOf(model, version).map((spec) => [spec.name, spec]));
    const { id, parameters: nested, ...flat } = objectOf(body);
    if (id !== undefined && typeof id !== 'string') throw badArgument('id', 'a string', id);
    if (nested !== undefined && !isObject(nested)) throw badArgument('parameters', 'an object', nested);
    const inputs = new Map<string, Tensor>();
    const parameters: [string, InferParameterValue][] = [];
    for (const [name, value] of [...Object.entries(flat), ...Object.entries(nested ?? {})]) {
      if (value === null) continue;
      const spec = specs.get(name);
      if (spec !== undefined) {
        const elements = Array.isArray(value) ? (value as unknown[]) : [value];
        inputs.set(name, fromElements(name, spec.datatype, [elements.length], elements));
      } else if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
        parameters.push([name, value]);
      } else {
        throw badArgument(name, 'a boolean, a number or a string', value);
      }
    }
    return { model, version, id: id ?? '', parameters: Object.fromEntries(parameters), inputs, outputs: [] };
  }

  private async inflated({ headers, body }: V2Request): Promise<Uint8Array> {
    const encoding = headers['content-encoding'];
    if (encoding === undefined || encoding === 'identity') return body;
    if (encoding !== 'gzip' && encoding !== 'deflate')
      throw badArgument('Content-Encoding', 'gzip or deflate', encoding);
    try {
      return await DECOMPRESS[encoding](body, { maxOutputLength: this.maxBytes });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE')
        throw new TooLarge(`The body has more than ${this.maxBytes} bytes`);
      throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `The body is not ${encoding}`);
    }
  }
}

class TooLarge extends Error {}

async function* events(
  first: IteratorResult<InferResponseMessage, void>,
  responses: AsyncGenerator<InferResponseMessage, void, undefined>,
): AsyncGenerator<string, void, undefined> {
  try {
    if (first.done !== true) yield event(flatResponse(first.value));
    for await (const response of responses) yield event(flatResponse(response));
  } catch (error) {
    yield event({ error: protocolStatus(error).message });
  } finally {
    await responses.return();
  }
}

const event = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;

/** Outputs of one element as that element. */
function flatResponse({ model, version, id, outputs }: InferResponseMessage): object {
  const values = [...outputs].map(([name, tensor]): [string, unknown] => {
    const elements = jsonElements(name, tensor);
    return [name, elements.length === 1 ? elements[0] : elements];
  });
  return { ...(id !== '' && { id }), model_name: model, model_version: version, ...Object.fromEntries(values) };
}

const JSON_TYPE = { 'content-type': 'application/json' };

function json(value: object): V2Response {
  return { status: 200, headers: JSON_TYPE, body: Buffer.from(JSON.stringify(value)) };
}

function failure(status: number, message: string): V2Response {
  return { ...json({ error: message }), status };
}

function empty(status: number): V2Response {
  return { status, headers: {}, body: new Uint8Array(0) };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `'${part}' is no part of an address`);
  }
}

function wholeNumber(header: string | string[]): number {
  return typeof header === 'string' && /^\d+$/.test(header) ? Number(header) : NaN;
}

/** A body that may be empty. */
function objectOf(body: Uint8Array): JsonObject {
  if (body.length === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch (error) {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `The body is no JSON: ${isError(error) ? error.message : ''}`);
  }
  if (!isObject(value)) throw badArgument('the body', 'a JSON object', value);
  return value;
}

/** A model's configuration and files come from the server's own folder alone. */
function refuseParameters(body: JsonObject): void {
  const parameters = get(body, 'parameters');
  if (isObject(parameters) && Object.keys(parameters).length > 0)
    throw badArgument('parameters', 'none: prefixes come from the folder of the server alone', parameters);
}
