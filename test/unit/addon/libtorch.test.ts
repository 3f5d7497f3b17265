import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  describe as describeLibtorch,
  findLibtorch,
  librariesToOpen,
  nvidiaLibraries,
  minorOf,
} from '../../../lib/addon/libtorch';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'neox-libtorch-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

function write(path: string, text = ''): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

/** A folder that looks like libtorch; its files are empty. */
function fakeLibtorch(name: string, version: string, extra: string[] = []): string {
  const root = join(folder, name);
  for (const library of ['libgomp.so.1', 'libc10.so', 'libtorch_cpu.so', 'libtorch.so', ...extra])
    write(join(root, 'lib', library));
  write(join(root, 'build-version'), `${version}\n`);
  return root;
}

/** A PATH with nothing but a python3 that prints one line. */
function fakePython(line: string): string {
  const bin = join(folder, 'bin');
  write(join(bin, 'python3'), `#!/bin/sh\necho '${line}'\n`);
  chmodSync(join(bin, 'python3'), 0o755);
  return bin;
}

test('the places are searched in order and the first hit wins', () => {
  const first = fakeLibtorch('first', '2.13.0');
  const second = fakeLibtorch('second', '2.13.0');
  const own = fakeLibtorch('package/.libtorch', '2.13.0+cpu');
  const torch = fakeLibtorch('site-packages/torch', '2.13.1');
  const env: NodeJS.ProcessEnv = {
    NEOX_PREFIX_LIBTORCH: first,
    LIBTORCH: second,
    PATH: fakePython(join(torch, '__init__.py')),
    HOME: folder,
  };
  const options = { env, packageRoot: join(folder, 'package') };

  expect(findLibtorch(options)).toEqual({
    root: first,
    source: 'NEOX_PREFIX_LIBTORCH',
    version: '2.13.0',
    headers: false,
    cuda: false,
  });
  delete env['NEOX_PREFIX_LIBTORCH'];
  expect(findLibtorch(options)).toMatchObject({ root: second, source: 'LIBTORCH' });
  env['LIBTORCH'] = '';
  expect(findLibtorch(options)).toMatchObject({ root: own, source: 'package', version: '2.13.0+cpu' });
  rmSync(own, { recursive: true });
  const cached = fakeLibtorch('.cache/neox-prefix/libtorch-2.14.1', '2.14.1');
  expect(findLibtorch(options)).toMatchObject({ root: cached, source: 'cache', version: '2.14.1' });
  const tested = fakeLibtorch('.cache/neox-prefix/libtorch-2.13.0', '2.13.0+cpu');
  expect(findLibtorch(options)).toMatchObject({ root: tested, source: 'cache', version: '2.13.0+cpu' });
  env['XDG_CACHE_HOME'] = join(folder, 'other');
  expect(findLibtorch(options)).toMatchObject({ root: torch, source: 'python', version: '2.13.1' });
});

test('a variable that points to no libtorch is an error that names it', () => {
  const env = { LIBTORCH: join(folder, 'nothing'), PATH: folder, HOME: folder };
  fakeLibtorch('package/.libtorch', '2.13.0');
  expect(() => findLibtorch({ env, packageRoot: join(folder, 'package') })).toThrow(
    expect.objectContaining({
      code: 'NEOX_LIBTORCH_NOT_FOUND',
      path: join(folder, 'nothing'),
      message: expect.stringMatching(
        /^LIBTORCH is set to '.*nothing', which has no lib\/libtorch_cpu\.so\nHint: .*fetch-libtorch/,
      ),
    }),
  );
});

