// Builds the TypeScript (lib/ -> dist/) and the two addons (CMakeLists.txt -> build/Release/*.node). Skips what is up
// to date.
//
//   node scripts/build.mjs [--typescript] [--native] [--clean] [--tests] [--sanitize address|undefined|thread]
//   [--target NAME]
//
// --typescript, --native   only that half (default: both)
// --clean                  builds the addons from nothing
// --tests                  builds and runs the C++ tests of the core
// --sanitize NAME          builds the addons with a sanitizer (address: and undefined), into build/NAME/Release
// --libtorch DIR           builds the addons with that libtorch, into build/libtorch-MINOR/Release
// --target NAME            only that CMake target
import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Failure, fromRoot, isCheckout, main, newest, require, root, run, withLock } from './common.mjs';
import { checkTools, hasNinja } from './tools.mjs';

const dist = fromRoot('dist');
const stamp = join(dist, '.built');

/**
 * lib/ -> dist/, true when it type-checks. JavaScript is written in any case, so that the addon can be built meanwhile.
 */
async function buildTypeScript() {
  const inputs = ['lib', 'types', 'tsconfig.json', 'package.json', 'scripts/build.mjs'].map((path) => fromRoot(path));
  const started = Date.now();
  if (existsSync(stamp) && statSync(stamp).mtimeMs > newest(inputs)) return true;
  if (!existsSync(fromRoot('node_modules', 'typescript'))) {
    throw new Failure(
      'The npm packages are not installed.\nHint: run `npm run setup`, which does all set-up, or `npm ci --ignore-scripts`',
    );
  }
  rmSync(stamp, { force: true });
  const status = await run(process.execPath, [require.resolve('typescript/bin/tsc'), '-p', fromRoot('tsconfig.json')]);
  if (status !== 0) return false;
  removeStale(dist, fromRoot('lib'));
  // What a report's page is made of is no part of the program.
  cpSync(fromRoot('lib', 'report', 'assets'), join(dist, 'report', 'assets'), { recursive: true });
  // The messages of gRPC, which are read when they are needed; also for those who make stubs of them.
  cpSync(fromRoot('lib', 'inference-protocol', 'proto'), join(dist, 'inference-protocol', 'proto'), {
    recursive: true,
  });
  // The playground's page, and its parts.
  for (const part of ['html', 'css', 'js'])
    cpSync(
      fromRoot('lib', 'server', 'playground', `playground.${part}`),
      join(dist, 'server', 'playground', `playground.${part}`),
    );
  writeModuleEntry();
  writeFileSync(stamp, '');
  // Older than any file saved while the compiler ran.
  utimesSync(stamp, started / 1000, started / 1000);
  return true;
}

/** Deletes what earlier builds left for sources that are gone. */
function removeStale(folder, sources) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (existsSync(join(sources, entry.name))) removeStale(path, join(sources, entry.name));
      else rmSync(path, { recursive: true });
    } else if (
      !existsSync(join(sources, entry.name)) &&
      !existsSync(join(sources, entry.name.replace(/(\.d\.ts|\.js|\.js\.map)$/, '.ts')))
    ) {
      rmSync(path);
    }
  }
}

/** dist/index.mjs with the names of index.js, so that `import { NeoXModel }` works whatever a bundler can see in it. */
function writeModuleEntry() {
  if (!existsSync(join(dist, 'index.js'))) return;
  const names = Object.keys(require(join(dist, 'index.js'))).sort();
  const lines = [
    "import entry from './index.js';",
    '',
    ...names.map((name) => `export const ${name} = entry.${name};`),
    'export default entry;',
    '',
  ];
  writeFileSync(join(dist, 'index.mjs'), lines.join('\n'));
  writeFileSync(
    join(dist, 'index.d.mts'),
    "import entry = require('./index.js');\nexport * from './index.js';\nexport default entry;\n",
  );
}

