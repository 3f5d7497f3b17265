import { gzipSync } from 'node:zlib';
import type { NeoXPrefixError } from '../../lib/base/errors';
import { tensor, type Tensor } from '../../lib/inference-protocol/tensors';
import { TritonClient } from '../../lib/triton-client/client';
import { failureOf } from '../helpers';
import { MAX_BYTES, until, V2Server } from './v2-helpers';

let server: V2Server;
beforeAll(async () => {
  server = await V2Server.start(undefined, { maxRows: 4, maxQueue: 4 });
});
afterAll(() => server.stop());

const TEXT = '今日は友達と';
const errorOf = async (action: Promise<unknown>): Promise<NeoXPrefixError> =>
  (await failureOf(action)) as NeoXPrefixError;
const texts = (one: Tensor | undefined): string[] =>
  ((one?.data ?? []) as Uint8Array[]).map((bytes) => Buffer.from(bytes).toString());
const numbers = (one: Tensor | undefined): number[] => Array.from(one?.data as Int32Array, Number);

interface Reply {
  status: number;
  headers: Headers;
  text: string;
  json: () => Record<string, unknown>;
}
async function http(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Reply> {
  const given =
    body === undefined || body instanceof Uint8Array || typeof body === 'string' ? body : JSON.stringify(body);
  const response = await fetch(`${server.urls.http}${path}`, {
    method,
    headers,
    ...(given !== undefined && { body: given as string }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) as never };
}

describe.each(['http', 'grpc'] as const)('over %s', (carrier) => {
  let triton: TritonClient;
  beforeAll(() => {
    triton = new TritonClient(server.urls[carrier], { model: 'smile' });
  });
  afterAll(() => triton.close());
  const ask = (inputs: Record<string, Tensor>, more: { model?: string; parameters?: Record<string, never> } = {}) =>
    triton.infer({ inputs, ...more });

  it('base model and prefixes are models', async () => {
    const { model, smile } = server;
    const options = { maxNewTokens: 8, temperature: 0 };
    const inputs = {
      text_input: tensor('BYTES', [TEXT]),
      max_tokens: tensor('INT32', [8]),
      temperature: tensor('FP32', [0]),
    };
    for (const [name, prefix] of [
      ['base', undefined],
      ['smile', smile],
    ] as const) {
      const expected = await model.generate(TEXT, { ...options, prefix });
      const { outputs, model: told, version } = await ask(inputs, { model: name });
      expect([told, version]).toEqual([name, '1']);
      expect(texts(outputs['text_output'])).toEqual([expected.text]);
      expect(numbers(outputs['output_ids'])).toEqual(expected.tokens);
      expect(texts(outputs['finish_reason'])).toEqual([expected.finishReason]);
      const { promptTokens, completionTokens } = expected.usage;
      expect(numbers(outputs['usage'])).toEqual([promptTokens, completionTokens, promptTokens + completionTokens]);
      expect(outputs['token_logprobs']).toBeUndefined();
    }
  });

  it('several texts, several answers each, all options', async () => {
    const { outputs } = await ask({
      text_input: tensor('BYTES', [TEXT, '明日は']),
      n: tensor('INT32', [2]),
      seed: tensor('UINT64', [7n]),
      max_tokens: tensor('INT32', [6]),
      top_p: tensor('FP32', [0.5]),
      top_k: tensor('INT32', [20]),
      min_tokens: tensor('INT32', [2]),
      repetition_penalty: tensor('FP32', [1.25]),
      presence_penalty: tensor('FP32', [0.5]),
      frequency_penalty: tensor('FP32', [0.25]),
      stop: tensor('BYTES', ['。', '😃']),
      bad_words: tensor('BYTES', ['猫']),
      ignore_eos: tensor('BOOL', [true]),
    });
    const shared = {
      prefix: server.smile,
      n: 2,
      seed: 7,
      maxNewTokens: 6,
      topP: 0.5,
      topK: 20,
      minNewTokens: 2,
      repetitionPenalty: 1.25,
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      stop: ['。', '😃'],
      badWords: ['猫'],
      ignoreEos: true,
    };
    const expected = [];
    for (const prompt of [TEXT, '明日は'])
      expected.push(...(await server.model.generate(prompt, shared)).completions!.map(({ text }) => text));
    expect(texts(outputs['text_output'])).toEqual(expected);
    expect(outputs['output_ids']).toBeUndefined();
  });

  it('ids in, scores out, and options as parameters', async () => {
    const ids = server.model.tokenizer.encode(TEXT);
    const { outputs } = await triton.infer({
      inputs: { input_ids: tensor('INT32', Array.from(ids)) },
      parameters: { max_tokens: 5, temperature: 0, logprobs: true, stop: '\n' },
      outputs: ['output_ids', 'token_logprobs'],
    });
    expect(Object.keys(outputs).sort()).toEqual(['output_ids', 'token_logprobs']);
    const { tokens, logprobs } = await server.model.generate(ids, {
      prefix: server.smile,
      temperature: 0,
      maxNewTokens: 5,
      logprobs: 0,
    });
    expect(numbers(outputs['output_ids'])).toEqual(tokens);
    expect(numbers(outputs['token_logprobs'])).toEqual(logprobs!.map(({ logprob }) => Math.fround(logprob)));
  });

  const text = tensor('BYTES', ['a']);
  it.each<[string, Record<string, Tensor>, Record<string, string | number | boolean>, string]>([
    ['nothing', {}, {}, 'Expected one of the inputs text_input and input_ids'],
    ['text and ids', { text_input: text, input_ids: tensor('INT32', [1]) }, {}, 'one of the inputs'],
    ['bytes that are no text', { text_input: tensor('BYTES', [new Uint8Array([255])]) }, {}, 'UTF-8 for text_input[0]'],
    ['no texts', { text_input: tensor('BYTES', []) }, {}, 'at least one text for text_input'],
    ['an unknown input', { text_input: text, x: text }, {}, "unexpected inference input 'x' for model 'smile'"],
    ['a wrong type', { text_input: text, n: tensor('FP32', [1]) }, {}, "'n' is of type FP32, expected INT32"],
    ['two numbers for one', { text_input: text, n: tensor('INT32', [1, 2]) }, {}, 'one number, of shape [1] for n'],
    ['an option twice', { text_input: text, n: tensor('INT32', [1]) }, { n: 1 }, "'n' is given as an input and as a"],
    ['a negative number', { text_input: text }, { max_tokens: -1 }, 'an integer of at least 0 for max_tokens'],
    ['a wrong number', { text_input: text }, { top_p: 2 }, 'for top_p but received 2'],
    ['a wrong parameter', { text_input: text }, { temperature: 'hot' }, "a number for temperature but received 'hot'"],
    [
      'a seed beyond 2^53',
      { text_input: text, seed: tensor('UINT64', [2n ** 60n]) },
      {},
      'from 0 to 2^53 - 1 for seed',
    ],
    ['an id beyond the vocabulary', { input_ids: tensor('INT32', [99999]) }, {}, 'a token id between 0 and 2047'],
    ['too long a prompt', { input_ids: tensor('INT32', new Array<number>(9000).fill(5)) }, {}, 'positions'],
  ])('%s is refused', async (_, inputs, parameters, message) => {
    const error = await errorOf(triton.infer({ inputs, parameters }));
    expect(error.message).toContain(message);
    expect([error.code, error.status]).toEqual(['NEOX_REMOTE', carrier === 'http' ? 400 : 'INVALID_ARGUMENT']);
  });

  it('unknown models and versions are not found', async () => {
    const status = carrier === 'http' ? 404 : 'NOT_FOUND';
    for (const request of [{ model: 'frown' }, { model: 'smile', version: '2' }, { model: '__proto__' }]) {
      const error = await errorOf(triton.infer({ ...request, inputs: { text_input: text } }));
      expect([error.status, error.message]).toEqual([status, expect.stringContaining('Request for unknown model')]);
    }
    const missing = new TritonClient(server.urls[carrier], { model: 'frown' });
    for (const call of [() => missing.metadata(), () => missing.config(), () => missing.statistics()])
      expect((await errorOf(call())).status).toBe(status);
    expect((await errorOf(missing.ready())).message).toContain('the model frown is not ready');
    await missing.close();
  });

  it('describes itself, counts, and loads', async () => {
    await triton.ready();
    expect(await triton.server()).toMatchObject({
      name: 'neox-prefix',
      extensions: expect.arrayContaining(['generate']),
    });
    expect((await triton.metadata()).inputs[0]).toEqual({ name: 'text_input', datatype: 'BYTES', shape: [-1] });
    expect(await triton.config()).toMatchObject({ backend: 'neox-prefix', decoupled: true, maxBatchSize: 0 });
    const [before] = await triton.statistics();
    await ask({ text_input: text, max_tokens: tensor('INT32', [1]) });
    await failureOf(ask({}));
    const [after] = await triton.statistics();
    expect(after!.success.count - before!.success.count).toBe(1);
    expect(after!.fail.count - before!.fail.count).toBe(1);
    expect(after!.success.seconds).toBeGreaterThan(before!.success.seconds);
    expect((await triton.repository.index()).map(({ name, state }) => `${name} ${state}`)).toEqual([
      'base READY',
      'polite READY',
      'smile READY',
    ]);
    await triton.repository.load('new one');
    expect(server.loaded.pop()).toBe('new one');
    await server.prefixes.add('passing', server.smile);
    await triton.repository.unload('passing');
    expect(server.prefixes.has('passing')).toBe(false);
    expect((await errorOf(triton.repository.unload('passing'))).status).toBe(carrier === 'http' ? 404 : 'NOT_FOUND');
    expect((await errorOf(triton.repository.unload('base'))).message).toContain('not the base model');
  });

  it('what does not fit is refused whole, and who leaves frees the row', async () => {
    const many = { text_input: tensor('BYTES', new Array<string>(9).fill(TEXT)), max_tokens: tensor('INT32', [100]) };
    expect((await errorOf(ask(many))).status).toBe(carrier === 'http' ? 429 : 'RESOURCE_EXHAUSTED');
    expect(server.engine.stats()).toMatchObject({ running: 0, waiting: 0 });
    const controller = new AbortController();
    const long = {
      text_input: tensor('BYTES', [TEXT]),
      max_tokens: tensor('INT32', [4000]),
      ignore_eos: tensor('BOOL', [true]),
    };
    const gone = failureOf(triton.infer({ inputs: long, signal: controller.signal }));
    await until(() => server.engine.stats().running === 1);
    controller.abort('enough');
    expect(await gone).toBe('enough');
    await until(() => server.engine.stats().running === 0);
  });
});

describe('HTTP', () => {
  it('health', async () => {
    for (const path of [
      '/v2/health/live',
      '/v2/health/ready',
      '/v2/models/smile/ready',
      '/v2/models/smile/versions/1/ready',
    ])
      expect(await http('GET', path)).toMatchObject({ status: 200, text: '' });
    expect((await http('GET', '/v2/models/x/ready')).status).toBe(400);
    server.ready = false;
    expect((await http('GET', '/v2/health/ready')).status).toBe(400);
    expect((await http('GET', '/v2/health/live')).status).toBe(200);
    server.ready = true;
  });

  it('JSON tensors in and out', async () => {
    const inputs = [{ name: 'text_input', shape: [1], datatype: 'BYTES', data: [TEXT] }];
    const body = { id: 'x', inputs, parameters: { max_tokens: 4, temperature: 0 }, outputs: [{ name: 'text_output' }] };
    const { status, headers, json } = await http('POST', '/v2/models/base/infer', body);
    const { text } = await server.model.generate(TEXT, { maxNewTokens: 4, temperature: 0 });
    expect(status).toBe(200);
    expect(headers.get('inference-header-content-length')).toBeNull();
    expect(json()).toEqual({
      model_name: 'base',
      model_version: '1',
      id: 'x',
      outputs: [{ name: 'text_output', datatype: 'BYTES', shape: [1], data: [text] }],
    });
  });

  it('generate and generate_stream', async () => {
    const { text } = await server.model.generate(TEXT, { maxNewTokens: 9, temperature: 0, prefix: server.smile });
    const body = { text_input: TEXT, max_tokens: 9, parameters: { temperature: 0, stop: ['\n'] } };
    const whole = await http('POST', '/v2/models/smile/generate', body);
    expect(whole.json()).toMatchObject({ model_name: 'smile', text_output: text, usage: expect.any(Array) });
    const streamed = await http('POST', '/v2/models/smile/generate_stream', body);
    expect(streamed.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const events = streamed.text
      .trimEnd()
      .split('\n\n')
      .map((line) => JSON.parse(line.replace('data: ', '')) as { text_output: string });
    expect(events.map((event) => event.text_output).join('')).toBe(text);
    expect(events.length).toBe(10);
    const bad = await http('POST', '/v2/models/smile/generate_stream', { text_input: TEXT, top_p: 7 });
    expect([bad.status, bad.json()['error']]).toEqual([400, expect.stringContaining('for top_p')]);
    expect((await http('POST', '/v2/models/smile/generate', { text_input: TEXT, max_tokens: '5' })).status).toBe(400);
    expect((await http('POST', '/v2/models/smile/generate', { text_input: TEXT, max_tokens: null })).status).toBe(200);
  });

  it('a stream that nobody reads any more frees its row', async () => {
    const controller = new AbortController();
    const response = await fetch(`${server.urls.http}/v2/models/base/generate_stream`, {
      method: 'POST',
      body: JSON.stringify({ text_input: TEXT, max_tokens: 4000, ignore_eos: true }),
      signal: controller.signal,
    });
    await response.body!.getReader().read();
    expect(server.engine.stats().running).toBe(1);
    controller.abort();
    await until(() => server.engine.stats().running === 0);
  });

  it('names are decoded once', async () => {
    await server.prefixes.add('a b%2F', server.smile);
    expect((await http('GET', '/v2/models/a%20b%252F')).json()).toMatchObject({ name: 'a b%2F' });
    expect((await http('GET', '/v2/models/%ff')).status).toBe(400);
    await server.prefixes.remove('a b%2F');
  });

  it('bodies may be compressed, within a bound', async () => {
    const body = gzipSync(JSON.stringify({ text_input: TEXT, max_tokens: 1 }));
    const headers = { 'content-encoding': 'gzip' };
    expect((await http('POST', '/v2/models/base/generate', body, headers)).status).toBe(200);
    const bomb = gzipSync(Buffer.alloc(MAX_BYTES + 1));
    expect((await http('POST', '/v2/models/base/generate', bomb, headers)).status).toBe(413);
    expect((await http('POST', '/v2/models/base/generate', 'x', headers)).json()['error']).toBe('The body is not gzip');
    expect((await http('POST', '/v2/models/base/generate', 'x', { 'content-encoding': 'br' })).status).toBe(400);
  });

  it.each<[string, string, unknown, number]>([
    ['GET', '/v2/nothing', undefined, 404],
    ['GET', '/v2/models/base/infer', undefined, 405],
    ['POST', '/v2', {}, 405],
    ['POST', '/v2/models/base/infer', '', 400],
    ['POST', '/v2/models/base/infer', '{', 400],
    ['POST', '/v2/models/base/infer', '[]', 400],
    ['POST', '/v2/models/base/infer', '['.repeat(1e5), 400],
    ['POST', '/v2/models/base/generate', 'null', 400],
    ['POST', '/v2/models/base/generate', '{"text_input": {"__proto__": 1}}', 400],
    ['POST', '/v2/models/base/generate', '{"text_input": "a", "x": [1]}', 400],
    ['POST', '/v2/models/base/generate', '{"text_input": "a", "temperature": 1e400}', 400],
    ['POST', '/v2/repository/models/a/load', { parameters: { config: '{}' } }, 400],
    ['POST', '/v2/models/no/generate', {}, 404],
  ])('%s %s %j gives %i', async (method, path, body, status) => {
    const reply = await http(method, path, body);
    expect(reply.status).toBe(status);
    expect(reply.json()).toEqual({ error: expect.any(String) });
    if (status === 405) expect(reply.headers.get('allow')).toMatch(/GET|POST/);
  });

  it('a header length that is none is refused', async () => {
    for (const length of ['abc', '-1', '999', '1.5']) {
      const headers = { 'inference-header-content-length': length };
      expect((await http('POST', '/v2/models/base/infer', '{}', headers)).status).toBe(400);
    }
  });
});
