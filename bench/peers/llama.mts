// llama.cpp through node-llama-cpp as a peer. It has no prefixes: its rows are prompts and nothing before them.
//
//   node scripts/run-typescript.mjs bench/peers/llama.mts F16|BF16|Q8_0
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { provideGguf, type GgufType } from '../gguf.mts';
import { Random } from '../numbers.mts';
import { serve, timed } from '../serve.mts';
import type { ShapeConfig } from '../shapes.mts';

// The parts of node-llama-cpp that are used here. It is not installed with this package, so its own types are not there
// when these sources are checked.
interface Sequence {
  evaluate(
    tokens: number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number, void, void>;
  controlledEvaluate(
    input: (
      number | [number, { generateNext: { token: boolean; probabilities: boolean; options: { temperature: number } } }]
    )[],
  ): Promise<({ next: { token?: number; probabilities?: Map<number, number> } } | undefined)[]>;
  clearHistory(): Promise<void>;
}
interface Context {
  getSequence(): Sequence;
  dispose(): Promise<void>;
}
interface Model {
  createContext(options: {
    contextSize: number;
    sequences: number;
    batchSize: number;
    threads: number;
  }): Promise<Context>;
}
interface Llama {
  loadModel(options: { modelPath: string }): Promise<Model>;
}
type GetLlama = (options: {
  gpu: false;
  build: 'never';
  skipDownload: boolean;
  maxThreads: number;
  logLevel: 'error';
  progressLogs: boolean;
}) => Promise<Llama>;

/** By a variable, so that the compiler does not look for it. */
const LIBRARY: string = 'node-llama-cpp';
const type = process.argv[2] as GgufType;
let loaded: { model: Model; threads: number; vocabulary: number } | undefined;
/** The context of the last work: another number of rows needs another one. */
let current: { rows: number; context: Context; sequences: Sequence[] } | undefined;
const random = new Random(7);

function state(): NonNullable<typeof loaded> {
  if (loaded === undefined) throw new Error('No model is loaded');
  return loaded;
}

/** As many empty sequences as rows, in one context. */
async function sequences(rows: number): Promise<Sequence[]> {
  const { model, threads } = state();
  if (current?.rows !== rows) {
    await current?.context.dispose();
    const context = await model.createContext({ contextSize: 512, sequences: rows, batchSize: 512, threads });
    current = { rows, context, sequences: Array.from({ length: rows }, () => context.getSequence()) };
  }
  for (const sequence of current.sequences) await sequence.clearHistory();
  return current.sequences;
}

/** Greedy, as many tokens as asked for, whatever they are. */
async function generate(sequence: Sequence, prompt: number[], tokens: number): Promise<void> {
  const stream = sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true });
  for (let count = 0; count < tokens; count++) {
    if ((await stream.next()).done === true) throw new Error(`${count} tokens came instead of ${tokens}`);
  }
  await stream.return();
}

await serve({
  load: ({ model: folder, threads }) =>
    timed(1, async () => {
      const { getLlama } = (await import(LIBRARY)) as { getLlama: GetLlama };
      const llama = await getLlama({
        gpu: false,
        build: 'never',
        skipDownload: true,
        maxThreads: threads,
        logLevel: 'error',
        progressLogs: false,
      });
      const { vocab_size: vocabulary } = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as ShapeConfig;
      loaded = { model: await llama.loadModel({ modelPath: await provideGguf(folder, type) }), threads, vocabulary };
    }),

  check: async ({ prompts, probes }) => {
    const generateNext = { token: true, probabilities: true, options: { temperature: 0 } };
    const tokens: number[] = [];
    const logProbabilities: number[][] = [];
    for (const prompt of prompts) {
      const [sequence] = (await sequences(1)) as [Sequence];
      const last = prompt.at(-1) as number;
      const results = await sequence.controlledEvaluate([...prompt.slice(0, -1), [last, { generateNext }]]);
      const next = results.at(-1)?.next;
      if (next?.token === undefined || next.probabilities === undefined) throw new Error('There is no next token');
      const { probabilities } = next;
      tokens.push(next.token);
      logProbabilities.push(probes.map((id) => Math.log(probabilities.get(id) ?? NaN)));
    }
    return { tokens, logProbabilities };
  },

  prefill: async ({ length }) => {
    const [sequence] = (await sequences(1)) as [Sequence];
    return timed(length, () => generate(sequence, random.ids(length, state().vocabulary), 1));
  },

  decode: async ({ rows, tokens }) => {
    const list = await sequences(rows);
    const prompts = random.ids(rows, state().vocabulary);
    return timed(rows * tokens, () =>
      Promise.all(list.map((sequence, row) => generate(sequence, [prompts[row] as number], tokens))),
    );
  },
});
process.exit();
