import { isError } from '../base/errors';
import { type NeoXErrorCode, NeoXPrefixError } from '../base/errors';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const COLON = 0x3a;
const COMMA = 0x2c;

/** More than any real header or configuration has, few enough that parsing cannot fill the memory. */
const MAX_DEPTH = 32;
const MAX_NODES = 1_000_000;

export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Parses JSON bytes that nobody has vetted: UTF-8 is checked, depth and size are bounded before JSON.parse allocates
 * anything, and a key given twice in one object is an error (JSON.parse would silently keep the last).
 * @throws NeoXPrefixError with `code`, naming `what` and `path`
 */
export function parseJson(
  bytes: Uint8Array,
  code: NeoXErrorCode,
  what: string,
  path: string,
  maxNodes = MAX_NODES,
): unknown {
  const problem = (text: string, cause?: unknown): NeoXPrefixError =>
    new NeoXPrefixError(
      code,
      `${what} ${path} is not usable: ${text}`,
      cause === undefined ? { path } : { path, cause },
    );
  const shape = scan(bytes, maxNodes);
  if (shape !== undefined) throw problem(shape);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch (cause) {
    throw problem('expected UTF-8 text, found other bytes', cause);
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw problem(`expected JSON (${isError(cause) ? cause.message : String(cause)})`, cause);
  }
}

/** The same for a file whose root has to be an object. */
export function parseJsonObject(
  bytes: Uint8Array,
  code: NeoXErrorCode,
  what: string,
  path: string,
  maxNodes = MAX_NODES,
): JsonObject {
  const value = parseJson(bytes, code, what, path, maxNodes);
  if (!isObject(value))
    throw new NeoXPrefixError(code, `${what} ${path} is not usable: expected a JSON object`, { path });
  return value;
}

export function isObject(value: unknown): value is JsonObject {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** An own property, so that a key such as `constructor` finds nothing by accident. */
export function get(object: JsonObject, key: string): unknown {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** One pass over the bytes; returns what is wrong, if anything. Malformed JSON is left for JSON.parse to describe. */
function scan(bytes: Uint8Array, maxNodes: number): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  let nodes = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      const end = stringEnd(bytes, i);
      let next = end + 1;
      while (next < bytes.length && (bytes[next] as number) <= 0x20) next++;
      const keys = open[open.length - 1];
      if (keys !== undefined && bytes[next] === COLON) {
        const key = keyText(bytes.subarray(i, end + 1));
        if (keys.has(key)) return `the key '${key.slice(0, 80)}' is given twice`;
        keys.add(key);
      }
      nodes++;
      i = end;
    } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      open.push(byte === OPEN_BRACE ? new Set() : undefined);
      if (open.length > MAX_DEPTH) return `expected at most ${MAX_DEPTH} levels of nesting, found more`;
      nodes++;
    } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      open.pop();
    } else if (byte === COMMA) {
      nodes++;
    }
    if (nodes > maxNodes) return `expected at most ${maxNodes} keys and values, found more`;
  }
  return undefined;
}

/** Index of the closing quote of the string that opens at `start`. */
function stringEnd(bytes: Uint8Array, start: number): number {
  let i = start + 1;
  while (i < bytes.length && bytes[i] !== QUOTE) i += bytes[i] === BACKSLASH ? 2 : 1;
  return i;
}

function keyText(quoted: Uint8Array): string {
  const text = Buffer.from(quoted.buffer, quoted.byteOffset, quoted.byteLength).toString('utf8');
  if (!text.includes('\\')) return text.slice(1, -1);
  try {
    return JSON.parse(text) as string;
  } catch {
    return text;
  }
}
