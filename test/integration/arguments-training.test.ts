import { mkdirSync } from 'node:fs';
import * as api from '../../lib/index';
import type { NeoXModel, PrefixEncoder, PrefixWeights } from '../../lib/index';
import { native } from '../../lib/addon/addon';
import type * as Native from '../../types/native';
import {
  expectRefusal,
  failureOf,
  loadModel,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
  wrong,
  type Refusal,
} from '../helpers';

const folder = temporaryFolder();
const samples = [{ completion: [5, 6] }];
let model: NeoXModel;
let other: NeoXModel;
let prefix: PrefixWeights;
let encoder: PrefixEncoder;

beforeAll(async () => {
  for (const name of ['model', 'other', 'no-end']) mkdirSync(folder.join(name));
  model = await loadModel(await writeRandomModel(folder.join('model')));
  other = await loadModel(await writeRandomModel(folder.join('other'), { num_hidden_layers: 3 }));
  prefix = randomPrefix(model, 4);
  encoder = await api.PrefixEncoder.create(model, { prefixLength: 4, init: 'random' });
});
afterAll(async () => {
  await model.dispose();
  await other.dispose();
});

const PREFIXES: Refusal[] = [
  {
    name: 'a prefix of another shape',
    act: () => model.generate([1], { prefix: randomPrefix(other, 4) }),
    code: 'NEOX_PREFIX_MISMATCH',
    text: 'The prefix (tensor) does not fit the model: its shape is [4, 3, 2, 2, 16] (positions, layers, 2, heads, head size), the model takes [4, 2, 2, 2, 16]\nHint: use the base model that the prefix was trained on',
  },
  {
    name: 'a prefix of another shape, in a forward pass',
    act: () => other.forward({ inputIds: [[1], [2]], pastKeyValues: [undefined, prefix] }),
    code: 'NEOX_PREFIX_MISMATCH',
    text: 'The prefix (tensor) does not fit the model: its shape is [4, 2, 2, 2, 16] (positions, layers, 2, heads, head size), the model takes [4, 3, 2, 2, 16]\nHint: use the base model that the prefix was trained on',
  },
  {
    name: 'a prefix of another shape, in an evaluation',
    act: () => api.evaluate(other, samples, { prefix }),
    code: 'NEOX_PREFIX_MISMATCH',
    text: 'The prefix (tensor) does not fit the model: its shape is [4, 2, 2, 2, 16] (positions, layers, 2, heads, head size), the model takes [4, 3, 2, 2, 16]\nHint: use the base model that the prefix was trained on',
  },
  {
    name: 'a prefix of another model of this shape',
    act: () =>
      model.generate([1], {
        prefix: prefix.withMetadata({ task: 'smile', baseModel: { fingerprint: 'feed', name: 'old' } }),
      }),
    code: 'NEOX_PREFIX_MISMATCH',
    text: () =>
      `The prefix 'smile' (tensor) was trained on another base model: its fingerprint is feed (old), this model's is ${model.fingerprint}\n` +
      'Hint: load the model it was trained on; if this is the same model in another precision, load the prefix with allowFingerprintMismatch: true',
  },
  {
    name: 'an encoder state without its tensors',
    act: () => api.PrefixEncoder.fromState(model, {}),
    text: "Expected tensors prefix_wte.weight, prefix_mlp.0.weight, prefix_mlp.0.bias, prefix_mlp.2.weight, prefix_mlp.2.bias, or the first alone, for state but received '' of type string",
  },
  {
    name: 'an encoder state of another model',
    act: async () => api.PrefixEncoder.fromState(other, await encoder.state()),
    code: 'NEOX_PREFIX_MISMATCH',
    text: 'The encoder tensor prefix_mlp.2.weight has shape [128, 10], the model takes [192, 10]',
  },
  {
    name: 'an encoder state: a misspelled option',
    act: async () => api.PrefixEncoder.fromState(model, await encoder.state(), wrong({ dropOut: 0 })),
    text: "Unknown option 'dropOut' in options\nHint: did you mean 'dropout'?",
  },
  {
    name: 'an encoder: a misspelled option',
    act: () => api.PrefixEncoder.create(model, wrong({ prefixLenght: 3 })),
    text: "Unknown option 'prefixLenght' in options\nHint: did you mean 'prefixLength'?",
  },
  {
    name: 'an encoder without positions',
    act: () => api.PrefixEncoder.create(model, { prefixLength: 0 }),
    text: 'Expected an integer of at least 1 for prefixLength but received 0 of type number',
  },
  {
    name: 'an encoder longer than the model',
    act: () => api.PrefixEncoder.create(model, { prefixLength: 256 }),
    text: 'Expected an integer between 1 and 255 for prefixLength but received 256 of type number',
  },
  {
    name: 'an encoder of NaN width',
    act: () => api.PrefixEncoder.create(model, { inputDim: NaN }),
    text: 'Expected an integer between 1 and 65536 for inputDim but received NaN of type number',
  },
  {
    name: 'an encoder of no width',
    act: () => api.PrefixEncoder.create(model, { hiddenDim: 0 }),
    text: 'Expected an integer between 1 and 65536 for hiddenDim but received 0 of type number',
  },
  {
    name: 'full dropout',
    act: () => api.PrefixEncoder.create(model, { dropout: 1 }),
    text: 'Expected a finite number of at least 0 and at most 0.99 for dropout but received 1 of type number',
  },
  {
    name: 'an unknown initialisation',
    act: () => api.PrefixEncoder.create(model, wrong({ init: 'ones' })),
    text: "Expected one of 'tokens', 'text', 'random', 'zero' for init but received 'ones' of type string",
  },
  {
    name: "init 'text' without a text",
    act: () => api.PrefixEncoder.create(model, { init: 'text' }),
    text: "Expected a text exactly when init is 'text', for initText but received undefined of type undefined",
  },
  {
    name: 'a text for another init',
    act: () => api.PrefixEncoder.create(model, { initText: 'x' }),
    text: "Expected a text exactly when init is 'text', for initText but received 'x' of type string",
  },
  {
    name: 'a negative number of steps',
    act: () => api.PrefixEncoder.create(model, { initSteps: -1 }),
    text: 'Expected an integer of at least 0 for initSteps but received -1 of type number',
  },
  {
    name: 'an infinite learning rate',
    act: () => api.PrefixEncoder.create(model, { initLearningRate: Infinity }),
    text: 'Expected a finite number of at least 0 for initLearningRate but received Infinity of type number',
  },
  {
    name: 'an encoder of no model',
    act: () => api.PrefixEncoder.create(wrong({})),
    text: 'Expected a NeoXModel for model but received an object of type object',
  },
];

