import { mkdirSync, writeFileSync } from 'node:fs';
import * as api from '../../lib/index';
import type { NeoXModel, PrefixWeights } from '../../lib/index';
import { native } from '../../lib/addon/addon';
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
let model: NeoXModel;
let other: NeoXModel;
let prefix: PrefixWeights;

beforeAll(async () => {
  for (const name of ['model', 'other']) mkdirSync(folder.join(name));
  model = await loadModel(await writeRandomModel(folder.join('model')));
  other = await loadModel(await writeRandomModel(folder.join('other'), { num_hidden_layers: 3 }));
  prefix = randomPrefix(model, 4);
});
afterAll(async () => {
  await model.dispose();
  await other.dispose();
});

const LOAD: Refusal[] = [
  {
    name: 'a directory that is no string',
    act: () => api.NeoXModel.load(wrong(7)),
    text: 'Expected a non-empty string for directory but received 7 of type number',
  },
  {
    name: 'an empty directory',
    act: () => api.NeoXModel.load(''),
    text: "Expected a non-empty string for directory but received '' of type string",
  },
  {
    name: 'options that are no object',
    act: () => loadWith(wrong('cpu')),
    text: "Expected an object for options but received 'cpu' of type string",
  },
  {
    name: 'a misspelled option',
    act: () => loadWith(wrong({ dType: 'float32' })),
    text: "Unknown option 'dType' in options\nHint: did you mean 'dtype'?",
  },
  {
    name: 'an unknown option',
    act: () => loadWith(wrong({ quantization: 8 })),
    text: "Unknown option 'quantization' in options\nHint: known options: device, dtype, threads, backend, pack, arithmetic, tokenizer, formatSeconds, formatBytes, denseBias, generationConfig, baseModelName, signal, onProgress",
  },
  {
    name: 'an unknown dtype',
    act: () => loadWith(wrong({ dtype: 'int4' })),
    text: "Expected one of 'auto', 'float32', 'bfloat16', 'float16', 'int8' for dtype but received 'int4' of type string",
  },
  {
    name: 'an unknown device',
    act: () => loadWith({ device: 'gpu' }),
    text: "Expected one of 'cpu', 'cuda', 'cuda:0' for device but received 'gpu' of type string",
  },
  {
    name: 'a device that is no string',
    act: () => loadWith(wrong({ device: 0 })),
    text: 'Expected a non-empty string for device but received 0 of type number',
  },
  {
    name: 'no threads',
    act: () => loadWith({ threads: 0 }),
    text: 'Expected an integer between 1 and 1024 for threads but received 0 of type number',
  },
  {
    name: 'half a thread',
    act: () => loadWith({ threads: 1.5 }),
    text: 'Expected an integer between 1 and 1024 for threads but received 1.5 of type number',
  },
  {
    name: 'an unknown backend',
    act: () => loadWith(wrong({ backend: 'mkl' })),
    text: "Expected one of 'auto', 'aten', 'onednn', 'native' for backend but received 'mkl' of type string",
  },
  {
    name: 'an unknown packing',
    act: () => loadWith(wrong({ pack: true })),
    text: "Expected one of 'auto', 'both', 'forward', 'none' for pack but received true of type boolean",
  },
  {
    name: 'a signal that is none',
    act: () => loadWith(wrong({ signal: {} })),
    text: 'Expected an AbortSignal for signal but received an object of type object',
  },
  {
    name: 'a callback that is none',
    act: () => loadWith(wrong({ onProgress: 1 })),
    text: 'Expected a function for onProgress but received 1 of type number',
  },
];
const loadWith = (options: Parameters<typeof loadModel>[1]): Promise<NeoXModel> =>
  api.NeoXModel.load(folder.join('model'), options);

