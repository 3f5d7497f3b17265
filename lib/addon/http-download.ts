import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, rmSync, writeFileSync } from 'node:fs';
import { readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { getProxyForUrl } from 'proxy-from-env';
import type * as Undici from 'undici';
import { NeoXPrefixError } from '../base/errors';
import type { Download } from './fetch-progress';

/** How often a broken connection is taken up again where it ended. */
const ATTEMPTS = 5;

/** A file on a server and, where it is known, the SHA-256 of its bytes (hexadecimal). */
export interface RemoteFile {
  url: string;
  sha256?: string;
}

/**
 * The file's address in a simple index of Python packages (PEP 503), the CPU build for this processor. The version of
 * Python in its name does not matter.
 *
 * @param index such as `https://download.pytorch.org/whl`; the page is `INDEX/cpu/torch/`, for a mirror without that
 *   folder `INDEX/torch/`
 */
export async function findInIndex(
  index: string,
  version: string,
  signal: AbortSignal | undefined,
): Promise<RemoteFile | { reason: string }> {
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const reasons: string[] = [];
  for (const page of [`${index}/cpu/torch/`, `${index}/torch/`]) {
    const answer = await get(page, {}, signal);
    if (answer.statusCode !== 200) {
      await answer.body.dump();
      reasons.push(`${page} answers ${answer.statusCode}`);
      continue;
    }
    const links = [...(await answer.body.text()).matchAll(/<a\s[^>]*href="([^"]+)"/gi)].map(([, href = '']) =>
      href.replaceAll('&amp;', '&'),
    );
    for (const build of [`${version}+cpu`, version]) {
      for (const link of links) {
        const url = new URL(link, page);
        const name = decodeURIComponent(basename(url.pathname));
        if (!name.startsWith(`torch-${build}-`) || !name.endsWith(`_${machine}.whl`)) continue;
        const sha256 = /^#sha256=([0-9a-f]{64})$/.exec(url.hash)?.[1];
        url.hash = '';
        return { url: url.href, ...(sha256 === undefined ? {} : { sha256 }) };
      }
    }
    reasons.push(`${page} has no torch ${version} for ${machine}`);
  }
  return { reason: reasons.join('; ') };
}

/**
 * Downloads a file into `folder`, under the name in its address. What an earlier, broken download left there is gone on
 * with, as long as the server says that the file is still the same (ETag). Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.
 *
 * @returns its path
 * @throws NeoXPrefixError `NEOX_LIBTORCH_NOT_FOUND` when it cannot be had, or is not what `sha256` says
 */
export async function httpDownload(
  { url, sha256 }: RemoteFile,
  folder: string,
  { signal, onProgress }: Download,
): Promise<string> {
  const target = join(folder, decodeURIComponent(basename(new URL(url).pathname)));
  const part = `${target}.part`;
  for (let attempt = 1; ; attempt++) {
    try {
      await fetchRest(url, part, { signal, onProgress });
      break;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof NeoXPrefixError) throw error;
      if (attempt < ATTEMPTS && !isFileError(error)) continue;
      throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${url} could not be downloaded: ${reasonOf(error)}`, {
        hint: isFileError(error)
          ? `free some disk space or choose another --destination; what is there is gone on with`
          : `check the network, or set HTTPS_PROXY; run it again to go on where it ended`,
        cause: error,
      });
    }
  }
  if (sha256 !== undefined) {
    const hash = createHash('sha256');
    await pipeline(createReadStream(part), hash, { signal });
    const found = hash.digest('hex');
    if (found !== sha256) {
      await discard(part);
      throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${url} has SHA-256 ${found}, and ${sha256} is expected`, {
        hint: 'the file was changed on its way or at the server: run it again, or take another mirror',
      });
    }
  }
  await rename(part, target);
  await rm(`${part}.etag`, { force: true });
  return target;
}

async function fetchRest(url: string, part: string, { signal, onProgress }: Download): Promise<void> {
  const etag = await readFile(`${part}.etag`, 'utf8').catch(() => '');
  const begun =
    etag === ''
      ? 0
      : await stat(part).then(
          ({ size }) => size,
          () => 0,
        );
  const answer = await get(url, begun > 0 ? { range: `bytes=${begun}-`, 'if-range': etag } : {}, signal);
  const { statusCode, headers, body } = answer;
  if (statusCode === 416) {
    // Either all of it is here, or the file is another one now: one that is shorter.
    await body.dump();
    if (headers['content-range'] === `bytes */${begun}`) return;
    await discard(part);
    await fetchRest(url, part, { signal, onProgress });
    return;
  }
  if (statusCode !== 200 && statusCode !== 206) {
    await body.dump();
    throw new NeoXPrefixError('NEOX_LIBTORCH_NOT_FOUND', `${url} answers ${statusCode}`, {
      hint: 'look at the address; --from takes another one, a file or a folder',
    });
  }
  const first = statusCode === 206 ? begun : 0;
  const newTag = headers['etag'];
  // A weak tag does not promise the same bytes. Written at once: an error of the body before anyone listens to it would
  // end the process.
  if (typeof newTag === 'string' && !newTag.startsWith('W/')) writeFileSync(`${part}.etag`, newTag);
  else rmSync(`${part}.etag`, { force: true });
  const length = Number(headers['content-length'] ?? NaN);
  const total = Number.isNaN(length) ? 0 : first + length;
  let done = first;
  const counted = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of source) {
      done += chunk.length;
      onProgress({ phase: 'download', done, total });
      yield chunk;
    }
  };
  const sink = createWriteStream(part, { flags: first > 0 ? 'a' : 'w' });
  await pipeline(body, counted, sink, { signal });
  if (total > 0 && done !== total) throw new Error(`the connection ended after ${done} of ${total} bytes`);
}

async function discard(part: string): Promise<void> {
  await rm(part, { force: true });
  await rm(`${part}.etag`, { force: true });
}

/** undici, because the fetch of Node 20 knows no proxy; loaded only when something is downloaded. */
async function get(
  url: string,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<Undici.Dispatcher.ResponseData> {
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- loaded late, and CommonJS in any case
  const { Agent, ProxyAgent, request } = require('undici') as typeof Undici;
  const proxy = getProxyForUrl(url);
  // One agent a request: the addresses are few, and a connection that stays open keeps the process alive.
  const settings = { keepAliveTimeout: 1, pipelining: 0 };
  const dispatcher = proxy === '' ? new Agent(settings) : new ProxyAgent({ uri: proxy, ...settings });
  return await request(url, { dispatcher, headers, maxRedirections: 5, ...(signal === undefined ? {} : { signal }) });
}

function isFileError(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return ['ENOSPC', 'EACCES', 'EROFS', 'EDQUOT', 'EFBIG'].includes(code);
}

function reasonOf(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  // An error of several addresses has no message of its own.
  return message === '' ? (code ?? 'unknown') : message;
}