async function buildNative(options) {
  checkTools();
  const { describe, findLibtorch, LIBTORCH_MINORS, minorOf } = require(join(dist, 'addon', 'libtorch.js'));
  const libtorch = options.libtorch === undefined ? findLibtorch() : describe(resolve(options.libtorch), 'LIBTORCH');
  if (libtorch === undefined) throw new Failure(`There is no libtorch in ${options.libtorch}: no lib/libtorch_cpu.so`);
  const minor = minorOf(libtorch.version);
  if (libtorch.version !== 'unknown' && !LIBTORCH_MINORS.includes(minor)) {
    throw new Failure(
      `libtorch in ${libtorch.root} is ${libtorch.version}; the addon builds with ${LIBTORCH_MINORS.join(', ')}.`,
    );
  }
  if (!libtorch.headers) {
    throw new Failure(
      `libtorch in ${libtorch.root} has no include/ folder.\nHint: run \`npx neox-prefix fetch-libtorch\` and unset NEOX_PREFIX_LIBTORCH and LIBTORCH`,
    );
  }
  // The addons go where node-gyp would put them, CMake's own files beside that: node-gyp has a Makefile in build/.
  const place = fromRoot(
    'build',
    ...(options.libtorch === undefined ? [] : [`libtorch-${minor}`]),
    ...(options.sanitize === undefined ? [] : [options.sanitize]),
  );
  const build = join(place, 'cmake');
  if (options.clean) rmSync(build, { recursive: true, force: true });
  const settings = {
    CMAKE_LIBRARY_OUTPUT_DIRECTORY: join(place, 'Release'),
    NEOX_LIBTORCH: libtorch.root,
    NEOX_WARNINGS_AS_ERRORS: isCheckout ? 'ON' : 'OFF',
    NEOX_BUILD_TESTS: options.tests ? 'ON' : 'OFF',
  };
  for (const name of ['address', 'undefined', 'thread']) {
    // One run finds what both find: they go together.
    const isOn = options.sanitize === name || (options.sanitize === 'address' && name === 'undefined');
    settings[`NEOX_SANITIZE_${name.toUpperCase()}`] = isOn ? 'ON' : 'OFF';
  }
  const command = await configureCommand(build, settings);
  // CMake itself sees changes of its files; only another command line needs a new configuration.
  const asked = JSON.stringify({ command, compiler: process.env.CXX, node: process.version });
  const record = join(build, 'configured.json');
  if (!existsSync(join(build, 'CMakeCache.txt')) || !existsSync(record) || readFileSync(record, 'utf8') !== asked) {
    rmSync(join(build, 'CMakeCache.txt'), { force: true });
    mkdirSync(build, { recursive: true });
    if ((await run(command[0], command.slice(1), { cwd: build, stdio: ['ignore', 'ignore', 'inherit'] })) !== 0) {
      throw new Failure('CMake could not configure the build; its message is above.');
    }
    writeFileSync(record, asked);
  }
  const targets = options.target === undefined ? [] : ['--target', options.target];
  if ((await runQuietly('cmake', ['--build', build, '--parallel', String(jobs()), ...targets])) !== 0) {
    throw new Failure('The addon did not compile; the message of the compiler is above.');
  }
  // The loader looks here for what the addon fits, before it opens either.
  if (options.target === undefined) writeFileSync(join(place, 'Release', 'libtorch-version'), `${libtorch.version}\n`);
  if (options.tests && (await run(join(build, 'neox_core_tests'), [])) !== 0)
    throw new Failure('The C++ tests failed.');
}

/** On a terminal ninja draws one moving line; elsewhere its lines that say nothing are left out. */
async function runQuietly(command, args) {
  if (process.stdout.isTTY) return run(command, args);
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: root });
  const closed = new Promise((resolve) => child.on('close', (code) => resolve(code ?? 1)));
  for await (const line of createInterface(child.stdout)) {
    if (!/no work to do|Re-checking globbed/.test(line)) console.log(line);
  }
  return closed;
}

/** cmake-js knows where the Node-API headers are and how an addon is linked on this system. */
async function configureCommand(build, settings) {
  const { CMake } = require('cmake-js');
  const cmake = new CMake({
    directory: root,
    out: build,
    isNodeApi: true,
    silent: true,
    generator: hasNinja() ? 'Ninja' : 'Unix Makefiles',
    cMakeOptions: settings,
  });
  return cmake.getConfigureCommand();
}

/** Compiling a file on libtorch's headers takes up to 2 GB. */
function jobs() {
  const meminfo = existsSync('/proc/meminfo') ? readFileSync('/proc/meminfo', 'utf8') : '';
  const available = Number(/MemAvailable:\s+(\d+) kB/.exec(meminfo)?.[1] ?? Infinity) / 1024 ** 2;
  return Math.max(1, Math.min(availableParallelism(), Math.floor(available / 1.5)));
}

await main(async () => {
  const { values } = parseArgs({
    options: {
      typescript: { type: 'boolean', default: false },
      native: { type: 'boolean', default: false },
      clean: { type: 'boolean', default: false },
      tests: { type: 'boolean', default: false },
      sanitize: { type: 'string' },
      libtorch: { type: 'string' },
      target: { type: 'string' },
    },
  });
  if (values.sanitize !== undefined && !['address', 'undefined', 'thread'].includes(values.sanitize)) {
    throw new Failure(`Unknown sanitizer '${values.sanitize}'.\nHint: address, undefined or thread`);
  }
  const both = !values.typescript && !values.native;
  let typescript = true;
  await withLock(fromRoot('build', '.lock'), async () => {
    if (isCheckout && (both || values.typescript || !existsSync(join(dist, 'addon', 'libtorch.js'))))
      typescript = await buildTypeScript();
    if (both || values.native) await buildNative(values);
  });
  if (!typescript) throw new Failure('The TypeScript did not compile; the messages are above.');
});