const FORWARD: Refusal[] = [
  {
    name: 'no options',
    act: () => model.forward(wrong(undefined)),
    text: 'Expected an object for options but received undefined of type undefined',
  },
  {
    name: 'a misspelled option',
    act: () => model.forward(wrong({ inputIDs: [[1]] })),
    text: "Unknown option 'inputIDs' in options\nHint: did you mean 'inputIds'?",
  },
  {
    name: 'no rows',
    act: () => model.forward(wrong({})),
    text: 'Expected a non-empty array of rows of token ids for inputIds but received undefined of type undefined',
  },
  {
    name: 'an empty batch',
    act: () => model.forward({ inputIds: [] }),
    text: 'Expected a non-empty array of rows of token ids for inputIds but received an array of 0 of type array',
  },
  {
    name: 'a flat row',
    act: () => model.forward(wrong({ inputIds: [1, 2] })),
    text: 'Expected an array of token ids for inputIds[0] but received 1 of type number',
  },
  {
    name: 'a row of text',
    act: () => model.forward(wrong({ inputIds: [[1], 'text'] })),
    text: "Expected an array of token ids for inputIds[1] but received 'text' of type string",
  },
  {
    name: 'an empty row',
    act: () => model.forward({ inputIds: [[1], []] }),
    text: 'Expected at least one token that is not padding for inputIds[1] but received an array of 0 of type array',
  },
  {
    name: 'an id beyond the vocabulary',
    act: () => model.forward({ inputIds: [[1, 64]] }),
    text: 'Expected a token id between 0 and 63 for inputIds[0][1] but received 64 of type number',
  },
  {
    name: 'a negative id',
    act: () => model.forward({ inputIds: [Int32Array.of(-1)] }),
    text: 'Expected a token id between 0 and 63 for inputIds[0][0] but received -1 of type number',
  },
  {
    name: 'a fraction of an id',
    act: () => model.forward({ inputIds: [[0.5]] }),
    text: 'Expected a token id between 0 and 63 for inputIds[0][0] but received 0.5 of type number',
  },
  {
    name: 'NaN as an id',
    act: () => model.forward({ inputIds: [[NaN]] }),
    text: 'Expected a token id between 0 and 63 for inputIds[0][0] but received NaN of type number',
  },
  {
    name: 'a mask of another batch',
    act: () => model.forward({ inputIds: [[1]], attentionMask: [[1], [1]] }),
    text: 'Expected an array of 1 rows, as inputIds has, for attentionMask but received an array of 2 of type array',
  },
  {
    name: 'a mask of another width',
    act: () => model.forward({ inputIds: [[1, 2]], attentionMask: [[1]] }),
    text: 'Expected 2 entries, as inputIds[0] has, for attentionMask[0] but received 1 of type number',
  },
  {
    name: 'a mask of other values',
    act: () => model.forward({ inputIds: [[1, 2]], attentionMask: [[1, 0.5]] }),
    text: 'Expected 0 or 1 for attentionMask[0][1] but received 0.5 of type number',
  },
  {
    name: 'a row of padding',
    act: () => model.forward({ inputIds: [[1, 2]], attentionMask: [[0, 0]] }),
    text: 'Expected at least one token that is not padding for inputIds[0] but received an array of 2 of type array',
  },
  {
    name: 'an unknown choice of logits',
    act: () => model.forward(wrong({ inputIds: [[1]], logits: 'first' })),
    text: "Expected one of 'all', 'last', 'none' for logits but received 'first' of type string",
  },
  {
    name: 'a prefix that is none',
    act: () => model.forward(wrong({ inputIds: [[1]], pastKeyValues: 'p.safetensors' })),
    text: "Expected PrefixWeights, an array of them, or a KVCache for pastKeyValues but received 'p.safetensors' of type string",
  },
  {
    name: 'too few prefixes',
    act: () => model.forward({ inputIds: [[1], [2]], pastKeyValues: [prefix] }),
    text: 'Expected one prefix for each of the 2 rows for pastKeyValues but received an array of 1 of type array',
  },
  {
    name: 'a cache of another model',
    act: async () =>
      model.forward({ inputIds: [[1]], pastKeyValues: (await other.forward({ inputIds: [[1]] })).pastKeyValues }),
    text: 'Expected a KV cache of this model for pastKeyValues but received a KVCache of type object',
  },
  {
    name: 'a cache of another batch',
    act: async () =>
      model.forward({ inputIds: [[1], [2]], pastKeyValues: (await model.forward({ inputIds: [[1]] })).pastKeyValues }),
    text: 'Expected a KV cache of 2 rows for pastKeyValues but received 1 of type number',
  },
  {
    name: 'a row that is too long',
    act: () => model.forward({ inputIds: [[1], new Array<number>(257).fill(1)] }),
    code: 'NEOX_TOO_LONG',
    text: 'Row 1 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a row that is too long with its prefix',
    act: () => model.forward({ inputIds: [new Array<number>(253).fill(1)], pastKeyValues: prefix }),
    code: 'NEOX_TOO_LONG',
    text: 'Row 0 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a row that is too long with its cache',
    act: async () =>
      model.forward({
        inputIds: [[1, 2]],
        pastKeyValues: (await model.forward({ inputIds: [new Array<number>(251).fill(1)], pastKeyValues: prefix }))
          .pastKeyValues,
      }),
    code: 'NEOX_TOO_LONG',
    text: 'Row 0 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a row of a cache that has no such',
    act: async () => (await model.forward({ inputIds: [[1]] })).pastKeyValues.read(1),
    text: 'Expected an integer between 0 and 0 for row but received 1 of type number',
  },
];

