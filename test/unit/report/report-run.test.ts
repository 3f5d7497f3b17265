import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { renderReport } from '../../../lib/report/report';
import { readRun, writeReport } from '../../../lib/report/run';
import { PrefixWeights } from '../../../lib/prefix/weights';
import type { TrainingEvent } from '../../../lib/runs/events';
import { readEvents } from '../../../lib/runs/read-events';
import { expectRefusal, temporaryFolder } from '../../helpers';
import { cli, jsonLines } from '../cli/cli-helpers';
import { chartOf, runEvents, type StepEvent } from './report-helpers';

const folder = temporaryFolder();

function writeRun(name: string, events: readonly TrainingEvent[], recipe: object = { name }): string {
  const path = folder.join(name);
  mkdirSync(path, { recursive: true });
  writeFileSync(folder.join(name, 'metrics.jsonl'), events.map((event) => `${JSON.stringify(event)}\n`).join(''));
  writeFileSync(folder.join(name, 'recipe.json'), JSON.stringify(recipe));
  return path;
}

async function read(text: string): Promise<TrainingEvent[]> {
  writeFileSync(folder.join('metrics.jsonl'), text);
  return readEvents(folder.join('metrics.jsonl'));
}

describe('the folder of a run', () => {
  const good = runEvents().map((event) => JSON.stringify(event));

  test('gives the events back, values that were not finite as null', async () => {
    expect(await read(`${good.join('\n')}\n`)).toEqual(JSON.parse(`[${good.join(',')}]`));
    const step = runEvents().find((event): event is StepEvent => event.type === 'step');
    expect(await read(JSON.stringify({ ...step, loss: NaN, etaSeconds: Infinity }))).toEqual([
      { ...step, loss: null, etaSeconds: null },
    ]);
  });

  test('passes over a last line that was cut off, and over events of a later version', async () => {
    expect(await read(`${good[0]}\n{"type":"weather"}\n\n${good[1]}\n${good[4]!.slice(0, 50)}`)).toHaveLength(2);
  });

  test.each([
    [
      'a line that is cut within the file',
      `${good[0]}\n${good[4]!.slice(0, 50)}\n${good[5]}\n`,
      ':2: it is no event of a training run',
    ],
    ['a line that is no event', '[1]\n', ':1: it is no event of a training run'],
    ['an event without a field', '{"type":"end","step":1}\n', ":1: the event 'end' has no usable reason"],
    [
      'a field of another type',
      good[4]!.replace('"epoch":1', '"epoch":null'),
      ":1: the event 'step' has no usable epoch",
    ],
    [
      'norms that are none',
      '{"type":"prefix","step":1,"epoch":1,"keyNorms":["a"],"valueNorms":[]}',
      ":1: the event 'prefix' has no usable keyNorms",
    ],
    [
      'samples that are none',
      '{"type":"samples","step":1,"epoch":1,"samples":[{"prompt":"x"}]}',
      ":1: the event 'samples' has no usable samples",
    ],
    [
      'metrics that are none',
      JSON.stringify({ ...runEvents().find(({ type }) => type === 'evaluation'), metrics: 3 }),
      ":1: the event 'evaluation' has no usable metrics",
    ],
  ])('refuses %s', async (name, text, message) =>
    expectRefusal({
      name,
      act: () => read(text),
      code: 'NEOX_BAD_DATA',
      text: `${folder.join('metrics.jsonl')}${message}`,
    }),
  );

  test('without a run says what one is', async () => {
    await expectRefusal({
      name: 'no run',
      act: () => readRun(folder.join('none')),
      code: 'NEOX_FILE_NOT_FOUND',
      text: `There is no training run in ${folder.join('none')}: it has no metrics.jsonl\nHint: a run is the folder that \`outputDir\` of the trainer, or --out of \`neox-prefix train\`, names`,
    });
  });

  test('names the base model by the prefix, or by what was told', async () => {
    const path = writeRun('based', runEvents());
    expect((await readRun(path)).base).toBeUndefined();
    const geometry = { prefixLength: 1, numLayers: 2, numHeads: 2, headSize: 4 };
    const metadata = { baseModel: { name: 'tiny', numLayers: 2, hiddenSize: 8 } };
    await PrefixWeights.fromTensor(new Float32Array(32), { ...geometry, metadata }).save(
      folder.join('based', 'last.safetensors'),
    );
    expect((await readRun(path)).base).toEqual({ name: 'tiny', layers: 2, hidden: 8 });
    writeFileSync(folder.join('based', 'best.safetensors'), 'damaged');
    expect((await readRun(path)).base).toEqual({ name: 'tiny', layers: 2, hidden: 8 });
    const about = {
      base: { name: 'told', layers: 2, hidden: 8, parameters: 1_000_000 },
      baseline: { loss: 1, accuracy: 0.5 },
      data: { samples: 3 },
    };
    writeFileSync(folder.join('based', 'about.json'), JSON.stringify(about));
    expect(await writeReport(path)).toBe(folder.join('based', 'report.html'));
    expect(readFileSync(folder.join('based', 'report.html'), 'utf8')).toContain(
      '<bdi>told</bdi>: 2 layers of 8, 1.00 M parameters',
    );
    expect(await readRun(path)).toMatchObject(about);
  });
});

describe('neox-prefix report', () => {
  test('writes the page of a run into its folder, or where it is told to', async () => {
    const path = writeRun('one', runEvents());
    const events = runEvents().map((event) => JSON.parse(JSON.stringify(event)) as TrainingEvent);
    expect(await cli(['report', path])).toEqual({
      code: 0,
      stdout: `${folder.join('one', 'report.html')}\n`,
      stderr: '',
    });
    expect(readFileSync(folder.join('one', 'report.html'), 'utf8')).toBe(
      renderReport({ events, recipe: { name: 'one' } }),
    );
    const output = folder.join('elsewhere.html');
    expect(jsonLines((await cli(['report', path, '--output', output, '--title', 'Mine', '--json'])).stdout)).toEqual([
      { report: output, runs: [path] },
    ]);
    expect(readFileSync(output, 'utf8')).toBe(renderReport({ events, recipe: { name: 'one' }, title: 'Mine' }));
  });

  test('compares several runs under the names of their folders', async () => {
    const paths = [
      writeRun('x/same', runEvents()),
      writeRun('y/same', runEvents({ seed: 2 })),
      writeRun('other', runEvents({ seed: 3 })),
    ];
    const output = folder.join('comparison.html');
    expect((await cli(['report', ...paths, '--output', output])).code).toBe(0);
    const page = readFileSync(output, 'utf8');
    expect(chartOf(page, 'loss').curves.map(({ label }) => label)).toEqual([paths[0], paths[1], 'other']);
    expect(page).toContain(`<title>${paths[0]}, ${paths[1]}, other</title>`);
  });

  test('says which folder has no run', async () => {
    const { code, stdout, stderr } = await cli(['report', writeRun('fine', runEvents()), folder.join('missing')]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain(
      `error: There is no training run in ${folder.join('missing')}: it has no metrics.jsonl\nhint: `,
    );
  });
});
