import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PrefixEncoder } from '../../lib/training/encoder';
import { PrefixWeights } from '../../lib/prefix/weights';
import { loadModel, temporaryFolder, writeRandomModel } from '../helpers';
import { cli, fakeIO, jsonLines, type CliResult } from '../unit/cli/cli-helpers';
import { DATA, MODEL, TRAIN, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');

/** What every run leaves besides its states. */
const FILES = [
  ...[
    'about.json',
    'best.safetensors',
    'encoder.safetensors',
    'events.out.tfevents',
    'last.safetensors',
    'manifest.json',
  ],
  ...['metrics.jsonl', 'recipe.json', 'report.html'],
];
const filesOf = (run: string): string[] =>
  readdirSync(run)
    .map((name) => name.replace(/^(events\.out\.tfevents)\..*/, '$1'))
    .sort();

let trained: CliResult;

jest.setTimeout(120_000);

beforeAll(async () => {
  trained = await trainSmile(RUN);
});

describe('train', () => {
  test('says what it does on stderr and where the prefix is on stdout', () => {
    expect(trained.code).toBe(0);
    expect(trained.stdout).toMatch(
      /^16 steps in [\d.]+s; best epoch 2, step 16, validation perplexity [\d.]+\nprefix: /,
    );
    expect(trained.stdout).toContain(`prefix: ${BEST}\n`);
    const { stderr } = trained;
    expect(stderr).toMatch(/^tiny-ja-neox: 2\.57 M parameters, 4 layers of 192, float32 on cpu/);
    expect(stderr).toContain(
      '32 samples train, 8 validate; 101 k trainable parameters; initial fit: mean squared error ',
    );
    expect(stderr).toMatch(/^memory: about [\d.]+ [MG]B at the peak, the process included$/m);
    expect(stderr).toMatch(
      /^training: 31% \| 5 of 16 steps \| ETA .* \| loss [\d.]+ \| ppl [\d.]+ \| epoch 1\/2 \| \d+ tok\/s \| lr 0\.0096 \| [\d.]+ [MG]B$/m,
    );
    expect(stderr).toMatch(/^step 16 \| validation loss [\d.]+, perplexity [\d.]+, accuracy [\d.]+% \(best\)$/m);
    expect(stderr).toMatch(/^epoch 2\/2 \| step 16 \| train loss [\d.]+, perplexity [\d.]+ \| [\d.]+s$/m);
    expect(filesOf(RUN)).toEqual([...FILES, 'state-000000008.safetensors', 'state-000000016.safetensors']);
  });

  test('the options reach the trainer', async () => {
    expect(JSON.parse(readFileSync(join(RUN, 'recipe.json'), 'utf8'))).toMatchObject({
      ...{
        name: 'smile',
        epochs: 2,
        trainingSteps: 100,
        batchSize: 4,
        accumulationSteps: 1,
        learningRate: 0.01,
        warmupSteps: 0,
      },
      ...{
        adamBeta1: 0.9,
        adamBeta2: 0.99,
        adamEpsilon: 1e-8,
        weightDecay: 0.01,
        gradClip: 1,
        shuffle: true,
        twoRows: true,
        seed: 42,
      },
    });
    expect((await PrefixWeights.load(BEST)).metadata).toMatchObject({ task: 'smile', metrics: { epoch: 2, step: 16 } });
  });

  test('--json gives events, one a line, and nothing else; one seed gives one result', async () => {
    const { code, stdout } = await cli([
      ...TRAIN,
      '--n-epochs',
      '2',
      '--n-training-steps',
      '100',
      '--out',
      folder.join('again'),
      '--json',
    ]);
    expect(code).toBe(0);
    const events = jsonLines(stdout);
    expect(events.map(({ type }) => type).filter((type) => type !== 'step')).toEqual([
      ...['start', 'prefix', 'samples'],
      ...['evaluation', 'prefix', 'checkpoint', 'epoch', 'checkpoint', 'checkpoint'],
      ...['evaluation', 'prefix', 'checkpoint', 'epoch', 'checkpoint', 'checkpoint'],
      ...['samples', 'end', 'result'],
    ]);
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(16);
    const [first, second] = await Promise.all([
      PrefixWeights.load(BEST),
      PrefixWeights.load(folder.join('again', 'best.safetensors')),
    ]);
    expect(second.hash).toBe(first.hash);
  });

  test('a trained prefix is trained on as it is, without an encoder', async () => {
    const out = folder.join('of-a-prefix');
    const args = [...TRAIN.slice(0, -4), '--checkpoint-path', BEST, '--n-training-steps', '1', '--no-samples'];
    const { code, stderr } = await cli([...args, '--out', out]);
    expect(code).toBe(0);
    // P x L x 2 x H numbers, and no layers in front of them.
    expect(stderr).toContain('32 samples train, 8 validate; 15.4 k trainable parameters');
    const [before, after] = await Promise.all(
      [BEST, join(out, 'last.safetensors')].map((path) => PrefixWeights.load(path)),
    );
    expect(after!.shape).toEqual(before!.shape);
    expect(after!.hash).not.toBe(before!.hash);
  });

  test('goes on from an encoder, with a validation file of its own', async () => {
    const valid = folder.join('valid.jsonl');
    writeFileSync(valid, `${JSON.stringify({ prompt: '今日は', completion: '雨でした。 😃' })}\n`);
    const args = [
      'train',
      '--model',
      MODEL,
      '--threads',
      '1',
      '--data',
      valid,
      '--validation',
      valid,
      '--out',
      folder.join('more'),
    ];
    const { code, stdout } = await cli([
      ...args,
      '--checkpoint-path',
      join(RUN, 'encoder.safetensors'),
      '--n-epochs',
      '1',
      '--json',
    ]);
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
    expect(help.replace(/\s+/g, ' ')).toMatch(
      new RegExp(`--prefix-hidden-dim <n> [^<]*default: ${encoder.hiddenDim}\\)`),
    );
  });

  test('an interrupted run is saved, and goes on with --resume to the same prefix', async () => {
    const io = fakeIO();
    const { stdout } = io;
    const write = stdout.write.bind(stdout);
    stdout.write = (text: string): unknown => {
      if (text.includes('"step":11')) io.interrupt();
      return write(text);
    };
    const out = folder.join('interrupted');
    const args = [...TRAIN, '--n-epochs', '2', '--n-training-steps', '100', '--out', out];
    const { code, stderr, stdout: text } = await cli([...args, '--json'], { io });
    expect(code).toBe(130);
    expect(jsonLines(text).at(-1)).toEqual({ type: 'interrupted', step: 11 });
    expect(stderr.endsWith('saved at step 11; the same command with --resume goes on from there\ninterrupted\n')).toBe(
      true,
    );
    expect((await cli(args)).code).toBe(2);
    const resumed = await cli([...args, '--resume']);
    expect(resumed.code).toBe(0);
    expect(resumed.stderr).toMatch(/^resumed at step 11, epoch 2, after [\d.]+s$/m);
    expect((await PrefixWeights.load(join(out, 'best.safetensors'))).hash).toBe((await PrefixWeights.load(BEST)).hash);
    const other = await cli([...args, '--resume', '--weight-decay', '0.5']);
    expect(other.code).toBe(1);
    expect(other.stderr).toContain('recipe: weightDecay was 0.01 and is 0.5');
  });

  test('a prompt that is too long is refused before the folder is made', async () => {
    const out = folder.join('too long');
    const { code, stderr } = await cli([
      ...TRAIN,
      '--out',
      out,
      '--sample-prompt',
      '今日は',
      '--sample-prompt',
      '雨'.repeat(2100),
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^error: --sample-prompt \[1\] needs 21\d\d positions, prefix included, and the model has 2048$/m,
    );
    expect(existsSync(out)).toBe(false);
  });

  test('a run that is interrupted before its first state says what to do', async () => {
    const io = fakeIO();
    const out = folder.join('no state');
    const watch = setInterval(() => existsSync(join(out, 'recipe.json')) && io.interrupt(), 2);
    const args = [...TRAIN, '--n-epochs', '1', '--n-training-steps', '1', '--no-samples', '--out', out];
    // The initial fit takes minutes, unless it is interrupted.
    const { code, stderr } = await cli([...args, '--init-steps', '1000000'], { io }).finally(() =>
      clearInterval(watch),
    );
    expect(code).toBe(130);
    const what = `${out} has the beginning of the run, and no state yet: with --resume the same command begins anew, with --overwrite too`;
    expect(stderr.endsWith(`${what}\ninterrupted\n`)).toBe(true);
    expect((await cli(args)).code).toBe(2);
    expect((await cli([...args, '--resume'])).code).toBe(0);
  });

  test('data that gives no sample says why', async () => {
    const { code, stderr } = await cli([
      'train',
      '--model',
      MODEL,
      '--data',
      DATA,
      '--packing',
      'lines',
      '--out',
      folder.join('none'),
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain(
      'hint: the last lines of each text, up to 64 tokens or one longer line, are dropped, and no text has more: give --keep-remainder',
    );
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
    const own = ['best.safetensors', 'state-000000123.safetensors', '.last.safetensors.12-0123456789ab.tmp'];
    for (const name of [...own, 'notes.txt']) writeFileSync(join(out, name), '');
    const args = [
      'train',
      '--model',
      MODEL,
      '--threads',
      '1',
      '--data',
      data,
      '--out',
      out,
      '--n-epochs',
      '1',
      '--no-two-rows',
    ];
    expect((await cli(args)).code).toBe(2);
    const { code, stdout, stderr } = await cli([...args, '--overwrite']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^1 step in /);
    expect(stderr).toContain('1 sample train, 0 validate');
    expect(stderr).toContain(` --prefix '${join(out, 'best.safetensors')}' --compare\n`);
    expect(filesOf(out)).toEqual([...FILES, 'notes.txt', 'state-000000001.safetensors'].sort());
  });
});
