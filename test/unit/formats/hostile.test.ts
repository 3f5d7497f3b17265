import { existsSync, mkdirSync, rmSync } from 'node:fs';

import { ABUSE } from '../../../fuzz/corpus';
import type { NeoXPrefixError } from '../../../lib/base/errors';
import { FORMATS, TARGETS, openFolder, writeFiles } from '../../../fuzz/targets';
import { temporaryFolder } from '../../helpers';
import { ours } from '../base/files-helpers';

const root = temporaryFolder();
let folder: string;
let count = 0;
beforeEach(() => mkdirSync((folder = root.join(String(count++)))));
afterEach(() => rmSync(folder, { recursive: true }));

/** Of processor time, for one case; what takes longest is making the files, which does not count. */
const MAX_MILLISECONDS = 6000;
/** How far a case may raise the most that the process ever took; loading libtorch is the most of it. */
const MAX_MEGABYTES = 400;

describe.each(FORMATS)('%s', (format) => {
  test('each way of opening takes some of the good files that the bad ones are made from', async () => {
    const { seeds, steps } = TARGETS[format];
    const taken = new Set<number>();
    for (const [i, files] of seeds().entries()) {
      const good = root.join(`${format}-${i}`);
      mkdirSync(good);
      writeFiles(good, files);
      for (const [n, step] of steps(good, true).entries()) await step().then(() => taken.add(n), ours);
    }
    expect([...taken].sort()).toEqual([...steps(root.join(`${format}-0`), true).keys()]);
  });

  test.each(ABUSE.filter((abuse) => abuse.format === format).map((abuse) => [abuse.name, abuse] as const))(
    '%s',
    async (_, abuse) => {
      writeFiles(folder, abuse.files());
      const peak = process.resourceUsage().maxRSS;
      const started = process.cpuUsage();
      const { refusal } = await openFolder(TARGETS[format], folder, true);
      const { user, system } = process.cpuUsage(started);
      expect((user + system) / 1000).toBeLessThan(MAX_MILLISECONDS);
      expect((process.resourceUsage().maxRSS - peak) / 1024).toBeLessThan(MAX_MEGABYTES);
      const path = abuse.path === '' ? folder : `${folder}/${abuse.path}`;
      const error = refusal as NeoXPrefixError;
      expect(error.message).toContain(abuse.message.replace('PATH', path));
      expect({ code: error.code, path: error.path }).toEqual({ code: abuse.code, path });
      expect(error.message).not.toMatch(/[\0-\x08\x0b-\x1f\x7f-\x9f]/);
      expect(error.message.length).toBeLessThan(3000);
    },
  );
});

test('nothing was executed', () => expect(existsSync('/tmp/neox-prefix-was-here')).toBe(false));
