import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readDataset } from '../../lib/data/dataset';
import { PrefixEncoder } from '../../lib/prefix/encoder';
import { PrefixWeights } from '../../lib/prefix/weights';
import { evaluate } from '../../lib/training/evaluate';
import { loadModel, temporaryFolder, writeRandomModel } from '../helpers';
import { cli, fakeIO, jsonLines, type CliResult } from '../unit/cli-helpers';

const MODEL = join(__dirname, '..', '..', 'examples', 'models', 'tiny-ja-neox');
const DATA = join(__dirname, '..', '..', 'examples', 'data', 'diary.jsonl');
const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');
const PACKING = ['--data', DATA, '--packing', 'lines', '--suffix', ' 😃', '--keep-remainder'];
const SIZES = ['--train-data-size', '32', '--dev-data-size', '8'];
const TRAIN = ['train', '--model', MODEL, '--threads', '1', ...PACKING, ...SIZES, '--prefix-hidden-dim', '64', '--max-lr', '1e-2'];
const GENERATE = ['generate', '--model', MODEL, '--threads', '1', '--seed', '1', '--max-new-tokens', '20'];

let trained: CliResult;

jest.setTimeout(120_000);

beforeAll(async () => {
  trained = await cli([
    ...TRAIN,
    '--n-epochs',
    '2',
    '--n-training-steps',
    '100',
    '--save-name',
    'smile',
    '--out',
    RUN,
    '--log-every-n-steps',
    '5',
  ]);
});

