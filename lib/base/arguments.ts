import { NeoXPrefixError } from './errors';

/** Shows a value in an error message: short, quoted when a string, never throwing. */
export function show(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 57)}...'` : `'${value}'`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'bigint') return `${value}n`;
  if (value === null || typeof value !== 'object') return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name}`;
  return value.constructor?.name && value.constructor.name !== 'Object' ? `a ${value.constructor.name}` : 'an object';
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** The one formatter for bad arguments. */
export function badArgument(name: string, expected: string, value: unknown, hint?: string): NeoXPrefixError {
  const message = `Expected ${expected} for ${name} but received ${show(value)} of type ${typeName(value)}`;
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', message, hint === undefined ? {} : { hint });
}

export function checkString(name: string, value: unknown): string {
  if (typeof value !== 'string' || value === '') throw badArgument(name, 'a non-empty string', value);
  return value;
}

/** The path of a file or folder. */
export function checkPath(name: string, value: unknown): string {
  const path = checkString(name, value);
  if (path.includes('\0')) throw badArgument(name, 'a path without NUL characters', value);
  return path;
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw badArgument(name, 'a boolean', value);
  return value;
}

export function checkFunction<T>(name: string, value: T): T {
  if (typeof value !== 'function') throw badArgument(name, 'a function', value);
  return value;
}

/** An integer in [min, max]. */
export function checkInteger(name: string, value: unknown, min: number, max = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
    throw badArgument(
      name,
      max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer between ${min} and ${max}`,
      value,
    );
  }
  return value;
}

/** A finite number in [min, max]; `exclusiveMin` leaves out min itself. */
export function checkNumber(
  name: string,
  value: unknown,
  min = -Infinity,
  max = Infinity,
  exclusiveMin = false,
): number {
  const low = typeof value === 'number' && (exclusiveMin ? value > min : value >= min);
  if (typeof value !== 'number' || !Number.isFinite(value) || !low || value > max) {
    const from = min === -Infinity ? '' : exclusiveMin ? ` above ${min}` : ` of at least ${min}`;
    throw badArgument(name, `a finite number${from}${max === Infinity ? '' : ` and at most ${max}`}`, value);
  }
  return value;
}

export function checkOneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  if (!allowed.includes(value as T))
    throw badArgument(name, `one of ${allowed.map((a) => `'${a}'`).join(', ')}`, value);
  return value as T;
}

/**
 * A plain options object whose keys are all in `allowed`; a misspelled key is named with the nearest known one. An
 * option that is not given is absent or undefined; null is refused, which `??` would let pass.
 */
export function checkOptions(name: string, value: unknown, allowed: readonly string[]): Record<string, unknown> {
  if (value === undefined) return {};
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw badArgument(name, 'an object', value);
  for (const [key, option] of Object.entries(value)) {
    if (option === null && allowed.includes(key)) {
      throw badArgument(
        /\boptions$/.test(name) ? key : `${name}.${key}`,
        'a value',
        null,
        'leave it out, or give undefined, for its default',
      );
    }
    if (allowed.includes(key)) continue;
    const near = nearest(key, allowed);
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `Unknown option '${key}' in ${name}`, {
      hint: near === undefined ? `known options: ${allowed.join(', ')}` : `did you mean '${near}'?`,
    });
  }
  return value as Record<string, unknown>;
}

export function checkSignal(name: string, value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  if (value === null || typeof value !== 'object' || !('aborted' in value) || !('addEventListener' in value))
    throw badArgument(name, 'an AbortSignal', value);
  return value as AbortSignal;
}

/** The known word nearest to a misspelled one, if one is near enough to be meant. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const folded = word.toLowerCase().replace(/[-_]/g, '');
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(folded.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(folded, candidate.toLowerCase().replace(/[-_]/g, ''));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
