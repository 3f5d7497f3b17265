import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import {
  badArgument,
  checkBoolean,
  checkFunction,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkPath,
  checkSignal,
} from '../base/arguments';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { fileError } from '../base/files';
import { badLine } from '../formats/bad-line';
import type { Template } from '../tokenizer/templates';
import { checkTemplate } from './conversation';
import type { PackOptions } from './packing';
import { Problems } from './problems';
import { type DataFile, type PlacedSample, type RecordOptions, RecordReader } from './records';
import { type Encoder, eventLoopTurns, type Sample, type TokenizedSample, tokenizeSample } from './sample';
import { largestIdOf, positionsOf, truncateSample } from './sample-codec';
import { defaultStoreOptions, SampleStore } from './sample-store';
import { TokenizedDataset } from './tokenized-dataset';

/** How to read data files. */
export interface DatasetOptions {
  /**
   * `'jsonl'`: an object a line, `{"text"}`, `{"completion"}`, `{"prompt", "completion"}` or `{"messages"}`; prompt and
   * completion may be token ids. `'text'`: a sample a line. Empty lines are skipped in both. Defaults to what the
   * extension says: .jsonl and .ndjson, or .txt, each also with .gz behind it.
   */
  format?: 'jsonl' | 'text';
  /**
   * `'none'`: a record is a sample. `'lines'`: rinna's recipe (load_data_from_filepath of prefix_tuning_example.py).
   * The lines of a document get `suffix` and are joined by "\n" for as long as they have at most `maxLength` tokens.
   * The first sample of a document starts with "\n", a single longer line is a sample all the same, and what is left
   * over at the end of a document is dropped (see `keepRemainder`). In plain text an empty line ends a document.
   * Defaults to `'none'`.
   */
  packing?: 'none' | 'lines';
  /** With packing: appended to every line, for example `' 😃'`. Defaults to `''`. */
  suffix?: string;
  /** With packing: tokens in a sample. Defaults to `64`. */
  maxLength?: number;
  /** With packing: whether the rest of each document is kept as a sample. Defaults to `false`, as the recipe. */
  keepRemainder?: boolean;
  /**
   * How the conversations of `{"messages"}` are written. Defaults to `'rinna'` where the tokenizer has a token `<NL>`;
   * else it must be given.
   */
  template?: Template;
  /** Needed for packing; {@link openDataset} needs it for all text. */
  tokenizer?: Encoder;
  signal?: AbortSignal;
}

/** How to read data files as token ids. */
export interface OpenDatasetOptions extends DatasetOptions {
  /**
   * Positions of a sample at most: its tokens, and the beginning-of-sequence token where it has no prompt. A model
   * takes its `maxPositionEmbeddings` without the prefix's length. Defaults to no limit.
   */
  maxTokens?: number;
  /**
   * What becomes of a sample that is longer: `'error'`, the reading fails and says where; `'truncate'`, the end of its
   * completion is cut off, and no end of the text is learned there; `'drop'`, it is left out. The statistics count
   * both. Defaults to `'error'`.
   */
  overLong?: 'error' | 'truncate' | 'drop';
  /** Number of ids of the model, to find others in the data. Defaults to no limit. */
  vocabSize?: number;
  /**
   * Bytes of token ids, 4 each, that are kept in memory; more, and all go into a temporary file. Defaults to
   * `67108864`, 64 MiB.
   */
  inMemoryLimit?: number;
  /** Folder of that file. It needs 4 bytes a token. Defaults to the system's for temporary files. */
  cacheDir?: string;
  /** Called while files are read, with bytes as they are in the files. `totalBytes` is 0 where it is not known. */
  onProgress?: (progress: { bytes: number; totalBytes: number; samples: number }) => void;
}

const OPTIONS = [
  'format',
  'packing',
  'suffix',
  'maxLength',
  'keepRemainder',
  'template',
  'tokenizer',
  'signal',
] as const;
const OPEN_OPTIONS = [
  ...OPTIONS,
  'maxTokens',
  'overLong',
  'vocabSize',
  'inMemoryLimit',
  'cacheDir',
  'onProgress',
] as const;
const FORMATS: Readonly<Record<string, 'jsonl' | 'text'>> = { '.jsonl': 'jsonl', '.ndjson': 'jsonl', '.txt': 'text' };

/**
 * Reads training samples from one or more files into memory, in order. Packed samples are token ids, conversations are
 * written by their template, all others are as the file has them.
 *
 * @throws NEOX_BAD_DATA with file, line number and what is wrong with it, for the first ten lines, and when there is no
 *   sample; NEOX_FILE_NOT_FOUND; NEOX_BAD_ARGUMENT for an option.
 */
