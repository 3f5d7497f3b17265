import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { isNeoXPrefixError } from '../base/errors';
import { type ByteSource, readLines } from '../formats/lines';
import type { CliIO } from './io';
import { reportError } from './usage-errors';
import type { Ui } from './ui';

const PROMPT = 'Prompt (Ctrl-D ends): ';

/** The lines that are typed at a terminal, each asked for. */
async function* typedLines(io: CliIO, signal: AbortSignal): AsyncGenerator<string, void> {
  // What is asked goes to stderr: stdout has the answers alone.
  const reader = createInterface({ input: io.stdin, output: io.stderr as NodeJS.WritableStream, prompt: PROMPT });
  // readline reads the keys itself, Ctrl-C included.
  reader.on('SIGINT', () => io.interrupt());
  const close = (): void => reader.close();
  signal.addEventListener('abort', close, { once: true });
  try {
    reader.prompt();
    for await (const line of reader) {
      yield line;
      reader.prompt();
    }
  } finally {
    signal.removeEventListener('abort', close);
    reader.close();
  }
}

/** The lines of a pipe, split as those of a file. */
async function* pipedLines({ stdin }: CliIO, signal: AbortSignal): AsyncGenerator<string, void> {
  // A pipe that gives nothing would be waited for.
  const close = (): void => {
    if (stdin instanceof Readable) stdin.destroy(signal.reason as Error);
  };
  signal.addEventListener('abort', close, { once: true });
  try {
    for await (const { text } of readLines(standardInput(stdin), signal)) yield text;
  } finally {
    signal.removeEventListener('abort', close);
  }
}

/** What comes by stdin, as it is. */
export function standardInput(stdin: CliIO['stdin']): ByteSource {
  const bytes = async function* (): AsyncGenerator<Buffer, void> {
    for await (const chunk of stdin) yield Buffer.from(chunk);
  };
  return { name: 'standard input', bytes: bytes() };
}

/**
 * Reads prompts line by line until the end of the input, one at a time; at a terminal it asks for each. A prompt that
 * cannot be answered, for example because it is too long, is told and does not end the loop.
 * @returns the exit code: at a terminal 0, elsewhere that of the last failure
 */
export async function promptLoop(ui: Ui, answer: (prompt: string) => Promise<void>): Promise<number> {
  const { io, signal } = ui;
  signal.throwIfAborted();
  const asks = io.stdin.isTTY === true;
  let status = 0;
  let line = 0;
  try {
    for await (const prompt of asks ? typedLines(io, signal) : pipedLines(io, signal)) {
      signal.throwIfAborted();
      line++;
      try {
        await answer(prompt);
      } catch (error) {
        if (signal.aborted || !isNeoXPrefixError(error)) throw error;
        if (asks) reportError(error, ui);
        else status = reportError(error, ui, `line ${line}`);
      }
    }
    signal.throwIfAborted();
    return status;
  } finally {
    // What comes next does not belong on the line of the question.
    if (asks) ui.note('');
  }
}
