import type { Completion, StreamPiece, Usage } from '../generation/output';
import type { Sink } from './job';

type Result = IteratorResult<StreamPiece, undefined>;

interface Reader {
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/**
 * What lies between a row and the reader of its stream: pieces wait here, up to `capacity` of them, and then the row
 * waits.
 */
export class Channel implements Sink {
  /** Pieces that nobody has read, from `first` on. */
  private waiting: StreamPiece[] = [];
  private first = 0;
  private readonly readers: Reader[] = [];
  private outcome: { last: StreamPiece } | { error: unknown } | undefined;
  private closed = false;

  constructor(
    readonly capacity: number,
    /** Called when a piece was read. */
    private readonly onRead: () => void,
  ) {}

  get unread(): number {
    return this.waiting.length - this.first;
  }

  piece(piece: StreamPiece): void {
    const reader = this.readers.shift();
    if (reader === undefined) this.waiting.push(piece);
    else reader.resolve({ done: false, value: piece });
  }

  end(rest: string, [{ finishReason, stop }]: readonly [Completion, ...Completion[]], usage: Usage): void {
    this.outcome ??= { last: { text: rest, finishReason, ...(stop !== undefined && { stop }), usage } };
    this.answer();
  }

  fail(error: unknown): void {
    this.drop();
    this.outcome ??= { error };
    this.answer();
  }

  next(): Promise<Result> {
    const piece = this.waiting[this.first];
    if (piece !== undefined) {
      this.first++;
      if (this.first === this.waiting.length) this.drop();
      this.onRead();
      return Promise.resolve({ done: false, value: piece });
    }
    return new Promise((resolve, reject) => {
      this.readers.push({ resolve, reject });
      this.answer();
    });
  }

  /** Nobody reads on. */
  close(): void {
    this.closed = true;
    this.drop();
    this.answer();
  }

  private drop(): void {
    this.waiting = [];
    this.first = 0;
  }

  /** Answers who waits, once it is known how the stream ends. */
  private answer(): void {
    while (this.readers.length > 0) {
      if (this.closed) {
        this.readers.shift()?.resolve({ done: true, value: undefined });
        continue;
      }
      const { outcome } = this;
      if (outcome === undefined) return;
      this.closed = true;
      const reader = this.readers.shift() as Reader;
      if ('error' in outcome) reader.reject(outcome.error);
      else reader.resolve({ done: false, value: outcome.last });
    }
  }
}

/** Stops the row of a stream that was dropped without being read to its end. */
const dropped = new FinalizationRegistry<() => void>((stop) => stop());

/**
 * The pieces of one request. The request is under way from the call that gave the stream; leaving the loop, `return()`
 * or the signal end it within a token, and so does the garbage collector when a stream is dropped. May be iterated
 * once.
 */
export class EngineStream implements AsyncGenerator<StreamPiece, undefined, void> {
  /** @internal */
  constructor(
    private readonly channel: Channel,
    /** Ends the request; resolves when its row is gone. Must not hold this object. */
    private readonly stop: () => Promise<void>,
  ) {
    dropped.register(this, () => void stop(), this);
  }

  /** The next piece: as soon as its token is there. */
  next(): Promise<Result> {
    return this.channel.next();
  }

  /** Ends the request and waits until its row is gone. */
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
