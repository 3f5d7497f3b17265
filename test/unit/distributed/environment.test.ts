import { isNeoXPrefixError, type NeoXPrefixError } from '../../../lib/base/errors';
import { firstHost, readEnvironment } from '../../../lib/distributed/environment';

function expectError(act: () => unknown, code: string): NeoXPrefixError {
  try {
    act();
  } catch (error) {
    if (isNeoXPrefixError(error) && error.code === code) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const TORCH = { RANK: '3', WORLD_SIZE: '4', MASTER_ADDR: 'a', MASTER_PORT: '29500' };

test("torchrun's variables", () => {
  expect(readEnvironment({ ...TORCH, LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2' }, undefined)).toEqual({
    ...{ rank: 3, size: 4, localRank: 1, localSize: 2, host: 'a', port: 29500, hostsStore: false, attempt: '0' },
  });
  expect(readEnvironment({ ...TORCH, RANK: '0' }, 'env')).toMatchObject({ rank: 0, hostsStore: true });
});

test("where torchrun's agent has the store, rank 0 is a client, and each start has its own keys", () => {
  const env = { ...TORCH, RANK: '0', TORCHELASTIC_USE_AGENT_STORE: 'True', TORCHELASTIC_RESTART_COUNT: '2' };
  expect(readEnvironment(env, undefined)).toMatchObject({ hostsStore: false, attempt: '2' });
});

test('a process without variables, or with one rank, is alone', () => {
  expect(readEnvironment({}, undefined)).toBeUndefined();
  expect(readEnvironment({ RANK: '', MASTER_PORT: '' }, undefined)).toBeUndefined();
  expect(readEnvironment({ ...TORCH, RANK: '0', WORLD_SIZE: '1' }, undefined)).toBeUndefined();
  expect(readEnvironment(TORCH, 'none')).toBeUndefined();
});

test('some of the variables without the others: the error names what is missing', () => {
  const rest = { ...TORCH, MASTER_PORT: undefined };
  const error = expectError(() => readEnvironment(rest, undefined), 'NEOX_BAD_ARGUMENT');
  expect(error.message).toMatch(/MASTER_PORT is not set, which RANK and WORLD_SIZE and MASTER_ADDR need/);
  expect(error.hint).toMatch(/torchrun or --nproc/);
  expect(expectError(() => readEnvironment({}, 'env'), 'NEOX_BAD_ARGUMENT').message).toMatch(/RANK is not set/);
});

test.each([
  ['RANK', '-1', /RANK but received '-1'/],
  ['RANK', '4', /below the number of ranks \(4\) for the rank but received 4/],
  ['WORLD_SIZE', '0', /WORLD_SIZE but received '0'/],
  ['WORLD_SIZE', 'two', /WORLD_SIZE but received 'two'/],
  ['MASTER_PORT', '70000', /MASTER_PORT but received '70000'/],
])('%s=%s is refused', (name, value, message) => {
  expect(
    expectError(() => readEnvironment({ ...TORCH, [name]: value }, undefined), 'NEOX_BAD_ARGUMENT').message,
  ).toMatch(message);
});

const SLURM = {
  ...{ SLURM_PROCID: '2', SLURM_NTASKS: '5', SLURM_LOCALID: '0', SLURM_NODEID: '1', SLURM_JOB_ID: '4711' },
  ...{ SLURM_STEP_NODELIST: 'gpu[03-05,09]', SLURM_STEP_TASKS_PER_NODE: '2,1(x3)', SLURM_STEP_ID: '1' },
};

test("Slurm's variables, on request", () => {
  expect(readEnvironment(SLURM, undefined)).toBeUndefined();
  const found = readEnvironment(SLURM, 'slurm');
  expect(found).toMatchObject({ rank: 2, size: 5, localRank: 0, localSize: 1, host: 'gpu03', hostsStore: false });
  expect(readEnvironment({ ...SLURM, SLURM_PROCID: '0', SLURM_NODEID: '0' }, 'slurm')).toMatchObject({
    ...{ localSize: 2, hostsStore: true, port: found?.port },
  });
  expect(readEnvironment({ ...SLURM, SLURM_STEP_ID: '2' }, 'slurm')?.port).not.toBe(found?.port);
  expect(readEnvironment({ ...SLURM, MASTER_ADDR: 'b', MASTER_PORT: '1234' }, 'slurm')).toMatchObject({
    ...{ host: 'b', port: 1234 },
  });
  expect(expectError(() => readEnvironment({}, 'slurm'), 'NEOX_BAD_ARGUMENT').message).toMatch(/SLURM_PROCID/);
});

test.each([
  ['a', 'a'],
  ['a,b', 'a'],
  ['node[003-010,12],b', 'node003'],
  ['n[7]-x,b', 'n7-x'],
  ['rack-2-node[1,3]', 'rack-2-node1'],
])('the first host of %s is %s', (list, host) => expect(firstHost(list)).toBe(host));

test("Open MPI's and MPICH's variables, on request", () => {
  const meeting = { MASTER_ADDR: 'a', MASTER_PORT: '1234' };
  const open = { OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '1' };
  expect(readEnvironment({ ...open, ...meeting, OMPI_COMM_WORLD_LOCAL_SIZE: '2' }, 'mpi')).toMatchObject({
    ...{ rank: 1, size: 2, localRank: 1, localSize: 2, host: 'a', port: 1234 },
  });
  expect(readEnvironment({ PMI_RANK: '0', PMI_SIZE: '3', ...meeting }, 'mpi')).toMatchObject({ rank: 0, size: 3 });
  const error = expectError(() => readEnvironment(open, 'mpi'), 'NEOX_BAD_ARGUMENT');
  expect(error.message).toMatch(/MASTER_ADDR/);
  expect(error.hint).toMatch(/mpirun: -x MASTER_ADDR -x MASTER_PORT/);
  expect(readEnvironment({ PMI_RANK: '0', PMI_SIZE: '1' }, 'mpi')).toBeUndefined();
});
