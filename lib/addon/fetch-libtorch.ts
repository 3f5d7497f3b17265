import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import {
  badArgument,
  checkBoolean,
  checkFunction,
  checkOptions,
  checkPath,
  checkSignal,
  checkString,
} from '../base/arguments';
import { isError, NeoXPrefixError } from '../base/errors';
import { makeFolder } from '../base/files';
import type { Download, FetchProgress } from './fetch-progress';
import { findInIndex, httpDownload, type RemoteFile } from './http-download';
import { defaultDestination, describe, type Libtorch, LIBTORCH_VERSION } from './libtorch';
import { pipDownload } from './pip-download';
import { unpackError, unpackLibtorch } from './unpack-libtorch';

export type { FetchProgress } from './fetch-progress';

/** Where PyTorch publishes its builds: a simple index of wheels (PEP 503), archives of libtorch beside it. */
export const PYTORCH_INDEX = 'https://download.pytorch.org/whl';

/** What is fetched, from where, and where to. */
export interface FetchLibtorchOptions {
  /** Defaults to the version that all tests run with. */
  version?: string;
  /**
   * A CUDA build for that version of CUDA, such as `'13.0'`, with its CUDA libraries (x86-64). Defaults to a CPU build.
   */
  cuda?: string;
  /**
   * The libtorch itself: a folder, a libtorch archive (`.zip`) or a torch wheel (`.whl`), on this machine or at an
   * `http(s)` address, where `#sha256=...` may follow. Defaults to asking pip, where python3 has it, and then `index`.
   */
  from?: string;
  /** Index of wheels that is asked where pip has none. Defaults to PyTorch's own. */
  index?: string;
  /**
   * The folder to make. Defaults to `libtorch-VERSION` in `~/.cache/neox-prefix` (or `$XDG_CACHE_HOME/neox-prefix`),
   * which installing packages does not empty; in a clone of the repository to its `.libtorch`.
   */
  destination?: string;
  /** Fetches again although the folder holds that version already. Defaults to `false`. */
  force?: boolean;
  /** Called as bytes arrive. */
  onProgress?: (progress: FetchProgress) => void;
  /** Stops the fetching; the destination stays as it was. */
  signal?: AbortSignal;
}

const OPTIONS = ['version', 'cuda', 'from', 'index', 'destination', 'force', 'onProgress', 'signal'];

/**
 * Gets libtorch: from what `from` names, or out of the torch wheel that pip downloads (the CPU build where an index
 * offers one), or, where pip has none, from PyTorch's own index. The files are checked against the archive's checksums,
 * unpacked beside the destination and moved there in one step, so that the destination is whole or absent whatever
 * happens. A download that broke is gone on with by the next call. Does nothing when the destination holds that version
 * already.
 *
 * @throws NeoXPrefixError `NEOX_LIBTORCH_NOT_FOUND` when it cannot be had: no such version, no network, a damaged file;
 *   `NEOX_IO` when the destination cannot be written
 */
export async function fetchLibtorch(options: FetchLibtorchOptions = {}): Promise<Libtorch> {
  checkOptions('fetchLibtorch options', options, OPTIONS);
  const version = checkString('version', options.version ?? LIBTORCH_VERSION);
  if (!/^\d+\.\d+\.\d+$/.test(version))
    throw badArgument('version', `three numbers such as ${LIBTORCH_VERSION}`, version);
  const cuda = options.cuda === undefined ? undefined : checkString('cuda', options.cuda);
  if (cuda !== undefined && !/^\d+\.\d+$/.test(cuda)) throw badArgument('cuda', "two numbers such as '13.0'", cuda);
  const from = options.from === undefined ? undefined : checkString('from', options.from);
  const index = checkString('index', options.index ?? PYTORCH_INDEX).replace(/\/+$/, '');
  const destination = resolve(checkPath('destination', options.destination ?? defaultDestination(version, cuda)));
  const force = checkBoolean('force', options.force ?? false);
  const onProgress =
    options.onProgress === undefined ? (): void => {} : checkFunction('onProgress', options.onProgress);
  const signal = checkSignal('signal', options.signal);
  signal?.throwIfAborted();

  const present = describe(destination, 'package');
  const isIt = present?.headers === true && (from !== undefined || present.version.split('+')[0] === version);
  if (!force && isIt && (cuda === undefined || present.cuda)) return present;
  if (present === undefined && existsSync(destination) && (await readdir(destination)).length > 0) {
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${destination} holds something that is not libtorch`, {
      path: destination,
      hint: 'choose another destination, or delete that folder',
    });
  }

  await makeDestination(dirname(destination));
  await removeAbandoned(destination);
  const work = await mkdtemp(`${destination}.partial-${process.pid}-`);
  // Outside of the folder that is deleted: the next call goes on with what is here.
  const downloads = `${destination}.download`;
  try {
    const found = await provide({ version, cuda, from, index }, work, downloads, { signal, onProgress });
    const unpacked = join(work, 'libtorch');
    if ((await stat(found)).isDirectory()) await copyLibtorch(found, unpacked);
    else await unpack(found, unpacked, { signal, onProgress });
    await replace(unpacked, destination, work);
    await rm(downloads, { recursive: true, force: true });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  const libtorch = describe(destination, 'package');
  if (libtorch === undefined)
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${destination} disappeared while it was being made`);
  return libtorch;
}

