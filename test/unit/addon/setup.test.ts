import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PACKAGE_ROOT } from '../../../lib/base/package';

const SCRIPTS = join(PACKAGE_ROOT, 'scripts');

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'neox-setup-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Runs the set-up of a clone with nothing installed, on a machine where only `tools` are in PATH. */
function setupWith(tools: Record<string, string>): { status: number | null; output: string } {
  cpSync(SCRIPTS, join(folder, 'scripts'), { recursive: true });
  for (const name of ['package.json', 'tsconfig.json']) cpSync(join(PACKAGE_ROOT, name), join(folder, name));
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, 'node'));
  for (const [name, line] of Object.entries(tools))
    writeFileSync(join(bin, name), `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  const result = spawnSync(process.execPath, [join(folder, 'scripts', 'setup.mjs')], {
    env: { PATH: bin },
    encoding: 'utf8',
  });
  return { status: result.status, output: result.stdout + result.stderr };
}

test('a machine with nothing: one message names all that is missing and the one command that brings it', () => {
  expect(setupWith({})).toEqual({
    status: 1,
    output:
      '\nerror: The addon cannot be built here: cmake was not found; no C++ compiler was found; neither ninja nor make was found.\n' +
      "Hint: on Debian or Ubuntu run `apt-get install cmake g++ ninja-build`; elsewhere install the same with the system's package manager\n",
  });
  expect(existsSync(join(folder, 'node_modules'))).toBe(false);
});

test('tools that are too old are told with their version and what is needed', () => {
  const { status, output } = setupWith({
    cmake: 'echo cmake version 3.16.3',
    'c++': "echo '#define __GNUC__ 9'",
    ninja: 'echo 1.10',
  });
  expect(status).toBe(1);
  expect(output).toContain('cmake 3.16 is too old (3.20 is needed)');
  expect(output).toContain('c++ 9 is too old for C++20 (g++ 11 or clang++ 14 is needed');
  expect(output).toContain('`apt-get install cmake g++`');
});

test("what runs before the npm packages are installed imports nothing but Node's own modules", () => {
  const imports = (file: string): string[] =>
    [...readFileSync(join(SCRIPTS, file), 'utf8').matchAll(/^import .* from '(.*)';$/gm)].map((match) => match[1]!);
  const seen = new Set<string>();
  const visit = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const name of imports(file)) {
      if (name.startsWith('./')) visit(name.slice(2));
      else expect(builtinModules).toContain(name.replace(/^node:/, ''));
    }
  };
  visit('with-setup.mjs');
  visit('build.mjs');
  expect([...seen].sort()).toEqual(['build.mjs', 'common.mjs', 'setup.mjs', 'tools.mjs', 'with-setup.mjs']);
});

test('of two processes that want the lock the second waits, and a lock left by a dead process is taken', async () => {
  const lock = join(folder, 'build', '.lock');
  mkdirSync(join(folder, 'build'));
  writeFileSync(lock, '999999999');
  const program = `
    import { withLock } from '${pathToFileURL(join(SCRIPTS, 'common.mjs')).href}';
    await withLock('${lock}', async () => {
      console.log('in');
      await new Promise((resolve) => setTimeout(resolve, 300));
      console.log('out');
    });`;
  let output = '';
  const runs = [0, 1].map(async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program]);
    child.stdout.on('data', (data: Buffer) => (output += data.toString()));
    return await new Promise((resolve) => child.on('close', resolve));
  });
  expect(await Promise.all(runs)).toEqual([0, 0]);
  expect(output.split('\n').filter((line) => line === 'in' || line === 'out')).toEqual(['in', 'out', 'in', 'out']);
  expect(existsSync(lock)).toBe(false);
});
