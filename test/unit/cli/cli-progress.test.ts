import {
  displayWidth,
  fields,
  formatBytes,
  formatCount,
  formatNumber,
  formatSeconds,
  inline,
  plural,
  table,
} from '../../../lib/cli/text-columns';
import { Progress, type ProgressOptions } from '../../../lib/cli/progress-bar';
import type { OutputStream } from '../../../lib/cli/io';
import { Ui } from '../../../lib/cli/ui';
import { fakeIO } from './cli-helpers';

/** A progress with a clock that the test moves, and what it wrote. */
function watch(
  options: Partial<ProgressOptions>,
  isTTY = false,
  stream: { columns?: number } = { columns: 100 },
): { progress: Progress; written: string[]; at: (seconds: number) => Progress } {
  const written: string[] = [];
  let milliseconds = 0;
  Object.assign(stream, { write: (text: string) => written.push(text), isTTY });
  const progress = new Progress(
    stream as OutputStream,
    { title: 'work', total: 100, unit: 'steps', ...options },
    () => milliseconds,
  );
  const at = (seconds: number): Progress => {
    milliseconds = seconds * 1000;
    return progress;
  };
  return { progress, written, at };
}

describe('without a terminal', () => {
  test('a line after some seconds, with share, rate and what is left', () => {
    const { written, at } = watch({ unit: 'bytes', total: 40e9 });
    at(1).update(1e9);
    at(9.9).update(9.9e9);
    expect(written).toEqual([]);
    at(10).update(10e9);
    at(15).update(15e9);
    expect(written).toEqual(['work: 25% | 10.0 GB of 40.0 GB | ETA 30s | 1.0 GB/s\n']);
    at(20).update(40e9, 'done');
    expect(written[1]).toBe('work: 100% | 40.0 GB of 40.0 GB | 2.0 GB/s | done\n');
  });

  test('a line after some steps', () => {
    const { written, at } = watch({ lineUnits: 20, lineSeconds: 1000, rate: false });
    for (let step = 1; step <= 50; step++) at(step).update(step, `loss ${step}`);
    expect(written).toEqual([
      'work: 20% | 20 of 100 steps | ETA 1m20s | loss 20\n',
      'work: 40% | 40 of 100 steps | ETA 1m00s | loss 40\n',
    ]);
  });

  test('a line tells everything, with the time that is left where it is known better', () => {
    const { written, at } = watch({ total: 300, rate: false });
    at(10).update(100, ['loss 0.8948', '1.2 GB'], 300, 17);
    at(20).update(200, ['loss 0.8948', '1.2 GB'], 300, NaN);
    expect(written).toEqual([
      'work: 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | 1.2 GB\n',
      'work: 66% | 200 of 300 steps | loss 0.8948 | 1.2 GB\n',
    ]);
  });

  test('an unknown total shows what is done', () => {
    const { written, at } = watch({ unit: 'bytes', total: 0 });
    at(10).update(5e6, 'download');
    at(20).update(10e6, 'download', 20e6);
    expect(written).toEqual([
      'work: 5.0 MB | 500 kB/s | download\n',
      'work: 50% | 10.0 MB of 20.0 MB | ETA 20s | 500 kB/s | download\n',
    ]);
  });
});

