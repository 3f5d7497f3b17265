import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';

/** Whose variables say which rank a process is. */
export const LAUNCHERS = ['env', 'slurm', 'mpi', 'none'] as const;
export type Launcher = (typeof LAUNCHERS)[number];

/** Which of several processes this one is, and where they meet. */
export interface RankEnvironment {
  rank: number;
  /** Number of processes. */
  size: number;
  /** Among the processes of this host. */
  localRank: number;
  localSize: number;
  /** Of the store where they meet. */
  host: string;
  port: number;
  /** Whether this process opens the store. */
  hostsStore: boolean;
  /** How often the launcher has started all anew: a start has keys of its own in a store that outlives it. */
  attempt: string;
}

type Env = Readonly<Record<string, string | undefined>>;

const TORCH = ['RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'] as const;

/**
 * What the variables of a launcher say.
 * @param launcher undefined: torchrun's, where all of them are set
 * @returns undefined where there is one process
 * @throws NEOX_BAD_ARGUMENT for variables that are missing or make no sense
 */
export function readEnvironment(env: Env, launcher: Launcher | undefined): RankEnvironment | undefined {
  const found = read(env, launcher);
  if (found === undefined || found.size === 1) return undefined;
  if (found.rank >= found.size)
    throw badArgument('the rank', `a number below the number of ranks (${found.size})`, found.rank);
  return found;
}

function read(env: Env, launcher: Launcher | undefined): RankEnvironment | undefined {
  switch (launcher) {
    case 'none':
      return undefined;
    case 'slurm':
      return fromSlurm(env);
    case 'mpi':
      return fromMpi(env);
    default: {
      const isSet = TORCH.filter((name) => given(env, name) !== undefined);
      if (launcher === undefined && isSet.length === 0) return undefined;
      return fromTorch(env, isSet);
    }
  }
}

function given(env: Env, name: string): string | undefined {
  return env[name] === '' ? undefined : env[name];
}

function missing(name: string, launcher: string, hint: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `The environment variable ${name} is not set, which ${launcher}`, {
    hint,
  });
}

/** A variable that holds a whole number. */
function number(env: Env, name: string, min = 0, max = Number.MAX_SAFE_INTEGER): number | undefined {
  const text = given(env, name);
  if (text === undefined) return undefined;
  const value = /^\d+$/.test(text.trim()) ? Number(text) : NaN;
  if (!(value >= min && value <= max))
    throw badArgument(`the environment variable ${name}`, `a whole number of at least ${min}`, text);
  return value;
}

function fromTorch(env: Env, isSet: readonly string[]): RankEnvironment {
  const absent = TORCH.find((name) => !isSet.includes(name));
  if (absent !== undefined) {
    throw missing(
      absent,
      isSet.length > 0 ? `${isSet.join(' and ')} ${isSet.length > 1 ? 'need' : 'needs'}` : "launcher 'env' needs",
      "start with torchrun or --nproc, set it, or say launcher 'none' for one process",
    );
  }
  const rank = number(env, 'RANK') ?? 0;
  const size = number(env, 'WORLD_SIZE', 1) ?? 1;
  const attempt = given(env, 'TORCHELASTIC_RESTART_COUNT') ?? '0';
  return {
    ...{ rank, size, attempt },
    ...local(number(env, 'LOCAL_RANK'), number(env, 'LOCAL_WORLD_SIZE', 1)),
    ...meeting(env, rank),
    // The agent of torchrun has the store then, and every rank is a client of it.
    hostsStore: rank === 0 && given(env, 'TORCHELASTIC_USE_AGENT_STORE')?.toLowerCase() !== 'true',
  };
}

function local(rank: number | undefined, size: number | undefined): { localRank: number; localSize: number } {
  return { localRank: rank ?? 0, localSize: size ?? 1 };
}

function meeting(env: Env, rank: number): { host: string; port: number; hostsStore: boolean } {
  const host = given(env, 'MASTER_ADDR');
  const port = number(env, 'MASTER_PORT', 1, 65535);
  if (host === undefined || port === undefined) {
    throw missing(
      host === undefined ? 'MASTER_ADDR' : 'MASTER_PORT',
      'says where the ranks meet',
      'set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port of it, on every rank (mpirun: -x MASTER_ADDR -x MASTER_PORT)',
    );
  }
  return { host, port, hostsStore: rank === 0 };
}

