import { isError } from '../base/errors';
import nodeGypBuild from 'node-gyp-build';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import type * as Native from '../../types/native';
import { NeoXPrefixError } from '../base/errors';
import { PACKAGE_ROOT } from '../base/package';
import { FETCH_HINT, findLibtorch, librariesToOpen, type Libtorch, minorOf, nvidiaLibraries } from './libtorch';

export type NativeAddon = typeof Native;

/** What was loaded, and from where. */
export interface LoadedAddon {
  addon: NativeAddon;
  /** The file of the main addon. */
  path: string;
  libtorch: Libtorch;
}

interface PreloadAddon {
  /** Opens a shared library for good, its symbols visible to what is loaded after it. Returns the error, if any. */
  open(path: string): string | undefined;
  /** Locks an open file (flock) for as long as it is open, without waiting. Returns 0, or errno. */
  lock(fd: number, exclusive: boolean): number;
}

let loaded: LoadedAddon | undefined;
let preload: PreloadAddon | undefined;

/**
 * The addon, loaded when it is first asked for: libtorch is found and opened, then the addon that names it.
 *
 * @throws NeoXPrefixError `NEOX_NATIVE_NOT_FOUND` when there is no addon that loads, `NEOX_LIBTORCH_NOT_FOUND` when
 *   there is no libtorch or it does not open.
 */
export function native(): NativeAddon {
  return loadAddon().addon;
}

/** As {@link native}, with the places of what was loaded. */
export function loadAddon(): LoadedAddon {
  loaded ??= load();
  return loaded;
}

/**
 * Locks an open file by flock, shared or exclusively, for as long as it is open; needs no libtorch. Does not wait.
 * @returns 0, or errno
 * @throws NeoXPrefixError `NEOX_NATIVE_NOT_FOUND` when there is no addon that loads
 */
export function lockFile(fd: number, exclusive: boolean): number {
  preload ??= firstThatLoads(addonFiles('neox_preload'), [])?.module as PreloadAddon | undefined;
  if (preload === undefined) throw notBuilt();
  return preload.lock(fd, exclusive);
}

function load(): LoadedAddon {
  const preloads = addonFiles('neox_preload');
  const addons = addonFiles('neox_prefix');
  if (preloads.length === 0 || addons.length === 0) throw notBuilt();
  const libtorch = findFitting(addons);
  const failures: string[] = [];
  const preload = firstThatLoads(preloads, failures);
  if (preload === undefined) throw notLoaded(failures, libtorch);
  openLibtorch(preload.module as PreloadAddon, libtorch);
  const found = firstThatLoads(
    addons.filter(({ minor }) => minor === undefined || fits(libtorch, minor)),
    failures,
  );
  if (found === undefined) throw notLoaded(failures, libtorch);
  const addon = found.module as NativeAddon;
  const builtWith = addon.systemInfo().torchVersion;
  if (!fits(libtorch, minorOf(builtWith)))
    throw doesNotFit(`${found.path} was built with libtorch ${builtWith}`, libtorch);
  // When C++ ends the process, parts of libtorch are destroyed before anything of ours is told: work has to have ended
  // before.
  if (isMainThread) process.once('exit', () => addon.shutdown());
  return { addon, path: found.path, libtorch };
}

/** The first libtorch that one of the addons was built for. */
function findFitting(addons: readonly AddonFile[]): Libtorch {
  const minors = [...new Set(addons.flatMap(({ minor }) => minor ?? []))];
  const anyWillDo = addons.some(({ minor }) => minor === undefined);
  const libtorch = anyWillDo ? findLibtorch() : findLibtorch({ minors });
  // One that a variable names is taken whatever it is.
  if (!anyWillDo && !minors.some((minor) => fits(libtorch, minor)))
    throw doesNotFit(`The addons here are for libtorch ${minors.join(', ')}`, libtorch);
  return libtorch;
}

function fits(libtorch: Libtorch, minor: string): boolean {
  return libtorch.version === 'unknown' || minorOf(libtorch.version) === minor;
}

function doesNotFit(addon: string, libtorch: Libtorch): NeoXPrefixError {
  const message = `${addon}, which libtorch ${libtorch.version} does not fit`;
  const hint = `${FETCH_HINT}; or build the addon for this libtorch: ${BUILD_COMMAND}`;
  return new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', message, { path: libtorch.root, hint });
}

/** In a clone the package's own command is not on npx's path. */
export const BUILD_COMMAND = existsSync(join(PACKAGE_ROOT, 'tsconfig.json'))
  ? '`npm run build`'
  : '`npx neox-prefix build`';

/** A file that may be an addon. */
export interface AddonFile {
  path: string;
  /** The minor version of libtorch that it was built with, such as `2.13`; absent where nothing tells. */
  minor?: string;
}

/**
 * The files that may be an addon, best first: NEOX_PREFIX_ADDON_DIR, the local build, the prebuilt ones that fit this
 * machine: the package's own and those of the package for this platform. That is node-gyp-build's order; its own search
 * cannot tell two addons of one package apart, nor what libtorch they are for.
 *
 * @internal
 */
