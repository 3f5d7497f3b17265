import { isNeoXPrefixError } from '../base/errors';
import { badLine } from '../formats/bad-line';
import type { Message, Template } from '../tokenizer/templates';
import { conversationSample, templateFor } from './conversation';
import { type OnBytes, readLines } from '../formats/lines';
import { packLines, type PackOptions } from './packing';
import type { Problems } from './problems';
import { type Encoder, MAX_ID, type Sample } from './sample';

/** A data file. */
export interface DataFile {
  path: string;
  format: 'jsonl' | 'text';
}

/** How files become samples, all decided. */
export interface RecordOptions {
  /** `undefined`: a record is a sample. */
  packing: PackOptions | undefined;
  template: Template | undefined;
  tokenizer: Encoder | undefined;
  signal: AbortSignal | undefined;
  onBytes?: OnBytes;
}

/** A sample and where it is from. */
export interface PlacedSample {
  sample: Sample;
  path: string;
  /** The line where it begins. */
  line: number;
}

/** Reads the samples of files, one after the other. */
export class RecordReader {
  /** Lines without text, where they have no meaning. */
  emptyLines = 0;
  /** Documents whose end was left out. */
  remainders = 0;
  /** Files without a line of text. */
  readonly emptyFiles: string[] = [];

  private isEmpty = true;
  private hasNoTemplate = false;

  constructor(
    private readonly files: readonly DataFile[],
    private readonly options: RecordOptions,
    private readonly problems: Problems,
  ) {}

  /** What is wrong goes to `problems`, and the reading goes on where it can. */
  async *samples(): AsyncGenerator<PlacedSample, void> {
    for (const file of this.files) {
      this.isEmpty = true;
      try {
        if (this.options.packing === undefined) yield* this.records(file);
        else yield* this.packed(file, this.options.packing);
      } catch (error) {
        throw this.problems.ending(error);
      }
      if (this.isEmpty) this.emptyFiles.push(file.path);
    }
  }

  private async *records(file: DataFile): AsyncGenerator<PlacedSample, void> {
    const { path } = file;
    for await (const { number: line, text, isBlank } of this.lines(file)) {
      if (isBlank) {
        this.emptyLines++;
        continue;
      }
      const sample = this.attempt(path, line, () =>
        file.format === 'text' ? { completion: text } : this.toSample(text, path, line),
      );
      if (sample !== undefined) yield { sample, path, line };
    }
  }

  private async *packed(file: DataFile, packing: PackOptions): AsyncGenerator<PlacedSample, void> {
    const { tokenizer } = this.options;
    for await (const { line, lines } of this.documents(file)) {
      const { samples, hasRemainder } = packLines(lines, tokenizer as Encoder, packing);
      if (hasRemainder && !packing.keepRemainder) this.remainders++;
      for (const completion of samples) yield { sample: { completion }, path: file.path, line };
    }
  }

  /** The lines of each document: of each text in JSON Lines, between empty lines in plain text. */
  private async *documents(file: DataFile): AsyncGenerator<{ line: number; lines: string[] }, void> {
    const { path, format } = file;
    let document: { line: number; lines: string[] } | undefined;
    for await (const { number: line, text, isBlank } of this.lines(file)) {
      if (format === 'text' && !isBlank) {
        document ??= { line, lines: [] };
        document.lines.push(text);
      } else if (format === 'text') {
        if (document !== undefined) yield document;
        document = undefined;
      } else if (isBlank) {
        this.emptyLines++;
      } else {
        const lines = this.attempt(path, line, () => {
          const record = parseObject(text);
          if (!('text' in record)) throw new BadRecord('packing needs {"text"}, and this line has another form');
          return textOf(record).split('\n');
        });
        if (lines !== undefined) yield { line, lines };
      }
    }
    if (document !== undefined) yield document;
  }

  private async *lines({ path }: DataFile): AsyncGenerator<{ number: number; text: string; isBlank: boolean }, void> {
    for await (const { number, text } of readLines(path, this.options.signal, this.options.onBytes)) {
      const isBlank = text.trim() === '';
      if (!isBlank) this.isEmpty = false;
      yield { number, text, isBlank };
    }
  }

  /** What a record becomes, or undefined where it is wrong. */
  private attempt<T>(path: string, line: number, read: () => T): T | undefined {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof BadRecord)) throw error;
      this.problems.add(badLine(path, line, error.message, error.cause), error.hint);
      return undefined;
    }
  }

  /** The template of conversations; where it is missing, that is a problem of the first line that needs it. */
  private template(path: string, line: number): Template | undefined {
    if (this.hasNoTemplate) return undefined;
    try {
      return templateFor(this.options.template, this.options.tokenizer, `${path}:${line}`);
    } catch (error) {
      if (!isNeoXPrefixError(error)) throw error;
      this.hasNoTemplate = true;
      this.problems.add(error, error.hint);
      return undefined;
    }
  }

  private toSample(line: string, path: string, number: number): Sample | undefined {
    const record = parseObject(line);
    if (record['messages'] !== undefined) {
      if (record['text'] !== undefined || record['completion'] !== undefined || record['prompt'] !== undefined)
        throw new BadRecord('it has "messages" beside "text", "prompt" or "completion"; one form or the other');
      const template = this.template(path, number);
      // What is wrong with messages in any template is told beside the one that is missing.
      const sample = conversationOf(record['messages'], template ?? 'plain');
      return template === undefined ? undefined : sample;
    }
    if (record['text'] !== undefined) {
      const text = textOf(record);
      if (text === '') throw new BadRecord('its text is empty');
      return { completion: text };
    }
    const { prompt, completion } = record;
    if (completion === undefined)
      throw new BadRecord(
        prompt === undefined
          ? 'it has neither "text" nor "completion" nor "messages"'
          : 'it has a "prompt" but no "completion"',
      );
    const checked = checkTextOrIds(completion, 'completion');
    if (checked.length === 0) throw new BadRecord('its "completion" is empty');
    return prompt === undefined
      ? { completion: checked }
      : { prompt: checkTextOrIds(prompt, 'prompt'), completion: checked };
  }
}

/** What is wrong with a record, without its place. */
class BadRecord extends Error {
  constructor(
    message: string,
    override readonly cause?: unknown,
    readonly hint?: string,
  ) {
    super(message);
  }
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new BadRecord(`it is not valid JSON: ${(error as Error).message}`, error);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new BadRecord('it is not a JSON object');
  return value as Record<string, unknown>;
}

function textOf({ text, prompt, completion }: Record<string, unknown>): string {
  if (completion !== undefined || prompt !== undefined)
    throw new BadRecord('it has "text" beside "prompt" or "completion"; one form or the other');
  if (typeof text !== 'string') throw new BadRecord(`"text" is ${describe(text)}, not a string`);
  return text;
}

function conversationOf(messages: unknown, template: Template): Sample {
  if (!Array.isArray(messages)) throw new BadRecord(`"messages" is ${describe(messages)}, not a list`);
  try {
    return conversationSample(messages as Message[], template);
  } catch (error) {
    if (!isNeoXPrefixError(error)) throw error;
    const { hint, message } = error;
    throw new BadRecord(hint === undefined ? message : message.replace(`\nHint: ${hint}`, ''), error, hint);
  }
}

function checkTextOrIds(value: unknown, name: string): string | number[] {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value))
    throw new BadRecord(`"${name}" is ${describe(value)}, not a string or a list of token ids`);
  const wrong = value.findIndex(
    (id: unknown) => typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_ID,
  );
  if (wrong >= 0) throw new BadRecord(`"${name}"[${wrong}] is not a token id (an integer of at least 0)`);
  return value as number[];
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
