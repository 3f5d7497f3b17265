import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  mkdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../lib/base/package';

interface Manifest {
  bin: Record<string, string>;
  dependencies: Record<string, string>;
}

const manifest = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as Manifest;
let folder: string;
let packed: string[];

/** An installed copy of the package, as a project that depends on it has one. */
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'neox-package-'));
  const environment = { ...process.env, npm_config_loglevel: 'error' };
  const json = execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
    cwd: PACKAGE_ROOT,
    encoding: 'utf8',
    env: environment,
  });
  const [archive] = JSON.parse(json) as [{ filename: string; files: { path: string }[] }];
  packed = archive.files.map((file) => file.path);
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  execFileSync('tar', ['-xzf', join(folder, archive.filename), '-C', modules]);
  execFileSync('mv', [join(modules, 'package'), join(modules, 'neox-prefix')]);
  // What npm would install beside it: the dependencies and what they depend on.
  for (const name of readdirSync(join(PACKAGE_ROOT, 'node_modules'))) {
    if (name !== '.bin' && name !== 'neox-prefix' && !existsSync(join(modules, name)))
      symlinkSync(join(PACKAGE_ROOT, 'node_modules', name), join(modules, name));
  }
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

function node(...args: string[]): string {
  return execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8' }).trim();
}

test('the package holds what is needed', () => {
  for (const path of [
    'package.json',
    'README.md',
    'LICENSE',
    'CMakeLists.txt',
    'dist/index.js',
    'dist/index.d.ts',
    'dist/index.mjs',
    'dist/index.d.mts',
    'dist/cli/main.js',
    'dist/report/assets/page.js',
    'dist/report/assets/page.css',
    'types/native.d.ts',
    'native/addon.cc',
    'native/preload/preload.c',
    'scripts/build.mjs',
    'scripts/common.mjs',
    'scripts/tools.mjs',
  ]) {
    expect(packed).toContain(path);
  }
});

test('the package holds nothing else', () => {
  const allowed =
    /^(dist\/.*\.(js|mjs|d\.ts|d\.mts|css|html|proto)|native\/(core|binding|compat|preload|third_party)\/.*\.(c|cc|h|md)|native\/addon\.cc|docs\/.*\.md|prebuilds\/.*\.node|types\/native\.d\.ts|scripts\/(build|common|tools)\.mjs|CMakeLists\.txt|package\.json|README(\.ja)?\.md|LICENSE)$/;
  expect(packed.filter((path) => !allowed.test(path))).toEqual([]);
});

test('every script that the package has finds what it imports in the package', () => {
  for (const path of packed.filter((name) => name.startsWith('scripts/') && name.endsWith('.mjs'))) {
    for (const match of readFileSync(join(PACKAGE_ROOT, path), 'utf8').matchAll(/^import .* from '\.\/(.*)';$/gm))
      expect(packed).toContain(`scripts/${match[1]!}`);
  }
});

test('require and import give the same classes', () => {
  writeFileSync(
    join(folder, 'both.mjs'),
    `import { createRequire } from 'node:module';
     import * as esm from 'neox-prefix';
     const cjs = createRequire(import.meta.url)('neox-prefix');
     const names = Object.keys(cjs).sort();
     console.log(JSON.stringify({ names, missing: names.filter((name) => esm[name] !== cjs[name]), more: Object.keys(esm).filter((name) => !(name in cjs) && name !== 'default') }));`,
  );
  const { names, missing, more } = JSON.parse(node('both.mjs')) as Record<string, string[]>;
  expect(missing).toEqual([]);
  expect(more).toEqual([]);
  expect(names).toEqual(
    expect.arrayContaining([
      'FTExporter',
      'NeoXModel',
      'NeoXPrefixError',
      'PrefixEncoder',
      'PrefixTrainer',
      'PrefixWeights',
      'readDataset',
    ]),
  );
});

test('loading the package loads neither libtorch nor the addon', () => {
  expect(
    node(
      '-e',
      "require('neox-prefix'); console.log(process.report.getReport().sharedObjects.filter((path) => /torch|neox/.test(path)).length)",
    ),
  ).toBe('0');
});

test('only the entry and package.json can be imported', () => {
  expect(() =>
    node(
      '-e',
      "try { require('neox-prefix/dist/addon/addon.js') } catch (error) { console.log(error.code); process.exit(3) }",
    ),
  ).toThrow(/status|failed/);
  expect(node('-p', "require('neox-prefix/package.json').name")).toBe('neox-prefix');
});

test('the command starts', () => {
  expect(node(join(folder, 'node_modules', 'neox-prefix', manifest.bin['neox-prefix']!), '--version')).toBe(
    (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string }).version,
  );
  expect(readFileSync(join(PACKAGE_ROOT, manifest.bin['neox-prefix']!), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
});

test('the types fit a strict program, as an ES module and as CommonJS', () => {
  const program = (first: string): string => `${first}
    const load: (directory: string) => Promise<NeoXModel> = (directory) => NeoXModel.load(directory);
    const code: string = new NeoXPrefixError('NEOX_IO', 'x').code;
    // @ts-expect-error -- a directory is a string
    void NeoXModel.load(1);
    console.log(load, code);`;
  writeFileSync(join(folder, 'program.mts'), program("import { NeoXModel, NeoXPrefixError } from 'neox-prefix';"));
  writeFileSync(join(folder, 'program.cts'), program("import { NeoXModel, NeoXPrefixError } from 'neox-prefix';"));
  const options = [
    '--noEmit',
    '--strict',
    '--module',
    'node16',
    '--target',
    'es2022',
    '--lib',
    'es2022,esnext.disposable',
    '--types',
    'node',
  ];
  let output = '';
  try {
    node(join(PACKAGE_ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), ...options, 'program.mts', 'program.cts');
  } catch (error) {
    output = (error as { stdout: string }).stdout;
  }
  expect(output).toBe('');
});

test('no dependency runs an install script, and what the code imports is declared', () => {
  for (const name of Object.keys(manifest.dependencies)) {
    const { scripts = {} } = JSON.parse(
      readFileSync(join(PACKAGE_ROOT, 'node_modules', name, 'package.json'), 'utf8'),
    ) as {
      scripts?: Record<string, string>;
    };
    expect(Object.keys(scripts).filter((script) => ['preinstall', 'install', 'postinstall'].includes(script))).toEqual(
      [],
    );
  }
  const used = new Set<string>();
  for (const path of packed.filter((name) => /^dist\/.*\.js$/.test(name))) {
    for (const match of readFileSync(join(folder, 'node_modules', 'neox-prefix', path), 'utf8').matchAll(
      /(?:require|import)\("([^."][^"]*)"\)/g,
    )) {
      const name = match[1]!;
      if (!name.startsWith('node:'))
        used.add(name.startsWith('@') ? name.split('/').slice(0, 2).join('/') : name.split('/')[0]!);
    }
  }
  for (const name of used) expect(Object.keys(manifest.dependencies)).toContain(name);
});
