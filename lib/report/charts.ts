import type { History, Value } from './history';
import { decimate, type Points, smooth, smoothingSpan } from './points';

/** How the numbers of an axis are written. */
export type Unit = 'number' | 'bytes' | 'share';

/**
 * How a curve is drawn: `line`; `raw`, faint behind a smoothed line; `points` on a line; `start`, points on a faint
 * line; `level`, a dashed line at one height; `mark`, one large point.
 */
export type Role = 'line' | 'raw' | 'points' | 'start' | 'level' | 'mark';

export interface Curve extends Points {
  label: string;
  role: Role;
  /** Which colour, from 1 to {@link COLOURS}. */
  colour: number;
  /** Which of the page's runs it is of, from 0. */
  run: number;
  /** Lengths of dashes and gaps, for curves that have more than their colour to tell them apart. */
  dash?: readonly number[] | undefined;
}

export interface Chart {
  id: string;
  title: string;
  note?: string;
  unit: Unit;
  /** `layer`: the curves go over the layers, not over the steps. */
  over: 'steps' | 'layer';
  /** Base of a logarithmic axis, 0 for a linear one. */
  log: 0 | 2 | 10;
  /** Whether the axis begins at 0. */
  fromZero: boolean;
  wide: boolean;
  curves: Curve[];
}

/** Of the style sheet. */
export const COLOURS = 8;

/** Of a curve: more than a screen has columns show nothing more. */
const MAX_POINTS = 2000;
/** Of all curves of a chart, so that a page of many runs does not grow without end. */
const MAX_CHART_POINTS = 6000;

export interface ChartRun {
  name: string;
  history: History;
  baseline: { loss: number; perplexity: number; accuracy: number } | undefined;
}

type Column = 'loss' | 'learningRate' | 'gradNorm' | 'tokensPerSecond' | 'memoryBytes' | 'lossScale';

function column({ steps }: History, name: Column): Points {
  return { x: steps.step, y: steps[name] };
}

function exp(values: readonly Value[]): Value[] {
  return values.map((value) => (value === null ? null : finiteOrNull(Math.exp(value))));
}

function finiteOrNull(value: number | undefined): Value {
  return value !== undefined && Number.isFinite(value) ? value : null;
}

function smoothed({ x, y }: Points): Points {
  const span = smoothingSpan(x.length);
  return { x, y: span === 0 ? y : smooth(y, span) };
}

function evaluated(
  { evaluations }: History,
  value: (evaluation: History['evaluations'][number]) => number | undefined,
): Points {
  const found = evaluations
    .map((evaluation) => ({ x: evaluation.step, y: finiteOrNull(value(evaluation)) }))
    .filter(({ y }) => y !== null);
  return { x: found.map(({ x }) => x), y: found.map(({ y }) => y) };
}

/** Whether a curve spans so much that only a logarithmic axis shows all of it. */
function spansMuch(curves: readonly Points[], factor: number): boolean {
  const values = curves.flatMap(({ y }) => y.filter((value) => value !== null));
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  return low > 0 && high / low > factor;
}

/** A chart with what it has to show; undefined when that is nothing. */
function chart(
  id: string,
  title: string,
  curves: (Curve | undefined)[],
  more: Partial<Omit<Chart, 'curves'>> = {},
): Chart | undefined {
  const shown = curves.filter((curve) => curve !== undefined && curve.y.some((value) => value !== null)) as Curve[];
  if (shown.every(({ role }) => role === 'level' || role === 'mark')) return undefined;
  const long = shown.filter(({ x }) => x.length > MAX_POINTS / 10).length;
  const limit = Math.min(MAX_POINTS, Math.floor(MAX_CHART_POINTS / Math.max(1, long)));
  const limited = shown.map((curve) => ({ ...curve, ...decimate(curve, limit) }));
  return { id, title, unit: 'number', over: 'steps', log: 0, fromZero: false, wide: false, ...more, curves: limited };
}

