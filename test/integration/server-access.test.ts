import { mkdirSync, readFileSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { failureOf, loadModel, randomPrefix, temporaryFolder } from '../helpers';
import { PrefixServer } from '../../lib/server/server';
import { until, writeModel } from './engine-helpers';
import { eventsOf, raw, serve } from './server-helpers';

const folder = temporaryFolder();
let model: NeoXModel;
beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model'), { max_position_embeddings: 2 ** 16 }));
});
afterAll(() => model.dispose());

const LONG = { model: 'base', prompt: [1, 2], max_tokens: 50_000, ignore_eos: true };

test('every endpoint needs a key but those that are open', async () => {
  await using served = await serve(model, { apiKeys: ['key'], adminKeys: ['admin'] });
  const open = ['/health', '/health/live', '/health/ready', '/version', '/openapi.json', '/', '/playground'];
  for (const { method, path, access } of served.server.routes) {
    const address = path.replace(/:\w+/g, 'smile');
    const without = await raw(served.url, address, {}, method);
    expect({ path, status: without.status === 401 }).toEqual({
      path,
      status: !open.includes(path) && access !== 'open',
    });
    if (access !== 'admin') continue;
    const known = await raw(served.url, address, { authorization: 'Bearer key' }, method);
    expect({ path, status: known.status }).toEqual({ path, status: 403 });
  }
  const authorization = 'Bearer key';
  for (const key of ['Bearer kez', 'Bearer keyy', 'Bearer ', 'key', 'Basic key'])
    expect((await raw(served.url, '/v1/models', { authorization: key })).status).toBe(401);
  expect((await raw(served.url, '/v1/models', { authorization })).status).toBe(200);
  expect((await raw(served.url, '/nothing')).status).toBe(401);
  expect((await raw(served.url, '/nothing', { authorization })).status).toBe(404);
  expect((await raw(served.url, '/v1/models', { authorization, host: 'evil.example' })).status).toBe(403);
});

test('pages of other origins, and servers that everybody reaches', async () => {
  await using served = await serve(model, { apiKeys: ['key'], cors: ['https://a.example'] });
  const allowed = await raw(served.url, '/v1/models', { origin: 'https://a.example' }, 'OPTIONS');
  expect(allowed).toMatchObject({ status: 204, headers: { 'access-control-allow-origin': 'https://a.example' } });
  const other = await raw(served.url, '/v1/models', { origin: 'https://b.example' }, 'OPTIONS');
  expect(other.headers['access-control-allow-origin']).toBeUndefined();
  expect(await failureOf(() => new PrefixServer(served.engine, { host: '0.0.0.0' }))).toMatchObject({
    code: 'NEOX_BAD_ARGUMENT',
  });
});

describe('what is no request', () => {
  const bodies: [string, string | Uint8Array, number][] = [
    ['no JSON', '{', 400],
    ['no object', '[]', 400],
    ['null', 'null', 400],
    ['a name twice', '{"model": "base", "model": "smile", "prompt": [1]}', 400],
    ['__proto__', '{"__proto__": {}, "model": "base", "prompt": [1]}', 400],
    ['NaN', '{"model": "base", "prompt": [1], "top_p": NaN}', 400],
    ['1e400', '{"model": "base", "prompt": [1], "top_p": 1e400}', 400],
    ['half a pair', '{"model": "base", "prompt": "\\ud800"}', 400],
    ['no UTF-8', new Uint8Array([0x22, 0xff, 0x22]), 400],
    ['depth', `{"prompt": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`, 400],
    ['too large', `"${'a'.repeat(4 * 2 ** 20)}"`, 413],
    ['a number as text', '{"model": "base", "prompt": [1], "max_tokens": "5"}', 400],
    ['an empty list', '{"model": "base", "prompt": []}', 400],
    ['a list of an empty list', '{"model": "base", "prompt": [[]]}', 400],
    ['tools', '{"model": "base", "prompt": [1], "tools": [{}]}', 400],
    ['a seed that no double holds', '{"model": "base", "prompt": [1], "seed": 18446744073709551615}', 400],
    ['no model', '{"prompt": [1]}', 400],
    ['an unknown model', '{"model": "smiel", "prompt": [1]}', 404],
    ['more texts than there is room for', '{"model": "base", "prompt": [1], "n": 100}', 400],
  ];
  test.each(bodies)('%s', async (_, body, status) => {
    await using served = await serve(model, {}, { maxRows: 4, maxQueue: 4 });
    const response = await served.post('/v1/completions', body);
    const answer = await response.json();
    expect({ status: response.status, answer }).toMatchObject({
      status,
      answer: { error: { type: 'invalid_request_error' } },
    });
    expect(served.engine.stats()).toMatchObject({ running: 0, waiting: 0 });
  });

  test('wrong types in every field', async () => {
    await using served = await serve(model, {}, { maxRows: 2 });
    const schema = served.server.routes.find(({ path }) => path === '/v1/completions')?.schema;
    const names = Object.keys((schema as { properties: object }).properties);
    const free = ['user', 'store', 'metadata', 'service_tier', 'parallel_tool_calls', 'safety_identifier'];
    for (const name of names.filter((one) => ![...free, 'prompt_cache_key', 'request_id'].includes(one))) {
      const body = { model: 'base', prompt: [1], max_tokens: 1, [name]: { a: [] } };
      const response = await served.post('/v1/completions', body);
      const { error } = (await response.json()) as { error?: { param: string } };
      expect({ name, status: response.status, param: error?.param.split('[')[0] }).toMatchObject({ name, status: 400 });
    }
  });
});

