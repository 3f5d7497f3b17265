import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { badArgument, checkNumber, checkOptions, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { fileError, FileReader, listFolder, makeFolder, syncFolder } from '../base/files';
import { isObject } from '../formats/json';
import type { TrainingEvent } from './events';
import { problemOf } from './read-events';
import { encodeEvent, firstWallTime, type SummaryValue } from './tfevents';

export interface TensorBoardOptions {
  /** Shown as the text `hparams/recipe`. Defaults to none. */
  recipe?: Readonly<Record<string, unknown>>;
  /**
   * When the run began, in seconds since 1970; an event's wall time is this and the event's `seconds`. Defaults to now,
   * and for {@link TensorBoardWriter.rebuild} to what the old event files say.
   */
  startTime?: number;
}

const FLUSH_BYTES = 64 * 1024;
const FLUSH_MILLISECONDS = 10_000;
/** More than the first record takes. */
const FIRST_RECORD_BYTES = 256;
const EVENT_FILE = /^events\.out\.tfevents\./;
/** A rebuild that was interrupted left it. */
const TEMPORARY = /^\.rebuild\.[0-9a-f]{12}\.tmp$/;

/** Event files of one process have different names. */
let filesMade = 0;

/**
 * Writes an event file that TensorBoard reads: `tensorboard --logdir FOLDER`. A step gives the scalars `train/loss`,
 * `train/perplexity`, `train/learning_rate`, `train/grad_norm`, `train/tokens_per_second`, `train/memory_bytes` and
 * with float16 `train/loss_scale`; an evaluation `validation/loss`, `validation/perplexity`, `validation/accuracy` and
 * one for each metric of the user's; the prefix's norms `prefix/key_norm/layer_0`, `prefix/value_norm/layer_0` and so
 * on.
 *
 * What is written is buffered for up to 10 seconds; {@link close} writes the rest.
 *
 * ```ts
 * const board = await TensorBoardWriter.create('runs/smile/tensorboard', { recipe: { learningRate: 5e-3 } });
 * // as onEvent: (event) => board.event(event)
 * await board.close();
 * ```
 */
export class TensorBoardWriter {
  private readonly buffered: Buffer[] = [];
  private bufferedBytes = 0;
  /** Seconds of the run at the last event that told them. */
  private seconds = 0;
  private writing: Promise<void> = Promise.resolve();
  private failure: Error | undefined;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  private constructor(
    /** The event file. */
    readonly path: string,
    private readonly handle: FileHandle,
    private readonly startTime: number,
  ) {}

  /**
   * Begins an event file named `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in a folder, which is created where it
   * is missing.
   * @throws NEOX_BAD_ARGUMENT, NEOX_IO
   */
  static async create(folder: string, options: TensorBoardOptions = {}): Promise<TensorBoardWriter> {
    const { place, startTime = Date.now() / 1000 } = check(folder, options);
    await makeFolder(place);
    const path = join(place, newName());
    return TensorBoardWriter.open(path, path, startTime, options);
  }

  /**
   * Replaces a run's event files by one that holds these events, and returns the writer to go on with: for a run that
   * is resumed, whose `metrics.jsonl` was cut at the step it goes on from. The old files stay until the new one is
   * whole.
   * @throws NEOX_BAD_ARGUMENT, NEOX_IO; what the iteration of `events` throws
   */
  static async rebuild(
    folder: string,
    events: Iterable<TrainingEvent, unknown, unknown> | AsyncIterable<TrainingEvent, unknown, unknown>,
    options: TensorBoardOptions = {},
  ): Promise<TensorBoardWriter> {
    const { place, startTime } = check(folder, options);
    await makeFolder(place);
    const old = (await listFolder(place)).filter((name) => EVENT_FILE.test(name));
    const began = startTime ?? (await storedStartTime(place, old)) ?? Date.now() / 1000;
    const temporary = join(place, `.rebuild.${randomBytes(6).toString('hex')}.tmp`);
    const writer = await TensorBoardWriter.open(join(place, newName()), temporary, began, options);
    try {
      for await (const event of events) {
        writer.event(event);
        if (writer.bufferedBytes >= FLUSH_BYTES) await writer.flush();
      }
      await writer.flush();
      await writer.handle.sync();
      await rename(temporary, writer.path);
      for (const name of (await listFolder(place)).filter((found) => old.includes(found) || TEMPORARY.test(found)))
        await rm(join(place, name));
      await syncFolder(place);
    } catch (error) {
      writer.closed = true;
      clearTimeout(writer.timer);
      await writer.handle.close().catch(() => undefined);
      await rm(temporary, { force: true }).catch(() => undefined);
      throw fileError(error, 'write', writer.path);
    }
    return writer;
  }

  private static async open(
    path: string,
    place: string,
    startTime: number,
    options: TensorBoardOptions,
  ): Promise<TensorBoardWriter> {
    let handle: FileHandle;
    try {
      handle = await open(place, 'wx');
    } catch (error) {
      throw fileError(error, 'write', path);
    }
    const writer = new TensorBoardWriter(path, handle, startTime);
    // TensorBoard takes only files that begin like this; the time here is what rebuild() reads.
    writer.append(encodeEvent({ wallTime: startTime, fileVersion: 'brain.Event:2' }));
    if (options.recipe !== undefined) writer.add(0, [{ tag: 'hparams/recipe', text: recipeTable(options.recipe) }]);
    return writer;
  }

  /**
   * Takes an event of a training run; those that have nothing to plot leave nothing. Never waits: a failure to write
   * shows at the next call.
   * @throws NEOX_BAD_ARGUMENT, NEOX_DISPOSED after {@link close}, NEOX_IO
   */
  event(event: TrainingEvent): void {
    const problem = problemOf(event);
    if (problem !== undefined) throw badArgument('event', 'a training event', event, problem);
    if (this.closed)
      throw new NeoXPrefixError('NEOX_DISPOSED', `The event file ${this.path} is closed`, { path: this.path });
    this.throwFailure();
    if ('seconds' in event) this.seconds = event.seconds;
    const values = valuesOf(event);
    if (values.length > 0 && 'step' in event) this.add(event.step, values);
  }

  /**
   * Writes what is buffered.
   * @throws NEOX_IO
   */
  async flush(): Promise<void> {
    this.write();
    await this.writing;
    this.throwFailure();
  }

  /**
   * Writes what is buffered and closes the file; a second call does nothing.
   * @throws NEOX_IO
   */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.write();
    await this.writing;
    try {
      await this.handle.sync();
    } catch (error) {
      this.fail(error);
    } finally {
      await this.handle.close();
    }
    this.throwFailure();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private add(step: number, values: readonly SummaryValue[]): void {
    this.append(encodeEvent({ wallTime: this.startTime + this.seconds, step, values }));
  }

  private append(record: Buffer): void {
    this.buffered.push(record);
    this.bufferedBytes += record.length;
    // The process does not stay for it: whoever ends it in order has closed the file.
    this.timer ??= setTimeout(() => this.write(), FLUSH_MILLISECONDS).unref();
    if (this.bufferedBytes >= FLUSH_BYTES) this.write();
  }

  /** One write after the other, in the order of the events. */
  private write(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.bufferedBytes === 0) return;
    const data = Buffer.concat(this.buffered);
    this.buffered.length = 0;
    this.bufferedBytes = 0;
    this.writing = this.writing.then(async () => {
      if (this.failure !== undefined) return;
      try {
        await this.handle.appendFile(data);
      } catch (error) {
        this.fail(error);
      }
    });
  }

  private fail(error: unknown): void {
    this.failure ??= fileError(error, 'write', this.path) as Error;
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure;
  }
}

