import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findLibtorch, minorOf } from '../../../lib/addon/libtorch';
import { PACKAGE_ROOT } from '../../../lib/base/package';
import type * as NativeLoading from '../../../lib/addon/addon';

const BUILT = join(PACKAGE_ROOT, 'build', 'Release');

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'neox-native-'));
});

afterEach(() => {
  delete process.env['NEOX_PREFIX_ADDON_DIR'];
  delete process.env['NEOX_PREFIX_LIBTORCH'];
  rmSync(folder, { recursive: true });
});

/** lib/native.ts as a new process would have it: nothing loaded yet. */
function freshNative(): typeof NativeLoading {
  let module: typeof NativeLoading | undefined;
  jest.isolateModules(() => {
    // eslint-disable-next-line @typescript-eslint/no-require-imports -- isolateModules works with require alone
    module = require('../../../lib/addon/addon') as typeof NativeLoading;
  });
  return module!;
}

function write(...parts: string[]): string {
  const path = join(folder, ...parts);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, 'not an addon');
  return path;
}

test('the local build comes before the prebuilt addons, and of those only the ones for this machine count', () => {
  const { addonFiles } = freshNative();
  const here = `${process.platform}-${process.arch}`;
  const prebuilt = write('prebuilds', here, 'neox_prefix.libtorch-2_14.napi.glibc.node');
  write('prebuilds', here, 'neox_prefix.libtorch-2_14.napi.musl.node');
  write('prebuilds', here, 'neox_preload.napi.glibc.node');
  write('prebuilds', 'sunos-ia32', 'neox_prefix.libtorch-2_14.napi.glibc.node');
  expect(addonFiles('neox_prefix', folder, {})).toEqual([{ path: prebuilt, minor: '2.14' }]);
  const debug = write('build', 'Debug', 'neox_prefix.node');
  const release = write('build', 'Release', 'neox_prefix.node');
  writeFileSync(join(folder, 'build', 'Release', 'libtorch-version'), '2.13.0+cpu\n');
  expect(addonFiles('neox_prefix', folder, {})).toEqual([
    { path: release, minor: '2.13' },
    { path: debug },
    { path: prebuilt, minor: '2.14' },
  ]);
  const forced = write('elsewhere', 'neox_prefix.node');
  expect(addonFiles('neox_prefix', folder, { NEOX_PREFIX_ADDON_DIR: join(folder, 'elsewhere') })).toEqual([
    { path: forced },
  ]);
});

test("the platform's own package, an optional dependency, is looked into too", () => {
  const { addonFiles } = freshNative();
  const name = `neox-prefix-${process.platform}-${process.arch}`;
  write('node_modules', name, 'package.json');
  writeFileSync(join(folder, 'node_modules', name, 'package.json'), JSON.stringify({ name, version: '0.1.0' }));
  const old = write('node_modules', name, 'neox_prefix.libtorch-2_13.napi.glibc.node');
  const recent = write('node_modules', name, 'neox_prefix.libtorch-2_14.napi.glibc.node');
  const found = addonFiles('neox_prefix', folder, {});
  expect(found).toHaveLength(2);
  expect(found).toEqual(
    expect.arrayContaining([
      { path: old, minor: '2.13' },
      { path: recent, minor: '2.14' },
    ]),
  );
});

test('an addon for another minor version of libtorch is not opened: the error says which is here', () => {
  copyFileSync(join(BUILT, 'neox_preload.node'), join(folder, 'neox_preload.node'));
  write('neox_prefix.node');
  writeFileSync(join(folder, 'libtorch-version'), '2.11.2\n');
  process.env['NEOX_PREFIX_ADDON_DIR'] = folder;
  process.env['NEOX_PREFIX_LIBTORCH'] = findLibtorch().root;
  expect(() => freshNative().native()).toThrow(
    expect.objectContaining({
      code: 'NEOX_LIBTORCH_NOT_FOUND',
      message: expect.stringMatching(
        /^The addons here are for libtorch 2\.11, which libtorch 2\.\d+\.\S+ does not fit\nHint: .*`npm run build`$/,
      ),
    }),
  );
});

test('loads the addon with the libtorch that was found', () => {
  const { addon, path, libtorch } = freshNative().loadAddon();
  expect(path).toBe(join(BUILT, 'neox_prefix.node'));
  expect(minorOf(addon.systemInfo().torchVersion)).toBe(minorOf(libtorch.version));
});

test('no addon at all: the error names where it looked and the command that builds it', () => {
  process.env['NEOX_PREFIX_ADDON_DIR'] = folder;
  expect(() => freshNative().native()).toThrow(
    expect.objectContaining({
      code: 'NEOX_NATIVE_NOT_FOUND',
      message: expect.stringMatching(/The addon is not built.*build\/Release.*prebuilds[^]*Hint: run `npm run build`/),
    }),
  );
});

test('an addon that does not load: the error has the reason of each file and what to do', () => {
  copyFileSync(join(BUILT, 'neox_preload.node'), join(folder, 'neox_preload.node'));
  const broken = write('neox_prefix.node');
  process.env['NEOX_PREFIX_ADDON_DIR'] = folder;
  expect(() => freshNative().native()).toThrow(
    expect.objectContaining({
      code: 'NEOX_NATIVE_NOT_FOUND',
      message: expect.stringMatching(
        new RegExp(
          `does not load \\(with libtorch [^]*${broken}: .*(invalid ELF header|file too short)[^]*possible solutions`,
        ),
      ),
    }),
  );
});

test('a libtorch that does not open is told with the reason of the loader', () => {
  for (const name of ['libc10.so', 'libtorch_cpu.so', 'libtorch.so']) write('lib', name);
  process.env['NEOX_PREFIX_LIBTORCH'] = folder;
  expect(() => freshNative().native()).toThrow(
    expect.objectContaining({
      code: 'NEOX_LIBTORCH_NOT_FOUND',
      path: join(folder, 'lib', 'libc10.so'),
      message: expect.stringMatching(/libtorch unknown does not open: .*libc10\.so: .*\nHint: /),
    }),
  );
});
