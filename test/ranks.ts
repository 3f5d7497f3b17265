import { createServer } from 'node:net';
import { ProcessGroup } from '../lib/distributed/process-group';

/** A port that nobody has at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What torchrun would set for a rank of this host. */
export function rankEnv(rank: number, size: number, port: number): Record<string, string> {
  return {
    ...{ RANK: String(rank), WORLD_SIZE: String(size), LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: String(size) },
    ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port) },
  };
}

/**
 * Does the same on several ranks, all in this process: a group does not care. Undefined stands for the group of one.
 * @returns what became of each rank
 */
export async function onRanks<T>(
  size: number,
  body: (group: ProcessGroup | undefined, rank: number) => Promise<T>,
  timeoutSeconds = 60,
): Promise<PromiseSettledResult<T>[]> {
  if (size === 1) return Promise.allSettled([body(undefined, 0)]);
  const port = await freePort();
  return Promise.allSettled(
    Array.from({ length: size }, async (_, rank) => {
      const group = await ProcessGroup.join({ env: rankEnv(rank, size, port), timeoutSeconds });
      try {
        return await body(group, rank);
      } finally {
        await group?.dispose();
      }
    }),
  );
}

/** {@link onRanks} where none may fail. */
export async function allRanks<T>(
  size: number,
  body: (group: ProcessGroup | undefined, rank: number) => Promise<T>,
): Promise<T[]> {
  return (await onRanks(size, body)).map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}
