import type { ServiceDefinition } from '@grpc/grpc-js';
import type * as ProtoLoader from '@grpc/proto-loader';
import { createRequire } from 'node:module';
import { join } from 'node:path';

/** The two services of a server: the protocol's own, and gRPC's health checks. */
export interface GrpcServices {
  readonly inference: ServiceDefinition;
  readonly health: ServiceDefinition;
}

let services: GrpcServices | undefined;

/** Reads the .proto files, once. Loads `@grpc/proto-loader`, which takes a tenth of a second. */
export function grpcServices(): GrpcServices {
  services ??= load();
  return services;
}

function load(): GrpcServices {
  // Not import(): Jest cannot follow it, and for a CommonJS package it does the same.
  const { loadSync } = createRequire(__filename)('@grpc/proto-loader') as typeof ProtoLoader;
  const folder = join(__dirname, 'proto');
  // 64-bit numbers as strings: seeds take all of their bits.
  const definitions = loadSync(['inference.proto', 'health.proto'], {
    includeDirs: [folder],
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const service = (name: string): ServiceDefinition => definitions[name] as ServiceDefinition;
  return { inference: service('inference.GRPCInferenceService'), health: service('grpc.health.v1.Health') };
}
