/** The playground in a browser, where there is one. */
import { existsSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { GenerationEngine } from '../../lib/engine/engine';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { NeoXModel } from '../../lib/neox-model';
import { playgroundPage } from '../../lib/server/playground/playground-page';
import { EXAMPLE_MODEL, loadModel, randomPrefix } from '../helpers';

const KEY = 'secret';
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
  existsSync(path),
);
/** A folder for pictures of the page. */
const PICTURES = process.env['NEOX_PREFIX_PICTURES'];

let model: NeoXModel;
let engine: GenerationEngine;
let store: PrefixStore;
let server: Server;
let url: string;
let browser: Browser;
let needsKey = false;

interface Body {
  model: string;
  prompt: string;
  max_tokens: number;
  temperature: number;
  top_p: number;
  top_k: number;
  repetition_penalty: number;
  seed: number;
  stop?: string[];
  logprobs?: number;
}

const optionsOf = (body: Body): object => ({
  maxNewTokens: body.max_tokens,
  temperature: body.temperature,
  topP: body.top_p,
  topK: body.top_k,
  repetitionPenalty: body.repetition_penalty,
  seed: body.seed,
  ...(body.stop && { stop: body.stop }),
  // So that there is something to stop.
  ignoreEos: body.max_tokens > 1000,
});

