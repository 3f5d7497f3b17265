import { joinIds } from '../base/joined-ids';
import { type TokenizedSample, type TokenizedTurn } from './sample';

/*
 * A sample is stored as its ids one behind the other, with two flags in the bits that ids leave free. So its length is
 * its number of tokens, and where prompts and completions begin and end is stored with them.
 */

/** On every id of a completion. */
const LEARNED = 1 << 31;
/** On the last id of a completion that was cut. */
const CUT = 1 << 30;

export function encodeSample({ prompt, completion, turns = [], truncated }: TokenizedSample): Int32Array {
  const stored = joinIds([prompt, completion, ...turns.flatMap((turn) => [turn.prompt, turn.completion])]);
  let at = 0;
  for (const turn of [{ prompt, completion }, ...turns]) {
    at += turn.prompt.length;
    for (const end = at + turn.completion.length; at < end; at++) stored[at] = (stored[at] as number) | LEARNED;
  }
  if (truncated === true) stored[at - 1] = (stored[at - 1] as number) | CUT;
  return stored;
}

export function decodeSample(stored: Int32Array): TokenizedSample {
  const turns: TokenizedTurn[] = [];
  let at = 0;
  /** The ids up to the next border, without flags. */
  const take = (learned: boolean): Int32Array => {
    const first = at;
    while (at < stored.length && (stored[at] as number) < 0 === learned) at++;
    return stored.slice(first, at).map((id) => id & ~(LEARNED | CUT));
  };
  while (at < stored.length) turns.push({ prompt: take(false), completion: take(true) });
  const [first, ...rest] = turns as [TokenizedTurn, ...TokenizedTurn[]];
  const sample: TokenizedSample = rest.length === 0 ? first : { ...first, turns: rest };
  return ((stored.at(-1) as number) & CUT) === 0 ? sample : { ...sample, truncated: true };
}

/** The largest id, and how many are learned. */
export function measureSample(stored: Int32Array): { largestId: number; learned: number } {
  let [largestId, learned] = [0, 0];
  for (const id of stored) {
    if (id < 0) learned++;
    largestId = Math.max(largestId, id & ~(LEARNED | CUT));
  }
  return { largestId, learned };
}

/** The largest id of a sample. */
export function largestIdOf({ prompt, completion, turns = [] }: TokenizedSample): number {
  const parts = [prompt, completion, ...turns.flatMap((turn) => [turn.prompt, turn.completion])];
  return parts.reduce((largest, ids) => ids.reduce((a, b) => Math.max(a, b), largest), 0);
}

/** Positions of a sample's longest row: its tokens, and the beginning-of-sequence token where it has no prompt. */
export function positionsOf({ prompt, completion, turns = [] }: TokenizedSample): number {
  const later = turns.reduce((sum, turn) => sum + turn.prompt.length + turn.completion.length, 0);
  return Math.max(1, prompt.length) + completion.length + later;
}

/** The beginning of a sample, of at most so many positions; undefined when nothing would be left to learn. */
export function truncateSample(sample: TokenizedSample, positions: number): TokenizedSample | undefined {
  const { prompt, completion, turns = [] } = sample;
  let left = positions - (prompt.length === 0 ? 1 : 0);
  const kept: TokenizedTurn[] = [];
  let isCut = false;
  for (const turn of [{ prompt, completion }, ...turns]) {
    left -= turn.prompt.length;
    if (left <= 0) break;
    kept.push({ prompt: turn.prompt, completion: turn.completion.subarray(0, left) });
    isCut = left < turn.completion.length;
    left -= turn.completion.length;
  }
  const [first, ...rest] = kept;
  if (first === undefined) return undefined;
  const result: TokenizedSample = rest.length === 0 ? first : { ...first, turns: rest };
  return isCut ? { ...result, truncated: true } : result;
}
