import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../lib/base/package';

export interface ExampleRun {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a TypeScript program in a process of its own, as `npm run demo` does. */
export function runTypeScript(
  file: string,
  args: readonly string[] = [],
  options: { cwd?: string; interruptAfter?: RegExp } = {},
): Promise<ExampleRun> {
  const runner = join(PACKAGE_ROOT, 'scripts', 'run-typescript.mjs');
  const child = spawn(process.execPath, [runner, file, ...args], {
    cwd: options.cwd ?? PACKAGE_ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    if (options.interruptAfter?.test(stdout) === true) child.kill('SIGINT');
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

export function example(name: string): string {
  return join(PACKAGE_ROOT, 'examples', `${name}.mts`);
}
