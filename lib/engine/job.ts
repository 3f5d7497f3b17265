import type * as Native from '../../types/native';
import type { Constraint } from '../generation/constraints/constraint';
import type { Completion, Output, StreamPiece, Usage } from '../generation/output';
import type { TextContext } from '../tokenizer/backend';
import type { Ticket } from './queue';

/** Where what a row says goes. */
export interface Sink {
  /** Pieces that may wait here unread; Infinity: any number. */
  readonly capacity: number;
  /** Pieces that wait here. */
  readonly unread: number;
  piece(piece: StreamPiece): void;
  /**
   * @param rest the text that was held back to the end
   * @param completions one, or those of a beam search
   */
  end(rest: string, completions: readonly [Completion, ...Completion[]], usage: Usage): void;
  /** `error` may be any value: the reason of a signal. */
  fail(error: unknown): void;
}

/** What the addon needs to begin a row. */
export interface RowStart {
  prompt: Int32Array;
  /** What the texts of a beam search are read behind. */
  context?: TextContext | undefined;
  prefix: Native.Prefix | null;
  settings: Native.GenerateRowSettings;
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
  ) {}

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
    if (capacity === Infinity) return this.row === undefined || this.granted > 0 ? 0 : this.row.settings.maxNewTokens;
    const more = capacity - unread - this.granted;
    return more >= Math.max(1, Math.floor(capacity / 2)) ? more : 0;
  }
}
