import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { badArgument } from '../base/arguments';
import { fileError } from '../base/files';

export interface LaunchOptions {
  /** The program and its first arguments. */
  program: readonly string[];
  /** The arguments of each rank. */
  args: readonly string[];
  /** Those of a rank that is started again, after one failed. */
  resumeArgs: readonly string[];
  /** Processes on this host. */
  processes: number;
  env: NodeJS.ProcessEnv;
  /** A folder that gets a file for each rank's stderr. */
  logDir?: string | undefined;
  /** How often all are started again after one failed. Defaults to `0`. */
  maxRestarts?: number | undefined;
  /** Aborts at the first Ctrl-C; the ranks stop then, and save. */
  signal: AbortSignal;
  /** For what ranks above 0 write to stderr, and for what becomes of the ranks. */
  write: (line: string) => void;
}

/** How long ranks may take to see by themselves that one is gone, and to end when they are told, in milliseconds. */
const GRACE = 10_000;
const PATIENCE = 30_000;

/** What says to a process that a launcher started it, which ends when its channel does. */
export const LAUNCHED = 'NEOX_PREFIX_LAUNCHED';

/**
 * Starts the processes of one host and waits for them. They have sessions of their own, so that a Ctrl-C of the
 * terminal reaches them once, by way of this; where this process dies, they see their channel close.
 * @returns the exit status of the first rank that failed, 0 where none did
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const { signal, maxRestarts = 0, write } = options;
  for (let attempt = 0; ; attempt++) {
    const status = await launchOnce(options, attempt);
    if (status === 0 || status === 2 || signal.aborted || attempt >= maxRestarts) return status;
    write(`starting all ranks again (${attempt + 1} of ${maxRestarts})`);
  }
}

async function launchOnce(options: LaunchOptions, attempt: number): Promise<number> {
  const { signal, write, env } = options;
  const place = await placeOf(options, env);
  let status = 0;
  const children: ChildProcess[] = [];
  const tell = (name: NodeJS.Signals): void => {
    for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill(name);
  };
  const timers: NodeJS.Timeout[] = [];
  const later = (milliseconds: number, act: () => void): number => timers.push(setTimeout(act, milliseconds));
  const onAbort = (): void => {
    const { exitCode } = signal.reason as { exitCode?: number };
    tell(exitCode === 130 ? 'SIGINT' : 'SIGTERM');
  };
  const ended = Array.from({ length: options.processes }, (_, local) => {
    const child = start(options, attempt, { ...place, local });
    children.push(child);
    return new Promise<void>((resolve) => {
      const done = (code: number, how: string): void => {
        if (code !== 0 && status === 0) {
          status = code;
          if (!signal.aborted) write(`rank ${place.first + local} (pid ${child.pid}) ended ${how}`);
          later(GRACE, () => tell('SIGTERM'));
          later(GRACE + PATIENCE, () => tell('SIGKILL'));
        }
        resolve();
      };
      child.on('error', (error) => done(1, `before it began: ${error.message}`));
      child.on('exit', (code, name) =>
        done(code ?? 128 + numberOf(name), name === null ? `with ${code}` : `by ${name}`),
      );
    });
  });
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  await Promise.all(ended);
  for (const timer of timers) clearTimeout(timer);
  signal.removeEventListener('abort', onAbort);
  return status;
}

function numberOf(name: NodeJS.Signals | null): number {
  return { SIGINT: 2, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGTERM: 15 }[name as 'SIGINT'] ?? 1;
}

interface Place {
  /** Rank of the first process of this host. */
  first: number;
  size: number;
  host: string;
  port: string;
}

/** On one host, or on the hosts of a Kubeflow TrainJob, whose variables are those of torchrun's options. */
async function placeOf({ processes }: LaunchOptions, env: NodeJS.ProcessEnv): Promise<Place> {
  const nodes = Number(env['PET_NNODES'] ?? '1');
  if (nodes === 1) return { first: 0, size: processes, host: '127.0.0.1', port: String(await freePort()) };
  const node = Number(env['PET_NODE_RANK'] ?? NaN);
  const { PET_MASTER_ADDR: host, PET_MASTER_PORT: port } = env;
  if (!Number.isSafeInteger(nodes) || nodes < 1)
    throw badArgument('the environment variable PET_NNODES', 'a number of hosts', env['PET_NNODES']);
  if (!Number.isSafeInteger(node) || node < 0 || node >= nodes)
    throw badArgument('the environment variable PET_NODE_RANK', `a number below ${nodes}`, env['PET_NODE_RANK']);
  if (!host || !port) throw badArgument('PET_MASTER_ADDR and PET_MASTER_PORT', 'the place of the first host', host);
  return { first: node * processes, size: nodes * processes, host, port };
}

function start(
  { program, args, resumeArgs, processes, env, logDir, write }: LaunchOptions,
  attempt: number,
  { first, size, host, port, local }: Place & { local: number },
): ChildProcess {
  const rank = first + local;
  const [command = process.execPath, ...before] = program;
  const log = logDir === undefined ? undefined : openLog(logDir, rank);
  const isFirst = rank === 0;
  const child = spawn(command, [...before, ...(attempt === 0 ? args : resumeArgs)], {
    detached: true,
    stdio: ['ignore', isFirst ? 'inherit' : 'ignore', log ?? (isFirst ? 'inherit' : 'pipe'), 'ipc'],
    env: {
      ...env,
      ...{ RANK: String(rank), WORLD_SIZE: String(size), LOCAL_RANK: String(local), MASTER_ADDR: host },
      ...{ LOCAL_WORLD_SIZE: String(processes), MASTER_PORT: port, [LAUNCHED]: '1' },
      TORCHELASTIC_RESTART_COUNT: String(attempt),
    },
  });
  if (log !== undefined) closeSync(log);
  if (child.stderr !== null) createInterface(child.stderr).on('line', (line) => write(`[rank ${rank}] ${line}`));
  return child;
}

function openLog(folder: string, rank: number): number {
  const path = join(folder, `rank-${rank}.log`);
  try {
    mkdirSync(folder, { recursive: true });
    return openSync(path, 'a');
  } catch (cause) {
    throw fileError(cause, 'write', path);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** Groups of processors with memory of their own; a process that stays in one reads its weights at full rate. */
export function numaNodes(folder = '/sys/devices/system/node'): number {
  try {
    return Math.max(1, readdirSync(folder).filter((name) => /^node\d+$/.test(name)).length);
  } catch {
    return 1;
  }
}