function check(folder: string, options: TensorBoardOptions): { place: string; startTime: number | undefined } {
  checkString('folder', folder);
  checkOptions('options', options, ['recipe', 'startTime']);
  if (options.recipe !== undefined && !isObject(options.recipe))
    throw badArgument('recipe', 'an object', options.recipe);
  if (options.startTime !== undefined) checkNumber('startTime', options.startTime, 0);
  return { place: resolve(folder), startTime: options.startTime };
}

function newName(): string {
  const host = hostname().replace(/[^\w.-]/g, '_');
  return `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${host}.${process.pid}.${filesMade++}`;
}

/** When a run began, by the first of its event files that says so. */
async function storedStartTime(folder: string, names: readonly string[]): Promise<number | undefined> {
  for (const name of names) {
    const start = await FileReader.use(join(folder, name), (reader) =>
      reader.read(0, Math.min(reader.size, FIRST_RECORD_BYTES)),
    );
    const time = firstWallTime(start);
    if (time !== undefined) return time;
  }
  return undefined;
}

function valuesOf(event: TrainingEvent): SummaryValue[] {
  switch (event.type) {
    case 'step':
      return [
        scalar('train/loss', event.loss),
        scalar('train/perplexity', exp(event.loss)),
        scalar('train/learning_rate', event.learningRate),
        scalar('train/grad_norm', event.gradNorm),
        scalar('train/tokens_per_second', event.tokensPerSecond),
        scalar('train/memory_bytes', event.memoryBytes),
        ...(event.lossScale === undefined ? [] : [scalar('train/loss_scale', event.lossScale)]),
      ];
    case 'evaluation': {
      const { loss, perplexity, accuracy, metrics = {} } = event;
      return Object.entries({ ...metrics, loss, perplexity, accuracy }).map(([name, value]) =>
        scalar(`validation/${name}`, value),
      );
    }
    case 'prefix':
      return [
        ...event.keyNorms.map((value, layer) => scalar(`prefix/key_norm/layer_${layer}`, value)),
        ...event.valueNorms.map((value, layer) => scalar(`prefix/value_norm/layer_${layer}`, value)),
      ];
    default:
      return [];
  }
}

/**
 * What is not finite comes as `null` out of `metrics.jsonl`: it is NaN here either way, so that a file is the same when
 * it is rebuilt.
 */
function scalar(tag: string, value: number | null): SummaryValue {
  return { tag, scalar: value === null || !Number.isFinite(value) ? NaN : value };
}

function exp(value: number | null): number {
  return value === null ? NaN : Math.exp(value);
}

/** The text plugin shows Markdown. */
function recipeTable(recipe: Readonly<Record<string, unknown>>): string {
  const cell = (text: string): string =>
    text
      .replace(/\s+/g, ' ')
      .replace(/[\\`*_{}[\]()>#+.!|-]/g, '\\$&')
      .replaceAll('&', '&amp;')
      .replaceAll('<', '&lt;');
  const rows = Object.entries(recipe).map(([name, value]) => {
    const shown = typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
    return `| ${cell(name)} | ${cell(shown)} |`;
  });
  return ['| option | value |', '| --- | --- |', ...rows].join('\n');
}
