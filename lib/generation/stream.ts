import { checkOptions, checkSignal } from '../arguments';
import type { NeoXModel } from '../model/neox-model';
import type { PrefixWeights } from '../prefix/weights';
import {
  GENERATE_OPTIONS,
  prepare,
  run,
  usageOf,
  type FinishReason,
  type GenerateOptions,
  type PreparedRequest,
  type Prompt,
  type Usage,
} from './generate';

/** How to generate one text: {@link GenerateOptions} with one prefix and one seed. */
export interface StreamOptions extends Omit<GenerateOptions, 'prefix' | 'seed'> {
  /** The prefix. Defaults to none. */
  prefix?: PrefixWeights | undefined;
  /** Seed of the draws, an integer from 0 to 2^53 - 1. Defaults to a random one. */
  seed?: number;
}

/** What a stream gives: one piece for each new token, and a last one with the rest of the text and how it ended. */
export interface StreamPiece {
  /** Text that is certain now; '' while a character is unfinished. */
  text: string;
  /** The new token; undefined in the last piece. */
  token?: number;
  /** Why the text ended; in the last piece only. */
  finishReason?: FinishReason;
  /** How many tokens it took; in the last piece only. */
  usage?: Usage;
}

/** Checks the request at once; the work begins with the first `next()`. */
export function stream(model: NeoXModel, prompt: Prompt, options: StreamOptions): AsyncGenerator<StreamPiece, void, void> {
  checkOptions('options', options, GENERATE_OPTIONS);
  const outer = checkSignal('signal', options.signal);
  const left = new AbortController();
  const signal = outer === undefined ? left.signal : AbortSignal.any([outer, left.signal]);
  return pieces(model, prepare(model, [prompt], { ...options, signal }), left);
}

/** @param left aborted when nobody listens any more */
async function* pieces(model: NeoXModel, request: PreparedRequest, left: AbortController): AsyncGenerator<StreamPiece, void, void> {
  const decoder = model.hasTokenizer ? model.tokenizer.createDecoder({ skipSpecialTokens: true }) : undefined;

  // Tokens wait here until the consumer asks for them.
  const waiting: number[] = [];
  let wake: () => void = () => undefined;
  let settled = false;
  const work = run(model, request, (_row, token) => {
    waiting.push(token);
    wake();
  });
  const ended = work.then(
    () => undefined,
    () => undefined,
  );
  void ended.then(() => {
    settled = true;
    wake();
  });
  try {
    let count = 0;
    for (;;) {
      const token = waiting.shift();
      if (token !== undefined) {
        count++;
        yield { text: decoder?.push(token) ?? '', token };
        continue;
      }
      if (settled) break;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    const [result] = await work;
    yield { text: decoder?.end() ?? '', finishReason: result?.finishReason ?? 'length', usage: usageOf(request, 0, count) };
  } finally {
    // Reached also when the consumer leaves its loop: the native work ends within a token, and is waited for.
    left.abort();
    await ended;
  }
}
