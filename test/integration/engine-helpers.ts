import { mkdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { GenerationEngine } from '../../lib/engine/engine';
import type { EngineRequest } from '../../lib/engine/engine-request';
import type { GenerateResult } from '../../lib/generation/output';
import type { NeoXModel } from '../../lib/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { Random, randomPrefix, writeRandomModel, type ConfigJson } from '../helpers';

/** What the bytes of a request are: everything but what depends on the cache. */
export interface Answer {
  tokens: number[];
  text: string;
  finishReason: string;
  logprobs: unknown;
  stop: string | undefined;
  score: number | undefined;
  completions: unknown;
}

/** A request that gives its prefix and does not name it. */
export type OwnRequest = EngineRequest & { prefix?: PrefixWeights | undefined };

export const answerOf = ({
  tokens,
  text,
  finishReason,
  logprobs,
  stop,
  score,
  completions,
}: GenerateResult): Answer => ({
  tokens,
  text,
  finishReason,
  logprobs,
  stop,
  score,
  completions,
});

/** The request by itself: no batch, no pieces of prompts, no prompt cache. */
export async function alone(model: NeoXModel, { prompt, ...options }: OwnRequest): Promise<Answer> {
  return answerOf(await model.generate(prompt, options));
}

/** Prefixes of unequal lengths, and none. */
export function somePrefixes(model: NeoXModel, lengths: readonly number[]): (PrefixWeights | undefined)[] {
  return [undefined, ...lengths.map((length, i) => randomPrefix(model, length, 50 + i))];
}

/** Ragged requests: prompts that begin alike, greedy and drawn, with and without an end. */
export function drawRequests(
  model: NeoXModel,
  count: number,
  prefixes: readonly (PrefixWeights | undefined)[],
  seed: number,
): OwnRequest[] {
  const random = new Random(seed);
  const { vocabSize } = model.config;
  const beginnings = [[], random.ids(12, vocabSize), random.ids(40, vocabSize)];
  return Array.from({ length: count }, (_, i) => ({
    prompt: [...random.pick(beginnings), ...random.ids(random.integer(1, 30), vocabSize)],
    prefix: random.pick(prefixes),
    maxNewTokens: random.integer(1, 24),
    temperature: random.pick([0, 0.7, 1.5]),
    topK: random.pick([0, 7]),
    topP: random.pick([0.8, 1]),
    ignoreEos: random.next() < 0.5,
    minP: random.pick([0, 0.05]),
    repetitionPenalty: random.pick([1, 1.3]),
    frequencyPenalty: random.pick([0, 0.4]),
    noRepeatNgramSize: random.pick([0, 3]),
    ...(random.next() < 0.3 && { logprobs: random.integer(0, 3) }),
    seed: i,
  }));
}

/** Beam searches of all kinds, over prompts that begin alike. */
export function drawSearches(
  own: NeoXModel,
  count: number,
  prefixes: readonly (PrefixWeights | undefined)[],
  seed: number,
): OwnRequest[] {
  const random = new Random(seed);
  const { vocabSize } = own.config;
  const beginnings = [[], random.ids(12, vocabSize), random.ids(40, vocabSize)];
  return Array.from({ length: count }, () => {
    const numBeams = random.integer(2, 6);
    return {
      prompt: [...random.pick(beginnings), ...random.ids(random.integer(1, 30), vocabSize)],
      prefix: random.pick(prefixes),
      maxNewTokens: random.integer(1, 20),
      numBeams,
      numReturnSequences: random.integer(1, numBeams),
      lengthPenalty: random.pick([-1, 0.5, 1, 2]),
      earlyStopping: random.pick([true, false, 'never']),
      ignoreEos: random.next() < 0.3,
      repetitionPenalty: random.pick([1, 1.3]),
      noRepeatNgramSize: random.pick([0, 3]),
    };
  });
}

export async function writeModel(folder: string, config: ConfigJson = {}, seed = 3): Promise<string> {
  mkdirSync(folder, { recursive: true });
  return writeRandomModel(folder, config, seed);
}

/** Collects garbage now, so that what is left of memory is what is held. */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}

/** Behind this, values that nobody holds are gone. */
export async function forgetValues(): Promise<void> {
  // What was looked at through a weak reference stays to the end of the turn, and array buffers are freed by and by.
  for (let i = 0; i < 3; i++) {
    await pause(1);
    collectGarbage();
  }
}

export const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits for what must come true soon. */
export async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    if (condition()) return;
    await pause(5);
  }
  throw new Error('this did not come true');
}

export { GenerationEngine, type EngineRequest };