test('full: one 429 with Retry-After, and all others are answered', async () => {
  await using served = await serve(model, {}, { maxRows: 2, maxQueue: 2 });
  const body = { ...LONG, max_tokens: 1500 };
  const responses = await Promise.all(Array.from({ length: 5 }, () => served.post('/v1/completions', body)));
  expect(responses.map(({ status }) => status).sort()).toEqual([200, 200, 200, 200, 429]);
  const full = responses.find(({ status }) => status === 429)!;
  expect(Number(full.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  expect(served.engine.stats()).toMatchObject({ running: 0, waiting: 0 });
});

test('a drain: ready is 503 at once, new requests are 503, and what is left ends with an error event', async () => {
  await using served = await serve(model);
  const response = await served.post('/v1/completions', { ...LONG, stream: true, return_token_ids: true });
  await until(() => served.engine.stats().running === 1);
  const closing = served.server.close({ drainSeconds: 0.3 });
  expect((await raw(served.url, '/health/ready')).status).toBe(503);
  expect((await raw(served.url, '/health')).status).toBe(200);
  expect((await served.post('/v1/completions', LONG)).status).toBe(503);
  const events = eventsOf(await response.text());
  expect(events.at(-1)).toBe('[DONE]');
  expect(JSON.parse(events.at(-2) ?? '')).toMatchObject({ error: { code: 'draining' } });
  await closing;
  expect(served.engine.stats()).toMatchObject({ running: 0, waiting: 0 });
});

test('a client that reads nothing is cut off', async () => {
  await using served = await serve(model, { limits: { stallSeconds: 0.2 } }, { maxUnread: 8 });
  const response = await served.post('/v1/completions', { ...LONG, stream: true, n: 4, return_token_ids: true });
  await until(() => served.events.length === 1);
  await until(() => served.engine.stats().running === 0);
  expect(served.events[0]).toMatchObject({ status: 499, error: 'client_left' });
  await response.body?.cancel().catch(() => undefined);
});

test('prefixes are loaded, replaced and taken out, and no path leads out of the folder', async () => {
  const prefix = folder.join('load', 'new.safetensors');
  mkdirSync(folder.join('load'));
  await randomPrefix(model, 3, 1).save(prefix);
  await randomPrefix(model, 3, 1).save(folder.join('outside.safetensors'));
  await using served = await serve(model, { loadFolder: folder.join('load') });
  const load = (lora_path: string): Promise<Response> =>
    served.post('/v1/load_lora_adapter', { lora_name: 'new', lora_path });
  for (const path of ['../outside.safetensors', folder.join('outside.safetensors'), 'missing', 'a\0b', '%2e%2e/x', '.'])
    expect({ path, status: (await load(path)).status }).toEqual({ path, status: 403 });
  expect((await load('new.safetensors')).status).toBe(200);
  expect(served.store.has('new')).toBe(true);
  const bytes = readFileSync(prefix);
  const put = await fetch(`${served.url}/v1/prefixes/other`, { method: 'PUT', body: new Uint8Array(bytes) });
  expect(put.status).toBe(200);
  expect((await served.post('/v1/unload_lora_adapter', { lora_name: 'new' })).status).toBe(200);
  expect((await served.post('/v1/completions', { ...LONG, model: 'new' })).status).toBe(404);
});

test('metrics are what the engine counts', async () => {
  await using served = await serve(model, { metrics: 'vllm' });
  for (const name of ['base', 'smile', 'smile', 'nothing'])
    await served.post('/v1/completions', { model: name, prompt: [1, 2, 3], max_tokens: 5, ignore_eos: true });
  const { body } = await raw(served.url, '/metrics');
  expect(body).toContain('neox_generated_tokens_total{model="smile"} 10');
  expect(body).toContain('neox_prompt_tokens_total{model="base"} 3');
  expect(body).toContain('neox_requests_total{model="smile",outcome="length"} 2');
  expect(body).toContain('vllm:num_requests_running{model_name="base",engine="0"} 0');
  expect(body).not.toContain('nothing');
});