describe('train', () => {
  test('says what it does on stderr and where the prefix is on stdout', () => {
    expect(trained.code).toBe(0);
    expect(trained.stdout).toMatch(/^16 steps in [\d.]+s; best epoch 2, validation perplexity [\d.]+\nprefix: /);
    expect(trained.stdout).toContain(`prefix: ${BEST}\n`);
    const { stderr } = trained;
    expect(stderr).toMatch(/^tiny-ja-neox: 2\.57 M parameters, 4 layers of 192, float32 on cpu/);
    expect(stderr).toContain('32 samples train, 8 validate; 101 k trainable parameters; initial fit: mean squared error ');
    expect(stderr).toMatch(/^training: 31% \| 5 of 16 steps \| ETA .* \| epoch 1\/2 \| loss [\d.]+ \| lr 0\.0096 \| \d+ tok\/s$/m);
    expect(stderr).toMatch(/^epoch 2\/2 \| step 16 \| train loss [\d.]+ \| validation loss [\d.]+, perplexity [\d.]+ \(best\)/m);
    expect(readdirSync(RUN).sort()).toEqual([
      'best.safetensors',
      'encoder.safetensors',
      'last.safetensors',
      'metrics.jsonl',
      'recipe.json',
    ]);
  });

  test('the options reach the trainer', async () => {
    expect(JSON.parse(readFileSync(join(RUN, 'recipe.json'), 'utf8'))).toEqual({
      ...{ name: 'smile', epochs: 2, trainingSteps: 100, batchSize: 4, accumulationSteps: 1, learningRate: 0.01, warmupSteps: 0 },
      ...{ adamBeta1: 0.9, adamBeta2: 0.99, adamEpsilon: 1e-8, weightDecay: 0.01, gradClip: 1, shuffle: true, twoRows: true, seed: 42 },
    });
    expect((await PrefixWeights.load(BEST)).metadata).toMatchObject({ task: 'smile', metrics: { epoch: 2, step: 16 } });
  });

  test('--json gives events, one a line, and nothing else; one seed gives one result', async () => {
    const { code, stdout } = await cli([...TRAIN, '--n-epochs', '2', '--n-training-steps', '100', '--out', folder.join('again'), '--json']);
    expect(code).toBe(0);
    const events = jsonLines(stdout);
    expect(events.map(({ type }) => type).filter((type) => type !== 'step')).toEqual([
      ...['start', 'evaluation', 'checkpoint', 'checkpoint', 'epoch', 'evaluation', 'checkpoint', 'checkpoint', 'epoch', 'result'],
    ]);
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(16);
    const [first, second] = await Promise.all([PrefixWeights.load(BEST), PrefixWeights.load(folder.join('again', 'best.safetensors'))]);
    expect(second.hash).toBe(first.hash);
  });

  test('goes on from an encoder, with a validation file of its own', async () => {
    const valid = folder.join('valid.jsonl');
    writeFileSync(valid, `${JSON.stringify({ prompt: '今日は', completion: '雨でした。 😃' })}\n`);
    const args = ['train', '--model', MODEL, '--threads', '1', '--data', valid, '--validation', valid, '--out', folder.join('more')];
    const { code, stdout } = await cli([...args, '--checkpoint-path', join(RUN, 'encoder.safetensors'), '--n-epochs', '1', '--json']);
    expect(code).toBe(0);
    expect(jsonLines(stdout)[0]).toMatchObject({ type: 'start', trainSamples: 1, validationSamples: 1, totalSteps: 1 });
    // One step of 1e-4 leaves it near where it was.
    const [before, after] = await Promise.all([
      PrefixWeights.load(join(RUN, 'last.safetensors')),
      PrefixWeights.load(folder.join('more', 'last.safetensors')),
    ]);
    const distance = Math.max(...before.data.map((value, i) => Math.abs(value - (after.data[i] as number))));
    expect(distance).toBeGreaterThan(0);
    expect(distance).toBeLessThan(0.02);
  });

  test('the defaults that the help tells are those of the encoder', async () => {
    await using model = await loadModel(await writeRandomModel(folder.path));
    using encoder = await PrefixEncoder.create(model);
    const help = (await cli(['train', '--help'])).stdout;
    expect(help).toMatch(new RegExp(`--prefix-seq-len <n> .*default: ${encoder.prefixLength}\\)`));
    expect(help).toMatch(new RegExp(`--prefix-input-dim <n> .*default: ${encoder.inputDim}\\)`));
    expect(help.replace(/\s+/g, ' ')).toMatch(new RegExp(`--prefix-hidden-dim <n> [^<]*default: ${encoder.hiddenDim}\\)`));
  });

  test('an interrupted run keeps what it had, and can be gone on from', async () => {
    const io = fakeIO();
    const { stdout } = io;
    const write = stdout.write.bind(stdout);
    stdout.write = (text: string): unknown => {
      if (text.includes('"step":11')) io.interrupt();
      return write(text);
    };
    const out = folder.join('interrupted');
    const { code, stderr, stdout: text } = await cli([...TRAIN, '--out', out, '--json'], { io });
    expect(code).toBe(130);
    expect(jsonLines(text).at(-1)).toMatchObject({ type: 'interrupted', step: 11, epoch: 2 });
    expect(stderr).toContain(`kept: ${join(out, 'best.safetensors')} and ${join(out, 'last.safetensors')} (step 8)\n`);
    expect(stderr).toContain(`kept: ${join(out, 'interrupted.safetensors')} (step 11, in the middle of epoch 2)\n`);
    expect(stderr.endsWith('interrupted\n')).toBe(true);
    const kept = await PrefixWeights.load(join(out, 'interrupted.safetensors'));
    expect(kept.hash).not.toBe((await PrefixWeights.load(join(out, 'last.safetensors'))).hash);
    await using model = await loadModel(MODEL);
    using encoder = await PrefixEncoder.load(model, join(out, 'interrupted-encoder.safetensors'));
    expect((await encoder.prefix()).hash).toBe(kept.hash);
  });

  test('data that gives no sample says why', async () => {
    const { code, stderr } = await cli(['train', '--model', MODEL, '--data', DATA, '--packing', 'lines', '--out', folder.join('none')]);
    expect(code).toBe(1);
    expect(stderr).toContain('hint: every text is shorter than 64 tokens and gives no full sample: use --keep-remainder');
    expect(existsSync(folder.join('none'))).toBe(false);
  });

  test('a --dev-data-size that leaves no sample is refused', async () => {
    const data = folder.join('two.jsonl');
    writeFileSync(data, '{"text":"今日は"}\n{"text":"雨"}\n');
    const args = ['train', '--model', MODEL, '--threads', '1', '--data', data, '--out', folder.join('none')];
    const { code, stderr } = await cli([...args, '--dev-data-size', '2']);
    expect(code).toBe(1);
    expect(stderr).toContain('error: --dev-data-size 2 leaves nothing to train on: there are only 2 samples\n');
    expect(existsSync(folder.join('none'))).toBe(false);
  });

  test('--overwrite removes what the old run left, and nothing else', async () => {
    const data = folder.join('one.jsonl');
    writeFileSync(data, '{"text":"今日は雨でした"}\n');
    const out = folder.join('old run');
    mkdirSync(out);
    const own = ['interrupted.safetensors', 'interrupted-encoder.safetensors', '.last.safetensors.12-0123456789ab.tmp'];
    for (const name of [...own, 'notes.txt']) writeFileSync(join(out, name), '');
    const args = ['train', '--model', MODEL, '--threads', '1', '--data', data, '--out', out, '--n-epochs', '1', '--no-two-rows'];
    expect((await cli(args)).code).toBe(2);
    const { code, stdout, stderr } = await cli([...args, '--overwrite']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^1 step in /);
    expect(stderr).toContain('1 sample train, 0 validate');
    expect(stderr).toContain(` --prefix '${join(out, 'best.safetensors')}' --compare\n`);
    expect(readdirSync(out).sort()).toEqual([
      ...['best.safetensors', 'encoder.safetensors', 'last.safetensors', 'metrics.jsonl', 'notes.txt', 'recipe.json'],
    ]);
  });

  test('a trained prefix is no encoder to go on from', async () => {
    const { stderr } = await cli([...TRAIN.slice(0, -4), '--checkpoint-path', BEST, '--out', folder.join('none')]);
    expect(stderr).toMatch(/hint: .*it is the encoder\.safetensors of a run; a trained prefix is for `generate --prefix`/);
  });
});

