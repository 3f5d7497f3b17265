import { HttpError } from './http-error';

/** Deeper than any schema that somebody means. */
const MOST_DEPTH = 256;

function invalid(message: string): HttpError {
  return new HttpError(400, 'invalid_json', message);
}

/**
 * The object of a request's body.
 *
 * Stricter than JSON.parse, for what two readers of one text could take for two things: bytes that are no UTF-8, names
 * that come twice, halves of surrogate pairs, and numbers that no double holds are refused.
 */
export function parseBody(body: Uint8Array): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(body);
  } catch {
    throw invalid('The body is not UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid('The body is not JSON');
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid('The body is no JSON object');
  checkNames(text);
  checkValues(value);
  return value as Record<string, unknown>;
}

/** Refuses names that come twice in an object, and depth. The text is known to be JSON. */
function checkNames(text: string): void {
  const open: (Set<string> | undefined)[] = []; // the names of each object, undefined for an array
  let isName = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') {
      const begin = at++;
      while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
      const names = open.at(-1);
      if (!isName || names === undefined) continue;
      const name = JSON.parse(text.slice(begin, at + 1)) as string;
      if (names.has(name)) throw invalid(`The name ${JSON.stringify(name.slice(0, 60))} comes twice in one object`);
      if (name === '__proto__') throw invalid('No field may be called __proto__');
      names.add(name);
      isName = false;
    } else if (char === '{' || char === '[') {
      if (open.length === MOST_DEPTH) throw invalid(`The body is nested deeper than ${MOST_DEPTH}`);
      open.push(char === '{' ? new Set() : undefined);
      isName = char === '{';
    } else if (char === '}' || char === ']') {
      open.pop();
      isName = false;
    } else if (char === ',') {
      isName = open.at(-1) !== undefined;
    }
  }
}

function checkValues(value: unknown): void {
  if (typeof value === 'string' && /\p{Surrogate}/u.test(value)) throw invalid('A text has half of a surrogate pair');
  if (typeof value === 'number' && !Number.isFinite(value)) throw invalid('A number is too large');
  if (value === null || typeof value !== 'object') return;
  for (const [name, item] of Object.entries(value)) {
    if (!Array.isArray(value)) checkValues(name);
    checkValues(item);
  }
}
