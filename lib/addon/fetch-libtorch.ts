import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { checkBoolean, checkFunction, checkOptions, checkPath, checkSignal, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { makeFolder } from '../base/files';
import { PACKAGE_ROOT } from '../base/package';
import { describe, type Libtorch, LIBTORCH_VERSION } from './libtorch';
import { ISOLATED, TOOLS_FOLDER } from './python';

/** Progress in bytes. `total` is 0 while it is not known. */
export interface FetchProgress {
  phase: 'download' | 'unpack';
  done: number;
  total: number;
}

/** What to fetch, and where to. */
export interface FetchLibtorchOptions {
  /** Defaults to the version that the package is built with. */
  version?: string;
  /** The folder to make. Defaults to `.libtorch` in the package. */
  destination?: string;
  /** Fetches again although the folder holds that version already. Defaults to `false`. */
  force?: boolean;
  /** Called as bytes arrive. */
  onProgress?: (progress: FetchProgress) => void;
  /** Stops the fetching; the destination stays as it was. */
  signal?: AbortSignal;
}

/**
 * Takes libtorch out of the torch wheel that pip downloads: the CPU build where an index offers one. The version of
 * python3 does not matter: a wheel is a zip archive and libtorch in it does not depend on Python. The files are checked
 * against the wheel's checksums, unpacked beside the destination and moved there in one step, so that the destination
 * is whole or absent whatever happens. Does nothing when it holds that version already.
 *
 * @throws NeoXPrefixError `NEOX_LIBTORCH_NOT_FOUND` when it cannot be had: no python3, no pip, no wheel, a damaged
 *   wheel.
 */
export async function fetchLibtorch(options: FetchLibtorchOptions = {}): Promise<Libtorch> {
  checkOptions('fetchLibtorch options', options, ['version', 'destination', 'force', 'onProgress', 'signal']);
  const version = checkString('version', options.version ?? LIBTORCH_VERSION);
  if (!/^\d+\.\d+\.\d+$/.test(version)) {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `Expected three numbers such as ${LIBTORCH_VERSION} for version but received '${version}'`,
    );
  }
  const destination = resolve(checkPath('destination', options.destination ?? join(PACKAGE_ROOT, '.libtorch')));
  const force = checkBoolean('force', options.force ?? false);
  const onProgress =
    options.onProgress === undefined ? (): void => {} : checkFunction('onProgress', options.onProgress);
  const signal = checkSignal('signal', options.signal);
  signal?.throwIfAborted();

  const present = describe(destination, 'package');
  if (!force && present?.headers === true && present.version.split('+')[0] === version) return present;
  if (present === undefined && existsSync(destination) && (await readdir(destination)).length > 0) {
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${destination} holds something that is not libtorch`, {
      path: destination,
      hint: 'choose another destination, or delete that folder',
    });
  }

  const python = await findPython(signal);
  await makeFolder(dirname(destination));
  await removeAbandoned(destination);
  const work = await mkdtemp(`${destination}.partial-${process.pid}-`);
  try {
    const wheel = await download(python, version, work, onProgress, signal);
    const unpacked = join(work, 'libtorch');
    await unpack(python, wheel, unpacked, onProgress, signal);
    await replace(unpacked, destination, work);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  const libtorch = describe(destination, 'package');
  if (libtorch === undefined)
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${destination} disappeared while it was being made`);
  return libtorch;
}

/**
 * The interpreter itself, with pip: `python3` may be a script that starts one, which would not pass a signal on to it.
 */
async function findPython(signal: AbortSignal | undefined): Promise<string> {
  let executable = '';
  const onLine = (line: string): void => void (executable = line.trim());
  const python = await run('python3', [ISOLATED, '-c', 'import sys; print(sys.executable)'], { signal, onLine });
  if (python.status !== 0 || executable === '') {
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', 'python3, whose pip downloads libtorch, was not found', {
      hint: 'on Debian or Ubuntu run `apt-get install python3 python3-pip`, or set NEOX_PREFIX_LIBTORCH to a folder with libtorch',
    });
  }
  const pip = await run(executable, [ISOLATED, '-m', 'pip', '--version'], { signal });
  if (pip.status !== 0) {
    throw new NeoXPrefixError(
      'NEOX_LIBTORCH_NOT_FOUND',
      `python3 (${executable}) has no pip, which downloads libtorch`,
      {
        hint: 'on Debian or Ubuntu run `apt-get install python3-pip`, elsewhere `python3 -m ensurepip`, or set NEOX_PREFIX_LIBTORCH to a folder with libtorch',
      },
    );
  }
  return executable;
}

/** Deletes what a process that was killed left beside the destination. */
async function removeAbandoned(destination: string): Promise<void> {
  const prefix = `${basename(destination)}.partial-`;
  for (const name of await readdir(dirname(destination))) {
    if (!name.startsWith(prefix)) continue;
    try {
      process.kill(Number.parseInt(name.slice(prefix.length), 10), 0);
    } catch {
      await rm(join(dirname(destination), name), { recursive: true, force: true });
    }
  }
}

