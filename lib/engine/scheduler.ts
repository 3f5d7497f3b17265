import type * as Native from '../../types/native';
import { fromNative, runNative, runNativeNow } from '../addon/run-native';
import { beamCompletions, type Completion, type EndToken } from '../generation/output';
import { scoredTokens } from '../generation/token-scores';
import type { LoadedModel } from '../model/loaded-model';
import { NO_CONTEXT } from '../tokenizer/backend';
import type { Job, RowStart } from './job';
import type { ResolvedOptions } from './engine-options';
import { AdmissionQueue } from './queue';
import { Tally } from './tally';

/**
 * Native work between two looks at what JavaScript has new; one step where that takes longer. Defaults to what lets
 * other operations of the model have their turn.
 */
const SLICE_MICROSECONDS = 20_000;

/** So long a step waits for the masks of rows with a format. */
const MASK_PATIENCE_MS = 10;

/**
 * Brings jobs into the rows of a native engine, as rows and budget allow, runs it step by step for as long as there is
 * something to do, and hands out what the rows say.
 */
export class Scheduler {
  /** All jobs that have not ended. */
  readonly jobs = new Set<Job>();
  /** Since the beginning. */
  readonly counts = {
    promptCacheBytes: 0,
    cachedTokens: 0,
    promptTokens: 0,
    generatedTokens: 0,
    completed: 0,
    aborted: 0,
    failed: 0,
    steps: 0,
    nativeSeconds: 0,
  };
  /** The same by the names of prefixes. */
  readonly tally = new Tally();
  /** Tokens of KV cache that the running jobs have reserved. */
  reserved = 0;

  private readonly handle: Native.Engine;
  private readonly cancelFlag: Native.CancelFlag;
  private readonly queue = new AdmissionQueue<Job>();
  private readonly rows: (Job | undefined)[];
  private readonly freeSlots: number[];

  /** What the next run tells the native engine. */
  private removed: number[] = [];
  private added: Native.EngineRequest[] = [];
  private onRemoved: (() => void)[] = [];

  private readonly onTokens: ((report: Native.EngineReport) => void) | undefined;
  private working = false;
  private worked: Promise<void> = Promise.resolve();
  private inNative = false;
  private disposed = false;
  private onIdle: (() => void)[] = [];

  constructor(
    private readonly model: LoadedModel,
    private readonly options: Pick<
      ResolvedOptions,
      'maxRows' | 'kvBudgetTokens' | 'prefillTokens' | 'promptCacheBytes'
    > & {
      sliceMicroseconds?: number;
      /** Hands out tokens behind each forward pass, and not only at the end of a slice. */
      tokensAtOnce?: boolean;
    },
  ) {
    const { maxRows, prefillTokens, promptCacheBytes } = options;
    this.cancelFlag = runNativeNow((addon) => addon.createCancelFlag());
    this.handle = runNativeNow((addon) => addon.createEngine(model.native, { prefillTokens, promptCacheBytes }));
    this.onTokens = options.tokensAtOnce === true ? (report) => this.apply(report) : undefined;
    this.rows = new Array<Job | undefined>(maxRows).fill(undefined);
    this.freeSlots = Array.from({ length: maxRows }, (_, i) => maxRows - 1 - i);
  }

  /** Jobs that are in a row. */
  get running(): number {
    return this.options.maxRows - this.freeSlots.length;
  }

