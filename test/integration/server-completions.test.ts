import type { NeoXModel } from '../../lib/neox-model';
import { EXAMPLE_MODEL, loadModel, Random, randomPrefix } from '../helpers';
import { until } from './engine-helpers';
import { eventsOf, serve, type Served } from './server-helpers';

let model: NeoXModel;
let served: Served;

beforeAll(async () => {
  model = await loadModel(EXAMPLE_MODEL);
  served = await serve(model);
});
afterAll(async () => {
  await served[Symbol.asyncDispose]();
  await model.dispose();
});

interface Choice {
  index: number;
  text: string;
  finish_reason: string | null;
  stop_reason: string | null;
  logprobs: {
    tokens: string[];
    token_logprobs: (number | null)[];
    top_logprobs: (Record<string, number> | null)[];
    text_offset: number[];
  } | null;
}
interface Answer {
  id: string;
  object: string;
  model: string;
  seed: number;
  choices: Choice[];
  usage: Record<string, unknown> | null;
}

async function complete(body: Record<string, unknown>): Promise<Answer> {
  const response = await served.post('/v1/completions', body);
  const answer = (await response.json()) as Answer;
  expect({ status: response.status, answer }).toMatchObject({ status: 200 });
  return answer;
}

async function streamed(body: Record<string, unknown>): Promise<Answer[]> {
  const response = await served.post('/v1/completions', { ...body, stream: true });
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const events = eventsOf(await response.text());
  expect(events.filter((event) => event === '[DONE]')).toHaveLength(1);
  expect(events.pop()).toBe('[DONE]');
  return events.map((event) => JSON.parse(event) as Answer);
}

const idle = (): Promise<void> => until(() => served.engine.stats().running + served.engine.stats().waiting === 0);

test('each answer is what generate() gives for the seed and the prefix', async () => {
  const prefixes = { base: undefined, smile: randomPrefix(model, 4, 7), polite: randomPrefix(model, 6, 8) };
  const names = Object.keys(prefixes) as (keyof typeof prefixes)[];
  await Promise.all(
    Array.from({ length: 24 }, async (_, seed) => {
      const name = names[seed % 3]!;
      const { choices, usage, object } = await complete({ model: name, prompt: '今日は', max_tokens: 20, seed });
      const expected = await model.generate('今日は', { maxNewTokens: 20, seed, prefix: prefixes[name] });
      expect(choices).toEqual([
        { index: 0, text: expected.text, logprobs: null, finish_reason: expected.finishReason, stop_reason: null },
      ]);
      expect(object).toBe('text_completion');
      expect(usage).toMatchObject({
        completion_tokens: expected.tokens.length,
        prompt_tokens: expected.usage.promptTokens,
        prefix_tokens: prefixes[name]?.prefixLength ?? 0,
      });
    }),
  );
});

test('several prompts and texts: choice prompt * n + j; ids are prompts too', async () => {
  const ids = Array.from(model.tokenizer.encode('明日は'));
  const { choices, seed } = await complete({ model: 'smile', prompt: [ids, ids], n: 3, max_tokens: 9 });
  expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
  const prefix = randomPrefix(model, 4, 7);
  const { completions } = await model.generate(ids, { n: 3, maxNewTokens: 9, seed, prefix });
  const texts = completions!.map(({ text }) => text);
  expect(choices.map(({ text }) => text)).toEqual([...texts, ...texts]);
});

test('200 random requests as streams are the same as whole', async () => {
  const random = new Random(5);
  const one = async (): Promise<void> => {
    const body: Record<string, unknown> = {
      model: random.pick(['base', 'smile', 'polite']),
      prompt: random.pick(['今日は', '', ['明日は', 'これは ']]),
      max_tokens: random.integer(0, 12),
      seed: random.integer(-3, 1000),
      n: random.integer(1, 3),
      temperature: random.pick([0, 0.7, 1.5]),
      stop: random.pick([null, '。', ['で', 'です。']]),
      echo: random.next() < 0.3,
      logprobs: random.pick([null, null, 0, 2]),
    };
    const whole = await complete(body);
    const parts = await streamed({ ...body, stream_options: { include_usage: true } });
    const last = parts.pop()!;
    expect(last).toMatchObject({ choices: [], usage: { ...whole.usage, prompt_tokens_details: expect.anything() } });
    for (const choice of whole.choices) {
      const own = parts.flatMap(({ choices }) => choices).filter(({ index }) => index === choice.index);
      expect(own.map(({ text }) => text).join('')).toBe(choice.text);
      expect(own.filter(({ finish_reason: reason }) => reason !== null)).toHaveLength(1);
      expect(own.at(-1)).toMatchObject({ finish_reason: choice.finish_reason, stop_reason: choice.stop_reason });
      if (choice.logprobs === null) continue;
      const scores = own.flatMap(({ logprobs }) => (logprobs === null ? [] : [logprobs]));
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'] as const)
        expect(scores.flatMap((part): unknown[] => part[key])).toEqual(choice.logprobs[key]);
    }
    for (const { usage } of parts) expect(usage).toBeNull();
  };
  for (let round = 0; round < 20; round++) await Promise.all(Array.from({ length: 10 }, one));
});

