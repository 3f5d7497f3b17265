import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { NeoXPrefixError } from '../base/errors';
import { PACKAGE_ROOT } from '../base/package';
import { ISOLATED, TOOLS_FOLDER } from './python';

/** The libtorch that all tests run with. `fetch-libtorch` takes this one. */
export const LIBTORCH_VERSION = '2.13.0';

/** The minor versions that the addon compiles against. Its ABI holds within each of them. */
export const LIBTORCH_MINORS: readonly string[] = ['2.11', '2.12', '2.13', '2.14'];

/** Where a libtorch was found, in the order of the search. */
export type LibtorchSource = 'NEOX_PREFIX_LIBTORCH' | 'LIBTORCH' | 'package' | 'cache' | 'python';

/** A libtorch that was found. */
export interface Libtorch {
  /** The folder that holds `lib/` and, where one can build against it, `include/`. */
  root: string;
  source: LibtorchSource;
  /** For example `2.13.0+cpu`; `unknown` when nothing in the folder tells. */
  version: string;
  /** True when it has the headers that building the addon needs. */
  headers: boolean;
  /** True when it has the CUDA backend. */
  cuda: boolean;
}

/** Where to look. */
export interface FindLibtorchOptions {
  /** Defaults to `process.env`. */
  env?: NodeJS.ProcessEnv;
  /** The folder whose `.libtorch/` is looked at. Defaults to the package's own. */
  packageRoot?: string;
  /**
   * The minor versions that will do; another is passed over, but for one that a variable names. Defaults to all that
   * the addon compiles against.
   */
  minors?: readonly string[];
}

export const FETCH_HINT =
  'run `npx neox-prefix fetch-libtorch`, or set NEOX_PREFIX_LIBTORCH to a folder with libtorch (the one that holds lib/ and include/)';

/**
 * Finds libtorch: `NEOX_PREFIX_LIBTORCH`, `LIBTORCH`, the package's `.libtorch/`, the user's cache that
 * `fetch-libtorch` fills (`~/.cache/neox-prefix`), the `torch` of `python3`; the first hit wins. A variable that is set
 * and points to no libtorch is an error rather than passed over. The others are taken only with one of the minor
 * versions asked for, because libtorch's ABI is not stable across minor versions.
 *
 * @throws NeoXPrefixError `NEOX_LIBTORCH_NOT_FOUND` with every place that was looked at.
 */
export function findLibtorch(options: FindLibtorchOptions = {}): Libtorch {
  const env = options.env ?? process.env;
  const minors = options.minors ?? LIBTORCH_MINORS;
  const wanted = minors.length === 1 ? (minors[0] ?? '') : `one of ${minors.join(', ')}`;
  const fits = ({ version }: Libtorch): boolean => version === 'unknown' || minors.includes(minorOf(version));
  const packageFolder = join(options.packageRoot ?? PACKAGE_ROOT, '.libtorch');
  const misses: string[] = [];
  for (const variable of ['NEOX_PREFIX_LIBTORCH', 'LIBTORCH'] as const) {
    const value = env[variable];
    if (value === undefined || value === '') {
      misses.push(`${variable}: not set`);
      continue;
    }
    const found = describe(resolve(value), variable);
    if (found !== undefined) return found;
    throw new NeoXPrefixError(
      'NEOX_LIBTORCH_NOT_FOUND',
      `${variable} is set to '${value}', which has no lib/libtorch_cpu.so`,
      {
        path: resolve(value),
        hint: `point it to the folder that holds libtorch's lib/, or unset it and ${FETCH_HINT}`,
      },
    );
  }
  const own = describe(packageFolder, 'package');
  if (own !== undefined && fits(own)) return own;
  misses.push(
    `${packageFolder}: ${own === undefined ? 'no lib/libtorch_cpu.so' : `version ${own.version}, not ${wanted}`}`,
  );

  const cache = cacheFolder(env);
  const cached = cachedVersions(cache).map((name) => describe(join(cache, name), 'cache'));
  const fitting = cached.find((found) => found !== undefined && fits(found));
  if (fitting !== undefined) return fitting;
  misses.push(`${cache}: ${cached.length === 0 ? 'no libtorch' : `no libtorch ${wanted}`}`);

  const python = pythonTorch(env);
  if (python.root === undefined) {
    misses.push(`torch of python3: ${python.reason}`);
  } else {
    const found = describe(python.root, 'python');
    if (found !== undefined && fits(found)) return found;
    const why =
      found === undefined ? `no lib/libtorch_cpu.so in ${python.root}` : `version ${found.version}, not ${wanted}`;
    misses.push(`torch of python3: ${why}`);
  }
  throw new NeoXPrefixError(
    'NEOX_LIBTORCH_NOT_FOUND',
    `libtorch (${wanted}) was not found:\n  ${misses.join('\n  ')}`,
    {
      hint: FETCH_HINT,
    },
  );
}

/** The folder of this user that `fetch-libtorch` fills, outside of any project: `npm ci` empties node_modules. */
function cacheFolder(env: NodeJS.ProcessEnv): string {
  const cache = env['XDG_CACHE_HOME'];
  // The specification of XDG: a relative one is not valid and is ignored.
  const base = cache !== undefined && isAbsolute(cache) ? cache : join(env['HOME'] ?? homedir(), '.cache');
  return join(base, 'neox-prefix');
}

