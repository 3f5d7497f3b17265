/**
 * Words as the backend takes them, [2, W]: the ids of all words one behind the other, and where each word ends, padded
 * with -1. No words are [[0], [-1]].
 */
export function packWords(words: readonly ArrayLike<number>[]): { ids: number[]; ends: number[] } {
  const ids = words.flatMap((word) => Array.from(word));
  let end = 0;
  const ends = words.map(({ length }) => (end += length));
  if (ids.length === 0) return { ids: [0], ends: [-1] };
  return { ids, ends: [...ends, ...new Array<number>(ids.length - ends.length).fill(-1)] };
}

/** The words of such a pair; undefined where the ends do not lie in order within the ids. */
export function unpackWords(ids: ArrayLike<number>, ends: ArrayLike<number>): number[][] | undefined {
  const words: number[][] = [];
  let start = 0;
  for (const end of Array.from(ends)) {
    if (end < 0) break;
    if (end <= start || end > ids.length) return undefined;
    words.push(Array.from(ids).slice(start, end));
    start = end;
  }
  return words;
}
