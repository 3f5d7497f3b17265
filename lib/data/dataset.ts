import { extname } from 'node:path';
import { badArgument, checkBoolean, checkInteger, checkOptions, checkPath, checkSignal } from '../arguments';
import { badLine, readLines } from './lines';
import type { Encoder, Sample, TextOrIds } from './sample';
import { MAX_ID } from './sample';

export interface DatasetOptions {
  /**
   * `'jsonl'`: an object a line, `{"text"}`, `{"completion"}` or `{"prompt", "completion"}`; prompt and completion may be token ids.
   * `'text'`: a sample a line. Empty lines are skipped in both. Defaults to what the extension says: .jsonl and .ndjson, or .txt.
   */
  format?: 'jsonl' | 'text';
  /**
   * `'none'`: a record is a sample. `'lines'`: rinna's recipe (load_data_from_filepath of prefix_tuning_example.py). The lines of a
   * document get `suffix` and are joined by "\n" into samples of at most `maxLength` tokens; the first sample of a document starts with
   * "\n", a single longer line is a sample all the same, and what is left over at the end of a document is dropped (see
   * `keepRemainder`). In plain text an empty line ends a document. Defaults to `'none'`.
   */
  packing?: 'none' | 'lines';
  /** Appended to every line when packing, for example `' 😃'`. Defaults to `''`. */
  suffix?: string;
  /** Tokens in a packed sample. Defaults to `64`. */
  maxLength?: number;
  /** Whether packing keeps the rest of each document as a sample. Defaults to `false`, as the recipe. */
  keepRemainder?: boolean;
  /** Needed for packing. */
  tokenizer?: Encoder;
  signal?: AbortSignal;
}

const OPTIONS = ['format', 'packing', 'suffix', 'maxLength', 'keepRemainder', 'tokenizer', 'signal'] as const;
const FORMATS: Readonly<Record<string, 'jsonl' | 'text'>> = { '.jsonl': 'jsonl', '.ndjson': 'jsonl', '.txt': 'text' };

/**
 * Reads training samples from one or more files, in order, line by line. Packed samples are token ids, all others are as the file has them.
 *
 * @throws NEOX_BAD_DATA with file, line number and what is wrong with it; NEOX_FILE_NOT_FOUND; NEOX_BAD_ARGUMENT for an option.
 */
export async function readDataset(paths: string | readonly string[], options?: DatasetOptions): Promise<Sample[]> {
  const {
    format,
    packing = 'none',
    suffix = '',
    maxLength = 64,
    keepRemainder = false,
    tokenizer,
    signal,
  } = checkOptions('options', options, OPTIONS) as DatasetOptions;
  if (format !== undefined && format !== 'jsonl' && format !== 'text') throw badArgument('format', "'jsonl' or 'text'", format);
  if (packing !== 'none' && packing !== 'lines') throw badArgument('packing', "'none' or 'lines'", packing);
  if (typeof suffix !== 'string') throw badArgument('suffix', 'a string', suffix);
  checkInteger('maxLength', maxLength, 1);
  checkBoolean('keepRemainder', keepRemainder);
  checkSignal('signal', signal);
  signal?.throwIfAborted();
  const list = (Array.isArray(paths) ? paths : [paths]) as readonly unknown[];
  if (list.length === 0) throw badArgument('paths', 'a path or a non-empty array of paths', paths);
  const files = list.map((path, i) => {
    const name = checkPath(Array.isArray(paths) ? `paths[${i}]` : 'path', path);
    return { path: name, format: format ?? formatOf(name) };
  });

  const samples: Sample[] = [];
  if (packing === 'none') {
    for (const file of files) for await (const record of readRecords(file.path, file.format, signal)) samples.push(toSample(record));
    return samples;
  }
  if (typeof tokenizer?.encode !== 'function') throw badArgument('tokenizer', 'a tokenizer (packing counts tokens)', tokenizer);
  for (const file of files) {
    for await (const lines of readDocuments(file.path, file.format, signal)) {
      for (const completion of packLines(lines, tokenizer, { suffix, maxLength, keepRemainder })) samples.push({ completion });
    }
  }
  return samples;
}

