import type { Completion, RowPiece, Usage } from '../generation/output';
import type { Sink } from './job';

/** Waits for all that a row says, and passes its pieces on. */
export class Collector implements Sink {
  readonly capacity = Infinity;
  readonly unread = 0;
  readonly result: Promise<{ completions: readonly Completion[]; usage: Usage }>;
  private resolve!: (result: { completions: readonly Completion[]; usage: Usage }) => void;
  private reject!: (error: unknown) => void;

  constructor(private readonly onPiece?: (piece: RowPiece) => void) {
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  piece(piece: RowPiece): void {
    this.onPiece?.(piece);
  }

  end(rest: string, completions: readonly [Completion, ...Completion[]], usage: Usage): void {
    this.onPiece?.({ text: rest, finishReason: completions[0].finishReason });
    this.resolve({ completions, usage });
  }

  fail(error: unknown): void {
    this.reject(error);
  }
}
