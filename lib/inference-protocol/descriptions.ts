// What servers say of themselves and of their models. JSON over HTTP and messages over gRPC have the same names, and
// 64-bit numbers are numbers in one and strings in the other.
import { get, isObject, type JsonObject } from '../formats/json';

/** A server. */
export interface ServerMetadata {
  readonly name: string;
  readonly version: string;
  /** The protocol's extensions that it has. */
  readonly extensions: readonly string[];
}

/** An input or output on the wire; -1 in its shape is any size. */
export interface TensorMetadata {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
}

/** A model as requests see it. */
export interface ModelMetadata {
  readonly name: string;
  readonly versions: readonly string[];
  readonly platform: string;
  readonly inputs: readonly TensorMetadata[];
  readonly outputs: readonly TensorMetadata[];
}

/** An input or output as config.pbtxt has it: without the dimension of the batch. */
export interface ConfiguredTensor {
  readonly name: string;
  readonly datatype: string;
  readonly dims: readonly number[];
  readonly optional: boolean;
}

/** What a model's config.pbtxt says, as far as clients need it. */
export interface ModelConfig {
  readonly name: string;
  readonly platform: string;
  readonly backend: string;
  /** Most rows of a request; 0: shapes have no dimension for rows. */
  readonly maxBatchSize: number;
  /** Any number of responses a request, over gRPC streams. */
  readonly decoupled: boolean;
  readonly inputs: readonly ConfiguredTensor[];
  readonly outputs: readonly ConfiguredTensor[];
  readonly parameters: Readonly<Record<string, string>>;
}

/** How often something happened, and how long it took in all. */
export interface StatisticDuration {
  readonly count: number;
  readonly seconds: number;
}

/** What a model has done. */
export interface ModelStatistics {
  readonly name: string;
  readonly version: string;
  /** Rows, and calls of the model. */
  readonly inferenceCount: number;
  readonly executionCount: number;
  /** When the last request came. */
  readonly lastInference: Date | undefined;
  readonly success: StatisticDuration;
  readonly fail: StatisticDuration;
  /** Before, in and after the computation of those that succeeded. */
  readonly queue: StatisticDuration;
  readonly compute: StatisticDuration;
}

/** A model of a repository. */
export interface RepositoryModel {
  readonly name: string;
  readonly version: string;
  /** `'READY'`, `'UNAVAILABLE'`, `'LOADING'`, ... */
  readonly state: string;
  readonly reason: string;
}

const text = (object: JsonObject, key: string): string => {
  const value = get(object, key);
  return typeof value === 'string' ? value : '';
};
const number = (object: JsonObject, key: string): number => Number(get(object, key) ?? 0) || 0;
const list = (object: JsonObject, key: string): readonly unknown[] => {
  const value = get(object, key);
  return Array.isArray(value) ? value : [];
};
const child = (object: JsonObject, key: string): JsonObject => asObject(get(object, key));
const objects = (object: JsonObject, key: string): JsonObject[] => list(object, key).map(asObject);
const texts = (object: JsonObject, key: string): string[] => list(object, key).map(String);
const numbers = (object: JsonObject, key: string): number[] => list(object, key).map(Number);

function asObject(value: unknown): JsonObject {
  return isObject(value) ? value : {};
}

export function serverMetadata(message: unknown): ServerMetadata {
  const server = asObject(message);
  return { name: text(server, 'name'), version: text(server, 'version'), extensions: texts(server, 'extensions') };
}

export function modelMetadata(message: unknown): ModelMetadata {
  const model = asObject(message);
  const tensor = (item: JsonObject): TensorMetadata => ({
    name: text(item, 'name'),
    datatype: text(item, 'datatype'),
    shape: numbers(item, 'shape'),
  });
  return {
    name: text(model, 'name'),
    versions: texts(model, 'versions'),
    platform: text(model, 'platform'),
    inputs: objects(model, 'inputs').map(tensor),
    outputs: objects(model, 'outputs').map(tensor),
  };
}

export function modelConfig(message: unknown): ModelConfig {
  const model = asObject(message);
  const tensor = (item: JsonObject): ConfiguredTensor => ({
    name: text(item, 'name'),
    // The configuration has a prefix and a name of its own for BYTES.
    datatype: text(item, 'data_type')
      .replace(/^TYPE_/, '')
      .replace('STRING', 'BYTES'),
    dims: numbers(item, 'dims'),
    optional: get(item, 'optional') === true,
  });
  const parameters = child(model, 'parameters');
  return {
    name: text(model, 'name'),
    platform: text(model, 'platform'),
    backend: text(model, 'backend'),
    maxBatchSize: number(model, 'max_batch_size'),
    decoupled: get(child(model, 'model_transaction_policy'), 'decoupled') === true,
    inputs: objects(model, 'input').map(tensor),
    outputs: objects(model, 'output').map(tensor),
    parameters: Object.fromEntries(
      Object.keys(parameters).map((key) => [key, text(child(parameters, key), 'string_value')]),
    ),
  };
}

export function modelStatistics(message: unknown): ModelStatistics[] {
  const duration = (statistics: JsonObject, key: string): StatisticDuration => {
    const value = child(statistics, key);
    return { count: number(value, 'count'), seconds: number(value, 'ns') / 1e9 };
  };
  return objects(asObject(message), 'model_stats').map((model) => {
    const statistics = child(model, 'inference_stats');
    const last = number(model, 'last_inference');
    return {
      name: text(model, 'name'),
      version: text(model, 'version'),
      inferenceCount: number(model, 'inference_count'),
      executionCount: number(model, 'execution_count'),
      lastInference: last === 0 ? undefined : new Date(last),
      success: duration(statistics, 'success'),
      fail: duration(statistics, 'fail'),
      queue: duration(statistics, 'queue'),
      compute: duration(statistics, 'compute_infer'),
    };
  });
}

/** @param models a list of the repository's models */
export function repositoryModels(models: unknown): RepositoryModel[] {
  return (Array.isArray(models) ? models : []).map((item: unknown) => {
    const model = asObject(item);
    return {
      name: text(model, 'name'),
      version: text(model, 'version'),
      state: text(model, 'state'),
      reason: text(model, 'reason'),
    };
  });
}
