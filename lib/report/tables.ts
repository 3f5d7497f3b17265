import { formatBytes, formatCount, formatNumber, formatSeconds, plural } from '../base/quantities';
import { lookOf } from './charts';
import { finite, type History, type Value } from './history';
import { type Html, markup } from './html';

export interface TableRun {
  name: string;
  recipe: Readonly<Record<string, unknown>>;
  history: History;
  baseline: { loss: number; perplexity: number; accuracy: number } | undefined;
}

/** Longer tables are folded. */
const MANY_ROWS = 24;

export const shownNumber = (value: Value | undefined): string =>
  value === null || value === undefined ? '' : formatNumber(value);
export const shownShare = (value: Value | undefined): string =>
  value === null || value === undefined ? '' : `${(value * 100).toFixed(1)}%`;

/** How a run ended. */
export function statusOf({ end, lastStep, start }: History): { text: string; tone: 'good' | 'warn' | 'bad' } {
  switch (end?.reason) {
    case undefined:
      return lastStep > 0 || start !== undefined
        ? { text: 'Not finished: interrupted, or still going on', tone: 'warn' }
        : { text: 'No step yet', tone: 'warn' };
    case 'epochs':
    case 'steps':
      return { text: 'Finished', tone: 'good' };
    case 'time':
      return { text: 'Stopped: time is up', tone: 'good' };
    case 'early-stopping':
      return { text: 'Stopped early: no longer better', tone: 'good' };
    case 'aborted':
      return { text: 'Aborted', tone: 'bad' };
    default:
      return { text: `Ended: ${String(end?.reason)}`, tone: 'warn' };
  }
}

/** The target tokens of a run, and how many there were a second while steps were taken. */
export function throughput({ steps }: History): { tokens: number; perSecond: Value } {
  let [tokens, seconds] = [0, 0];
  steps.tokens.forEach((count, i) => {
    tokens += count ?? 0;
    seconds += (count ?? 0) / (steps.tokensPerSecond[i] ?? Infinity);
  });
  return { tokens, perSecond: finite(tokens / seconds) };
}

export function peakMemory({ steps }: History): Value {
  return steps.memoryBytes.reduce<Value>((peak, value) => (value !== null && value > (peak ?? 0) ? value : peak), null);
}

interface Tile {
  title: string;
  figure: string;
  more: string;
}

/** The numbers that are looked at first. */
export function tiles({ history, baseline }: TableRun): Html {
  const { best, epochs, start, lastStep, steps } = history;
  const perplexity = finite(best?.perplexity);
  const gain = baseline !== undefined && perplexity !== null ? `base model ${formatNumber(baseline.perplexity)}; ` : '';
  const trainLoss = finite(epochs.at(-1)?.trainLoss ?? steps.loss.at(-1));
  const peak = peakMemory(history);
  const initError = finite(start?.initError);
  // A run may be given more when it is resumed.
  const again = history.resumes.at(-1);
  const { tokens, perSecond } = throughput(history);
  const all: (Tile | undefined)[] = [
    best && {
      title: 'Validation perplexity, best',
      figure: shownNumber(perplexity),
      more: `${gain}loss ${shownNumber(finite(best.loss))}, step ${count(best.step)}`,
    },
    best && {
      title: 'Validation accuracy, best',
      figure: shownShare(finite(best.accuracy)),
      more: baseline === undefined ? 'of the target tokens' : `base model ${shownShare(baseline.accuracy)}`,
    },
    trainLoss === null
      ? undefined
      : {
          title: epochs.length > 0 ? 'Training loss, last epoch' : 'Training loss, last step',
          figure: shownNumber(trainLoss),
          more: `perplexity ${shownNumber(finite(Math.exp(trainLoss)))}`,
        },
    start && {
      title: 'Steps',
      figure: count(lastStep),
      more: `of ${count((again ?? start).totalSteps)}, ${plural((again ?? start).epochs, 'epoch')} of ${count(start.stepsPerEpoch)}`,
    },
    history.seconds > 0
      ? {
          title: 'Time',
          figure: formatSeconds(history.seconds),
          more: history.resumes.length === 0 ? 'in one go' : `resumed ${times(history.resumes.length)}`,
        }
      : undefined,
    perSecond === null
      ? undefined
      : {
          title: 'Tokens per second',
          figure: count(Math.round(perSecond)),
          more: `${formatCount(tokens)} target tokens`,
        },
    peak === null
      ? undefined
      : {
          title: 'Peak memory',
          figure: formatBytes(peak),
          more: start === undefined ? 'resident set' : `${formatBytes(start.predictedMemoryBytes)} predicted`,
        },
    start && {
      title: 'Trained parameters',
      figure: formatCount(start.trainableParameters),
      more: initError === null ? 'of the prefix encoder' : `initial fit: error ${formatNumber(initError)}`,
    },
  ];
  const shown = all.map((tile) => {
    if (tile === undefined) return undefined;
    const { title, figure, more } = tile;
    return markup`<div class="tile"><dt>${title}</dt><dd class="figure">${figure}</dd><dd class="more">${more}</dd></div>`;
  });
  return markup`<dl class="tiles">${shown}</dl>`;
}

