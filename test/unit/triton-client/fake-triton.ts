// A server of the protocol over both carriers, which answers by a function and remembers what it was asked.
import * as grpc from '@grpc/grpc-js';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gunzipSync, inflateSync } from 'node:zlib';
import {
  fromGrpcRequest,
  type GrpcInferRequest,
  type GrpcStreamResponse,
  toGrpcResponse,
} from '../../../lib/inference-protocol/grpc-messages';
import { grpcServices } from '../../../lib/inference-protocol/grpc-service';
import { decodeHttpRequest, encodeHttpResponse, wantsBinary } from '../../../lib/inference-protocol/http-messages';
import type { InferRequestMessage, InferResponseMessage } from '../../../lib/inference-protocol/messages';
import { type Tensor, tensor } from '../../../lib/inference-protocol/tensors';

/** What the server says: an answer, an error with HTTP's number and gRPC's name, or nothing ever. */
export type Said =
  | { outputs: Map<string, Tensor>; parameters?: InferResponseMessage['parameters'] }
  | { http: number; grpc: keyof typeof grpc.status; text: string }
  | 'silence';

export class FakeTriton {
  /** Requests in the order they came. */
  readonly asked: InferRequestMessage[] = [];
  readonly headers: Record<string, unknown>[] = [];
  /** Calls of other methods. */
  readonly calls: string[] = [];
  cancelled = 0;
  answer: (request: InferRequestMessage) => Said = () => 'silence';
  /** Several responses to one request of a stream; a string is an error. */
  streamed: (request: InferRequestMessage) => (Said | { error: string })[] = () => [];
  ready = { server: true, model: true };
  config: Record<string, unknown> = {};
  private readonly http = createServer((request, response) => void this.serve(request, response));
  private readonly rpc = new grpc.Server({ 'grpc.max_receive_message_length': -1 });
  private grpcPort = 0;

  get urls(): { http: string; grpc: string } {
    const { port } = this.http.address() as AddressInfo;
    return { http: `http://127.0.0.1:${port}`, grpc: `grpc://127.0.0.1:${this.grpcPort}` };
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.http.listen(0, '127.0.0.1', resolve));
    type Call = grpc.ServerUnaryCall<GrpcInferRequest, object>;
    const unary =
      (name: string, answer: () => object) =>
      (call: Call, done: grpc.sendUnaryData<object>): void => {
        this.calls.push(`${name} ${JSON.stringify(call.request)}`);
        this.headers.push(call.metadata.getMap());
        done(null, answer());
      };
    this.rpc.addService(grpcServices().inference, {
      ServerLive: unary('ServerLive', () => ({ live: true })),
      ServerReady: unary('ServerReady', () => ({ ready: this.ready.server })),
      ModelReady: unary('ModelReady', () => ({ ready: this.ready.model })),
      ServerMetadata: unary('ServerMetadata', () => SERVER),
      ModelMetadata: unary('ModelMetadata', () => METADATA),
      ModelConfig: unary('ModelConfig', () => ({ config: this.config })),
      ModelStatistics: unary('ModelStatistics', () => STATISTICS),
      RepositoryIndex: unary('RepositoryIndex', () => ({ models: MODELS })),
      RepositoryModelLoad: unary('RepositoryModelLoad', () => ({})),
      RepositoryModelUnload: unary('RepositoryModelUnload', () => ({})),
      ModelInfer: (call: Call, done: grpc.sendUnaryData<object>) => {
        this.headers.push(call.metadata.getMap());
        call.on('cancelled', () => this.cancelled++);
        const request = this.remember(fromGrpcRequest(call.request));
        const said = this.answer(request);
        if (said === 'silence') return;
        if ('text' in said) done({ code: grpc.status[said.grpc], details: said.text });
        else done(null, toGrpcResponse(responseOf(request, said)));
      },
      ModelStreamInfer: (call: grpc.ServerDuplexStream<GrpcInferRequest, Partial<GrpcStreamResponse>>) => {
        call.on('cancelled', () => this.cancelled++);
        call.on('data', (message: GrpcInferRequest) => {
          const request = this.remember(fromGrpcRequest(message));
          for (const said of this.streamed(request)) {
            if (said === 'silence') return;
            if ('error' in said) call.write({ error_message: said.error });
            else if ('outputs' in said) call.write({ infer_response: toGrpcResponse(responseOf(request, said)) });
          }
          call.end();
        });
      },
    });
    this.grpcPort = await new Promise<number>((resolve, reject) => {
      const credentials = grpc.ServerCredentials.createInsecure();
      this.rpc.bindAsync('127.0.0.1:0', credentials, (error, port) => (error ? reject(error) : resolve(port)));
    });
  }

  async stop(): Promise<void> {
    this.rpc.forceShutdown();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  private remember(request: InferRequestMessage): InferRequestMessage {
    this.asked.push(request);
    return request;
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { headers, method, url = '' } = request;
    const body = decompressed(Buffer.concat(parts), headers);
    this.headers.push(headers);
    response.on('close', () => (response.writableFinished ? undefined : this.cancelled++));
    const json = (value: unknown): void => void response.end(value === undefined ? '' : JSON.stringify(value));
    if (url.endsWith('/infer')) {
      const length = headers['inference-header-content-length'];
      const [, model = '', version = ''] = /^\/v2\/models\/([^/]+)(?:\/versions\/([^/]+))?\/infer$/.exec(url) ?? [];
      const message = decodeHttpRequest(body, Number(length), decodeURIComponent(model), version);
      const said = this.answer(this.remember(message));
      if (said === 'silence') return;
      if ('text' in said) {
        response.statusCode = said.http;
        json({ error: said.text });
        return;
      }
      const { chunks, jsonLength } = encodeHttpResponse(responseOf(message, said), wantsBinary(message));
      response.setHeader('inference-header-content-length', String(jsonLength));
      response.end(Buffer.concat(chunks));
      return;
    }
    this.calls.push(`${method ?? ''} ${url} ${body.toString()}`.trim());
    const isReady = url.includes('/models/') ? this.ready.model : this.ready.server;
    if (url.endsWith('/ready')) response.statusCode = isReady ? 200 : 400;
    const answers: [RegExp, unknown][] = [
      [/\/(live|ready|load|unload)$/, undefined],
      [/\/config$/, this.config],
      [/\/stats$/, STATISTICS],
      [/\/index$/, MODELS],
      [/^\/v2$/, SERVER],
      [/./, METADATA],
    ];
    json(answers.find(([pattern]) => pattern.test(url))?.[1]);
  }
}

