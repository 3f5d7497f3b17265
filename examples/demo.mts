// The whole road on Japanese text, in about a minute: two prefixes are trained over one frozen GPT-NeoX, used side by
// side in one batch, and exported to FasterTransformer. It ends with an error when a prefix does not do what it was
// trained for.
//
//   npm run demo [-- --train 400 --epochs 3 --out examples/out/demo]
import { mkdir, readFile, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Presets, SingleBar } from 'cli-progress';
import {
  evaluate,
  FTExporter,
  NeoXModel,
  PrefixTrainer,
  readDataset,
  splitDataset,
  type PrefixWeights,
  type Sample,
  type TrainingEvent,
} from 'neox-prefix';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    train: { type: 'string', default: '400' },
    epochs: { type: 'string', default: '3' },
    out: { type: 'string', default: join(here, 'out', 'demo') },
  },
});
const TEXTS = 60; // sampled with and without each prefix
const SAMPLING = { maxNewTokens: 60, topP: 0.95, topK: 50 };

/**
 * A task, and how to see in a sentence that it was learned. `tail` is what stands between the sentence's 。 and the next
 * sentence.
 */
interface Task {
  name: string;
  teaches: string;
  data: string;
  suffix: string;
  done: (sentence: string, tail: string) => boolean;
}

const SMILE: Task = {
  name: 'smile',
  teaches: 'put 😃 behind every sentence',
  data: 'diary.jsonl',
  suffix: ' 😃',
  done: (_sentence, tail) => tail.startsWith('😃'),
};
const FRIENDLY: Task = {
  name: 'friendly',
  teaches: 'end every sentence in ね',
  data: 'friendly.jsonl',
  suffix: '',
  done: (sentence) => sentence.endsWith('ね'),
};

const started = performance.now();
const controller = new AbortController();
const { signal } = controller;
process.once('SIGINT', () => controller.abort());

let section = 0;
function heading(text: string): void {
  console.log(`\n${++section}. ${text}\n${'-'.repeat(text.length + 3)}`);
}

/** The whole sentences of a generated text with what follows each; one that was cut off is left out. */
function sentences(text: string): { sentence: string; tail: string }[] {
  const parts = text.split('。');
  return parts.slice(0, -1).map((part, i) => ({ sentence: part, tail: (parts[i + 1] ?? '').trimStart() }));
}

function share(texts: readonly string[], task: Task): { done: number; of: number; percent: number } {
  const all = texts.flatMap(sentences);
  const done = all.filter(({ sentence, tail }) => task.done(sentence, tail)).length;
  return { done, of: all.length, percent: (100 * done) / all.length };
}

/** Shows where a training run is: a moving bar on a terminal, and a line for each epoch anywhere. */
function progress(): { onEvent: (event: TrainingEvent) => void; stop: () => void } {
  const format = '  {bar} step {value}/{total} | loss {loss} | {rate} tokens/s | {eta_formatted} left';
  const bar = new SingleBar(
    { format, stream: process.stderr, clearOnComplete: true, hideCursor: null },
    Presets.shades_classic,
  );
  let steps = 0;
  const onEvent = (event: TrainingEvent): void => {
    if (event.type === 'start') steps = event.totalSteps;
    if (event.type === 'step' && process.stderr.isTTY) {
      const shown = { loss: event.loss.toFixed(3), rate: event.tokensPerSecond.toFixed(0) };
      if (bar.isActive) bar.update(event.step, shown);
      else bar.start(steps, event.step, shown);
    }
    if (event.type === 'evaluation') {
      bar.stop();
      console.log(`  epoch ${event.epoch}     ${event.perplexity.toFixed(3)}`);
    }
  };
  return { onEvent, stop: () => bar.stop() };
}

async function train(model: NeoXModel, task: Task): Promise<PrefixWeights> {
  const packing = {
    packing: 'lines',
    suffix: task.suffix,
    maxLength: 64,
    keepRemainder: true,
    tokenizer: model.tokenizer,
  } as const;
  const samples: Sample[] = await readDataset(join(here, 'data', task.data), { ...packing, signal });
  const data = splitDataset(samples, { train: Number(options.train), validation: 40 });
  console.log(
    `examples/data/${task.data}: ${data.train.length} samples to train on, ${data.validation.length} to validate`,
  );

  const before = await evaluate(model, data.validation, { signal });
  console.log(`validation perplexity:\n  base model  ${before.perplexity.toFixed(3)}`);
  const { onEvent, stop } = progress();
  const trainer = new PrefixTrainer(model, {
    name: task.name,
    prefixLength: 10,
    epochs: Number(options.epochs),
    batchSize: 4,
    learningRate: 5e-3,
  });
  const { best, steps, seconds } = await trainer.train(data, { signal, onEvent }).finally(stop);
  const place = join(options.out, task.name);
  await best.save(`${place}.safetensors`);
  await best.save(`${place}.checkpoint`);
  const size = (await stat(`${place}.safetensors`)).size / 1e3;
  console.log(
    `${steps} steps in ${seconds.toFixed(0)} s; saved as ${task.name}.safetensors and, for rinna's code, ${task.name}.checkpoint: ${size.toFixed(0)} kB`,
  );
  return best;
}

