// `work.ts MODEL WAY`: starts native work and ends the process in one of several ways.
import { GenerationEngine } from '../../../lib/engine/engine';
import { NeoXModel } from '../../../lib/neox-model';
import { PrefixTrainer } from '../../../lib/training/prefix-trainer';

const [folder = '', way = ''] = process.argv.slice(2);
const PROMPT = Array.from({ length: 40 }, (_, i) => i);
const ENDLESS = { maxNewTokens: 900, ignoreEos: true };
const train = Array.from({ length: 40 }, () => ({ completion: PROMPT }));

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Trains until the process ends; `onStep` runs after the first step. */
function training(model: NeoXModel, onStep: () => void): Promise<unknown> {
  const trainer = new PrefixTrainer(model, { init: 'random' });
  return trainer.train({ train }, { onEvent: ({ type }) => type === 'step' && onStep() });
}

async function generating(model: NeoXModel, onToken: () => void): Promise<void> {
  for await (const piece of model.stream(PROMPT, ENDLESS)) if (piece.token !== undefined) onToken();
}

const WAYS: Record<string, (model: NeoXModel) => Promise<unknown>> = {
  'exit while training': (model) => training(model, () => process.exit(7)),
  'exit while generating': (model) => generating(model, () => process.exit(7)),
  'exit while an engine works': async (model) => {
    const engine = new GenerationEngine(model, { maxRows: 4 });
    for (let i = 0; i < 10; i++) void engine.generate({ prompt: PROMPT, ...ENDLESS });
    for await (const piece of engine.stream({ prompt: PROMPT, ...ENDLESS }))
      if (piece.token !== undefined) process.exit(7);
  },
  'exit with a queue': async (model) => {
    for (let i = 0; i < 20; i++) void model.generate([PROMPT, PROMPT], ENDLESS);
    await new Promise((resolve) => setTimeout(resolve, 100));
    process.exit(7);
  },
  'exit while loading': async () => {
    void NeoXModel.load(folder, { onProgress: () => process.exit(7) });
    await new Promise((resolve) => setTimeout(resolve, 20_000));
  },
  'exit while disposing': async (model) => {
    void model.generate(PROMPT, ENDLESS);
    await new Promise((resolve) => setTimeout(resolve, 50));
    void model.dispose();
    process.exit(7);
  },
  'throw while training': (model) =>
    training(model, () =>
      setImmediate(() => {
        throw new Error('nobody catches this');
      }),
    ),
  'reject while generating': async (model) => {
    void model.generate(PROMPT, ENDLESS);
    await new Promise((resolve) => setTimeout(resolve, 50));
    throw new Error('nobody catches this');
  },
  'end without dispose': async (model) => {
    const { tokens } = await model.generate(PROMPT, { maxNewTokens: 4, ignoreEos: true });
    say(`${tokens.length} tokens`);
  },
  // Nothing but the native work keeps the process alive; its result must still come.
  'wait for the result': async (model) => {
    void model
      .generate(PROMPT, { maxNewTokens: 30, ignoreEos: true })
      .then(({ tokens }) => say(`${tokens.length} tokens`));
    void training(model, () => undefined).catch(() => undefined);
    await model.dispose();
    say('disposed');
  },
  'wait for an engine': (model) => {
    const engine = new GenerationEngine(model, { maxRows: 1 });
    for (let i = 0; i < 2; i++)
      void engine.generate({ prompt: PROMPT, maxNewTokens: 30, ignoreEos: true }).then(() => say('generated'));
    void engine.drain().then(() => say('drained'));
    return Promise.resolve();
  },
  "leave an engine's stream unread": async (model) => {
    const stream = new GenerationEngine(model).stream({ prompt: PROMPT, ...ENDLESS });
    await stream.next();
    say('one piece');
  },
  'wait for texts with a format': (model) => {
    const options = { format: { choices: ['はい'] } };
    void model.generate('今日は', options).then(({ text }) => say(text));
    void new GenerationEngine(model).generate({ prompt: '今日は', ...options }).then(({ text }) => say(text));
    return Promise.resolve();
  },
  'leave a stream unread': async (model) => {
    const stream = model.stream(PROMPT, ENDLESS);
    await stream.next();
    say('one piece');
  },
};

void (async () => {
  const model = await NeoXModel.load(folder, { threads: 1 });
  say('loaded');
  await (WAYS[way] as (model: NeoXModel) => Promise<unknown>)(model);
  say('end');
})();
