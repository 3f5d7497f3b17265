import type { GenerateOptions } from '../../lib/generation/request';
import type { NeoXModel } from '../../lib/neox-model';
import {
  expectRefusal,
  loadModel,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
  wrong,
  type Refusal,
} from '../helpers';

const folder = temporaryFolder();
let model: NeoXModel;

beforeAll(async () => {
  model = await loadModel(await writeRandomModel(folder.path));
});
afterAll(() => model.dispose());

/** An option of generate, and what is said of it. */
const option = (name: string, options: Record<string, unknown>, text: string): Refusal => ({
  name,
  act: () => model.generate([1], wrong(options)),
  text,
});
const beams = (name: string, options: GenerateOptions): Refusal =>
  option(
    `${name} with beams`,
    { ...options, numBeams: 4 },
    `${name} and numBeams: 4 do not go together\nHint: a beam search does not sample`,
  );

const NUMBERS: Refusal[] = [
  option(
    'half a token',
    { minNewTokens: 0.5 },
    'Expected an integer of at least 0 for minNewTokens but received 0.5 of type number',
  ),
  option(
    'more tokens than there may be',
    { minNewTokens: 9, maxNewTokens: 8 },
    'minNewTokens (9) is larger than maxNewTokens (8)',
  ),
  option(
    'minP above 1',
    { minP: 2 },
    'Expected a finite number of at least 0 and at most 1 for minP but received 2 of type number',
  ),
  option(
    'typicalP 0',
    { typicalP: 0 },
    'Expected a finite number above 0 and at most 1 for typicalP but received 0 of type number',
  ),
  option(
    'an unknown rule',
    { topPRule: 'openai' },
    "Expected one of 'huggingface', 'rinna' for topPRule but received 'openai' of type string",
  ),
  option(
    'a penalty of 0',
    { repetitionPenalty: 0 },
    'Expected a finite number above 0 and at most 10000 for repetitionPenalty but received 0 of type number',
  ),
  option(
    'an endless penalty',
    { presencePenalty: Infinity },
    'Expected a finite number of at least -10000 and at most 10000 for presencePenalty but received Infinity of type number',
  ),
  option(
    'a penalty in words',
    { frequencyPenalty: 'a little' },
    "Expected a finite number of at least -10000 and at most 10000 for frequencyPenalty but received 'a little' of type string",
  ),
  option(
    'n-grams of -1',
    { noRepeatNgramSize: -1 },
    'Expected an integer of at least 0 for noRepeatNgramSize but received -1 of type number',
  ),
  option(
    'too many alternatives',
    { logprobs: 101 },
    'Expected an integer between 0 and 100 for logprobs but received 101 of type number',
  ),
  option(
    'alternatives by yes',
    { promptLogprobs: true },
    'Expected an integer between 0 and 100 for promptLogprobs but received true of type boolean',
  ),
  option('no text at all', { n: 0 }, 'Expected an integer between 1 and 1024 for n but received 0 of type number'),
];

