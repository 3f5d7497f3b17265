import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { packageVersion } from '../../base/package';
import type { GenerationEngine } from '../../engine/engine';
import type { PrefixStore } from '../../engine/prefix-store';
import type { InferRequestMessage, InferResponseMessage } from '../../inference-protocol/messages';
import { FasterTransformerModel, type FasterTransformerOptions } from './fastertransformer-model';
import { askedOutputs, checkNames, inWireNames, type Outputs, type ServedModel, type TensorSpec } from './served-model';
import { TextModel } from './text-model';

/** What the protocol is spoken over. */
export interface InferenceHost {
  readonly engine: GenerationEngine;
  /** The store of the engine: each name is a model. */
  readonly prefixes: PrefixStore | undefined;
  /** The base model's name. */
  readonly baseName: string;
  /** The model's own end-of-sequence token. */
  readonly endId: number | undefined;
  readonly fasterTransformer: FasterTransformerOptions | undefined;
  /** Whether new requests are taken. */
  isReady(): boolean;
  /** Loads a prefix again or anew, and removes one; undefined where nobody may. */
  readonly repository: { load(name: string): Promise<void>; unload(name: string): Promise<void> } | undefined;
}

/** Extensions of the protocol, by Triton's names. */
const EXTENSIONS = [
  'binary_tensor_data',
  'generate',
  'model_configuration',
  'model_repository',
  'parameters',
  'statistics',
];
const VERSION = '1';

interface Counts {
  success: number;
  successNanoseconds: number;
  fail: number;
  failNanoseconds: number;
  last: number;
}

/** The Open Inference Protocol, whatever it is carried by. */
export class InferenceService {
  private readonly counts = new Map<string, Counts>();

  constructor(readonly host: InferenceHost) {}

  serverMetadata(): { name: string; version: string; extensions: readonly string[] } {
    return { name: 'neox-prefix', version: packageVersion(), extensions: EXTENSIONS };
  }

  /** Names of all models, the base model first. */
  names(): string[] {
    const { prefixes, baseName, fasterTransformer } = this.host;
    const names = [baseName, ...(prefixes?.list() ?? []).map(({ name }) => name)];
    return fasterTransformer === undefined ? names : [...names, fasterTransformer.name ?? 'fastertransformer'];
  }

  isModelReady(name: string, version: string): boolean {
    return this.host.isReady() && this.names().includes(name) && isVersion(version);
  }

  modelMetadata(name: string, version: string): object {
    const model = this.model(name, version);
    const tensor = ({ name: own, datatype, dims }: TensorSpec): object => ({
      name: own,
      datatype,
      shape: model.maxBatchSize > 0 ? [-1, ...dims] : dims,
    });
    return {
      name: model.name,
      versions: [VERSION],
      platform: model.platform,
      inputs: model.inputs.map(tensor),
      outputs: model.outputs.map(tensor),
    };
  }

  modelConfig(name: string, version: string): object {
    const model = this.model(name, version);
    const type = (datatype: string): string => `TYPE_${datatype === 'BYTES' ? 'STRING' : datatype}`;
    return {
      name: model.name,
      platform: model.platform,
      backend: model.backend,
      max_batch_size: model.maxBatchSize,
      input: model.inputs.map(({ name: own, datatype, dims, optional }) => ({
        name: own,
        data_type: type(datatype),
        dims,
        optional,
      })),
      output: model.outputs.map(({ name: own, datatype, dims }) => ({ name: own, data_type: type(datatype), dims })),
      parameters: Object.fromEntries(
        Object.entries(model.parameters).map(([key, value]) => [key, { string_value: value }]),
      ),
      model_transaction_policy: { decoupled: model.decoupled },
    };
  }

  /** What a model reads of a request. */
  inputsOf(name: string, version: string): readonly TensorSpec[] {
    return this.model(name, version).inputs;
  }

  /** @param name ''; of all models */
  statistics(name: string, version: string): object {
    const known = this.names();
    // A prefix that is gone takes its counts along.
    for (const counted of this.counts.keys()) if (!known.includes(counted)) this.counts.delete(counted);
    if (name !== '') this.model(name, version);
    return { model_stats: (name === '' ? known : [name]).map((each) => this.statisticsOf(each)) };
  }

