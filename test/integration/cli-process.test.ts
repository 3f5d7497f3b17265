import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../helpers';
import { jsonLines } from '../unit/cli/cli-helpers';

const ROOT = join(__dirname, '..', '..');
const MODEL = join(ROOT, 'examples', 'models', 'tiny-ja-neox');
const DATA = join(ROOT, 'examples', 'data', 'diary.jsonl');
const folder = temporaryFolder();

jest.setTimeout(120_000);

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

interface StartOptions {
  stdin?: string;
  env?: NodeJS.ProcessEnv;
  /** Hears of everything on stdout so far, until it returns true. */
  until?: (stdout: string, child: ChildProcess) => boolean;
}

/** Runs the program as a user does, from its source. */
function start(args: readonly string[], { stdin = '', env = {}, until }: StartOptions = {}): Promise<Ended> {
  const program = ['-r', join(ROOT, 'test', 'typescript.cjs'), join(ROOT, 'lib', 'cli', 'main.ts')];
  const child = spawn(process.execPath, [...program, ...args], { env: { ...process.env, ...env } });
  let stdout = '';
  let stderr = '';
  let waiting = until;
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
    if (waiting?.(stdout, child) === true) waiting = undefined;
  });
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.on('error', () => undefined);
  child.stdin.end(stdin);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

test('exit codes of a process: 0, 1, 2', async () => {
  const [help, missing, usage] = await Promise.all([
    start([]),
    start(['inspect', folder.join('nowhere')]),
    start(['inspekt']),
  ]);
  expect(help).toMatchObject({ code: 0, stderr: '' });
  expect(missing).toMatchObject({
    code: 1,
    stdout: '',
    stderr: expect.stringMatching(/^error: No such file or folder: .*\n$/),
  });
  expect(usage).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('(Did you mean inspect?)') });
});

test('a prompt loop through a pipe: JSON on stdout and nothing else, ends with the input', async () => {
  const args = ['generate', '--model', MODEL, '--threads', '1', '--max-new-tokens', '5', '--seed', '1', '--json'];
  const { code, stdout, stderr } = await start(args, { stdin: '今日は\n休日の朝に\n' });
  expect(code).toBe(0);
  expect(jsonLines(stdout).map(({ prompt }) => prompt)).toEqual(['今日は', '休日の朝に']);
  expect(stderr).toMatch(/^tiny-ja-neox: [^\n]*\n$/);
});

test('Ctrl-C stops a training run with 130, and --resume goes on with it', async () => {
  const out = folder.join('run');
  const args = [
    'train',
    '--model',
    MODEL,
    '--threads',
    '1',
    '--data',
    DATA,
    '--out',
    out,
    '--json',
    '--n-training-steps',
    '4',
    '--no-samples',
  ];
  const { code, signal, stdout, stderr } = await start(args, {
    until: (text, child) => text.includes('"type":"step"') && child.kill('SIGINT'),
  });
  expect({ code, signal }).toEqual({ code: 130, signal: null });
  const last = jsonLines(stdout).at(-1) as { type: string; step: number };
  expect(last).toMatchObject({ type: 'interrupted' });
  expect(existsSync(join(out, 'last.safetensors'))).toBe(true);
  expect(stderr).toContain(
    `saved at step ${last.step}; the same command with --resume goes on from there\ninterrupted\n`,
  );
  const resumed = await start([...args, '--resume'], {});
  expect(resumed.code).toBe(0);
  const events = jsonLines(resumed.stdout) as { type: string; step?: number }[];
  expect(events[0]).toMatchObject({ type: 'resume', step: last.step });
  expect(events.filter(({ type }) => type === 'step').map(({ step }) => step)).toEqual([1, 2, 3, 4].slice(last.step));
});

test('a second Ctrl-C ends the process at once', async () => {
  // A python3 that answers nothing and cannot be stopped, which the first Ctrl-C waits for.
  const bin = folder.join('bin');
  mkdirSync(bin);
  writeFileSync(
    join(bin, 'python3'),
    `#!/bin/bash\ntrap '' TERM INT\necho ready >&2\ntouch '${folder.join('ready')}'\nsleep 30 <&- >&- 2>&-\n`,
  );
  chmodSync(join(bin, 'python3'), 0o755);
  let interrupted = 0;
  const program = ['-r', join(ROOT, 'test', 'typescript.cjs'), join(ROOT, 'lib', 'cli', 'main.ts')];
  const child = spawn(process.execPath, [...program, 'fetch-libtorch', '--destination', folder.join('libtorch')], {
    env: { ...process.env, PATH: `${bin}:${process.env['PATH'] ?? ''}` },
    stdio: 'ignore',
  });
  const timer = setInterval(() => {
    if (!existsSync(folder.join('ready'))) return;
    clearInterval(timer);
    interrupted = performance.now();
    child.kill('SIGINT');
    setTimeout(() => child.kill('SIGINT'), 500);
  }, 50);
  const signal = await new Promise((resolve) => child.on('exit', (_code, name) => resolve(name)));
  expect(signal).toBe('SIGINT');
  expect(performance.now() - interrupted).toBeLessThan(10_000);
});

test('a reader that goes away early ends the program as SIGPIPE does, without a word', async () => {
  const prompts = folder.join('prompts.txt');
  writeFileSync(prompts, '今日は\n'.repeat(200));
  const args = [
    'generate',
    '--model',
    MODEL,
    '--threads',
    '1',
    '--max-new-tokens',
    '20',
    '--prompts-file',
    prompts,
    '--batch-size',
    '1',
    '--quiet',
  ];
  const { code, signal, stdout, stderr } = await start(args, {
    until: (_text, child) => {
      child.stdout?.destroy();
      return true;
    },
  });
  expect({ code, signal, stderr }).toEqual({ code: 141, signal: null, stderr: '' });
  expect(stdout.split('\n').length).toBeLessThan(100);
});

test.each([['doctor'], ['inspect', MODEL], ['--help']])(
  '%s: an output that cannot be written is an error of one line',
  async (...args) => {
    const full = openSync('/dev/full', 'w');
    const program = ['-r', join(ROOT, 'test', 'typescript.cjs'), join(ROOT, 'lib', 'cli', 'main.ts')];
    const child = spawn(process.execPath, [...program, ...args], { stdio: ['ignore', full, 'pipe'] });
    let stderr = '';
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const code = await new Promise((resolve) => child.on('close', resolve));
    closeSync(full);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'error: cannot write the output: ENOSPC: no space left on device\n',
    });
  },
);
