import { createInterface } from 'node:readline';
import { isNeoXPrefixError } from '../base/errors';
import { reportError } from './usage-errors';
import type { Ui } from './ui';

const PROMPT = 'Prompt (Ctrl-D ends): ';

/**
 * Reads prompts line by line until the end of the input, one at a time; at a terminal it asks for each. A prompt that
 * cannot be answered, for example because it is too long, is told and does not end the loop.
 * @returns the exit code: at a terminal 0, elsewhere that of the last failure
 */
export async function promptLoop(ui: Ui, answer: (prompt: string) => Promise<void>): Promise<number> {
  const { io, signal } = ui;
  signal.throwIfAborted();
  const asks = io.stdin.isTTY === true;
  // What is asked goes to stderr: stdout has the answers alone.
  const reader = createInterface(
    asks
      ? { input: io.stdin, output: io.stderr as NodeJS.WritableStream, prompt: PROMPT }
      : { input: io.stdin, terminal: false },
  );
  // At a terminal readline reads the keys itself, Ctrl-C included.
  reader.on('SIGINT', () => io.interrupt());
  const close = (): void => reader.close();
  signal.addEventListener('abort', close, { once: true });
  let status = 0;
  let line = 0;
  try {
    if (asks) reader.prompt();
    for await (const prompt of reader) {
      signal.throwIfAborted();
      line++;
      try {
        await answer(prompt);
      } catch (error) {
        if (signal.aborted || !isNeoXPrefixError(error)) throw error;
        if (asks) reportError(error, ui);
        else status = reportError(error, ui, `line ${line}`);
      }
      if (asks) reader.prompt();
    }
    signal.throwIfAborted();
    return status;
  } finally {
    signal.removeEventListener('abort', close);
    reader.close();
    // What comes next does not belong on the line of the question.
    if (asks) ui.note('');
  }
}
