// Generates with two prefixes over one model: by request, by row of one batch, and piece by piece. Needs what train.mts
// leaves.
//
//   node scripts/run-typescript.mjs examples/generate.mts [FOLDER OF train.mts]
import { join } from 'node:path';
import { NeoXModel, PrefixWeights } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));
// With `config` a prefix of another model is refused here rather than at its first use.
const smile = await PrefixWeights.load(join(out, 'smile', 'best.safetensors'), { config: model });
const friendly = await PrefixWeights.load(join(out, 'friendly', 'best.safetensors'), { config: model });

// A prefix is chosen by each request; nothing is switched in the model, so requests may run side by side.
const options = { maxNewTokens: 60, temperature: 0.8, topP: 0.95, seed: 3 };
const [plain, smiling] = await Promise.all([
  model.generate('昨日は', options),
  model.generate('昨日は', { ...options, prefix: smile }),
]);
console.log(`base:      昨日は${plain.text}`);
console.log(`smile:     昨日は${smiling.text}`);
console.log(`           ${smiling.usage.completionTokens} tokens, finished by '${smiling.finishReason}'`);

// Or by each row of one batch. A row's text depends on its own prompt, prefix and seed alone.
const prompts = ['昨日は', '昨日は', '春になって'];
const rows = await model.generate(prompts, { ...options, prefix: [friendly, undefined, smile] });
rows.forEach(({ text }, i) => console.log(`row ${i}:     ${prompts[i]}${text}`));
console.log(`row 1 is what it was alone: ${rows[1]?.text === plain.text}`);

// temperature 0 is greedy: always the most likely token.
const greedy = await model.generate('休日の朝に', { prefix: friendly, temperature: 0 });
console.log(`greedy:    休日の朝に${greedy.text}`);

// Text is passed on as soon as it is certain: a piece never holds half a character.
process.stdout.write('stream:    今日は');
for await (const piece of model.stream('今日は', { ...options, prefix: smile })) process.stdout.write(piece.text);
console.log();

// Leaving the loop, or aborting the signal, stops the work within a token.
process.stdout.write('stopped:   今日は');
for await (const piece of model.stream('今日は', { ...options, prefix: smile })) {
  process.stdout.write(piece.text);
  if (piece.text.includes('😃')) break;
}
console.log();
