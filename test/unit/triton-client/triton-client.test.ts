import { join } from 'node:path';
import type { NeoXPrefixError } from '../../../lib/base/errors';
import { tensor } from '../../../lib/inference-protocol/tensors';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { TritonClient, type TritonClientOptions } from '../../../lib/triton-client/client';
import type { TritonGenerateOptions } from '../../../lib/triton-client/text-options';
import { failureOf } from '../../helpers';
import { FakeTriton, ftOutputs, numbers } from './fake-triton';

const MODEL = join(__dirname, '..', '..', '..', 'examples', 'models', 'tiny-ja-neox');
const END = 3;
const server = new FakeTriton();
let tokenizer: Tokenizer;
beforeAll(async () => {
  await server.start();
  tokenizer = await Tokenizer.load(MODEL);
});
afterAll(() => server.stop());
const clients: TritonClient[] = [];
beforeEach(() => {
  server.asked.length = 0;
  server.headers.length = 0;
  server.calls.length = 0;
  server.cancelled = 0;
  server.config = {};
  server.ready = { server: true, model: true };
});
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
});

const CARRIERS = ['http', 'grpc'] as const;
function connect(carrier: 'http' | 'grpc', options: TritonClientOptions = {}): TritonClient {
  const client = new TritonClient(server.urls[carrier], { tokenizer, tasks: { smile: 0, polite: 1 }, ...options });
  clients.push(client);
  return client;
}
/** The tokens of a text behind other text: those at the start of one have a space more. */
const behind = (text: string): number[] =>
  Array.from(tokenizer.encode(`。${text}`)).slice(tokenizer.encode('。').length);
const errorOf = async (action: Promise<unknown> | (() => unknown)): Promise<NeoXPrefixError> =>
  (await failureOf(action)) as NeoXPrefixError;
const generates = (...rows: number[][][]): void => {
  server.answer = (request) => ({ outputs: ftOutputs(request, rows, END) });
};

