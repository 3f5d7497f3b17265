import { checkNumber, checkOptions } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { BeamOptions } from '../generation/beam-options';
import { startConstraint } from '../generation/constraints/compiler';
import { formatDecoder } from '../generation/constraints/vocabulary';
import { decoderFor, type GenerateResult, Output, resultOf } from '../generation/output';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { NO_CONTEXT } from '../tokenizer/backend';
import { type Collected, Collector } from './collector';
import { Job, type RequestTiming, type Sink } from './job';
import { bytesPerToken, type EngineOptions, type ResolvedOptions, resolveOptions } from './engine-options';
import {
  type EngineRequest,
  type PreparedEngineRequest,
  prepareRequest,
  REQUEST_KEYS,
  STREAM_REQUEST_KEYS,
} from './engine-request';
import { Scheduler } from './scheduler';
import { Channel, EngineStream } from './stream';
import type { PrefixUse } from './tally';

/** What an engine is doing and has done. */
export interface EngineStats {
  /** Requests that run, those included whose stream nobody reads. */
  running: number;
  /** Requests that wait to be admitted. */
  waiting: number;
  /** Tokens of KV cache that running requests have reserved. */
  kvReservedTokens: number;
  kvBudgetTokens: number;
  kvBytesPerToken: number;
  promptCacheBytes: number;
  /** Tokens of prompts that the prompt cache had, since the beginning. */
  cachedTokens: number;
  /** Tokens of prompts that went through the model. */
  promptTokens: number;
  /** Tokens that were generated, those of aborted requests included; of a beam search, those that it gave. */
  generatedTokens: number;
  /** Requests by how they ended. */
  completed: number;
  aborted: number;
  failed: number;
  /** Refused because there were too many. */
  refused: number;
  /** Forward passes. */
  steps: number;
  /** Seconds that the model's thread worked for the engine. */
  nativeSeconds: number;
  /** What ended so far, by the names of prefixes. */
  prefixes: PrefixUse[];
}

/** What an engine gives for a request. */
export interface EngineResult extends GenerateResult {
  /** How long it took; of several texts the longest times. */
  timing: RequestTiming;
}

/** What a stream can be asked for: all but a beam search, which has no pieces. */
export type EngineStreamRequest = Omit<EngineRequest, keyof BeamOptions>;

/** How {@link GenerationEngine.drain} ends. */
export interface DrainOptions {
  /** Seconds until what has not ended by itself is ended with NEOX_BUSY. Defaults to no limit. */
  seconds?: number;
}

/** The longest that a timer of Node can wait. */
const MOST_SECONDS = 2 ** 31 / 1e3 - 1;

/**
 * Generates for many requests at once over one model, beam searches among them: each joins the running batch as soon as
 * there is room and leaves it when it ends, with its own prefix, sampling options, seed and end. A request gives the
 * same bytes alone and in any mix, with the prompt cache warm or cold (with the `native` and `onednn` backends; with
 * `aten` up to rounding).
 *
 * Other operations of the model go on between the engine's steps.
 *
 * ```ts
 * await using engine = new GenerationEngine(model, { maxRows: 16 });
 * const [a, b] = await Promise.all([engine.generate({ prompt: 'こんにちは', prefix: smile }), engine.generate({ prompt:
 * '今日は' })]);
 * ```
 */
export class GenerationEngine {
  /**
   * Its options, completed.
   * @internal
   */
  readonly settings: Readonly<ResolvedOptions>;
  private readonly scheduler: Scheduler;
  private arrivals = 0;
  private refused = 0;
  private draining = false;
  private disposing: Promise<void> | undefined;
  /** Tells the model that this engine is gone. */
  private readonly forget: () => void;

  /** @throws NEOX_BAD_ARGUMENT, NEOX_DISPOSED */
  constructor(
    /** The model that it generates with. */
    readonly model: LoadedModel,
    options: EngineOptions = {},
  ) {
    checkModel(model);
    this.settings = resolveOptions(options, model);
    this.scheduler = new Scheduler(model, this.settings);
    this.forget = model.addDependent(this);
  }