/**
 * Samples the same prompts with the same seeds, with and without the prefix, and counts. Returns whether the task was
 * learned.
 */
async function compare(
  model: NeoXModel,
  task: Task,
  prefix: PrefixWeights,
  prompts: readonly string[],
): Promise<boolean> {
  const batch = Array.from({ length: TEXTS }, (_, i) => prompts[i % prompts.length] as string);
  const seed = batch.map((_, i) => i + 1);
  const texts: string[][] = [];
  for (const rowPrefix of [undefined, prefix]) {
    const results = await model.generate(batch, { ...SAMPLING, prefix: rowPrefix, seed, signal });
    texts.push(results.map(({ text }, i) => `${batch[i]}${text}`));
  }
  const [without = [], withPrefix = []] = texts;
  console.log();
  for (const i of [0, 1, 2]) console.log(`  without  ${without[i]}\n  with     ${withPrefix[i]}\n`);
  const [low, high] = [share(without, task), share(withPrefix, task)];
  const show = ({ done, of, percent }: typeof low): string =>
    `${String(done).padStart(3)} of ${of}, ${percent.toFixed(1)} %`;
  console.log(`Sentences that do it, in ${TEXTS} sampled texts:\n  without  ${show(low)}\n  with     ${show(high)}`);
  return high.percent >= 90 && low.percent < 10;
}

async function exportAll(model: NeoXModel, tasks: Record<string, PrefixWeights>): Promise<boolean> {
  const exporter = new FTExporter(model);
  const folder = join(options.out, 'fastertransformer');
  const { directory, files, bytes, warnings } = await exporter.export(folder, {
    dtype: 'float16',
    tasks,
    overwrite: true,
    signal,
  });
  console.log(
    `${relative(process.cwd(), directory) || '.'}: ${files.length} files and config.ini, ${(bytes / 1e6).toFixed(1)} MB`,
  );
  const seen = new Set<string>();
  for (const { name, bytes: size } of files) {
    const pattern = name.replace(/layers\.\d+/, 'layers.*');
    if (seen.has(pattern)) continue;
    seen.add(pattern);
    const times = files.filter((file) => file.name.replace(/layers\.\d+/, 'layers.*') === pattern).length;
    console.log(`  ${String(size).padStart(8)} bytes  ${pattern}${times > 1 ? `  (${times} layers)` : ''}`);
  }
  console.log(
    `\nconfig.ini:\n${(await readFile(join(directory, 'config.ini'), 'utf8')).trimEnd().replace(/^(?=.)/gm, '  ')}`,
  );
  for (const { message } of warnings) console.log(`\nnote: ${message}`);
  const check = await exporter.verify(folder, { tasks, signal });
  const equal = check.files.filter(({ status }) => status === 'equal').length;
  console.log(
    `\nRead back and compared with the checkpoint and the prefixes: ${equal} of ${check.files.length} files equal bit by bit`,
  );
  return check.ok;
}

async function main(): Promise<boolean> {
  await mkdir(options.out, { recursive: true });
  const prompts = (await readFile(join(here, 'data', 'prompts.txt'), 'utf8')).trim().split('\n');

  heading('The base model');
  await using model = await NeoXModel.load(join(here, 'models', 'tiny-ja-neox'), { signal });
  const { parameters, dtype, backend } = model.info();
  const { numLayers, hiddenSize } = model.config;
  console.log(
    `examples/models/tiny-ja-neox: GPT-NeoX, ${numLayers} layers of ${hiddenSize}, ${(parameters / 1e6).toFixed(1)} M parameters`,
  );
  console.log(`in memory as ${dtype}, linear layers by ${backend}. Nothing below changes one of its weights.`);

  const tasks: Record<string, PrefixWeights> = {};
  let learned = true;
  for (const task of [SMILE, FRIENDLY]) {
    heading(`Task '${task.name}': ${task.teaches}`);
    tasks[task.name] = await train(model, task);
    learned = (await compare(model, task, tasks[task.name] as PrefixWeights, prompts)) && learned;
  }

  heading('One batch, three tasks, one base model');
  console.log('One call of generate(), six rows, each with its own prefix or none:\n');
  const rows = prompts.slice(3, 5).flatMap((prompt) => ['smile', 'friendly', 'base'].map((name) => ({ prompt, name })));
  const results = await model.generate(
    rows.map(({ prompt }) => prompt),
    { ...SAMPLING, prefix: rows.map(({ name }) => tasks[name]), seed: 1, signal },
  );
  results.forEach(({ text }, i) =>
    console.log(
      `  ${rows[i]?.name.padEnd(8)}  ${rows[i]?.prompt}${text}${i % 3 === 2 && i < rows.length - 1 ? '\n' : ''}`,
    ),
  );

  heading('Export to FasterTransformer');
  const exported = await exportAll(model, tasks);

  console.log(`\nAll of it took ${((performance.now() - started) / 1000).toFixed(0)} s.`);
  if (!learned)
    console.error('\nerror: a prefix does not do what it was trained for (90 % of the sentences are wanted)');
  if (!exported) console.error('\nerror: the export differs from its source');
  return learned && exported;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  if (!signal.aborted) throw error;
  console.error('\nInterrupted.');
  process.exitCode = 130;
}
