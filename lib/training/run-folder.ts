import { type FileHandle, open, rm, stat, truncate } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { badArgument } from '../base/arguments';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { fileError, kindOf, listFolder, makeFolder, readSmallFile, sha256File, writeFileAtomic } from '../base/files';
import type { PrefixWeights } from '../prefix/weights';
import { type ReportAbout, writeReport } from '../report/run';
import type { TrainingEvent } from '../runs/events';
import { isRunFile, RUN_FILES, STATE_FILE } from '../runs/run-files';
import { readEvents } from '../runs/read-events';
import { RunLock } from '../runs/run-lock';
import { TensorBoardWriter } from '../runs/tensorboard';
import type { PrefixEncoder } from './encoder';
import type { Recipe } from './recipe';
import { describeDifference, lanesOf, readRunState, type RunIdentity, type RunState, writeRunState } from './run-state';

/** The file that a temporary one of writeFileAtomic was to become. */
const TEMPORARY = /^\.(.+)\.\d+-[0-9a-f]{12}\.tmp$/;

export interface RunFolderOptions {
  /** Go on from what is there. */
  resume: boolean;
  /** Remove what is there. */
  overwrite: boolean;
  /**
   * What the run is, to be compared with what it was, and how it trains; both may follow from what it was.
   * @param before undefined: the run begins
   */
  decide: (before: RunIdentity | undefined) => { identity: RunIdentity; recipe: Recipe };
}

/** A file that is complete, as manifest.json knows it. */
export interface ManifestEntry {
  bytes: number;
  /** In lower-case hexadecimal. */
  sha256: string;
}

export interface OpenedRun {
  folder: RunFolder;
  /** The newest state that is whole, with its file, when there is one to go on from. */
  saved: { state: RunState; path: string } | undefined;
}

/**
 * The folder of a training run. Every file in it is replaced atomically, so that at any moment it holds the old or the
 * new; metrics.jsonl is appended to. manifest.json has the size and SHA-256 of each file that is complete.
 */
export class RunFolder {
  private readonly changed = new Set<string>([RUN_FILES.recipe]);
  private manifest = new Map<string, ManifestEntry>();

  private constructor(
    readonly path: string,
    private readonly lock: RunLock,
    private readonly metrics: FileHandle,
    private readonly board: TensorBoardWriter,
  ) {}

  /**
   * Opens the folder for one run, alone.
   * @throws NEOX_BUSY while another run is at work in it; NEOX_RESUME_MISMATCH; NEOX_IO; NEOX_BAD_ARGUMENT for a folder
   *   that has a run already
   */
  static async open(path: string, options: RunFolderOptions): Promise<OpenedRun> {
    const absolute = resolve(path);
    await makeFolder(absolute);
    const lock = await RunLock.take(join(absolute, RUN_FILES.lock));
    let metrics: FileHandle | undefined;
    let board: TensorBoardWriter | undefined;
    try {
      const names = await listFolder(absolute);
      await Promise.all(names.filter(isOwnTemporary).map((name) => rm(join(absolute, name), { force: true })));
      const existing = names.filter(isRunFile);
      let saved: OpenedRun['saved'];
      if (options.resume) {
        saved = await newestState(absolute, names);
      } else if (existing.length > 0 && !options.overwrite) {
        throw hasRunAlready(path);
      }
      const { identity, recipe } = options.decide(saved?.state.identity);
      if (saved !== undefined) checkIdentity(saved.state.identity, identity, absolute);
      if (saved === undefined) for (const name of existing) await rm(join(absolute, name), { force: true });
      metrics = await openMetrics(join(absolute, RUN_FILES.metrics), saved?.state.metricsBytes ?? 0);
      const events = saved === undefined ? [] : await readEvents(join(absolute, RUN_FILES.metrics));
      board = await TensorBoardWriter.rebuild(absolute, events, { recipe });
      const folder = new RunFolder(absolute, lock, metrics, board);
      if (saved !== undefined) folder.manifest = await readManifest(absolute);
      await writeFileAtomic(folder.file(RUN_FILES.recipe), `${JSON.stringify(recipe, null, 2)}\n`);
      return { folder, saved };
    } catch (error) {
      // What went wrong matters more than what closing may add to it.
      await board?.close().catch(() => undefined);
      await metrics?.close().catch(() => undefined);
      await lock.release();
      throw error;
    }
  }

