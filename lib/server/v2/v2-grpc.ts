// The Open Inference Protocol over gRPC, and gRPC's health checks.
import type * as Grpc from '@grpc/grpc-js';
import { createRequire } from 'node:module';
import { NeoXPrefixError } from '../../base/errors';
import { fromGrpcRequest, type GrpcInferRequest, toGrpcResponse } from '../../inference-protocol/grpc-messages';
import { grpcServices } from '../../inference-protocol/grpc-service';
import { FINAL_RESPONSE, type InferResponseMessage, WANTS_FINAL_RESPONSE } from '../../inference-protocol/messages';
import type { InferenceService } from './inference-service';
import { protocolStatus } from './protocol-status';

export interface V2GrpcOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** Of a message. */
  readonly maxBytes: number;
  /** What a call with this `authorization` may do. */
  readonly access: (authorization: string | undefined, isAdmin: boolean) => 'allowed' | 'unknown' | 'forbidden';
}

type Unary = Grpc.ServerUnaryCall<Record<string, unknown>, object>;
type Stream = Grpc.ServerDuplexStream<GrpcInferRequest, object>;

/** A server that listens. */
export class V2Grpc {
  private constructor(
    private readonly server: Grpc.Server,
    private readonly calls: Calls,
    readonly port: number,
  ) {}

  /** Loads `@grpc/grpc-js`. @throws NEOX_IO when the port is taken */
  static async listen(service: InferenceService, options: V2GrpcOptions): Promise<V2Grpc> {
    const grpc = createRequire(__filename)('@grpc/grpc-js') as typeof Grpc;
    const { host, port, maxBytes } = options;
    const server = new grpc.Server({
      'grpc.max_receive_message_length': maxBytes,
      'grpc.max_send_message_length': -1,
    });
    const services = grpcServices();
    const calls = new Calls(grpc, service, options);
    server.addService(services.inference, calls.inference());
    server.addService(services.health, calls.health());
    const bound = await new Promise<number>((resolve, reject) => {
      const address = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, own) => {
        if (error === null) resolve(own);
        else
          reject(
            new NeoXPrefixError('NEOX_IO', `gRPC cannot listen at ${address}: ${error.message}`, { cause: error }),
          );
      });
    });
    return new V2Grpc(server, calls, bound);
  }

  /** Takes no new calls, waits for the present ones. */
  async drain(): Promise<void> {
    await new Promise<void>((resolve) => this.server.tryShutdown(() => resolve()));
  }

  /** Ends all calls: with the status of the reason, and soon without. */
  close(reason?: unknown): void {
    this.calls.abort(reason);
    setTimeout(() => this.server.forceShutdown(), LAST_WORDS_MS).unref();
  }
}

/** For an answer to reach its client. */
const LAST_WORDS_MS = 200;

class Calls {
  private readonly controllers = new Set<AbortController>();

  constructor(
    private readonly grpc: typeof Grpc,
    private readonly service: InferenceService,
    private readonly options: V2GrpcOptions,
  ) {}

  abort(reason: unknown): void {
    for (const controller of this.controllers) controller.abort(reason);
  }

  inference(): Grpc.UntypedServiceImplementation {
    const { service } = this;
    const text = (value: unknown): string => (typeof value === 'string' ? value : '');
    const modelOf = ({ name, version }: Record<string, unknown>): [string, string] => [text(name), text(version)];
    return {
      ServerLive: this.unary(() => ({ live: true })),
      ServerReady: this.unary(() => ({ ready: service.host.isReady() })),
      ModelReady: this.unary((request) => ({ ready: service.isModelReady(...modelOf(request)) })),
      ServerMetadata: this.unary(() => service.serverMetadata()),
      ModelMetadata: this.unary((request) => service.modelMetadata(...modelOf(request))),
      ModelConfig: this.unary((request) => ({ config: service.modelConfig(...modelOf(request)) })),
      ModelStatistics: this.unary((request) => service.statistics(...modelOf(request))),
      RepositoryIndex: this.unary(({ ready }) => ({ models: service.index(ready === true) })),
      RepositoryModelLoad: this.unary(async ({ model_name: name, parameters }) => {
        if (parameters !== null && Object.keys(parameters as object).length > 0) {
          const message = 'Expected no parameters: prefixes come from the folder of the server alone';
          throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', message);
        }
        await service.load(text(name));
        return {};
      }, true),
      RepositoryModelUnload: this.unary(async ({ model_name: name }) => {
        await service.unload(text(name));
        return {};
      }, true),
      ModelInfer: this.unary(async (request, signal) =>
        toGrpcResponse(await service.infer(fromGrpcRequest(request as unknown as GrpcInferRequest), signal)),
      ),
      ModelStreamInfer: (call: Stream) => this.streamInfer(call),
    };
  }

