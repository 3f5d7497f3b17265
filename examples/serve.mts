// Many requests over one model, each with a prefix by name; streams; answers that have a format. Needs what train.mts
// leaves.
//
//   node scripts/run-typescript.mjs examples/serve.mts [FOLDER OF train.mts]
import { join } from 'node:path';
import { GenerationEngine, NeoXModel, PrefixStore } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));
// Prefixes have names here, and may come, change and go while requests run.
await using prefixes = new PrefixStore(model, { maxBytes: 16e6 });
for (const task of ['smile', 'friendly']) await prefixes.add(task, join(out, task, 'best.safetensors'));
await using engine = new GenerationEngine(model, { maxRows: 8, prefixes });

// Requests join and leave one running batch, with whatever prefix they name.
const tasks = ['smile', 'friendly', undefined];
const requests = Array.from({ length: 30 }, (_, i) => ({
  prompt: '昨日は',
  prefix: tasks[i % 3],
  maxNewTokens: 40,
  seed: i,
}));
const results = await Promise.all(requests.map((request) => engine.generate(request)));
for (const [i, task] of tasks.entries()) console.log(`${task ?? 'base'}: 昨日は${results[i]?.text}`);
const { completed, generatedTokens, steps, cachedTokens } = engine.stats();
console.log(
  `${completed} requests, ${generatedTokens} tokens in ${steps} steps; ${cachedTokens} tokens of prompts from the cache`,
);

// A request gives the same alone.
const alone = await model.generate('昨日は', { prefix: await prefixes.get('smile'), maxNewTokens: 40, seed: 0 });
console.log(`as alone: ${alone.text === results[0]?.text}`);

// A stream that is not read waits, and no other does. Leaving the loop frees the row.
process.stdout.write('stream: 今日は');
for await (const piece of engine.stream({ prompt: '今日は', prefix: 'smile', seed: 3 })) {
  process.stdout.write(piece.text);
  if (piece.text.includes('😃')) break;
}
console.log();

// The answer is one of these, and nothing else.
const format = { choices: ['犬', '猫', 'わからない'] };
const animals = await Promise.all(
  [1, 2, 3].map((seed) => engine.generate({ prompt: '公園で会ったのは', format, seed })),
);
console.log(`animals: ${animals.map(({ text }) => text).join(', ')}`);

await engine.drain();
