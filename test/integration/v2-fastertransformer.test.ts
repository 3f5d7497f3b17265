import type { NeoXPrefixError } from '../../lib/base/errors';
import { tensor, type Tensor } from '../../lib/inference-protocol/tensors';
import { TritonClient, type TritonClientOptions } from '../../lib/triton-client/client';
import type { TritonResult } from '../../lib/triton-client/text-result';
import { failureOf } from '../helpers';
import { until, V2Server } from './v2-helpers';

let server: V2Server;
const clients: TritonClient[] = [];
beforeAll(async () => {
  server = await V2Server.start({ tasks: ['smile', 'polite'] });
});
afterAll(() => server.stop());
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
});

function connect(carrier: 'http' | 'grpc', options: TritonClientOptions = {}): TritonClient {
  const client = new TritonClient(server.urls[carrier], { tokenizer: server.model.tokenizer, ...options });
  clients.push(client);
  return client;
}
const errorOf = async (action: Promise<unknown>): Promise<NeoXPrefixError> =>
  (await failureOf(action)) as NeoXPrefixError;
const column = (...values: number[]): Tensor =>
  tensor(
    'UINT32',
    values.map((value) => [value]),
  );
const plain = ({ text, tokens, finishReason }: TritonResult): object => ({ text, tokens, finishReason });

/** More than one token. */
const TEXT = '今日は友達と';
/** Prompts of 1, 3 and 7 tokens. */
const PROMPTS = [[417], [417, 92, 8], [5, 6, 7, 8, 9, 10, 11]];

