import { maxPositions } from '../architecture/rope';
import type { Option } from 'commander';
import { basename } from 'node:path';
import type { GPTNeoXConfig } from '../architecture/config';
import { NeoXPrefixError } from '../base/errors';
import { kindOf } from '../base/files';
import { formatOf, openDataset } from '../data/dataset';
import type { DatasetStatistics } from '../data/statistics';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import type { Tokenizer } from '../tokenizer/tokenizer';
import { UsageError } from './usage-errors';
import { formatCount, plural } from './text-columns';
import { collect, given, integer, option } from './flags';
import type { Ui } from './ui';

/** How files become samples. */
export interface ReadingFlags {
  format?: 'jsonl' | 'text';
  packing?: 'none' | 'lines';
  suffix?: string;
  maxLength?: number;
  keepRemainder?: boolean;
  template?: 'rinna' | 'plain';
  maxTokens?: number;
  overLong?: 'error' | 'truncate' | 'drop';
  cacheDir?: string;
}

export interface DataFlags extends ReadingFlags {
  data: string[];
  twoRows?: boolean;
}

export const dataOptions = (): Option[] => [
  option<string[]>(
    '--data-filepath, --data <file>',
    'JSON Lines with {"text"}, {"prompt","completion"} or {"messages"}, or plain text with a sample a line; also compressed by gzip; may be repeated',
    {
      parse: collect,
      required: true,
    },
  ),
  ...readingOptions(),
  option(
    '--no-two-rows',
    'a sample without a prompt gives one row, behind the beginning-of-sequence token, and not a second one without that token',
  ),
];

export const readingOptions = (): Option[] => [
  option('--format <format>', 'for a file not named .jsonl, .ndjson or .txt', { choices: ['jsonl', 'text'] }),
  option(
    '--packing <how>',
    "none: a record is a sample; lines: rinna's recipe, the lines of each text joined into samples",
    {
      choices: ['none', 'lines'],
      default: 'none',
    },
  ),
  option('--suffix <text>', "with --packing lines: put behind every line, for example ' 😃'"),
  option('--max-length <tokens>', 'with --packing lines: tokens in a sample', { parse: integer(1), default: 64 }),
  option(
    '--keep-remainder',
    "with --packing lines: keep what is left at the end of each text, which rinna's script drops",
  ),
  option(
    '--template <name>',
    'how {"messages"} are written: as for rinna\'s instruction models, or the contents alone',
    {
      choices: ['rinna', 'plain'],
      default: 'what the tokenizer says, if it does',
    },
  ),
  option('--max-tokens <n>', 'tokens of a sample at most', {
    parse: integer(1),
    default: 'what the model takes behind the prefix',
  }),
  option('--over-long <what>', 'what becomes of a sample that is longer', {
    choices: ['error', 'truncate', 'drop'],
    default: 'error',
  }),
  option('--cache-dir <dir>', 'folder for a temporary file, for data of more than 16 million tokens', {
    default: "the system's for temporary files",
  }),
];

/** What can be said of the data before a model is loaded: loading one takes long. */
export async function checkData(files: readonly string[], flags: ReadingFlags): Promise<void> {
  const { format, packing, suffix, maxLength, keepRemainder, template } = flags;
  const unused = Object.entries(
    packing === 'lines' ? { template } : { suffix, 'max-length': maxLength, 'keep-remainder': keepRemainder },
  ).find(([, value]) => value !== undefined)?.[0];
  if (unused !== undefined)
    throw new UsageError(`--${unused} has no effect ${packing === 'lines' ? 'with' : 'without'} --packing lines`);
  for (const path of files) {
    if ((await kindOf(path)) === undefined)
      throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file: ${path}`, { path });
    if (format === undefined) formatOf(path);
  }
}

/** Positions of one token to learn, and of what stands before it. */
const SHORTEST_SAMPLE = 2;

/** What samples are read for: a model, or what is known of one. Its tokenizer is asked for only where there is text. */
export interface DataTarget {
  readonly config: GPTNeoXConfig;
  readonly tokenizer: Tokenizer;
}

/**
 * Reads samples, which {@link checkData} let pass, for a model behind a prefix, and says what was found. The dataset is
 * to be closed.
 *
 * @param prefixLength positions that samples have to leave free
 * @throws NEOX_TOO_LONG where no sample fits behind the prefix
 */
export async function readSamples(
  files: readonly string[],
  flags: ReadingFlags,
  target: DataTarget,
  prefixLength: number,
  ui: Ui,
): Promise<TokenizedDataset> {
  const { format, packing, suffix, maxLength, keepRemainder, template, overLong, cacheDir } = flags;
  const { config } = target;
  const room = maxPositions(config) - prefixLength;
  if (room < SHORTEST_SAMPLE) {
    const what = `A prefix of ${plural(prefixLength, 'position')} does not leave room for a sample in the model's ${maxPositions(config)} positions`;
    throw new NeoXPrefixError('NEOX_TOO_LONG', what, { hint: 'use a shorter prefix' });
  }
  const names = files.map((file) => basename(file)).join(', ');
  const dataset = await ui.withProgress({ title: `reading ${names}`, total: 0, unit: 'bytes' }, (update) =>
    openDataset(files, {
      ...given({ format, packing, suffix, maxLength, keepRemainder, template, overLong, cacheDir }),
      tokenizer: {
        encode: (text) => target.tokenizer.encode(text),
        tokenToId: (token) => target.tokenizer.tokenToId(token),
      },
      maxTokens: flags.maxTokens ?? room,
      vocabSize: config.vocabSize,
      signal: ui.signal,
      onProgress: ({ bytes, totalBytes, samples }) => update(bytes, plural(samples, 'sample'), totalBytes),
    }),
  );
  ui.note(`${names}: ${inWords(dataset.statistics)}`);
  return dataset;
}

/** Statistics on one line: what is always there, and what is not as it might be expected. */
function inWords(statistics: DatasetStatistics): string {
  const {
    samples,
    promptTokens,
    completionTokens,
    longest,
    truncated,
    dropped,
    remainders,
    duplicates,
    duplicatesAreLowerBound,
  } = statistics;
  const prompts = promptTokens === 0 ? '' : ` behind ${formatCount(promptTokens)} of prompts`;
  const remarks = [
    truncated > 0 && `${truncated} truncated`,
    dropped > 0 && `${dropped} too long and dropped`,
    remainders > 0 && `the ends of ${plural(remainders, 'text')} left out`,
    duplicates > 0 && `${duplicatesAreLowerBound ? 'at least ' : ''}${plural(duplicates, 'duplicate')}`,
  ].filter((remark) => remark !== false);
  return [
    `${plural(samples, 'sample')}, ${formatCount(completionTokens)} tokens to learn${prompts}, the longest sample ${longest}`,
    ...remarks,
  ].join('; ');
}