  /** Takes the jobs of a request in, which its signal may end. */
  add(jobs: readonly Job[], signal: AbortSignal | undefined): void {
    for (const job of jobs) this.jobs.add(job);
    if (signal === undefined) return;
    // One listener for all: Node warns of a leak at the eleventh.
    const onAbort = (): void => {
      for (const job of jobs) void this.cancel(job, signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    let left = jobs.length;
    for (const job of jobs) {
      job.cleanUp = () => {
        if (--left === 0) signal.removeEventListener('abort', onAbort);
      };
    }
  }

  /** A job that is ready may be admitted from now on. */
  ready(job: Job, row: RowStart): void {
    if (job.ended) {
      row.constraint?.dispose();
      return;
    }
    job.row = row;
    const scores = row.promptLogprobs >= 0;
    if (row.settings.maxNewTokens === 0 && !(scores && row.prompt.length > 1)) {
      if (scores) job.sink.prompt([null]);
      this.finish(job, 'length', false, row.beams && [{ tokens: new Int32Array(0), finishReason: 'length', score: 0 }]);
      return;
    }
    this.queue.add(job);
    if (this.fits(this.queue.head)) this.kick();
  }

  /** Looks at a job again that waited for its reader. */
  resume(job: Job): void {
    if (!job.ended && job.granted === 0 && job.wanted > 0) this.kick();
  }

  /** Ends a job that nobody wants any more; resolves when its row is gone. */
  async cancel(job: Job, reason?: unknown): Promise<void> {
    if (job.ended) return;
    this.counts.aborted++;
    const { slot } = job;
    this.leave(job, () => job.sink.fail(reason));
    if (slot >= 0) await new Promise<void>((resolve) => this.onRemoved.push(resolve));
  }

  fail(job: Job, error: unknown): void {
    if (job.ended) return;
    this.counts.failed++;
    this.leave(job, () => job.sink.fail(error));
  }

  /** Resolves when there is no job. */
  async idle(): Promise<void> {
    if (this.jobs.size > 0) await new Promise<void>((resolve) => this.onIdle.push(resolve));
  }

  /** Ends all jobs with an error and frees the native engine. */
  async dispose(error: unknown): Promise<void> {
    this.disposed = true;
    runNativeNow((addon) => addon.cancel(this.cancelFlag));
    for (const job of this.jobs) this.fail(job, error);
    await this.worked;
    for (const resolve of this.onRemoved.splice(0)) resolve();
    await runNative(undefined, (addon) => addon.disposeEngine(this.handle));
  }

  /** @param sequences of a beam search, which has no output before */
  private finish(
    job: Job,
    finishReason: 'stop' | 'length',
    rowIsGone: boolean,
    sequences?: readonly Native.BeamResult[],
    end?: EndToken,
  ): void {
    this.counts.completed++;
    const { usage, timing } = job;
    const { rest, completion } = job.output.end(finishReason);
    if (end !== undefined && job.row?.endToken === true) completion.end = end;
    const completions = (
      sequences === undefined ? [completion] : beamCompletions(this.model, job.row?.context ?? NO_CONTEXT, sequences)
    ) as [Completion, ...Completion[]];
    this.leave(job, () => job.sink.end({ rest, completions, usage, timing }), rowIsGone);
  }

  /** Takes a job out, wherever it is, and tells its sink. */
  private leave(job: Job, tell: () => void, rowIsGone = false): void {
    job.ended = true;
    job.cleanUp();
    this.tally.add(job.prefixName, job.promptTokens, job.output.length);
    job.row?.constraint?.dispose();
    this.jobs.delete(job);
    if (job.slot < 0) {
      this.queue.remove(job);
    } else {
      if (!rowIsGone) this.removed.push(job.slot);
      this.rows[job.slot] = undefined;
      this.freeSlots.push(job.slot);
      this.reserved -= job.cost;
      job.slot = -1;
      this.kick();
    }
    tell();
    if (this.jobs.size === 0) for (const resolve of this.onIdle.splice(0)) resolve();
  }

  private fits(job: Job | undefined): job is Job & { row: RowStart } {
    return (
      job?.row !== undefined && this.freeSlots.length > 0 && this.reserved + job.cost <= this.options.kvBudgetTokens
    );
  }

  private admit(): void {
    for (let job = this.queue.head; this.fits(job); job = this.queue.head) {
      this.queue.shift();
      job.admit(this.freeSlots.pop() as number);
      this.rows[job.slot] = job;
      this.reserved += job.cost;
      const { row = -1, prompt, prefix, past, settings, beams, promptLogprobs } = job.row;
      this.added.push({ slot: job.slot, row, prompt, prefix, past, settings, beams, promptLogprobs });
    }
  }

  /** Sees to it that what is new is looked at: now, or behind the step that is under way. */
  private kick(): void {
    if (!this.working) {
      this.working = true;
      this.worked = this.work();
    } else if (this.inNative) {
      runNativeNow((addon) => addon.interruptEngine(this.handle));
    }
  }

  private async work(): Promise<void> {
    // What comes in the same turn of the event loop begins together.
    await Promise.resolve();
    for (let commands = this.nextCommands(); commands !== undefined; commands = this.nextCommands()) {
      const removed = this.onRemoved.splice(0);
      try {
        this.apply(await this.run(commands));
      } catch (error) {
        // What the native engine has of the rows is not known any more.
        for (const job of this.rows) if (job !== undefined) this.fail(job, fromNative(error));
      } finally {
        for (const resolve of removed) resolve();
      }
      await this.findMasks();
    }
    // In the same turn as the last look: whoever comes later begins anew.
    this.working = false;
  }

  /**
   * Which tokens the rows with a format may give next. They are found in other threads, all at once; a row whose format
   * takes longer than the others can wait goes on later.
   */
  private async findMasks(): Promise<void> {
    const finding: Promise<void>[] = [];
    for (const job of this.rows) {
      const constraint = job?.row?.constraint;
      if (job === undefined || constraint === undefined || constraint.mask !== undefined) continue;
      if (constraint.finding === undefined) {
        constraint.finding = constraint.findMask().catch((error: unknown) => this.fail(job, error));
        void constraint.finding.finally(() => {
          constraint.finding = undefined;
          if (!job.ended) this.kick();
        });
      }
      finding.push(constraint.finding);
    }
    if (finding.length === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, MASK_PATIENCE_MS)));
    await Promise.race([Promise.all(finding), patience]);
    clearTimeout(timer);
  }

