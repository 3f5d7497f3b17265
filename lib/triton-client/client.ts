import { badArgument, checkOptions, checkSignal, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import {
  type ModelConfig,
  modelConfig,
  type ModelMetadata,
  modelMetadata,
  type ModelStatistics,
  modelStatistics,
  type RepositoryModel,
  repositoryModels,
  type ServerMetadata,
  serverMetadata,
} from '../inference-protocol/descriptions';
import {
  FINAL_RESPONSE,
  type InferParameters,
  type InferRequestMessage,
  WANTS_FINAL_RESPONSE,
} from '../inference-protocol/messages';
import { checkTensor, type Tensor } from '../inference-protocol/tensors';
import { isTokenIds, type TokenIds } from '../model/rows';
import { Tokenizer } from '../tokenizer/tokenizer';
import { GrpcTransport } from './grpc-transport';
import { HttpTransport } from './http-transport';
import { TaskTable, type TritonTasks } from './task-table';
import { checkGenerateOptions, type TritonGenerateOptions } from './text-options';
import { type TextRequest, textRequest } from './text-request';
import { GeneratedText, readOutputs, textResults, type TritonPiece, type TritonResult } from './text-result';
import {
  type Call,
  type CallOptions,
  checkEndpoint,
  checkTimeout,
  type EndpointOptions,
  type Transport,
} from './transport';

/** Which model of a server to ask, and how. */
export interface TritonClientOptions extends EndpointOptions {
  /** The model. Defaults to `'fastertransformer'`. */
  model?: string;
  /** Its version. Defaults to the newest that the server has. */
  version?: string;
  /** The model's tokenizer, or its folder, which is read with the first prompt. Defaults to none: ids only. */
  tokenizer?: Tokenizer | string;
  /** The model's tasks. Defaults to what the server tells of them, which {@link exportTritonRepository} wrote. */
  tasks?: TritonTasks;
  /** Milliseconds that a call may take; 0: any. Defaults to `60000`. */
  timeoutMs?: number;
}

/** A request for any model of a server. */
export interface InferRequest extends CallOptions {
  /** Its inputs by name. */
  inputs: Readonly<Record<string, Tensor>>;
  /** The outputs that are wanted. Defaults to all. */
  outputs?: readonly string[];
  /** The model. Defaults to the client's. */
  model?: string;
  /** Its version. Defaults to the client's, for its model. */
  version?: string;
  /** Told back in the response. Defaults to none. */
  id?: string;
  /** What the model takes beside its inputs. Defaults to none. */
  parameters?: InferParameters;
}

/** What a model has answered. */
export interface InferResponse {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly model: string;
  readonly version: string;
  readonly id: string;
  readonly parameters: InferParameters;
}

/** The models that a server has, and has loaded; servers allow it with `--model-control-mode=explicit`. */
export interface TritonRepository {
  /** All models. */
  index(options?: CallOptions): Promise<RepositoryModel[]>;
  /** Loads a model, or loads it again: tasks that were added are there then. */
  load(model: string, options?: CallOptions): Promise<void>;
  unload(model: string, options?: CallOptions): Promise<void>;
}

/**
 * A client of Triton Inference Server, and of every server of the Open Inference Protocol (KServe v2), over gRPC or
 * HTTP. `generate` and `stream` speak to a model of the fastertransformer backend, as {@link exportTritonRepository}
 * writes it: tasks by name, prompts as text, and its peculiarities seen to.
 *
 * A client opens its connections with the first call and may be used by many at once. Nothing is tried twice.
 *
 * ```ts
 * await using triton = new TritonClient('grpc://gpu:8001', { tokenizer: 'models/japanese-gpt-neox-small' });
 * const { text } = await triton.generate('今日は', { task: 'smile', topK: 1 });
 * ```
 */
export class TritonClient {
  /** The models of the server. */
  readonly repository: TritonRepository;
  private readonly transport: Transport;
  private readonly options: Readonly<TritonClientOptions>;
  private readonly model: string;
  private readonly version: string;
  private readonly timeoutMs: number;
  private tokenizing: Promise<Tokenizer | undefined> | undefined;
  private table: TaskTable | undefined;

  /**
   * @param url `grpc://HOST:8001`, `grpcs://`, `http://HOST:8000` or `https://`
   * @throws NEOX_BAD_ARGUMENT
   */
  constructor(url: string, options: TritonClientOptions = {}) {
    checkOptions('options', options, [
      ...['model', 'version', 'tokenizer', 'tasks', 'headers', 'timeoutMs', 'compression', 'tls'],
    ]);
    const { headers, compression, tls } = options;
    const endpoint = checkEndpoint(url, {
      ...(headers !== undefined && { headers }),
      ...(compression !== undefined && { compression }),
      ...(tls !== undefined && { tls }),
    });
    this.model = checkString('model', options.model ?? 'fastertransformer');
    this.version = options.version === undefined ? '' : checkString('version', options.version);
    this.timeoutMs = checkTimeout(options.timeoutMs ?? 60_000);
    const { tokenizer } = options;
    if (tokenizer !== undefined && !(tokenizer instanceof Tokenizer)) checkString('tokenizer', tokenizer);
    this.options = options;
    const isGrpc = endpoint.url.protocol.startsWith('grpc');
    this.transport = isGrpc ? new GrpcTransport(endpoint) : new HttpTransport(endpoint);
    this.repository = {
      index: async (call) => repositoryModels(await this.transport.index(this.call(call))),
      load: async (model, call) => {
        await this.transport.load(checkString('model', model), this.call(call));
        // What the server tells of its tasks may be other ones now.
        if (model === this.model) this.table = undefined;
      },
      unload: (model, call) => this.transport.unload(checkString('model', model), this.call(call)),
    };
  }

  /**
   * Resolves when the server is live and ready, and the model is.
   * @throws NEOX_REMOTE_UNAVAILABLE that says which is not; NEOX_REMOTE
   */
  async ready(options?: CallOptions): Promise<void> {
    const call = this.call(options);
    const state = async (what: string, is: Promise<boolean>): Promise<void> => {
      if (await is) return;
      throw new NeoXPrefixError('NEOX_REMOTE_UNAVAILABLE', `${what} is not ready`);
    };
    await state('The server', this.transport.live(call));
    await state('The server is live, and', this.transport.ready(call));
    await state(
      `The server is ready, and the model ${this.model}`,
      this.transport.modelReady(this.model, this.version, call),
    );
  }

  /**
   * The text that follows a prompt.
   * @throws NEOX_BAD_ARGUMENT for what FasterTransformer fails at, before anything is sent; NEOX_REMOTE;
   *   NEOX_REMOTE_UNAVAILABLE; the signal's reason
   */
  generate(prompt: string | TokenIds, options?: TritonGenerateOptions): Promise<TritonResult>;
  /** The texts that follow prompts, in one batch. Rows may have tasks and options of their own. */
  generate(prompts: readonly (string | TokenIds)[], options?: TritonGenerateOptions): Promise<TritonResult[]>;
  async generate(
    prompts: string | TokenIds | readonly (string | TokenIds)[],
    options: TritonGenerateOptions = {},
  ): Promise<TritonResult | TritonResult[]> {
    const isOne = typeof prompts === 'string' || (isTokenIds(prompts) && prompts.length > 0);
    if (!isOne && (!Array.isArray(prompts) || prompts.length === 0))
      throw badArgument('prompts', 'a prompt, or an array of at least one', prompts);
    const { request, tokenizer, call } = await this.prepare(
      isOne ? [prompts] : (prompts as readonly unknown[]),
      options,
    );
    const { outputs } = await this.transport.infer(this.message(request), call);
    const results = textResults(outputs, request, tokenizer);
    return isOne ? (results[0] as TritonResult) : results;
  }

  /**
   * The text that follows a prompt, as it comes; the texts of the pieces, joined, are that of `generate`. Over gRPC,
   * and from a model that is decoupled: another one gives all of it at the end. Leaving the loop cancels the call.
   * @throws as `generate`, from the loop; NEOX_UNSUPPORTED over HTTP
   */
  async *stream(
    prompt: string | TokenIds,
    options: TritonGenerateOptions = {},
  ): AsyncGenerator<TritonPiece, void, undefined> {
    const { request, tokenizer, call } = await this.prepare([prompt], options);
    if (request.beamWidth > 1) throw badArgument('beamWidth', '1 for a stream', request.beamWidth);
    const text = new GeneratedText(request, 0, tokenizer);
    const message = this.message(request, { [WANTS_FINAL_RESPONSE]: true });
    let taken = 0;
    for await (const item of this.transport.stream(message, call)) {
      if ('error' in item) throw new NeoXPrefixError('NEOX_REMOTE', `The server answered an error: ${item.error}`);
      const { outputs, parameters } = item.response;
      // Each response has all tokens so far.
      const tokens = outputs.size === 0 ? [] : readOutputs(outputs, request).newTokens(0, 0);
      for (const token of tokens.slice(taken)) {
        if (text.ended) break;
        const before = text.tokens.length;
        const piece = text.push(token);
        if (text.tokens.length > before) yield { text: piece, token };
      }
      taken = Math.max(taken, tokens.length);
      if (text.ended || parameters[FINAL_RESPONSE] === true) break;
    }
    const rest = text.finish();
    const { finishReason, stop } = text.completion();
    yield { text: rest, finishReason, ...(stop !== undefined && { stop }) };
  }

  /**
   * Asks any model: tensors in, tensors out. `tensor('FP32', [[1, 2]])` makes one.
   * @throws NEOX_BAD_ARGUMENT, NEOX_REMOTE, NEOX_REMOTE_UNAVAILABLE; the signal's reason
   */
  async infer(request: InferRequest): Promise<InferResponse> {
    checkOptions('request', request, [
      ...['inputs', 'outputs', 'model', 'version', 'id', 'parameters', 'signal', 'timeoutMs'],
    ]);
    const { inputs, outputs = [], model = this.model, id = '', parameters = {} } = request;
    if (inputs === undefined) throw badArgument('inputs', 'tensors by name', inputs);
    const named = checkOptions('inputs', inputs, Object.keys(inputs));
    const version = request.version ?? (model === this.model ? this.version : '');
    const { outputs: answered, ...rest } = await this.transport.infer(
      {
        model: checkString('model', model),
        version,
        id,
        parameters,
        inputs: new Map(Object.entries(named).map(([name, value]) => [name, checkTensor(`inputs.${name}`, value)])),
        outputs: outputs.map((name, i) => ({ name: checkString(`outputs[${i}]`, name), parameters: {} })),
      },
      this.call({
        ...(request.signal !== undefined && { signal: request.signal }),
        ...(request.timeoutMs !== undefined && { timeoutMs: request.timeoutMs }),
      }),
    );
    return { ...rest, outputs: Object.fromEntries(answered) };
  }

  /** What the server says of itself. */
  async server(options?: CallOptions): Promise<ServerMetadata> {
    return serverMetadata(await this.transport.serverMetadata(this.call(options)));
  }

  /** The model's inputs and outputs, as they are on the wire. */
  async metadata(options?: CallOptions): Promise<ModelMetadata> {
    return modelMetadata(await this.transport.modelMetadata(this.model, this.version, this.call(options)));
  }

  /** The model's configuration, as its config.pbtxt and the server's defaults have it. */
  async config(options?: CallOptions): Promise<ModelConfig> {
    return modelConfig(await this.transport.modelConfig(this.model, this.version, this.call(options)));
  }

  /** What the model has done; one entry a version. */
  async statistics(options?: CallOptions): Promise<ModelStatistics[]> {
    return modelStatistics(await this.transport.statistics(this.model, this.version, this.call(options)));
  }

  /** Closes the connections. Calls in flight end, and later ones open new ones. */
  close(): Promise<void> {
    return this.transport.close();
  }

  /** {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private call(options: CallOptions = {}): Call {
    checkOptions('options', options, ['signal', 'timeoutMs']);
    const signal = checkSignal('signal', options.signal);
    return { signal, timeoutMs: options.timeoutMs === undefined ? this.timeoutMs : checkTimeout(options.timeoutMs) };
  }

  private async prepare(
    prompts: readonly unknown[],
    options: TritonGenerateOptions,
  ): Promise<{ request: TextRequest; tokenizer: Tokenizer | undefined; call: Call }> {
    const checked = checkGenerateOptions(options, prompts.length);
    const { signal, timeoutMs = this.timeoutMs } = options;
    const call = { signal, timeoutMs };
    signal?.throwIfAborted();
    const [tokenizer, tasks] = await Promise.all([this.tokenizer(), this.tasks(call)]);
    return { request: textRequest(prompts, checked, tasks, tokenizer), tokenizer, call };
  }

  /** Loaded once; what failed is tried again by the next call. */
  private tokenizer(): Promise<Tokenizer | undefined> {
    const { tokenizer } = this.options;
    if (typeof tokenizer !== 'string') return Promise.resolve(tokenizer);
    this.tokenizing ??= Tokenizer.load(tokenizer).catch((error: unknown) => {
      this.tokenizing = undefined;
      throw error;
    });
    return this.tokenizing;
  }

  private async tasks(call: Call): Promise<TaskTable> {
    // Of two first calls at once each asks: sharing the question would share its signal, too.
    this.table ??= await TaskTable.of(this.options.tasks, () => this.config(given(call)));
    return this.table;
  }

  private message({ inputs }: TextRequest, parameters: InferParameters = {}): InferRequestMessage {
    return { model: this.model, version: this.version, id: '', parameters, inputs, outputs: [] };
  }
}

function given({ signal, timeoutMs }: Call): CallOptions {
  return { timeoutMs, ...(signal !== undefined && { signal }) };
}
