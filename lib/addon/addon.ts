import nodeGypBuild from 'node-gyp-build';
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import type * as Native from '../../types/native';
import { NeoXPrefixError } from '../base/errors';
import { PACKAGE_ROOT } from '../base/package';
import { FETCH_HINT, findLibtorch, librariesToOpen, type Libtorch, nvidiaLibraries, sameMinor } from './libtorch';

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
  const libtorch = findLibtorch();
  const failures: string[] = [];
  const preload = firstThatLoads(preloads, failures);
  if (preload === undefined) throw notLoaded(failures, libtorch);
  openLibtorch(preload.module as PreloadAddon, libtorch);
  const found = firstThatLoads(addons, failures);
  if (found === undefined) throw notLoaded(failures, libtorch);
  const addon = found.module as NativeAddon;
  const builtWith = addon.systemInfo().torchVersion;
  if (libtorch.version !== 'unknown' && !sameMinor(builtWith, libtorch.version)) {
    throw new NeoXPrefixError(
      'NEOX_LIBTORCH_NOT_FOUND',
      `${found.path} was built with libtorch ${builtWith}, which libtorch ${libtorch.version} does not fit`,
      {
        path: libtorch.root,
        hint: `${FETCH_HINT}; or build the addon for this libtorch: ${BUILD_COMMAND}`,
      },
    );
  }
  // When C++ ends the process, parts of libtorch are destroyed before anything of ours is told: work has to have ended
  // before.
  if (isMainThread) process.once('exit', () => addon.shutdown());
  return { addon, path: found.path, libtorch };
}

const BUILD_COMMAND = `\`node ${join(PACKAGE_ROOT, 'scripts', 'build.mjs')}\``;

/**
 * The files that may be an addon, best first: NEOX_PREFIX_ADDON_DIR, the local build, the prebuilt ones that fit this
 * machine. That is node-gyp-build's order; its own search cannot tell two addons of one package apart.
 *
 * @internal
 */
export function addonFiles(name: string, root: string = PACKAGE_ROOT, env: NodeJS.ProcessEnv = process.env): string[] {
  const forced = env['NEOX_PREFIX_ADDON_DIR'];
  if (forced !== undefined && forced !== '')
    return [resolve(forced, `${name}.node`)].filter((path) => existsSync(path));
  const local = ['Release', 'Debug'].map((config) => join(root, 'build', config, `${name}.node`));
  const prebuilds = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
  const names = existsSync(prebuilds) ? readdirSync(prebuilds).filter((file) => file.startsWith(`${name}.`)) : [];
  const prebuilt = names
    .map((file) => nodeGypBuild.parseTags(file))
    .filter((tags) => tags !== undefined)
    .filter(nodeGypBuild.matchTags('node', process.versions.modules))
    .sort(nodeGypBuild.compareTags('node'))
    .map((tags) => join(prebuilds, tags.file));
  return [...local.filter((path) => existsSync(path)), ...prebuilt];
}

function firstThatLoads(files: string[], failures: string[]): { module: unknown; path: string } | undefined {
  for (const path of files) {
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- an addon can be loaded in no other way
      return { module: require(path) as unknown, path };
    } catch (error) {
      failures.push(`${path}: ${error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)}`);
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
      hint: `run ${BUILD_COMMAND}, which needs cmake, a C++20 compiler and libtorch and says what is missing`,
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