describe.each(['http', 'grpc'] as const)('TritonClient over %s', (carrier) => {
  it('gives what the library gives, whatever stands beside a row', async () => {
    const { model, smile } = server;
    const triton = connect(carrier);
    await triton.ready();
    const shared = { maxNewTokens: 12, topK: 40, topP: 0.9, temperature: 0.75 };
    const task = ['smile', 'polite', 'smile'];
    const seed = [1, 2, 3];
    const batch = await triton.generate(PROMPTS, { ...shared, task, seed });
    for (const [i, prompt] of PROMPTS.entries()) {
      const alone = await triton.generate(prompt, { ...shared, task: task[i]!, seed: seed[i]! });
      expect(plain(batch[i]!)).toEqual(plain(alone));
      const prefix = task[i] === 'smile' ? smile : await server.prefixes.get('polite');
      const topP = Math.fround(0.9);
      const own = await model.generate(prompt, { ...shared, topP, prefix, seed: seed[i]! });
      expect(plain(batch[i]!)).toEqual({ text: own.text, tokens: own.tokens, finishReason: own.finishReason });
    }
    expect(new Set(batch.map(({ tokens }) => tokens.join())).size).toBe(3);
  });

  it('draws by seed, and takes the most likely token where nothing is said', async () => {
    const triton = connect(carrier);
    const greedy = await server.model.generate(TEXT, { temperature: 0, maxNewTokens: 10 });
    const own = await triton.generate(TEXT, { maxNewTokens: 10 });
    expect(plain(own)).toEqual({ text: greedy.text, tokens: greedy.tokens, finishReason: greedy.finishReason });
    const draw = (seed: bigint): Promise<TritonResult> => triton.generate(TEXT, { maxNewTokens: 10, topP: 1, seed });
    const [a, b, c] = [await draw(7n), await draw(7n), await draw(2n ** 64n - 1n)];
    expect(a.tokens).toEqual(b.tokens);
    expect(a.tokens).not.toEqual(c.tokens);
  });

  it('rows have lengths of their own, and end tokens end them', async () => {
    const triton = connect(carrier);
    const [a, b] = await triton.generate([TEXT, '明日は海辺で'], { maxNewTokens: [3, 9], task: ['smile', 'polite'] });
    expect([a?.tokens.length, b?.tokens.length]).toEqual([3, 9]);
    const whole = await triton.generate(TEXT, { maxNewTokens: 20 });
    const [, , third] = whole.tokens as [number, number, number];
    const ended = await triton.generate(TEXT, { maxNewTokens: 20, endId: third });
    const first = whole.tokens.indexOf(third);
    expect(ended).toMatchObject({ tokens: whole.tokens.slice(0, first), finishReason: 'stop' });
  });

  it('stop words and bad words are kept to', async () => {
    const triton = connect(carrier);
    const whole = await triton.generate(TEXT, { maxNewTokens: 20 });
    const word = whole.tokens.slice(4, 7);
    const stopped = await triton.generate(TEXT, { maxNewTokens: 20, stop: [word] });
    expect(stopped).toMatchObject({ tokens: whole.tokens.slice(0, 7), finishReason: 'stop' });
    const { text } = whole;
    const stop = text.slice(4, 7);
    const cut = await triton.generate(TEXT, { maxNewTokens: 20, stop });
    expect(cut).toMatchObject({ text: text.slice(0, text.indexOf(stop)), stop, finishReason: 'stop' });
    const banned = await triton.generate(TEXT, { maxNewTokens: 20, badWords: [[whole.tokens[0]!]] });
    const library = await server.model.generate(TEXT, {
      temperature: 0,
      maxNewTokens: 20,
      badWords: [[whole.tokens[0]!]],
    });
    expect(banned.tokens).toEqual(library.tokens);
    expect(banned.tokens).not.toContain(whole.tokens[0]);
  });

  it("log-probabilities are the model's", async () => {
    const triton = connect(carrier);
    const own = await triton.generate(TEXT, { maxNewTokens: 8, logprobs: true });
    const { logprobs } = await server.model.generate(TEXT, { temperature: 0, maxNewTokens: 8, logprobs: 0 });
    const expected = logprobs!.map(({ logprob }) => Math.fround(logprob));
    expect(own.tokenLogProbs).toEqual(expected);
    expect(own.cumLogProb).toBeCloseTo(
      expected.reduce((sum, value) => sum + value, 0),
      4,
    );
  });

  it('shapes are those of FasterTransformer', async () => {
    const { outputs } = await connect(carrier).infer({
      inputs: {
        input_ids: tensor('UINT32', [
          [417, 3, 3],
          [417, 92, 8],
        ]),
        input_lengths: column(1, 3),
        request_output_len: column(2, 4),
        prompt_learning_task_name_ids: column(0, 1),
      },
    });
    expect(Object.keys(outputs)).toEqual(['output_ids', 'sequence_length']);
    const { shape, data } = outputs['output_ids']!;
    expect(shape).toEqual([2, 1, 7]);
    const end = server.model.config.eosTokenIds[0];
    const row = Array.from(data as Uint32Array).slice(0, 7);
    expect([row[0], ...row.slice(3)]).toEqual([417, end, end, end, end]);
    expect(outputs['sequence_length']).toMatchObject({ datatype: 'UINT32', shape: [2, 1], data: Uint32Array.of(5, 7) });
    const some = await connect(carrier).infer({
      inputs: { input_ids: tensor('UINT32', [[1, 2]]), input_lengths: column(2), request_output_len: column(1) },
      outputs: ['sequence_length'],
    });
    expect(Object.keys(some.outputs)).toEqual(['sequence_length']);
  });

  it('tells its configuration and its tasks', async () => {
    const triton = connect(carrier);
    const config = await triton.config();
    expect(config).toMatchObject({
      name: 'fastertransformer',
      backend: 'fastertransformer',
      maxBatchSize: 1024,
      decoupled: false,
      parameters: { neox_prefix_tasks: 'smile=0,polite=1' },
    });
    expect(config.inputs.find(({ name }) => name === 'bad_words_list')).toEqual({
      name: 'bad_words_list',
      datatype: 'INT32',
      dims: [2, -1],
      optional: true,
    });
    const metadata = await triton.metadata();
    expect(metadata.inputs[0]).toEqual({ name: 'input_ids', datatype: 'UINT32', shape: [-1, -1] });
    expect(metadata.outputs.map(({ name }) => name)).toContain('cum_log_probs');
  });

  const good = { input_ids: tensor('UINT32', [[1, 2]]), input_lengths: column(2), request_output_len: column(1) };
  it.each<[string, Record<string, Tensor>, string]>([
    ['a missing input', { input_ids: good.input_ids }, "Expected the input 'input_lengths'"],
    ['an unknown input', { ...good, x: column(1) }, "unexpected inference input 'x' for model 'fastertransformer'"],
    ['a wrong type', { ...good, input_ids: tensor('INT32', [[1, 2]]) }, 'is of type INT32, expected UINT32'],
    ['a wrong shape', { ...good, input_lengths: tensor('UINT32', [2]) }, 'has the shape [1], expected [1, 1]'],
    ['no rows', { ...good, input_ids: tensor('UINT32', []) }, 'has the shape [0], expected [B, S]'],
    ['a length beyond the width', { ...good, input_lengths: column(3) }, 'at most 2, the width of input_ids'],
    ['an unknown task', { ...good, prompt_learning_task_name_ids: column(2) }, 'the model has ids from 0 to 1'],
    ['an id beyond the vocabulary', { ...good, input_ids: tensor('UINT32', [[1, 9999]]) }, 'for input_ids[1]'],
    ['beams', { ...good, beam_width: column(2) }, 'for beam_width but received 2'],
    ['a top-p that decays', { ...good, top_p_decay: tensor('FP32', [[0.5]]) }, 'for top_p_decay'],
    ['a wrong top-p', { ...good, runtime_top_p: tensor('FP32', [[1.5]]) }, 'for runtime_top_p'],
    ['words that end nowhere', { ...good, stop_words_list: tensor('INT32', [[[5], [3]]]) }, 'for stop_words_list[0]'],
    ['words of a wrong shape', { ...good, stop_words_list: tensor('INT32', [[5]]) }, 'expected [1, 2, W]'],
    ['one token without a task', { ...good, input_lengths: column(1) }, 'at least 2 without a task'],
    [
      'no token with a task',
      { ...good, input_lengths: column(0), prompt_learning_task_name_ids: column(0) },
      'at least 1',
    ],
    ['too many tokens', { ...good, request_output_len: column(2 ** 31) }, 'for request_output_len[0]'],
  ])('%s is refused', async (_, inputs, text) => {
    const error = await errorOf(connect(carrier).infer({ inputs }));
    expect(error.message).toContain(text);
    expect([error.code, error.status]).toEqual(['NEOX_REMOTE', carrier === 'http' ? 400 : 'INVALID_ARGUMENT']);
  });
});

