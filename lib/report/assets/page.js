// The script of a report: puts live charts (uPlot) in the place of the drawings, and shows what the pointer is at.
// Without it the page shows the same, standing still. It is put into the page as it is here.
/* global document, window, uPlot, ResizeObserver, getComputedStyle, localStorage, matchMedia */
(() => {
  'use strict';
  const data = JSON.parse(document.getElementById('data').textContent);
  const root = document.documentElement;
  const plots = [];
  let byTime = false;

  // Colours come from the style sheet, which knows whether the page is light or dark; a canvas has to be told.
  const probe = document.body.appendChild(document.createElement('i'));
  probe.hidden = true;
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const withAlpha = (name, alpha) => colour(name).replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

  // Numbers.
  const short = (value) => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value);
    if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(4)));
    return Number(value.toPrecision(3)).toExponential();
  };
  const bytes = (value) => {
    const power = value < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
    return `${short(Number((value / 1000 ** power).toPrecision(3)))} ${['B', 'kB', 'MB', 'GB', 'TB'][power]}`;
  };
  const duration = (seconds) => {
    if (seconds < 60) return `${Number(seconds.toPrecision(2))}s`;
    const minutes = Math.round(seconds / 60);
    if (seconds < 3600)
      return seconds % 60 === 0 || seconds >= 600
        ? `${minutes}m`
        : `${Math.floor(seconds / 60)}m${Math.round(seconds % 60)}s`;
    return `${Math.floor(minutes / 60)}h${minutes % 60 === 0 ? '' : String(minutes % 60).padStart(2, '0') + 'm'}`;
  };
  const shown = (value, unit) => {
    if (value === null || value === undefined) return '';
    if (unit === 'bytes') return bytes(value);
    return unit === 'share' ? `${short(Number((value * 100).toFixed(2)))}%` : short(value);
  };
  // Along an axis, all in the unit that suits the largest; a logarithmic axis has places without a number.
  const ticks = (values, unit, log = 0) => {
    const largest = Math.max(...values.map((value) => Math.abs(value ?? 0)));
    const [size, suffix] =
      unit !== 'number' || log !== 0 || largest < 1e4 ? [1, ''] : largest < 1e6 ? [1e3, 'k'] : [1e6, 'M'];
    return values.map((value) => (value === 0 ? '0' : value === null ? '' : `${shown(value / size, unit)}${suffix}`));
  };

  // When each step of a run was, between the moments that are known.
  const timeOf = (run, step) => {
    const { x, y } = data.clocks[run];
    let [low, high] = [0, x.length - 1];
    if (high < 0) return step;
    if (step >= x[high]) return y[high];
    if (step <= x[0]) return x[0] === 0 ? y[0] : (y[0] * step) / x[0];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x[middle] <= step) low = middle;
      else high = middle;
    }
    return y[low] + ((y[high] - y[low]) * (step - x[low])) / (x[high] - x[low]);
  };

  // Where the points of a curve stand; two steps at one time would be one place twice.
  const placesOf = ({ x, run }) => {
    let last = -Infinity;
    return byTime ? x.map((step) => (last = Math.max(timeOf(run, step), last + 1e-6))) : x;
  };

  // All charts over the steps show the same stretch.
  const stretch = () => {
    const ends = data.charts
      .filter(({ over }) => over === 'steps')
      .flatMap(({ curves }) => curves.map(placesOf).flatMap((places) => [places[0], places[places.length - 1]]));
    return [[...new Set([Math.min(...ends), Math.max(...ends)])]];
  };

  const tableOf = (chart) =>
    chart.over === 'steps'
      ? uPlot.join([stretch(), ...chart.curves.map((curve) => [placesOf(curve), curve.y])])
      : uPlot.join(chart.curves.map(({ x, y }) => [x, y]));

  // As on the server: a few spikes of a raw curve may leave the axis.
  const limits = (u, chart) => {
    const ends = [];
    chart.curves.forEach(({ role }, i) => {
      const { show, idxs } = u.series[i + 1];
      if (!show) return;
      const ys = u.data[i + 1];
      const usable = (value) => value !== null && value !== undefined && (chart.log === 0 || value > 0);
      // A line also runs to the points beside the stretch that is seen.
      const before = ys.slice(0, idxs[0]).findLast(usable);
      const after = ys.slice(idxs[1] + 1).find(usable);
      const values = [before, ...ys.slice(idxs[0], idxs[1] + 1), after].filter(usable);
      if (values.length === 0) return;
      values.sort((a, b) => a - b);
      const at = (share) => values[Math.round(share * (values.length - 1))];
      ends.push(...(role === 'raw' ? [at(0.005), at(0.995)] : [at(0), at(1)]));
    });
    if (ends.length === 0) return chart.log === 0 ? [0, 1] : [1, 10];
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    if (chart.log !== 0) return uPlot.rangeLog(low, high, chart.log, chart.log === 2);
    if (chart.fromZero && low >= 0) return [0, high === 0 ? 1 : high * 1.08];
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low - pad, chart.unit === 'share' ? Math.min(1, high + pad) : high + pad];
  };

  const seriesOf = ({ label, role, colour: number, dash }) => {
    const stroke = () =>
      role === 'raw'
        ? withAlpha(`c${number}`, 0.3)
        : role === 'start'
          ? withAlpha(`c${number}`, 0.5)
          : colour(`c${number}`);
    const dotted = role === 'points' || role === 'start' || role === 'mark';
    return {
      label,
      stroke,
      width: role === 'raw' ? 1 : role === 'mark' ? 0 : 1.8,
      dash: role === 'level' ? [6, 5] : dash,
      points: {
        show: (u, i) =>
          dotted &&
          (role !== 'points' || u.data[i].filter((value) => value !== null && value !== undefined).length < 200),
        size: role === 'mark' ? 15 : 6,
        width: role === 'mark' ? 2.2 : 1.5,
        stroke,
        fill: () => (role === 'mark' ? 'transparent' : colour('card')),
      },
    };
  };

  // Distances of the numbers along the horizontal axis: steps, and seconds.
  const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** power)).flat();
  const MOMENTS = [
    1,
    2,
    5,
    10,
    15,
    30,
    ...[1, 2, 5, 10, 15, 30].map((m) => m * 60),
    ...[1, 2, 3, 6, 12, 24, 48, 96, 240].map((h) => h * 3600),
  ];

  // What the pointer is at stands in the legend; at rest, the last values.
  const writeLegend = (u, chart, figure) => {
    const at = figure.querySelector('.at');
    const { idx } = u.cursor;
    const here = idx === null || idx === undefined ? undefined : u.data[0][idx];
    at.textContent =
      here === undefined
        ? chart.over === 'layer'
          ? 'last layer'
          : 'at the end'
        : chart.over === 'layer'
          ? `layer ${here}`
          : byTime
            ? duration(here)
            : `step ${Math.round(here).toLocaleString('en')}`;
    at.hidden = false;
    figure.querySelectorAll('[data-curve]').forEach((item) => {
      const i = Number(item.dataset.curve) + 1;
      const values = u.data[i];
      let j = here === undefined ? values.length - 1 : u.cursor.idxs[i];
      if (here === undefined) while (j > 0 && (values[j] === null || values[j] === undefined)) j--;
      item.querySelector('.value').textContent = j === null || j === undefined ? '' : shown(values[j], chart.unit);
    });
  };

  const markResumes = (u) => {
    if (data.resumes.length === 0) return;
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = colour('soft');
    ctx.setLineDash([2 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
    ctx.lineWidth = uPlot.pxRatio;
    for (const step of data.resumes) {
      const place = byTime ? timeOf(0, step) : step;
      if (place < u.scales.x.min || place > u.scales.x.max) continue;
      const left = Math.round(u.valToPos(place, 'x', true)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  const make = (chart, figure) => {
    const place = figure.querySelector('.plot');
    const size = () => ({
      width: place.clientWidth,
      height: window.innerWidth < 760 ? 210 : chart.wide ? 330 : 240,
    });
    const axis = { stroke: () => colour('soft'), font: '12px system-ui, sans-serif', ticks: { show: false } };
    const steps = chart.over === 'steps';
    const options = {
      ...size(),
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        points: {
          size: 7,
          width: 0,
          stroke: 'transparent',
          fill: (u, i) =>
            ['mark', 'level'].includes(chart.curves[i - 1].role)
              ? 'transparent'
              : colour(`c${chart.curves[i - 1].colour}`),
        },
        drag: { x: true, y: false, dist: 6 },
        hover: { skip: [null, undefined] },
        ...(steps ? { sync: { key: 'steps', scales: ['x', null], setSeries: false } } : {}),
      },
      scales: {
        x: { time: false, ...(steps ? {} : { range: (u, min, max) => [min - 0.3, max + 0.3] }) },
        y: { range: (u) => limits(u, chart), ...(chart.log === 0 ? {} : { distr: 3, log: chart.log }) },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 24,
          gap: 4,
          space: 60,
          incrs: () => (byTime && steps ? MOMENTS : WHOLE),
          values: (u, splits) => (steps && byTime ? splits.map(duration) : ticks(splits, 'number')),
        },
        {
          ...axis,
          size: 56,
          grid: { stroke: () => colour('grid'), width: 1 },
          values: (u, splits) => ticks(splits, chart.unit, chart.log),
        },
      ],
      series: [{}, ...chart.curves.map(seriesOf)],
      hooks: { setCursor: [(u) => writeLegend(u, chart, figure)], draw: steps ? [markResumes] : [] },
    };
    place.replaceChildren();
    const u = new uPlot(options, tableOf(chart), place);
    const refresh = () => writeLegend(u, chart, figure);
    new ResizeObserver(() => {
      if (place.clientWidth > 0 && place.clientWidth !== u.width) u.setSize(size());
    }).observe(place);
    figure.querySelectorAll('[data-curve]').forEach((item) => {
      const i = Number(item.dataset.curve) + 1;
      item.setAttribute('role', 'button');
      item.setAttribute('aria-pressed', 'true');
      item.tabIndex = 0;
      const toggle = () => {
        const show = !u.series[i].show;
        u.setSeries(i, { show });
        item.setAttribute('aria-pressed', String(show));
      };
      item.addEventListener('click', toggle);
      item.addEventListener('keydown', (event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return;
        event.preventDefault();
        toggle();
      });
    });
    refresh();
    plots.push({ u, chart, refresh });
  };

  // The pointer over a map of norms.
  const watchHeatMap = ({ steps, values }, figure) => {
    const map = figure.querySelector('svg');
    const at = figure.querySelector('.at');
    const rest = at.textContent;
    const layers = values[0].length;
    map.addEventListener('pointermove', (event) => {
      const box = map.getBoundingClientRect();
      const column = Math.min(
        steps.length - 1,
        Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * steps.length)),
      );
      const layer =
        layers - 1 - Math.min(layers - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * layers)));
      at.textContent = `layer ${layer}, step ${steps[column].toLocaleString('en')}: ${short(values[column][layer])}`;
    });
    map.addEventListener('pointerleave', () => (at.textContent = rest));
  };

  data.charts.forEach((chart, i) => make(chart, document.querySelector(`[data-chart="${i}"]`)));
  data.heatMaps.forEach((map, i) => watchHeatMap(map, document.querySelector(`[data-heat="${i}"]`)));

  const redraw = () => plots.forEach(({ u }) => u.redraw(false, true));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);

  // Buttons are there only where they do something.
  const stored = (() => {
    try {
      return localStorage.getItem('neox-prefix-theme');
    } catch {
      return null;
    }
  })();
  const theme = document.getElementById('theme');
  const setTheme = (name) => {
    if (name === 'light' || name === 'dark') root.dataset.theme = name;
    else delete root.dataset.theme;
    theme.textContent = `Theme: ${root.dataset.theme ?? 'system'}`;
    redraw();
  };
  theme.hidden = false;
  theme.addEventListener('click', () => {
    const next = { light: 'dark', dark: 'system' }[root.dataset.theme] ?? 'light';
    setTheme(next);
    try {
      localStorage.setItem('neox-prefix-theme', next);
    } catch {
      // The page is a file in some browsers: then it forgets.
    }
  });
  setTheme(stored);

  const tools = document.getElementById('tools');
  if (tools !== null && data.clocks.every(({ x }) => x.length > 0)) {
    tools.hidden = false;
    tools.querySelectorAll('button').forEach((button) =>
      button.addEventListener('click', () => {
        byTime = button.dataset.over === 'time';
        tools
          .querySelectorAll('button')
          .forEach((other) => other.setAttribute('aria-pressed', String(other === button)));
        plots.forEach(({ u, chart, refresh }) => {
          if (chart.over !== 'steps') return;
          u.setData(tableOf(chart));
          refresh();
        });
      }),
    );
  }
})();