export async function readDataset(paths: string | readonly string[], options?: DatasetOptions): Promise<Sample[]> {
  checkOptions('options', options, OPTIONS);
  const { files, records } = resolveOptions(paths, options ?? {});
  await sizeOf(files);
  const problems = new Problems();
  const samples: Sample[] = [];
  const reader = new RecordReader(files, records, problems);
  for await (const { sample } of reader.samples()) samples.push(sample);
  checkFound(files, reader, records, problems, samples.length, 0);
  return samples;
}

/**
 * Reads training samples from one or more files as token ids, in one pass and in constant memory: what is more than
 * `inMemoryLimit` goes into a temporary file, which has no name and is gone when the dataset is closed or the process
 * ends. In memory stay about 2.5 bytes a sample.
 *
 * @throws NEOX_BAD_DATA with file, line number and what is wrong with it, for the first ten places, and when there is
 *   no sample; NEOX_FILE_NOT_FOUND;
 * NEOX_IO, a full disk for example; NEOX_BAD_ARGUMENT for an option; the reason of `signal`.
 */
export async function openDataset(
  paths: string | readonly string[],
  options?: OpenDatasetOptions,
): Promise<TokenizedDataset> {
  checkOptions('options', options, OPEN_OPTIONS);
  const { maxTokens, overLong = 'error', vocabSize, onProgress, tokenizer } = options ?? {};
  if (maxTokens !== undefined) checkInteger('maxTokens', maxTokens, 1);
  checkOneOf('overLong', overLong, ['error', 'truncate', 'drop']);
  if (vocabSize !== undefined) checkInteger('vocabSize', vocabSize, 1);
  if (onProgress !== undefined) checkFunction('onProgress', onProgress);
  const defaults = defaultStoreOptions();
  const inMemoryLimit = checkLimit(options?.inMemoryLimit ?? defaults.inMemoryLimit);
  const cacheDir = checkPath('cacheDir', options?.cacheDir ?? defaults.cacheDir);
  const { files, records } = resolveOptions(paths, options ?? {});

  const store = new SampleStore({ inMemoryLimit, cacheDir });
  const totalBytes = await sizeOf(files);
  let bytes = 0;
  const onBytes = (more: number): void => onProgress?.({ bytes: (bytes += more), totalBytes, samples: store.length });
  const problems = new Problems();
  const reader = new RecordReader(files, { ...records, onBytes }, problems);
  const encoder = tokenizer ?? {
    encode: () => {
      throw badArgument('tokenizer', 'a tokenizer (the data is text)', tokenizer);
    },
  };
  const turn = eventLoopTurns(records.signal);
  try {
    for await (const placed of reader.samples()) {
      await turn();
      const sample = fitted(
        tokenized(placed, encoder, vocabSize, problems),
        placed,
        { maxTokens, overLong },
        store,
        problems,
      );
      if (sample !== undefined) await store.add(sample);
    }
    const { statistics } = store;
    Object.assign(statistics, { emptyLines: reader.emptyLines, remainders: reader.remainders });
    checkFound(files, reader, records, problems, store.length, statistics.dropped);
    await store.finish();
  } catch (error) {
    await store.close();
    throw error;
  }
  return TokenizedDataset.of(store);
}

function tokenized(
  { sample, path, line }: PlacedSample,
  encoder: Encoder,
  vocabSize: number | undefined,
  problems: Problems,
): TokenizedSample | undefined {
  let result: TokenizedSample;
  try {
    result = tokenizeSample(sample, encoder);
  } catch (error) {
    if (!isNeoXPrefixError(error) || error.code !== 'NEOX_BAD_DATA') throw error;
    problems.add(badLine(path, line, error.message));
    return undefined;
  }
  const largestId = vocabSize === undefined ? -1 : largestIdOf(result);
  if (vocabSize === undefined || largestId < vocabSize) return result;
  problems.add(badLine(path, line, `it has the token id ${largestId}, and the model's ids end at ${vocabSize - 1}`));
  return undefined;
}

/** A sample within the limit, or undefined. */
function fitted(
  sample: TokenizedSample | undefined,
  { path, line }: PlacedSample,
  { maxTokens = Infinity, overLong }: { maxTokens: number | undefined; overLong: 'error' | 'truncate' | 'drop' },
  { statistics }: SampleStore,
  problems: Problems,
): TokenizedSample | undefined {
  if (sample === undefined) return undefined;
  const positions = positionsOf(sample);
  if (positions <= maxTokens) return sample;
  if (overLong === 'drop') {
    statistics.dropped++;
    return undefined;
  }
  if (overLong === 'error') {
    const hint = "give overLong: 'truncate' or 'drop', or shorten the text";
    problems.add(badLine(path, line, `it takes ${positions} positions, and ${maxTokens} is the most`), hint);
    return undefined;
  }
  const truncated = truncateSample(sample, maxTokens);
  if (truncated === undefined) {
    problems.add(
      badLine(
        path,
        line,
        `its prompt has ${sample.prompt.length} tokens of ${maxTokens} at most, so nothing would be left to learn`,
      ),
    );
    return undefined;
  }
  statistics.truncated++;
  statistics.truncatedTokens += positions - positionsOf(truncated);
  return truncated;
}

