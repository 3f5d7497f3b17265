import { PassThrough, Readable } from 'node:stream';
import { Interrupted, type CliIO } from '../../../lib/cli/io';
import { runCli } from '../../../lib/cli/program';

export interface FakeOptions {
  /** What stdin gives before it ends. */
  stdin?: string | Buffer;
  /** Whether stdout and stderr are a terminal. */
  isTTY?: boolean;
  env?: NodeJS.ProcessEnv;
}

export interface FakeIO extends CliIO {
  /** What was written so far. */
  text: { stdout: string; stderr: string };
}

export function fakeIO({ stdin = '', isTTY = false, env = {} }: FakeOptions = {}): FakeIO {
  const controller = new AbortController();
  const text = { stdout: '', stderr: '' };
  const stream = (name: 'stdout' | 'stderr'): CliIO['stdout'] => {
    const target = new PassThrough();
    target.on('data', (chunk: Buffer) => (text[name] += chunk.toString()));
    return Object.assign(target, { isTTY, columns: 120 });
  };
  return {
    stdin: Readable.from(stdin.length === 0 ? [] : [stdin]),
    stdout: stream('stdout'),
    stderr: stream('stderr'),
    env,
    signal: controller.signal,
    interrupt: () => controller.abort(new Interrupted(130)),
    text,
  };
}

export interface CliResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the command line in this process. */
export async function cli(args: readonly string[], options: FakeOptions & { io?: FakeIO } = {}): Promise<CliResult> {
  const io = options.io ?? fakeIO(options);
  const code = await runCli(args, io);
  // The streams hand on what was written in later turns of the event loop.
  await new Promise(setImmediate);
  return { code, ...io.text };
}

/** The values on the lines of an output that is JSON and nothing else. */
export function jsonLines(stdout: string): Record<string, unknown>[] {
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
