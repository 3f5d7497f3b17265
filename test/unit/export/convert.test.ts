import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { openCheckpoint } from '../../../lib/checkpoint/open';
import { FTExporter } from '../../../lib/export/exporter';
import { convertPrefix, type ConvertOptions } from '../../../lib/export/convert';
import { PrefixWeights } from '../../../lib/prefix/weights';
import { cli } from '../cli/cli-helpers';
import { wholeNumberPrefix, writeCheckpoint } from './export-helpers';
import { failure } from '../base/files-helpers';

let folder: string;
let prefix: PrefixWeights;
let config: Awaited<ReturnType<typeof openCheckpoint>>;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
  const model = join(folder, 'model');
  await mkdir(model);
  config = (await writeCheckpoint(model)).checkpoint;
  prefix = wholeNumberPrefix(config, 3).withMetadata({
    task: '笑顔',
    baseModel: { fingerprint: config.fingerprint },
    recipe: { epochs: 2 },
  });
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const FORMATS = ['safetensors', 'rinna', 'peft', 'fastertransformer'] as const;
type Format = (typeof FORMATS)[number];

/** The prefix in a format, and the options that it takes to read it. */
async function source(format: Format): Promise<{ path: string; options: ConvertOptions }> {
  switch (format) {
    case 'safetensors':
      await prefix.save(join(folder, 'from.safetensors'));
      return { path: join(folder, 'from.safetensors'), options: {} };
    case 'rinna':
      await prefix.save(join(folder, 'from.checkpoint'));
      return { path: join(folder, 'from.checkpoint'), options: { numLayers: 2, numHeads: 2, name: '笑顔' } };
    case 'peft':
      await prefix.save(join(folder, 'from-adapter'));
      return { path: join(folder, 'from-adapter'), options: {} };
    case 'fastertransformer': {
      const tasks = { other: wholeNumberPrefix(config, 2, 9), 笑顔: prefix };
      const { directory } = await new FTExporter({ checkpoint: config }).export(join(folder, 'from-ft'), {
        tensorParallel: 2,
        tasks,
      });
      return { path: directory, options: { task: '笑顔' } };
    }
  }
}

/** Where to write a format, by its name alone. */
async function target(format: Format): Promise<string> {
  if (format !== 'fastertransformer')
    return join(folder, { safetensors: 'to.safetensors', rinna: 'to.weight', peft: 'to-adapter' }[format]);
  const tasks = { first: wholeNumberPrefix(config, 1, 5) };
  return (await new FTExporter({ checkpoint: config }).export(join(folder, 'to-ft'), { dtype: 'float32', tasks }))
    .directory;
}

const PAIRS = FORMATS.flatMap((from) => FORMATS.map((to) => ({ from, to })));

it.each(PAIRS)('converts $from to $to', async ({ from, to }) => {
  const { path, options } = await source(from);
  const out = await target(to);
  const report = await convertPrefix(path, out, options);
  expect(report).toMatchObject({
    from: { path, format: from },
    to: { path: out, format: to, ...(to === 'fastertransformer' ? { taskId: 1 } : {}) },
    shape: [3, 2, 2, 2, 32],
    task: '笑顔',
  });
  const loaded = await PrefixWeights.load(out, { config, ...(to === 'fastertransformer' ? { task: '笑顔' } : {}) });
  expect(loaded.format).toBe(to);
  expect(loaded.data).toEqual(prefix.data);
  if (to !== 'rinna') expect(loaded.metadata.task).toBe('笑顔');
  if (['safetensors', 'peft'].includes(from) && ['safetensors', 'peft'].includes(to))
    expect(loaded.metadata).toEqual(prefix.metadata);
  if (to === 'rinna' && from !== 'rinna')
    expect(report.warnings).toEqual([expect.stringContaining('holds the numbers only')]);
});

it('says when a folder cannot tell whose prefix it takes', async () => {
  const { path } = await source('safetensors');
  const out = await target('fastertransformer');
  expect((await convertPrefix(path, out)).warnings).toEqual([
    `${out} does not say which base model it was made from: only the sizes were compared`,
  ]);
});

it('gives the task another name', async () => {
  const { path, options } = await source('fastertransformer');
  const out = join(folder, 'renamed.safetensors');
  await convertPrefix(path, out, { ...options, name: 'smile' });
  expect((await PrefixWeights.load(out)).metadata.task).toBe('smile');
});

it('takes a format where the path does not say it', async () => {
  const { path } = await source('safetensors');
  const out = join(folder, 'prefix.bin');
  expect((await failure(convertPrefix(path, out))).code).toBe('NEOX_BAD_ARGUMENT');
  expect(await convertPrefix(path, out, { format: 'rinna' })).toMatchObject({ to: { format: 'rinna' } });
});

