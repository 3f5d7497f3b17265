import { formatBytes, formatNumber } from '../base/quantities';
import type { Chart, Curve, Unit } from './charts';
import { quantile } from './points';

/** Ends of a vertical axis. A few spikes of a raw curve may leave it, or they would press everything else flat. */
export function limits({ curves, log, fromZero, unit }: Chart): [low: number, high: number] {
  const ends = curves.flatMap((curve) => endsOf(curve, log !== 0)).filter(Number.isFinite);
  if (ends.length === 0) return log === 0 ? [0, 1] : [1, 10];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  // Powers of two are not broken up.
  if (log === 2) return [2 ** Math.floor(Math.log2(low)), 2 ** Math.ceil(Math.log2(high) + 1e-9)];
  if (log !== 0) return [low / 1.15, high * 1.15];
  if (fromZero && low >= 0) return [0, high === 0 ? 1 : high * 1.08];
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - pad, unit === 'share' ? Math.min(1, high + pad) : high + pad];
}

function endsOf({ y, role }: Curve, positive: boolean): number[] {
  const values = y.filter((value) => value !== null && (!positive || value > 0)) as number[];
  if (values.length === 0) return [];
  if (role !== 'raw') return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  values.sort((a, b) => a - b);
  return [quantile(values, 0.005), quantile(values, 0.995)];
}

/** About `count` round numbers within [low, high]. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Powers of the base within [low, high], at most about `count` of them. */
export function logTicks(low: number, high: number, base: number, count: number): number[] {
  const log = (value: number): number => Math.log(value) / Math.log(base);
  const first = Math.ceil(log(low) - 1e-9);
  const last = Math.floor(log(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / count));
  const powers = Array.from(
    { length: Math.max(0, Math.floor((last - first) / every) + 1) },
    (_, i) => base ** (first + i * every),
  );
  return powers.length >= 2 ? powers : ticks(low, high, count).filter((value) => value > 0);
}

/** The numbers along an axis, all in the unit that suits the largest. */
export function formatTicks(values: readonly number[], unit: Unit, log = 0): string[] {
  const largest = values.reduce((size, value) => Math.max(size, Math.abs(value)), 0);
  if (unit === 'bytes') return values.map((value) => (value === 0 ? '0' : formatBytes(value)));
  if (unit === 'share') return values.map((value) => `${formatNumber(Math.round(value * 1e4) / 100)}%`);
  const [size, suffix] = log !== 0 || largest < 1e4 ? [1, ''] : largest < 1e6 ? [1e3, 'k'] : [1e6, 'M'];
  return values.map((value) => (value === 0 ? '0' : `${formatNumber(value / size)}${suffix}`));
}
