import type { NeoXPrefixError } from '../../lib/base/errors';
import { GenerationEngine } from '../../lib/engine/engine';
import { PrefixStore } from '../../lib/engine/prefix-store';
import { tensor } from '../../lib/inference-protocol/tensors';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixServer } from '../../lib/server/server';
import type { ServerOptions } from '../../lib/server/server-options';
import { TritonClient } from '../../lib/triton-client/client';
import { EXAMPLE_MODEL, expectRefusal, failureOf, loadModel, randomPrefix, wrong } from '../helpers';

let model: NeoXModel;
let store: PrefixStore;
let engine: GenerationEngine;
beforeAll(async () => {
  model = await loadModel(EXAMPLE_MODEL);
  store = new PrefixStore(model);
  await store.add('smile', randomPrefix(model, 4, 7));
  engine = new GenerationEngine(model, { prefixes: store });
});
afterAll(async () => {
  await engine.dispose();
  await store.dispose();
  await model.dispose();
});

const TEXT = '今日は友達と';
const start = async (options: ServerOptions): Promise<{ server: PrefixServer; url: string; grpcUrl: string }> => {
  const server = new PrefixServer(engine, { port: 0, grpcPort: 0, baseName: 'base', ...options });
  const { url, grpcUrl = '' } = await server.start();
  return { server, url, grpcUrl };
};

it('a server speaks the Open Inference Protocol by both carriers', async () => {
  const { server, url, grpcUrl } = await start({ fasterTransformer: { tasks: ['smile'] } });
  const prefix = await store.get('smile');
  const expected = await model.generate(TEXT, { prefix, temperature: 0, maxNewTokens: 9 });
  for (const address of [url, grpcUrl]) {
    await using triton = new TritonClient(address, { tokenizer: model.tokenizer });
    await triton.ready();
    const { text, tokens } = await triton.generate(TEXT, { task: 'smile', maxNewTokens: 9 });
    expect({ text, tokens }).toEqual({ text: expected.text, tokens: expected.tokens });
    const { outputs } = await triton.infer({
      model: 'smile',
      inputs: { text_input: tensor('BYTES', [TEXT]) },
      parameters: { max_tokens: 9, temperature: 0 },
    });
    expect(Buffer.from(outputs['text_output']?.data[0] as Uint8Array).toString()).toBe(expected.text);
    const missing = (await failureOf(triton.infer({ model: 'x', inputs: {} }))) as NeoXPrefixError;
    expect(missing.message).toContain("Request for unknown model: 'x' is not found");
    const load = (await failureOf(triton.repository.load('other'))) as NeoXPrefixError;
    expect([403, 'PERMISSION_DENIED']).toContain(load.status);
  }
  const streamed = await fetch(`${url}/v2/models/smile/generate_stream`, {
    method: 'POST',
    body: JSON.stringify({ text_input: TEXT, max_tokens: 9, temperature: 0 }),
  });
  const events = (await streamed.text()).trimEnd().split('\n\n');
  const texts = events.map((event) => (JSON.parse(event.slice(6)) as { text_output: string }).text_output);
  expect(texts.join('')).toBe(expected.text);
  await server.close({ drainSeconds: 1 });
  await expect(new TritonClient(grpcUrl, { timeoutMs: 2000 }).ready()).rejects.toMatchObject({
    code: 'NEOX_REMOTE_UNAVAILABLE',
  });
});

it('keys hold for it, too', async () => {
  const { server, url, grpcUrl } = await start({ apiKeys: ['key'], adminKeys: ['admin'] });
  expect((await fetch(`${url}/v2/health/ready`)).status).toBe(200);
  const refused = await fetch(`${url}/v2/models/base`);
  expect([refused.status, await refused.json()]).toEqual([401, { error: 'The API key is missing or wrong' }]);
  for (const [address, unknown, forbidden] of [
    [url, 401, 403],
    [grpcUrl, 'UNAUTHENTICATED', 'PERMISSION_DENIED'],
  ] as const) {
    await using stranger = new TritonClient(address, { model: 'base' });
    await expect(stranger.metadata()).rejects.toMatchObject({ code: 'NEOX_REMOTE', status: unknown });
    await using known = new TritonClient(address, { model: 'base', headers: { authorization: 'Bearer key' } });
    expect((await known.metadata()).name).toBe('base');
    await expect(known.repository.unload('smile')).rejects.toMatchObject({ status: forbidden });
  }
  await server.close({ drainSeconds: 0 });
});

it('the playground is a page of its own, unless it is off', async () => {
  const { server, url } = await start({ apiKeys: ['key'] });
  for (const path of ['/', '/playground']) {
    const page = await fetch(url + path);
    expect([page.status, page.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
    expect(page.headers.get('content-security-policy')).toMatch(
      /^default-src 'none'; connect-src 'self'; script-src 'sha256-/,
    );
    expect(await page.text()).toContain('<title>neox-prefix playground</title>');
  }
  await server.close({ drainSeconds: 0 });
  const without = await start({ playground: false });
  expect((await fetch(without.url)).status).toBe(404);
  await without.server.close({ drainSeconds: 0 });
});

it('a drain ends calls of gRPC that do not end by themselves', async () => {
  const { server, grpcUrl } = await start({});
  await using triton = new TritonClient(grpcUrl, { model: 'base' });
  const endless = failureOf(
    triton.infer({
      inputs: { text_input: tensor('BYTES', [TEXT]) },
      parameters: { max_tokens: 2000, ignore_eos: true },
    }),
  );
  while (engine.stats().running === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await server.close({ drainSeconds: 0.1 });
  expect(await endless).toMatchObject({ code: 'NEOX_REMOTE_UNAVAILABLE' });
  while (engine.stats().running > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

it.each([
  [{ grpcPort: -1 }, /for grpcPort/],
  [{ fasterTransformer: {} }, /for fasterTransformer\.tasks/],
  [{ fasterTransformer: { tasks: ['a'], nam: 'x' } }, /did you mean 'name'/],
])('%j is refused', (options, text) =>
  expectRefusal({ name: '', act: () => new PrefixServer(engine, wrong(options)), text }),
);
