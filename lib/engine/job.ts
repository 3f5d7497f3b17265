import type * as Native from '../../types/native';
import type { Constraint } from '../generation/constraints/constraint';
import type { Completion, Output, StreamPiece, Usage } from '../generation/output';
import type { ScoredToken } from '../generation/token-scores';
import type { TextContext } from '../tokenizer/backend';
import type { Ticket } from './queue';

/** Where what a row says goes. */
export interface Sink {
  /** Pieces that may wait here unread; Infinity: any number. */
  readonly capacity: number;
  /** Pieces that wait here. */
  readonly unread: number;
  /** Whether it has a use for the scores of the prompt: of several texts of a result one will do. */
  readonly wantsPrompt: boolean;
  /** The scores of the prompt, if it was asked for them; before any piece. */
  prompt(logprobs: (ScoredToken | null)[]): void;
  piece(piece: StreamPiece): void;
  end(end: RowEnd): void;
  /** `error` may be any value: the reason of a signal. */
  fail(error: unknown): void;
}

/** Where the time of a text went, in seconds. */
export interface RequestTiming {
  /** Until it was admitted: there was a row for it, and room for its keys and values. */
  queuedSeconds: number;
  /** From there to its first token, or to its end where it has none. */
  prefillSeconds: number;
  /** From its first token to its end. */
  decodeSeconds: number;
}

/** What a row says at its end. */
export interface RowEnd {
  /** The text that was held back to the end. */
  rest: string;
  /** One, or those of a beam search. */
  completions: readonly [Completion, ...Completion[]];
  usage: Usage;
  timing: RequestTiming;
}

/** What the addon needs to begin a row. */
export interface RowStart {
  prompt: Int32Array;
  /** What the texts of a beam search are read behind. */
  context?: TextContext | undefined;
  prefix: Native.Prefix | null;
  settings: Native.GenerateRowSettings;
  /** All of its prompt but the last token, in a block that rows share. Its prefix is in it. */
  past?: Native.PastOfRow | undefined;
  /** Its number in a call of a model, which its errors name. */
  row?: number;
  /** Tokens to give beside the score of each token of the prompt; -1: no scores. */
  promptLogprobs: number;
  /** Whether its result has the end token. */
  endToken: boolean;
  /** A beam search. */
  beams?: Native.BeamSettings | undefined;
  /** What its text must keep to; freed when the row ends. */
  constraint?: Constraint | undefined;
}

/** A row on its way through the engine. */
export class Job implements Ticket {
  /** Set when its prefix is ready; only then it may be admitted. */
  row: RowStart | undefined;
  /** The number that it has in the native engine, once admitted. */
  slot = -1;
  /** Tokens that the native row may still give. */
  granted = 0;
  cachedTokens = 0;
  ended = false;
  /** Milliseconds of the clock: when it was made, admitted, and had its first token. */
  private readonly arrivedAt = performance.now();
  private admittedAt: number | undefined;
  private firstAt: number | undefined;
  /** Run once, when it ends in whatever way. */
  cleanUp: () => void = () => undefined;

  constructor(
    readonly arrival: number,
    readonly priority: number,
    /** Tokens of KV cache that are reserved for it. */
    readonly cost: number,
    readonly promptTokens: number,
    readonly prefixTokens: number,
    readonly output: Output,
    readonly sink: Sink,
    /** The name that it called its prefix by. */
    readonly prefixName?: string,
  ) {}

  /** It is in a row from now on. */
  admit(slot: number): void {
    this.slot = slot;
    this.admittedAt = performance.now();
  }

  /** One of the tokens that it was granted is there. */
  takeToken(): void {
    this.granted--;
    this.firstAt ??= performance.now();
  }

  /** Where its time went up to now. */
  get timing(): RequestTiming {
    const now = performance.now();
    const first = this.firstAt ?? now;
    const admitted = this.admittedAt ?? now;
    return {
      queuedSeconds: (admitted - this.arrivedAt) / 1e3,
      prefillSeconds: (first - admitted) / 1e3,
      decodeSeconds: (now - first) / 1e3,
    };
  }

  get usage(): Usage {
    const { promptTokens, prefixTokens, cachedTokens } = this;
    return { promptTokens, prefixTokens, completionTokens: this.output.length, cachedTokens };
  }

  /**
   * How many tokens to grant now; 0 while the row has enough, so that rows are not granted every single one by itself.
   */
  get wanted(): number {
    const { capacity, unread } = this.sink;
    const constraint = this.row?.constraint;
    if (constraint !== undefined)
      return this.granted > 0 || constraint.mask === undefined || unread >= capacity ? 0 : 1;
    // A row that only scores its prompt goes on with any grant.
    if (capacity === Infinity)
      return this.row === undefined || this.granted > 0 ? 0 : Math.max(1, this.row.settings.maxNewTokens);
    const more = capacity - unread - this.granted;
    return more >= Math.max(1, Math.floor(capacity / 2)) ? more : 0;
  }
}
