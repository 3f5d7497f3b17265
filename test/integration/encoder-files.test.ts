import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixEncoder } from '../../lib/training/encoder';
import { expectRefusal, loadModel, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
let model: NeoXModel;
beforeAll(async () => {
  await mkdir(folder.join('model'));
  model = await loadModel(await writeRandomModel(folder.join('model')));
});
afterAll(() => model.dispose());

test('an encoder of rinna’s script is loaded, and a prefix without one is trained on as it is', async () => {
  const files = join(__dirname, '..', 'fixtures', 'files');
  const rinna = await PrefixEncoder.load(model, join(files, 'initial.pt'));
  expect(rinna).toMatchObject({ projection: true, prefixLength: 4, inputDim: 3, hiddenDim: 5 });
  const { data, shape } = (await rinna.state())['prefix_mlp.2.weight']!;
  expect([shape, data[1]]).toEqual([[128, 5], Math.fround(0.001)]);
  const prefix = await rinna.prefix({ task: 'x' });
  for (const name of ['prefix.safetensors', 'prefix.checkpoint', 'adapter']) {
    const path = folder.join(name);
    await prefix.save(path, name === 'adapter' ? { format: 'peft' } : {});
    const encoder = await PrefixEncoder.load(model, path, { seed: 7 });
    expect(encoder).toMatchObject({ projection: false, prefixLength: 4 });
    expect((await encoder.prefix()).data).toEqual(prefix.data);
  }
  await expectRefusal({
    name: '',
    act: () => PrefixEncoder.load(model, join(files, 'mixed.safetensors')),
    code: 'NEOX_BAD_PREFIX',
    text: /is no prefix: expected one tensor 'prefix' or 'prompt_embeddings', found/,
  });
});