  /** Adds a line to metrics.jsonl, and scalars for TensorBoard. */
  async log(event: TrainingEvent): Promise<void> {
    this.lock.check();
    this.board.event(event);
    try {
      await this.metrics.appendFile(`${JSON.stringify(event)}\n`);
    } catch (cause) {
      throw fileError(cause, 'write', this.file(RUN_FILES.metrics));
    }
  }

  async savePrefix(kind: 'best' | 'last', prefix: PrefixWeights): Promise<string> {
    return this.write(RUN_FILES[kind], (path) => prefix.save(path));
  }

  async saveEncoder(encoder: PrefixEncoder): Promise<void> {
    await this.write(RUN_FILES.encoder, (path) => encoder.save(path));
  }

  /** Writes what the report tells besides recipe and events. */
  async saveAbout(about: ReportAbout): Promise<void> {
    await this.write(RUN_FILES.about, (path) => writeFileAtomic(path, `${JSON.stringify(about, null, 2)}\n`));
  }

  /** Writes the report of what there is so far. It can be made again at any time, so the manifest does not know it. */
  async saveReport(): Promise<void> {
    await this.board.flush();
    await writeReport(this.path);
    await this.saveManifest();
  }

  /** Saves a state, brings the manifest up to date, and only then removes states beyond the newest `keep`. */
  async saveState(state: Omit<RunState, 'metricsBytes'>, keep: number): Promise<string> {
    let metricsBytes: number;
    try {
      await this.metrics.sync();
      metricsBytes = (await this.metrics.stat()).size;
    } catch (cause) {
      throw fileError(cause, 'write', this.file(RUN_FILES.metrics));
    }
    const name = await this.stateName(state.progress.step);
    const path = await this.write(name, (target) => writeRunState(target, { ...state, metricsBytes }));
    const states = (await listFolder(this.path)).filter((other) => STATE_FILE.test(other)).sort(byStep);
    const old = states.slice(0, Math.max(0, states.length - keep)).filter((other) => other !== name);
    await this.saveManifest(old);
    for (const other of old) await rm(this.file(other), { force: true });
    return path;
  }

  /** Writes manifest.json, without the files that are about to go. */
  async saveManifest(without: readonly string[] = []): Promise<void> {
    for (const name of this.changed) {
      const path = this.file(name);
      const { size } = await stat(path).catch((cause: unknown) => {
        throw fileError(cause, 'read', path);
      });
      this.manifest.set(name, { bytes: size, sha256: await sha256File(path) });
    }
    this.changed.clear();
    for (const name of without) this.manifest.delete(name);
    const files = Object.fromEntries([...this.manifest].sort(([a], [b]) => (a < b ? -1 : 1)));
    await writeFileAtomic(this.file(RUN_FILES.manifest), `${JSON.stringify({ formatVersion: 1, files }, null, 2)}\n`);
  }

  async close(): Promise<void> {
    try {
      await this.board.close();
      await this.metrics.close();
    } finally {
      await this.lock.release();
    }
  }

  private async write(name: string, write: (path: string) => Promise<void>): Promise<string> {
    this.lock.check();
    const path = this.file(name);
    await write(path);
    this.changed.add(name);
    return path;
  }

  /**
   * A name of its own: of two states of one step (a run stopped in the middle of a step, resumed and stopped again) the
   * later one counts.
   */
  private async stateName(step: number): Promise<string> {
    const ofStep = (await listFolder(this.path)).filter(
      (name) => STATE_FILE.test(name) && stateNumber(name)[0] === step,
    );
    const again = Math.max(-1, ...ofStep.map((name) => stateNumber(name)[1])) + 1;
    return `state-${String(step).padStart(9, '0')}${again === 0 ? '' : `-${again}`}.safetensors`;
  }

  private file(name: string): string {
    return join(this.path, name);
  }
}

