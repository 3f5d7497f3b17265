/** A checkpoint that is replaced, or changed, while a model of the old one lives. */
import { copyFileSync, cpSync, mkdirSync, renameSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/open';
import { FTExporter } from '../../lib/export/exporter';
import type { LoadOptions } from '../../lib/model/load-options';
import type { NeoXModel } from '../../lib/neox-model';
import { readTensor } from '../../lib/formats/values';
import type { TensorEntry } from '../../lib/formats/tensor';
import { loadModel, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const CHANGES = { hidden_act: 'gelu_fast', use_parallel_residual: true };
const FIXTURE = join(__dirname, '..', 'fixtures', 'files', 'checkpoint-pickled');
const WEIGHTS = 'model.safetensors';

async function written(name: string, seed: number, dtype: 'F32' | 'BF16' = 'F32'): Promise<string> {
  mkdirSync(folder.join(name), { recursive: true });
  return writeRandomModel(folder.join(name), CHANGES, seed, dtype);
}

/** Puts the weights of one folder in the place of another's, with a new inode, and the same size and time. */
function replace(target: string, source: string): void {
  copyFileSync(join(source, WEIGHTS), join(target, 'new'));
  for (const name of ['new', WEIGHTS]) utimesSync(join(target, name), 1000, 1000);
  renameSync(join(target, 'new'), join(target, WEIGHTS));
}

async function logitsOf(model: NeoXModel): Promise<number[]> {
  const { logits } = await model.forward({ inputIds: [[3, 5, 7, 11]], logits: 'last' });
  return [...(logits?.data ?? [])];
}

test.each<[string, 'F32' | 'BF16', LoadOptions]>([
  ['float32', 'F32', { dtype: 'float32' }],
  ['float32 without copies', 'F32', { dtype: 'float32', pack: 'none' }],
  ['bfloat16 of libtorch', 'BF16', { dtype: 'bfloat16', backend: 'aten' }],
  ['int8', 'F32', { dtype: 'int8' }],
])('a model that is loaded after it has the new weights: %s', async (name, dtype, options) => {
  const place = await written(`${name} place`, 1, dtype);
  const other = await written(`${name} other`, 2, dtype);
  await using first = await loadModel(place, options);
  const before = await logitsOf(first);
  replace(place, other);
  await using second = await loadModel(place, options);
  await using expected = await loadModel(other, options);
  expect(second.fingerprint).toBe(expected.fingerprint);
  expect(await logitsOf(second)).toEqual(await logitsOf(expected));
  expect(await logitsOf(second)).not.toEqual(before);
  // What lives on is the old file.
  expect(await logitsOf(first)).toEqual(before);
});

test('so has an export of it, and one of the old model is an error', async () => {
  const place = await written('export place', 1);
  const other = await written('export other', 2);
  await using first = await loadModel(place, { dtype: 'float32' });
  replace(place, other);
  await using second = await loadModel(place, { dtype: 'float32' });
  const { directory } = await new FTExporter(second).export(folder.join('export'));
  const report = await new FTExporter({ checkpoint: await openCheckpoint(other) }).verify(directory);
  expect(report.ok).toBe(true);
  await expect(new FTExporter(first).export(folder.join('torn'))).rejects.toMatchObject({
    code: 'NEOX_IO',
    message: expect.stringMatching(/model.safetensors: it was replaced or changed since its header was read/) as string,
  });
});

test.each(['safetensors', 'pytorch', 'fastertransformer'])(
  'values are read of the file of the header: %s',
  async (format) => {
    const place = await written(`values ${format}`, 1);
    let source = place;
    if (format === 'pytorch') source = folder.join('pickled');
    if (format === 'pytorch') cpSync(FIXTURE, source, { recursive: true });
    if (format === 'fastertransformer') {
      const exporter = new FTExporter({ checkpoint: await openCheckpoint(place) });
      source = (await exporter.export(folder.join('ft'), { tensorParallel: 2 })).directory;
    }
    const { tensors } = await openCheckpoint(source);
    const entry = tensors.get('gpt_neox.layers.0.attention.query_key_value.weight') as TensorEntry;
    const { file } = entry.join?.pieces[1] ?? entry;
    await expect(readTensor(entry)).resolves.toBeInstanceOf(Float32Array);
    copyFileSync(file, `${file}.new`);
    renameSync(`${file}.new`, file);
    await expect(readTensor(entry)).rejects.toMatchObject({
      code: 'NEOX_IO',
      message: expect.stringMatching(
        /: it was replaced or changed since its header was read\nHint: open it again/,
      ) as string,
    });
  },
);
