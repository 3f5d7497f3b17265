import type { Completion, Usage } from '../generation/run';
import type { Sink } from './job';

/** Waits for all that a row says. */
export class Collector implements Sink {
  readonly capacity = Infinity;
  readonly unread = 0;
  readonly result: Promise<{ completion: Completion; usage: Usage }>;
  private resolve!: (result: { completion: Completion; usage: Usage }) => void;
  private reject!: (error: unknown) => void;

  constructor() {
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  piece(): void {
    // Its row keeps it.
  }

  end(_rest: string, completion: Completion, usage: Usage): void {
    this.resolve({ completion, usage });
  }

  fail(error: unknown): void {
    this.reject(error);
  }
}
