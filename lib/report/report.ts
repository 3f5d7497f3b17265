import { badArgument, checkInteger, checkNumber, checkOptions, checkString } from '../base/arguments';
import { formatCount } from '../base/quantities';
import { isObject } from '../formats/json';
import type { EvaluationResult, TrainingEvent } from '../runs/events';
import { problemOf } from '../runs/read-events';
import { comparisonCharts, runCharts } from './charts';
import { heatMaps } from './drawing';
import { historyOf } from './history';
import { type Html, markup } from './html';
import { curves, page } from './page';
import { comparedSamples, samplePairs } from './sample-cards';
import { progressTable, recipeComparison, runTable, statusOf, type TableRun, tiles, valueTable } from './tables';

/** What {@link renderReport} shows of the base model. */
export interface ReportBase {
  /** For people: a folder or repository name. */
  name?: string | undefined;
  /** Number of layers. */
  layers: number;
  /** Hidden size. */
  hidden: number;
  /** Number of parameters. Defaults to none: it is not told. */
  parameters?: number | undefined;
}

export interface ReportOptions {
  /** What happened, as `onEvent` got it or as `metrics.jsonl` has it. */
  events: Iterable<TrainingEvent, unknown, unknown>;
  /** Defaults to the `name` of the recipe, or to `'Training run'`. */
  title?: string | undefined;
  /** The options of the run, shown as a table. Defaults to none. */
  recipe?: Readonly<Record<string, unknown>> | undefined;
  /** The base model. Defaults to none: it is not named. */
  base?: ReportBase | undefined;
  /**
   * How the base model alone does on the validation data, to compare with: what `evaluate` gives without a prefix.
   * Defaults to none.
   */
  baseline?: Pick<EvaluationResult, 'loss' | 'accuracy'> | undefined;
  /**
   * What is known of the data: values by name, or objects of them
   * (`{ train: { samples: 400 }, validation: { samples: 40 } }`) for columns beside each other. Defaults to none.
   */
  data?: Readonly<Record<string, unknown>> | undefined;
}

export const REPORT_OPTIONS = [
  'events',
  'title',
  'recipe',
  'base',
  'baseline',
  'data',
] as const satisfies readonly (keyof ReportOptions)[];

interface Run extends TableRun {
  base: ReportBase | undefined;
  data: Readonly<Record<string, unknown>> | undefined;
}

/**
 * A training run as one HTML page: curves (loss, perplexity, accuracy, learning rate, gradient norm, speed, memory,
 * norms of the prefix), tables, and the samples before and after. The page needs nothing else, no network above all,
 * and may be sent by mail; without JavaScript the curves stand still. Curves have at most 2,000 points. A run that is
 * not finished, or has not begun, gives a page too.
 *
 * ```ts
 * const events: TrainingEvent[] = [];
 * await trainer.train(data, { onEvent: (event) => void events.push(event) });
 * await writeFile('report.html', renderReport({ events, recipe: { ...trainer.recipe } }));
 * ```
 * @throws NEOX_BAD_ARGUMENT
 */
export function renderReport(options: ReportOptions): string {
  const run = toRun('options', options);
  const { history, recipe, data } = run;
  const charts = runCharts(run);
  const maps = heatMaps(history.prefixes);
  const samples = samplePairs(history.samples);
  const progress = progressTable(run);
  const title = options.title ?? run.name;
  const status = statusOf(history);
  const parts = [
    history.start === undefined && history.lastStep === 0
      ? markup`<p class="card empty">There is nothing to show yet: the run has no events.</p>`
      : tiles(run),
    curves(charts, maps),
    samples && section('Samples', samples),
    progress && section('Progress', progress),
    facts(recipe, data),
  ];
  const about = [markup`<span class="status ${status.tone}">${status.text}</span>`, ...aboutBase(run.base)];
  return page({ title, eyebrow: 'Prefix tuning, training run', about, parts, charts, maps, histories: [history] });
}

/** Several runs on one page, their curves over each other. */
export function renderComparison(options: {
  title: string;
  runs: readonly (ReportOptions & { name: string })[];
}): string {
  const runs = options.runs.map(({ name, ...run }, i) => ({ ...toRun(`runs[${i}]`, run), name }));
  const charts = comparisonCharts(runs);
  const samples = comparedSamples(runs.map(({ name, history }) => ({ name, samples: history.samples })));
  const parts = [
    section('Runs', runTable(runs)),
    curves(charts, []),
    samples && section('Samples', samples),
    section('Recipes', recipeComparison(runs)),
  ];
  const about = [markup`<span>${runs.length} runs</span>`];
  return page({
    title: options.title,
    eyebrow: 'Prefix tuning, comparison',
    about,
    parts,
    charts,
    maps: [],
    histories: runs.map(({ history }) => history),
  });
}

function toRun(name: string, options: ReportOptions): Run {
  checkOptions(name, options, REPORT_OPTIONS);
  const { events, title, recipe = {}, base, baseline, data } = options;
  if (title !== undefined) checkString('title', title);
  for (const [key, value] of Object.entries({ recipe, base, baseline, data }))
    if (value !== undefined && !isObject(value)) throw badArgument(key, 'an object', value);
  if (base !== undefined) {
    if (base.name !== undefined) checkString('base.name', base.name);
    for (const key of ['layers', 'hidden', 'parameters'] as const)
      if (key !== 'parameters' || base.parameters !== undefined) checkInteger(`base.${key}`, base[key], 1);
  }
  if (baseline !== undefined)
    for (const key of ['loss', 'accuracy'] as const) checkNumber(`baseline.${key}`, baseline[key]);
  if (events === null || typeof events !== 'object' || !(Symbol.iterator in events))
    throw badArgument('events', 'a list of training events', events);
  const own = recipe['name'];
  const taskName = typeof own === 'string' && own !== '' ? own : 'Training run';
  const alone = baseline && { loss: baseline.loss, perplexity: Math.exp(baseline.loss), accuracy: baseline.accuracy };
  return { name: taskName, recipe, history: historyOf(checked(events)), base, baseline: alone, data };
}

function* checked(events: Iterable<TrainingEvent, unknown, unknown>): Generator<TrainingEvent, void, void> {
  let i = 0;
  for (const event of events) {
    const problem = problemOf(event);
    if (problem !== undefined) throw badArgument(`events[${i}]`, 'a training event', event, problem);
    i++;
    yield event;
  }
}

function aboutBase(base: ReportBase | undefined): Html[] {
  if (base === undefined) return [];
  const { name, layers, hidden, parameters } = base;
  const size = parameters === undefined ? '' : `, ${formatCount(parameters)} parameters`;
  // What turns the direction of writing in a name ends with it.
  const shown = name === undefined ? undefined : markup`<bdi>${name}</bdi>: `;
  return [markup`<span>${shown}${layers} layers of ${hidden}${size}</span>`];
}

function section(title: string, content: Html): Html {
  return markup`<section><h2>${title}</h2>${content}</section>`;
}

function facts(
  recipe: Readonly<Record<string, unknown>>,
  data: Readonly<Record<string, unknown>> | undefined,
): Html | undefined {
  const side = (title: string, values: Readonly<Record<string, unknown>>): Html | undefined =>
    Object.keys(values).length === 0
      ? undefined
      : section(title, markup`<div class="card scroll">${valueTable(values)}</div>`);
  const [left, right] = [side('Recipe', recipe), side('Data', data ?? {})];
  return left === undefined && right === undefined ? undefined : markup`<div class="pair">${left}${right}</div>`;
}
