// This package as a peer.
//
//   node scripts/run-typescript.mjs bench/peers/neox.mts DTYPE BACKEND
import { readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  FTExporter,
  NeoXModel,
  openCheckpoint,
  PrefixEncoder,
  PrefixTrainer,
  PrefixWeights,
  type LoadOptions,
  type Sample,
  type TrainingEvent,
} from '../../dist/index.mjs';
import { Random } from '../numbers.mts';
import { PREFIX_LENGTH, type Work } from '../protocol.mts';
import { serve, timed } from '../serve.mts';

const [dtype, backend] = process.argv.slice(2) as [
  NonNullable<LoadOptions['dtype']>,
  NonNullable<LoadOptions['backend']>,
];

let loaded: { model: NeoXModel; prefixes: PrefixWeights[]; files: string[] } | undefined;
let encoder: PrefixEncoder | undefined;
const random = new Random(7);

function state(): NonNullable<typeof loaded> {
  if (loaded === undefined) throw new Error('No model is loaded');
  return loaded;
}

function randomPrefix({ config }: NeoXModel): PrefixWeights {
  const { numLayers, numHeads, headSize } = config;
  const data = new Float32Array(PREFIX_LENGTH * numLayers * 2 * numHeads * headSize);
  random.fill(data, 0.5, 0);
  return PrefixWeights.fromTensor(data, { prefixLength: PREFIX_LENGTH, numLayers, numHeads, headSize });
}

/**
 * Runs a training and gives the steps' events. The encoder is made once: how it starts makes no difference to the time.
 */
async function train(samples: Sample[], options: { batchSize: number; shuffle: boolean }): Promise<StepEvent[]> {
  const { model } = state();
  encoder ??= await PrefixEncoder.create(model, { prefixLength: PREFIX_LENGTH, init: 'random' });
  const steps: StepEvent[] = [];
  const trainer = new PrefixTrainer(model, { ...options, encoder, epochs: 1 });
  const onEvent = (event: TrainingEvent): void => {
    if (event.type === 'step') steps.push(event);
  };
  await trainer.train({ train: samples }, { onEvent });
  return steps;
}
type StepEvent = Extract<TrainingEvent, { type: 'step' }>;

/** Samples that give a row of `length` tokens each, all of them with a target. */
function randomSamples(count: number, length: number): Sample[] {
  const { vocabSize } = state().model.config;
  return Array.from({ length: count }, () => ({
    prompt: random.ids(1, vocabSize),
    completion: random.ids(length - 1, vocabSize),
  }));
}

/** Steps behind a first one that is not counted: it makes the packed weights of the backward pass. */
async function trainSteps(rows: number, length: number, steps: number): Promise<Work> {
  const events = await train(randomSamples(rows * (steps + 1), length), { batchSize: rows, shuffle: false });
  const [first, last] = [events[0], events.at(-1)];
  if (first === undefined || last === undefined || events.length !== steps + 1)
    throw new Error('The training took other steps');
  return { seconds: last.seconds - first.seconds, amount: rows * length * steps };
}

/** Seconds that the JavaScript thread has been running; NaN where the system does not say. */
function jsSeconds(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e9;
  } catch {
    return NaN;
  }
}

await serve({
  load: ({ model: folder, threads, scratch }) =>
    timed(1, async () => {
      const model = await NeoXModel.load(folder, { dtype, backend, threads });
      const prefixes = [randomPrefix(model), randomPrefix(model)];
      const files = prefixes.map((_, i) => join(scratch, `${i}.safetensors`));
      for (const [i, prefix] of prefixes.entries()) await prefix.save(files[i] as string);
      loaded = { model, prefixes, files };
    }),

  check: async ({ prompts, probes }) => {
    const { logits } = await state().model.forward({ inputIds: prompts, logits: 'last' });
    if (logits === null) throw new Error('There are no logits');
    const vocabulary = logits.shape.at(-1) as number;
    const rows = prompts.map((_, i) => logits.data.subarray(i * vocabulary, (i + 1) * vocabulary));
    return {
      tokens: rows.map((row) => row.indexOf(row.reduce((a, b) => Math.max(a, b)))),
      logProbabilities: rows.map((row) => {
        const normalizer = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
        return probes.map((id) => (row[id] as number) - normalizer);
      }),
    };
  },

  train: ({ rows, length, steps }) => trainSteps(rows, length, steps),

  epoch: async ({ file }) => {
    const samples = (JSON.parse(await readFile(file, 'utf8')) as number[][]).map((completion) => ({ completion }));
    const events = await train(samples, { batchSize: 4, shuffle: true });
    return { seconds: events.at(-1)?.seconds ?? NaN, amount: events.reduce((sum, { tokens }) => sum + tokens, 0) };
  },

  prefill: async ({ length }) => {
    const { model } = state();
    const inputIds = [random.ids(length, model.config.vocabSize)];
    return timed(length, async () => {
      const { pastKeyValues } = await model.forward({ inputIds, logits: 'last' });
      pastKeyValues[Symbol.dispose]();
    });
  },

  decode: async ({ rows, tokens }) => {
    const { model, prefixes } = state();
    const prompts = random.ids(rows, model.config.vocabSize).map((id) => [id]);
    const prefix = prompts.map((_, row) => (row % 3 === 2 ? undefined : prefixes[row % 3]));
    return timed(rows * tokens, () =>
      model.generate(prompts, { prefix, maxNewTokens: tokens, temperature: 0, ignoreEos: true }),
    );
  },

  requests: async ({ prefix: kind, count }) => {
    const { model, prefixes, files } = state();
    const prompt = random.ids(1, model.config.vocabSize);
    return timed(count, async () => {
      for (let i = 0; i < count; i++) {
        const which = kind === 'same' ? 0 : i % 2;
        const prefix =
          kind === 'disk' ? await PrefixWeights.load(files[which] as string, { config: model }) : prefixes[which];
        await model.generate(prompt, { prefix, maxNewTokens: 1, temperature: 0, ignoreEos: true });
      }
    });
  },

  export: async ({ model, scratch }) => {
    const exporter = new FTExporter({ checkpoint: await openCheckpoint(model) });
    const folder = join(scratch, 'fastertransformer');
    const started = performance.now();
    const { bytes } = await exporter.export(folder, { dtype: 'float16' });
    const seconds = (performance.now() - started) / 1000;
    await rm(folder, { recursive: true });
    return { seconds, amount: bytes };
  },

  stream: async ({ tokens }) => {
    const { model, prefixes } = state();
    const prompt = random.ids(1, model.config.vocabSize);
    const before = jsSeconds();
    const work = await timed(tokens, async () => {
      const options = { prefix: prefixes[0], maxNewTokens: tokens, temperature: 0, ignoreEos: true };
      let count = 0;
      for await (const { token } of model.stream(prompt, options)) if (token !== undefined) count++;
      if (count !== tokens) throw new Error(`${count} tokens came instead of ${tokens}`);
    });
    return { ...work, jsSeconds: jsSeconds() - before };
  },

  lateness: async ({ rows, length, steps }) => {
    let [worst, last] = [0, performance.now()];
    const timer = setInterval(() => {
      const now = performance.now();
      worst = Math.max(worst, now - last - 50);
      last = now;
    }, 50);
    try {
      await trainSteps(rows, length, steps);
    } finally {
      clearInterval(timer);
    }
    return { seconds: worst / 1000, amount: 1 };
  },
});
await loaded?.model.dispose();