export function addonFiles(
  name: string,
  root: string = PACKAGE_ROOT,
  env: NodeJS.ProcessEnv = process.env,
): AddonFile[] {
  const forced = env['NEOX_PREFIX_ADDON_DIR'];
  const folders =
    forced !== undefined && forced !== ''
      ? [resolve(forced)]
      : ['Release', 'Debug'].map((config) => join(root, 'build', config));
  const local = folders.map((folder) => builtFile(folder, name)).filter((file) => file !== undefined);
  if (forced !== undefined && forced !== '') return local;
  return [...local, ...prebuiltFolders(root).flatMap((folder) => prebuiltFiles(folder, name))];
}

/** A build says beside itself what it was built with. */
function builtFile(folder: string, name: string): AddonFile | undefined {
  const path = join(folder, `${name}.node`);
  if (!existsSync(path)) return undefined;
  const record = join(folder, 'libtorch-version');
  if (name === 'neox_preload' || !existsSync(record)) return { path };
  return { path, minor: minorOf(readFileSync(record, 'utf8').trim()) };
}

/** The package for this platform is an optional dependency, which a bundler or a flag may have left out. */
function prebuiltFolders(root: string): string[] {
  const platform = `${process.platform}-${process.arch}`;
  const folders = [join(root, 'prebuilds', platform)];
  try {
    folders.push(dirname(createRequire(join(root, 'package.json')).resolve(`neox-prefix-${platform}/package.json`)));
  } catch {
    // There is none: the addon is built on this machine.
  }
  return folders.filter((folder) => existsSync(folder));
}

function prebuiltFiles(folder: string, name: string): AddonFile[] {
  return readdirSync(folder)
    .filter((file) => file.startsWith(`${name}.`))
    .map((file) => nodeGypBuild.parseTags(file))
    .filter((tags) => tags !== undefined)
    .filter(nodeGypBuild.matchTags('node', process.versions.modules))
    .sort(nodeGypBuild.compareTags('node'))
    .map(({ file }) => {
      const [, major, minor] = /\.libtorch-(\d+)_(\d+)\./.exec(file) ?? [];
      const path = join(folder, file);
      return major === undefined ? { path } : { path, minor: `${major}.${minor}` };
    });
}

function firstThatLoads(
  files: readonly AddonFile[],
  failures: string[],
): { module: unknown; path: string } | undefined {
  for (const { path } of files) {
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- an addon can be loaded in no other way
      return { module: require(path) as unknown, path };
    } catch (error) {
      failures.push(`${path}: ${isError(error) ? (error.message.split('\n')[0] ?? '') : String(error)}`);
    }
  }
  return undefined;
}

function openLibtorch(preload: PreloadAddon, libtorch: Libtorch): void {
  let nvidia: string[] | undefined;
  for (const library of librariesToOpen(libtorch)) {
    let failure = preload.open(library.path);
    if (failure !== undefined && nvidia === undefined) {
      // A wheel normally finds NVIDIA's libraries itself; where it does not, they are opened first. They need each
      // other, so the ones that failed are tried again until a round brings nothing.
      nvidia = nvidiaLibraries(libtorch);
      for (let before = Infinity; nvidia.length < before;) {
        before = nvidia.length;
        nvidia = nvidia.filter((path) => preload.open(path) !== undefined);
      }
      failure = preload.open(library.path);
    }
    if (failure === undefined || library.optional) continue;
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `libtorch ${libtorch.version} does not open: ${failure}`, {
      path: library.path,
      hint: `if a library is missing, install it with the system's package manager; if libtorch is damaged or for another machine, ${FETCH_HINT}`,
    });
  }
}

function notBuilt(): NeoXPrefixError {
  const looked = [
    join('build', 'Release'),
    join('build', 'Debug'),
    join('prebuilds', `${process.platform}-${process.arch}`),
  ];
  return new NeoXPrefixError(
    'NEOX_NATIVE_NOT_FOUND',
    `The addon is not built: there is none in ${looked.join(', ')} of ${PACKAGE_ROOT}`,
    {
      path: PACKAGE_ROOT,
      hint: `run ${BUILD_COMMAND}, which needs libtorch, cmake and a C++20 compiler and says what is missing`,
    },
  );
}

function notLoaded(failures: string[], libtorch: Libtorch): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_NATIVE_NOT_FOUND',
    `The addon does not load (with libtorch ${libtorch.version} in ${libtorch.root}):\n  ${failures.join('\n  ')}`,
    {
      hint: [
        'possible solutions:',
        `  build it on this machine: ${BUILD_COMMAND}`,
        '  an undefined symbol means another libtorch than it was built with: unset NEOX_PREFIX_LIBTORCH and LIBTORCH, or build again',
        "  GLIBC or GLIBCXX 'not found' means that this system is older than the one it was built on: build it here",
      ].join('\n'),
    },
  );
}
