import type { Value } from './history';

/** A curve: `x` rises, `y` has null where there is a gap. */
export interface Points {
  x: readonly number[];
  y: readonly Value[];
}

/**
 * At most `limit` points that look like all of them: of each of `limit` / 2 stretches its lowest and its highest. The
 * first and the last point stay, so that a curve does not change its length.
 */
export function decimate({ x, y }: Points, limit: number): Points {
  const count = x.length;
  if (count <= limit) return { x, y };
  const kept: number[] = [0];
  const stretches = Math.floor(limit / 2) - 1;
  for (let i = 0; i < stretches; i++) {
    const from = 1 + Math.floor((i * (count - 2)) / stretches);
    const to = 1 + Math.floor(((i + 1) * (count - 2)) / stretches);
    let [low, high] = [from, from];
    for (let j = from; j < to; j++) {
      const value = y[j] ?? null;
      if (value === null) continue;
      if (value < (y[low] ?? Infinity)) low = j;
      if (value > (y[high] ?? -Infinity)) high = j;
    }
    kept.push(...(low === high ? [low] : [Math.min(low, high), Math.max(low, high)]));
  }
  kept.push(count - 1);
  return { x: kept.map((i) => x[i] as number), y: kept.map((i) => y[i] ?? null) };
}

/** Steps over which a curve of so many is smoothed; 0: not at all. */
export function smoothingSpan(count: number): number {
  return count < 20 ? 0 : Math.max(10, Math.round(count / 100));
}

/** At each place the mean of about `span` values around it, fewer at the ends; gaps do not count. */
export function smooth(values: readonly Value[], span: number): Value[] {
  const half = Math.floor(span / 2);
  let [sum, count, from, to] = [0, 0, 0, 0];
  return values.map((_, i) => {
    for (; to < Math.min(values.length, i + half + 1); to++) {
      sum += values[to] ?? 0;
      if (values[to] !== null) count++;
    }
    for (; from < i - half; from++) {
      sum -= values[from] ?? 0;
      if (values[from] !== null) count--;
    }
    return count === 0 ? null : sum / count;
  });
}

/** The value at a share of the sorted values: 0.5 is the median. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.round(share * (sorted.length - 1))] as number;
}
