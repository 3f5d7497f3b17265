import { createHash } from 'node:crypto';
import { Script } from 'node:vm';
import { formatTicks, limits, logTicks, ticks } from '../../../lib/report/axis';
import { comparisonCharts, runCharts } from '../../../lib/report/charts';
import { historyOf } from '../../../lib/report/history';
import { decimate, smooth, smoothingSpan } from '../../../lib/report/points';
import { renderComparison, renderReport, type ReportOptions } from '../../../lib/report/report';
import type { TrainingEvent } from '../../../lib/runs/events';
import { expectRefusal, wrong } from '../../helpers';
import { cellsOf, chartOf, dataOf, runEvents } from './report-helpers';

describe('curves', () => {
  test('decimating keeps ends, peaks and gaps, within the limit', () => {
    const count = 50_000;
    const x = Array.from({ length: count }, (_, i) => i);
    const y: (number | null)[] = x.map((i) => Math.sin(i / 3000));
    y[12_345] = 50;
    y[40_001] = -50;
    for (let i = 20_000; i < 25_000; i++) y[i] = null;
    const kept = decimate({ x, y }, 2000);
    expect(kept.x.length).toBeLessThanOrEqual(2000);
    expect(kept.x.length).toBeGreaterThan(1500);
    expect([kept.x[0], kept.x.at(-1)]).toEqual([0, count - 1]);
    expect(kept.y[kept.x.indexOf(12_345)]).toBe(50);
    expect(kept.y[kept.x.indexOf(40_001)]).toBe(-50);
    expect([...kept.x].sort((a, b) => a - b)).toEqual(kept.x);
    expect(kept.y.filter((value) => value === null).length).toBeGreaterThan(50);
    kept.x.forEach((place, i) => expect(kept.y[i]).toBe(y[place]));
    expect(decimate({ x: [1, 2], y: [3, 4] }, 2000)).toEqual({ x: [1, 2], y: [3, 4] });
  });

  test('smoothing is the mean around each place; gaps do not count', () => {
    expect(smooth([1, 2, 3, 4, 5], 3)).toEqual([1.5, 2, 3, 4, 4.5]);
    expect(smooth([1, null, 4, null, null, null, null, 7], 3)).toEqual([1, 2.5, 4, 4, null, null, 7, 7]);
    const values = Array.from({ length: 1000 }, (_, i) => Math.cos(i));
    const direct = values.map((_, i) => {
      const around = values.slice(Math.max(0, i - 10), i + 11);
      return around.reduce((a, b) => a + b) / around.length;
    });
    smooth(values, 20).forEach((value, i) => expect(value).toBeCloseTo(direct[i]!, 10));
    expect([19, 20, 1000, 50_000].map(smoothingSpan)).toEqual([0, 10, 10, 500]);
  });

  test('axes have round numbers', () => {
    expect(ticks(0, 1, 5)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
    expect(ticks(1.13, 3.77, 6)).toEqual([1.5, 2, 2.5, 3, 3.5]);
    expect(logTicks(0.5, 2000, 10, 6)).toEqual([1, 10, 100, 1000]);
    expect(logTicks(1024, 65_536, 2, 4)).toEqual([1024, 4096, 16_384, 65_536]);
    expect(logTicks(2, 9, 10, 4)).toEqual([2, 4, 6, 8]);
    expect(formatTicks([0, 5000, 10_000], 'number')).toEqual(['0', '5k', '10k']);
    expect(formatTicks([0, 0.001, 0.0025], 'number')).toEqual(['0', '0.001', '0.0025']);
    expect(formatTicks([0.25, 1], 'share')).toEqual(['25%', '100%']);
    expect(formatTicks([0, 2.5e9], 'bytes')).toEqual(['0', '2.5 GB']);
    expect(formatTicks([1024, 65_536], 'number', 2)).toEqual(['1024', '65536']);
  });

  test('a few spikes of a raw curve do not press the rest of it flat', () => {
    const y = Array.from({ length: 1000 }, (_, i) => (i === 500 ? 1000 : 1 + (i % 10) / 10));
    const curve = { label: '', colour: 1, run: 0, x: y.map((_, i) => i), y };
    const chart = { id: '', title: '', unit: 'number', over: 'steps', log: 0, fromZero: false, wide: false } as const;
    const [low, high] = limits({ ...chart, curves: [{ ...curve, role: 'raw' }] });
    expect([low, high].map((end) => Number(end.toFixed(2)))).toEqual([0.95, 1.95]);
    expect(limits({ ...chart, curves: [{ ...curve, role: 'line' }] })[1]).toBeGreaterThan(1000);
  });
});

describe('the history of a run', () => {
  test('what was done again after a resume counts once', () => {
    const events = runEvents({ steps: 30, end: false });
    const from = events.findIndex((event) => event.type === 'step' && event.step === 16);
    const again = events.slice(from).map((event) => (event.type === 'step' ? { ...event, loss: 9 } : event));
    const resume: TrainingEvent = {
      type: 'resume',
      step: 15,
      epoch: 2,
      seconds: 3,
      from: 'state.safetensors',
      totalSteps: 30,
      epochs: 3,
    };
    const { steps, evaluations, prefixes, resumes } = historyOf([...events, resume, ...again]);
    expect(steps.step).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(steps.loss.slice(15)).toEqual(Array<number>(15).fill(9));
    expect(steps.loss[14]).not.toBe(9);
    expect(evaluations.map(({ step }) => step)).toEqual([10, 20, 30]);
    expect(prefixes.map(({ step }) => step)).toEqual([0, 10, 20, 30]);
    expect(resumes).toEqual([resume]);
  });

  test('the same without an event that says so', () => {
    const events = runEvents({ steps: 30, end: false });
    const from = events.findIndex((event) => event.type === 'step' && event.step === 16);
    expect(historyOf([...events, ...events.slice(from)]).steps.step).toHaveLength(30);
  });

  test('the best evaluation is the one that the end names, or else the last that was the best', () => {
    const events = runEvents();
    expect(historyOf(events).best?.step).toBe(60);
    expect(
      historyOf([
        ...events.slice(0, -1),
        { ...(events.at(-1) as Extract<TrainingEvent, { type: 'end' }>), bestStep: 40 },
      ]).best?.step,
    ).toBe(40);
    const worse = events.map((event) =>
      event.type === 'evaluation' && event.step === 60 ? { ...event, best: false } : event,
    );
    expect(historyOf(worse.slice(0, -1)).best?.step).toBe(40);
  });
});

describe('the page of a run', () => {
  const page = renderReport({
    events: runEvents({ lossScale: true }),
    recipe: { name: 'smile', learningRate: 0.001, shuffle: true, epochs: 50_000 },
    base: { name: 'models/tiny', layers: 3, hidden: 64, parameters: 2_566_144 },
    baseline: { loss: Math.log(21.5), accuracy: 0.25 },
    data: { train: { samples: 80, promptTokens: 1234 }, validation: { samples: 20, promptTokens: 300 } },
  });

  test('needs nothing from outside, and runs nothing but its own scripts', () => {
    const policy = /<meta http-equiv="Content-Security-Policy" content="(.*?)">/.exec(page)![1]!;
    const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
    const style = /<style>(.*?)<\/style>/s.exec(page)![1]!;
    const scripts = Array.from(page.matchAll(/<script>(.*?)<\/script>/gs), ([, text]) => text!);
    expect(scripts).toHaveLength(2);
    expect(policy).toBe(
      `default-src 'none'; style-src ${hash(style)}; script-src ${scripts.map(hash).join(' ')}; base-uri 'none'; form-action 'none'`,
    );
    for (const text of scripts) expect(() => new Script(text)).not.toThrow();
    expect(style).not.toMatch(/url\(|@import/);
    expect(page).not.toMatch(/<(?:link|img|iframe|object|embed|base)\b|\ssrc=|\sstyle=|\son[a-z]+=/);
    expect(scripts[1]).not.toMatch(/fetch\(|XMLHttpRequest|import\(|innerHTML|https?:/);
    // What uPlot's licence asks for.
    expect(scripts[0]).toContain('The MIT License');
  });

  test('tells the numbers that are looked at first', () => {
    const cells = cellsOf(page);
    const tile = (title: string): string[] => cells.slice(cells.indexOf(title) + 1, cells.indexOf(title) + 3);
    // The loss of the last epoch: 1.5 + 1/3.
    expect(tile('Validation perplexity, best')).toEqual(['6.255', 'base model 21.5; loss 1.833, step 60']);
    expect(tile('Validation accuracy, best')).toEqual(['65.0%', 'base model 25.0%']);
    expect(tile('Training loss, last epoch')).toEqual(['1.583', 'perplexity 4.871']);
    expect(tile('Steps')).toEqual(['60', 'of 60, 3 epochs of 20']);
    expect(tile('Time')).toEqual(['17s', 'in one go']);
    expect(tile('Tokens per second')).toEqual(['1,000', '12.0 k target tokens']);
    expect(tile('Peak memory')).toEqual(['2.0 GB', '3.0 GB predicted']);
    expect(tile('Trained parameters')).toEqual(['123 k', 'of the prefix encoder']);
    expect(page).toContain('<bdi>models/tiny</bdi>: 3 layers of 64, 2.57 M parameters');
    expect(page).toContain('<span class="status good">Finished</span>');
    expect(page).toContain('<title>smile</title>');
  });

  test('has a table of what was measured, the best marked, the base model above', () => {
    const cells = cellsOf(page);
    const at = cells.indexOf('base model');
    expect(cells.slice(at - 9, at)).toEqual([
      'step',
      'epoch',
      'training loss',
      'validation loss',
      'perplexity',
      'accuracy',
      'smileys',
      'time',
      '',
    ]);
    expect(cells.slice(at, at + 9)).toEqual(['base model', '', '', '3.068', '21.5', '25.0%', '', '', '']);
    expect(cells.slice(at + 9, at + 18)).toEqual(['20', '1', '2.25', '2.5', '12.18', '55.0%', '0.1', '4.0s', '']);
    expect(cells.slice(at + 27, at + 36)).toEqual([
      '60',
      '3',
      '1.583',
      '1.833',
      '6.255',
      '65.0%',
      '0.3',
      '12s',
      'best',
    ]);
    expect(page.match(/<tr class="best">/g)).toHaveLength(1);
  });

  test('has recipe and data', () => {
    const cells = cellsOf(page);
    expect(cells.slice(cells.indexOf('learning rate'), cells.indexOf('learning rate') + 6)).toEqual([
      'learning rate',
      '0.001',
      'shuffle',
      'yes',
      'epochs',
      '50,000',
    ]);
    expect(cells.slice(cells.indexOf('prompt tokens'), cells.indexOf('prompt tokens') + 3)).toEqual([
      'prompt tokens',
      '1234',
      '300',
    ]);
  });

  test('has a curve for everything that has numbers', () => {
    const { charts, heatMaps, resumes } = dataOf(page);
    expect(charts.map(({ id, curves }) => [id, curves.map(({ label }) => label)])).toEqual([
      ['loss', ['each step', 'training', 'base model', 'validation', 'best']],
      ['perplexity', ['training', 'validation', 'best', 'base model']],
      ['accuracy', ['base model', 'validation', 'best']],
      ['metric-0', ['validation']],
      ['learning-rate', ['learning rate']],
      ['gradient', ['each step', 'gradient norm']],
      ['loss-scale', ['loss scale']],
      ['speed', ['each step', 'tokens/s']],
      ['memory', ['resident set', 'predicted']],
      ['prefix', ['keys, start', 'values, start', 'keys, step 60', 'values, step 60']],
    ]);
    const [raw, , base, validation, best] = charts[0]!.curves;
    expect(raw!.x).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
    expect(base).toMatchObject({ x: [0, 60], y: [3.06805, 3.06805] });
    expect(validation).toMatchObject({ x: [20, 40, 60], y: [2.5, 2, 1.83333] });
    expect(best).toMatchObject({ x: [60], y: [1.83333] });
    expect(chartOf(page, 'prefix').curves[2]).toMatchObject({ x: [0, 1, 2], y: [1, 2, 6] });
    expect(heatMaps).toEqual([
      {
        steps: [0, 20, 40, 60],
        values: [
          [1, 2, 3],
          [1, 2, 4],
          [1, 2, 5],
          [1, 2, 6],
        ],
      },
      {
        steps: [0, 20, 40, 60],
        values: [
          [0.5, 0.6, 0.7],
          [0.5, 0.6, 1.7],
          [0.5, 0.6, 2.7],
          [0.5, 0.6, 3.7],
        ],
      },
    ]);
    expect(resumes).toEqual([]);
  });

  test('has the curves without JavaScript too, each in its place', () => {
    for (const [i, { title }] of dataOf(page).charts.entries()) {
      const figure = new RegExp(`data-chart="${i}">(.*?)</figure>`, 's').exec(page)![1]!;
      expect(figure).toContain(`aria-label="${title}"`);
      expect(figure).toMatch(
        /<path class="curve (line|points) c1" d="M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+"\/>|<path class="curve points c2" d="M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+"\/>/,
      );
    }
    expect(page.match(/data-heat="\d"/g)).toHaveLength(2);
    expect(page).toMatch(/<path class="q0" d="M0 20h10v10h-10z/);
  });

  test('shows samples before and after beside each other', () => {
    expect(page).toContain('<p class="text" dir="auto">今日は</p>');
    const texts = Array.from(
      page.matchAll(
        /<span class="label">([^<]*)<span class="tag">(.*?)<\/span><\/span>\s*<p class="text" dir="auto">(.*?)<\/p>/g,
      ),
    );
    expect(texts.map((found) => found.slice(1))).toEqual([
      ['before training', 'stop', '晴れです。'],
      ['step 60', 'length', '雨でした。 😃'],
    ]);
  });

  test('text of any kind stays text', () => {
    const hostile = `</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- ]]> " ' & \u0000\u001b[31m`;
    const events = runEvents({ text: hostile }).map((event) =>
      event.type === 'evaluation'
        ? { ...event, metrics: { [hostile]: 1 } }
        : event.type === 'samples' && event.step === 0
          ? { ...event, samples: [{ prompt: hostile, text: hostile, finishReason: hostile }] }
          : event,
    );
    const options: ReportOptions = {
      events,
      title: hostile,
      recipe: { name: hostile, [hostile]: hostile },
      base: { name: hostile, layers: 1, hidden: 1 },
      data: { [hostile]: { [hostile]: hostile } },
    };
    for (const shown of [
      renderReport(options),
      renderComparison({
        title: hostile,
        runs: [
          { ...options, name: hostile },
          { ...options, name: `2${hostile}` },
        ],
      }),
    ]) {
      expect(shown.match(/<script/g)).toHaveLength(3);
      expect(shown.match(/<\/script/g)).toHaveLength(3);
      expect(shown).not.toMatch(/<img|<!--/);
      expect(shown).not.toMatch(/[\u0000-\u0008\u000b-\u001f]/);
      expect(shown).toContain(
        '&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&lt;!-- ]]&gt; &quot; &#39; &amp; \ufffd\ufffd[31m',
      );
      // In quotes it cannot end the attribute that it stands in.
      expect(shown).not.toMatch(/="[^"]*<\/?(?:script|img)/);
      expect(dataOf(shown).charts.some(({ title }) => title === `Validation: ${hostile}`)).toBe(true);
    }
  });

  test('a run that was interrupted, one that has just begun and one without events give pages', () => {
    const interrupted = renderReport({ events: runEvents({ end: false }).slice(0, 30) });
    expect(interrupted).toContain('<span class="status warn">Not finished: interrupted, or still going on</span>');
    expect(cellsOf(interrupted)).toContain('of 60, 3 epochs of 20');
    expect(interrupted).toContain('<title>Training run</title>');
    const begun = renderReport({ events: runEvents().slice(0, 1) });
    expect(begun).toContain('Not finished');
    expect(dataOf(begun).charts).toEqual([]);
    const empty = renderReport({ events: [] });
    expect(empty).toContain('There is nothing to show yet');
    expect(empty).toContain('No step yet');
    expect(renderReport({ events: runEvents().slice(0, 4) })).toContain('data-chart="0"');
  });

  test.each([
    ['epochs', 'good', 'Finished'],
    ['steps', 'good', 'Finished'],
    ['time', 'good', 'Stopped: time is up'],
    ['early-stopping', 'good', 'Stopped early: no longer better'],
    ['aborted', 'bad', 'Aborted'],
    ['meteor', 'warn', 'Ended: meteor'],
  ])('an end by %s', (reason, tone, text) => {
    const events = runEvents().map((event) => (event.type === 'end' ? { ...event, reason: wrong(reason) } : event));
    expect(renderReport({ events })).toContain(`<span class="status ${tone}">${text}</span>`);
  });

  test('values that are not finite are gaps, and skipped steps are told', () => {
    const events = runEvents({ lossScale: true }).map((event): TrainingEvent => {
      if (event.type !== 'step' || event.step % 20 !== 5) return event;
      return { ...event, loss: NaN, gradNorm: event.step === 5 ? wrong(null) : Infinity, applied: false };
    });
    const shown = renderReport({ events });
    const [raw, line] = chartOf(shown, 'gradient').curves;
    expect(raw!.y.flatMap((value, i) => (value === null ? [raw!.x[i]] : []))).toEqual([5, 25, 45]);
    expect(line!.y).not.toContain(null);
    expect(chartOf(shown, 'gradient').note).toBe('3 skipped: the float16 gradient overflowed');
    expect(shown.replace(/<script>.*?<\/script>/gs, '')).not.toMatch(/NaN|Infinity/);
  });

  test('a resume is marked, and told', () => {
    const events = runEvents();
    events.splice(10, 0, { type: 'resume', step: 7, epoch: 1, seconds: 1.4, from: 'state', totalSteps: 80, epochs: 4 });
    const shown = renderReport({ events });
    expect(dataOf(shown).resumes).toEqual([7]);
    expect(shown).toContain('dotted: resumed');
    expect(cellsOf(shown)).toContain('resumed once');
    expect(cellsOf(shown)).toContain('of 80, 4 epochs of 20');
  });

  test('a long run stays small: at most 2,000 points a curve', () => {
    const shown = renderReport({ events: runEvents({ steps: 50_000, epochs: 10, lossScale: true }) });
    expect(shown.length).toBeLessThan(2e6);
    for (const { curves } of dataOf(shown).charts)
      for (const { x } of curves) expect(x.length).toBeLessThanOrEqual(2000);
    expect(chartOf(shown, 'loss').curves[0]!.x.length).toBeGreaterThan(1500);
    expect(chartOf(shown, 'loss').note).toBe('smoothed over about 500 steps');
  });
});

describe('the page of several runs', () => {
  const runs = [
    { name: 'a', events: runEvents(), recipe: { name: 'smile', learningRate: 0.001, seed: 1 } },
    { name: 'b', events: runEvents({ steps: 30, end: false }), recipe: { name: 'smile', learningRate: 0.01, seed: 1 } },
  ];
  const page = renderComparison({ title: 'two rates', runs });

  test('has a curve of each run, with its name', () => {
    for (const { id, curves } of dataOf(page).charts) {
      expect([id, curves.map(({ label, colour, run }) => [label, colour, run])]).toEqual([
        id,
        [
          ['a', 1, 0],
          ['b', 2, 1],
        ],
      ]);
    }
    expect(dataOf(page).clocks).toHaveLength(2);
    expect(dataOf(page).charts.map(({ id }) => id)).toEqual([
      'loss',
      'validation',
      'perplexity',
      'accuracy',
      'metric-0',
      'learning-rate',
      'gradient',
      'speed',
      'memory',
    ]);
  });

  test('has a row for each run, and the recipes with what differs first', () => {
    const cells = cellsOf(page);
    const at = cells.indexOf('a');
    expect(cells.slice(at, at + 10)).toEqual([
      'a',
      'Finished',
      '60',
      '60',
      '1.833',
      '6.255',
      '65.0%',
      '17s',
      '1,000',
      '2.0 GB',
    ]);
    expect(cells.slice(at + 10, at + 20)).toEqual([
      'b',
      'Not finished',
      '30',
      '30',
      '1.833',
      '6.255',
      '65.0%',
      '6.0s',
      '1,000',
      '2.0 GB',
    ]);
    const recipe = cells.slice(cells.indexOf('learning rate'));
    expect(recipe).toEqual(['learning rate', '0.001', '0.01', 'name', 'smile', 'smile', 'seed', '1', '1']);
    expect(page.match(/<tr class="differs">/g)).toHaveLength(1);
  });

  test('has what each wrote last to the same prompt', () => {
    const labels = Array.from(page.matchAll(/<span class="label">([^<]*)<span class="tag">/g), ([, label]) => label);
    expect(labels).toEqual(['a', 'b']);
  });

  test('many runs share the points of a chart', () => {
    const many = Array.from({ length: 12 }, (_, i) => ({
      name: `run ${i}`,
      history: historyOf(runEvents({ steps: 3000, seed: i })),
      baseline: undefined,
    }));
    for (const { curves } of comparisonCharts(many)) {
      expect(curves.map(({ colour }) => colour)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]);
      expect(curves[4]!.dash).toBeDefined();
      for (const { x } of curves) expect(x.length).toBeLessThanOrEqual(500);
    }
    expect(runCharts(many[0]!)[0]!.curves[0]!.x.length).toBeGreaterThan(1500);
  });
});

describe('what is refused', () => {
  test.each([
    [
      'an unknown option',
      () => renderReport(wrong({ events: [], titel: 'x' })),
      "Unknown option 'titel' in options\nHint: did you mean 'title'?",
    ],
    [
      'no events',
      () => renderReport(wrong({})),
      'Expected a list of training events for events but received undefined of type undefined',
    ],
    [
      'events that are none',
      () => renderReport({ events: wrong([1]) }),
      'Expected a training event for events[0] but received 1 of type number\nHint: it is no event of a training run',
    ],
    [
      'an event without a field',
      () =>
        renderReport({
          events: [...runEvents().slice(0, 1), wrong({ type: 'resume', step: 1, epoch: 1, seconds: 2, from: 'x' })],
        }),
      "Expected a training event for events[1] but received an object of type object\nHint: the event 'resume' has no usable totalSteps",
    ],
    [
      'an empty title',
      () => renderReport({ events: [], title: '' }),
      "Expected a non-empty string for title but received '' of type string",
    ],
    [
      'a recipe that is no object',
      () => renderReport({ events: [], recipe: wrong(3) }),
      'Expected an object for recipe but received 3 of type number',
    ],
    [
      'a base model without layers',
      () => renderReport({ events: [], base: wrong({ hidden: 3 }) }),
      'Expected an integer of at least 1 for base.layers but received undefined of type undefined',
    ],
    [
      'a baseline without loss',
      () => renderReport({ events: [], baseline: wrong({}) }),
      'Expected a finite number for baseline.loss but received undefined of type undefined',
    ],
  ])('%s', async (name, act, text) => expectRefusal({ name, act, text }));
});
