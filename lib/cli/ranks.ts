import { isError } from '../base/errors';
import type { Option } from 'commander';
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../base/package';
import { type Launcher, LAUNCHERS } from '../distributed/environment';
import { launch, numaNodes } from '../distributed/launcher';
import { ProcessGroup } from '../distributed/process-group';
import { integer, number, option } from './flags';
import { Interrupted } from './io';
import { Ui } from './ui';
import { UsageError } from './usage-errors';

export interface RankFlags {
  nproc?: number | 'auto';
  launcher?: Launcher;
  samplesPerRank?: number;
  distTimeout?: number;
  distInterface?: string;
  logDir?: string;
  maxRestarts?: number;
  device?: string;
  threads?: number;
}

export const rankOptions = (): Option[] => [
  option<number | 'auto'>('--nproc <n>', 'start n processes here that train together; auto: one for each NUMA node', {
    parse: (text) => (text === 'auto' ? text : integer(1)(text)),
  }),
  option('--launcher <name>', 'whose variables say which rank this process is', {
    choices: LAUNCHERS,
    default: 'env where RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set',
    conflicts: ['nproc'],
  }),
  option('--samples-per-rank <n>', "a batch is n samples for each rank, as torchrun's scripts count it", {
    parse: integer(1),
    conflicts: ['batchSize', 'batchTokens'],
  }),
  option('--dist-timeout <s>', 'longest wait for another rank, in seconds', {
    parse: number(0, 1e6, true),
    default: 600,
  }),
  option('--dist-interface <name>', 'network interface of the exchanges', {
    default: 'GLOO_SOCKET_IFNAME, else that which reaches rank 0',
  }),
  option('--log-dir <dir>', 'with --nproc, a file for what each rank writes to stderr'),
  option('--max-restarts <n>', 'with --nproc, how often all ranks are started again with --resume after one failed', {
    parse: integer(0),
    default: 0,
  }),
];

/** Those of the launcher alone; each has a value. */
const OF_LAUNCHER = ['--nproc', '--log-dir', '--max-restarts'];

/** What the ranks are started with. */
function argumentsOfRanks(argv: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const [name = ''] = (argv[i] as string).split('=');
    if (!OF_LAUNCHER.includes(name.replaceAll('_', '-'))) kept.push(argv[i] as string);
    else if (!(argv[i] as string).includes('=')) i++;
  }
  return kept;
}

/**
 * Starts the ranks, where that is asked for: with --nproc, or by the variables of a Kubeflow TrainJob.
 * @returns the exit status; undefined where this process is to work itself
 */
export async function launchRanks(flags: RankFlags, ui: Ui): Promise<number | undefined> {
  const { env, signal, program } = ui.io;
  const isRank = (env['RANK'] ?? '') !== '' && (env['WORLD_SIZE'] ?? '') !== '';
  if (flags.nproc !== undefined && isRank) {
    throw new UsageError(
      '--nproc starts processes, and RANK and WORLD_SIZE say that this is one of several already',
      'leave out --nproc, or unset the variables',
    );
  }
  if (isRank || flags.launcher !== undefined) return undefined;
  const fromPet = env['PET_NNODES'] === undefined ? undefined : (env['PET_NPROC_PER_NODE'] ?? '1');
  const asked = flags.nproc ?? fromPet;
  if (asked === undefined) return undefined;
  const processes = asked === 'auto' ? numaNodes() : Number(asked);
  if (!Number.isSafeInteger(processes) || processes < 1)
    throw new UsageError(`PET_NPROC_PER_NODE is '${asked}', and should be a number or auto`);
  const args = argumentsOfRanks(ui.io.argv ?? []);
  const again = args.filter((arg) => arg !== '--overwrite' && arg !== '--resume');
  return launch({
    ...{ processes, args, env, signal, logDir: flags.logDir, maxRestarts: flags.maxRestarts },
    program: program ?? [process.execPath, join(PACKAGE_ROOT, 'dist', 'cli', 'main.js')],
    resumeArgs: [...again, '--resume'],
    write: (line) => void ui.io.stderr.write(`${line}\n`),
  });
}

/** What a command does on each rank. */
export interface RankContext<Flags> {
  group: ProcessGroup | undefined;
  /** The flags, with device and threads of this rank. */
  flags: Flags;
  /** Says nothing but warnings and errors on ranks above 0. */
  ui: Ui;
}

/** Meets the other ranks, where there are some, and tells them where this one fails. */
export async function onRank<Flags extends RankFlags>(
  flags: Flags,
  ui: Ui,
  body: (context: RankContext<Flags>) => Promise<number>,
): Promise<number> {
  const { env, signal } = ui.io;
  let group: ProcessGroup | undefined;
  try {
    group = await ProcessGroup.join({
      ...{ env, signal },
      ...(flags.launcher !== undefined && { launcher: flags.launcher }),
      ...(flags.distTimeout !== undefined && { timeoutSeconds: flags.distTimeout }),
      ...(flags.distInterface !== undefined && { interface: flags.distInterface }),
    });
    if (group === undefined) return await body({ group, flags, ui });
    const mine = { ...flags, ...ofRank(flags, group, ui) };
    const silent = new Ui({ ...ui.io, stdout: { write: () => true } }, { ...ui.options, quiet: true });
    return await body({ group, flags: mine, ui: group.rank === 0 ? ui : silent });
  } catch (error) {
    if (group !== undefined) await group.fail(error);
    tellTorchrun(error, env);
    // Another rank was stopped, and this one with it.
    if (group !== undefined && error instanceof DOMException && error.name === 'AbortError') {
      ui.note(error.message);
      throw new Interrupted(130);
    }
    throw error;
  } finally {
    await group?.dispose();
  }
}

/** The device and the compute threads of a rank, where they are not given. */
function ofRank(flags: RankFlags, group: ProcessGroup, ui: Ui): { device?: string; threads?: number } {
  const device = flags.device === 'cuda' ? { device: `cuda:${group.localRank}` } : {};
  if (flags.threads !== undefined) return device;
  const threads = Math.max(1, Math.floor(availableParallelism() / group.localSize));
  const set = ui.io.env['OMP_NUM_THREADS'];
  if (set === undefined || set === '') return { ...device, threads };
  if (set === '1' && threads > 1 && group.rank === 0)
    ui.warn(`OMP_NUM_THREADS=1, as torchrun sets it, leaves most processors idle; --threads ${threads} would use them`);
  return device;
}

/** torchrun shows what is in this file as the cause of a failure: as a call stack, in a form of its own. */
function tellTorchrun(error: unknown, env: NodeJS.ProcessEnv): void {
  const path = env['TORCHELASTIC_ERROR_FILE'];
  if (path === undefined || path === '' || !isError(error)) return;
  const extraInfo = { py_callstack: error.message, timestamp: String(Math.floor(Date.now() / 1000)) };
  try {
    writeFileSync(path, JSON.stringify({ message: { message: error.message, extraInfo } }));
  } catch {
    // The error itself is told all the same.
  }
}

/** Samples in a batch of all ranks. */
export function batchSizeOf(flags: RankFlags, group: ProcessGroup | undefined): { batchSize?: number } {
  return flags.samplesPerRank === undefined ? {} : { batchSize: flags.samplesPerRank * (group?.size ?? 1) };
}
