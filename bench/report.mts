// The results as text.
import type { Agreement, Result } from './measure.mts';
import type { Limits } from './workloads.mts';

/** What the file of a run holds. */
export interface Report {
  readonly date: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly rounds: number;
  readonly threads: number;
  readonly quick: boolean;
  /** Operations or bytes a second. */
  readonly limits: Limits;
  readonly agreements: readonly Agreement[];
  readonly results: readonly Result[];
  /** What was not measured, and why. */
  readonly missing: readonly string[];
  readonly failures: readonly string[];
}

/** Three digits that say something. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value !== 0 && Math.abs(value) < 0.0995) return value.toPrecision(2);
  const digits = Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0;
  return value.toFixed(digits).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Results with the same model and title, in the order of the first of each. */
export function tables(results: readonly Result[]): Result[][] {
  const byTitle = new Map<string, Result[]>();
  for (const result of results) {
    const key = `${result.model}: ${result.title}`;
    byTitle.set(key, [...(byTitle.get(key) ?? []), result]);
  }
  return [...byTitle.values()];
}

/**
 * How many times better we are than this result, by default in the same precision; undefined where there is nothing to
 * compare.
 */
export function advantage(
  result: Result,
  table: readonly Result[],
  dtype = result.precision === 'float32' ? 'float32' : 'bfloat16',
): number | undefined {
  const own = table.find(({ peer }) => peer === `neox-prefix ${dtype}`);
  if (own === undefined || own === result) return undefined;
  return result.better === 'higher' ? own.median / result.median : result.median / own.median;
}

/** The results of one metric. */
export function table(rows: readonly Result[]): string {
  const [{ model, title, unit, better }] = rows as [Result];
  const cells = rows.map((row) => {
    const times = advantage(row, rows);
    const int8 = row.precision === 'float32' ? undefined : advantage(row, rows, 'int8');
    return [
      row.peer,
      short(row.median),
      row.values.length === 1 ? '1 run' : `${short(row.min)} .. ${short(row.max)}`,
      times === undefined ? '' : `${short(times)}x`,
      int8 === undefined ? '' : `${short(int8)}x`,
      row.limit === undefined ? '' : `${((100 * row.median) / row.limit).toFixed(0)} % of ${short(row.limit)}`,
    ];
  });
  const heads = ['', `${unit}, median`, 'spread', 'ours, times as good', 'int8', 'of the limit'];
  return `${model}: ${title} (${better} is better)\n${columns([heads, ...cells])}`;
}

/** Aligned; columns that hold nothing are left out, and so is a first row that does. */
function columns(rows: readonly (readonly string[])[]): string {
  const used = (rows[0] ?? []).map((_, i) => i).filter((i) => rows.slice(1).some((row) => row[i] !== ''));
  const widths = used.map((i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows
    .map((row) =>
      used
        .map((i, k) => (k === 0 ? (row[i] ?? '').padEnd(widths[k] ?? 0) : (row[i] ?? '').padStart(widths[k] ?? 0)))
        .join('   ')
        .trimEnd(),
    )
    .filter((line) => line !== '')
    .map((line) => `  ${line}`)
    .join('\n');
}

export function describeLimits(limits: Limits): string {
  const rows = [
    ['products in float32', limits.float32, 'GFLOP/s'],
    ['products in bfloat16', limits.bfloat16, 'GFLOP/s'],
    ['products in int8', limits.int8, 'GFLOP/s'],
    ['reading memory', limits.read, 'GB/s'],
    ['copying memory', limits.copy, 'GB/s'],
    ['writing to the disk', limits.disk, 'GB/s'],
  ] as const;
  const known = rows.filter(([, value]) => value !== undefined);
  return `The machine's limits\n${columns([['', ''], ...known.map(([name, value, unit]) => [name, `${short((value ?? NaN) / 1e9)} ${unit}`])])}`;
}

function describeAgreements(agreements: readonly Agreement[]): string {
  const rows = agreements.map(({ model, peer, sameTokens, difference, agrees }) => [
    `${model}: ${peer}`,
    sameTokens,
    difference.toPrecision(2),
    agrees ? '' : 'computes something else: not measured',
  ]);
  return `Agreement with our float32: the likeliest next tokens, and the largest difference of a log probability\n${columns([['', '', '', ''], ...rows])}`;
}

/** All of a report, for a terminal. */
export function describe(report: Report): string {
  const parts = [
    Object.entries(report.machine)
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
    ...(report.quick ? ['A tiny model and one round: these times say nothing about speed.'] : []),
    ...(Object.keys(report.limits).length > 0 ? [describeLimits(report.limits)] : []),
    ...(report.agreements.length > 0 ? [describeAgreements(report.agreements)] : []),
    ...tables(report.results).map(table),
    ...(report.missing.length > 0 ? [`Not measured\n${report.missing.map((line) => `  ${line}`).join('\n')}`] : []),
    ...(report.failures.length > 0 ? [`Failed\n${report.failures.map((line) => `  ${line}`).join('\n')}`] : []),
  ];
  return parts.join('\n\n');
}