/** A curve and, faint behind it, what it smooths. */
function withRaw(label: string, points: Points): Curve[] {
  const span = smoothingSpan(points.x.length);
  if (span === 0) return [{ label, role: points.x.length > 1 ? 'line' : 'points', colour: 1, run: 0, ...points }];
  return [
    { label: 'each step', role: 'raw', colour: 1, run: 0, ...points },
    { label, role: 'line', colour: 1, run: 0, ...smoothed(points) },
  ];
}

function level(label: string, value: number | undefined, { lastStep }: History, colour: number): Curve | undefined {
  if (value === undefined || lastStep === 0) return undefined;
  return { label, role: 'level', colour, run: 0, x: [0, lastStep], y: [finiteOrNull(value), finiteOrNull(value)] };
}

/** The charts of one run. */
export function runCharts({ history, baseline }: ChartRun): Chart[] {
  const { best, steps, start } = history;
  const span = smoothingSpan(steps.step.length);
  const notes = [
    span === 0 ? [] : [`smoothed over about ${span} steps`],
    history.resumes.length === 0 ? [] : ['dotted: resumed'],
  ].flat();
  const mark = (value: number | undefined): Curve | undefined =>
    best && { label: 'best', role: 'mark', colour: 2, run: 0, x: [best.step], y: [finiteOrNull(value)] };
  const validation = (points: Points, colour = 2): Curve => ({
    label: 'validation',
    role: 'points',
    colour,
    run: 0,
    ...points,
  });
  const loss = column(history, 'loss');
  const perplexity = [
    { label: 'training', role: 'line', colour: 1, run: 0, x: loss.x, y: exp(smoothed(loss).y) } as const,
    validation(evaluated(history, (evaluation) => evaluation.perplexity)),
    mark(best?.perplexity),
  ];
  const gradNorm = column(history, 'gradNorm');
  const skipped = `${history.skipped} skipped: the float16 gradient overflowed`;
  return [
    chart(
      'loss',
      'Loss',
      [
        ...withRaw('training', loss),
        level('base model', baseline?.loss, history, 3),
        validation(evaluated(history, (evaluation) => evaluation.loss)),
        mark(best?.loss),
      ],
      { wide: true, note: notes.join('; ') },
    ),
    chart('perplexity', 'Perplexity', [...perplexity, level('base model', baseline?.perplexity, history, 3)], {
      log: spansMuch(
        perplexity.filter((curve) => curve !== undefined),
        20,
      )
        ? 10
        : 0,
    }),
    chart(
      'accuracy',
      'Validation accuracy',
      [
        level('base model', baseline?.accuracy, history, 3),
        validation(evaluated(history, (evaluation) => evaluation.accuracy)),
        mark(best?.accuracy),
      ],
      { unit: 'share' },
    ),
    ...metricNames([history]).map((name, i) =>
      chart(`metric-${i}`, `Validation: ${name}`, [validation(evaluated(history, ({ metrics }) => metrics?.[name]))]),
    ),
    chart(
      'learning-rate',
      'Learning rate',
      [{ label: 'learning rate', role: 'line', colour: 1, run: 0, ...column(history, 'learningRate') }],
      {
        fromZero: true,
      },
    ),
    chart('gradient', 'Gradient norm', withRaw('gradient norm', gradNorm), {
      log: spansMuch([gradNorm], 100) ? 10 : 0,
      fromZero: true,
      ...(history.skipped === 0 ? {} : { note: skipped }),
    }),
    chart(
      'loss-scale',
      'Loss scale',
      [{ label: 'loss scale', role: 'line', colour: 1, run: 0, ...column(history, 'lossScale') }],
      {
        log: 2,
      },
    ),
    chart('speed', 'Tokens per second', withRaw('tokens/s', column(history, 'tokensPerSecond')), { fromZero: true }),
    chart(
      'memory',
      'Memory',
      [
        { label: 'resident set', role: 'line', colour: 1, run: 0, ...column(history, 'memoryBytes') },
        level('predicted', start?.predictedMemoryBytes, history, 3),
      ],
      { unit: 'bytes', fromZero: true },
    ),
    prefixChart(history),
  ].filter((found) => found !== undefined);
}

