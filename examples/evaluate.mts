// Perplexity of the base model and of each prefix on each task's validation data. Needs what train.mts leaves.
//
//   node scripts/run-typescript.mjs examples/evaluate.mts [FOLDER OF train.mts]
import { join } from 'node:path';
import { evaluate, NeoXModel, PrefixWeights, readDataset, type Sample } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));
const smile = await PrefixWeights.load(join(out, 'smile', 'best.safetensors'), { config: model });
const friendly = await PrefixWeights.load(join(out, 'friendly', 'best.safetensors'), { config: model });

/** The last 40 documents of a file, which training has not seen. */
async function validation(file: string, suffix: string): Promise<Sample[]> {
  const packing = { packing: 'lines', suffix, keepRemainder: true, tokenizer: model.tokenizer } as const;
  return (await readDataset(join(folder, 'data', file), packing)).slice(-40);
}
const data = {
  'text with 😃': await validation('diary.jsonl', ' 😃'),
  'text with ね': await validation('friendly.jsonl', ''),
};

// Weighted by tokens: exp(total loss / total target tokens). A prefix helps on its own task's text and harms on the
// other's.
for (const [text, samples] of Object.entries(data)) {
  for (const [name, prefix] of Object.entries({ base: undefined, smile, friendly })) {
    const { perplexity, accuracy, tokens } = await evaluate(model, samples, { prefix });
    const percent = (100 * accuracy).toFixed(1);
    console.log(
      `${text}  ${name.padEnd(8)}  perplexity ${perplexity.toFixed(3).padStart(8)}, ${percent} % of ${tokens} tokens foreseen`,
    );
  }
}
