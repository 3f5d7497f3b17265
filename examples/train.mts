// Trains two prefixes over one frozen model: 😃 behind every sentence, and ね at the end of every sentence.
//
//   node scripts/run-typescript.mjs examples/train.mts [OUTPUT FOLDER]
import { join } from 'node:path';
import { NeoXModel, PrefixTrainer, readDataset, splitDataset } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

// `await using` frees the model's memory when the program leaves this scope, also by an error.
await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));

const tasks = [
  { name: 'smile', data: 'diary.jsonl', suffix: ' 😃' },
  { name: 'friendly', data: 'friendly.jsonl', suffix: '' },
];

for (const { name, data, suffix } of tasks) {
  // The reference recipe's packing: the suffix goes behind every line of a document, and lines are joined up to 64
  // tokens. These documents are shorter than that, so what is left at a document's end has to be kept.
  const samples = await readDataset(join(folder, 'data', data), {
    packing: 'lines',
    suffix,
    maxLength: 64,
    keepRemainder: true,
    tokenizer: model.tokenizer,
  });

  // What is not given is as in rinna's script. Its 1e-4 would need many epochs; a prefix stands a higher rate well.
  const trainer = new PrefixTrainer(model, { name, epochs: 1, learningRate: 5e-3, outputDir: join(out, name) });
  const result = await trainer.train(splitDataset(samples, { train: 400, validation: 40 }), {
    onEvent: (event) => {
      if (event.type === 'start')
        console.log(`${name}: ${event.trainableParameters} parameters are trained in ${event.totalSteps} steps`);
      if (event.type === 'step' && event.step % 25 === 0)
        console.log(`  step ${event.step}: loss ${event.loss.toFixed(3)}`);
      if (event.type === 'evaluation')
        console.log(`  epoch ${event.epoch}: validation perplexity ${event.perplexity.toFixed(3)}`);
    },
  });

  // The run folder has best.safetensors already. rinna's own code and PEFT read these:
  await result.best.save(join(out, name, 'rinna.checkpoint'));
  await result.best.save(join(out, name, 'peft'), { format: 'peft' });
}