  health(): Grpc.UntypedServiceImplementation {
    return {
      // Without a key: balancers have none.
      Check: (call: Unary, done: Grpc.sendUnaryData<object>) => {
        const { service: name } = call.request;
        if (name !== '' && name !== 'inference.GRPCInferenceService')
          done({ code: this.grpc.status.NOT_FOUND, details: `unknown service '${String(name)}'` });
        else done(null, { status: this.service.host.isReady() ? 'SERVING' : 'NOT_SERVING' });
      },
    };
  }

  private unary(
    answer: (request: Record<string, unknown>, signal: AbortSignal) => object | Promise<object>,
    isAdmin = false,
  ): Grpc.handleUnaryCall<Record<string, unknown>, object> {
    return (call, done) => {
      const refused = this.refusal(call.metadata, isAdmin);
      if (refused !== undefined) {
        done(refused);
        return;
      }
      const controller = this.controller();
      call.on('cancelled', () => controller.abort());
      // A promise from the start, so that what is thrown at once is told, too.
      void (async () => answer(call.request, controller.signal))()
        .then(
          (response) => done(null, response),
          (error: unknown) => done(this.statusOf(error)),
        )
        .finally(() => this.controllers.delete(controller));
    };
  }

  /** Requests of one stream go on side by side; one that fails is told, and the stream stays open. */
  private streamInfer(call: Stream): void {
    const refused = this.refusal(call.metadata, false);
    if (refused !== undefined) {
      call.emit('error', refused);
      return;
    }
    const controller = this.controller();
    const { signal } = controller;
    // Requests at once are bounded by the engine, but not how many listen for the end of the call.
    const leave = (): void => {
      this.controllers.delete(controller);
      controller.abort();
    };
    call.on('cancelled', leave);
    let open = 1;
    const finish = (): void => {
      if (--open > 0) return;
      this.controllers.delete(controller);
      if (!call.cancelled) call.end();
    };
    call.on('data', (message: GrpcInferRequest) => {
      open++;
      void this.respond(call, message, signal).finally(finish);
    });
    call.on('end', finish);
    call.on('error', leave);
  }

  private async respond(call: Stream, message: GrpcInferRequest, signal: AbortSignal): Promise<void> {
    try {
      const request = fromGrpcRequest(message);
      const marksEnd = request.parameters[WANTS_FINAL_RESPONSE] === true;
      // One response is kept back, because the last one says that it is.
      let held: InferResponseMessage | undefined;
      for await (const response of this.service.stream(request, signal)) {
        if (marksEnd) await this.write(call, response, false, signal);
        else if (held !== undefined) await this.write(call, held, false, signal);
        held = response;
      }
      if (held === undefined) return;
      await this.write(call, marksEnd ? { ...held, outputs: new Map() } : held, true, signal);
    } catch (error) {
      if (call.cancelled) return;
      call.write({ error_message: protocolStatus(error).message, infer_response: { id: message.id } });
    }
  }

  /** Waits while the client does not read, which makes the row wait. */
  private async write(
    call: Stream,
    response: InferResponseMessage,
    isFinal: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    signal.throwIfAborted();
    const parameters = { ...response.parameters, [FINAL_RESPONSE]: isFinal };
    if (call.write({ error_message: '', infer_response: toGrpcResponse({ ...response, parameters }) })) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        call.off('drain', done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      call.once('drain', done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  private controller(): AbortController {
    const controller = new AbortController();
    this.controllers.add(controller);
    return controller;
  }

  private refusal(metadata: Grpc.Metadata, isAdmin: boolean): Partial<Grpc.StatusObject> | undefined {
    const [authorization] = metadata.get('authorization');
    const access = this.options.access(typeof authorization === 'string' ? authorization : undefined, isAdmin);
    const { status } = this.grpc;
    if (access === 'unknown')
      return { code: status.UNAUTHENTICATED, details: 'a key is needed: authorization: Bearer KEY' };
    if (access === 'forbidden') return { code: status.PERMISSION_DENIED, details: 'this needs an admin key' };
    return undefined;
  }

  private statusOf(error: unknown): Partial<Grpc.StatusObject> {
    const { grpc, message } = protocolStatus(error);
    return { code: this.grpc.status[grpc], details: message };
  }
}
