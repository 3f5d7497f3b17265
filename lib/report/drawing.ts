import { formatTicks, limits, logTicks, ticks } from './axis';
import type { Chart, Curve } from './charts';
import type { EventOf, Value } from './history';
import { type Html, markup, verbatim } from './html';
import { decimate } from './points';

/** Of a drawing's own units; the page scales it. */
const HEIGHT = 260;
const LEFT = 56;
const BOTTOM = 26;
const TOP = 8;
const RIGHT = 20;
/** A drawing is smaller than the live chart that takes its place. */
const MAX_POINTS = 500;

/** The steps that a page's charts go over, all of them the same. */
export function stretchOf(charts: readonly Chart[]): readonly [first: number, last: number] {
  const ends = charts.flatMap(({ over, curves }) =>
    over === 'steps' ? curves.flatMap(({ x }) => [x[0] as number, x.at(-1) as number]) : [],
  );
  return [Math.min(...ends), Math.max(...ends)];
}

/** A chart as it is seen where no script runs. */
export function drawChart(chart: Chart, stretch: readonly [first: number, last: number]): Html {
  const width = chart.wide ? 1100 : 540;
  const [x0, x1] = chart.over === 'steps' ? stretch : [0, (chart.curves[0]?.x.length ?? 1) - 1];
  const [y0, y1] = limits(chart);
  const scale =
    chart.log === 0 ? (value: number): number => value : (value: number): number => Math.log(Math.max(value, y0));
  const toX = (x: number): number => LEFT + ((x - x0) / (x1 - x0 || 1)) * (width - LEFT - RIGHT);
  const toY = (y: number): number =>
    TOP + (1 - (scale(y) - scale(y0)) / (scale(y1) - scale(y0))) * (HEIGHT - TOP - BOTTOM);
  const down = chart.log === 0 ? ticks(y0, y1, 7) : logTicks(y0, y1, chart.log, 7);
  const across = ticks(x0, x1, chart.wide ? 12 : 7).filter((x) => chart.over === 'steps' || Number.isInteger(x));
  const labels = formatTicks(down, chart.unit, chart.log);
  const rows = down.map((y, i) => {
    const top = round(toY(y));
    const label = markup`<text class="tick down" x="${LEFT - 8}" y="${top + 4}">${labels[i]}</text>`;
    return markup`<path class="grid" d="M${LEFT} ${top}H${width - RIGHT}"/>${label}`;
  });
  const steps = formatTicks(across, 'number');
  const columns = across.map(
    (x, i) => markup`<text class="tick" x="${round(toX(x))}" y="${HEIGHT - 6}">${steps[i]}</text>`,
  );
  const place = markup`x="${LEFT - 4}" y="${TOP - 4}" width="${width - LEFT - RIGHT + 12}" height="${HEIGHT - TOP - BOTTOM + 8}"`;
  return markup`<svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="${chart.title}">
<clipPath id="clip-${chart.id}"><rect ${place}/></clipPath>
${rows}${columns}
<g clip-path="url(#clip-${chart.id})">${chart.curves.map((curve) => drawCurve(curve, toX, toY))}</g>
</svg>`;
}

/** A tenth of a unit is less than a screen shows. */
const round = (value: number): number => Math.round(value * 10) / 10;

function drawCurve(curve: Curve, toX: (x: number) => number, toY: (y: number) => number): Html {
  const { x, y } = decimate(curve, MAX_POINTS);
  const pointAt = (place: number, value: Value): readonly [number, number] | undefined =>
    value === null ? undefined : [round(toX(place)), round(toY(value))];
  const at = x.map((value, i) => pointAt(value, y[i] ?? null));
  const line = at
    .map((point, i) => (point === undefined ? '' : `${at[i - 1] === undefined ? 'M' : 'L'}${point[0]} ${point[1]}`))
    .join('');
  const style = `curve ${curve.role}${curve.dash === undefined ? '' : ' dashed'} c${curve.colour}`;
  const path = curve.role === 'mark' ? undefined : markup`<path class="${style}" d="${line}"/>`;
  if (curve.role !== 'points' && curve.role !== 'mark' && curve.role !== 'start') return markup`${path}`;
  const radius = curve.role === 'mark' ? 7 : 3;
  const dots = at.map((point) =>
    point === undefined
      ? undefined
      : markup`<circle class="${style}" cx="${point[0]}" cy="${point[1]}" r="${radius}"/>`,
  );
  return markup`${path}${dots}`;
}

/** Shades of the style sheet, from q0 to q8. */
const SHADES = 9;
const MAX_COLUMNS = 60;
const CELL = 10;

/** A map of norms, a row a layer (the first below) and a column an event; its cells are in the order of `values`. */
export interface HeatMap {
  title: string;
  steps: number[];
  /** [event][layer] */
  values: number[][];
}

/** How the norms went, when there are enough events to see it. */
export function heatMaps(prefixes: readonly EventOf<'prefix'>[]): HeatMap[] {
  const layers = prefixes[0]?.keyNorms.length ?? 0;
  const usable = prefixes.filter(
    ({ keyNorms, valueNorms }) =>
      [...keyNorms, ...valueNorms].every(Number.isFinite) && keyNorms.length === layers && valueNorms.length === layers,
  );
  if (usable.length < 3 || layers === 0) return [];
  const columns = Math.min(usable.length, MAX_COLUMNS);
  const kept = Array.from(
    { length: columns },
    (_, i) => usable[Math.round((i * (usable.length - 1)) / (columns - 1))] as EventOf<'prefix'>,
  );
  const steps = kept.map(({ step }) => step);
  return [
    { title: 'Keys', steps, values: kept.map(({ keyNorms }) => keyNorms) },
    { title: 'Values', steps, values: kept.map(({ valueNorms }) => valueNorms) },
  ];
}

export function drawHeatMap({ title, steps, values }: HeatMap): Html {
  const all = values.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const layers = (values[0] as number[]).length;
  const cells = new Array<string>(SHADES).fill('');
  values.forEach((norms, column) =>
    norms.forEach((norm, layer) => {
      const shade = high === low ? 0 : Math.min(SHADES - 1, Math.floor(((norm - low) / (high - low)) * SHADES));
      cells[shade] =
        `${cells[shade] as string}M${column * CELL} ${(layers - 1 - layer) * CELL}h${CELL}v${CELL}h-${CELL}z`;
    }),
  );
  const paths = cells.map((d, shade) => (d === '' ? undefined : markup`<path class="q${shade}" d="${verbatim(d)}"/>`));
  const box = `0 0 ${steps.length * CELL} ${layers * CELL}`;
  const label = `${title}: norm of each layer over the steps`;
  return markup`<svg viewBox="${box}" preserveAspectRatio="none" role="img" aria-label="${label}">${paths}</svg>`;
}

/** Which shade is which norm. */
export function drawKey({ values }: HeatMap): Html {
  const all = values.flat();
  const end = (value: number): Html => markup`<span>${value.toPrecision(3)}</span>`;
  const shades = Array.from(
    { length: SHADES },
    (_, shade) => markup`<path class="q${shade}" d="M${shade} 0h1v1h-1z"/>`,
  );
  const scale = markup`<svg viewBox="0 0 ${SHADES} 1" preserveAspectRatio="none" aria-hidden="true">${shades}</svg>`;
  return markup`<div class="key">${end(Math.min(...all))}${scale}${end(Math.max(...all))}</div>`;
}
