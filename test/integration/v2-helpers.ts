/** The Open Inference Protocol over an engine of the demonstration model, by both carriers. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { GenerationEngine } from '../../lib/engine/engine';
import type { EngineOptions } from '../../lib/engine/engine-options';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { NeoXModel } from '../../lib/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import type { FasterTransformerOptions } from '../../lib/server/v2/fastertransformer-model';
import { type InferenceHost, InferenceService } from '../../lib/server/v2/inference-service';
import { V2Grpc, type V2GrpcOptions } from '../../lib/server/v2/v2-grpc';
import { V2Http } from '../../lib/server/v2/v2-http';
import { EXAMPLE_MODEL, loadModel, randomPrefix } from '../helpers';

export const MAX_BYTES = 16 * 2 ** 20;

export class V2Server {
  ready = true;
  readonly loaded: string[] = [];
  access: V2GrpcOptions['access'] = () => 'allowed';

  private constructor(
    readonly model: NeoXModel,
    readonly engine: GenerationEngine,
    readonly prefixes: PrefixStore,
    readonly smile: PrefixWeights,
    private readonly http: Server,
    private readonly services: { grpc?: V2Grpc },
  ) {}

  static async start(
    fasterTransformer?: FasterTransformerOptions,
    options: EngineOptions & { repository?: boolean } = {},
  ): Promise<V2Server> {
    const { repository = true, ...engineOptions } = options;
    const model = await loadModel(EXAMPLE_MODEL);
    const prefixes = new PrefixStore(model);
    const smile = randomPrefix(model, 4, 1);
    await prefixes.add('smile', smile);
    await prefixes.add('polite', randomPrefix(model, 7, 2));
    const engine = new GenerationEngine(model, { ...engineOptions, prefixes });
    const services: { grpc?: V2Grpc; http?: V2Http } = {};
    const http = createServer((request, response) => {
      void (async () => {
        const parts: Buffer[] = [];
        for await (const part of request) parts.push(part as Buffer);
        const controller = new AbortController();
        response.on('close', () => {
          if (!response.writableFinished) controller.abort();
        });
        const { method = '', url = '', headers } = request;
        const body = Buffer.concat(parts);
        const answer = await services.http!.handle({ method, path: url, headers, body, signal: controller.signal });
        response.writeHead(answer.status, answer.headers);
        if (answer.events !== undefined) for await (const event of answer.events) response.write(event);
        response.end(answer.body);
      })();
    });
    const server = new V2Server(model, engine, prefixes, smile, http, services);
    const host: InferenceHost = {
      engine,
      prefixes,
      baseName: 'base',
      endId: model.config.eosTokenIds[0],
      fasterTransformer,
      isReady: () => server.ready,
      repository: repository
        ? {
            load: (name) => Promise.resolve(void server.loaded.push(name)),
            unload: (name) => prefixes.remove(name),
          }
        : undefined,
    };
    const service = new InferenceService(host);
    services.http = new V2Http(service, MAX_BYTES);
    services.grpc = await V2Grpc.listen(service, {
      host: '127.0.0.1',
      port: 0,
      maxBytes: MAX_BYTES,
      access: (authorization, isAdmin) => server.access(authorization, isAdmin),
    });
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get urls(): { http: string; grpc: string } {
    const { port } = this.http.address() as AddressInfo;
    return { http: `http://127.0.0.1:${port}`, grpc: `grpc://127.0.0.1:${this.services.grpc!.port}` };
  }

  async stop(): Promise<void> {
    this.services.grpc!.close();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
    await this.engine.dispose();
    await this.prefixes.dispose();
    await this.model.dispose();
  }
}

/** Waits for what other parties bring about. */
export async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error('It did not come about');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