const TRAINING: Refusal[] = [
  {
    name: 'no model',
    act: () => new api.PrefixTrainer(wrong({})),
    text: 'Expected a NeoXModel for model but received an object of type object',
  },
  {
    name: 'a misspelled option',
    act: () => new api.PrefixTrainer(model, wrong({ learningrate: 1 })),
    text: "Unknown option 'learningrate' in options\nHint: did you mean 'learningRate'?",
  },
  {
    name: 'no epochs',
    act: () => new api.PrefixTrainer(model, { epochs: 0 }),
    text: 'Expected an integer of at least 1 for epochs but received 0 of type number',
  },
  {
    name: 'a NaN learning rate',
    act: () => new api.PrefixTrainer(model, { learningRate: NaN }),
    text: 'Expected a finite number of at least 0 for learningRate but received NaN of type number',
  },
  {
    name: 'an empty name',
    act: () => new api.PrefixTrainer(model, { name: '' }),
    text: "Expected a non-empty string for name but received '' of type string",
  },
  {
    name: 'an encoder that is none',
    act: () => new api.PrefixTrainer(model, wrong({ encoder: {} })),
    text: 'Expected a PrefixEncoder of this model for encoder but received an object of type object',
  },
  {
    name: 'an encoder of another model',
    act: () => new api.PrefixTrainer(other, { encoder }),
    text: 'Expected a PrefixEncoder of this model for encoder but received a PrefixEncoder of type object',
  },
  {
    name: 'a length beside an encoder',
    act: () => new api.PrefixTrainer(model, { encoder, prefixLength: 4 }),
    text: 'Expected nothing beside encoder, which decides it, for prefixLength but received 4 of type number',
  },
  {
    name: 'a folder that is none',
    act: () => new api.PrefixTrainer(model, wrong({ outputDir: 5 })),
    text: 'Expected a non-empty string for outputDir but received 5 of type number',
  },
  {
    name: 'train: no data',
    act: () => train(wrong(undefined)),
    text: 'Expected an object for data but received undefined of type undefined',
  },
  {
    name: 'train: a misspelled option',
    act: () => train({ train: samples }, wrong({ onevent: 1 })),
    text: "Unknown option 'onevent' in options\nHint: did you mean 'onEvent'?",
  },
  {
    name: 'train: a misspelled part',
    act: () => train(wrong({ train: samples, validate: [] })),
    text: "Unknown option 'validate' in data\nHint: known options: train, validation",
  },
  {
    name: 'train: samples that are none',
    act: () => train(wrong({ train: 'a.jsonl' })),
    text: "Expected an array of { prompt?, completion } for data.train but received 'a.jsonl' of type string",
  },
  {
    name: 'train: no samples',
    act: () => train({ train: [] }),
    code: 'NEOX_BAD_DATA',
    text: 'There is no sample to train on',
  },
  {
    name: 'train: a sample that is none',
    act: () => train(wrong({ train: ['text'] })),
    text: "Expected an object with a completion for data.train[0] but received 'text' of type string",
  },
  {
    name: 'train: a sample without its completion',
    act: () => train(wrong({ train: [{ prompt: [1] }] })),
    text: 'Expected a string or token ids for data.train[0].completion but received undefined of type undefined',
  },
  {
    name: 'train: an empty completion',
    act: () => train({ train: [{ completion: [] }] }),
    code: 'NEOX_BAD_DATA',
    text: 'data.train[0].completion has no tokens',
  },
  {
    name: 'train: an id beyond the vocabulary',
    act: () => train({ train: [samples[0] as api.Sample, { completion: [64] }] }),
    code: 'NEOX_BAD_DATA',
    text: "train sample 1 has the token id 64, and the model's ids end at 63",
  },
  {
    name: 'train: a callback that is none',
    act: () => train({ train: samples }, wrong({ onEvent: 'log' })),
    text: "Expected a function for onEvent but received 'log' of type string",
  },
  {
    name: 'train: a signal that is none',
    act: () => train({ train: samples }, wrong({ signal: true })),
    text: 'Expected an AbortSignal for signal but received true of type boolean',
  },
  {
    name: 'train: a sample that is too long',
    act: () => train({ train: samples, validation: [{ completion: new Array<number>(250).fill(1) }] }),
    code: 'NEOX_TOO_LONG',
    text: 'validation sample 0 needs 261 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'evaluate: no model',
    act: () => api.evaluate(wrong({}), samples),
    text: 'Expected a NeoXModel for model but received an object of type object',
  },
  {
    name: 'evaluate: no samples',
    act: () => api.evaluate(model, []),
    code: 'NEOX_BAD_DATA',
    text: 'There is no sample to evaluate',
  },
  {
    name: 'evaluate: samples that are none',
    act: () => api.evaluate(model, wrong(5)),
    text: 'Expected an array of { prompt?, completion } for samples but received 5 of type number',
  },
  {
    name: 'evaluate: a misspelled option',
    act: () => api.evaluate(model, samples, wrong({ batchsize: 4 })),
    text: "Unknown option 'batchsize' in options\nHint: did you mean 'batchSize'?",
  },
  {
    name: 'evaluate: a prefix that is none',
    act: () => api.evaluate(model, samples, wrong({ prefix: 'p' })),
    text: "Expected PrefixWeights for prefix but received 'p' of type string",
  },
  {
    name: 'evaluate: no batch size',
    act: () => api.evaluate(model, samples, { batchSize: 0 }),
    text: 'Expected an integer of at least 1 for batchSize but received 0 of type number',
  },
  {
    name: 'evaluate: twoRows in words',
    act: () => api.evaluate(model, samples, wrong({ twoRows: 'yes' })),
    text: "Expected a boolean for twoRows but received 'yes' of type string",
  },
  {
    name: 'evaluate: a callback that is none',
    act: () => api.evaluate(model, samples, wrong({ onProgress: 1 })),
    text: 'Expected a function for onProgress but received 1 of type number',
  },
];
const train = (data: api.TrainingData, options?: api.TrainOptions): Promise<unknown> =>
  new api.PrefixTrainer(model).train(data, options);

