// What the scripts share. Only Node's built-ins: it runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const require = createRequire(join(root, 'package.json'));

/** A failure that is told in one message, without a stack. */
export class Failure extends Error {}

/** True in a clone of the repository; an installed package has neither lib/ nor the TypeScript compiler. */
export const isCheckout = existsSync(join(root, 'tsconfig.json'));

export function fromRoot(...parts) {
  return join(root, ...parts);
}

const { signals } = constants;

/** Runs a program with its output on this terminal and resolves with its exit status; Ctrl-C reaches it too. */
export function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit', cwd: root, ...options });
    // Ctrl-C is the child's to answer: without a handler here this process would be gone before the child has said its
    // last line.
    const leaveToChild = () => undefined;
    process.on('SIGINT', leaveToChild);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      process.off('SIGINT', leaveToChild);
      resolve(signal === null ? code : 128 + (signals[signal] ?? 0));
    });
  });
}

/** A program's output, or undefined when it is missing or fails. */
export function output(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', timeout: 30_000 });
  return result.status === 0 ? result.stdout : undefined;
}

/** The newest modification time under the paths (folders count too: a deleted file changes its folder). */
export function newest(paths) {
  let time = 0;
  for (const path of paths) {
    const status = statSync(path, { throwIfNoEntry: false });
    if (status === undefined) continue;
    time = Math.max(time, status.mtimeMs);
    if (status.isDirectory()) time = Math.max(time, newest(readdirSync(path).map((name) => join(path, name))));
  }
  return time;
}

/** Runs the body while no other process does, by a file that names the process at work. */
export async function withLock(path, body) {
  mkdirSync(dirname(path), { recursive: true });
  for (let waited = 0; !takeLock(path); waited++) {
    if (waited === 0) console.log('waiting for another build to end');
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const release = () => rmSync(path, { force: true });
  process.once('exit', release);
  try {
    return await body();
  } finally {
    process.off('exit', release);
    release();
  }
}

function takeLock(path) {
  try {
    writeFileSync(path, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
  const owner = existsSync(path) ? Number(readFileSync(path, 'utf8')) : NaN;
  // A file that is not yet filled in is one that is being written; an old one without an owner was left by a crash.
  if (owner > 0 ? !isAlive(owner) : age > 5000) rmSync(path, { force: true });
  return false;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Runs a script's main function: a Failure or a NeoXPrefixError becomes one message and exit status 1. */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    const known = error instanceof Failure || error?.name === 'NeoXPrefixError';
    console.error(known ? `\nerror: ${error.message}` : error);
    process.exitCode = 1;
  }
}