function times(number: number): string {
  return number === 1 ? 'once' : `${number} times`;
}

/** 12345 as 12,345. */
export function count(number: number): string {
  return number.toLocaleString('en');
}

/** What was measured along the run, a row for each step at which something was. */
export function progressTable({ history, baseline }: TableRun): Html | undefined {
  const { evaluations, epochs, best } = history;
  const metrics = [...new Set(evaluations.flatMap((evaluation) => Object.keys(evaluation.metrics ?? {})))];
  const steps = [...new Set([...evaluations, ...epochs].map(({ step }) => step))].sort((a, b) => a - b);
  if (steps.length === 0) return undefined;
  const evaluationAt = new Map(evaluations.map((evaluation) => [evaluation.step, evaluation]));
  const epochAt = new Map(epochs.map((epoch) => [epoch.step, epoch]));
  const heading = ['step', 'epoch', 'training loss', 'validation loss', 'perplexity', 'accuracy', ...metrics, 'time'];
  const rows = steps.map((step) => {
    const [evaluation, epoch] = [evaluationAt.get(step), epochAt.get(step)];
    const cells = [
      count(step),
      count((epoch ?? evaluation)?.epoch ?? 0),
      shownNumber(finite(epoch?.trainLoss)),
      shownNumber(finite(evaluation?.loss)),
      shownNumber(finite(evaluation?.perplexity)),
      shownShare(finite(evaluation?.accuracy)),
      ...metrics.map((name) => shownNumber(finite(evaluation?.metrics?.[name]))),
      formatSeconds((epoch ?? evaluation)?.seconds ?? 0),
    ];
    const mark = evaluation !== undefined && evaluation === best;
    return markup`<tr${mark ? markup` class="best"` : undefined}>${cells.map((cell) => markup`<td>${cell}</td>`)}<td>${mark ? 'best' : ''}</td></tr>`;
  });
  if (baseline !== undefined) {
    const { loss, perplexity, accuracy } = baseline;
    const cells = [
      'base model',
      '',
      '',
      formatNumber(loss),
      formatNumber(perplexity),
      shownShare(accuracy),
      ...metrics.map(() => ''),
      '',
    ];
    rows.unshift(markup`<tr>${cells.map((cell) => markup`<td>${cell}</td>`)}<td></td></tr>`);
  }
  const table = plainTable([...heading, ''], rows);
  return rows.length <= MANY_ROWS
    ? table
    : markup`<details><summary>${count(rows.length)} rows</summary>${table}</details>`;
}

function plainTable(heading: readonly string[], rows: readonly Html[]): Html {
  const names = heading.map((name) => markup`<th scope="col">${name}</th>`);
  return markup`<div class="card scroll"><table>
<thead><tr>${names}</tr></thead>
<tbody>${rows}</tbody>
</table></div>`;
}