describe('generate', () => {
  test('prints prompt and text; the seed decides', async () => {
    const first = await cli([...GENERATE, '--prefix', BEST, '--prompt', '今日は']);
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/^今日は.+\n$/);
    const again = await cli([...GENERATE, '--prefix', BEST, '--prompt', '今日は', '--stream']);
    expect(again.stdout).toBe(first.stdout);
    const [other] = jsonLines((await cli([...GENERATE, '--seed', '2', '--prefix', BEST, '--prompt', '今日は', '--json'])).stdout);
    expect(other).toMatchObject({ results: [{ prompt: '今日は', prefix: 'smile', seed: 2, usage: { prefixTokens: 10 } }] });
    expect(first.stdout).not.toContain((other as { results: { text: string }[] }).results[0]!.text);
  });

  test('rinna’s decoding is the default, and its parts can be set', async () => {
    const text = async (...args: string[]): Promise<string> => (await cli([...GENERATE, '--prompt', '今日は', ...args])).stdout;
    const nucleus = await text();
    expect(await text('--decode-method', 'nucleus', '--top-p', '0.95', '--top-k', '50', '--temperature', '1')).toBe(nucleus);
    const greedy = await text('--decode-method', 'greedy');
    expect(await text('--top-k', '1')).toBe(greedy);
    expect(await text('--temperature', '0')).toBe(greedy);
    expect(greedy).not.toBe(nucleus);
  });

  test('without --max-new-tokens it is 128, as the help says', async () => {
    const { stdout } = await cli([
      'generate',
      '--model',
      MODEL,
      '--prompt',
      '今日は',
      '--ignore-eos',
      '--json',
      '--decode-method',
      'greedy',
    ]);
    expect(jsonLines(stdout)).toEqual([
      { results: [expect.objectContaining({ finishReason: 'length', usage: expect.objectContaining({ completionTokens: 128 }) })] },
    ]);
  });

  test('--compare answers each prompt with and without the prefix', async () => {
    const args = [...GENERATE, '--prefix', BEST, '--compare', '--prompt', '今日は', '--prompt', '休日の朝に'];
    const { stdout } = await cli(args);
    expect(stdout).toMatch(/^今日は\n {2}smile {7}.+\n {2}base model {2}.+\n\n休日の朝に\n {2}smile /);
    const { results } = jsonLines((await cli([...args, '--json'])).stdout)[0] as {
      results: { prefix: string | null; text: string; seed: number }[];
    };
    expect(results.map(({ prefix, seed }) => [prefix, seed])).toEqual([
      ['smile', 1],
      [null, 1],
      ['smile', 2],
      [null, 2],
    ]);
    // Each row is what the prompt gives alone.
    expect((await cli([...GENERATE, '--seed', '2', '--prompt', '休日の朝に'])).stdout).toBe(`休日の朝に${results[3]!.text}\n`);
  });

  test('prompts of a file, in batches', async () => {
    const file = folder.join('prompts.txt');
    writeFileSync(file, '今日は\n\n休日の朝に\n昨日は\n');
    const one = await cli([...GENERATE, '--prompts-file', file, '--batch-size', '1']);
    expect(one.stdout.split('\n').map((line) => line.slice(0, 3))).toEqual(['今日は', '休日の', '昨日は', '']);
    expect((await cli([...GENERATE, '--prompts-file', file])).stdout).toBe(one.stdout);
  });

  test('--stream --json gives the pieces and then the result', async () => {
    const lines = jsonLines((await cli([...GENERATE, '--prompt', '今日は', '--stream', '--json'])).stdout);
    const pieces = lines.slice(0, -1);
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces.every(({ type, index }) => type === 'piece' && index === 0)).toBe(true);
    expect(lines.at(-1)).toMatchObject({ type: 'result', text: pieces.map(({ text }) => text).join(''), usage: { promptTokens: 1 } });
  });

  test('a prompt loop reads stdin to its end, empty prompts too', async () => {
    const { code, stdout, stderr } = await cli([...GENERATE, '--prefix', BEST], { stdin: '今日は\n\n休日の朝に' });
    expect(code).toBe(0);
    const lines = stdout.split('\n');
    expect(lines).toHaveLength(4);
    expect(lines[0]).toMatch(/^今日は./);
    expect(lines[1]).toMatch(/./);
    expect(lines[2]).toMatch(/^休日の朝に./);
    expect(stderr).not.toContain('Prompt');
    const json = jsonLines((await cli([...GENERATE, '--prefix', BEST, '--json'], { stdin: '今日は\n\n休日の朝に' })).stdout);
    expect(json.map(({ prompt, text }) => `${prompt as string}${text as string}`)).toEqual(lines.slice(0, 3));
  });

  test('a prompt that cannot be answered does not end the prompt loop', async () => {
    const long = '今日は雨でした。'.repeat(1000);
    const { code, stdout, stderr } = await cli(GENERATE, { stdin: `今日は\n${long}\n休日の朝に\n` });
    expect(code).toBe(1);
    expect(stdout).toMatch(/^今日は.+\n休日の朝に.+\n$/);
    expect(stderr).toMatch(/^error: line 2: /m);
    const json = jsonLines((await cli([...GENERATE, '--json'], { stdin: `${long}\n休日の朝に\n` })).stdout);
    expect(json).toMatchObject([{ error: { code: 'NEOX_TOO_LONG' } }, { prompt: '休日の朝に' }]);
  });

  test('without a seed one is drawn and told', async () => {
    const args = ['generate', '--model', MODEL, '--prompt', '今日は', '--max-new-tokens', '20'];
    const { stdout, stderr } = await cli(args);
    const seed = /^seed (\d+)$/m.exec(stderr)![1] as string;
    expect((await cli([...args, '--seed', seed])).stdout).toBe(stdout);
  });

  test('a prefix of another model is refused with both shapes', async () => {
    const other = await writeRandomModel(folder.path);
    const { code, stdout, stderr } = await cli(['generate', '--model', other, '--prefix', BEST, '--prompt', 'x']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain('[10, 4, 2, 6, 32] (positions, layers, 2, heads, head size), the model takes [10, 2, 2, 2, 16]');
  });

  test('a prefix of a model with the same shape and other weights needs a word', async () => {
    const changes = { vocab_size: 100, hidden_size: 192, num_hidden_layers: 4, num_attention_heads: 6, intermediate_size: 64 };
    const twin = await writeRandomModel(folder.path, changes);
    const args = ['evaluate', '--model', twin, '--prefix', BEST, '--data', folder.join('ids.jsonl')];
    writeFileSync(folder.join('ids.jsonl'), '{"completion":[5,6,7]}\n');
    const { code, stderr } = await cli(args);
    expect(code).toBe(1);
    expect(stderr).toContain('was trained on another base model');
    expect(stderr).toContain('give --allow-fingerprint-mismatch');
    expect((await cli([...args, '--allow-fingerprint-mismatch'])).code).toBe(0);
  });
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
  const samples = await readDataset(DATA, { packing: 'lines', suffix: ' 😃', keepRemainder: true, tokenizer: model.tokenizer });
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

describe('export', () => {
  const FT = ['export', 'ft', '--model', MODEL, '--out', folder.join('ft')];

  test('ft writes, refuses, appends, verifies', async () => {
    const first = await cli([
      ...FT,
      '--task',
      `smile=${BEST}`,
      '--dtype',
      'float16',
      '--tensor-parallel',
      '2',
      '--model-name',
      'gptneox',
      '--verify',
    ]);
    expect(first.code).toBe(0);
    const directory = folder.join('ft', '2-gpu');
    expect(first.stdout).toMatch(
      /2-gpu: \d+ files, 5\.2 MB, float16, for 2 GPUs\n {2}task 0 {2}smile {2}\(prefix length 10\)\nverified .*: (\d+) of \1 files equal to their source\n$/,
    );
    expect(first.stderr).toContain('warning: The model uses the erf form of GELU');
    expect(readdirSync(directory)).toContain('model.prefix_prompt.smile.weight.1.bin');

    const again = await cli([...FT, '--tensor-parallel', '2']);
    expect(again.code).toBe(1);
    expect(again.stderr).toContain('hint: choose another folder, give --overwrite to replace it, or --append to add tasks to it');
    const twice = await cli([...FT, '--task', `smile=${BEST}`, '--append']);
    expect(twice).toMatchObject({ code: 1, stderr: expect.stringContaining('hint: choose another name, or give --replace') });

    const appended = await cli([...FT, '--task', `second=${BEST}`, '--append', '--json']);
    expect(jsonLines(appended.stdout)).toEqual([
      expect.objectContaining({
        directory,
        tasks: [expect.objectContaining({ name: 'smile' }), { id: 1, name: 'second', prefixLength: 10 }],
      }),
    ]);
    expect((await cli([...FT, '--task', `smile=${BEST}`, '--append', '--replace'])).code).toBe(0);

    const inspected = await cli(['inspect', directory, '--json']);
    expect(jsonLines(inspected.stdout)).toEqual([
      expect.objectContaining({ kind: 'fastertransformer', dtype: 'float16', tensorParallel: 2 }),
    ]);
  });

  test('ft --verify-only finds a file that was changed, and ends with 1', async () => {
    const out = folder.join('changed');
    const args = ['export', 'ft', '--model', MODEL, '--task', `smile=${BEST}`, '--out', out];
    await cli(args);
    const path = join(out, '1-gpu', 'model.final_layernorm.bias.bin');
    const bytes = readFileSync(path);
    bytes.writeUInt16LE(bytes.readUInt16LE(6) ^ 0x100, 6);
    writeFileSync(path, bytes);
    const { code, stdout } = await cli([...args, '--verify-only']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^differs: .*1-gpu: \d+ of \d+ files equal to their source\n/);
    expect(stdout).toContain('  model.final_layernorm.bias.bin: differs in 1 element, by up to ');
  });

  test('triton writes a model that inspect knows', async () => {
    const out = folder.join('triton');
    const args = ['export', 'triton', '--model', MODEL, '--task', `smile=${BEST}`, '--out', out, '--tensor-parallel', '2'];
    expect((await cli([...args, '--model-name', 'neox'])).code).toBe(0);
    expect((await cli([...args, '--model-name', 'neox'])).stderr).toContain('hint: choose another --model-name, give --overwrite');
    const { stdout } = await cli(['inspect', join(out, 'neox')]);
    expect(stdout).toMatch(/^model +neox$/m);
    expect(stdout).toMatch(/^tensor parallel +2$/m);
    expect(stdout).toMatch(/^smile +0 +10$/m);
    expect(jsonLines((await cli(['inspect', join(out, 'neox'), '--json'])).stdout)).toMatchObject([
      { kind: 'triton', model: 'neox', backend: 'fastertransformer', tensorParallel: 2, tasks: [{ name: 'smile', id: 0 }] },
    ]);
  });

  test('convert speaks of its own options', async () => {
    const ft = folder.join('two-tasks');
    await cli(['export', 'ft', '--model', MODEL, '--task', `a=${BEST}`, '--task', `b=${BEST}`, '--out', ft]);
    const hintOf = async (...args: string[]): Promise<string> => (await cli(['convert', ...args])).stderr;
    expect(await hintOf(BEST, ft, '--name', 'a')).toContain('or give --overwrite to replace it');
    expect(await hintOf(ft, folder.join('a.safetensors'))).toMatch(
      /^error: --task needs the name or id of a task of .*; none was given\nhint: it has a \(0\), b \(1\)\n$/,
    );
    expect(await hintOf(ft, folder.join('a.safetensors'), '--task', 'c')).toContain("; 'c' was given");
    expect(await hintOf(BEST, folder.join('a.xyz'))).toContain('say the format with --format');
  });

  test("a prefix goes to rinna's and PEFT's formats and back", async () => {
    const original = await PrefixWeights.load(BEST);
    for (const [format, out] of [
      ['rinna', folder.join('smile.checkpoint')],
      ['peft', folder.join('adapter')],
    ] as const) {
      expect((await cli(['export', format, '--prefix', BEST, '--out', out])).code).toBe(0);
      expect((await cli(['export', format, '--prefix', BEST, '--out', out])).code).toBe(2);
      const back = `${out}.safetensors`;
      expect((await cli(['export', 'safetensors', '--prefix', out, '--model', MODEL, '--out', back])).code).toBe(0);
      expect((await PrefixWeights.load(back)).hash).toBe(original.hash);
    }
  });
});

describe('inspect', () => {
  test('each kind of thing', async () => {
    const checkpoint = folder.join('smile2.checkpoint');
    await cli(['export', 'rinna', '--prefix', BEST, '--out', checkpoint]);
    cpSync(join(MODEL, 'spiece.model'), folder.join('spiece.model'));
    const paths = [BEST, checkpoint, join(RUN, 'encoder.safetensors'), RUN, MODEL, folder.join('spiece.model')];
    const { code, stdout } = await cli(['inspect', '--model', MODEL, '--json', ...paths]);
    expect(code).toBe(0);
    expect(jsonLines(stdout)).toMatchObject([
      { kind: 'prefix', format: 'safetensors', shape: [10, 4, 2, 6, 32], metadata: { task: 'smile' }, statistics: { nanCount: 0 } },
      { kind: 'prefix', format: 'rinna', shape: [10, 4, 2, 6, 32] },
      { kind: 'encoder', prefixLength: 10 },
      {
        kind: 'run',
        epochs: [{ epoch: 1, step: 8, best: true }, { epoch: 2 }],
        files: ['best.safetensors', 'last.safetensors', 'encoder.safetensors'],
      },
      { kind: 'checkpoint', dtypes: ['F16'], config: { numLayers: 4 }, tokenizer: 'sentencepiece, 2048 tokens' },
      { kind: 'tokenizer', tokenizer: 'sentencepiece', vocabSize: 2048 },
    ]);
    const text = (await cli(['inspect', '--model', MODEL, ...paths])).stdout;
    expect(text).toMatch(/^task +smile$/m);
    expect(text).toMatch(/^fits the model +yes$/m);
    expect(text).toMatch(/^fits the model +its shape does; the file does not name its model$/m);
    expect(text).toMatch(/^layer +key norm +value norm$/m);
    expect(text).toMatch(/^1 \* +8 +[\d.]+/m);
    expect((await cli(['inspect', MODEL, '--tensors'])).stdout).toMatch(
      /^gpt_neox\.layers\.3\.attention\.dense\.weight +F16 +\[192, 192\]$/m,
    );
  });

  test('what cannot be read says what to do', async () => {
    const checkpoint = folder.join('smile3.checkpoint');
    await cli(['export', 'rinna', '--prefix', BEST, '--out', checkpoint]);
    const { code, stderr } = await cli(['inspect', checkpoint]);
    expect(code).toBe(1);
    expect(stderr).toContain('hint: give the model that it is for with --model DIR');
    expect((await cli(['inspect', folder.join('nowhere')])).stderr).toContain('error: No such file or folder');
    const several = await cli(['inspect', join(RUN, 'recipe.json'), BEST]);
    expect(several.code).toBe(1);
    expect(several.stderr).toContain(`error: ${join(RUN, 'recipe.json')} holds nothing that is known here`);
    expect(several.stdout).toMatch(/^prefix +.*best\.safetensors\n/);
    expect((await cli(['inspect', join(__dirname)])).stderr).toContain('holds nothing that is known here');
  });
});