test('of the package and of python3, only a minor version that was asked for is taken', () => {
  const torch = fakeLibtorch('site-packages/torch', '2.12.1');
  const env = { PATH: fakePython(join(torch, '__init__.py')), HOME: folder };
  const find = (minors?: string[]): string =>
    findLibtorch({ env, packageRoot: folder, ...(minors === undefined ? {} : { minors }) }).version;
  expect(find()).toBe('2.12.1');
  expect(() => find(['2.13'])).toThrow(/torch of python3: version 2\.12\.1, not 2\.13\n/);
  expect(() => find(['2.13', '2.14'])).toThrow(/torch of python3: version 2\.12\.1, not one of 2\.13, 2\.14\n/);
  fakeLibtorch('.libtorch', '2.13.0+cpu');
  expect(find()).toBe('2.13.0+cpu');
  expect(find(['2.12'])).toBe('2.12.1');
  fakeLibtorch('.libtorch', '2.9.1+cpu');
  expect(find()).toBe('2.12.1');
});

test('nothing found: the error tells every place and the command that helps', () => {
  const error = (env: NodeJS.ProcessEnv): Error => {
    try {
      findLibtorch({ env, packageRoot: folder });
    } catch (thrown) {
      return thrown as Error;
    }
    throw new Error('it was found');
  };
  const message = error({ PATH: join(folder, 'empty'), HOME: folder }).message;
  expect(message).toContain('NEOX_PREFIX_LIBTORCH: not set');
  expect(message).toContain('LIBTORCH: not set');
  expect(message).toContain(`${join(folder, '.libtorch')}: no lib/libtorch_cpu.so`);
  expect(message).toContain('torch of python3: python3 did not run');
  expect(message).toContain('npx neox-prefix fetch-libtorch');
  expect(error({ PATH: fakePython(''), HOME: folder }).message).toContain('torch of python3: no torch installed');
});

test('the version is read from whatever the folder has', () => {
  const root = fakeLibtorch('libtorch', '2.13.0+cu130');
  const version = (): string | undefined => describeLibtorch(root, 'LIBTORCH')?.version;
  expect(version()).toBe('2.13.0+cu130');
  rmSync(join(root, 'build-version'));
  expect(version()).toBe('unknown');
  const header = '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 4\n';
  write(join(root, 'include', 'torch', 'headeronly', 'version.h'), header);
  expect(version()).toBe('2.13.4');
  write(join(root, 'version.py'), "from typing import Optional\n__version__ = '2.13.4+rocm'\n");
  expect(version()).toBe('2.13.4+rocm');
  expect(describeLibtorch(join(root, 'lib'), 'LIBTORCH')).toBeUndefined();
});

test('the minor version is what stands before the second dot', () => {
  expect(['2.13.0+cpu', '2.13.5', '2.1.0', '2.14.0a0+git1'].map(minorOf)).toEqual(['2.13', '2.13', '2.1', '2.14']);
});

test('a CPU build opens OpenMP first and has nothing optional', () => {
  const found = describeLibtorch(fakeLibtorch('libtorch', '2.13.0'), 'package')!;
  const names = librariesToOpen(found).map((library) => library.path.split('/').at(-1));
  expect(names).toEqual(['libgomp.so.1', 'libc10.so', 'libtorch_cpu.so', 'libtorch.so']);
  expect(librariesToOpen(found).some((library) => library.optional)).toBe(false);
  expect(nvidiaLibraries(found)).toEqual([]);
});

test('a CUDA build opens libtorch_cuda too, which may fail, and knows the libraries beside it', () => {
  const found = describeLibtorch(fakeLibtorch('site-packages/torch', '2.13.0+cu130', ['libtorch_cuda.so']), 'python')!;
  const beside = join(folder, 'site-packages', 'nvidia', 'cudnn', 'lib', 'libcudnn.so.9');
  write(beside);
  write(join(folder, 'site-packages', 'nvidia', 'cudnn', 'lib', 'notes.txt'));
  expect(found.cuda).toBe(true);
  expect(
    librariesToOpen(found)
      .filter((library) => library.optional)
      .map((library) => library.path.split('/').at(-1)),
  ).toEqual(['libtorch_cuda.so', 'libtorch.so']);
  expect(nvidiaLibraries(found)).toEqual([beside]);
});