describe('log-probabilities', () => {
  const codePoints = (text: string): string[] => Array.from(text);

  test.each(['今日はいい天気ですね。', 'これは、テスト', ''])('echo of %p', async (prompt) => {
    const { choices } = await complete({ model: 'base', prompt, echo: true, logprobs: 2, max_tokens: 8, seed: 3 });
    const { text, logprobs } = choices[0]!;
    const { tokens, token_logprobs: scores, top_logprobs: top, text_offset: offsets } = logprobs!;
    for (const list of [scores, top, offsets]) expect(list).toHaveLength(tokens.length);
    expect([scores[0], top[0]]).toEqual([null, null]);
    const all = codePoints(text);
    for (const [i, token] of tokens.entries()) {
      if (token.startsWith('bytes:') || token.startsWith('<')) continue;
      expect(all.slice(offsets[i]).join('').startsWith(token)).toBe(true);
    }
    for (let i = 1; i < tokens.length; i++) expect(top[i]![tokens[i]!]).toBe(scores[i]);
  });

  test('with the end token there is one entry a position', async () => {
    const eos = String(model.config.eosTokenIds[0]);
    const body = { model: 'base', prompt: '今日は', echo: true, logprobs: 1, logit_bias: { [eos]: 100 } };
    const { choices } = await complete({ ...body, max_tokens: 1 });
    const count = model.tokenizer.encode('今日は').length;
    expect(choices[0]?.logprobs?.tokens).toHaveLength(count + 1);
    expect(choices[0]).toMatchObject({ text: '今日は', finish_reason: 'stop' });
    const without = await complete({ ...body, max_tokens: 0 });
    expect(without.choices[0]?.logprobs?.tokens).toHaveLength(count);
  });

  test('are those of score(), with a prefix too', async () => {
    for (const [name, prefix] of [
      ['base', undefined],
      ['smile', randomPrefix(model, 4, 7)],
    ] as const) {
      const context = '今日は';
      const count = model.tokenizer.encode(context).length;
      const ids = Array.from(model.tokenizer.encode('今日はいい天気'));
      const body = { model: name, prompt: ids, echo: true, logprobs: 1, max_tokens: 1, temperature: 0 };
      const { choices } = await complete(body);
      // What lm-eval sums: all but the last entry.
      const sum = choices[0]!.logprobs!.token_logprobs.slice(count, -1).reduce((a, b) => a! + b!, 0)!;
      const [score] = await model.score(ids.slice(0, count), [ids.slice(count)], { prefix });
      expect(sum).toBeCloseTo(score!.logprob, 4);
    }
  });
});

describe('a chat', () => {
  const messages = [{ role: 'user', content: '今日は' }];
  test('without a template is refused, with one is answered', async () => {
    const refused = await served.post('/v1/chat/completions', { model: 'base', messages });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { code: 'no_chat_template', param: 'messages' } });
    await using other = await serve(model, { template: 'plain' });
    const body = { model: 'smile', messages, max_tokens: 9, seed: 4, logprobs: true, top_logprobs: 2 };
    const whole = (await (await other.post('/v1/chat/completions', body)).json()) as {
      choices: { message: { content: string }; logprobs: { content: { top_logprobs: unknown[] }[] } }[];
    };
    const { text } = await model.generate('今日は\n', { maxNewTokens: 9, seed: 4, prefix: randomPrefix(model, 4, 7) });
    expect(whole.choices[0]?.message.content).toBe(text);
    expect(whole.choices[0]?.logprobs.content[0]?.top_logprobs).toHaveLength(2);
    const response = await other.post('/v1/chat/completions', { ...body, stream: true });
    const parts = eventsOf(await response.text())
      .slice(0, -1)
      .map((event): unknown => JSON.parse(event)) as {
      choices: { delta: { role?: string; content?: string } }[];
    }[];
    expect(parts[0]?.choices[0]?.delta.role).toBe('assistant');
    expect(parts.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe(text);
  });
});

test('a client that leaves frees its rows, streamed or not', async () => {
  for (const stream of [true, false]) {
    const controller = new AbortController();
    const body = { model: 'base', prompt: '今日は', max_tokens: 1900, ignore_eos: true, n: 4, stream };
    const response = fetch(`${served.url}/v1/completions`, {
      ...{ method: 'POST', signal: controller.signal, body: JSON.stringify(body) },
      headers: { 'content-type': 'application/json' },
    });
    await until(() => served.engine.stats().running === 4);
    controller.abort();
    await response.then((one) => one.text()).catch(() => undefined);
    await idle();
  }
  await until(() => served.events.filter(({ status }) => status === 499).length === 2);
});
