import { createHash } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { ABUSE } from './corpus';
import { mutateFiles } from './mutate';
import { Random } from './random';
import { TARGETS, openFolder, writeFiles, type Files, type Format, type Target } from './targets';

/** Filled by instrument.cjs: passes through each place of the library since it was last cleared. */
declare global {
  var neoxCoverage: Uint8Array | undefined;
}

/** Opening one folder may take so long, in milliseconds of processor time. */
export const MAX_MILLISECONDS = 2000;

/** Inputs of more bytes are no good to start from. */
const MAX_START = 60_000;
/** One in so many inputs is handed to native code too, if it is accepted. */
const DEEP = 16;

export interface Finding {
  /** Equal for what is probably the same fault. */
  readonly key: string;
  readonly problem: string;
  readonly files: Files;
}

/**
 * Opens folders that are made from good and bad ones, each a change of an earlier one. Inputs that reach code that none
 * reached before (when the library runs instrumented) are kept to go on from.
 */
export class Fuzzer {
  runs = 0;
  accepted = 0;
  /** When the input that is being opened was started, by performance.now(). */
  startedAt = 0;
  readonly findings = new Map<string, Finding>();
  private readonly target: Target;
  private readonly corpus: Files[];
  private readonly random: Random;
  private readonly seen: Uint8Array;
  private readonly coverage: Uint8Array | undefined = globalThis.neoxCoverage;

  constructor(
    format: Format,
    /** Is emptied. */
    private readonly folder: string,
    seed: number,
  ) {
    this.target = TARGETS[format];
    this.random = new Random(seed);
    this.seen = new Uint8Array(this.coverage?.length ?? 0);
    const abuse = ABUSE.filter((known) => known.format === format).map(({ files }) => files());
    this.corpus = [...this.target.seeds(), ...abuse].filter((files) => sizeOf(files) < MAX_START);
  }

  get corpusSize(): number {
    return this.corpus.length;
  }

  /** Places of the library that were reached. */
  get places(): number {
    return this.seen.reduce((count, bits) => count + (bits === 0 ? 0 : 1), 0);
  }

  /** Opens the inputs that there are at the start. */
  async begin(): Promise<void> {
    for (const files of [...this.corpus]) await this.run(files, true);
  }

  /** Opens one more input. */
  async step(): Promise<void> {
    const { corpus, random } = this;
    // Half of the time one of the newest, which reached something new.
    const newest = random.chance(2) ? Math.min(corpus.length, 30) : corpus.length;
    const from = corpus[corpus.length - 1 - random.below(newest)] as Files;
    const files = mutateFiles(this.target, from, random.pick(corpus), random);
    if (await this.run(files, random.chance(DEEP))) corpus.push(files);
  }

  /** Returns whether the input reached something new. */
  private async run(files: Files, deep: boolean): Promise<boolean> {
    rmSync(this.folder, { recursive: true, force: true });
    mkdirSync(this.folder, { recursive: true });
    writeFiles(this.folder, files);
    this.coverage?.fill(0);
    this.runs++;
    this.startedAt = performance.now();
    const before = process.cpuUsage();
    try {
      if ((await openFolder(this.target, this.folder, deep)).accepted > 0) this.accepted++;
    } catch (error) {
      this.add(stackOf(error), String(error instanceof Error ? error.stack : error), files);
    }
    const { user, system } = process.cpuUsage(before);
    const milliseconds = (user + system) / 1000;
    if (milliseconds > MAX_MILLISECONDS) this.add('slow', `it takes ${Math.round(milliseconds)} ms`, files);
    return this.isNew();
  }

  private add(key: string, problem: string, files: Files): void {
    if (!this.findings.has(key)) this.findings.set(key, { key, problem, files });
  }

  private isNew(): boolean {
    const { coverage, seen } = this;
    if (coverage === undefined) return false;
    let found = false;
    for (let place = 0; place < coverage.length; place++) {
      const count = coverage[place] as number;
      if (count === 0) continue;
      const bits = bucket(count);
      if (((seen[place] as number) & bits) !== 0) continue;
      seen[place] = (seen[place] as number) | bits;
      found = true;
    }
    return found;
  }
}

/** How often a place was passed, roughly: passing it twice is new, passing it 40 times after 39 is not. */
function bucket(count: number): number {
  return count < 4 ? 1 << (count - 1) : count < 8 ? 8 : count < 16 ? 16 : count < 32 ? 32 : count < 128 ? 64 : 128;
}

function sizeOf(files: Files): number {
  return Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0);
}

/** Where an error came from: its class and the first lines of its stack that are ours. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error).slice(0, 100);
  const lines = (error.stack ?? '').split('\n').filter((line) => /[\\/](lib|fuzz|tokenizers)[\\/]/.test(line));
  return [error.name, ...lines.slice(0, 2)].join(' ').replaceAll(process.cwd(), '');
}

/** A short name for a folder's content. */
export function nameOf(format: Format, files: Files): string {
  const hash = createHash('sha256');
  for (const [name, bytes] of Object.entries(files)) hash.update(name).update(bytes);
  return `${format}-${hash.digest('hex').slice(0, 12)}`;
}

/** Saves a finding to a folder of its own; returns its path. */
export function save(crashes: string, format: Format, { files, problem }: Pick<Finding, 'files' | 'problem'>): string {
  const path = join(crashes, nameOf(format, files));
  mkdirSync(path, { recursive: true });
  writeFiles(path, files);
  writeFiles(path, { 'PROBLEM.txt': Buffer.from(`${problem}\n`) });
  return path;
}
