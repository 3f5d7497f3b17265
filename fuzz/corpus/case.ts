import type { NeoXErrorCode } from '../../lib/base/errors';
import { TARGETS, type Files, type Format } from '../targets';

/** Files that no honest program writes, and what the library says to them. */
export interface AbuseCase {
  readonly format: Format;
  readonly name: string;
  /** The whole folder; made when asked for, because some are large. */
  readonly files: () => Files;
  readonly code: NeoXErrorCode;
  /** A part of the message. */
  readonly message: string;
  /** The file that the error names; '' for the folder. */
  readonly path: string;
}

/** The first seed of a format with one file replaced. */
export function replaced(format: Format, name: string, bytes: Buffer | string, seed = 0): Files {
  return { ...TARGETS[format].seeds()[seed], [name]: Buffer.from(bytes) };
}

/** The JSON text of a seed's file with some keys changed; `undefined` removes one. */
export function changedJson(
  format: Format,
  name: string,
  changes: Readonly<Record<string, unknown>>,
  seed = 0,
): string {
  const bytes = TARGETS[format].seeds()[seed]?.[name];
  if (bytes === undefined) throw new RangeError(`no ${name} in seed ${seed} of ${format}`);
  return JSON.stringify({ ...(JSON.parse(bytes.toString()) as object), ...changes });
}