describe('what is there', () => {
  it.each(['safetensors', 'rinna', 'peft'] as const)('is kept unless it may be replaced: %s', async (to) => {
    const { path } = await source('safetensors');
    const out = await target(to);
    const other = wholeNumberPrefix(config, 1, 4);
    await other.save(out);
    const error = await failure(convertPrefix(path, out));
    expect([error.code, error.hint]).toEqual([
      'NEOX_BAD_ARGUMENT',
      'choose another path, or set `overwrite: true` to replace it',
    ]);
    expect((await PrefixWeights.load(out, { config })).hash).toBe(other.hash);
    await convertPrefix(path, out, { overwrite: true });
    expect((await PrefixWeights.load(out, { config })).hash).toBe(prefix.hash);
  });

  it('is kept: a task of the same name', async () => {
    const { path } = await source('safetensors');
    const out = await target('fastertransformer');
    expect((await failure(convertPrefix(path, out, { name: 'first' }))).message).toContain(
      "already has a task 'first'",
    );
    expect(await convertPrefix(path, out, { name: 'first', overwrite: true })).toMatchObject({ to: { taskId: 0 } });
    expect((await PrefixWeights.load(out)).hash).toBe(prefix.hash);
  });

  it('can be the source itself', async () => {
    const { path } = await source('safetensors');
    await convertPrefix(path, path, { name: 'smile', overwrite: true });
    expect(await PrefixWeights.load(path)).toMatchObject({ hash: prefix.hash, metadata: { task: 'smile' } });
  });

  it('is never a file in place of a folder', async () => {
    const { path } = await source('safetensors');
    const out = join(folder, 'file');
    await writeFile(out, 'something');
    expect((await failure(convertPrefix(path, out, { overwrite: true }))).message).toContain(
      'Something else is there already',
    );
    expect(await readFile(out, 'utf8')).toBe('something');
  });
});

describe('errors', () => {
  it('a task needs a name', async () => {
    await source('rinna');
    const error = await failure(
      convertPrefix(join(folder, 'from.checkpoint'), await target('fastertransformer'), { config }),
    );
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining('for options.name')]);
  });

  it('of reading leave nothing behind', async () => {
    const { path } = await source('rinna');
    const error = await failure(convertPrefix(path, join(folder, 'to.safetensors')));
    expect(error.code).toBe('NEOX_BAD_PREFIX');
    expect(await readdir(folder)).not.toContain('to.safetensors');
  });

  it('a folder of another model is refused', async () => {
    const { path } = await source('safetensors');
    const other = join(folder, 'other');
    await mkdir(other);
    const { checkpoint } = await writeCheckpoint(other, { num_hidden_layers: 1 });
    const { directory } = await new FTExporter({ checkpoint }).export(join(folder, 'ft'));
    expect((await failure(convertPrefix(path, directory))).code).toBe('NEOX_PREFIX_MISMATCH');
  });

  it('a prefix of another base model of the same shape is refused, unless that is allowed', async () => {
    const from = join(folder, 'foreign.safetensors');
    await prefix.withMetadata({ baseModel: { fingerprint: 'aaaa', name: 'one' } }).save(from);
    const out = join(folder, 'foreign.checkpoint');
    const error = await failure(convertPrefix(from, out, { config }));
    expect(error.code).toBe('NEOX_PREFIX_MISMATCH');
    expect(error.message).toContain(`its fingerprint is aaaa (one), this model's is ${config.fingerprint}`);
    expect(await readdir(folder)).not.toContain('foreign.checkpoint');
    const args = ['convert', from, out, '--model', config.directory];
    const refused = await cli(args);
    expect([refused.code, refused.stdout]).toEqual([1, '']);
    expect(refused.stderr).toContain('give --allow-fingerprint-mismatch');
    expect((await cli([...args, '--allow-fingerprint-mismatch'])).code).toBe(0);
    expect(await convertPrefix(from, out, { config, allowFingerprintMismatch: true, overwrite: true })).toMatchObject({
      shape: prefix.shape,
    });
  });

  it('unknown options are named', async () => {
    const error = await failure(convertPrefix('a', 'b', { overwite: true } as ConvertOptions));
    expect(error.message).toContain("Unknown option 'overwite'");
  });
});

describe('neox-prefix convert', () => {
  it('does the same', async () => {
    const { path } = await source('fastertransformer');
    const out = join(folder, 'to.safetensors');
    const { code, stdout, stderr } = await cli(['convert', path, out, '--task', '笑顔', '--name', 'smile']);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toBe(`${out}: prefix [3, 2, 2, 2, 32], fastertransformer to safetensors\n`);
    expect(await PrefixWeights.load(out)).toMatchObject({ hash: prefix.hash, metadata: { task: 'smile' } });
  });

  it('takes a model for a file of nothing but numbers, and says the id of a task', async () => {
    const { path } = await source('rinna');
    const out = await target('fastertransformer');
    const args = ['convert', path, out, '--model', config.directory, '--name', 'smile', '--json'];
    const { code, stdout } = await cli(args);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      from: { format: 'rinna' },
      to: { format: 'fastertransformer', taskId: 1 },
      task: 'smile',
    });
    expect((await PrefixWeights.load(out, { task: 1 })).hash).toBe(prefix.hash);
  });

  it.each(['par25.peft', 'smile-v1.2'])('a name with a dot that says no format: %s', async (name) => {
    const { path } = await source('safetensors');
    const out = join(folder, name);
    expect(await cli(['convert', path, out])).toEqual({
      code: 2,
      stdout: '',
      stderr:
        `error: The name ${out} does not say the format to write\n` +
        'hint: give --format peft for an adapter folder of this name, --format safetensors or --format rinna for a file\n',
    });
    expect((await cli(['convert', path, out, '--format', 'peft'])).code).toBe(0);
    expect(await PrefixWeights.load(out)).toMatchObject({ hash: prefix.hash, format: 'peft' });
  });

  it('speaks of its own options', async () => {
    const { path } = await source('safetensors');
    const { code, stderr } = await cli(['convert', path, path]);
    expect(code).toBe(1);
    expect(stderr).toContain('give --overwrite');
  });

  it('explains itself with an example', async () => {
    const { code, stdout } = await cli(['convert', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('$ neox-prefix convert smileface.safetensors smileface-adapter');
  });
});