/** Names of the folders in the cache, the version that all tests run with first, then the newest. */
function cachedVersions(cache: string): string[] {
  if (!existsSync(cache)) return [];
  const isTested = (name: string): boolean => name.startsWith(`libtorch-${LIBTORCH_VERSION}`);
  return readdirSync(cache)
    .filter((name) => /^libtorch-\d+\.\d+\.\d+(\+cu\d+)?$/.test(name))
    .sort((a, b) => Number(isTested(b)) - Number(isTested(a)) || b.localeCompare(a, 'en', { numeric: true }));
}

/** Where `fetch-libtorch` puts a libtorch that no place is named for. */
export function defaultDestination(
  version: string,
  cuda: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
): string {
  if (existsSync(join(PACKAGE_ROOT, 'tsconfig.json'))) return join(PACKAGE_ROOT, '.libtorch');
  const build = cuda === undefined ? '' : `+cu${cuda.replace('.', '')}`;
  return join(cacheFolder(env), `libtorch-${version}${build}`);
}

/** `2.13` of `2.13.1+cpu`. */
export function minorOf(version: string): string {
  return version.split('.').slice(0, 2).join('.');
}

/** What lies in a folder, or undefined when it is no libtorch. */
export function describe(root: string, source: LibtorchSource): Libtorch | undefined {
  if (!existsSync(join(root, 'lib', 'libtorch_cpu.so'))) return undefined;
  return {
    root,
    source,
    version: versionOf(root),
    headers: existsSync(join(root, 'include', 'ATen', 'core', 'Tensor.h')),
    cuda: existsSync(join(root, 'lib', 'libtorch_cuda.so')),
  };
}

function versionOf(root: string): string {
  // The zip files of libtorch and `fetch-libtorch` have build-version, the wheels version.py, all of them the header.
  const buildVersion = read(join(root, 'build-version')).trim();
  if (buildVersion !== '') return buildVersion;
  const python = /^__version__ = '([^']+)'/m.exec(read(join(root, 'version.py')));
  if (python?.[1] !== undefined) return python[1];
  for (const header of ['torch/headeronly/version.h', 'torch/csrc/api/include/torch/version.h']) {
    const text = read(join(root, 'include', header));
    const numbers = ['MAJOR', 'MINOR', 'PATCH'].map(
      (part) => new RegExp(`#define TORCH_VERSION_${part} (\\d+)`).exec(text)?.[1],
    );
    if (!numbers.includes(undefined)) return numbers.join('.');
  }
  return 'unknown';
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/**
 * Prints where torch is and the folders that are Python's own. -I leaves out the user's site-packages, which
 * `pip install --user` fills: outside of a virtual environment they are looked at.
 */
const FIND_TORCH = `
import importlib.util, site, sys
own = [sys.prefix]
if sys.prefix == sys.base_prefix:
    site.addsitedir(site.getusersitepackages())
    own.append(site.getusersitepackages())
spec = importlib.util.find_spec('torch')
print(*[spec and spec.origin or ''] + own, sep='\\t')`;

/** The folder of python3's torch, without importing it (which would take seconds). */
function pythonTorch(env: NodeJS.ProcessEnv): { root?: string; reason?: string } {
  const result = spawnSync('python3', [ISOLATED, '-c', FIND_TORCH], {
    encoding: 'utf8',
    env,
    timeout: 20_000,
    cwd: TOOLS_FOLDER,
  });
  if (result.error !== undefined) return { reason: 'python3 did not run' };
  const [origin = '', ...own] = (result.stdout.trim().split('\n').at(-1) ?? '').split('\t');
  if (!isAbsolute(origin)) return { reason: 'no torch installed' };
  // However it came to be found: what lies around in the current folder is not opened. A virtual environment may be
  // there.
  if (isUnder(origin, process.cwd()) && !own.some((folder) => isUnder(origin, folder))) {
    return { reason: `${origin} is in the current folder, which is not trusted` };
  }
  return { root: dirname(origin) };
}

function isUnder(path: string, folder: string): boolean {
  const real = (name: string): string => (existsSync(name) ? realpathSync(name) : name);
  const way = relative(real(folder), real(path));
  return way !== '' && !way.startsWith('..') && !isAbsolute(way);
}

/** A library to open before the addon. A missing optional one is passed over. */
export interface LibraryToOpen {
  path: string;
  optional: boolean;
}

/**
 * The libraries to open, in order. The OpenMP runtime comes first so that the addon and libtorch share its threads.
 */
export function librariesToOpen(libtorch: Libtorch): LibraryToOpen[] {
  const lib = join(libtorch.root, 'lib');
  const openmp = readdirSync(lib).filter((name) => /^libgomp.*\.so/.test(name));
  const required = [...openmp, 'libc10.so', 'libtorch_cpu.so'].map((name) => ({
    path: join(lib, name),
    optional: false,
  }));
  const cuda = libtorch.cuda ? [{ path: join(lib, 'libtorch_cuda.so'), optional: true }] : [];
  return [...required, ...cuda, { path: join(lib, 'libtorch.so'), optional: libtorch.cuda }];
}

/** The NVIDIA libraries that a CUDA wheel keeps beside torch (site-packages/nvidia/NAME/lib). */
export function nvidiaLibraries(libtorch: Libtorch): string[] {
  const folder = join(dirname(libtorch.root), 'nvidia');
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .map((name) => join(folder, name, 'lib'))
    .filter((lib) => existsSync(lib))
    .flatMap((lib) => readdirSync(lib).map((name) => join(lib, name)))
    .filter((path) => /\.so(\.\d+)*$/.test(path))
    .sort();
}
