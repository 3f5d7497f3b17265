import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { constants, hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import * as addon from '../../../lib/addon/addon';
import { holderOf, RunLock } from '../../../lib/runs/run-lock';
import { expectRefusal, failureOf, temporaryFolder } from '../../helpers';

const folder = temporaryFolder();
const path = folder.join('run.lock');
const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
const claimOf = (owner: object): string =>
  JSON.stringify({ pid: process.pid, host: 'elsewhere', boot, token: 'another', ...owner });
const QUICK = { beat: 10, watch: 200 };

afterEach(() => rmSync(path, { force: true }));

test.each([
  { before: 'nothing', text: undefined },
  { before: 'the lock of a dead process, whose number lives', text: claimOf({}) },
  { before: 'a lock that was never written', text: '' },
  { before: 'a lock of an older version', text: JSON.stringify({ pid: process.pid, process: 'a boot ago:1:1' }) },
])('of many that come at once one gets the folder: $before', async ({ text }) => {
  for (let round = 0; round < 5; round++) {
    if (text !== undefined) writeFileSync(path, text);
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => RunLock.take(path)));
    const locks = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    expect(locks).toHaveLength(1);
    for (const error of refused) expect(error).toMatchObject({ code: 'NEOX_BUSY' });
    expect(readdirSync(folder.path)).toEqual(['run.lock']);
    await locks[0]?.release();
    expect(readdirSync(folder.path)).toEqual([]);
  }
});

describe('another process', () => {
  let child: ChildProcess;

  beforeEach(async () => {
    const programs = join(__dirname, '..', '..', 'exit', 'programs');
    child = spawn(process.execPath, [
      '-r',
      join(programs, '..', '..', 'typescript.cjs'),
      join(programs, 'lock.ts'),
      path,
    ]);
    await once(child.stdout as NodeJS.ReadableStream, 'data');
  });

  afterEach(() => child.kill('SIGKILL'));

  test('keeps the folder whatever its file says, and until it is killed', async () => {
    const expected = { pid: child.pid, host: hostname() };
    expect(await holderOf(path)).toMatchObject(expected);
    await expectRefusal({
      name: 'take',
      act: () => RunLock.take(path),
      code: 'NEOX_BUSY',
      text: `Another training run is at work in this folder: process ${child.pid ?? 0} on ${hostname()}
Hint: wait for it, or choose another folder`,
    });
    // In another container its number is nobody's here, or somebody else's.
    for (const pid of [1, 2 ** 30, process.pid]) {
      writeFileSync(path, claimOf({ pid }));
      expect(await failureOf(RunLock.take(path))).toMatchObject({ code: 'NEOX_BUSY' });
      expect(await holderOf(path)).toMatchObject({ pid, host: 'elsewhere' });
    }
    child.kill('SIGKILL');
    await once(child, 'close');
    expect(await holderOf(path)).toBeUndefined();
    const lock = await RunLock.take(path);
    await lock.release();
    expect(existsSync(path)).toBe(false);
  });

  test('that lost its lock leaves that of another alone', async () => {
    rmSync(path);
    const lock = await RunLock.take(path);
    child.stdin?.write('go on\n');
    await once(child, 'close');
    expect(await holderOf(path)).toMatchObject({ pid: process.pid });
    await lock.release();
  });
});

test('a holder whose lock was removed and taken by another learns it, and removes nothing', async () => {
  const first = await RunLock.take(path, QUICK);
  expect(() => first.check()).not.toThrow();
  rmSync(path);
  const second = await RunLock.take(path, QUICK);
  await setTimeout(100);
  await expectRefusal({
    name: 'take',
    act: () => first.check(),
    code: 'NEOX_BUSY',
    text: `Another training run has taken the lock of this folder from this one
Hint: one of the two has to end; its last state is in the folder`,
  });
  await first.release();
  expect(existsSync(path)).toBe(true);
  expect(() => second.check()).not.toThrow();
  await second.release();
  expect(existsSync(path)).toBe(false);
});

describe('a lock of another machine, which this one is not told of', () => {
  test.each([{ boot: 'of another machine' }, { boot: null }])('counts as long as it shows life: %p', async (owner) => {
    writeFileSync(path, claimOf(owner));
    const beat = setInterval(() => utimesSync(path, new Date(), new Date()), 20);
    try {
      expect(await failureOf(RunLock.take(path, QUICK))).toMatchObject({ code: 'NEOX_BUSY', path });
      expect(readFileSync(path, 'utf8')).toBe(claimOf(owner));
    } finally {
      clearInterval(beat);
    }
    const lock = await RunLock.take(path, QUICK);
    expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ pid: process.pid, host: hostname(), boot });
    await lock.release();
  });

  test('a lock shows life', async () => {
    const lock = await RunLock.take(path, QUICK);
    const { mtimeMs } = statSync(path);
    await setTimeout(60);
    expect(statSync(path).mtimeMs).toBeGreaterThan(mtimeMs);
    await lock.release();
  });
});

test('a file system without locks is an error that says so', async () => {
  const lockFile = jest.spyOn(addon, 'lockFile').mockReturnValue(constants.errno.ENOLCK);
  try {
    await expectRefusal({
      name: 'take',
      act: () => RunLock.take(path),
      code: 'NEOX_IO',
      text: `The file system of ${path} has no locks (flock: ENOLCK)
Hint: nothing would keep two runs apart there: choose a folder on another one, or mount it with locks`,
    });
    expect(existsSync(path)).toBe(false);
  } finally {
    lockFile.mockRestore();
  }
});
