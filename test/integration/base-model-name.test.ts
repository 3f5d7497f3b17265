import { cpSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { convertPrefix } from '../../lib/export/convert';
import { PrefixWeights } from '../../lib/prefix/weights';
import { PrefixEncoder } from '../../lib/training/encoder';
import { EXAMPLE_MODEL, loadModel, temporaryFolder } from '../helpers';

const folder = temporaryFolder();

test('an adapter names its base model by the path that was given, by its name on the hub, or as told', async () => {
  const nameOf = async (prefix: PrefixWeights): Promise<unknown> => {
    const path = folder.join(`named-${count++}`);
    await prefix.save(path, { format: 'peft' });
    const config = JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    return config['base_model_name_or_path'];
  };
  let count = 0;
  const cache = folder.join('models--rinna--tiny-ja', 'snapshots', 'abc');
  cpSync(EXAMPLE_MODEL, cache, { recursive: true });
  for (const [directory, options, name] of [
    [EXAMPLE_MODEL, {}, EXAMPLE_MODEL],
    [relative('.', EXAMPLE_MODEL), {}, relative('.', EXAMPLE_MODEL)],
    [cache, {}, 'rinna/tiny-ja'],
    [EXAMPLE_MODEL, { baseModelName: 'rinna/other' }, 'rinna/other'],
  ] as const) {
    await using own = await loadModel(directory, options);
    const encoder = await PrefixEncoder.create(own, { init: 'zero', prefixLength: 1 });
    const prefix = await encoder.prefix({ task: 'x' });
    expect(await nameOf(prefix)).toBe(name);
    const [from, to] = [folder.join('named.safetensors'), folder.join(`converted-${count}`)];
    await prefix.save(from);
    await convertPrefix(from, to, { format: 'peft', baseModelName: 'hub/name' });
    expect(await nameOf(await PrefixWeights.load(to, { config: own }))).toBe('hub/name');
  }
});
