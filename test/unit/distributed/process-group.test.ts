import { createServer } from 'node:net';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { JointWork } from '../../../lib/distributed/joint-work';
import { ProcessGroup } from '../../../lib/distributed/process-group';
import { NeoXPrefixError } from '../../../lib/base/errors';
import { expectRefusal, failureOf } from '../../helpers';
import { allRanks, freePort, onRanks, rankEnv } from '../../ranks';

const present = (group: ProcessGroup | undefined): ProcessGroup => {
  if (group === undefined) throw new Error('alone');
  return group;
};

test('ranks know each other, and exchange what they have', async () => {
  const results = await allRanks(3, async (joined) => {
    const group = present(joined);
    await group.barrier();
    const gathered = await group.gather([group.rank, group.rank * 10]);
    const [sent] = await group.broadcast(Float32Array.of(group.rank + 7));
    return { rank: group.rank, size: group.size, localRank: group.localRank, gathered, sent };
  });
  const gathered = [0, 1, 2].map((rank) => [rank, rank * 10]);
  expect(results).toEqual([0, 1, 2].map((rank) => ({ rank, size: 3, localRank: rank, gathered, sent: 7 })));
});

test('nobody listens on another address than that of the store', async () => {
  const listening = (): string[] => {
    const own = new Set(
      readdirSync('/proc/self/fd').flatMap((fd) => {
        try {
          return [/^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? ''];
        } catch {
          return []; // closed meanwhile
        }
      }),
    );
    return ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((file) =>
      readFileSync(file, 'utf8')
        .split('\n')
        .slice(1)
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => fields[3] === '0A' && own.has(fields[9] ?? ''))
        .map(([, local = '']) => local.split(':')[0] ?? ''),
    );
  };
  expect(listening()).toEqual([]);
  await allRanks(2, async (group) => {
    await present(group).barrier();
    // The store, and the exchanges of two ranks.
    expect(listening()).toEqual(['0100007F', '0100007F', '0100007F']);
    await present(group).barrier();
  });
});

test('a process without variables is alone; options are checked', async () => {
  expect(await ProcessGroup.join({ env: {} })).toBeUndefined();
  const refused = (options: object, text: RegExp): Promise<void> =>
    expectRefusal({ name: '', act: () => ProcessGroup.join(options), text });
  await refused({ launcher: 'ray' }, /one of 'env', 'slurm', 'mpi', 'none' for launcher/);
  await refused({ timeoutSeconds: 0 }, /above 0 and at most 1000000 for timeoutSeconds/);
  await refused({ timeout: 3 }, /Unknown option 'timeout'/);
});

describe('who does not come', () => {
  const join = (rank: number, size: number, port: number, more: object = {}): Promise<unknown> =>
    failureOf(ProcessGroup.join({ env: { ...rankEnv(rank, size, port), ...more }, timeoutSeconds: 1 }));

  test('one of three: those who came are named', async () => {
    const port = await freePort();
    for (const error of await Promise.all([join(0, 3, port), join(2, 3, port)])) {
      expect(error).toMatchObject({ code: 'NEOX_RENDEZVOUS' });
      // Where rank 0 gives up first, the store goes with it.
      expect((error as Error).message).toMatch(/^2 of 3 ranks came .*: rank 0 \(host .*\), rank 2 \(host/);
      expect((error as NeoXPrefixError).hint).toMatch(/whether each rank was started/);
    }
  });

  test('no rank 0', async () => {
    const error = await join(1, 2, await freePort());
    expect(error).toMatchObject({ code: 'NEOX_RENDEZVOUS' });
    expect((error as Error).message).toMatch(/^The store at 127\.0\.0\.1, port \d+ is not to be reached: [^\n]*\nHint/);
  });

  test('a port that is taken', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const error = await join(0, 2, (server.address() as { port: number }).port);
    await new Promise((resolve) => server.close(resolve));
    expect(error).toMatchObject({ code: 'NEOX_RENDEZVOUS', hint: expect.stringMatching(/another MASTER_PORT/) });
    expect((error as Error).message).toMatch(/the port is taken/);
  });

  test('a name without an address, an address that is not here, an interface that is not here', async () => {
    const port = await freePort();
    expect(await join(1, 2, port, { MASTER_ADDR: 'nowhere.invalid' })).toMatchObject({
      ...{ code: 'NEOX_RENDEZVOUS', message: expect.stringMatching(/The name nowhere\.invalid has no address/) },
    });
    expect(await join(0, 2, port, { MASTER_ADDR: '203.0.113.1' })).toMatchObject({
      ...{ code: 'NEOX_RENDEZVOUS', hint: expect.stringMatching(/set MASTER_ADDR to the host of rank 0/) },
    });
    expect(await join(0, 2, port, { GLOO_SOCKET_IFNAME: 'neox77' })).toMatchObject({
      ...{ code: 'NEOX_RENDEZVOUS', message: expect.stringMatching(/no network interface neox77/) },
    });
  });

  test('two that say they are the same rank, and two with another number of ranks', async () => {
    const port = await freePort();
    const same = await Promise.all([join(0, 3, port), join(1, 3, port), join(1, 3, port)]);
    expect(same.map((error) => (error as Error).message)).toContainEqual(
      expect.stringMatching(/Two processes say that they are rank 1/),
    );
    const other = await freePort();
    const [error] = await Promise.all([join(0, 2, other), join(1, 3, other)]);
    expect(error).toMatchObject({ code: 'NEOX_RANK_MISMATCH' });
    expect((error as Error).message).toMatch(/number of ranks is 2 here and 3 on rank 1/);
  });

  test('a signal ends the waiting', async () => {
    const controller = new AbortController();
    const port = await freePort();
    const waiting = failureOf(ProcessGroup.join({ env: rankEnv(0, 2, port), signal: controller.signal }));
    setTimeout(() => controller.abort(new Error('enough')), 100);
    expect(await waiting).toMatchObject({ message: 'enough' });
  });
});

