import { readFileSync } from 'node:fs';
import { launch, numaNodes } from '../../../lib/distributed/launcher';
import { expectRefusal, temporaryFolder } from '../../helpers';

const folder = temporaryFolder();

/** Starts Node with a script on each rank. */
async function run(script: string, more: object = {}): Promise<{ status: number; lines: string[] }> {
  const lines: string[] = [];
  const status = await launch({
    ...{ program: [process.execPath, '-e', script], args: ['first'], resumeArgs: ['again'], processes: 2 },
    ...{ env: { PATH: process.env['PATH'] }, signal: new AbortController().signal },
    write: (line) => lines.push(line),
    ...more,
  });
  return { status, lines };
}

const TELL = `
  const { RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT } = process.env;
  const place = [RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT > 0];
  console.error(...place, process.argv[1], process.env.TORCHELASTIC_RESTART_COUNT)`;

test('each rank knows its place; --log-dir gets what each says, else rank 1 is marked', async () => {
  expect(await run(TELL, { logDir: folder.join('logs') })).toEqual({ status: 0, lines: [] });
  for (const rank of [0, 1])
    expect(readFileSync(folder.join('logs', `rank-${rank}.log`), 'utf8')).toBe(
      `${rank} 2 ${rank} 2 127.0.0.1 true first 0\n`,
    );
  const { lines } = await run(`if (process.env.RANK === '1') { ${TELL} }`);
  expect(lines).toEqual(['[rank 1] 1 2 1 2 127.0.0.1 true first 0']);
});

test('the status is that of the first that failed; all are started again as often as that is wanted', async () => {
  const failing = "if (process.env.RANK === '1') process.exit(7)";
  const once = await run(failing);
  expect(once.status).toBe(7);
  expect(once.lines).toEqual([expect.stringMatching(/^rank 1 \(pid \d+\) ended with 7$/)]);
  const healing = `if (process.argv[1] === 'first' && process.env.RANK === '1') process.exit(7)`;
  const twice = await run(healing, { maxRestarts: 3 });
  expect([twice.status, twice.lines.at(-1)]).toEqual([0, 'starting all ranks again (1 of 3)']);
  const killed = await run("if (process.env.RANK === '1') process.kill(process.pid, 'SIGKILL')");
  expect(killed.status).toBe(137);
});

test('the hosts of a Kubeflow TrainJob', async () => {
  const env = { PATH: process.env['PATH'], PET_NNODES: '3', PET_NODE_RANK: '1' };
  const pet = { ...env, PET_MASTER_ADDR: 'a', PET_MASTER_PORT: '29500' };
  expect((await run(TELL, { env: pet, logDir: folder.join('pet') })).status).toBe(0);
  expect(readFileSync(folder.join('pet', 'rank-3.log'), 'utf8')).toBe('3 6 1 2 a true first 0\n');
  await expectRefusal({
    ...{ name: '', act: () => run(TELL, { env: { ...pet, PET_NODE_RANK: '3' } }) },
    text: /a number below 3 for the environment variable PET_NODE_RANK but received '3'/,
  });
  await expectRefusal({ name: '', act: () => run(TELL, { env }), text: /PET_MASTER_ADDR and PET_MASTER_PORT/ });
});

test('a first signal is handed on once', async () => {
  const controller = new AbortController();
  const script = `
    if (process.env.RANK === '0') process.exit(0);
    let n = 0;
    process.on('SIGINT', () => { n++; setTimeout(() => process.exit(n), 200) });
    setTimeout(() => 0, 9e3);
    console.error('up')`;
  const running = run(script, {
    signal: controller.signal,
    write: (line: string) => {
      if (line.includes('up')) controller.abort(Object.assign(new Error('interrupted'), { exitCode: 130 }));
    },
  });
  expect((await running).status).toBe(1);
});

test('at least one NUMA node', () => {
  expect(numaNodes()).toBeGreaterThanOrEqual(1);
  expect(numaNodes(folder.join('nowhere'))).toBe(1);
});
