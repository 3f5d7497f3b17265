import { readdirSync, writeFileSync } from 'node:fs';
import { RunLock } from '../../../lib/runs/run-lock';
import { temporaryFolder } from '../../helpers';

const folder = temporaryFolder();
const DEAD = JSON.stringify({ pid: process.pid, process: 'a boot ago:1:1' });

test.each([
  { before: 'nothing', text: undefined },
  { before: 'the lock of a dead process', text: DEAD },
  { before: 'a lock that was never written', text: '' },
])('of many that come at once one gets the folder: $before', async ({ text }) => {
  const path = folder.join('run.lock');
  for (let round = 0; round < 20; round++) {
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
