import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { example, runTypeScript, type ExampleRun } from './run-example';

jest.setTimeout(240_000);

let out: string;
let training: ExampleRun;

/** The other examples use what train.mts leaves. */
beforeAll(async () => {
  out = mkdtempSync(join(tmpdir(), 'neox-examples-'));
  training = await runTypeScript(example('train'), [out]);
}, 240_000);

afterAll(() => rmSync(out, { recursive: true }));

async function run(name: string): Promise<string> {
  const { code, stdout, stderr } = await runTypeScript(example(name), [out]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout;
}

/** The number behind a text. */
function numberAfter(text: string, output: string): number {
  const at = output.indexOf(text);
  expect(at).toBeGreaterThanOrEqual(0);
  return Number.parseFloat(output.slice(at + text.length));
}

test('train: two prefixes, each in three formats', () => {
  expect(training.stderr).toBe('');
  expect(training.code).toBe(0);
  expect(training.stdout).toContain('smile: 17106 parameters are trained in 100 steps');
  expect(training.stdout).toContain('friendly: 17106 parameters are trained in 100 steps');
  for (const task of ['smile', 'friendly']) {
    for (const file of [
      'best.safetensors',
      'last.safetensors',
      'encoder.safetensors',
      'metrics.jsonl',
      'recipe.json',
      'rinna.checkpoint',
      'peft',
    ])
      expect(existsSync(join(out, task, file))).toBe(true);
  }
});

test('generate: a prefix by request, by row, and in a stream', async () => {
  const output = await run('generate');
  const line = (name: string): string => new RegExp(`^${name}: +(.*)$`, 'm').exec(output)?.[1] ?? '';
  expect(line('base')).not.toContain('😃');
  expect(line('smile')).toMatch(/。 😃/);
  expect(line('row 0')).toMatch(/ね。/);
  expect(line('row 2')).toMatch(/。 😃/);
  expect(output).toContain('row 1 is what it was alone: true');
  expect(line('greedy')).toMatch(/ね。/);
  expect(line('stream').match(/😃/g)?.length).toBeGreaterThan(1);
  expect(line('stopped').match(/😃/g)).toHaveLength(1);
  expect(line('stream').startsWith(line('stopped'))).toBe(true);
});

test('serve: many requests, prefixes by name, a stream that is left, a format', async () => {
  const output = await run('serve');
  expect(output).toMatch(/^smile: 昨日は.*😃/m);
  expect(output).toMatch(/^friendly: 昨日は.*ね。/m);
  expect(output).not.toMatch(/^base: .*😃/m);
  expect(output).toMatch(/^30 requests, \d+ tokens in \d+ steps; /m);
  expect(output).toContain('as alone: true');
  expect(/^stream: (.*)$/m.exec(output)?.[1]?.match(/😃/g)).toHaveLength(1);
  expect(output).toMatch(/^animals: ((犬|猫|わからない)(, |$)){3}$/m);
});

test('forward: injected past key values and caches', async () => {
  const output = await run('forward');
  expect(output).toMatch(/^logits \[1,\d+,2048\], next token (?!▁😃)/m);
  expect(output).toMatch(/^logits \[1,\d+,2048\], next token ▁😃$/m);
  expect(output).toContain('as generate() does it: true');
  expect(output).toContain('behind a prefix of 10');
  expect(output).toContain('largest difference of a logit: below 1e-4');
});

test('evaluate: each prefix is best on its own text', async () => {
  const output = await run('evaluate');
  const perplexity = (text: string, prefix: string): number =>
    numberAfter('perplexity', output.slice(output.indexOf(`text with ${text}  ${prefix}`)));
  for (const [text, best, other] of [
    ['😃', 'smile', 'friendly'],
    ['ね', 'friendly', 'smile'],
  ] as const) {
    expect(perplexity(text, best)).toBeLessThan(perplexity(text, 'base'));
    expect(perplexity(text, best)).toBeLessThan(perplexity(text, other));
  }
});

test('export: two tasks, one of them added, equal to their source', async () => {
  const output = await run('export');
  expect(output).toContain('warning (activation)');
  expect(output).toContain(
    'added: model.prefix_prompt.friendly.weight.0.bin, model.prefix_prompt.friendly.weight.1.bin',
  );
  expect(output).toContain('num_tasks = 2');
  expect(output).toContain('verified: 80 of 80 files are equal');
});

test('an example without what train.mts leaves says which file is missing', async () => {
  const { code, stderr } = await runTypeScript(example('generate'), [join(out, 'nothing')]);
  expect(code).toBe(1);
  expect(stderr).toContain(join(out, 'nothing', 'smile', 'best.safetensors'));
});
