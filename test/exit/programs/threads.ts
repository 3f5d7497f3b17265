// `threads.ts MODEL`: prints how many threads each of three models starts: told to use one, told nothing, told two.
import { readdirSync } from 'node:fs';
import { NeoXModel } from '../../../lib/neox-model';
import { native } from '../../../lib/addon/addon';

void (async () => {
  const [folder = ''] = process.argv.slice(2);
  const inputIds = Array.from({ length: 8 }, (_, r) => Array.from({ length: 200 }, (_, i) => (i + r) % 64));
  const running = (): number => readdirSync('/proc/self/task').length;
  const byDefault = native().systemInfo().threads;
  const started: number[] = [];
  const models: NeoXModel[] = [];
  for (const options of [{ threads: 1 }, { threads: 1 }, {}, { threads: 2 }]) {
    const before = running();
    const model = await NeoXModel.load(folder, options);
    await model.forward({ inputIds, logits: 'last' });
    started.push(running() - before);
    models.push(model);
  }
  // The first also started the threads that Node reads files on.
  started.shift();
  process.stdout.write(JSON.stringify({ byDefault, started }));
  await Promise.all(models.map((model) => model.dispose()));
})();
