import { checkOptions, checkSignal } from '../arguments';
import type { NeoXModel } from '../model/neox-model';
import type { PrefixWeights } from '../prefix/weights';
import type { OutputFormat } from './format/format';
import { prepare, type GenerateOptions, type PreparedRequest, type Prompt } from './generate';
import { run, type FinishReason, type RowPiece, type Usage } from './run';
import { SAMPLING_OPTIONS, type SamplingOptions } from './sampling-options';
import type { ScoredToken } from './token-scores';

/** How to generate one text: {@link SamplingOptions} with one prefix and one seed. */
export interface StreamOptions extends SamplingOptions {
  /** The prefix. Defaults to none. */
  prefix?: PrefixWeights | undefined;
  /** Seed of the draws, an integer from 0 to 2^53 - 1. Defaults to a random one. */
  seed?: number;
  /** As {@link GenerateOptions.format}. Defaults to any text. */
  format?: OutputFormat;
  /** Stops within a token; the loop throws the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

export const STREAM_OPTIONS = [...SAMPLING_OPTIONS, 'prefix', 'seed', 'format', 'signal'] as const satisfies readonly (keyof StreamOptions &
  keyof GenerateOptions)[];

/** What a stream gives: one piece for each new token, and a last one with the rest of the text and how it ended. */
export interface StreamPiece {
  /** Text that is certain now; '' while a character is unfinished, or what may be a stop string. */
  text: string;
  /** The new token; undefined in the last piece. */
  token?: number;
  /** Of the new token, with `logprobs`. */
  logprob?: ScoredToken;
  /** Why the text ended; in the last piece only. */
  finishReason?: FinishReason;
  /** The stop string that ended the text; in the last piece only. */
  stop?: string;
  /** How many tokens it took; in the last piece only. */
  usage?: Usage;
}

/** Checks the request at once; the work begins with the first `next()`. */
export function stream(model: NeoXModel, prompt: Prompt, options: StreamOptions): AsyncGenerator<StreamPiece, void, void> {
  checkOptions('options', options, STREAM_OPTIONS);
  const outer = checkSignal('signal', options.signal);
  const left = new AbortController();
  const signal = outer === undefined ? left.signal : AbortSignal.any([outer, left.signal]);
  return pieces(model, prepare(model, [prompt], { ...options, signal }, STREAM_OPTIONS), left);
}

/** @param left aborted when nobody listens any more */
async function* pieces(model: NeoXModel, request: PreparedRequest, left: AbortController): AsyncGenerator<StreamPiece, void, void> {
  // Pieces wait here until the consumer asks for them.
  const waiting: RowPiece[] = [];
  let wake: () => void = () => undefined;
  let settled = false;
  const work = model.track(
    run(model, request, (_row, piece) => {
      waiting.push(piece);
      wake();
    }),
  );
  const ended = work.then(
    () => undefined,
    () => undefined,
  );
  void ended.then(() => {
    settled = true;
    wake();
  });
  try {
    for (;;) {
      const piece = waiting.shift();
      if (piece?.token !== undefined) {
        yield piece;
        continue;
      }
      if (settled) {
        const [result] = await work;
        const { stop, usage } = result ?? {};
        yield { ...(piece as RowPiece), ...(stop !== undefined && { stop }), ...(usage && { usage }) };
        return;
      }
      if (piece !== undefined) waiting.unshift(piece); // the last one, which waits for the result
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    // Reached also when the consumer leaves its loop: the native work ends within a token, and is waited for.
    left.abort();
    await ended;
  }
}