  /** @param ready only models that are */
  index(ready: boolean): object[] {
    const state = this.host.isReady() ? 'READY' : 'UNAVAILABLE';
    const models = this.names().map((name) => ({ name, version: VERSION, state, reason: '' }));
    return ready ? models.filter((model) => model.state === 'READY') : models;
  }

  async load(name: string): Promise<void> {
    await this.repository().load(name);
  }

  async unload(name: string): Promise<void> {
    if (name === this.host.baseName) throw badArgument('model_name', 'a prefix, not the base model,', name);
    if (!this.names().includes(name)) throw unknownModel(name);
    await this.repository().unload(name);
  }

  async infer(request: InferRequestMessage, signal: AbortSignal): Promise<InferResponseMessage> {
    const model = this.model(request.model, request.version);
    return this.counted(model, async () => {
      checkNames(model, request);
      return responseOf(request, await model.infer(request, signal));
    });
  }

  /** Several responses to a request. Leaving the loop frees its row. */
  async *stream(
    request: InferRequestMessage,
    signal: AbortSignal,
  ): AsyncGenerator<InferResponseMessage, void, undefined> {
    const model = this.model(request.model, request.version);
    const started = performance.now();
    let succeeded = false;
    try {
      checkNames(model, request);
      for await (const outputs of model.stream(request, signal)) yield responseOf(request, outputs);
      succeeded = true;
    } catch (error) {
      throw inWireNames(error, model);
    } finally {
      this.count(model.name, succeeded, started);
    }
  }

  private model(name: string, version: string): ServedModel {
    const { engine, prefixes, baseName, fasterTransformer, endId } = this.host;
    if (!isVersion(version)) throw unknownModel(`${name}, version ${version}`);
    if (name === baseName) return new TextModel(name, engine, undefined);
    if (prefixes?.has(name) === true) return new TextModel(name, engine, name);
    if (fasterTransformer !== undefined && name === (fasterTransformer.name ?? 'fastertransformer'))
      return new FasterTransformerModel(engine, fasterTransformer, endId);
    throw unknownModel(name);
  }

  private repository(): NonNullable<InferenceHost['repository']> {
    const { repository } = this.host;
    if (repository !== undefined) return repository;
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', 'This server loads no models at run time');
  }

  private async counted<T>(model: ServedModel, work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      const result = await work();
      this.count(model.name, true, started);
      return result;
    } catch (error) {
      this.count(model.name, false, started);
      throw inWireNames(error, model);
    }
  }

  private count(name: string, succeeded: boolean, started: number): void {
    const counts = this.counts.get(name) ?? {
      success: 0,
      successNanoseconds: 0,
      fail: 0,
      failNanoseconds: 0,
      last: 0,
    };
    const nanoseconds = Math.round((performance.now() - started) * 1e6);
    if (succeeded) {
      counts.success++;
      counts.successNanoseconds += nanoseconds;
    } else {
      counts.fail++;
      counts.failNanoseconds += nanoseconds;
    }
    counts.last = Date.now();
    this.counts.set(name, counts);
  }

  private statisticsOf(name: string): object {
    const counts = this.counts.get(name);
    const none = { count: 0, ns: 0 };
    const success = { count: counts?.success ?? 0, ns: counts?.successNanoseconds ?? 0 };
    return {
      name,
      version: VERSION,
      last_inference: counts?.last ?? 0,
      inference_count: success.count,
      execution_count: success.count,
      inference_stats: {
        success,
        fail: { count: counts?.fail ?? 0, ns: counts?.failNanoseconds ?? 0 },
        queue: none,
        compute_input: none,
        compute_infer: success,
        compute_output: none,
      },
      batch_stats: [],
    };
  }
}

function isVersion(version: string): boolean {
  return version === '' || version === VERSION;
}

function unknownModel(name: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_UNKNOWN_PREFIX', `Request for unknown model: '${name}' is not found`);
}

function responseOf(request: InferRequestMessage, outputs: Outputs): InferResponseMessage {
  return {
    model: request.model,
    version: VERSION,
    id: request.id,
    parameters: {},
    outputs: askedOutputs(request, outputs),
  };
}