/** Downloads the wheel and returns its path. */
async function download(
  python: string,
  version: string,
  work: string,
  onProgress: (progress: FetchProgress) => void,
  signal: AbortSignal | undefined,
): Promise<string> {
  const folder = join(work, 'wheel');
  const temporary = join(work, 'tmp');
  await mkdir(temporary);
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const anyPython = [
    '--python-version',
    '3.12',
    '--implementation',
    'cp',
    '--platform',
    `manylinux_2_28_${machine}`,
    '--platform',
    `manylinux2014_${machine}`,
  ];
  let refusal = '';
  // The CPU build first (an index has it under a local version), then whatever build has the number; for each the wheel
  // of this python3 and then, because any will do, that of a common one.
  for (const requirement of [`torch==${version}+cpu`, `torch==${version}`]) {
    for (const platform of [[], anyPython]) {
      const args = [
        ISOLATED,
        '-m',
        'pip',
        'download',
        '--no-deps',
        '--only-binary=:all:',
        '--progress-bar',
        'off',
        '--dest',
        folder,
        ...platform,
        requirement,
      ];
      const watch = watchDownload(temporary, onProgress);
      const result = await run(python, args, {
        signal,
        env: { ...process.env, TMPDIR: temporary },
        onLine: watch.line,
      }).finally(watch.stop);
      if (result.status === 0) {
        const wheel = (await readdir(folder)).find((name) => /^torch-.*\.whl$/.test(name));
        if (wheel !== undefined) return join(folder, wheel);
      }
      refusal = result.errors;
      const noMatch = /No matching distribution|ResolutionImpossible|not a supported wheel/.test(refusal);
      if (!noMatch) throw failedDownload(version, refusal);
    }
  }
  throw failedDownload(version, refusal);
}

function failedDownload(version: string, errors: string): NeoXPrefixError {
  const lines = errors.split('\n').filter((line) => /^ERROR|error:/i.test(line));
  const told = (lines.length > 0 ? lines : errors.trim().split('\n').slice(-3)).join('\n  ');
  return new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `pip could not download torch ${version}:\n  ${told}`, {
    hint: `check that \`python3 -m pip download --no-deps torch==${version}\` works here (network, pip's index settings), or set NEOX_PREFIX_LIBTORCH to a folder with libtorch`,
  });
}

/** pip draws no progress bar into a pipe, so its temporary file is watched; the size is in what it prints. */
function watchDownload(
  folder: string,
  onProgress: (progress: FetchProgress) => void,
): { line: (line: string) => void; stop: () => void } {
  let total = 0;
  const units: Record<string, number> = { kB: 1e3, MB: 1e6, GB: 1e9 };
  const line = (text: string): void => {
    const size = /Downloading .*\(([\d.]+) (kB|MB|GB)\)/.exec(text);
    if (size?.[1] !== undefined && size[2] !== undefined) total = Number(size[1]) * (units[size[2]] ?? 0);
  };
  const timer = setInterval(() => {
    largestFile(folder).then(
      (done) => done > 0 && onProgress({ phase: 'download', done: total === 0 ? done : Math.min(done, total), total }),
      () => undefined, // pip moved the file away meanwhile
    );
  }, 250);
  return { line, stop: () => clearInterval(timer) };
}

async function largestFile(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(
    entries.map(async (name) => await stat(join(folder, name)).then((status) => (status.isFile() ? status.size : 0))),
  );
  return Math.max(0, ...sizes);
}

async function unpack(
  python: string,
  wheel: string,
  folder: string,
  onProgress: (progress: FetchProgress) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  let version = '';
  const onLine = (line: string): void => {
    const [word, first, second] = line.split(' ');
    if (word === 'progress') onProgress({ phase: 'unpack', done: Number(first), total: Number(second) });
    if (word === 'version') version = first ?? '';
  };
  const result = await run(python, [ISOLATED, join(PACKAGE_ROOT, 'scripts', 'unpack-wheel.py'), wheel, folder], {
    signal,
    onLine,
  });
  if (result.status !== 0) {
    throw new NeoXPrefixError(
      'NEOX_LIBTORCH_NOT_FOUND',
      `The wheel ${basename(wheel)} could not be unpacked: ${result.errors.trim().replace(/^error: /, '')}`,
      {
        hint: 'free some disk space if that is what is missing (1 GB is enough); clear a damaged download with `python3 -m pip cache remove torch`',
      },
    );
  }
  await writeFile(join(folder, 'build-version'), `${version}\n`);
}

/** Puts a finished folder in its place. One that another process has put there meanwhile is as good. */
async function replace(folder: string, destination: string, work: string): Promise<void> {
  const old = join(work, 'old');
  if (existsSync(destination)) await rename(destination, old);
  try {
    await rename(folder, destination);
  } catch (error) {
    if (describe(destination, 'package') !== undefined) return;
    await rename(old, destination).catch(() => undefined);
    throw new NeoXPrefixError('NEOX_IO', `libtorch could not be moved to ${destination}`, {
      path: destination,
      cause: error,
    });
  }
}

interface RunOptions {
  signal: AbortSignal | undefined;
  env?: NodeJS.ProcessEnv;
  onLine?: (line: string) => void;
}

/** Runs a program to its end; a program that is missing has status -1. Rejects only when aborted. */
async function run(command: string, args: string[], options: RunOptions): Promise<{ status: number; errors: string }> {
  options.signal?.throwIfAborted();
  return await new Promise((fulfil, reject) => {
    const child = spawn(command, args, {
      env: options.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: TOOLS_FOLDER,
    });
    const abort = (): void => void child.kill('SIGTERM');
    options.signal?.addEventListener('abort', abort, { once: true });
    let errors = '';
    let rest = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-20_000)));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) options.onLine?.(line);
    });
    child.on('error', (error) => (errors += error.message));
    child.on('close', (status) => {
      options.signal?.removeEventListener('abort', abort);
      if (options.signal?.aborted === true) reject(options.signal.reason as Error);
      else fulfil({ status: status ?? -1, errors });
    });
  });
}
