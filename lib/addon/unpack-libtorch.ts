import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { crc32 } from 'node:zlib';
import * as yauzl from 'yauzl';
import { isError, NeoXPrefixError } from '../base/errors';
import type { Download } from './fetch-progress';

/** What is kept of a wheel (below `torch/`) or of a libtorch archive (below `libtorch/`). */
const KEPT = /^(?:lib|include|share\/cmake)\/./;

/** Bytes between two reports of progress. */
const STEP = 16 * 2 ** 20;

/**
 * Unpacks what libtorch needs from a torch wheel or from an archive of libtorch: `lib/`, `include/`, `share/cmake/` and
 * a file `build-version`. Every file is checked: against the CRC-32 of the archive, in a wheel also against the SHA-256
 * of its RECORD.
 *
 * @throws NeoXPrefixError `NEOX_LIBTORCH_NOT_FOUND` when the archive is damaged or has no libtorch for Linux
 */
export async function unpackLibtorch(archive: string, folder: string, { signal, onProgress }: Download): Promise<void> {
  const zip = await openZip(archive);
  try {
    const entries = await readEntries(zip);
    const root = ['torch/', 'libtorch/'].find((name) => entries.has(`${name}lib/libtorch_cpu.so`));
    if (root === undefined) throw new Error('it has no lib/libtorch_cpu.so: it is not a torch for Linux');
    const { version, records } = await readVersion(zip, entries, root);
    const kept = [...entries.values()].filter(
      ({ fileName }) => fileName.startsWith(root) && KEPT.test(fileName.slice(root.length)) && !fileName.endsWith('/'),
    );
    const total = kept.reduce((sum, entry) => sum + entry.uncompressedSize, 0);
    let done = 0;
    let told = 0;
    for (const entry of kept) {
      const record = records?.get(entry.fileName);
      if (records !== undefined && record === undefined)
        throw new Error(`RECORD has no checksum for ${entry.fileName}`);
      const target = join(folder, entry.fileName.slice(root.length));
      await mkdir(dirname(target), { recursive: true });
      const check = new Checksum();
      const counted = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
        for await (const chunk of source) {
          check.update(chunk);
          done += chunk.length;
          if (done - told >= STEP) onProgress({ phase: 'unpack', done: (told = done), total });
          yield chunk;
        }
      };
      await pipeline(await openEntry(zip, entry), counted, createWriteStream(target), { signal });
      check.compare(entry, record);
    }
    await writeFile(join(folder, 'build-version'), `${version}\n`);
    onProgress({ phase: 'unpack', done: total, total });
  } finally {
    zip.close();
  }
}

class Checksum {
  private crc = 0;
  private readonly sha256: Hash = createHash('sha256');

  update(chunk: Buffer): void {
    this.crc = crc32(chunk, this.crc);
    this.sha256.update(chunk);
  }

  compare(entry: yauzl.Entry, record: string | undefined): void {
    if (this.crc !== entry.crc32)
      throw new Error(`${entry.fileName} does not have the checksum that the archive gives`);
    if (record !== undefined && this.sha256.digest('base64url') !== record)
      throw new Error(`${entry.fileName} does not have the checksum that RECORD gives`);
  }
}

/**
 * A wheel has its version and checksums in `torch-VERSION.dist-info/RECORD`, libtorch's own archive a build-version.
 */
async function readVersion(
  zip: yauzl.ZipFile,
  entries: ReadonlyMap<string, yauzl.Entry>,
  root: string,
): Promise<{ version: string; records?: Map<string, string> }> {
  const own = entries.get(`${root}build-version`);
  if (own !== undefined) return { version: (await readText(zip, own)).trim() };
  const record = [...entries.values()].find(({ fileName }) => /^torch-[^/]+\.dist-info\/RECORD$/.test(fileName));
  if (record === undefined) throw new Error('it has neither build-version nor RECORD: it is no wheel and no libtorch');
  const version = /^torch-(.+)\.dist-info/.exec(record.fileName)?.[1] ?? '';
  const records = new Map<string, string>();
  for (const line of (await readText(zip, record)).split(/\r?\n/)) {
    const [, name = '', digest = ''] = /^"?(.*?)"?,sha256=([\w-]+),\d*$/.exec(line) ?? [];
    records.set(name, digest);
  }
  return { version, records };
}

async function readText(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<string> {
  return (await buffer(await openEntry(zip, entry))).toString('utf8');
}

function openZip(path: string): Promise<yauzl.ZipFile> {
  return new Promise((resolve, reject) => {
    yauzl.open(path, { lazyEntries: true, autoClose: false }, (error, zip) =>
      error === null ? resolve(zip) : reject(error),
    );
  });
}

/** By name. yauzl refuses names that lead out of the folder. */
function readEntries(zip: yauzl.ZipFile): Promise<Map<string, yauzl.Entry>> {
  return new Promise((resolve, reject) => {
    const entries = new Map<string, yauzl.Entry>();
    zip.on('entry', (entry: yauzl.Entry) => {
      entries.set(entry.fileName, entry);
      zip.readEntry();
    });
    zip.once('end', () => resolve(entries));
    zip.once('error', reject);
    zip.readEntry();
  });
}

function openEntry(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Readable> {
  return new Promise((resolve, reject) => {
    zip.openReadStream(entry, (error, stream) => (error === null ? resolve(stream) : reject(error)));
  });
}

/** What went wrong with an archive, as our error. */
export function unpackError(archive: string, error: unknown): NeoXPrefixError {
  const reason = isError(error) ? error.message : String(error);
  return new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${archive} could not be unpacked: ${reason}`, {
    hint:
      (error as NodeJS.ErrnoException).code === 'ENOSPC'
        ? 'free some disk space (a CPU build takes 1 GB, a CUDA build 5), or choose another --destination'
        : 'get it again: clear a damaged download with `python3 -m pip cache remove torch`, or take another mirror',
    cause: error,
  });
}