  private async run(commands: Native.EngineCommands): Promise<Native.EngineReport> {
    this.inNative = true;
    try {
      return await this.model.track(
        runNative(undefined, (addon) => addon.engineRun(this.model.native, this.handle, commands, this.onTokens)),
      );
    } finally {
      this.inNative = false;
    }
  }

  /** What the native engine has to do next; undefined when that is nothing. */
  private nextCommands(): Native.EngineCommands | undefined {
    if (this.disposed) return undefined;
    this.admit();
    const slots: number[] = [];
    const tokens: number[] = [];
    const masks: (Int32Array | undefined)[] = [];
    let going = this.removed.length > 0;
    for (const job of this.rows) {
      if (job === undefined) continue;
      const { wanted } = job;
      if (wanted > 0) {
        job.granted += wanted;
        slots.push(job.slot);
        tokens.push(wanted);
        masks.push(job.row?.constraint?.mask);
      }
      if (job.granted > 0) going = true;
    }
    if (!going) return undefined;
    return {
      removed: Int32Array.from(this.removed.splice(0)),
      added: this.added.splice(0),
      grantSlots: Int32Array.from(slots),
      grantTokens: Int32Array.from(tokens),
      grantMasks: masks,
      sliceMicroseconds: this.options.sliceMicroseconds ?? SLICE_MICROSECONDS,
      cancel: this.cancelFlag,
    };
  }

  private apply(report: Native.EngineReport): void {
    const { started, prompts, tokens, scores, ended, counts } = { ...report, counts: this.counts };
    for (let i = 0; i < started.length; i += 2) {
      const cached = started[i + 1] as number;
      counts.cachedTokens += cached;
      const job = this.rows[started[i] as number];
      if (job !== undefined) job.cachedTokens = cached;
    }
    for (const { slot, scores: own } of prompts) {
      const job = this.rows[slot];
      if (job?.row !== undefined) job.sink.prompt([null, ...scoredTokens(job.row.prompt.subarray(1), own)]);
    }
    // A row that JavaScript ended meanwhile is not there any more, and whatever else it said goes nowhere.
    for (let i = 0; i < tokens.length; i += 2) {
      const job = this.rows[tokens[i] as number];
      if (job !== undefined) this.take(job, tokens[i + 1] as number, scores[i / 2]);
    }
    counts.generatedTokens += tokens.length / 2;
    counts.steps += report.steps;
    counts.promptTokens += report.promptTokens;
    counts.promptCacheBytes = report.promptCacheBytes;
    counts.nativeSeconds += report.microseconds / 1e6;
    for (const { slot, finishReason, sequences, error, token, scores: own } of ended) {
      for (const sequence of sequences ?? []) counts.generatedTokens += sequence.tokens.length;
      const job = this.rows[slot];
      if (job === undefined) continue;
      if (error === undefined) this.finish(job, finishReason, true, sequences, endToken(token, own));
      else this.fail(job, fromNative(error));
    }
  }

  private take(job: Job, token: number, scores: Native.TokenScores | undefined): void {
    job.takeToken();
    job.sink.piece(job.output.push(token, scores));
    if (job.output.stop !== undefined) this.finish(job, 'stop', false);
    else job.row?.constraint?.accept(token);
  }
}

function endToken(token: number | undefined, scores: Native.TokenScores | undefined): EndToken | undefined {
  if (token === undefined) return undefined;
  const logprob = scores && scoredTokens([token], scores)[0];
  return { token, ...(logprob !== undefined && { logprob }) };
}
