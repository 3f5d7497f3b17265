#!/usr/bin/env node
import { LAUNCHED } from '../distributed/launcher';
import { Interrupted, OutputLost } from './io';
import { runCli } from './program';

const controller = new AbortController();

/**
 * The first time, the command stops and cleans up. The second time, the signal does what it does to a program without a
 * handler.
 */
function interrupt(signal: 'SIGINT' | 'SIGTERM'): void {
  if (!controller.signal.aborted) {
    controller.abort(new Interrupted(signal === 'SIGINT' ? 130 : 143));
    return;
  }
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}

process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
if (process.env[LAUNCHED] !== undefined && process.channel !== undefined) {
  // Whoever started the ranks is gone, however it ended.
  process.on('disconnect', () => interrupt('SIGTERM'));
  process.channel.unref();
}
let lost: OutputLost | undefined;
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (lost !== undefined) return;
  lost = new OutputLost(error);
  // It may come when the command is done already.
  process.exitCode = lost.exitCode;
  // A reader that has seen enough (`neox-prefix ... | head`) wants to hear no more either.
  if (error.code !== 'EPIPE') process.stderr.write(`error: ${lost.message}\n`);
  controller.abort(lost);
});
process.stderr.on('error', () => undefined);

void runCli(process.argv.slice(2), {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  program: [process.execPath, ...process.execArgv, process.argv[1] as string],
  signal: controller.signal,
  interrupt: () => interrupt('SIGINT'),
}).then((status) => {
  process.exitCode = lost?.exitCode ?? status;
});
