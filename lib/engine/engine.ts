import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { BeamOptions } from '../generation/beam-options';
import { startConstraint } from '../generation/constraints/compiler';
import { formatDecoder } from '../generation/constraints/vocabulary';
import { decoderFor, type GenerateResult, Output, resultOf } from '../generation/output';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { Collector } from './collector';
import { Job, type Sink } from './job';
import { NO_CONTEXT } from '../tokenizer/backend';
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
}

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
  private readonly options: ResolvedOptions;
  private readonly scheduler: Scheduler;
  private arrivals = 0;
  private refused = 0;
  private draining = false;
  private disposing: Promise<void> | undefined;
  /** Tells the model that this engine is gone. */
  private readonly forget: () => void;

  /** @throws NEOX_BAD_ARGUMENT, NEOX_DISPOSED */
  constructor(
    private readonly model: LoadedModel,
    options: EngineOptions = {},
  ) {
    checkModel(model);
    this.options = resolveOptions(options, model);
    this.scheduler = new Scheduler(model, this.options);
    this.forget = model.addDependent(this);
  }

  /**
   * One request, one result: what {@link NeoXModel.generate} gives for it.
   * @throws NEOX_BAD_ARGUMENT, NEOX_PREFIX_MISMATCH, NEOX_UNSUPPORTED, NEOX_NOT_FINITE; NEOX_TOO_LONG for what can
   *   never fit; NEOX_BUSY when as many wait as may, and while the engine drains; NEOX_DISPOSED; the reason of its
   *   signal
   */
  async generate(request: EngineRequest): Promise<GenerateResult> {
    const prepared = this.prepare(request, REQUEST_KEYS);
    const collectors = Array.from({ length: prepared.n }, () => new Collector());
    const jobs = this.submit(prepared, collectors);
    try {
      const results = await Promise.all(collectors.map(({ result }) => result));
      const completions = results.flatMap((result) => result.completions);
      const [{ usage }] = results as [(typeof results)[number]];
      return resultOf(usage, completions);
    } catch (error) {
      for (const job of jobs) void this.scheduler.cancel(job, error);
      throw error;
    }
  }

  /**
   * One request, piece by piece; the texts of the pieces, joined, are the text that `generate` gives. The request is
   * under way from this call on. A stream that is not read makes its own row wait, after `maxUnread` tokens, and no
   * other. A beam search has no pieces, and so no stream.
   * @throws as `generate`, from this call where it is known by then
   */
  stream(request: Omit<EngineRequest, keyof BeamOptions>): EngineStream {
    const prepared = this.prepare(request, STREAM_REQUEST_KEYS);
    if (prepared.n !== 1) throw badArgument('n', '1 for a stream', prepared.n);
    const channel = new Channel(this.options.maxUnread, () => this.scheduler.resume(job));
    const [job] = this.submit(prepared, [channel]) as [Job];
    const { scheduler } = this;
    return new EngineStream(channel, () => scheduler.cancel(job));
  }

  /** What the engine is doing and has done. */
  stats(): EngineStats {
    const { scheduler, model, options, refused } = this;
    const { running, jobs, reserved, counts } = scheduler;
    return {
      running,
      waiting: jobs.size - running,
      kvReservedTokens: reserved,
      kvBudgetTokens: options.kvBudgetTokens,
      kvBytesPerToken: bytesPerToken(model.config, model.computeDtype),
      ...counts,
      refused,
    };
  }

  /** Refuses new requests from now on with NEOX_BUSY, and waits until the present ones have ended. */
  async drain(): Promise<void> {
    this.draining = true;
    await this.scheduler.idle();
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
    const prepared = prepareRequest(this.model, request, keys, this.options.prefixes, this.options.kvBudgetTokens);
    prepared.signal?.throwIfAborted();
    return prepared;
  }

  /** Takes the rows of a request in; from here on their sinks hear of all that happens. */
  private submit(prepared: PreparedEngineRequest, sinks: readonly Sink[]): Job[] {
    this.checkRoom(sinks.length);
    const jobs = sinks.map((sink) => this.newJob(prepared, sink));
    void this.enter(jobs, prepared);
    return jobs;
  }

  private newJob(prepared: PreparedEngineRequest, sink: Sink): Job {
    const { scheduler } = this;
    const { prompts, priority, prefix, cost, stops, settings, format, signal } = prepared;
    const context = prepared.contexts[0] ?? NO_CONTEXT;
    const decoder = format === undefined ? decoderFor(this.model, context) : formatDecoder(this.model.tokenizer);
    const output = new Output(this.model, decoder, stops, settings.logprobs >= 0);
    const promptTokens = (prompts[0] as Int32Array).length;
    const job = new Job(this.arrivals++, priority, cost, promptTokens, prefix?.prefixLength ?? 0, output, sink);
    scheduler.add(job, signal);
    return job;
  }

  /** Makes jobs ready once their prefix is in the form that attention reads and their format is compiled. */
  private async enter(jobs: readonly Job[], prepared: PreparedEngineRequest): Promise<void> {
    const { prompts, contexts, seeds, settings, beams, format } = prepared;
    try {
      const prefix = (await prepared.prefix?.load()) ?? null;
      const shared = { ...settings, seed: seeds[0] as number };
      for (const [stream, job] of jobs.entries()) {
        const constraint = format && (await startConstraint(this.model, format, settings.endIds));
        const own = { ...shared, stream };
        this.scheduler.ready(job, {
          prompt: prompts[0] as Int32Array,
          context: contexts[0],
          prefix,
          settings: own,
          beams,
          constraint,
        });
      }
    } catch (error) {
      for (const job of jobs) this.scheduler.fail(job, error);
    }
  }

  private checkRoom(more: number): void {
    const { maxRows, maxQueue } = this.options;
    if (!this.draining && this.scheduler.jobs.size + more <= maxRows + maxQueue) return;
    this.refused++;
    throw this.draining
      ? new NeoXPrefixError('NEOX_BUSY', 'The engine takes no more requests: it is drained')
      : new NeoXPrefixError(
          'NEOX_BUSY',
          `The engine has as many requests as it takes: ${maxRows} rows and ${maxQueue} that wait`,
          {
            hint: 'try again later, or raise maxQueue',
          },
        );
  }
}

function disposedError(): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_DISPOSED', 'This generation engine is disposed');
}
