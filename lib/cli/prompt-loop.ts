import { createInterface } from 'node:readline';
import type { Ui } from './ui';

const PROMPT = 'Prompt (Ctrl-D ends): ';

/**
 * Reads prompts line by line until the end of the input, one at a time. At a terminal it asks for each; an answer that fails is told by the
 * caller and ends the loop.
 */
export async function promptLoop(ui: Ui, answer: (prompt: string) => Promise<void>): Promise<void> {
  const { io, signal } = ui;
  signal.throwIfAborted();
  const asks = io.stdin.isTTY === true;
  // What is asked goes to stderr: stdout has the answers alone.
  const reader = createInterface(
    asks ? { input: io.stdin, output: io.stderr as NodeJS.WritableStream, prompt: PROMPT } : { input: io.stdin, terminal: false },
  );
  // At a terminal readline reads the keys itself, Ctrl-C included.
  reader.on('SIGINT', () => io.interrupt());
  const close = (): void => reader.close();
  signal.addEventListener('abort', close, { once: true });
  try {
    if (asks) reader.prompt();
    for await (const line of reader) {
      signal.throwIfAborted();
      await answer(line);
      if (asks) reader.prompt();
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener('abort', close);
    reader.close();
    // What comes next does not belong on the line of the question.
    if (asks) ui.note('');
  }
}