describe.each([
  { method: 'prefixes and encoders', refusals: PREFIXES },
  { method: 'training and evaluation', refusals: TRAINING },
])('$method: what is refused', ({ refusals }) => {
  test.each(refusals)('$name', expectRefusal);
});

test('a model without an end token cannot be trained, and says what to do', async () => {
  const path = await writeRandomModel(folder.join('no-end'), { bos_token_id: null, eos_token_id: null });
  await using endless = await loadModel(path);
  await expectRefusal({
    name: '',
    act: () => new api.PrefixTrainer(endless).train({ train: samples }),
    code: 'NEOX_BAD_CONFIG',
    text: 'The model has no bos_token_id or eos_token_id, and training rows begin and end with them\nHint: add both to config.json',
  });
});

describe('the addon refuses a wrong handle', () => {
  const addon = native();
  const refusal = (action: () => unknown): Promise<unknown> => failureOf(action);
  const invalid = (name: string): object => ({ code: 'NEOX_BAD_ARGUMENT', message: `Invalid ${name} handle` });

  test.each([undefined, null, {}, 5, 'model', []])('%p as a model', async (value) => {
    for (const use of [
      addon.modelInfo,
      addon.disposeModel,
      addon.forward,
      addon.score,
      addon.createPrefix,
      addon.readCache,
    ]) {
      expect(await refusal(() => (use as (...values: unknown[]) => unknown)(value, {}))).toMatchObject(
        invalid('model'),
      );
    }
    expect(await refusal(() => addon.encoderState(model.native, wrong(value)))).toMatchObject(invalid('encoder'));
  });

  test('a handle of another type', async () => {
    const flag = addon.createCancelFlag();
    expect(await refusal(() => addon.modelInfo(wrong(flag)))).toMatchObject(invalid('model'));
    expect(await refusal(() => addon.cancel(wrong(model.native)))).toMatchObject(invalid('cancel'));
    expect(await refusal(() => addon.cacheLengths(wrong(flag)))).toMatchObject(invalid('cache'));
    expect(await refusal(() => addon.encoderOutput(model.native, wrong(model.native)))).toMatchObject(
      invalid('encoder'),
    );
    expect(
      await refusal(() => addon.trainerStep(model.native, wrong(encoder.native), { learningRate: 1, gradClip: 1 })),
    ).toMatchObject(invalid('trainer'));
    const options: Native.ForwardOptions = {
      tokens: Int32Array.of(1),
      lengths: Int32Array.of(1),
      prefixes: [wrong(flag)],
      logits: 'all',
    };
    expect(await refusal(() => addon.forward(model.native, options))).toMatchObject(invalid('prefix'));
    expect(
      await refusal(() => addon.forward(model.native, { ...options, prefixes: [null], cancel: wrong(model.native) })),
    ).toMatchObject(invalid('cancel'));
  });
});
