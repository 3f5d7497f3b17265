import { basename } from 'node:path';
import type { Option } from 'commander';
import { formatOf, readDataset } from '../data/dataset';
import type { Sample } from '../data/sample';
import { NeoXPrefixError } from '../errors';
import { kindOf } from '../files';
import type { NeoXModel } from '../model/neox-model';
import { UsageError } from './errors';
import { plural } from './format';
import { collect, given, integer, option } from './options';
import type { Ui } from './ui';

export interface DataFlags {
  data: string[];
  format?: 'jsonl' | 'text';
  packing?: 'none' | 'lines';
  suffix?: string;
  maxLength?: number;
  keepRemainder?: boolean;
  twoRows?: boolean;
}

export const dataOptions = (): Option[] => [
  option<string[]>(
    '--data-filepath, --data <file>',
    'JSON Lines with {"text"} or {"prompt","completion"}, or plain text with a sample a line; may be repeated',
    {
      parse: collect,
      required: true,
    },
  ),
  option('--format <format>', 'for a file not named .jsonl, .ndjson or .txt', { choices: ['jsonl', 'text'] }),
  option('--packing <how>', "none: a record is a sample; lines: rinna's recipe, the lines of each text joined into samples", {
    choices: ['none', 'lines'],
    default: 'none',
  }),
  option('--suffix <text>', "with --packing lines: put behind every line, for example ' 😃'"),
  option('--max-length <tokens>', 'with --packing lines: tokens in a sample', { parse: integer(1), default: 64 }),
  option('--keep-remainder', "with --packing lines: keep what is left at the end of each text, which rinna's script drops"),
  option(
    '--no-two-rows',
    'a sample without a prompt gives one row, behind the beginning-of-sequence token, and not a second one without that token',
  ),
];

/** What can be said of the data before a model is loaded: loading one takes long. */
export async function checkData(files: readonly string[], flags: Omit<DataFlags, 'data'>): Promise<void> {
  const { format, packing, suffix, maxLength, keepRemainder } = flags;
  if (packing !== 'lines') {
    const unused = Object.entries({ suffix, 'max-length': maxLength, 'keep-remainder': keepRemainder }).find(
      ([, value]) => value !== undefined,
    )?.[0];
    if (unused !== undefined) throw new UsageError(`--${unused} has no effect without --packing lines`);
  }
  for (const path of files) {
    if ((await kindOf(path)) === undefined) throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file: ${path}`, { path });
    if (format === undefined) formatOf(path);
  }
}

/** Reads samples, which {@link checkData} let pass, and says how many there were. */
export async function readSamples(files: readonly string[], flags: Omit<DataFlags, 'data'>, model: NeoXModel, ui: Ui): Promise<Sample[]> {
  const { format, packing, suffix, maxLength, keepRemainder } = flags;
  const samples = await readDataset(files, {
    ...given({ format, packing, suffix, maxLength, keepRemainder }),
    ...(packing === 'lines' ? { tokenizer: model.tokenizer } : {}),
    signal: ui.signal,
  });
  if (samples.length === 0) {
    const shorter = packing === 'lines' && keepRemainder !== true;
    const hint = `every text is shorter than ${maxLength ?? 64} tokens and gives no full sample: use --keep-remainder, or a smaller --max-length`;
    throw new NeoXPrefixError('NEOX_BAD_DATA', `There is no sample in ${files.join(', ')}`, shorter ? { hint } : {});
  }
  ui.note(`${files.map((file) => basename(file)).join(', ')}: ${plural(samples.length, 'sample')}`);
  return samples;
}