describe('a decoupled model', () => {
  let decoupled: V2Server;
  beforeAll(async () => {
    decoupled = await V2Server.start({ name: 'neox', tasks: ['smile'], decoupled: true });
  });
  afterAll(() => decoupled.stop());

  it('streams the text of generate, and frees its row when the loop is left', async () => {
    const { model, engine, smile } = decoupled;
    await using triton = new TritonClient(decoupled.urls.grpc, { model: 'neox', tokenizer: model.tokenizer });
    const whole = await model.generate(TEXT, { prefix: smile, temperature: 0, maxNewTokens: 16 });
    const pieces = [];
    for await (const piece of triton.stream(TEXT, { task: 'smile', maxNewTokens: 16 })) pieces.push(piece);
    expect(pieces.map(({ text }) => text).join('')).toBe(whole.text);
    expect(pieces.flatMap(({ token }) => token ?? [])).toEqual(whole.tokens);
    expect(pieces.at(-1)?.finishReason).toBe(whole.finishReason);
    for await (const piece of triton.stream([1, 2], { maxNewTokens: 500, endId: 2047 })) {
      expect(piece.token).toBeDefined();
      break;
    }
    await until(() => engine.stats().running === 0);
  });

  it('is not asked for one response', async () => {
    for (const [url, status] of [
      [decoupled.urls.http, 501],
      [decoupled.urls.grpc, 'UNIMPLEMENTED'],
    ] as const) {
      await using triton = new TritonClient(url, { model: 'neox', tokenizer: decoupled.model.tokenizer });
      const error = await errorOf(triton.generate([1, 2]));
      expect([error.code, error.status]).toEqual(['NEOX_REMOTE', status]);
      expect(error.message).toContain("The model 'neox' is decoupled");
    }
  });
});