/** Throws where a file was empty, something was wrong, or there is no sample. */
function checkFound(
  files: readonly DataFile[],
  reader: RecordReader,
  records: RecordOptions,
  problems: Problems,
  samples: number,
  dropped: number,
): void {
  for (const path of reader.emptyFiles)
    problems.add(new NeoXPrefixError('NEOX_BAD_DATA', `${path}: it has no text`, { path }));
  problems.throwIfAny();
  if (samples === 0) throw noSample(files, reader, records, dropped);
}

function noSample(
  files: readonly DataFile[],
  { remainders }: RecordReader,
  { packing }: RecordOptions,
  dropped: number,
): NeoXPrefixError {
  const what = `There is no sample in ${files.map(({ path }) => path).join(', ')}`;
  if (dropped > 0) return new NeoXPrefixError('NEOX_BAD_DATA', `${what}: ${dropped} were dropped, as too long`);
  if (packing === undefined || remainders === 0) return new NeoXPrefixError('NEOX_BAD_DATA', what);
  const hint = `the last lines of each text, up to ${packing.maxLength} tokens or one longer line, are dropped, and no text has more: give keepRemainder: true, or a smaller maxLength`;
  return new NeoXPrefixError('NEOX_BAD_DATA', what, { hint });
}

/** Bytes in the files. Finds out that one is missing before hours are spent on the others. */
async function sizeOf(files: readonly DataFile[]): Promise<number> {
  let total = 0;
  for (const { path } of files) {
    try {
      total += (await stat(path)).size;
    } catch (error) {
      throw fileError(error, 'read', path);
    }
  }
  return total;
}

/** Infinity is a limit too. */
function checkLimit(bytes: number): number {
  return bytes === Infinity ? bytes : checkInteger('inMemoryLimit', bytes, 0);
}

/** What both readers have in common, checked. */
function resolveOptions(paths: unknown, options: DatasetOptions): { files: DataFile[]; records: RecordOptions } {
  const { format, packing = 'none', suffix, maxLength, keepRemainder, template, tokenizer } = options;
  if (format !== undefined && format !== 'jsonl' && format !== 'text')
    throw badArgument('format', "'jsonl' or 'text'", format);
  if (packing !== 'none' && packing !== 'lines') throw badArgument('packing', "'none' or 'lines'", packing);
  if (suffix !== undefined && typeof suffix !== 'string') throw badArgument('suffix', 'a string', suffix);
  if (maxLength !== undefined) checkInteger('maxLength', maxLength, 1);
  if (keepRemainder !== undefined) checkBoolean('keepRemainder', keepRemainder);
  checkTemplate(template);
  if (tokenizer !== undefined && typeof tokenizer.encode !== 'function')
    throw badArgument('tokenizer', 'a tokenizer', tokenizer);
  const signal = checkSignal('signal', options.signal);
  const without = packing === 'lines' ? { template } : { suffix, maxLength, keepRemainder };
  for (const [name, value] of Object.entries(without)) {
    if (value !== undefined)
      throw badArgument(name, `nothing ${packing === 'lines' ? 'with' : 'without'} packing: 'lines'`, value);
  }
  if (packing === 'lines' && tokenizer === undefined)
    throw badArgument('tokenizer', 'a tokenizer (packing counts tokens)', tokenizer);
  signal?.throwIfAborted();
  const list = (Array.isArray(paths) ? paths : [paths]) as readonly unknown[];
  if (list.length === 0) throw badArgument('paths', 'a path or a non-empty array of paths', paths);
  const files = list.map((path, i) => {
    const name = checkPath(Array.isArray(paths) ? `paths[${i}]` : 'path', path);
    return { path: name, format: format ?? formatOf(name) };
  });
  const lines: PackOptions = {
    suffix: suffix ?? '',
    maxLength: maxLength ?? 64,
    keepRemainder: keepRemainder ?? false,
  };
  return { files, records: { packing: packing === 'lines' ? lines : undefined, template, tokenizer, signal } };
}

/** The format that a file's name says. */
export function formatOf(path: string): 'jsonl' | 'text' {
  const format = FORMATS[extname(path.replace(/\.gz$/i, '')).toLowerCase()];
  if (format !== undefined) return format;
  const names = Object.keys(FORMATS).join(', ');
  throw badArgument(
    'path',
    `a file named ${names}, or that and .gz,`,
    path,
    "pass format: 'jsonl' or 'text' for another name",
  );
}
