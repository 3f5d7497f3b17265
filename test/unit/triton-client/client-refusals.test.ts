import { join } from 'node:path';
import type { NeoXPrefixError } from '../../../lib/base/errors';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { TritonClient, type TritonClientOptions } from '../../../lib/triton-client/client';
import type { TritonGenerateOptions } from '../../../lib/triton-client/text-options';
import { failureOf } from '../../helpers';
import { FakeTriton } from './fake-triton';

const MODEL = join(__dirname, '..', '..', '..', 'examples', 'models', 'tiny-ja-neox');
const server = new FakeTriton();
let tokenizer: Tokenizer;
beforeAll(async () => {
  await server.start();
  tokenizer = await Tokenizer.load(MODEL);
});
afterAll(() => server.stop());
const errorOf = async (action: Promise<unknown> | (() => unknown)): Promise<NeoXPrefixError> =>
  (await failureOf(action)) as NeoXPrefixError;

describe('refused before anything is sent', () => {
  const tasks = { smile: 0, polite: 1 };
  type Given = Omit<TritonClientOptions, 'tokenizer'> & { tokenizer?: undefined };
  it.each<[string, unknown, TritonGenerateOptions & Record<string, unknown>, Given, string]>([
    ['an unknown name', [1, 2], { task: 'x' }, {}, "Unknown task 'x' for task\nHint: the model has: smile, polite"],
    ['an unknown id', [1, 2], { task: 7 }, {}, 'Unknown task 7 for task'],
    ['any task of a model without', [1, 2], { task: 'a' }, { tasks: {} }, 'Hint: the model has no tasks'],
    [
      'rows without a task beside others',
      [
        [1, 2],
        [3, 4],
      ],
      { task: ['smile', undefined as unknown as string] },
      {},
      'Prompt 1 has no task, and others of the call have one',
    ],
    [
      'too few tasks',
      [
        [1, 2],
        [3, 4],
      ],
      { task: ['smile'] },
      {},
      'one value, or one for each of the 2 prompts for task',
    ],
    ['one token without a task', [1], {}, {}, 'Expected at least two tokens for prompt'],
    ['an empty prompt with a task', '', { task: 'smile' }, {}, 'Expected at least one token beside a task for prompt'],
    ['beams with a task', [1, 2], { task: 'smile', beamWidth: 2 }, {}, 'beamWidth 2 and a task do not go together'],
    [
      'beams that differ',
      [
        [1, 2],
        [3, 4],
      ],
      { beamWidth: [1, 2] },
      {},
      'Expected the same for all prompts for beamWidth',
    ],
    [
      'logprobs that differ',
      [
        [1, 2],
        [3, 4],
      ],
      { logprobs: [true, false] },
      {},
      'the same for all prompts for logprobs',
    ],
    ['a temperature of 0', [1, 2], { temperature: 0 }, {}, 'Hint: FasterTransformer is greedy with topK: 1'],
    ['no prompts', [], {}, {}, 'Expected a prompt, or an array of at least one for prompts'],
    ['text without a tokenizer', 'a', { endId: 1 }, { tokenizer: undefined }, 'Expected token ids for prompt'],
    ['no end token', [1, 2], {}, { tokenizer: undefined }, 'The token that ends a text is not known'],
    [
      'stop words without a tokenizer',
      [1, 2],
      { stop: 'a', endId: 1 },
      { tokenizer: undefined },
      'token ids for stop[0]',
    ],
    ['a misspelled option', [1, 2], { topk: 1 }, {}, "Unknown option 'topk' in options\nHint: did you mean 'topK'?"],
    ['a wrong id', [1, -2], {}, {}, 'Expected a token id for prompt[1]'],
    [
      'a wrong seed',
      [1, 2],
      { seed: -1 },
      {},
      'Expected an integer from 0 to 2^53 - 1, or a bigint below 2^64, for seed',
    ],
    ['a wrong maxNewTokens', [1, 2], { maxNewTokens: 0 }, {}, 'for maxNewTokens but received 0'],
    ['a wrong topK', [1, 2], { topK: 2000 }, {}, 'an integer between 0 and 1024 for topK'],
  ])('%s', async (_, prompt, options, more, text) => {
    const given = { tokenizer, tasks, ...more } as TritonClientOptions;
    const triton = new TritonClient(server.urls.http, given);
    const error = await errorOf(triton.generate(prompt as string, options));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining(text)]);
    expect(server.asked).toEqual([]);
    await triton.close();
  });

  it.each<[string, TritonClientOptions, string]>([
    ['gpu:8001', {}, "Expected an address such as 'grpc://gpu:8001' or 'http://gpu:8000' for url"],
    ['ftp://gpu', {}, 'with grpc://, grpcs://, http:// or https://'],
    ['grpc://', {}, 'for url'],
    ['http://a', { timeoutMs: -1 }, 'for timeoutMs'],
    ['http://a', { compression: 'br' as 'gzip' }, "Expected one of 'gzip', 'deflate' for compression"],
    ['http://a', { headers: { 'a b': 'c' } }, 'names of letters, digits'],
    ['http://a', { headers: { a: 'c\r\nd: e' } }, 'Expected a line of ASCII for headers.a'],
    ['http://a', { tls: { cert: 'x' } }, 'both cert and key, or none of them'],
    ['http://a', { model: '' }, 'for model'],
    ['http://a', { models: 'x' } as TritonClientOptions, "did you mean 'model'?"],
  ])('a client for %s %j', async (url, options, text) => {
    const error = await errorOf(() => new TritonClient(url, options));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining(text)]);
  });
});
