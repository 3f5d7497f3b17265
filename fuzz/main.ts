// npm run fuzz -- [FORMAT ...] [--minutes N] [--seed S]     fuzzes formats one after the other
// npm run fuzz -- --replay fuzz/crashes/FOLDER              opens one input again
import { fork, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { parseArgs } from 'node:util';

import { MAX_MILLISECONDS, save } from './fuzzer';
import { FORMATS, TARGETS, openFolder, type Files, type Format } from './targets';
import type { Progress } from './worker';

const CRASHES = join(__dirname, 'crashes');
/** Of V8's heap, and of all memory; libtorch alone takes some 300 MB. */
const MAX_HEAP_MB = 256;
const MAX_MEMORY_MB = 1500;
/** Without a word for so long a worker waits for something that never comes, in milliseconds. */
const MAX_SILENCE = 300_000;
/** After so many deaths a format is given up. */
const MAX_DEATHS = 10;

interface Outcome {
  readonly progress: Progress;
  /** Why the worker died or had to be killed. */
  readonly death: string | undefined;
}

function filesIn(folder: string, inside = ''): Files {
  const files: Record<string, Buffer> = {};
  for (const name of readdirSync(join(folder, inside))) {
    const path = join(inside, name);
    if (statSync(join(folder, path)).isDirectory()) Object.assign(files, filesIn(folder, path));
    else files[path] = readFileSync(join(folder, path));
  }
  return files;
}

function memoryOf(child: ChildProcess): number {
  try {
    const status = readFileSync(`/proc/${child.pid ?? 0}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** Processor time of a worker in milliseconds: on a busy machine it may wait long for its turn. */
function timeOf(child: ChildProcess): number {
  try {
    const fields = readFileSync(`/proc/${child.pid ?? 0}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  } catch {
    return 0;
  }
}

/** Runs one worker until its time is up or it dies. */
function work(format: Format, folder: string, seconds: number, seed: number): Promise<Outcome> {
  const child = fork(join(__dirname, 'worker.ts'), [format, folder, String(seconds), String(seed), CRASHES], {
    execArgv: ['-r', join(__dirname, 'instrument.cjs'), `--max-old-space-size=${MAX_HEAP_MB}`],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let progress: Progress = { runs: 0, accepted: 0, corpus: 0, places: 0, saved: [], open: 0 };
  let heard = performance.now();
  let busy = 0;
  let death: string | undefined;
  child.on('message', (message) => {
    const { runs } = progress;
    progress = message as Progress;
    heard = performance.now();
    if (progress.runs !== runs) busy = timeOf(child);
  });
  const kill = (why: string): void => {
    death ??= why;
    child.kill('SIGKILL');
  };
  // A worker needs some seconds to load; from then on silence is a hang.
  const timer = setInterval(() => {
    const silent = performance.now() - heard + progress.open;
    const works = timeOf(child) - busy;
    const isHanging =
      progress.runs === 0 ? works > 60_000 : silent > 3 * MAX_MILLISECONDS && works > 3 * MAX_MILLISECONDS;
    if (isHanging || silent > MAX_SILENCE)
      kill(`it takes more than ${isHanging ? 3 * MAX_MILLISECONDS : MAX_SILENCE} ms`);
    const memory = memoryOf(child);
    if (memory > MAX_MEMORY_MB) kill(`it takes ${Math.round(memory)} MB`);
  }, 200);
  return new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      clearInterval(timer);
      if (code !== 0) death ??= `the process ended with ${signal ?? `status ${code ?? 0}`}`;
      resolve({ progress, death });
    });
  });
}

/** Fuzzes one format; returns the folders of what was found. */
async function fuzz(format: Format, seconds: number, seed: number): Promise<string[]> {
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'neox-fuzz-'));
  const input = join(folder, 'input');
  const found = new Set<string>();
  const until = performance.now() + seconds * 1000;
  let runs = 0;
  try {
    for (let deaths = 0; deaths < MAX_DEATHS;) {
      const left = (until - performance.now()) / 1000;
      if (left < 1) break;
      const { progress, death } = await work(format, input, left, seed + deaths);
      runs += progress.runs;
      for (const path of progress.saved) found.add(path);
      if (death !== undefined) {
        deaths++;
        found.add(save(CRASHES, format, { problem: death, files: filesIn(input) }));
        continue;
      }
      const { accepted, corpus, places } = progress;
      console.log(
        `${format}: ${runs} inputs in ${Math.round(seconds)} s, ${accepted} accepted, ${corpus} kept, ${places} places reached, seed ${seed}`,
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return [...found];
}

async function replay(folder: string): Promise<void> {
  const format = FORMATS.find((name) => basename(folder).startsWith(`${name}-`));
  if (format === undefined)
    throw new Error(`the name of ${folder} does not start with a format: ${FORMATS.join(', ')}`);
  const started = performance.now();
  await openFolder(TARGETS[format], folder, true).then(
    ({ accepted, refusal }) => console.log(`accepted in ${accepted} ways`, refusal ?? ''),
    (error: unknown) => console.log('FAULT', error),
  );
  console.log(`${Math.round(performance.now() - started)} ms, ${Math.round(process.memoryUsage().rss / 2 ** 20)} MB`);
}

async function main(): Promise<void> {
  const options = {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string' },
    replay: { type: 'string' },
  } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (values.replay !== undefined) return replay(values.replay);
  const unknown = positionals.find((name) => !FORMATS.includes(name as Format));
  const minutes = Number(values.minutes);
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed);
  if (unknown !== undefined || !(minutes > 0) || !Number.isInteger(seed)) {
    console.error(`Usage: npm run fuzz -- [${FORMATS.join('|')}]... [--minutes N] [--seed S]   or   --replay FOLDER`);
    process.exitCode = 2;
    return;
  }
  const found: string[] = [];
  for (const format of positionals.length === 0 ? FORMATS : (positionals as Format[]))
    found.push(...(await fuzz(format, minutes * 60, seed)));
  for (const path of found) {
    console.log(
      `${relative(process.cwd(), path)}: ${readFileSync(join(path, 'PROBLEM.txt'), 'utf8').split('\n').slice(0, 4).join('\n    ')}`,
    );
  }
  console.log(
    found.length === 0 ? 'Nothing was found.' : `${found.length} inputs were saved; --replay opens one again.`,
  );
  process.exitCode = found.length === 0 ? 0 : 1;
}

void main();
