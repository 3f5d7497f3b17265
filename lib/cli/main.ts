#!/usr/bin/env node
import { Interrupted } from './io';
import { runCli } from './program';

const controller = new AbortController();

/** The first time: the command stops and cleans up. The second time: at once. */
function interrupt(exitCode: number): void {
  if (controller.signal.aborted) process.exit(exitCode);
  controller.abort(new Interrupted(exitCode));
}

process.on('SIGINT', () => interrupt(130));
process.on('SIGTERM', () => interrupt(143));
// The reader of the output has seen enough (`neox-prefix ... | head`).
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});
process.stderr.on('error', () => undefined);

void runCli(process.argv.slice(2), {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  signal: controller.signal,
  interrupt: () => interrupt(130),
}).then((status) => {
  process.exitCode = status;
});
