import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { validate } from 'dockerfile-utils';
import { PACKAGE_ROOT } from '../../lib/base/package';
import { cli } from '../unit/cli/cli-helpers';

const dockerfile = readFileSync(join(PACKAGE_ROOT, 'Dockerfile'), 'utf8');

test('the Dockerfile has no faults that a linter sees', () => {
  expect(
    validate(dockerfile).map(({ message, range }) => `${range.start.line + 1}: ${JSON.stringify(message)}`),
  ).toEqual([]);
  // The linter sees something.
  expect(validate('FROM a\nRUNN b')).not.toEqual([]);
});

test('every script and every option that the Dockerfile calls is there', async () => {
  const { scripts } = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  const called = [...dockerfile.matchAll(/^(?!#).*$/gm)].flatMap(([line]) => [...line.matchAll(/npm run (\S+)/g)]);
  expect(called.map(([, name]) => name)).toEqual(['setup', 'prebuilds', 'packages']);
  for (const [, name = ''] of called) expect(scripts).toHaveProperty(name);
  const { stdout } = await cli(['fetch-libtorch', '--help']);
  for (const flag of ['--destination', '--cuda']) {
    expect(dockerfile).toMatch(new RegExp(`fetch-libtorch .*${flag}`));
    expect(stdout).toContain(flag);
  }
});

test('what the image is made from is not sent with what a clone has built', () => {
  const ignored = readFileSync(join(PACKAGE_ROOT, '.dockerignore'), 'utf8').split('\n');
  expect(ignored).toEqual(
    expect.arrayContaining(['**/node_modules', '.libtorch*', 'build', 'dist', 'prebuilds', 'packages']),
  );
});
