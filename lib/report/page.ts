import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageVersion } from '../base/package';
import type { Chart } from './charts';
import { drawChart, drawHeatMap, drawKey, type HeatMap, stretchOf } from './drawing';
import type { History } from './history';
import { type Html, json, markup, verbatim } from './html';
import { decimate } from './points';
import { count, swatch } from './tables';

/** The charts, as they stand where no script runs; the page's script puts live ones in their places. */
export function curves(charts: readonly Chart[], maps: readonly HeatMap[]): Html | undefined {
  if (charts.length === 0) return undefined;
  const stretch = stretchOf(charts);
  const button = (over: string, title: string, pressed: boolean): Html =>
    markup`<button type="button" data-over="${over}" aria-pressed="${String(pressed)}">${title}</button>`;
  return markup`<section>
<div class="bar">
  <h2>Curves</h2>
  <div class="tools" id="tools" hidden>
    <span>drag to zoom, double-click to see all</span>${button('steps', 'Steps', true)}${button('time', 'Time', false)}
  </div>
</div>
<div class="charts">${charts.map((chart, i) => figure(chart, i, drawChart(chart, stretch)))}${heatFigure(maps)}</div>
</section>`;
}

function figure(chart: Chart, i: number, drawing: Html): Html {
  const legend = chart.curves.map(({ label, role, colour, dash }, curve) => {
    const line = swatch(colour, dash === undefined ? role : 'line dashed');
    return markup`<li data-curve="${curve}">${line}<span>${label}</span><span class="value"></span></li>`;
  });
  return markup`<figure class="chart${chart.wide ? ' wide' : ''}" data-chart="${i}">
<figcaption><h3>${chart.title}</h3><span class="note">${chart.note}</span></figcaption>
<ul class="legend"><li class="at" hidden></li>${legend}</ul>
<div class="plot">${drawing}</div>
</figure>`;
}

function heatFigure(maps: readonly HeatMap[]): Html | undefined {
  if (maps.length === 0) return undefined;
  const shown = maps.map((map, i) => {
    const { title, steps, values } = map;
    const ends = [`step ${count(steps[0] as number)}`, `step ${count(steps.at(-1) as number)}`];
    const rest = `layer 0 below, ${(values[0] as number[]).length - 1} above`;
    return markup`<div data-heat="${i}">
<div class="ends"><span>${title}</span><span class="at">${rest}</span></div>
${drawHeatMap(map)}
<div class="ends"><span>${ends[0]}</span>${drawKey(map)}<span>${ends[1]}</span></div>
</div>`;
  });
  return markup`<figure class="chart wide heat">
<figcaption><h3>Prefix norms over the steps</h3><span class="note">of each layer, mean over positions and heads</span></figcaption>
<div class="pair">${shown}</div>
</figure>`;
}

export interface Page {
  title: string;
  eyebrow: string;
  about: readonly Html[];
  parts: readonly (Html | undefined)[];
  charts: readonly Chart[];
  maps: readonly HeatMap[];
  histories: readonly History[];
}

/** The whole page: nothing in it refers to anything outside. */
export function page({ title, eyebrow, about, parts, charts, maps, histories }: Page): string {
  const { style, scripts } = assets();
  // Nothing is loaded, and nothing runs but these scripts: what a model wrote is text.
  const policy = `default-src 'none'; style-src ${hashOf(style)}; script-src ${scripts.map(hashOf).join(' ')}; base-uri 'none'; form-action 'none'`;
  return markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${verbatim(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>${verbatim(style)}</style>
</head>
<body>
<header>
  <p class="eyebrow">${eyebrow}</p>
  <button type="button" id="theme" hidden>Theme: system</button>
  <h1>${title}</h1>
  <div class="about">${about}</div>
</header>
<main>
${parts.filter((part) => part !== undefined)}
</main>
<footer>neox-prefix ${packageVersion()}; curves by uPlot</footer>
<script type="application/json" id="data">${json(forScript(charts, maps, histories))}</script>
${scripts.map((script) => markup`<script>${verbatim(script)}</script>`)}
</body>
</html>
`.text;
}

/** The steps of a run at which the page knows the time. */
const CLOCK_POINTS = 400;

/** What the page's script reads. */
function forScript(charts: readonly Chart[], maps: readonly HeatMap[], histories: readonly History[]): object {
  const clocks = histories.map(({ steps }) => decimate({ x: steps.step, y: steps.seconds }, CLOCK_POINTS));
  return {
    charts: charts.map((chart) => ({
      ...chart,
      curves: chart.curves.map((curve) => ({ ...curve, y: curve.y.map(rounded) })),
    })),
    heatMaps: maps.map(({ steps, values }) => ({ steps, values: values.map((norms) => norms.map(rounded)) })),
    clocks: clocks.map(({ x, y }) => ({ x, y: y.map(rounded) })),
    resumes: histories.length === 1 ? histories[0]?.resumes.map(({ step }) => step) : [],
  };
}

/** Six digits are more than a screen shows. */
function rounded(value: number | null): number | null {
  return value === null ? null : Number(value.toPrecision(6));
}

let loaded: { style: string; scripts: string[] } | undefined;

/** The style sheet and the scripts of a page: uPlot's files as its package has them, and our own. */
function assets(): { style: string; scripts: string[] } {
  if (loaded !== undefined) return loaded;
  const uplot = dirname(require.resolve('uplot/package.json'));
  const text = (...path: string[]): string =>
    readFileSync(join(...path), 'utf8')
      .replaceAll('\r\n', '\n')
      .trim();
  const licence = `/*\n${text(uplot, 'LICENSE')}\n*/\n`;
  loaded = {
    style: `${text(uplot, 'dist', 'uPlot.min.css')}\n${text(__dirname, 'assets', 'page.css')}`,
    scripts: [licence + text(uplot, 'dist', 'uPlot.iife.min.js'), text(__dirname, 'assets', 'page.js')],
  };
  return loaded;
}

function hashOf(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}