  /**
   * One request, one result: what {@link NeoXModel.generate} gives for it. Of several requests all are taken or none,
   * and when one fails, the others end.
   * @throws NEOX_BAD_ARGUMENT, NEOX_UNKNOWN_PREFIX, NEOX_PREFIX_MISMATCH, NEOX_UNSUPPORTED, NEOX_NOT_FINITE;
   *   NEOX_TOO_LONG for what can never fit; NEOX_BUSY when as many wait as may, and while the engine drains;
   *   NEOX_DISPOSED; the reason of its signal
   */
  generate(request: EngineRequest): Promise<EngineResult>;
  generate(requests: readonly EngineRequest[]): Promise<EngineResult[]>;
  async generate(request: EngineRequest | readonly EngineRequest[]): Promise<EngineResult | EngineResult[]> {
    const prepared = listOf(request).map((one) => this.prepare(one, REQUEST_KEYS));
    const collectors = prepared.map(({ n }) => Array.from({ length: n }, (_, i) => new Collector(undefined, i === 0)));
    const jobs = this.submit(prepared, collectors);
    try {
      const rows = await Promise.all(collectors.map((own) => Promise.all(own.map(({ result }) => result))));
      const results = rows.map(joined);
      return Array.isArray(request) ? results : (results[0] as EngineResult);
    } catch (error) {
      for (const job of jobs) void this.scheduler.cancel(job, error);
      throw error;
    }
  }

  /**
   * One request or several, piece by piece; the texts of a text's pieces, joined, are the text that `generate` gives.
   * They are under way from this call on. A stream that is not read makes its own rows wait, after `maxUnread` tokens
   * of each, and no other. A beam search has no pieces, and so no stream.
   * @throws as `generate`, from this call where it is known by then
   */
  stream(request: EngineStreamRequest | readonly EngineStreamRequest[]): EngineStream {
    const prepared = listOf(request).map((one) => this.prepare(one, STREAM_REQUEST_KEYS));
    const { scheduler } = this;
    let jobs: Job[] = [];
    const stop = async (error?: unknown): Promise<void> => {
      await Promise.all(jobs.map((job) => scheduler.cancel(job, error)));
    };
    const channel = new Channel((error) => void stop(error));
    let count = 0;
    const sinks = prepared.map(({ n }) =>
      Array.from({ length: n }, () => {
        const index = count++;
        return channel.open(index, this.settings.maxUnread, () => scheduler.resume(jobs[index] as Job));
      }),
    );
    jobs = this.submit(prepared, sinks);
    return new EngineStream(channel, () => stop());
  }

  /** What the engine is doing and has done. */
  stats(): EngineStats {
    const { scheduler, model, settings, refused } = this;
    const { running, jobs, reserved, counts } = scheduler;
    return {
      running,
      waiting: jobs.size - running,
      kvReservedTokens: reserved,
      kvBudgetTokens: settings.kvBudgetTokens,
      kvBytesPerToken: bytesPerToken(model.config, model.computeDtype),
      ...counts,
      refused,
      prefixes: scheduler.tally.list(),
    };
  }