const SERVER = { name: 'triton', version: '2.0', extensions: ['binary_tensor_data'] };
const METADATA = { name: 'm', versions: ['1'], platform: 'p', inputs: [{ name: 'x', datatype: 'FP32', shape: [-1] }] };
const STATISTICS = { model_stats: [{ name: 'm', version: '1', inference_count: 3 }] };
const MODELS = [{ name: 'm', version: '1', state: 'READY' }];

function decompressed(body: Buffer, headers: IncomingHttpHeaders): Buffer {
  const encoding = headers['content-encoding'];
  return encoding === 'gzip' ? gunzipSync(body) : encoding === 'deflate' ? inflateSync(body) : body;
}

function responseOf(request: InferRequestMessage, said: Exclude<Said, string>): InferResponseMessage {
  if (!('outputs' in said)) throw new Error('no response');
  return {
    model: request.model,
    version: '1',
    id: request.id,
    parameters: said.parameters ?? {},
    outputs: said.outputs,
  };
}

export const numbers = (one: Tensor | undefined): number[] => Array.from(one?.data as Uint32Array, Number);

/**
 * What FasterTransformer answers when it has generated these tokens (end token included) for the rows, beam by beam:
 * ids packed behind the prompt, the rest end ids; lengths counted from the padded width.
 */
export function ftOutputs(request: InferRequestMessage, generated: number[][][], endId: number): Map<string, Tensor> {
  const ids = request.inputs.get('input_ids')!;
  const lengths = numbers(request.inputs.get('input_lengths'));
  const [rows = 0, width = 0] = ids.shape;
  const longest = Math.max(...numbers(request.inputs.get('request_output_len')));
  const prompt = (row: number): number[] => numbers(ids).slice(row * width, row * width + (lengths[row] ?? 0));
  const filled = (values: number[]): number[] =>
    [...values, ...new Array<number>(width + longest).fill(endId)].slice(0, width + longest);
  const each = <T>(of: (tokens: number[], row: number) => T): T[][] =>
    Array.from({ length: rows }, (_, row) => generated[row]!.map((tokens) => of(tokens, row)));
  const outputs = new Map<string, Tensor>([
    [
      'output_ids',
      tensor(
        'UINT32',
        each((tokens, row) => filled([...prompt(row), ...tokens])),
      ),
    ],
    [
      'sequence_length',
      tensor(
        'UINT32',
        each((tokens) => width + tokens.length),
      ),
    ],
  ]);
  if (request.inputs.get('is_return_log_probs')?.data[0] === 1) {
    outputs.set(
      'cum_log_probs',
      tensor(
        'FP32',
        each((tokens) => -tokens.length),
      ),
    );
    outputs.set(
      'output_log_probs',
      tensor(
        'FP32',
        each((tokens) => [...tokens, ...new Array<number>(longest).fill(0)].slice(0, longest).map((t) => -t / 8)),
      ),
    );
  }
  return outputs;
}
