/** Nothing that lies in the current folder is executed or opened, whatever its name. */
import { chmodSync, existsSync, mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { doctor } from '../../../lib/addon/doctor';
import { fetchLibtorch } from '../../../lib/addon/fetch-libtorch';
import { findLibtorch } from '../../../lib/addon/libtorch';
import { temporaryFolder } from '../../helpers';

const folder = temporaryFolder();
const here = realpathSync(folder.path);
const marker = join(here, 'executed');
const environment = { ...process.env };
const before = process.cwd();

function write(name: string, text = ''): void {
  mkdirSync(dirname(join(here, name)), { recursive: true });
  writeFileSync(join(here, name), text);
}

function writeLibtorch(root: string): void {
  for (const name of ['libc10.so', 'libtorch_cpu.so', 'libtorch.so']) write(join(root, 'lib', name), 'not a library');
  write(join(root, 'build-version'), '2.13.0\n');
}

beforeAll(() => {
  const python = `open(${JSON.stringify(marker)}, 'a').write(__file__ + '\\n')\n`;
  for (const name of ['pip', 'site', 'json', 'csv', 'zipfile', 'importlib/util', 'importlib/__init__', 'sitecustomize'])
    write(`${name}.py`, python);
  write('torch/__init__.py', python);
  writeLibtorch('torch');
  // Of a folder torch without __init__.py there is no file: its place once was taken for '.'.
  writeLibtorch('.');
  for (const name of ['python3', 'cmake', 'c++']) {
    write(name, `#!/bin/sh\necho $0 >> '${marker}'\n`);
    chmodSync(join(here, name), 0o755);
  }
  process.chdir(here);
});

afterAll(() => {
  process.chdir(before);
  process.env = environment;
});

function expectUntouched(): void {
  expect(existsSync(marker)).toBe(false);
}

test.each([
  ['as it is', {}],
  // pip ends at once, after it has imported what it would import.
  ['in PYTHONPATH and PATH', { PYTHONPATH: ':', PATH: `.::${environment['PATH'] ?? ''}`, PIP_REQUIRE_VIRTUALENV: '1' }],
])('%s', async (_, changes: NodeJS.ProcessEnv) => {
  process.env = { ...environment, ...changes, NEOX_PREFIX_LIBTORCH: '', LIBTORCH: '' };
  let root = '';
  try {
    root = findLibtorch({ packageRoot: join(here, 'package') }).root;
  } catch (error) {
    expect(error).toMatchObject({ code: 'NEOX_LIBTORCH_NOT_FOUND' });
  }
  expect(root.startsWith(here) || root === '.').toBe(false);
  expectUntouched();
  if (changes['PATH'] === undefined) return;
  await doctor();
  expectUntouched();
  const fetched = fetchLibtorch({ destination: join(here, 'fetched') });
  await expect(fetched).rejects.toMatchObject({ code: 'NEOX_LIBTORCH_NOT_FOUND' });
  expectUntouched();
});

test('a torch that python3 finds there all the same is refused, one of a virtual environment there is not', () => {
  const origin = join(here, 'torch', '__init__.py');
  const find = (line: string): string => {
    write('bin/python3', `#!/bin/sh\nprintf '${line}\\n'\n`);
    chmodSync(join(here, 'bin', 'python3'), 0o755);
    return findLibtorch({ env: { PATH: join(here, 'bin') }, packageRoot: join(here, 'package') }).root;
  };
  expect(() => find(origin)).toThrow(`torch of python3: ${origin} is in the current folder, which is not trusted`);
  expect(() => find(`${origin}\\t/usr`)).toThrow(/which is not trusted/);
  expect(() => find('None')).toThrow(/torch of python3: no torch installed/);
  writeLibtorch('.venv/lib/torch');
  const own = join(here, '.venv', 'lib', 'torch');
  expect(find(`${join(own, '__init__.py')}\\t${join(here, '.venv')}`)).toBe(own);
});
