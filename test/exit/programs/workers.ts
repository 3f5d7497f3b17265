// `workers.ts MODEL WAY`: the library in worker threads.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { GenerationEngine } from '../../../lib/engine/engine';
import { NeoXModel } from '../../../lib/neox-model';
import { native } from '../../../lib/addon/addon';
import { PrefixTrainer } from '../../../lib/training/prefix-trainer';

interface Task {
  folder: string;
  what: 'generate' | 'load' | 'train' | 'engine' | 'format' | 'throw' | 'exit' | 'calls' | 'queue';
}

const wrong = {} as never;
const PROMPT = Array.from({ length: 40 }, (_, i) => i);
const GREEDY = { temperature: 0, maxNewTokens: 12, ignoreEos: true };

async function inWorker({ folder, what }: Task): Promise<void> {
  if (what === 'calls') {
    native();
    parentPort?.postMessage('calling');
    for (;;) {
      native().systemInfo();
      try {
        native().cancel(wrong);
      } catch {
        // What is refused is thrown as an error: that, too, at the moment of the end.
      }
    }
  }
  const model = await NeoXModel.load(folder, {
    threads: 1,
    onProgress: () => what === 'load' && parentPort?.postMessage('loading'),
  });
  if (what === 'generate') {
    const { tokens } = await model.generate(PROMPT, GREEDY);
    parentPort?.postMessage(tokens);
    await model.dispose();
    return;
  }
  if (what === 'format') {
    const { text } = await model.generate('今日は', { format: { choices: ['はい'] } });
    parentPort?.postMessage(text);
    await model.dispose();
    return;
  }
  if (what === 'queue') {
    // The first takes most of a minute; the others wait behind it.
    for (let i = 0; i < 3; i++) void model.generate(PROMPT, { n: 256, maxNewTokens: 900, ignoreEos: true });
    setTimeout(() => parentPort?.postMessage('queued'), 300);
    return;
  }
  if (what === 'engine') {
    const engine = new GenerationEngine(model, { maxRows: 4 });
    for (let i = 0; i < 10; i++) void engine.generate({ prompt: PROMPT, maxNewTokens: 900, ignoreEos: true });
    for await (const piece of engine.stream({ prompt: PROMPT, maxNewTokens: 900, ignoreEos: true }))
      parentPort?.postMessage(piece.token);
  }
  const trainer = new PrefixTrainer(model, { init: 'random' });
  const train = Array.from({ length: 40 }, () => ({ completion: PROMPT }));
  await trainer.train(
    { train },
    {
      onEvent: ({ type }) => {
        if (type !== 'step') return;
        parentPort?.postMessage('step');
        if (what === 'throw') throw new Error('in the worker');
        if (what === 'exit') process.exit(5);
      },
    },
  );
}

function start(task: Task): Worker {
  return new Worker(__filename, { workerData: task, execArgv: process.execArgv });
}

function message(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

const ended = (worker: Worker): Promise<number> => new Promise((resolve) => worker.once('exit', resolve));

const WAYS: Record<string, (folder: string) => Promise<unknown>> = {
  generate: async (folder) => {
    const workers = [start({ folder, what: 'generate' }), start({ folder, what: 'generate' })];
    const codes = Promise.all(workers.map(ended));
    const tokens = await Promise.all(workers.map(message));
    await using model = await NeoXModel.load(folder, { threads: 1 });
    return { tokens, main: (await model.generate(PROMPT, GREEDY)).tokens, codes: await codes };
  },
  terminate: async (folder) => {
    await using model = await NeoXModel.load(folder, { threads: 1 });
    const codes = [];
    for (let i = 0; i < 3; i++) {
      const worker = start({ folder, what: 'train' });
      await message(worker);
      codes.push(await worker.terminate());
    }
    // The thread that stays is not affected.
    return { codes, main: (await model.generate(PROMPT, GREEDY)).tokens.length };
  },
  'a format': async (folder) => {
    const workers = [start({ folder, what: 'format' }), start({ folder, what: 'format' })];
    const codes = Promise.all(workers.map(ended));
    return { texts: await Promise.all(workers.map(message)), codes: await codes };
  },
  'terminate while an engine works': async (folder) => {
    const codes = [];
    for (let i = 0; i < 3; i++) {
      const worker = start({ folder, what: 'engine' });
      await message(worker);
      codes.push(await worker.terminate());
    }
    return { codes };
  },
  'terminate while operations wait': async (folder) => {
    const worker = start({ folder, what: 'queue' });
    await message(worker);
    const started = performance.now();
    const code = await worker.terminate();
    return { code, milliseconds: performance.now() - started };
  },
  'terminate while it calls': async (folder) => {
    for (let i = 0; i < 40; i++) {
      const worker = start({ folder, what: 'calls' });
      await message(worker);
      await new Promise((resolve) => setTimeout(resolve, i % 5));
      await worker.terminate();
    }
    return {};
  },
  'terminate while loading': async (folder) => {
    const codes = [];
    for (const delay of [0, 1, 5]) {
      const worker = start({ folder, what: 'load' });
      await message(worker);
      await new Promise((resolve) => setTimeout(resolve, delay));
      codes.push(await worker.terminate());
    }
    return { codes };
  },
  throw: async (folder) => {
    const worker = start({ folder, what: 'throw' });
    const code = ended(worker);
    const error = await new Promise<Error>((resolve) => worker.once('error', resolve));
    return { error: error.message, code: await code };
  },
  exit: async (folder) => ({ code: await ended(start({ folder, what: 'exit' })) }),
  'end with workers at work': async (folder) => {
    const worker = start({ folder, what: 'train' });
    await message(worker);
    process.stdout.write('{"ending":true}\n');
    process.exit(0);
  },
};

if (isMainThread) {
  const [folder = '', way = ''] = process.argv.slice(2);
  void (WAYS[way] as (folder: string) => Promise<unknown>)(folder).then((result) =>
    process.stdout.write(`${JSON.stringify(result)}\n`),
  );
} else {
  void inWorker(workerData as Task);
}