/** Norms of the prefix over the layers, before and after. */
function prefixChart({ prefixes }: History): Chart | undefined {
  const [first, last] = [prefixes[0], prefixes.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  const curve = (kind: 'keys' | 'values', event: typeof first, role: Role, colour: number): Curve => {
    const norms = kind === 'keys' ? event.keyNorms : event.valueNorms;
    const label = `${kind}, ${event.step === 0 ? 'start' : `step ${event.step}`}`;
    return { label, role, colour, run: 0, x: norms.map((_, layer) => layer), y: norms.map(finiteOrNull) };
  };
  const before = first === last ? [] : [curve('keys', first, 'start', 1), curve('values', first, 'start', 2)];
  return chart(
    'prefix',
    'Prefix norms by layer',
    [...before, curve('keys', last, 'points', 1), curve('values', last, 'points', 2)],
    {
      ...{ over: 'layer', fromZero: true, note: 'mean L2 norm over positions and heads' },
    },
  );
}

/**
 * Of the runs on a page: half of the colours have dashes besides, so that nobody has to tell eight colours from each
 * other.
 */
export function lookOf(run: number): { colour: number; dash: readonly number[] | undefined } {
  const number = run % COLOURS;
  return { colour: number + 1, dash: number < COLOURS / 2 ? undefined : [7, 4] };
}

/** The same charts with a curve for each run. */
export function comparisonCharts(runs: readonly ChartRun[]): Chart[] {
  const each = (role: 'line' | 'points', points: (history: History) => Points): Curve[] =>
    runs.map(({ name, history }, run) => ({ label: name, role, ...lookOf(run), run, ...points(history) }));
  const perplexity = each('points', (history) => evaluated(history, (evaluation) => evaluation.perplexity));
  const steps = (name: Column): Curve[] => each('line', (history) => smoothed(column(history, name)));
  const gradNorm = steps('gradNorm');
  return [
    chart('loss', 'Training loss, smoothed', steps('loss'), { wide: true }),
    chart(
      'validation',
      'Validation loss',
      each('points', (history) => evaluated(history, (evaluation) => evaluation.loss)),
      { wide: true },
    ),
    chart('perplexity', 'Validation perplexity', perplexity, { log: spansMuch(perplexity, 20) ? 10 : 0 }),
    chart(
      'accuracy',
      'Validation accuracy',
      each('points', (history) => evaluated(history, (evaluation) => evaluation.accuracy)),
      {
        unit: 'share',
      },
    ),
    ...metricNames(runs.map(({ history }) => history)).map((name, i) =>
      chart(
        `metric-${i}`,
        `Validation: ${name}`,
        each('points', (history) => evaluated(history, ({ metrics }) => metrics?.[name])),
      ),
    ),
    chart(
      'learning-rate',
      'Learning rate',
      each('line', (history) => column(history, 'learningRate')),
      { fromZero: true },
    ),
    chart('gradient', 'Gradient norm, smoothed', gradNorm, { fromZero: true, log: spansMuch(gradNorm, 100) ? 10 : 0 }),
    chart(
      'loss-scale',
      'Loss scale',
      each('line', (history) => column(history, 'lossScale')),
      { log: 2 },
    ),
    chart('speed', 'Tokens per second, smoothed', steps('tokensPerSecond'), { fromZero: true }),
    chart(
      'memory',
      'Memory',
      each('line', (history) => column(history, 'memoryBytes')),
      { unit: 'bytes', fromZero: true },
    ),
  ].filter((found) => found !== undefined);
}

function metricNames(histories: readonly History[]): string[] {
  return [
    ...new Set(histories.flatMap(({ evaluations }) => evaluations.flatMap(({ metrics = {} }) => Object.keys(metrics)))),
  ];
}
