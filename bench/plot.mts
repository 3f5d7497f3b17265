// Draws results with Vega-Lite: a panel for each metric, a bar for each peer, a line from the worst round to the best.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Result } from './measure.mts';
import { advantage, short, tables, type Report } from './report.mts';

// The parts of the libraries that are used here; they are installed in bench/ alone.
interface Vega {
  View: new (runtime: unknown, options: { renderer: 'none' }) => { toSVG(): Promise<string> };
  parse(spec: unknown): unknown;
}
interface VegaLite {
  compile(spec: unknown): { spec: unknown };
}

/** By variables, so that the compiler does not look for them. */
const VEGA: string = 'vega';
const VEGA_LITE: string = 'vega-lite';

/** Readable on white and on black. */
const COLORS = { 'neox-prefix': '#2f7ed8', PEFT: '#e08a1e', rinna: '#c2528b', 'llama.cpp': '#3fa66b' } as const;
/** Text is dark on light pages and light on dark ones, as the system of the reader says. */
const STYLE =
  '<style>text{fill:#1f2328;font-family:sans-serif}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>';

export const canPlot = existsSync(join(import.meta.dirname, 'node_modules', 'vega-lite'));

/** The results of a report as an SVG. */
export async function plot(report: Report): Promise<string> {
  const vega = (await import(VEGA)) as Vega;
  const vegaLite = (await import(VEGA_LITE)) as VegaLite;
  const { spec } = vegaLite.compile({
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: 'transparent',
    config: {
      view: { stroke: null },
      axis: { grid: false, domain: false, ticks: false, title: null },
      font: 'sans-serif',
    },
    vconcat: tables(report.results)
      .filter((rows) => rows.length > 1)
      .map(panel),
    spacing: 28,
  });
  const svg = await new vega.View(vega.parse(spec), { renderer: 'none' }).toSVG();
  return svg.replace(/<svg[^>]*>/, (tag) => tag + STYLE);
}

function panel(rows: readonly Result[]): unknown {
  const [{ model, title, unit, better }] = rows as [Result];
  const values = rows.map((row) => {
    const times = advantage(row, rows);
    const label = `${short(row.median)}${times === undefined ? '' : `  (ours ${short(times)}x)`}`;
    return { peer: row.peer, family: row.family, median: row.median, min: row.min, max: row.max, label };
  });
  const y = { field: 'peer', type: 'nominal', sort: null, axis: { labelLimit: 260, minExtent: 220, maxExtent: 220 } };
  const x = { type: 'quantitative', axis: null };
  return {
    title: { text: `${model}: ${title}`, subtitle: `${unit}, ${better} is better`, anchor: 'start', frame: 'group' },
    width: 420,
    height: { step: 18 },
    data: { values },
    encoding: { y },
    layer: [
      {
        mark: { type: 'bar', height: 12 },
        encoding: {
          x: { ...x, field: 'median' },
          color: {
            field: 'family',
            scale: { domain: Object.keys(COLORS), range: Object.values(COLORS) },
            legend: null,
          },
        },
      },
      { mark: { type: 'rule', color: '#808080' }, encoding: { x: { ...x, field: 'min' }, x2: { field: 'max' } } },
      {
        mark: { type: 'text', align: 'left', dx: 6, fontSize: 11 },
        encoding: { x: { ...x, field: 'max' }, text: { field: 'label' } },
      },
    ],
  };
}
