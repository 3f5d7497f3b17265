import { isError } from '../base/errors';
import { isNeoXPrefixError } from '../base/errors';
import { Interrupted, OutputLost } from './io';
import type { Ui } from './ui';

/** The code of wrong usage, which is no error of the library. */
export const USAGE = 'USAGE';

/** Options that do not go together, or a value that makes no sense: exit code 2, as for what commander finds. */
export class UsageError extends Error {
  override readonly name = 'UsageError';

  constructor(
    message: string,
    readonly hint?: string,
  ) {
    super(message);
  }
}

/** The library speaks of its own options; on the command line they have other names. */
const OPTION_NAMES: readonly (readonly [library: string, commandLine: string])[] = [
  [
    'set `overwrite: true` to replace it, or use addTasks() to add prefixes to it',
    'give --overwrite to replace it, or --append to add tasks to it',
  ],
  [
    'add prefixes to the weights in its folder 1 with FTExporter.addTasks()',
    'add tasks to its folder 1 with `export ft --append`',
  ],
  ['choose another folder or modelName', 'choose another --out or --model-name'],
  ['choose another modelName', 'choose another --model-name'],
  [
    'choose another folder, set `resume: true` to go on with that run, or `overwrite: true` to replace it',
    'choose another --out, give --resume to go on with that run, or --overwrite to replace it',
  ],
  ['set `overwrite: true`', 'give --overwrite'],
  [
    'set gradientCheckpointing: true, shorten the samples, or load the model in bfloat16',
    'give --gradient-checkpointing, shorten the samples, or give --dtype bfloat16',
  ],
  [
    "leave out device, backend and pack, or use dtype: 'bfloat16'",
    'leave out --device and --backend, or give --dtype bfloat16',
  ],
  ['set `replace: true`', 'give --replace'],
  ['name one of them, or give tensorParallel', 'give --tensor-parallel'],
  ['load the prefix with allowFingerprintMismatch: true', 'give --allow-fingerprint-mismatch'],
  ['pass the model (or its config), or numLayers and numHeads', 'give the model that it is for with --model DIR'],
  ["pass format: 'jsonl' or 'text' for another name", 'give --format jsonl or --format text'],
  [
    "give overLong: 'truncate' or 'drop', or shorten the text",
    'give --over-long truncate or --over-long drop, or shorten the text',
  ],
  ['give keepRemainder: true, or a smaller maxLength', 'give --keep-remainder, or a smaller --max-length'],
  ['name another folder with cacheDir', 'name another folder with --cache-dir'],
  [
    "give template: 'rinna' (rinna's instruction models), 'plain' (the contents, one below the other), or a function",
    "give --template rinna (rinna's instruction models) or --template plain (the contents, one below the other)",
  ],
  ['samplePrompts[', '--sample-prompt ['],
  ["use device: 'cpu'", 'use --device cpu'],
];

export function inOptionNames(text: string): string {
  return OPTION_NAMES.reduce((result, [library, commandLine]) => result.replace(library, commandLine), text);
}

/**
 * Says what went wrong, and returns the exit code.
 * @param where stands in front of the message, for example the number of a line
 */
export function reportError(error: unknown, ui: Ui, where = ''): number {
  if (ui.signal.reason instanceof OutputLost) return ui.signal.reason.exitCode;
  if (error instanceof Interrupted) {
    ui.note('interrupted');
    return error.exitCode;
  }
  const { message: what, hint, code, path } = describe(error);
  const message = where === '' ? what : `${where}: ${what}`;
  ui.error(
    message,
    hint ?? (code === undefined ? 'this error was not foreseen; --debug shows where it comes from' : undefined),
  );
  ui.json({ error: { code, message, hint, path } });
  if (ui.options.debug && isError(error)) ui.error(error.stack ?? '');
  if (error instanceof UsageError) return 2;
  // EX_TEMPFAIL: this rank did nothing wrong, and all may go on with --resume.
  return code === 'NEOX_PEER_LOST' ? 75 : 1;
}

interface Description {
  message: string;
  hint?: string | undefined;
  code?: string | undefined;
  path?: string | undefined;
}

function describe(error: unknown): Description {
  if (error instanceof UsageError) return { message: error.message, hint: error.hint, code: USAGE };
  if (!isNeoXPrefixError(error)) return { message: isError(error) ? error.message : String(error) };
  const { hint, code, path } = error;
  const message = hint === undefined ? error.message : error.message.replace(`\nHint: ${hint}`, '');
  return { message: inOptionNames(message), hint: hint === undefined ? undefined : inOptionNames(hint), code, path };
}
