import { createReadStream } from 'node:fs';
import { NeoXPrefixError } from '../errors';

export interface Line {
  /** Counts from 1. */
  number: number;
  text: string;
}

/** A longer line is refused: it is more likely a file without line breaks than a sample. */
const MAX_LINE_BYTES = 64 * 2 ** 20;
const NEW_LINE = 0x0a;

/**
 * The lines of a UTF-8 file, read piece by piece. A line ends in "\n" or "\r\n" (not in U+2028, which may stand inside a JSON string);
 * a byte order mark at the start of the file is dropped.
 *
 * @throws NEOX_FILE_NOT_FOUND, NEOX_IO, or NEOX_BAD_DATA with file and line for bytes that are not UTF-8.
 */
export async function* readLines(path: string, signal?: AbortSignal): AsyncGenerator<Line> {
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
  const stream = createReadStream(path);
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      signal?.throwIfAborted();
      let from = 0;
      for (let end = chunk.indexOf(NEW_LINE); end >= 0; end = chunk.indexOf(NEW_LINE, from)) {
        yield toLine(Buffer.concat([...held, chunk.subarray(from, end)]));
        held = [];
        heldBytes = 0;
        from = end + 1;
      }
      held.push(chunk.subarray(from));
      heldBytes += chunk.length - from;
      if (heldBytes > MAX_LINE_BYTES) throw badLine(path, number + 1, `it is longer than ${MAX_LINE_BYTES} bytes`);
    }
    if (heldBytes > 0) yield toLine(Buffer.concat(held));
  } catch (error) {
    throw asReadError(error, path);
  } finally {
    stream.destroy();
  }
}

/** The one form of an error in a data file. */
export function badLine(path: string, line: number, what: string, cause?: unknown): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_DATA', `${path}:${line}: ${what}`, { path, cause });
}

function asReadError(error: unknown, path: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if ((error as NodeJS.ErrnoException).syscall === undefined) return error;
  if (code === 'ENOENT') return new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `${path} does not exist`, { path, cause: error });
  return new NeoXPrefixError('NEOX_IO', `Cannot read ${path}: ${(error as Error).message}`, { path, cause: error });
}