  /**
   * Refuses new requests from now on with NEOX_BUSY, and waits until the present ones have ended, which a stream that
   * nobody reads does not do by itself: `seconds` sets a limit.
   * @throws NEOX_BAD_ARGUMENT
   */
  async drain(options: DrainOptions = {}): Promise<void> {
    checkOptions('options', options, ['seconds']);
    const { seconds } = options;
    if (seconds !== undefined) checkNumber('seconds', seconds, 0, MOST_SECONDS);
    this.draining = true;
    const end = (): void => {
      const error = drainedError(`The engine was drained, and this request had not ended after ${seconds} s`);
      for (const job of this.scheduler.jobs) void this.scheduler.cancel(job, error);
    };
    const timer = seconds === undefined ? undefined : setTimeout(end, seconds * 1e3);
    try {
      await this.scheduler.idle();
      // A result takes some promises more: who waits for one has it before who waits for the drain goes on.
      await new Promise(setImmediate);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Ends all requests with NEOX_DISPOSED and frees their memory and the prompt cache. Repeated calls give the same
   * promise. Disposing the model does it, too.
   */
  dispose(): Promise<void> {
    this.disposing ??= this.scheduler.dispose(disposedError()).finally(this.forget);
    return this.disposing;
  }

  /** {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private prepare(request: EngineRequest, keys: readonly (keyof EngineRequest)[]): PreparedEngineRequest {
    if (this.disposing !== undefined) throw disposedError();
    const prepared = prepareRequest(this.model, request, keys, this.settings.prefixes, this.settings.kvBudgetTokens);
    prepared.signal?.throwIfAborted();
    return prepared;
  }

  /** Takes the rows of all requests in, or of none; from here on their sinks hear of all that happens. */
  private submit(prepared: readonly PreparedEngineRequest[], sinks: readonly (readonly Sink[])[]): Job[] {
    this.checkRoom(sinks.flat().length);
    return prepared.flatMap((request, i) => {
      const jobs = (sinks[i] ?? []).map((sink) => this.newJob(request, sink));
      this.scheduler.add(jobs, request.signal);
      void this.enter(jobs, request);
      return jobs;
    });
  }

  private newJob(prepared: PreparedEngineRequest, sink: Sink): Job {
    const { prompts, priority, prefix, prefixName, cost, stops, settings, format } = prepared;
    const context = prepared.contexts[0] ?? NO_CONTEXT;
    const decoder = format === undefined ? decoderFor(this.model, context) : formatDecoder(this.model.tokenizer);
    const output = new Output(this.model, decoder, stops, settings.logprobs >= 0);
    const promptTokens = (prompts[0] as Int32Array).length;
    const prefixTokens = prefix?.prefixLength ?? 0;
    return new Job(this.arrivals++, priority, cost, promptTokens, prefixTokens, output, sink, prefixName);
  }

  /** Makes jobs ready once their prefix is in the form that attention reads and their format is compiled. */
  private async enter(jobs: readonly Job[], prepared: PreparedEngineRequest): Promise<void> {
    const { prompts, contexts, seeds, settings, beams, format, endToken, promptLogprobs = -1 } = prepared;
    try {
      const prefix = (await prepared.prefix?.load()) ?? null;
      const shared = { ...settings, seed: seeds[0] as number };
      for (const [stream, job] of jobs.entries()) {
        const constraint = format && (await startConstraint(this.model, format, settings.endIds, prepared.signal));
        const own = { ...shared, stream };
        const prompt = prompts[0] as Int32Array;
        this.scheduler.ready(job, {
          prompt,
          context: contexts[0],
          prefix,
          settings: own,
          beams,
          constraint,
          endToken,
          promptLogprobs: job.sink.wantsPrompt ? promptLogprobs : -1,
        });
      }
    } catch (error) {
      for (const job of jobs) this.scheduler.fail(job, error);
    }
  }

  private checkRoom(more: number): void {
    const { maxRows, maxQueue } = this.settings;
    if (!this.draining && this.scheduler.jobs.size + more <= maxRows + maxQueue) return;
    this.refused++;
    if (this.draining) throw drainedError('The engine takes no more requests: it is drained');
    throw new NeoXPrefixError(
      'NEOX_BUSY',
      `The engine has as many requests as it takes: ${maxRows} rows and ${maxQueue} that wait`,
      { hint: 'try again later, or raise maxQueue', reason: 'full' },
    );
  }
}

function listOf<T>(request: T | readonly T[]): readonly T[] {
  return Array.isArray(request) ? (request as readonly T[]) : [request as T];
}

/** The result of a request, of what its rows gave. */
function joined(rows: readonly Collected[]): EngineResult {
  const [{ usage, promptLogprobs }] = rows as readonly [Collected];
  const most = (part: keyof RequestTiming): number => Math.max(...rows.map(({ timing }) => timing[part]));
  return {
    ...resultOf(
      usage,
      rows.flatMap(({ completions }) => completions),
    ),
    ...(promptLogprobs !== undefined && { promptLogprobs }),
    timing: {
      queuedSeconds: most('queuedSeconds'),
      prefillSeconds: most('prefillSeconds'),
      decodeSeconds: most('decodeSeconds'),
    },
  };
}

function drainedError(message: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BUSY', message, { reason: 'drained' });
}

function disposedError(): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_DISPOSED', 'This generation engine is disposed');
}
