import { existsSync, mkdirSync, rmSync } from 'node:fs';

import { ABUSE } from '../../fuzz/corpus';
import { FORMATS, TARGETS, writeFiles } from '../../fuzz/targets';
import { temporaryFolder } from '../helpers';
import { failure } from './files-helpers';

const root = temporaryFolder();
let folder: string;
let count = 0;
beforeEach(() => mkdirSync((folder = root.join(String(count++)))));
afterEach(() => rmSync(folder, { recursive: true }));

/** Of one case; what takes longest is making the files, which does not count. */
const MAX_MILLISECONDS = 2000;

describe.each(FORMATS)('%s', (format) => {
  test('the good files that the bad ones are made from are taken, or refused for what they hold', async () => {
    const { seeds, open } = TARGETS[format];
    const codes = new Set<string>();
    for (const [i, files] of seeds().entries()) {
      mkdirSync(root.join(`${format}-${i}`));
      writeFiles(root.join(`${format}-${i}`), files);
      await open(root.join(`${format}-${i}`), true).then(
        () => codes.add('taken'),
        (error: unknown) => codes.add((error as { code: string }).code),
      );
    }
    expect(codes).toContain('taken');
  });

  test.each(ABUSE.filter((abuse) => abuse.format === format).map((abuse) => [abuse.name, abuse] as const))('%s', async (_, abuse) => {
    writeFiles(folder, abuse.files());
    const started = performance.now();
    const error = await failure(TARGETS[format].open(folder, true));
    expect(performance.now() - started).toBeLessThan(MAX_MILLISECONDS);
    const path = abuse.path === '' ? folder : `${folder}/${abuse.path}`;
    expect(error.message).toContain(abuse.message.replace('PATH', path));
    expect({ code: error.code, path: error.path }).toEqual({ code: abuse.code, path });
    expect(error.message).not.toMatch(/[\0-\x08\x0b-\x1f\x7f-\x9f]/);
    expect(error.message.length).toBeLessThan(3000);
  });
});

test('nothing was executed', () => expect(existsSync('/tmp/neox-prefix-was-here')).toBe(false));
