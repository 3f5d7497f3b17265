import { isError } from '../base/errors';
import type * as Grpc from '@grpc/grpc-js';
import { createRequire } from 'node:module';
import {
  fromGrpcResponse,
  fromGrpcStream,
  type GrpcInferResponse,
  type GrpcStreamResponse,
  toGrpcRequest,
} from '../inference-protocol/grpc-messages';
import { grpcServices } from '../inference-protocol/grpc-service';
import type { InferRequestMessage, InferResponseMessage, StreamedResponse } from '../inference-protocol/messages';
import { type Call, type Endpoint, readAnswer, remoteError, tooLate, type Transport, unreachable } from './transport';

const DEFAULT_PORT = '8001';

interface Channel {
  readonly grpc: typeof Grpc;
  readonly client: Grpc.Client;
  readonly service: Grpc.ServiceDefinition;
}

/** The protocol over gRPC. `@grpc/grpc-js` is loaded with the first call. */
export class GrpcTransport implements Transport {
  private channel: Channel | undefined;

  constructor(private readonly endpoint: Endpoint) {}

  async live(call: Call): Promise<boolean> {
    return (await this.unary<{ live: boolean }>('ServerLive', {}, call)).live;
  }

  async ready(call: Call): Promise<boolean> {
    return (await this.unary<{ ready: boolean }>('ServerReady', {}, call)).ready;
  }

  async modelReady(name: string, version: string, call: Call): Promise<boolean> {
    return (await this.unary<{ ready: boolean }>('ModelReady', { name, version }, call)).ready;
  }

  serverMetadata(call: Call): Promise<unknown> {
    return this.unary('ServerMetadata', {}, call);
  }

  modelMetadata(name: string, version: string, call: Call): Promise<unknown> {
    return this.unary('ModelMetadata', { name, version }, call);
  }

  async modelConfig(name: string, version: string, call: Call): Promise<unknown> {
    return (await this.unary<{ config: unknown }>('ModelConfig', { name, version }, call)).config;
  }

  statistics(name: string, version: string, call: Call): Promise<unknown> {
    return this.unary('ModelStatistics', { name, version }, call);
  }

  async index(call: Call): Promise<unknown> {
    return (await this.unary<{ models: unknown }>('RepositoryIndex', {}, call)).models;
  }

  async load(model: string, call: Call): Promise<void> {
    await this.unary('RepositoryModelLoad', { model_name: model }, call);
  }

  async unload(model: string, call: Call): Promise<void> {
    await this.unary('RepositoryModelUnload', { model_name: model }, call);
  }

  async infer(request: InferRequestMessage, call: Call): Promise<InferResponseMessage> {
    const response = await this.unary<GrpcInferResponse>('ModelInfer', toGrpcRequest(request), call);
    return readAnswer(() => fromGrpcResponse(response));
  }

  async *stream(request: InferRequestMessage, call: Call): AsyncGenerator<StreamedResponse, void, undefined> {
    call.signal?.throwIfAborted();
    const { grpc, client, service } = this.open();
    const method = methodOf(service, 'ModelStreamInfer');
    const stream = client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize as (bytes: Buffer) => GrpcStreamResponse,
      this.metadata(grpc),
      deadline(call),
    );
    const abort = (): void => stream.cancel();
    call.signal?.addEventListener('abort', abort, { once: true });
    try {
      stream.write(toGrpcRequest(request));
      stream.end();
      for await (const message of stream) yield readAnswer(() => fromGrpcStream(message as GrpcStreamResponse));
    } catch (error) {
      throw this.failure(grpc, error, call);
    } finally {
      call.signal?.removeEventListener('abort', abort);
      stream.cancel();
    }
  }

  close(): Promise<void> {
    this.channel?.client.close();
    this.channel = undefined;
    return Promise.resolve();
  }

  private async unary<T>(name: string, message: object, call: Call): Promise<T> {
    call.signal?.throwIfAborted();
    const { grpc, client, service } = this.open();
    const method = methodOf(service, name);
    return new Promise<T>((resolve, reject) => {
      const request = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize as (bytes: Buffer) => T,
        message,
        this.metadata(grpc),
        deadline(call),
        (error, answer) => {
          call.signal?.removeEventListener('abort', abort);
          if (error === null) resolve(answer as T);
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason is any value
          else reject(this.failure(grpc, error, call));
        },
      );
      const abort = (): void => request.cancel();
      call.signal?.addEventListener('abort', abort, { once: true });
    });
  }

  private open(): Channel {
    this.channel ??= connect(this.endpoint);
    return this.channel;
  }

  private metadata(grpc: typeof Grpc): Grpc.Metadata {
    const metadata = new grpc.Metadata();
    for (const [name, value] of Object.entries(this.endpoint.headers)) metadata.set(name, value);
    return metadata;
  }

  /** What the caller sees of an error of gRPC: the signal's reason, an error of ours, or what is none of gRPC's. */
  private failure(grpc: typeof Grpc, error: unknown, { signal, timeoutMs }: Call): unknown {
    if (signal?.aborted) return signal.reason;
    if (!isError(error) || !('code' in error) || typeof error.code !== 'number') return error;
    const { code, details } = error as Grpc.ServiceError;
    if (code === grpc.status.DEADLINE_EXCEEDED && timeoutMs > 0) return tooLate(this.endpoint, timeoutMs);
    // Without an answer of the server there are no details of its own, but gRPC's about the connection.
    if (code === grpc.status.UNAVAILABLE && /^No connection|^Name resolution|ECONN|dropped/i.test(details))
      return unreachable(this.endpoint, details, error);
    return remoteError(grpc.status[code] ?? String(code), details, error);
  }
}

function connect({ url, compression, tls }: Endpoint): Channel {
  const grpc = createRequire(__filename)('@grpc/grpc-js') as typeof Grpc;
  const bytes = (value: string | Uint8Array | undefined): Buffer | null =>
    value === undefined ? null : Buffer.from(value as Uint8Array);
  const credentials =
    url.protocol === 'grpcs:'
      ? grpc.credentials.createSsl(bytes(tls.ca), bytes(tls.key), bytes(tls.cert))
      : grpc.credentials.createInsecure();
  const client = new grpc.Client(`${url.hostname}:${url.port || DEFAULT_PORT}`, credentials, {
    // By default 4 MiB, which log-probabilities of a large batch exceed.
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    ...(compression !== undefined && {
      'grpc.default_compression_algorithm': grpc.compressionAlgorithms[compression],
    }),
  });
  return { grpc, client, service: grpcServices().inference };
}

function methodOf(service: Grpc.ServiceDefinition, name: string): Grpc.MethodDefinition<object, object> {
  return service[name] as Grpc.MethodDefinition<object, object>;
}

function deadline({ timeoutMs }: Call): Grpc.CallOptions {
  return timeoutMs === 0 ? {} : { deadline: Date.now() + timeoutMs };
}
