import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../lib/base/package';
import { PrefixWeights } from '../../lib/prefix/weights';
import { example, runTypeScript } from './run-example';

jest.setTimeout(240_000);

let out: string;
beforeEach(() => {
  out = mkdtempSync(join(tmpdir(), 'neox-demo-'));
});
afterEach(() => rmSync(out, { recursive: true }));

test('one epoch of the demonstration: both tasks are learned, used in one batch and exported', async () => {
  const { code, stdout, stderr } = await runTypeScript(example('demo'), ['--epochs', '1', '--out', out]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  const sections = stdout.match(/^\d\. .*$/gm);
  expect(sections).toEqual([
    '1. The base model',
    "2. Task 'smile': put 😃 behind every sentence",
    "3. Task 'friendly': end every sentence in ね",
    '4. One batch, three tasks, one base model',
    '5. Export to FasterTransformer',
  ]);

  // The README's copy is of this program: its headings and what it says in any case.
  const shown =
    /<!-- demo -->([\s\S]*?)<!-- end -->/.exec(readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8'))?.[1] ?? '';
  expect(shown.match(/^\d\. .*$/gm)).toEqual(sections);
  // Which backend is the fastest depends on the processor.
  const anywhere = (text: string): string => text.replace(/linear layers by \w+/, 'linear layers by ...');
  for (const line of shown
    .split('\n')
    .filter((text) => /^[A-Za-z].*(:|bit by bit|epoch|weights\.|validate)$/.test(text)))
    expect(anywhere(stdout)).toContain(anywhere(line));

  const perplexities = (name: string): number[] =>
    Array.from(stdout.matchAll(new RegExp(`^  ${name} +([\\d.]+)$`, 'gm')), (match) => Number(match[1]));
  const [before, after] = [perplexities('base model'), perplexities('epoch 1')];
  expect(before).toHaveLength(2);
  after.forEach((perplexity, i) => expect(perplexity).toBeLessThan(before[i]!));

  const shares = Array.from(stdout.matchAll(/^ {2}(with|without) +(\d+) of (\d+), ([\d.]+) %$/gm), (match) => ({
    kind: match[1],
    of: Number(match[3]),
    percent: Number(match[4]),
  }));
  expect(shares.map(({ kind }) => kind)).toEqual(['without', 'with', 'without', 'with']);
  for (const { kind, of, percent } of shares) {
    expect(of).toBeGreaterThan(50);
    if (kind === 'with') expect(percent).toBeGreaterThanOrEqual(90);
    else expect(percent).toBeLessThan(10);
  }

  const batch = stdout.slice(stdout.indexOf(sections![3]!), stdout.indexOf(sections![4]!));
  expect(batch.match(/^ {2}smile .*😃$/gm)).toHaveLength(2);
  expect(batch.match(/^ {2}friendly .*ね。$/gm)).toHaveLength(2);
  expect(batch.match(/^ {2}base .*$/gm)?.join()).not.toMatch(/😃/);

  expect(stdout).toContain('num_tasks = 2');
  expect(stdout).toContain('54 of 54 files equal bit by bit');
  expect(readdirSync(join(out, 'fastertransformer', '1-gpu'))).toHaveLength(55);
  const [own, rinna] = await Promise.all([
    PrefixWeights.load(join(out, 'smile.safetensors')),
    PrefixWeights.load(join(out, 'smile.checkpoint'), { numLayers: 4, numHeads: 6 }),
  ]);
  expect(own.shape).toEqual([10, 4, 2, 6, 32]);
  expect(rinna.hash).toBe(own.hash);
});

test('a task that is not learned ends the demonstration with an error', async () => {
  const { code, stdout, stderr } = await runTypeScript(example('demo'), [
    '--epochs',
    '1',
    '--train',
    '8',
    '--out',
    out,
  ]);
  expect(stdout).toContain('54 of 54 files equal bit by bit');
  expect(stderr).toContain('error: a prefix does not do what it was trained for');
  expect(code).toBe(1);
});

test('Ctrl-C ends the demonstration and leaves nothing half-written', async () => {
  const { code, stderr } = await runTypeScript(example('demo'), ['--out', out], {
    interruptAfter: /base model +[\d.]+/,
  });
  expect(stderr.trim()).toBe('Interrupted.');
  expect(code).toBe(130);
  expect(readdirSync(out)).toEqual([]);
});
