// The child's side of protocol.mts.
import { createInterface } from 'node:readline';
import type { Answer, Operation, Operations, Question } from './protocol.mts';

export type Handlers = { [O in Operation]?: (args: Operations[O][0]) => Promise<Operations[O][1]> };

/** Answers one question after the other until stdin ends. */
export async function serve(handlers: Handlers): Promise<void> {
  for await (const line of createInterface(process.stdin)) {
    const { id, operation, args } = JSON.parse(line) as Question;
    const handler = handlers[operation] as ((args: unknown) => Promise<unknown>) | undefined;
    let answer: Answer;
    try {
      if (handler === undefined) throw new Error(`This peer cannot do '${operation}'`);
      answer = { id, answer: await handler(args) };
    } catch (error) {
      answer = { id, error: error instanceof Error ? error.message : String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

/** Times an action. */
export async function timed(
  amount: number,
  action: () => Promise<unknown>,
): Promise<{ seconds: number; amount: number }> {
  const started = performance.now();
  await action();
  return { seconds: (performance.now() - started) / 1000, amount };
}
