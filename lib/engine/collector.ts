import type { RowPiece } from '../generation/output';
import type { ScoredToken } from '../generation/token-scores';
import type { RowEnd, Sink } from './job';

/** All that a row says. */
export interface Collected extends RowEnd {
  promptLogprobs: (ScoredToken | null)[] | undefined;
}

/** Waits for all that a row says, and passes its pieces on. */
export class Collector implements Sink {
  readonly capacity = Infinity;
  readonly unread = 0;
  readonly result: Promise<Collected>;
  private promptLogprobs: (ScoredToken | null)[] | undefined;
  private resolve!: (result: Collected) => void;
  private reject!: (error: unknown) => void;

  constructor(
    private readonly onPiece?: (piece: RowPiece) => void,
    readonly wantsPrompt = true,
  ) {
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  prompt(logprobs: (ScoredToken | null)[]): void {
    this.promptLogprobs = logprobs;
  }

  piece(piece: RowPiece): void {
    this.onPiece?.(piece);
  }

  end(end: RowEnd): void {
    this.onPiece?.({ text: end.rest, finishReason: end.completions[0].finishReason });
    this.resolve({ ...end, promptLogprobs: this.promptLogprobs });
  }

  fail(error: unknown): void {
    this.reject(error);
  }
}
