import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { FTExporter } from '../../../lib/export/exporter';
import { exportTritonRepository } from '../../../lib/export/triton-repository';
import { NeoXModel } from '../../../lib/neox-model';
import { expectRefusal, failureOf, randomPrefix, temporaryFolder } from '../../helpers';

const GOLDEN = join(__dirname, '..', '..', 'fixtures', 'golden');
const temporary = temporaryFolder();

/** A golden GPT-2, with some keys of its config.json changed. */
function model(name: string, source: string, changes: object = {}): string {
  const folder = temporary.join(name);
  cpSync(join(GOLDEN, source), folder, { recursive: true, filter: (file) => !file.includes('reference') });
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...changes }));
  return folder;
}

async function exported(
  name: string,
  source: string,
  changes: object = {},
): Promise<{ directory: string; ini: string }> {
  const checkpoint = await openCheckpoint(model(`${name}-model`, source, changes));
  const options = { dtype: 'float32', tensorParallel: 1 } as const;
  const { directory } = await new FTExporter({ checkpoint }).export(temporary.join(name), options);
  return { directory, ini: readFileSync(join(directory, 'config.ini'), 'utf8') };
}

/** The folder with other lines in config.ini. */
function edited(directory: string, name: string, edit: (ini: string) => string): string {
  const folder = temporary.join(name, '1-gpu');
  mkdirSync(temporary.join(name));
  cpSync(directory, folder, { recursive: true });
  const path = join(folder, 'config.ini');
  writeFileSync(path, edit(readFileSync(path, 'utf8')));
  return folder;
}

test('a head of its own, epsilon and activation go there and come back; tasks are added and verified', async () => {
  const source = model('own', 'gpt2-untied');
  await using loaded = await NeoXModel.load(source, { dtype: 'float32' });
  const exporter = new FTExporter(loaded);
  const prefix = randomPrefix(loaded, 3);
  const { directory, warnings } = await exporter.export(temporary.join('out'), {
    dtype: 'float32',
    tasks: { first: prefix },
  });
  expect(warnings.map(({ code }) => code)).toEqual(['head-size']);
  await exporter.addTasks(directory, { second: prefix });
  expect((await exporter.verify(directory, { tasks: { first: prefix, second: prefix } })).ok).toBe(true);
  const ini = readFileSync(join(directory, 'config.ini'), 'utf8');
  expect(ini).toContain(
    'layernorm_eps = 0.001\nactivation_type = Relu\nnum_tasks = 2\nprompt_learning_type = 2\n\n[task_0]',
  );

  await using served = await NeoXModel.load(directory);
  expect(served.fingerprint).toBe(loaded.fingerprint);
  const { tieWordEmbeddings, maxPositionEmbeddings } = served.config;
  expect({ tieWordEmbeddings, maxPositionEmbeddings }).toEqual({ tieWordEmbeddings: false, maxPositionEmbeddings: 64 });
  const rows = { inputIds: [[4, 7, 11, 90]] };
  const task = await served.loadTask('second');
  const [here, there] = await Promise.all([
    loaded.forward({ ...rows, pastKeyValues: prefix }),
    served.forward({ ...rows, pastKeyValues: task! }),
  ]);
  expect(there.logits).toEqual(here.logits);
});

test("a tied head has no file, and what config.ini does not say has FasterTransformer's defaults", async () => {
  const { directory, ini } = await exported('tied', 'gpt2');
  expect(readdirSync(directory)).not.toContain('model.lm_head.weight.bin');
  expect(ini).not.toContain('activation_type');
  const plain = edited(directory, 'plain', (text) => text.replace(/layernorm_eps.*\n/, ''));
  const { config } = await openCheckpoint(plain);
  expect(config).toMatchObject({ tieWordEmbeddings: true, layerNormEps: 1e-6, hiddenAct: 'gelu_new' });
  // Another epsilon is another model.
  const exporter = new FTExporter({ checkpoint: await openCheckpoint(join(GOLDEN, 'gpt2')) });
  expect((await exporter.verify(plain)).problems).toEqual(['config.ini: layernorm_eps is missing, expected 0.00001']);
});

test.each([
  ['has_adapters = 1', /its has_adapters is 1: it is no GPT-2/],
  ['layernorm_type = post_layernorm', /its layernorm_type is post_layernorm: it is no GPT-2/],
  ['activation_type = GeGLU', /its activation_type is GeGLU: it is no GPT-2/],
])('another variant of GPT is refused: %s', async (line, text) => {
  const { directory } = await exported(`base-${line}`, 'gpt2');
  const other = edited(directory, line, (ini) => ini.replace('[gpt]\n', `[gpt]\n${line}\n`));
  await expectRefusal({ name: line, act: () => openCheckpoint(other), code: 'NEOX_BAD_EXPORT', text });
});

test('an activation that no variant has is told, and there is no Triton repository of a GPT-2', async () => {
  const checkpoint = await openCheckpoint(model('mish', 'gpt2', { activation_function: 'mish' }));
  const { warnings } = await new FTExporter({ checkpoint }).export(temporary.join('mish-out'));
  expect(warnings.map(({ code, message }) => [code, message])).toContainEqual([
    'activation',
    'The model uses the activation mish, FasterTransformer always GELU: its output will be wrong',
  ]);
  const error = await failureOf(exportTritonRepository({ checkpoint }, temporary.join('triton')));
  expect(error).toMatchObject({ code: 'NEOX_UNSUPPORTED' });
});