describe.each(CARRIERS)('over %s', (carrier) => {
  it('a batch of rows of unequal length comes back row by row', async () => {
    generates([[10, 11, END]], [[20]], [[30, 31, 32, 33]]);
    const [a, b, c] = await connect(carrier).generate([[7], [7, 8, 9], [1, 2, 3, 4, 5, 6, 7]], {
      task: ['polite', 'smile', 1],
      maxNewTokens: [8, 1, 4],
    });
    expect([a, b, c].map((result) => [result?.tokens, result?.finishReason, result?.promptTokens])).toEqual([
      [[10, 11], 'stop', 1],
      [[20], 'length', 3],
      [[30, 31, 32, 33], 'length', 7],
    ]);
    expect(a?.text).toBe(tokenizer.decode([10, 11]));
    const [request] = server.asked;
    expect(request?.model).toBe('fastertransformer');
    const { inputs } = request!;
    expect(inputs.get('input_ids')).toEqual(
      tensor('UINT32', [
        [7, END, END, END, END, END, END],
        [7, 8, 9, END, END, END, END],
        [1, 2, 3, 4, 5, 6, 7],
      ]),
    );
    expect(inputs.get('input_lengths')).toEqual(tensor('UINT32', [[1], [3], [7]]));
    expect(inputs.get('request_output_len')).toEqual(tensor('UINT32', [[8], [1], [4]]));
    expect(inputs.get('prompt_learning_task_name_ids')).toEqual(tensor('UINT32', [[1], [0], [1]]));
    expect(inputs.get('end_id')).toEqual(tensor('UINT32', [[END], [END], [END]]));
    expect([inputs.get('random_seed')?.datatype, inputs.get('random_seed')?.shape]).toEqual(['UINT64', [3, 1]]);
    expect([...inputs.keys()].sort()).toEqual(
      ['end_id', 'input_ids', 'input_lengths', 'prompt_learning_task_name_ids', 'random_seed', 'request_output_len']
        .concat(tokenizer.bosId === undefined ? [] : ['start_id'])
        .sort(),
    );
  });

  it('every option is the input that the backend has for it', async () => {
    generates([[10, END]], [[11, END]]);
    await connect(carrier).generate(
      [
        [1, 2],
        [3, 4],
      ],
      {
        maxNewTokens: 5,
        topK: [1, 50],
        topP: 0.5,
        temperature: 0.75,
        repetitionPenalty: 1.25,
        lenPenalty: -0.5,
        beamWidth: 1,
        beamDiversity: 0.25,
        topPDecay: 0.5,
        topPMin: 0.125,
        topPResetId: 9,
        seed: [2n ** 64n - 1n, 5],
        badWords: [[5], [6, 7]],
        stop: [[8, 9]],
        startId: 2,
        endId: 4,
        logprobs: true,
      },
    );
    const { inputs } = server.asked[0]!;
    const both = (value: number): number[][] => [[value], [value]];
    expect(Object.fromEntries(inputs)).toEqual({
      input_ids: tensor('UINT32', [
        [1, 2],
        [3, 4],
      ]),
      input_lengths: tensor('UINT32', both(2)),
      request_output_len: tensor('UINT32', both(5)),
      start_id: tensor('UINT32', both(2)),
      end_id: tensor('UINT32', both(4)),
      runtime_top_k: tensor('UINT32', [[1], [50]]),
      runtime_top_p: tensor('FP32', both(0.5)),
      temperature: tensor('FP32', both(0.75)),
      repetition_penalty: tensor('FP32', both(1.25)),
      len_penalty: tensor('FP32', both(-0.5)),
      beam_search_diversity_rate: tensor('FP32', both(0.25)),
      top_p_decay: tensor('FP32', both(0.5)),
      top_p_min: tensor('FP32', both(0.125)),
      top_p_reset_ids: tensor('UINT32', both(9)),
      random_seed: tensor('UINT64', [[2n ** 64n - 1n], [5n]]),
      bad_words_list: tensor(
        'INT32',
        [1, 2].map(() => [
          [5, 6, 7],
          [1, 3, -1],
        ]),
      ),
      stop_words_list: tensor(
        'INT32',
        [1, 2].map(() => [
          [8, 9],
          [2, -1],
        ]),
      ),
      is_return_log_probs: tensor('BOOL', [[true], [true]]),
    });
  });

  it('log-probabilities are those of the tokens that are given', async () => {
    generates([[8, 16, END]]);
    const result = await connect(carrier).generate([1, 2], { logprobs: true, maxNewTokens: 8 });
    expect(result).toMatchObject({ tokens: [8, 16], cumLogProb: -3, tokenLogProbs: [-1, -2] });
    generates([[8, 16, END]]);
    expect(await connect(carrier).generate([1, 2])).not.toHaveProperty('cumLogProb');
  });

  it('beams come best first', async () => {
    generates([
      [10, END],
      [11, 12, END],
    ]);
    const result = await connect(carrier).generate([1, 2], { beamWidth: 2, maxNewTokens: 4 });
    expect(result.tokens).toEqual([10]);
    expect(result.completions?.map(({ tokens }) => tokens)).toEqual([[10], [11, 12]]);
    expect(server.asked[0]?.inputs.get('beam_width')).toEqual(tensor('UINT32', [[2]]));
  });

  it('a stop string ends the text, also across tokens, and what ended early was ended', async () => {
    const ids = behind('今日は楽しい。明日も');
    const stop = '楽しい';
    generates([ids]);
    const result = await connect(carrier).generate('今日', { stop, maxNewTokens: 50 });
    expect(result).toMatchObject({ text: '今日は', stop, finishReason: 'stop' });
    expect(tokenizer.decode(result.tokens)).toContain(stop);
    expect(result.tokens.length).toBeLessThan(ids.length);
    // The server gets the word in the forms that the tokenizer gives it.
    const words = numbers(server.asked[0]?.inputs.get('stop_words_list'));
    expect(words.join()).toContain(Array.from(tokenizer.encode(stop)).join());
    generates([[10, 8, 9]]);
    const ended = await connect(carrier).generate([1, 2], { stop: [[8, 9]], maxNewTokens: 50 });
    expect(ended).toMatchObject({ tokens: [10, 8, 9], finishReason: 'stop' });
  });

  it('any model can be asked', async () => {
    const inputs = { a: tensor('FP32', [[1, 2]]), b: tensor('BYTES', ['今']) };
    server.answer = ({ inputs: given }) => ({ outputs: new Map(given), parameters: { n: 1 } });
    const triton = connect(carrier);
    const response = await triton.infer({ model: 'a b/c', version: '2', id: 'x', inputs, outputs: ['a', 'b'] });
    expect(response).toMatchObject({ model: 'a b/c', version: '1', id: 'x', parameters: { n: 1 } });
    expect(response.outputs['a']).toEqual(inputs.a);
    expect(Buffer.from(response.outputs['b']?.data[0] as Uint8Array).toString()).toBe('今');
    expect(server.asked[0]).toMatchObject({ model: 'a b/c', version: '2' });
    expect(server.asked[0]?.outputs.map(({ name }) => name)).toEqual(['a', 'b']);
  });

  it('tensors beyond 4 MB go through', async () => {
    server.answer = ({ inputs }) => ({ outputs: new Map(inputs) });
    const data = new Float32Array(2_300_000).fill(0.5);
    const { outputs } = await connect(carrier).infer({
      inputs: { x: { datatype: 'FP32', data, shape: [data.length] } },
    });
    expect(outputs['x']?.data.length).toBe(data.length);
  });

  it.each(['gzip', 'deflate'] as const)('requests can be compressed by %s', async (compression) => {
    generates([[10, END]]);
    const result = await connect(carrier, { compression }).generate([1, 2], { maxNewTokens: 3 });
    expect(result.tokens).toEqual([10]);
    const name = carrier === 'http' ? 'content-encoding' : 'grpc-encoding';
    if (carrier === 'http') expect(server.headers[0]?.[name]).toBe(compression);
  });

  it('headers go with every call', async () => {
    generates([[10]]);
    const triton = connect(carrier, { headers: { authorization: 'Bearer key' } });
    await triton.generate([1, 2], { maxNewTokens: 1 });
    await triton.server();
    expect(server.headers.map((headers) => headers['authorization'])).toEqual(['Bearer key', 'Bearer key']);
  });

  it('servers and models are described, and models loaded', async () => {
    const triton = connect(carrier, { model: 'm', version: '1' });
    expect(await triton.server()).toMatchObject({ name: 'triton', extensions: ['binary_tensor_data'] });
    expect(await triton.metadata()).toMatchObject({ inputs: [{ name: 'x', datatype: 'FP32', shape: [-1] }] });
    expect(await triton.statistics()).toMatchObject([{ name: 'm', inferenceCount: 3 }]);
    expect(await triton.repository.index()).toEqual([{ name: 'm', version: '1', state: 'READY', reason: '' }]);
    await triton.repository.load('m');
    await triton.repository.unload('m');
    server.config = { name: 'm', max_batch_size: 4, parameters: { k: { string_value: 'v' } } };
    expect(await triton.config()).toMatchObject({ maxBatchSize: 4, parameters: { k: 'v' } });
    const called = server.calls.join('\n');
    if (carrier === 'http') expect(called).toContain('GET /v2/models/m/versions/1/config');
    else expect(called).toContain('RepositoryModelUnload {"parameters":{},"repository_name":"","model_name":"m"}');
  });

  it('says what is not ready', async () => {
    const triton = connect(carrier, { model: 'm' });
    await triton.ready();
    server.ready.model = false;
    expect(await errorOf(triton.ready())).toMatchObject({
      code: 'NEOX_REMOTE_UNAVAILABLE',
      message: 'The server is ready, and the model m is not ready',
    });
    server.ready.server = false;
    expect((await errorOf(triton.ready())).message).toBe('The server is live, and is not ready');
  });

  it('asks the server for its tasks where nobody names them', async () => {
    server.config = { parameters: { neox_prefix_tasks: { string_value: 'smile=0,polite=4' } } };
    generates([[10]]);
    const triton = new TritonClient(server.urls[carrier], { tokenizer });
    clients.push(triton);
    await triton.generate([1, 2], { task: 'polite', maxNewTokens: 1 });
    await triton.generate([1, 2], { task: 'polite', maxNewTokens: 1 });
    expect(numbers(server.asked[0]?.inputs.get('prompt_learning_task_name_ids'))).toEqual([4]);
    expect(server.calls.length).toBe(1);
    const error = await errorOf(triton.generate([1, 2], { task: 'polit' }));
    expect(error.message).toBe("Unknown task 'polit' for task\nHint: did you mean 'polite'?");
    await triton.repository.load('fastertransformer');
    await triton.generate([1, 2], { task: 'polite', maxNewTokens: 1 });
    expect(server.calls.length).toBe(3);
  });

  it('errors have the status and the text of the server', async () => {
    const triton = connect(carrier);
    server.answer = () => ({ http: 400, grpc: 'INVALID_ARGUMENT', text: "unexpected inference input 'x'" });
    const status = carrier === 'http' ? 400 : 'INVALID_ARGUMENT';
    expect(await errorOf(triton.generate([1, 2]))).toMatchObject({
      code: 'NEOX_REMOTE',
      status,
      message: `The server answered ${status}: unexpected inference input 'x'`,
    });
    server.answer = () => ({ http: 503, grpc: 'UNAVAILABLE', text: 'draining' });
    expect(await errorOf(triton.generate([1, 2]))).toMatchObject({
      code: 'NEOX_REMOTE_UNAVAILABLE',
      message: expect.stringMatching(/^The server answered (503|UNAVAILABLE): draining$/),
    });
  });

  it("answers that are not FasterTransformer's are told", async () => {
    const triton = connect(carrier);
    const cases: [Map<string, ReturnType<typeof tensor>>, string][] = [
      [new Map([['x', tensor('FP32', [1])]]), 'it has no output_ids: it has x'],
      [new Map([['output_ids', tensor('BYTES', ['a'])]]), 'output_ids is of type BYTES'],
      [
        new Map([
          ['output_ids', tensor('UINT32', [[1]])],
          ['sequence_length', tensor('UINT32', [[1]])],
        ]),
        'output_ids has the shape [1, 1], expected [1, beams, tokens]',
      ],
      [
        new Map([
          ['output_ids', tensor('UINT32', [[[1, 2]]])],
          ['sequence_length', tensor('UINT32', [[9]])],
        ]),
        'a row of 2 ids has a sequence_length of 9',
      ],
    ];
    for (const [outputs, text] of cases) {
      server.answer = () => ({ outputs });
      const error = await errorOf(triton.generate([1, 2]));
      expect([error.code, error.message]).toEqual(['NEOX_REMOTE', `The server's answer is not usable: ${text}`]);
    }
  });

  it('an abort gives the reason and ends the call, and so does a time limit', async () => {
    server.answer = () => 'silence';
    const triton = connect(carrier);
    const controller = new AbortController();
    const reason = { why: 'enough' };
    const waiting = failureOf(triton.generate([1, 2], { signal: controller.signal }));
    while (server.asked.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort(reason);
    expect(await waiting).toBe(reason);
    expect(await failureOf(triton.generate([1, 2], { signal: controller.signal }))).toBe(reason);
    const late = await errorOf(triton.generate([1, 2], { timeoutMs: 60 }));
    expect(late.code).toBe('NEOX_REMOTE_UNAVAILABLE');
    expect(late.message).toContain('did not answer within 60 ms');
    while (server.cancelled < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  });

  it('a server that is not there', async () => {
    const triton = new TritonClient(`${carrier}://127.0.0.1:9`, { tokenizer, tasks: {} });
    const error = await errorOf(triton.generate([1, 2]));
    expect(error.code).toBe('NEOX_REMOTE_UNAVAILABLE');
    expect(error.message).toContain('No server could be reached at');
    await triton.close();
  });
});

describe('streams', () => {
  const steps = (tokens: number[]): void => {
    server.streamed = (request) => [
      ...tokens.map((_, i) => ({ outputs: ftOutputs(request, [[tokens.slice(0, i + 1)]], END) })),
      { outputs: new Map(), parameters: { triton_final_response: true } },
    ];
  };

  it('give a piece for each token, and the text of generate', async () => {
    const tokens = [...behind('今日は楽しい'), END];
    steps(tokens);
    const pieces = [];
    for await (const piece of connect('grpc').stream('今', { task: 'smile', maxNewTokens: 20 })) pieces.push(piece);
    expect(pieces.map(({ token }) => token)).toEqual([...tokens.slice(0, -1), undefined]);
    expect(pieces.map(({ text }) => text).join('')).toBe('今日は楽しい');
    expect(pieces.at(-1)).toEqual({ text: expect.any(String), finishReason: 'stop' });
    expect(server.asked[0]?.parameters).toEqual({ triton_enable_empty_final_response: true });
  });

  it('end at a stop string, at a limit, and when the loop is left', async () => {
    const triton = connect('grpc');
    steps(behind('今日は楽しい。明日'));
    const texts = [];
    for await (const piece of triton.stream('今', { stop: '楽しい', maxNewTokens: 20 })) texts.push(piece);
    expect(texts.map(({ text }) => text).join('')).toBe('今日は');
    expect(texts.at(-1)).toMatchObject({ finishReason: 'stop', stop: '楽しい' });
    steps([10, 11]);
    const reasons = [];
    for await (const piece of triton.stream([1, 2], { maxNewTokens: 2 })) reasons.push(piece.finishReason);
    expect(reasons).toEqual([undefined, undefined, 'length']);
    server.streamed = (request) => [{ outputs: ftOutputs(request, [[[10]]], END) }, 'silence'];
    server.cancelled = 0;
    for await (const piece of triton.stream([1, 2])) {
      expect(piece.token).toBe(10);
      break;
    }
    while (server.cancelled === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  });

  it('fail with the reason of the server, or of the signal', async () => {
    const triton = connect('grpc');
    server.streamed = () => [{ error: 'no GPU' }];
    const read = async (options: TritonGenerateOptions = {}): Promise<void> => {
      for await (const piece of triton.stream([1, 2], options)) expect(piece).toBeDefined();
    };
    expect(await errorOf(read())).toMatchObject({
      code: 'NEOX_REMOTE',
      message: 'The server answered an error: no GPU',
    });
    server.streamed = () => ['silence'];
    const controller = new AbortController();
    setTimeout(() => controller.abort('enough'), 30);
    expect(await failureOf(read({ signal: controller.signal }))).toBe('enough');
  });

  it('do not go over HTTP', async () => {
    const error = await errorOf(connect('http').stream([1, 2]).next());
    expect(error.code).toBe('NEOX_UNSUPPORTED');
    expect(error.hint).toContain('grpc://');
  });
});

it('an empty prompt begins with the start token', async () => {
  generates([[10]]);
  await connect('http', { tasks: {} }).generate('', { maxNewTokens: 1, startId: 2 });
  expect(numbers(server.asked[0]?.inputs.get('input_ids'))).toEqual([2]);
});

it('the folder of a tokenizer is read with the first prompt', async () => {
  generates([[10]]);
  const { text } = await connect('http', { tokenizer: MODEL }).generate('今日は', { task: 'smile', maxNewTokens: 1 });
  expect(text).toBe(tokenizer.decode([10]));
  const missing = connect('http', { tokenizer: join(MODEL, 'missing') });
  expect((await errorOf(missing.generate('a'))).code).toBe('NEOX_FILE_NOT_FOUND');
});
