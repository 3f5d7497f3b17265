#!/usr/bin/env node
import { Interrupted } from './io';
import { runCli } from './program';

const controller = new AbortController();

/** The first time, the command stops and cleans up. The second time, the signal does what it does to a program without a handler. */
function interrupt(signal: 'SIGINT' | 'SIGTERM'): void {
  if (!controller.signal.aborted) {
    controller.abort(new Interrupted(signal === 'SIGINT' ? 130 : 143));
    return;
  }
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}

process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  // The reader of the output has seen enough (`neox-prefix ... | head`).
  controller.abort(new Interrupted(0));
});
process.stderr.on('error', () => undefined);

void runCli(process.argv.slice(2), {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  signal: controller.signal,
  interrupt: () => interrupt('SIGINT'),
}).then((status) => {
  process.exitCode = status;
});