describe('work of all ranks', () => {
  const reasons = (outcomes: PromiseSettledResult<unknown>[]): unknown[] =>
    outcomes.map((outcome): unknown => (outcome.status === 'rejected' ? outcome.reason : outcome.value));
  const work = (
    size: number,
    body: (joint: JointWork) => Promise<unknown>,
    signals: (AbortSignal | undefined)[] = [],
  ): Promise<PromiseSettledResult<unknown>[]> =>
    onRanks(size, (group, rank) => JointWork.run(present(group), signals[rank], body));

  test('what rank 0 makes, all have; what each does, all wait for', async () => {
    let slow = false;
    const results = await work(3, async (joint) => {
      await joint.each(async () => {
        if (joint.rank !== 2) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
        slow = true;
      });
      return [slow, await joint.share(() => Promise.resolve({ from: joint.rank })), await joint.sync([joint.rank])];
    });
    expect(reasons(results)).toEqual([0, 1, 2].map(() => [true, { from: 0 }, [[0], [1], [2]]]));
  });

  test('an error of one is told by the others, and the group is of no more use', async () => {
    const results = await onRanks(3, async (joined, rank) => {
      const group = present(joined);
      const error = await failureOf(
        JointWork.run(group, undefined, async (joint) => {
          if (rank === 1) throw new NeoXPrefixError('NEOX_BAD_DATA', 'line 7 is empty');
          await joint.sync([]);
        }),
      );
      return [error, await failureOf(JointWork.run(group, undefined, (joint) => joint.sync([])))];
    });
    const [first, own, third] = reasons(results) as NeoXPrefixError[][];
    expect(own?.[0]).toMatchObject({ code: 'NEOX_BAD_DATA' });
    for (const errors of [first, third]) {
      for (const error of errors as NeoXPrefixError[]) {
        expect(error.code).toBe('NEOX_PEER_LOST');
        expect(error.message).toMatch(
          /^Rank 1 \(host .*, pid \d+\) failed: NEOX_BAD_DATA: line 7 is empty\nHint: look at/,
        );
      }
    }
  });

  test('a signal on one rank stops all, wherever they wait', async () => {
    for (const wait of [
      (joint: JointWork): Promise<unknown> => joint.sync([]),
      (joint: JointWork): Promise<unknown> => joint.share(() => Promise.resolve(1)),
      (joint: JointWork): Promise<unknown> => joint.each(() => Promise.resolve(1)),
    ]) {
      const controller = new AbortController();
      const results = await work(
        2,
        async (joint) => {
          if (joint.rank === 1) controller.abort(new Error('enough'));
          for (;;) await wait(joint);
        },
        [undefined, controller.signal],
      );
      const [other, own] = reasons(results);
      expect(own).toMatchObject({ message: 'enough' });
      expect(other).toMatchObject({ name: 'AbortError', message: expect.stringMatching(/stopped on rank 1 \(host/) });
    }
  });

  test('ranks that mean something else do not begin', async () => {
    const results = await work(3, async (joint) => {
      const difference = (first: number, own: number): string | undefined =>
        first === own ? undefined : `number was ${first} and is ${own}`;
      await joint.checkSame(joint.rank === 2 ? 5 : 4, difference);
    });
    for (const error of reasons(results)) {
      expect(error).toMatchObject({ code: 'NEOX_RANK_MISMATCH' });
      expect((error as Error).message).toMatch(/number was 4 and is 5 on rank 2 \(host/);
    }
  });

  test('one piece of work at a time', async () => {
    await allRanks(2, async (joined) => {
      const group = present(joined);
      const running = JointWork.run(group, undefined, (joint) => joint.sync([]));
      await expectRefusal({
        act: () => JointWork.run(group, undefined, (other) => other.sync([])),
        ...{ name: '', code: 'NEOX_BUSY', text: /at work already/ },
      });
      await running;
    });
  });

  test('a rank that leaves is missed; what is disposed says so', async () => {
    const results = await onRanks(2, async (joined, rank) => {
      const group = present(joined);
      if (rank === 1) {
        await group.dispose();
        return failureOf(group.barrier());
      }
      return failureOf(group.barrier());
    });
    const [left, disposed] = reasons(results);
    expect(left).toMatchObject({ code: 'NEOX_PEER_LOST', message: expect.stringMatching(/^Rank 1 .* ended/) });
    expect(disposed).toMatchObject({ code: 'NEOX_DISPOSED' });
  });
});
