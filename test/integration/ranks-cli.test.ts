import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cli } from '../unit/cli/cli-helpers';
import { type Ended, temporaryFolder } from '../helpers';
import { freePort, rankEnv } from '../ranks';
import { TRAIN } from './cli-run';

const MAIN = join(__dirname, '..', '..', 'lib', 'cli', 'main.ts');
const folder = temporaryFolder();
const SHORT = [...TRAIN, '--n-epochs', '1', '--n-training-steps', '4', '--lanes', '4', '--no-samples'];
const LONG = [...TRAIN, '--n-epochs', '1000', '--lanes', '2', '--no-samples', '--save-every-n-steps', '1'];

/** The command line in a process of its own; `onLine` sees what it writes to stderr. */
function start(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  onLine: (text: string, pid: number) => void = () => undefined,
): Promise<Ended> {
  const started = performance.now();
  const child = spawn(process.execPath, ['-r', join(__dirname, '..', 'typescript.cjs'), MAIN, ...args], {
    env: { ...process.env, ...env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
    onLine(chunk.toString(), child.pid ?? 0);
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code, signal, stdout, stderr, milliseconds: performance.now() - started }),
    );
  });
}

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

/** Calls `act` when the run in a folder has saved a state. */
function whenSaved(out: string, act: () => void): NodeJS.Timeout {
  const timer = setInterval(() => {
    if (!existsSync(out) || !readdirSync(out).some((name) => name.startsWith('state-'))) return;
    clearInterval(timer);
    act();
  }, 20);
  return timer;
}

/** Processes of a run: those whose command line names its folder, by rank. */
function pidOf(out: string, rank: number): number {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(out)) continue;
      if (readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`\0RANK=${rank}\0`)) return Number(pid);
    } catch {
      // Gone meanwhile.
    }
  }
  throw new Error(`no rank ${rank}`);
}

test('--nproc 2 gives the bytes of one process, and writes what it writes', async () => {
  const [one, two] = [folder.join('one'), folder.join('two')];
  const alone = await start([...SHORT, '--out', one]);
  const both = await start([...SHORT, '--out', two, '--nproc', '2']);
  expect([alone.code, both.code]).toEqual([0, 0]);
  const timeless = (text: string): string => text.replaceAll(two, one).replace(/in [\d.]+s/, 'in 0s');
  expect(timeless(both.stdout)).toBe(timeless(alone.stdout));
  for (const name of ['best', 'last', 'encoder'])
    expect(sha256(join(two, `${name}.safetensors`))).toBe(sha256(join(one, `${name}.safetensors`)));
  const plain = (names: string[]): string[] => names.map((name) => name.replace(/tfevents\..*/, 'tfevents')).sort();
  expect(plain(readdirSync(two))).toEqual(plain(readdirSync(one)));
  expect(both.stderr).not.toMatch(/\[rank 1\]|frame #|c10/);
});

test('a rank that is killed is named by the others; the launcher has its status; then all go on', async () => {
  const out = folder.join('killed');
  whenSaved(out, () => process.kill(pidOf(out, 1), 'SIGKILL'));
  const first = await start([...LONG, '--out', out, '--nproc', '2']);
  expect(first.code).toBe(137);
  expect(first.stderr).toMatch(/rank 1 \(pid \d+\) ended by SIGKILL/);
  expect(first.stderr).toMatch(/error: Rank 1 \(host .*, pid \d+\) ended\nhint: look at what that rank printed/);
  expect(first.milliseconds).toBeLessThan(30_000);
  const again = await start([...LONG, '--max-seconds', '0.1', '--resume', '--out', out]);
  expect(again.code).toBe(0);
});

test('Ctrl-C at the launcher: the state is saved, and the status is 130', async () => {
  const out = folder.join('stopped');
  let launcher = 0;
  let at = 0;
  whenSaved(out, () => {
    at = performance.now();
    process.kill(launcher, 'SIGINT');
  });
  const ended = await start([...LONG, '--out', out, '--nproc', '2'], {}, (_, pid) => (launcher = pid));
  expect(performance.now() - at).toBeLessThan(5000);
  expect(ended.code).toBe(130);
  expect(ended.stderr).toMatch(/saved at step \d+; the same command with --resume goes on from there/);
});

test('ranks that were started differently say how', async () => {
  const port = await freePort();
  const args = (dtype: string): string[] => [...SHORT, '--dtype', dtype, '--out', folder.join('other')];
  const [first, second] = await Promise.all([
    start(args('float32'), rankEnv(0, 2, port)),
    start(args('bfloat16'), rankEnv(1, 2, port)),
  ]);
  expect([first.code, second.code]).toEqual([1, 1]);
  for (const { stderr } of [first, second])
    expect(stderr).toMatch(/started differently: model: dtype was "float32" and is "bfloat16" on rank 1/);
});

describe('wrong usage', () => {
  test('--nproc inside of ranks', async () => {
    const nested = await cli([...SHORT, '--out', folder.join('x'), '--nproc', '2'], {
      env: { RANK: '0', WORLD_SIZE: '2' },
    });
    expect(nested.code).toBe(2);
    expect(nested.stderr).toMatch(/--nproc starts processes, and RANK and WORLD_SIZE say/);
  });

  test('half of the variables', async () => {
    const half = await cli([...SHORT, '--out', folder.join('x')], { env: { RANK: '0', WORLD_SIZE: '2' } });
    expect(half.code).toBe(1);
    expect(half.stderr).toMatch(/MASTER_ADDR is not set, which RANK and WORLD_SIZE need/);
  });
});

test("DeepSpeed's options are taken, and say what they come to", async () => {
  const options = ['--zero_stage', '2', '--offload', '--local_rank=0', '--deepspeed'];
  const { code, stderr } = await cli([...SHORT, '--out', folder.join('deepspeed'), ...options]);
  expect(code).toBe(0);
  for (const name of ['zero-stage', 'offload', 'local-rank', 'deepspeed'])
    expect(stderr).toContain(`--${name} changes nothing: `);
});