/** Whether a folder has files of a training run. */
export async function hasRun(path: string): Promise<boolean> {
  return (await kindOf(path)) === 'folder' && (await listFolder(path)).some(isRunFile);
}

export function hasRunAlready(path: string): NeoXPrefixError {
  return badArgument(
    'outputDir',
    'a folder without a training run',
    path,
    'choose another folder, set `resume: true` to go on with that run, or `overwrite: true` to replace it',
  );
}

/** Whether a folder has files of a training run and no state to resume from, whole or not. */
export async function hasRunWithoutState(path: string): Promise<boolean> {
  return (await hasRun(path)) && !(await listFolder(path)).some((name) => STATE_FILE.test(name));
}

function isOwnTemporary(name: string): boolean {
  const target = TEMPORARY.exec(name)?.[1];
  return target !== undefined && isRunFile(target);
}

/**
 * The newest state that can be read. One that a failing disk damaged is passed over, as long as there is an older one.
 * @throws NEOX_BAD_CHECKPOINT where there are states and none is whole
 */
export async function newestState(folder: string, names: readonly string[]): Promise<OpenedRun['saved']> {
  const states = names
    .filter((name) => STATE_FILE.test(name))
    .sort(byStep)
    .reverse();
  let problem: NeoXPrefixError | undefined;
  for (const name of states) {
    try {
      const path = join(folder, name);
      return { state: await readRunState(path), path };
    } catch (error) {
      if (!isNeoXPrefixError(error) || error.code !== 'NEOX_BAD_CHECKPOINT') throw error;
      problem ??= error;
    }
  }
  if (problem === undefined) return undefined;
  const count = states.length === 1 ? 'The only state' : `None of the ${states.length} states`;
  const newest = problem.message.split('\n')[0] ?? '';
  throw new NeoXPrefixError(
    'NEOX_BAD_CHECKPOINT',
    `${count} of the run in ${folder} is ${states.length === 1 ? 'not ' : ''}whole. ${newest}`,
    {
      path: folder,
      cause: problem,
      hint: 'put back a copy of a state, or set `overwrite: true` to begin the run anew',
    },
  );
}

function checkIdentity(before: RunIdentity, now: RunIdentity, path: string): void {
  const difference = describeDifference({ ...before, ranks: { lanes: lanesOf(before) } }, now);
  if (difference === undefined) return;
  throw new NeoXPrefixError('NEOX_RESUME_MISMATCH', `The run cannot go on as it is another one: ${difference}`, {
    path,
    hint: 'resume with the model, the data and the recipe of the run, or start a new one in another folder',
  });
}

/** Step, and number among the states of that step. */
function stateNumber(name: string): [step: number, again: number] {
  const [, step, again] = /^state-(\d+)(?:-(\d+))?\./.exec(name) ?? [];
  return [Number(step), Number(again ?? 0)];
}

function byStep(a: string, b: string): number {
  const [[stepA, againA], [stepB, againB]] = [stateNumber(a), stateNumber(b)];
  return stepA - stepB || againA - againB;
}

/** Opens metrics.jsonl with its first `bytes` bytes kept, up to the end of a line. */
async function openMetrics(path: string, bytes: number): Promise<FileHandle> {
  try {
    if (bytes > 0 && (await kindOf(path)) === 'file') {
      // Less than expected is there when the machine, not the process, stopped.
      const whole = (await readSmallFile(path, 2 ** 30)).subarray(0, bytes);
      await truncate(path, whole.lastIndexOf(0x0a) + 1);
    } else {
      await writeFileAtomic(path, []);
    }
    return await open(path, 'a+');
  } catch (cause) {
    throw fileError(cause, 'write', path);
  }
}

/** What manifest.json says, by name. */
export async function readManifest(folder: string): Promise<Map<string, ManifestEntry>> {
  try {
    const text = (await readSmallFile(join(folder, RUN_FILES.manifest), 2 ** 24)).toString('utf8');
    return new Map(Object.entries((JSON.parse(text) as { files: Record<string, ManifestEntry> }).files));
  } catch {
    // Killed before the first one was written, or damaged: the files are checked by what they hold themselves.
    return new Map();
  }
}
