import { NeoXPrefixError } from '../base/errors';

/** The one form of an error in a data file. */
export function badLine(path: string, line: number, what: string, cause?: unknown): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_DATA', `${path}:${line}: ${what}`, { path, cause });
}
