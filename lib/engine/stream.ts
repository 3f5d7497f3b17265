import type { StreamPiece } from '../generation/output';
import type { ScoredToken } from '../generation/token-scores';
import type { RequestTiming, RowEnd, Sink } from './job';

/** A piece of one of the texts of a stream. */
export interface EnginePiece extends StreamPiece {
  /** Which text it belongs to: text j of request i is number i * n + j; 0 where there is only one. */
  index: number;
  /**
   * Of each token of the prompt, with `promptLogprobs`; null for the first, which nothing predicts. In a piece of its
   * own, which is the first one of its text.
   */
  promptLogprobs?: (ScoredToken | null)[];
  /** How long it took; in the last piece of a text only. */
  timing?: RequestTiming;
}

type Result = IteratorResult<EnginePiece, undefined>;

interface Reader {
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/** Where the pieces of one text go: up to `capacity` of them wait to be read, and then the row waits. */
class Lane implements Sink {
  unread = 0;
  readonly wantsPrompt = true;

  constructor(
    private readonly channel: Channel,
    private readonly index: number,
    readonly capacity: number,
    /** Called when a piece was read. */
    readonly onRead: () => void,
  ) {}

  prompt(promptLogprobs: (ScoredToken | null)[]): void {
    this.channel.put({ index: this.index, text: '', promptLogprobs }, undefined);
  }

  piece(piece: StreamPiece): void {
    this.channel.put({ index: this.index, ...piece }, this);
  }

  end({ rest, completions: [{ finishReason, stop, end }], usage, timing }: RowEnd): void {
    const known = { ...(stop !== undefined && { stop }), ...(end !== undefined && { end }) };
    this.channel.put({ index: this.index, text: rest, finishReason, ...known, usage, timing }, undefined);
    this.channel.leave();
  }

  fail(error: unknown): void {
    this.channel.fail(error);
  }
}

/** What lies between the rows of a stream and its reader. */
export class Channel {
  /** Pieces that nobody has read, from `first` on, and whose they are where they count as unread. */
  private waiting: { piece: EnginePiece; lane: Lane | undefined }[] = [];
  private first = 0;
  private readonly readers: Reader[] = [];
  private lanes = 0;
  private failure: { error: unknown } | undefined;
  private closed = false;

  /** @param onFail called with the error of the row that failed first */
  constructor(private readonly onFail: (error: unknown) => void) {}

  /** One more text. */
  open(index: number, capacity: number, onRead: () => void): Sink {
    this.lanes++;
    return new Lane(this, index, capacity, onRead);
  }

  put(piece: EnginePiece, lane: Lane | undefined): void {
    if (this.closed || this.failure !== undefined) return;
    const reader = this.readers.shift();
    if (reader !== undefined) {
      reader.resolve({ done: false, value: piece });
      return;
    }
    this.waiting.push({ piece, lane });
    if (lane !== undefined) lane.unread++;
  }

  /** A text is at its end. */
  leave(): void {
    this.lanes--;
    this.answer();
  }

  fail(error: unknown): void {
    if (this.failure !== undefined) return;
    this.failure = { error };
    this.drop();
    this.onFail(error);
    this.answer();
  }

  next(): Promise<Result> {
    const piece = this.shift();
    if (piece !== undefined) return Promise.resolve({ done: false, value: piece });
    return new Promise((resolve, reject) => {
      this.readers.push({ resolve, reject });
      this.answer();
    });
  }

  /** The next piece and all that wait behind it; none at the end. */
  async all(): Promise<EnginePiece[]> {
    const { done, value } = await this.next();
    if (done === true) return [];
    const pieces = [value];
    for (let piece = this.shift(); piece !== undefined; piece = this.shift()) pieces.push(piece);
    return pieces;
  }

  /** Nobody reads on. */
  close(): void {
    this.closed = true;
    this.drop();
    this.answer();
  }

  private shift(): EnginePiece | undefined {
    const entry = this.waiting[this.first];
    if (entry === undefined) return undefined;
    this.first++;
    if (this.first === this.waiting.length) this.drop();
    if (entry.lane !== undefined) {
      entry.lane.unread--;
      entry.lane.onRead();
    }
    return entry.piece;
  }

  private drop(): void {
    this.waiting = [];
    this.first = 0;
  }

  /** Answers who waits, once it is known how the stream ends. */
  private answer(): void {
    const { failure } = this;
    while (this.readers.length > 0 && (this.closed || failure !== undefined || this.lanes === 0)) {
      const reader = this.readers.shift() as Reader;
      if (this.closed || failure === undefined) {
        reader.resolve({ done: true, value: undefined });
      } else {
        this.closed = true;
        reader.reject(failure.error);
      }
    }
  }
}

/** Stops the rows of a stream that was dropped without being read to its end. */
const dropped = new FinalizationRegistry<() => void>((stop) => stop());

/**
 * The pieces of one request, or of several. They are under way from the call that gave the stream; leaving the loop,
 * `return()` or the signal end them within a token, and so does the garbage collector when a stream is dropped. When
 * one text fails, the loop throws and the others end. May be iterated once.
 */
export class EngineStream implements AsyncGenerator<EnginePiece, undefined, void> {
  /** @internal */
  constructor(
    private readonly channel: Channel,
    /** Ends the rows; resolves when they are gone. Must not hold this object. */
    private readonly stop: () => Promise<void>,
  ) {
    dropped.register(this, () => void stop(), this);
  }

  /** The next piece: as soon as its token is there. */
  next(): Promise<Result> {
    return this.channel.next();
  }

  /**
   * The next piece and all that came with it; none at the end.
   * @internal
   */
  nextPieces(): Promise<EnginePiece[]> {
    return this.channel.all();
  }

  /** Ends the texts and waits until their rows are gone. */
  async return(): Promise<Result> {
    dropped.unregister(this);
    this.channel.close();
    await this.stop();
    return { done: true, value: undefined };
  }

  /** {@link return}, and throws the error. */
  async throw(error: unknown): Promise<Result> {
    await this.return();
    throw error;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** {@link return}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}
