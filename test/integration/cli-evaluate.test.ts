import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readDataset } from '../../lib/data/dataset';
import { PrefixWeights } from '../../lib/prefix/weights';
import { evaluate } from '../../lib/training/evaluate';
import { loadModel, temporaryFolder, writeRandomModel } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';
import { DATA, MODEL, PACKING, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');

jest.setTimeout(120_000);

beforeAll(async () => {
  expect(await trainSmile(RUN)).toMatchObject({ code: 0 });
});

test('evaluate gives a table of the prefixes and the base model, equal to the library', async () => {
  const last = join(RUN, 'last.safetensors');
  const args = ['evaluate', '--model', MODEL, ...PACKING, '--dev-data-size', '8', '--prefix', BEST, '--prefix', last];
  const { code, stdout, stderr } = await cli(args);
  expect(code).toBe(0);
  expect(stderr).toContain('diary.jsonl: 440 samples');
  const [heading, base, best] = stdout.split('\n') as [string, string, string];
  expect(heading.trim().split(/\s+/)).toEqual(['loss', 'perplexity', 'accuracy', 'tokens']);
  expect(base).toMatch(/^base model +[\d.]+ +[\d.]+ +[\d.]+% +/);
  expect(best.startsWith(BEST)).toBe(true);
  const [json] = jsonLines((await cli([...args, '--no-base', '--json'])).stdout);
  await using model = await loadModel(MODEL);
  const samples = await readDataset(DATA, {
    packing: 'lines',
    suffix: ' 😃',
    keepRemainder: true,
    tokenizer: model.tokenizer,
  });
  const expected = await evaluate(model, samples.slice(-8), { prefix: await PrefixWeights.load(BEST) });
  expect(json).toEqual({
    samples: 8,
    results: [expect.objectContaining({ path: BEST, ...expected }), expect.objectContaining({ path: last })],
  });
  const tooMany = await cli([...args, '--dev-data-size', '500']);
  expect(tooMany).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('The last 500 samples were asked for, but there are only 440 samples'),
  });
});

test('a prefix of a model with the same shape and other weights needs a word', async () => {
  const changes = {
    vocab_size: 100,
    hidden_size: 192,
    num_hidden_layers: 4,
    num_attention_heads: 6,
    intermediate_size: 64,
  };
  const twin = await writeRandomModel(folder.path, changes);
  const args = ['evaluate', '--model', twin, '--prefix', BEST, '--data', folder.join('ids.jsonl')];
  writeFileSync(folder.join('ids.jsonl'), '{"completion":[5,6,7]}\n');
  const { code, stderr } = await cli(args);
  expect(code).toBe(1);
  expect(stderr).toContain('was trained on another base model');
  expect(stderr).toContain('give --allow-fingerprint-mismatch');
  expect((await cli([...args, '--allow-fingerprint-mismatch'])).code).toBe(0);
});

describe('arguments are looked at before a model is loaded', () => {
  // There is no such model, so whoever loads it first says so.
  const model = ['--model', folder.join('nowhere')];
  const data = folder.join('data.csv');
  const found = folder.join('data.jsonl');
  beforeAll(() => {
    for (const path of [data, found]) writeFileSync(path, '{"text":"今日は"}\n');
  });

  test.each(['train', 'evaluate'])('%s: data of an unknown kind', async (command) => {
    const out = command === 'train' ? ['--out', folder.join('none')] : [];
    const { code, stderr } = await cli([command, ...model, '--data', data, ...out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^error: Expected a file named \.jsonl, \.ndjson, \.txt, or that and \.gz, for path .*\nhint: give --format jsonl or --format text\n$/,
    );
    expect((await cli([command, ...model, '--data', data, '--format', 'jsonl', ...out])).stderr).toContain('nowhere');
  });

  test.each([
    ['evaluate', ['--data', found]],
    ['generate', ['--prompt', 'x']],
  ])('%s: a prefix that is not there', async (command, args) => {
    const { code, stderr } = await cli([command, ...model, ...args, '--prefix', folder.join('none.safetensors')]);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `error: No such file or folder: ${folder.join('none.safetensors')}\n`,
    });
  });
});