const GENERATE: Refusal[] = [
  {
    name: 'a prompt that is none',
    act: () => model.generate(wrong(5)),
    text: 'Expected a string, token ids, or an array of them for prompt but received 5 of type number',
  },
  {
    name: 'no prompt',
    act: () => model.generate(wrong(undefined)),
    text: 'Expected a string, token ids, or an array of them for prompt but received undefined of type undefined',
  },
  {
    name: 'a prompt of a batch that is none',
    act: () => model.generate(wrong([[1], null])),
    text: 'Expected a string or token ids for prompt[1] but received null of type null',
  },
  {
    name: 'an id beyond the vocabulary',
    act: () => model.generate([[1], [99]]),
    text: 'Expected a token id between 0 and 63 for prompt[1][0] but received 99 of type number',
  },
  {
    name: 'options that are none',
    act: () => model.generate([1], wrong(null)),
    text: 'Expected an object for options but received null of type null',
  },
  {
    name: 'a misspelled option',
    act: () => model.generate([1], wrong({ max_new_tokens: 5 })),
    text: "Unknown option 'max_new_tokens' in options\nHint: did you mean 'maxNewTokens'?",
  },
  {
    name: 'a negative temperature',
    act: () => model.generate([1], { temperature: -1 }),
    text: 'Expected a finite number of at least 0 and at most 10000 for temperature but received -1 of type number',
  },
  {
    name: 'a temperature that is not a number',
    act: () => model.generate([1], { temperature: NaN }),
    text: 'Expected a finite number of at least 0 and at most 10000 for temperature but received NaN of type number',
  },
  {
    name: 'a temperature in words',
    act: () => model.generate([1], wrong({ temperature: '1' })),
    text: "Expected a finite number of at least 0 and at most 10000 for temperature but received '1' of type string",
  },
  {
    name: 'topP 0',
    act: () => model.generate([1], { topP: 0 }),
    text: 'Expected a finite number above 0 and at most 1 for topP but received 0 of type number',
  },
  {
    name: 'topP above 1',
    act: () => model.generate([1], { topP: 1.1 }),
    text: 'Expected a finite number above 0 and at most 1 for topP but received 1.1 of type number',
  },
  {
    name: 'a negative topK',
    act: () => model.generate([1], { topK: -1 }),
    text: 'Expected an integer of at least 0 for topK but received -1 of type number',
  },
  {
    name: 'NaN new tokens',
    act: () => model.generate([1], { maxNewTokens: NaN }),
    text: 'Expected an integer of at least 0 for maxNewTokens but received NaN of type number',
  },
  {
    name: 'ignoreEos in words',
    act: () => model.generate([1], wrong({ ignoreEos: 'no' })),
    text: "Expected a boolean for ignoreEos but received 'no' of type string",
  },
  {
    name: 'a negative seed',
    act: () => model.generate([1], { seed: -1 }),
    text: 'Expected an integer from 0 to 2^53 - 1, or an array with one for each prompt, for seed but received -1 of type number',
  },
  {
    name: 'a seed that is no exact integer',
    act: () => model.generate([1], { seed: 2 ** 53 }),
    text: 'Expected an integer from 0 to 2^53 - 1, or an array with one for each prompt, for seed but received 9007199254740992 of type number',
  },
  {
    name: 'too many seeds',
    act: () => model.generate([1], { seed: [1, 2] }),
    text: 'Expected one seed for each of the 1 prompts for seed but received an array of 2 of type array',
  },
  {
    name: 'a bad seed among others',
    act: () => model.generate([[1], [2]], { seed: [1, 0.5] }),
    text: 'Expected an integer from 0 to 2^53 - 1 for seed[1] but received 0.5 of type number',
  },
  {
    name: 'a prefix by its path',
    act: () => model.generate([1], wrong({ prefix: 'p' })),
    text: "Expected PrefixWeights, or an array of them, for prefix but received 'p' of type string",
  },
  {
    name: 'a bad prefix among others',
    act: () => model.generate([[1], [2]], wrong({ prefix: [undefined, {}] })),
    text: 'Expected PrefixWeights or undefined for prefix[1] but received an object of type object',
  },
  {
    name: 'a prompt that is too long',
    act: () => model.generate(new Array<number>(257).fill(1)),
    code: 'NEOX_TOO_LONG',
    text: 'Prompt 0 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a text, with a model that has no tokenizer',
    act: () => model.generate('text'),
    code: 'NEOX_FILE_NOT_FOUND',
    text: () => failureMessage(() => model.tokenizer),
  },
  {
    name: 'stream: a misspelled option',
    act: () => model.stream([1], wrong({ topp: 1 })),
    text: "Unknown option 'topp' in options\nHint: did you mean 'topP'?",
  },
  {
    name: 'stream: several prompts',
    act: () => model.stream(wrong([[1], [2]])),
    text: 'Expected a string or token ids for prompt but received an array of 2 of type array',
  },
  {
    name: 'stream: a signal that is none',
    act: () => model.stream([1], wrong({ signal: 5 })),
    text: 'Expected an AbortSignal for signal but received 5 of type number',
  },
  {
    name: 'stream: options that are none',
    act: () => model.stream([1], wrong(null)),
    text: 'Expected an object for options but received null of type null',
  },
  {
    name: 'stream: a prompt that is too long',
    act: () => model.stream(new Array<number>(257).fill(1)),
    code: 'NEOX_TOO_LONG',
    text: 'Prompt 0 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  ...(['topK', 'temperature', 'maxNewTokens', 'ignoreEos', 'seed', 'prefix', 'signal'] as const).map((option) => ({
    name: `null for ${option}`,
    act: () => model.generate([1], wrong({ [option]: null })),
    text: `Expected a value for ${option} but received null of type null\nHint: leave it out, or give undefined, for its default`,
  })),
  {
    name: 'null for a row without a prefix',
    act: () => model.generate([[1], [2]], wrong({ prefix: [prefix, null] })),
    text: 'Expected PrefixWeights or undefined for prefix[1] but received null of type null',
  },
];