beforeAll(async () => {
  if (CHROMIUM === undefined) return;
  model = await loadModel(EXAMPLE_MODEL);
  store = new PrefixStore(model);
  for (const [i, name] of ['smile', 'friendly'].entries()) {
    const trained = join('examples', 'out', 'demo', `${name}.safetensors`);
    await store.add(name, PICTURES !== undefined && existsSync(trained) ? trained : randomPrefix(model, 4, i + 1));
  }
  engine = new GenerationEngine(model, { prefixes: store });
  server = createServer((request, response) => {
    void (async () => {
      const { html, contentSecurityPolicy } = playgroundPage();
      if (request.url === '/') {
        response.writeHead(200, { 'content-type': 'text/html', 'content-security-policy': contentSecurityPolicy });
        response.end(html);
        return;
      }
      if (needsKey && request.headers.authorization !== `Bearer ${KEY}`) {
        response.writeHead(401).end('{"error":{"message":"The API key is missing or wrong"}}');
        return;
      }
      if (request.url === '/v1/models') {
        response.end(JSON.stringify({ data: ['tiny-ja-neox', 'smile', 'friendly'].map((id) => ({ id })) }));
        return;
      }
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      const body = JSON.parse(Buffer.concat(parts).toString()) as Body;
      const prefix = body.model === 'tiny-ja-neox' ? {} : { prefix: body.model };
      const controller = new AbortController();
      response.on('close', () => controller.abort());
      const scores = body.logprobs === undefined ? {} : { logprobs: body.logprobs };
      const all = { prompt: body.prompt, ...prefix, ...optionsOf(body), ...scores, signal: controller.signal };
      const send = (value: object): void => void response.write(`data: ${JSON.stringify(value)}\n\n`);
      try {
        for await (const { text, token, logprob, finishReason, usage } of engine.stream(all)) {
          const logprobs = logprob && {
            tokens: [String(token)],
            token_logprobs: [logprob.logprob],
            top_logprobs: [
              Object.fromEntries(logprob.top.map((one) => [model.tokenizer.idToToken(one.token) ?? '', one.logprob])),
            ],
          };
          send({ choices: [{ text, logprobs: logprobs ?? null, finish_reason: finishReason ?? null }], usage: null });
          if (usage) send({ choices: [], usage: { completion_tokens: usage.completionTokens } });
        }
        response.end('data: [DONE]\n\n');
      } catch (error) {
        if (response.headersSent) response.end();
        else response.writeHead(400).end(JSON.stringify({ error: { message: (error as Error).message } }));
      }
    })();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
});

afterAll(async () => {
  if (CHROMIUM === undefined) return;
  await browser.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await engine.dispose();
  await store.dispose();
  await model.dispose();
});

/** The page, and whatever went wrong on it or went elsewhere. */
async function open(width = 1200, height = 800, more = {}): Promise<{ page: Page; problems: string[] }> {
  const page = await browser.newPage({ viewport: { width, height }, ...more });
  const problems: string[] = [];
  page.on('console', (message) => {
    // The browser tells every status of 400 or more, too.
    if (message.type() === 'error' && !message.text().includes('status of 4')) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) problems.push(request.url());
  });
  await page.goto(url);
  return { page, problems };
}

const answers = (page: Page): Promise<string[]> => page.locator('.text').allTextContents();
const idle = (page: Page): Promise<unknown> => page.waitForSelector('#stop-all[disabled]');

async function generate(page: Page, prompt: string, settings: Record<string, string> = {}): Promise<void> {
  await page.fill('#prompt', prompt);
  for (const [name, value] of Object.entries(settings)) await page.fill(`#${name}`, value);
  await page.click('#generate');
}

const inBrowser = CHROMIUM === undefined ? it.skip : it;
if (CHROMIUM === undefined) it.todo('no Chromium here: `apt-get install chromium` brings one');

inBrowser('columns stream at once, and give what the engine gives for the seed', async () => {
  const { page, problems } = await open();
  await page.waitForSelector('article:nth-child(3)');
  await generate(page, '今日は', { seed: '7', max_tokens: '24' });
  await idle(page);
  const options = { maxNewTokens: 24, topP: 0.95, topK: 50, seed: 7 };
  const expected = [];
  for (const prefix of [undefined, 'smile', 'friendly'])
    expected.push(`今日は${(await engine.generate({ prompt: '今日は', ...options, ...(prefix && { prefix }) })).text}`);
  expect(await answers(page)).toEqual(expected);
  const column = page.locator('article').first();
  expect(await column.locator('.tokens').textContent()).toMatch(/^\d+$/);
  expect(await column.locator('.rate').textContent()).toMatch(/^\d/);
  expect(await column.locator('.first').textContent()).toMatch(/^\d+$/);
  expect(await column.locator('.finish').textContent()).toMatch(/^(stop|length)$/);
  expect(await page.textContent('#server')).toBe('tiny-ja-neox, and 2 prefixes over it');
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('Stop frees the rows, also by the key Esc', async () => {
  const { page, problems } = await open();
  for (const stop of [() => page.click('#stop-all'), () => page.keyboard.press('Escape')]) {
    await page.waitForSelector('article:nth-child(3)');
    await generate(page, 'あ', { max_tokens: '1500', temperature: '1.5', top_p: '1', top_k: '0' });
    await page.waitForFunction("[...document.querySelectorAll('.first')].some((one) => one.textContent !== '–')");
    await stop();
    await idle(page);
    const until = Date.now() + 5000;
    while (engine.stats().running > 0 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(engine.stats().running).toBe(0);
  }
  expect(await page.locator('.finish').allTextContents()).toContain('stopped');
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('markup stays text', async () => {
  const { page, problems } = await open();
  await page.waitForSelector('article:nth-child(3)');
  const prompt = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  await generate(page, prompt, { max_tokens: '4' });
  await idle(page);
  expect((await answers(page)).every((text) => text.startsWith(prompt))).toBe(true);
  expect(await page.locator('article img, article script').count()).toBe(0);
  expect(await page.title()).toBe('neox-prefix playground');
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('a key is asked for, kept for the session, and a wrong one told', async () => {
  needsKey = true;
  const { page, problems } = await open();
  await page.waitForSelector('#key-row:not([hidden])');
  expect(await page.textContent('#message')).toBe('The API key is missing or wrong');
  await page.fill('#key', 'wrong');
  await page.click('#use-key');
  await page.waitForFunction("document.getElementById('message').textContent !== ''");
  await page.fill('#key', KEY);
  await page.click('#use-key');
  await page.waitForSelector('article:nth-child(3)');
  await generate(page, 'あ', { max_tokens: '3' });
  await idle(page);
  expect(await page.locator('.error').count()).toBe(0);
  await page.reload();
  await page.waitForSelector('article:nth-child(3)');
  needsKey = false;
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('columns come and go, an error stays in its column, and requests can be copied', async () => {
  const { page, problems } = await open(1200, 800, { permissions: ['clipboard-read', 'clipboard-write'] });
  await page.waitForSelector('article:nth-child(3)');
  for (let i = 0; i < 3; i++) await page.click('#add');
  expect(await page.locator('article').count()).toBe(6);
  expect(await page.isDisabled('#add')).toBe(true);
  await page.locator('.remove').first().click();
  expect(await page.locator('article').count()).toBe(5);
  await generate(page, 'あ'.repeat(5000), { max_tokens: '5' });
  await idle(page);
  expect(await page.locator('.error').first().textContent()).toContain('positions');
  expect(await page.textContent('#message')).toBe('');
  await page.fill('#prompt', "it's");
  const copied = async (id: string): Promise<string> => {
    await page.click(id);
    return page.evaluate('navigator.clipboard.readText()');
  };
  expect(await copied('#copy-curl')).toContain(`"prompt":"it'\\''s"`);
  expect(await copied('#copy-typescript')).toContain('"model": "smile"');
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('probabilities are a shade, and tell what else could have come', async () => {
  const { page, problems } = await open();
  await page.waitForSelector('article:nth-child(3)');
  await page.check('#logprobs');
  await generate(page, '今日は', { max_tokens: '10', seed: '1' });
  await idle(page);
  const token = page.locator('.token').first();
  expect(
    Number(await page.evaluate("document.querySelector('.token').style.getPropertyValue('--shade')")),
  ).toBeGreaterThan(0);
  await token.click();
  expect(await page.locator('.choices').first().textContent()).toMatch(/\d\.\d %/);
  expect(problems).toEqual([]);
  await page.close();
});

inBrowser('it fits a phone and a desk, light and dark', async () => {
  for (const [name, width, height, colorScheme] of [
    ['phone', 360, 740, 'dark'],
    ['desktop', 1280, 560, 'light'],
  ] as const) {
    const { page, problems } = await open(width, height, { colorScheme });
    await page.waitForSelector('article:nth-child(3)');
    await page.check('#logprobs');
    await generate(page, '今日は', { seed: '3', max_tokens: '48' });
    await idle(page);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    const tops = await page.evaluate<number[]>(
      "[...document.querySelectorAll('article')].map((one) => one.getBoundingClientRect().top)",
    );
    expect(new Set(tops).size).toBe(name === 'phone' ? 3 : 1);
    if (PICTURES !== undefined)
      await page.screenshot({ path: join(PICTURES, `playground-${name}.png`), fullPage: true });
    expect(problems).toEqual([]);
    await page.close();
  }
});
