import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { Readable, pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { NeoXPrefixError } from '../base/errors';
import { badLine } from './bad-line';

/** A line of a file, without its end. */
export interface Line {
  /** Counts from 1. */
  number: number;
  text: string;
}

/** Called for each piece that is read, with its number of bytes as they are in the file. */
export type OnBytes = (bytes: number) => void;

/** A longer line is refused: it is more likely a file without line breaks than a sample. */
const MAX_LINE_BYTES = 64 * 2 ** 20;
const NEW_LINE = 0x0a;
const GZIP = [0x1f, 0x8b];

/** Bytes that come from elsewhere than a file: a pipe. */
export interface ByteSource {
  /** What errors call it. */
  readonly name: string;
  readonly bytes: AsyncIterable<Buffer>;
}

/**
 * The lines of a UTF-8 file, which may be compressed by gzip (its first two bytes say so), read piece by piece. A line
 * ends in "\n" or "\r\n" (not in a lone "\r", nor in U+2028, which may stand inside a JSON string); a byte order mark
 * at the start of the file is dropped. The one rule for whatever is read line by line.
 *
 * @throws NEOX_FILE_NOT_FOUND, NEOX_IO, or NEOX_BAD_DATA with file and line for bytes that are not UTF-8 and for
 *   damaged gzip data.
 */
export async function* readLines(
  source: string | ByteSource,
  signal?: AbortSignal,
  onBytes?: OnBytes,
): AsyncGenerator<Line> {
  const { name: path, bytes } =
    typeof source === 'string' ? { name: source, bytes: fileBytes(source, onBytes) } : source;
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let number = 0;
  const toLine = (bytes: Uint8Array): Line => {
    number++;
    try {
      const text = decoder.decode(bytes).replace(/\r$/, '');
      return { number, text: number === 1 ? text.replace(/^\ufeff/, '') : text };
    } catch (error) {
      throw badLine(path, number, 'it is not valid UTF-8', error);
    }
  };

  let held: Buffer[] = [];
  let heldBytes = 0;
  try {
    for await (const chunk of uncompressed(path, bytes)) {
      signal?.throwIfAborted();
      let from = 0;
      for (let end = chunk.indexOf(NEW_LINE); end >= 0; end = chunk.indexOf(NEW_LINE, from)) {
        const last = chunk.subarray(from, end);
        yield toLine(heldBytes === 0 ? last : Buffer.concat([...held, last]));
        held = [];
        heldBytes = 0;
        from = end + 1;
      }
      held.push(chunk.subarray(from));
      heldBytes += chunk.length - from;
      if (heldBytes > MAX_LINE_BYTES) throw badLine(path, number + 1, `it is longer than ${MAX_LINE_BYTES} bytes`);
    }
  } catch (error) {
    throw asReadError(error, path, number + 1);
  }
  if (heldBytes > 0) yield toLine(Buffer.concat(held));
}

/** Bytes without their gzip compression. */
async function* uncompressed(path: string, source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  const bytes = source[Symbol.asyncIterator]();
  try {
    // A pipe may give its first bytes one by one.
    let start = Buffer.alloc(0);
    while (start.length < GZIP.length) {
      const next = await bytes.next();
      if (next.done === true) break;
      start = Buffer.concat([start, next.value]);
    }
    const all = async function* (): AsyncGenerator<Buffer, void> {
      if (start.length > 0) yield start;
      for (let next = await bytes.next(); next.done !== true; next = await bytes.next()) yield next.value;
    };
    if (GZIP.every((byte, i) => start[i] === byte)) {
      // The error of either stream ends the iteration of the second.
      const gunzip = pipeline(Readable.from(all(), { objectMode: false }), createGunzip(), () => undefined);
      for await (const chunk of gunzip as AsyncIterable<Buffer>) yield chunk;
    } else if (/\.gz$/i.test(path)) {
      throw badLine(path, 1, 'the file is named .gz but is not compressed by gzip');
    } else {
      yield* all();
    }
  } finally {
    // Whoever leaves early may not have begun with it.
    await bytes.return?.();
  }
}

async function* fileBytes(path: string, onBytes: OnBytes | undefined): AsyncGenerator<Buffer, void> {
  // A named pipe would wait for its writer in a thread of Node's pool, where no signal reaches it: four of them stop
  // every other read of the process. Opened without waiting, it is seen to be none of the files that data may be.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  if (!(await handle.stat()).isFile()) {
    await handle.close();
    throw new NeoXPrefixError('NEOX_IO', `Cannot read ${path}: it is not a regular file`, {
      path,
      hint: 'data are read more than once: write what a pipe gives into a file first',
    });
  }
  const stream = handle.createReadStream();
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      onBytes?.(chunk.length);
      yield chunk;
    }
  } finally {
    stream.destroy();
  }
}

function asReadError(error: unknown, path: string, line: number): unknown {
  const { code, syscall, message } = error as NodeJS.ErrnoException;
  if (code === 'Z_BUF_ERROR')
    return badLine(path, line, 'the gzip data ends too early, here or a little behind', error);
  if (typeof code === 'string' && code.startsWith('Z_'))
    return badLine(path, line, `the gzip data is damaged, here or a little behind: ${message}`, error);
  if (syscall === undefined) return error;
  if (code === 'ENOENT')
    return new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `${path} does not exist`, { path, cause: error });
  return new NeoXPrefixError('NEOX_IO', `Cannot read ${path}: ${message}`, { path, cause: error });
}