/** Names and values; where the values are objects (of training and validation data, say), a column for each. */
export function valueTable(values: Readonly<Record<string, unknown>>): Html {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  const isGroup = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const groups = entries.filter((entry): entry is [string, Record<string, unknown>] => isGroup(entry[1]));
  const single = entries.filter(([, value]) => !isGroup(value));
  const keys = [...new Set(groups.flatMap(([, group]) => Object.keys(group)))];
  const row = (name: string, cells: readonly unknown[]): Html => {
    const shown = cells.map((cell) => markup`<td>${shownValue(cell)}</td>`);
    return markup`<tr><th scope="row">${words(name)}</th>${shown}</tr>`;
  };
  const rows = [
    ...single.map(([name, value]) => row(name, [value])),
    ...keys.map((key) =>
      row(
        key,
        groups.map(([, group]) => group[key]),
      ),
    ),
  ];
  const names = groups.map(([name]) => markup`<th scope="col">${words(name)}</th>`);
  const heading = groups.length === 0 ? undefined : markup`<thead><tr><th></th>${names}</tr></thead>`;
  return markup`<table class="names">${heading}<tbody>${rows}</tbody></table>`;
}

/** promptTokens as "prompt tokens". */
function words(name: string): string {
  return name
    .replace(/(?<=[a-z0-9])(?=[A-Z])/g, ' ')
    .replace(/(?<= )[A-Z](?![A-Z])/g, (letter) => letter.toLowerCase());
}

function shownValue(value: unknown): string {
  if (value === undefined || value === null) return '–';
  if (typeof value === 'number')
    return Number.isInteger(value) && Math.abs(value) >= 1e4 ? count(value) : formatNumber(value);
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** A line of a curve's colour, as in a legend. */
export function swatch(colour: number, role = 'line'): Html {
  const style = `curve ${role} c${colour}`;
  const dot = ['points', 'start', 'mark'].includes(role)
    ? markup`<circle class="${style}" cx="11" cy="6" r="${role === 'mark' ? 5 : 3}"/>`
    : undefined;
  return markup`<svg viewBox="0 0 22 12" aria-hidden="true">${role === 'mark' ? undefined : markup`<path class="${style}" d="M0 6H22"/>`}${dot}</svg>`;
}

/** Runs beside each other. */
export function runTable(runs: readonly TableRun[]): Html {
  const lowest = Math.min(...runs.map(({ history }) => finite(history.best?.loss) ?? Infinity));
  const heading = [
    'run',
    'status',
    'steps',
    'best step',
    'validation loss',
    'perplexity',
    'accuracy',
    'time',
    'tokens/s',
    'peak memory',
  ];
  const rows = runs.map(({ name, history }, i) => {
    const { best, lastStep, seconds } = history;
    const { perSecond } = throughput(history);
    const peak = peakMemory(history);
    const cells = [
      statusOf(history).text.replace(/:.*/, ''),
      count(lastStep),
      best === undefined ? '' : count(best.step),
      shownNumber(finite(best?.loss)),
      shownNumber(finite(best?.perplexity)),
      shownShare(finite(best?.accuracy)),
      formatSeconds(seconds),
      perSecond === null ? '' : count(Math.round(perSecond)),
      peak === null ? '' : formatBytes(peak),
    ];
    const isBest = best !== undefined && finite(best.loss) === lowest;
    return markup`<tr${isBest ? markup` class="best"` : undefined}><td>${swatch(lookOf(i).colour, lookOf(i).dash && 'line dashed')}${name}</td>${cells.map((cell) => markup`<td>${cell}</td>`)}</tr>`;
  });
  return plainTable(heading, rows);
}

/** What differs between the recipes, then the rest. */
export function recipeComparison(runs: readonly TableRun[]): Html {
  const names = [...new Set(runs.flatMap(({ recipe }) => Object.keys(recipe)))];
  const text = (name: string): string[] => runs.map(({ recipe }) => shownValue(recipe[name]));
  const differs = (name: string): boolean => new Set(text(name)).size > 1;
  const rows = [...names.filter(differs), ...names.filter((name) => !differs(name))].map(
    (name) =>
      markup`<tr${differs(name) ? markup` class="differs"` : undefined}><th scope="row">${words(name)}</th>${text(name).map((value) => markup`<td>${value}</td>`)}</tr>`,
  );
  return plainTable(['', ...runs.map(({ name }) => name)], rows);
}