function failureMessage(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return 'there was no error';
}

describe.each([
  { method: 'NeoXModel.load', refusals: LOAD },
  { method: 'forward', refusals: FORWARD },
  { method: 'generate and stream', refusals: GENERATE },
])('$method refuses', ({ refusals }) => {
  test.each(refusals)('$name', expectRefusal);
});

test('a device that is not there', async () => {
  if (native().systemInfo().cudaAvailable) return expectLoads();
  return expectRefusal({
    name: 'cuda',
    act: () => loadWith({ device: 'cuda:0' }),
    code: 'NEOX_UNSUPPORTED',
    text: "The device cuda:0 is not available: this libtorch sees no CUDA\nHint: use device: 'cpu', or a CUDA build of libtorch; `neox-prefix doctor` tells what was found",
  });
});
async function expectLoads(): Promise<void> {
  await using loaded = await loadWith({ device: 'cuda:0' });
  expect(loaded.info().device).toBe('cuda:0');
}

test('what a caller changes after the call changes nothing', async () => {
  const ids = Int32Array.of(1, 2, 3);
  const row = [...ids];
  const expected = await model.forward({ inputIds: [row] });
  const work = model.forward({ inputIds: [ids], pastKeyValues: [undefined] });
  ids.fill(1000);
  expect((await work).logits?.data).toEqual(expected.logits?.data);
  const prompt = Int32Array.from(row);
  const options = { temperature: 0, maxNewTokens: 5 };
  const text = model.generate(prompt, { ...options, prefix });
  prompt.fill(1000);
  expect(await text).toEqual(await model.generate(row, { ...options, prefix }));
});

test('a folder that is not there, and one that holds no model', async () => {
  expect(await failureOf(api.NeoXModel.load(folder.join('nowhere')))).toMatchObject({
    name: 'NeoXPrefixError',
    code: 'NEOX_FILE_NOT_FOUND',
    message: expect.stringContaining(folder.join('nowhere')) as string,
  });
  mkdirSync(folder.join('empty'));
  expect(await failureOf(api.NeoXModel.load(folder.join('empty')))).toMatchObject({
    code: 'NEOX_FILE_NOT_FOUND',
    message: expect.stringContaining('config.json') as string,
  });
  writeFileSync(folder.join('empty', 'config.json'), '{"model_type": "llama"}');
  expect(await failureOf(api.NeoXModel.load(folder.join('empty')))).toMatchObject({ code: 'NEOX_UNSUPPORTED' });
});

test('no prompts give no results', async () => {
  expect(await model.generate([])).toEqual([]);
  expect(await model.generate(new Int32Array(0), { maxNewTokens: 1, ignoreEos: true })).toMatchObject({
    usage: { promptTokens: 1 },
  });
});