function fromSlurm(env: Env): RankEnvironment {
  const rank = number(env, 'SLURM_PROCID');
  const size = number(env, 'SLURM_NTASKS', 1) ?? number(env, 'SLURM_NPROCS', 1);
  if (rank === undefined || size === undefined)
    throw missing(rank === undefined ? 'SLURM_PROCID' : 'SLURM_NTASKS', "launcher 'slurm' needs", 'start with srun');
  // Not SLURM_LAUNCH_NODE_IPADDR, which under salloc is the login node.
  const nodes = given(env, 'SLURM_STEP_NODELIST') ?? given(env, 'SLURM_JOB_NODELIST');
  const host = given(env, 'MASTER_ADDR') ?? (nodes === undefined ? undefined : firstHost(nodes));
  if (host === undefined) throw missing('SLURM_STEP_NODELIST', "launcher 'slurm' needs", 'start with srun');
  return {
    ...{ rank, size, attempt: given(env, 'SLURM_RESTART_COUNT') ?? '0' },
    ...local(number(env, 'SLURM_LOCALID'), tasksOfNode(env)),
    ...{ host, port: number(env, 'MASTER_PORT', 1, 65535) ?? slurmPort(env), hostsStore: rank === 0 },
  };
}

/** The first host of a list as Slurm writes it, for example `gpu[003-010,12],login`. */
export function firstHost(list: string): string {
  const [, name = list, first] = /^([^[,]+)(?:\[(\w+))?/.exec(list) ?? [];
  return first === undefined ? name : `${name}${first}${/^[^[,]+\[[^\]]*\]([^,[]*)/.exec(list)?.[1] ?? ''}`;
}

/** A port that the steps of one job agree on, below those that systems hand out. */
function slurmPort(env: Env): number {
  const job = number(env, 'SLURM_JOB_ID') ?? 0;
  // The steps of batch and interactive jobs have numbers near 2 ** 32.
  const step = (number(env, 'SLURM_STEP_ID') ?? 0) % 16;
  return 15_000 + ((job * 16 + step) % 16_000);
}

/** Of `2(x3),1`: nodes 0 to 2 have two tasks, node 3 has one. */
function tasksOfNode(env: Env): number | undefined {
  const node = number(env, 'SLURM_NODEID') ?? 0;
  const counts = (given(env, 'SLURM_STEP_TASKS_PER_NODE') ?? given(env, 'SLURM_TASKS_PER_NODE') ?? '')
    .split(',')
    .flatMap((part) => {
      const [, tasks, times] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? [];
      return tasks === undefined ? [] : new Array<number>(Number(times ?? 1)).fill(Number(tasks));
    });
  return counts[node];
}

function fromMpi(env: Env): RankEnvironment {
  const rank = number(env, 'OMPI_COMM_WORLD_RANK') ?? number(env, 'PMI_RANK');
  const size = number(env, 'OMPI_COMM_WORLD_SIZE', 1) ?? number(env, 'PMI_SIZE', 1);
  if (rank === undefined || size === undefined) {
    throw missing(
      rank === undefined ? 'OMPI_COMM_WORLD_RANK or PMI_RANK' : 'OMPI_COMM_WORLD_SIZE or PMI_SIZE',
      "launcher 'mpi' needs",
      'start with mpirun',
    );
  }
  const localRank = number(env, 'OMPI_COMM_WORLD_LOCAL_RANK') ?? number(env, 'MPI_LOCALRANKID');
  const localSize = number(env, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1) ?? number(env, 'MPI_LOCALNRANKS', 1);
  if (size === 1) return { rank, size, localRank: 0, localSize: 1, host: '', port: 0, hostsStore: true, attempt: '0' };
  return { ...{ rank, size, attempt: '0' }, ...local(localRank, localSize), ...meeting(env, rank) };
}