const TOKENS: Refusal[] = [
  option(
    'a bias that is no map',
    { logitBias: [[5, 1]] },
    'Expected a map from token ids to numbers for logitBias but received an array of 1 of type array',
  ),
  option(
    'a bias of a word',
    { logitBias: { dog: 1 } },
    "Expected token ids between 0 and 63 as keys for logitBias but received 'dog' of type string",
  ),
  option(
    'a bias of a token that there is not',
    { logitBias: new Map([[64, 1]]) },
    'Expected token ids between 0 and 63 as keys for logitBias but received 64 of type number',
  ),
  option(
    'an endless bias',
    { logitBias: { 5: Infinity } },
    'Expected a finite number or -Infinity for logitBias[5] but received Infinity of type number',
  ),
  option(
    'a bias that float32 cannot hold',
    { logitBias: { 5: 1e39 } },
    'Expected a finite number or -Infinity for logitBias[5] but received 1e+39 of type number',
  ),
  option(
    'one word',
    { badWords: 'dog' },
    "Expected an array of strings and of token ids for badWords but received 'dog' of type string",
  ),
  option(
    'a flat word',
    { badWords: [5, 6] },
    'Expected an array of strings and of token ids for badWords but received an array of 2 of type array',
  ),
  option(
    'a word without tokens',
    { badWords: [[5], []] },
    'Expected a non-empty string or token ids for badWords[1] but received an array of 0 of type array',
  ),
  option(
    'an empty word',
    { badWords: [''] },
    "Expected a non-empty string or token ids for badWords[0] but received '' of type string",
  ),
  option(
    'a word of tokens that there are not',
    { badWords: [[5, 64]] },
    'Expected a token id between 0 and 63 for badWords[0][1] but received 64 of type number',
  ),
  option(
    'an end that is no list',
    { eosTokenIds: 3 },
    'Expected token ids for eosTokenIds but received 3 of type number',
  ),
  option(
    'an end that there is not',
    { eosTokenIds: [64] },
    'Expected a token id between 0 and 63 for eosTokenIds[0] but received 64 of type number',
  ),
  option(
    'an end that is ignored',
    { eosTokenIds: [3], ignoreEos: true },
    'ignoreEos: true and eosTokenIds contradict each other\nHint: give one of them',
  ),
  option('an empty stop string', { stop: '' }, "Expected a non-empty string for stop but received '' of type string"),
  option('a stop token', { stop: ['a', 5] }, 'Expected a non-empty string for stop[1] but received 5 of type number'),
];

const BEAMS: Refusal[] = [
  option(
    'too many beams',
    { numBeams: 257 },
    'Expected an integer between 1 and 256 for numBeams but received 257 of type number',
  ),
  option(
    'a length penalty without beams',
    { lengthPenalty: 2 },
    'lengthPenalty is an option of beam search\nHint: set numBeams above 1',
  ),
  option(
    'early stopping without beams',
    { earlyStopping: true },
    'earlyStopping is an option of beam search\nHint: set numBeams above 1',
  ),
  option(
    'sequences without beams',
    { numReturnSequences: 3 },
    'numReturnSequences is an option of beam search\nHint: set numBeams above 1, or sample n texts',
  ),
  option(
    'more sequences than beams',
    { numBeams: 2, numReturnSequences: 3 },
    'Expected an integer between 1 and 2 for numReturnSequences but received 3 of type number',
  ),
  option(
    'another end',
    { numBeams: 2, earlyStopping: 'soon' },
    "Expected true, false or 'never' for earlyStopping but received 'soon' of type string",
  ),
  option(
    'a temperature with beams',
    { numBeams: 4, temperature: 0.7 },
    'temperature and numBeams: 4 do not go together\nHint: leave temperature out: a beam search does not sample',
  ),
  beams('topK', { topK: 5 }),
  beams('topP', { topP: 0.5 }),
  beams('topPRule', { topPRule: 'rinna' }),
  beams('minP', { minP: 0.1 }),
  beams('typicalP', { typicalP: 0.1 }),
  beams('seed', { seed: 1 }),
  beams('n', { n: 2 }),
  beams('stop', { stop: 'a' }),
  beams('logprobs', { logprobs: 1 }),
  beams('promptLogprobs', { promptLogprobs: 1 }),
  {
    name: 'beams in a stream',
    act: () => model.stream([1], wrong({ numBeams: 2 })).next(),
    text: /^Unknown option 'numBeams' in options\nHint: /,
  },
  {
    name: 'several texts in a stream',
    act: () => model.stream([1], wrong({ n: 2 })).next(),
    text: /^Unknown option 'n' in options\nHint: /,
  },
];

