import { spawn } from 'node:child_process';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Download } from './fetch-progress';
import { ISOLATED, TOOLS_FOLDER } from './python';

/**
 * Downloads the torch wheel with pip, whose own settings (index, proxy, certificates) apply. The version of python3
 * does not matter: libtorch in a wheel does not depend on Python.
 *
 * @returns the path of the wheel in `work`, or why there is none
 */
export async function pipDownload(
  version: string,
  work: string,
  { signal, onProgress }: Download,
): Promise<{ path: string } | { reason: string }> {
  const python = await findPython(signal);
  if ('reason' in python) return python;
  const folder = join(work, 'wheel');
  const temporary = join(work, 'tmp');
  await mkdir(temporary);
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const platforms = [`manylinux_2_28_${machine}`, `manylinux2014_${machine}`].flatMap((name) => ['--platform', name]);
  const anyPython = ['--python-version', '3.12', '--implementation', 'cp', ...platforms];
  const fixed = ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--progress-bar', 'off'];
  let errors = '';
  // The CPU build first (an index has it under a local version), then whatever build has the number; for each the wheel
  // of this python3 and then, because any will do, that of a common one.
  for (const requirement of [`torch==${version}+cpu`, `torch==${version}`]) {
    for (const platform of [[], anyPython]) {
      const watch = watchDownload(temporary, onProgress);
      const result = await run(python.executable, [ISOLATED, ...fixed, '--dest', folder, ...platform, requirement], {
        signal,
        env: { ...process.env, TMPDIR: temporary },
        onLine: watch.line,
      }).finally(watch.stop);
      if (result.status === 0) {
        const wheel = (await readdir(folder)).find((name) => /^torch-.*\.whl$/.test(name));
        if (wheel !== undefined) return { path: join(folder, wheel) };
      }
      errors = result.errors;
      const noMatch = /No matching distribution|ResolutionImpossible|not a supported wheel/.test(errors);
      if (!noMatch) return { reason: whatPipSaid(errors) };
    }
  }
  return { reason: whatPipSaid(errors) };
}

/**
 * The interpreter itself, with pip: `python3` may be a script that starts one, which would not pass a signal on to it.
 */
async function findPython(signal: AbortSignal | undefined): Promise<{ executable: string } | { reason: string }> {
  let executable = '';
  const onLine = (line: string): void => void (executable = line.trim());
  const python = await run('python3', [ISOLATED, '-c', 'import sys; print(sys.executable)'], { signal, onLine });
  if (python.status !== 0 || executable === '') return { reason: 'there is no python3, whose pip would download it' };
  const pip = await run(executable, [ISOLATED, '-m', 'pip', '--version'], { signal });
  return pip.status === 0 ? { executable } : { reason: `python3 (${executable}) has no pip` };
}

function whatPipSaid(errors: string): string {
  const lines = errors.split('\n').filter((line) => /^ERROR|error:/i.test(line));
  return (lines.length > 0 ? lines : errors.trim().split('\n').slice(-3)).join('\n    ');
}

/** pip draws no progress bar into a pipe, so its temporary file is watched; the size is in what it prints. */
function watchDownload(
  folder: string,
  onProgress: Download['onProgress'],
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