interface Wanted {
  version: string;
  cuda: string | undefined;
  from: string | undefined;
  index: string;
}

/** The path of an archive or a folder with libtorch: what was given, or what was downloaded. */
async function provide(wanted: Wanted, work: string, downloads: string, download: Download): Promise<string> {
  const { version, cuda, from, index } = wanted;
  if (from !== undefined) {
    if (/^https?:\/\//.test(from)) return await fetchFile(remoteFile(from), downloads, download);
    const path = resolve(from);
    if (existsSync(path)) return path;
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `There is no ${path}`, { path });
  }
  if (cuda !== undefined) {
    if (process.arch !== 'x64') {
      throw new NeoXPrefixError('NEOX_UNSUPPORTED', `There is no archive of libtorch with CUDA for ${process.arch}`, {
        hint: 'install torch with pip: the torch of python3 is found by itself',
      });
    }
    const build = `cu${cuda.replace('.', '')}`;
    const archive = `libtorch-shared-with-deps-${version}%2B${build}.zip`;
    return await fetchFile({ url: `${index.replace(/\/whl$/, '')}/libtorch/${build}/${archive}` }, downloads, download);
  }
  const pip = await pipDownload(version, work, download);
  if ('path' in pip) return pip.path;
  const found = await inIndex(index, version, download.signal);
  if ('url' in found) return await fetchFile(found, downloads, download);
  const tried = [`pip: ${pip.reason}`, found.reason].join('\n  ');
  throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `torch ${version} could not be downloaded:\n  ${tried}`, {
    hint:
      'behind a proxy set HTTPS_PROXY; without a network bring a libtorch archive or a torch wheel and give it: ' +
      '`npx neox-prefix fetch-libtorch --from FILE`, or set NEOX_PREFIX_LIBTORCH to a folder with libtorch',
  });
}

async function inIndex(
  index: string,
  version: string,
  signal: AbortSignal | undefined,
): Promise<RemoteFile | { reason: string }> {
  try {
    return await findInIndex(index, version, signal);
  } catch (error) {
    signal?.throwIfAborted();
    const { message, code } = error as NodeJS.ErrnoException;
    return { reason: `${index}: ${message === '' ? (code ?? 'no answer') : message}` };
  }
}

function remoteFile(address: string): RemoteFile {
  const url = new URL(address);
  const sha256 = /^#sha256=([0-9a-f]{64})$/i.exec(url.hash)?.[1]?.toLowerCase();
  if (url.hash !== '' && sha256 === undefined)
    throw badArgument('from', 'nothing or sha256= and 64 hexadecimal digits behind #', address);
  url.hash = '';
  return { url: url.href, ...(sha256 === undefined ? {} : { sha256 }) };
}

async function fetchFile(file: RemoteFile, downloads: string, download: Download): Promise<string> {
  await mkdir(downloads, { recursive: true });
  return await httpDownload(file, downloads, download);
}

async function unpack(archive: string, folder: string, download: Download): Promise<void> {
  try {
    await unpackLibtorch(archive, folder, download);
  } catch (error) {
    download.signal?.throwIfAborted();
    throw unpackError(basename(archive), error);
  }
}

/** A folder that was given is copied, so that the destination does not depend on it. */
async function copyLibtorch(from: string, folder: string): Promise<void> {
  const found = describe(from, 'package');
  if (found === undefined) {
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${from} has no lib/libtorch_cpu.so`, {
      path: from,
      hint: 'give the folder that holds lib/ and include/, a libtorch archive or a torch wheel',
    });
  }
  await mkdir(folder);
  for (const name of ['lib', 'include', 'share', 'build-version', 'version.py']) {
    if (existsSync(join(from, name))) await cp(join(from, name), join(folder, name), { recursive: true });
  }
}

/** The folder above the destination. One that this user cannot write is told with the way out. */
async function makeDestination(parent: string): Promise<void> {
  try {
    await makeFolder(parent);
  } catch (error) {
    const reason = isError(error) ? error.message.split('\n')[0] : String(error);
    throw new NeoXPrefixError('NEOX_IO', `${reason ?? ''} (to put libtorch there)`, {
      path: parent,
      hint: 'choose a folder that you can write: --destination DIR, and set NEOX_PREFIX_LIBTORCH=DIR',
      cause: error,
    });
  }
}

/** Deletes what a process that was killed left beside the destination. */
async function removeAbandoned(destination: string): Promise<void> {
  const prefix = `${basename(destination)}.partial-`;
  for (const name of await readdir(dirname(destination))) {
    if (!name.startsWith(prefix)) continue;
    try {
      process.kill(Number.parseInt(name.slice(prefix.length), 10), 0);
    } catch {
      await rm(join(dirname(destination), name), { recursive: true, force: true });
    }
  }
}

/** Puts a finished folder in its place. One that another process has put there meanwhile is as good. */
async function replace(folder: string, destination: string, work: string): Promise<void> {
  const old = join(work, 'old');
  if (existsSync(destination)) await rename(destination, old);
  try {
    await rename(folder, destination);
  } catch (error) {
    if (describe(destination, 'package') !== undefined) return;
    await rename(old, destination).catch(() => undefined);
    throw new NeoXPrefixError('NEOX_IO', `libtorch could not be moved to ${destination}`, {
      path: destination,
      cause: error,
    });
  }
}