/** The format that a file's name says. */
export function formatOf(path: string): 'jsonl' | 'text' {
  const format = FORMATS[extname(path).toLowerCase()];
  if (format === undefined)
    throw badArgument('path', `a file named ${Object.keys(FORMATS).join(', ')}`, path, "pass format: 'jsonl' or 'text' for another name");
  return format;
}

/** A line of a file as it stands there, checked. */
type DataRecord = { text: string } | { prompt?: TextOrIds; completion: TextOrIds };

function toSample(record: DataRecord): Sample {
  return 'text' in record ? { completion: record.text } : record;
}

async function* readRecords(path: string, format: 'jsonl' | 'text', signal?: AbortSignal): AsyncGenerator<DataRecord> {
  for await (const { number, text } of readLines(path, signal)) {
    if (text.trim() === '') continue;
    if (format === 'text') {
      yield { text };
      continue;
    }
    const record = parseRecord(text, path, number);
    if ('text' in record && record.text === '') throw badLine(path, number, 'its text is empty');
    yield record;
  }
}

/** The lines of each document: of each text in JSON Lines, between empty lines in plain text. */
async function* readDocuments(path: string, format: 'jsonl' | 'text', signal?: AbortSignal): AsyncGenerator<string[]> {
  let lines: string[] = [];
  for await (const { number, text } of readLines(path, signal)) {
    const blank = text.trim() === '';
    if (format === 'text') {
      if (!blank) lines.push(text);
      else if (lines.length > 0) {
        yield lines;
        lines = [];
      }
    } else if (!blank) {
      const record = parseRecord(text, path, number);
      if (!('text' in record)) throw badLine(path, number, 'packing needs {"text"}, but this line has a completion');
      yield record.text.split('\n');
    }
  }
  if (lines.length > 0) yield lines;
}

function parseRecord(line: string, path: string, number: number): DataRecord {
  const bad = (what: string, cause?: unknown): Error => badLine(path, number, what, cause);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw bad(`it is not valid JSON: ${(error as Error).message}`, error);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw bad('it is not a JSON object');
  const { text, prompt, completion } = value as { text?: unknown; prompt?: unknown; completion?: unknown };
  if (text !== undefined) {
    if (completion !== undefined || prompt !== undefined) throw bad('it has "text" beside "prompt" or "completion"; one form or the other');
    if (typeof text !== 'string') throw bad(`"text" is ${describe(text)}, not a string`);
    return { text };
  }
  if (completion === undefined)
    throw bad(prompt === undefined ? 'it has neither "text" nor "completion"' : 'it has a "prompt" but no "completion"');
  const checked = checkTextOrIds(completion, 'completion', bad);
  if (checked.length === 0) throw bad('its "completion" is empty');
  return prompt === undefined ? { completion: checked } : { prompt: checkTextOrIds(prompt, 'prompt', bad), completion: checked };
}

function checkTextOrIds(value: unknown, name: string, bad: (what: string) => Error): string | number[] {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) throw bad(`"${name}" is ${describe(value)}, not a string or a list of token ids`);
  const wrong = value.findIndex((id: unknown) => typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_ID);
  if (wrong >= 0) throw bad(`"${name}"[${wrong}] is not a token id (an integer of at least 0)`);
  return value as number[];
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

interface PackOptions {
  suffix: string;
  maxLength: number;
  keepRemainder: boolean;
}

/** Packs the lines of one document; `packing: 'lines'` above says how. */
export function packLines(lines: readonly string[], tokenizer: Encoder, { suffix, maxLength, keepRemainder }: PackOptions): Int32Array[] {
  const samples: Int32Array[] = [];
  const flush = (ids: Int32Array): void => {
    if (ids.length > 0) samples.push(ids);
  };
  let packed = '';
  for (const line of lines) {
    const longer = `${packed}\n${line}${suffix}`;
    if (tokenizer.encode(longer).length > maxLength) {
      flush(tokenizer.encode(packed));
      packed = `${line}${suffix}`;
    } else {
      packed = longer;
    }
  }
  if (keepRemainder) flush(tokenizer.encode(packed));
  return samples;
}