const SCORES: Refusal[] = [
  {
    name: 'one continuation',
    act: () => model.score([1], wrong('text')),
    text: "Expected an array of strings or of token ids for continuations but received 'text' of type string",
  },
  {
    name: 'a continuation that is none',
    act: () => model.score([1], wrong([[1], 5])),
    text: 'Expected a string or token ids for continuations[1] but received 5 of type number',
  },
  {
    name: 'an empty continuation',
    act: () => model.score([1], [[]]),
    text: 'Expected at least one token for continuations[0]',
  },
  {
    name: 'a continuation that is too long',
    act: () => model.score([1, 2], [new Array<number>(256).fill(1)]),
    code: 'NEOX_TOO_LONG',
    text: 'Prompt and continuation 0 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a prefix by its path',
    act: () => model.score([1], [[2]], wrong({ prefix: 'p' })),
    text: "Expected PrefixWeights for prefix but received 'p' of type string",
  },
  {
    name: 'a misspelled option of a score',
    act: () => model.score([1], [[2]], wrong({ prefixes: [] })),
    text: "Unknown option 'prefixes' in options\nHint: did you mean 'prefix'?",
  },
  {
    name: 'a window of one token',
    act: () => model.perplexity([1, 2, 3], { window: 1 }),
    text: 'Expected an integer of at least 2 for window but received 1 of type number',
  },
  {
    name: 'a window that does not fit behind the prefix',
    act: () => model.perplexity([1, 2, 3], { window: 253, prefix: randomPrefix(model, 4) }),
    code: 'NEOX_TOO_LONG',
    text: 'The window needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
  {
    name: 'a stride longer than its window',
    act: () => model.perplexity([1, 2, 3], { window: 2, stride: 3 }),
    text: 'Expected an integer between 1 and 2 for stride but received 3 of type number',
  },
  {
    name: 'a text of one token',
    act: () => model.perplexity([1]),
    text: 'Expected at least two tokens for text: the first one is not scored',
  },
  {
    name: 'one text to embed',
    act: () => model.embed(wrong('text')),
    text: "Expected an array of strings or of token ids for texts but received 'text' of type string",
  },
  {
    name: 'an unknown pooling',
    act: () => model.embed([[1]], wrong({ pooling: 'max' })),
    text: "Expected one of 'last', 'mean' for pooling but received 'max' of type string",
  },
  {
    name: 'a layer that there is not',
    act: () => model.embed([[1]], { layer: 3 }),
    text: 'Expected an integer between -3 and 2 for layer but received 3 of type number',
  },
  {
    name: 'a text that is too long',
    act: () => model.embed([[1], new Array<number>(257).fill(1)]),
    code: 'NEOX_TOO_LONG',
    text: 'Text 1 needs 257 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
  },
];

const SAMPLERS: Refusal[] = [
  {
    name: 'maxNewTokens of a sampler',
    act: () => model.createSampler(wrong({ maxNewTokens: 5 })),
    text: "Unknown option 'maxNewTokens' in options\nHint: did you mean 'minNewTokens'?",
  },
  {
    name: 'a prompt in words',
    act: () => model.createSampler({}, wrong('text')),
    text: "Expected token ids for prompt but received 'text' of type string",
  },
  {
    name: 'logits of another vocabulary',
    act: () => model.createSampler().next(new Float32Array(63)),
    text: 'Expected a Float32Array of 64 numbers for logits but received a Float32Array of type object',
  },
  {
    name: 'logits in an array',
    act: () => model.createSampler().probabilities(wrong(new Array<number>(64).fill(0))),
    text: 'Expected a Float32Array of 64 numbers for logits but received an array of 64 of type array',
  },
  {
    name: 'a token that there is not',
    act: () => model.createSampler().push(64),
    text: 'Expected a token id between 0 and 63 for token[0] but received 64 of type number',
  },
];

describe.each([
  { what: 'numbers', refusals: NUMBERS },
  { what: 'tokens', refusals: TOKENS },
  { what: 'beams', refusals: BEAMS },
  { what: 'scores and embeddings', refusals: SCORES },
  { what: 'samplers', refusals: SAMPLERS },
])('refused $what', ({ refusals }) => {
  test.each(refusals)('$name', expectRefusal);
});

test('a stop string needs a tokenizer', async () => {
  await expect(model.generate([1], { stop: 'a' })).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
});

test('nothing to do gives nothing', async () => {
  expect(await model.score([1], [])).toEqual([]);
  expect(await model.embed([])).toEqual([]);
  expect(await model.generate([], { numBeams: 2 })).toEqual([]);
  expect(await model.generate([1], { numBeams: 2, maxNewTokens: 0 })).toMatchObject({
    tokens: [],
    finishReason: 'length',
  });
  expect(await model.generate([1], { n: 2, maxNewTokens: 0 })).toMatchObject({
    completions: [{ tokens: [] }, { tokens: [] }],
  });
});
