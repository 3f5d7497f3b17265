import { checkOptions, checkSignal } from '../base/arguments';
import { namesOf } from '../base/options';
import type { RowPiece } from '../generation/output';
import { type StreamPiece } from '../generation/output';
import { prepare, type PreparedRequest, type Prompt, STREAM_OPTIONS, type StreamOptions } from '../generation/request';
import type { LoadedModel } from '../model/loaded-model';
import { run } from './call';

/** Checks the request at once; the work begins with the first `next()`. */
export function stream(
  model: LoadedModel,
  prompt: Prompt,
  options: StreamOptions,
): AsyncGenerator<StreamPiece, void, void> {
  checkOptions('options', options, namesOf(STREAM_OPTIONS));
  const outer = checkSignal('signal', options.signal);
  const left = new AbortController();
  const signal = outer === undefined ? left.signal : AbortSignal.any([outer, left.signal]);
  return pieces(model, prepare(model, [prompt], { ...options, signal }, namesOf(STREAM_OPTIONS)), left);
}

/** @param left aborted when nobody listens any more */
async function* pieces(
  model: LoadedModel,
  request: PreparedRequest,
  left: AbortController,
): AsyncGenerator<StreamPiece, void, void> {
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