describe('on a terminal', () => {
  test('a bar, but not for what ends at once', () => {
    const { progress, written, at } = watch({ unit: 'share', total: 1 }, true);
    at(0.2).update(0.1);
    expect(written).toEqual([]);
    at(1).update(0.25);
    expect(written.join('')).toContain('work ████░░░░░░░░░░░░ 25% | ETA 3.0s');
    progress.stop();
    const count = written.length;
    progress.show();
    expect(written.length).toBe(count);
  });

  const DETAILS = ['loss 0.8948', 'ppl 2.447', 'epoch 1/3', '6715 tok/s', 'lr 0.0067', '1.2 GB'];
  /** What is drawn last on a terminal so wide. */
  function drawn(columns: number | undefined, title = 'training'): string {
    const { progress, written, at } = watch(
      { title, total: 300, rate: false },
      true,
      columns === undefined ? {} : { columns },
    );
    at(10).update(100, DETAILS, 300, 17);
    progress.stop();
    return written.filter((text) => !/^\x1b/.test(text)).at(-1)!;
  }

  test.each([
    [
      200,
      'training █████░░░░░░░░░░░ 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | ppl 2.447 | epoch 1/3 | 6715 tok/s | lr 0.0067 | 1.2 GB',
    ],
    [
      122,
      'training █████░░░░░░░░░░░ 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | ppl 2.447 | epoch 1/3 | 6715 tok/s | lr 0.0067',
    ],
    [80, 'training ███░░░░░ 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | ppl 2.447'],
    [undefined, 'training ███░░░░░ 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | ppl 2.447'],
    [0, 'training ███░░░░░ 33% | 100 of 300 steps | ETA 17s | loss 0.8948 | ppl 2.447'],
    [59, 'training 33% | 100 of 300 steps | ETA 17s | loss 0.8948'],
    [20, 'training 33%'],
    [5, 'trai'],
  ])('%s columns show as much as fits, the most important first', (columns, line) => {
    expect(drawn(columns)).toBe(line);
    if (columns !== undefined && columns > 0)
      expect(displayWidth(drawn(columns, '笑顔のタスク'))).toBeLessThan(columns);
  });

  test('a terminal that is made narrower gets shorter lines', () => {
    const stream = { columns: 200 };
    const { progress, written, at } = watch({ title: 'training', total: 300, rate: false }, true, stream);
    at(10).update(100, DETAILS, 300, 17);
    stream.columns = 30;
    at(20).update(101, DETAILS, 300, 17);
    progress.stop();
    expect(written.filter((text) => text.startsWith('training')).map((text) => text.length)).toEqual([130, 12]);
  });

  test('what is said meanwhile takes the bar off, and the bar comes back', async () => {
    const io = fakeIO({ isTTY: true });
    let time = 0;
    const ui = new Ui(io, { json: false, quiet: false, debug: false, now: () => (time += 1000) });
    await ui.withProgress({ title: 'work', total: 4, unit: 'samples' }, (update) => {
      update(1);
      ui.note('a note');
      ui.print('a result');
      return Promise.resolve();
    });
    await new Promise(setImmediate);
    expect(io.text.stdout).toBe('a result\n');
    // Clears the line, writes, draws again.
    expect(io.text.stderr).toMatch(/work ████.*\x1b\[2Ka note\n.*work ████.*\x1b\[2K.*work ████.*\x1b\[2K$/s);
  });

  test('--quiet shows neither bar nor notes', async () => {
    const io = fakeIO({ isTTY: true });
    const ui = new Ui(io, { json: false, quiet: true, debug: false, now: () => 1e6 });
    await ui.withProgress({ title: 'work', total: 4, unit: 'samples' }, (update) => {
      update(1);
      ui.note('a note');
      return Promise.resolve();
    });
    ui.warn('a warning');
    await new Promise(setImmediate);
    expect(io.text.stderr).toBe('\x1b[33mwarning:\x1b[39m a warning\n');
  });
});

test('numbers for people', () => {
  expect([0, 999, 1000, 5_225_472, 99.96e6, 1.5e12].map(formatBytes)).toEqual([
    '0 bytes',
    '999 bytes',
    '1.0 kB',
    '5.2 MB',
    '100 MB',
    '1.5 TB',
  ]);
  expect([12, 1536, 2_566_144, 3.6e9].map(formatCount)).toEqual(['12', '1.54 k', '2.57 M', '3.60 G']);
  expect([0.04, 9.94, 59.4, 61, 3599, 3600, 90_000].map(formatSeconds)).toEqual([
    '0.0s',
    '9.9s',
    '59s',
    '1m01s',
    '59m59s',
    '1h00m',
    '25h00m',
  ]);
  expect([0, 1e-4, 0.00998, 12.34567, 50_000, 1.5e7, NaN].map(formatNumber)).toEqual([
    '0',
    '1e-4',
    '0.00998',
    '12.35',
    '50000',
    '15000000',
    'NaN',
  ]);
  expect([plural(1, 'file'), plural(2, 'file'), plural(0, 'file')]).toEqual(['1 file', '2 files', '0 files']);
  expect(inline({ name: 'smile', rate: 0.01, shuffle: true })).toBe('name smile, rate 0.01, shuffle true');
});

test('tables line up, Japanese names and emoji too', () => {
  expect(displayWidth('笑顔😃a')).toBe(7);
  expect(
    table(
      ['', 'loss'],
      [
        ['笑顔', '1.25'],
        ['base', '10'],
      ],
    ),
  ).toBe('      loss\n笑顔  1.25\nbase    10');
  expect(
    fields([
      ['a', 1],
      ['left out', undefined],
      ['long', 'x'],
    ]),
  ).toBe('a     1\nlong  x');
});
