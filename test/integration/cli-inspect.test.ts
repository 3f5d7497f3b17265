import { cpSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RunLock } from '../../lib/runs/run-lock';
import { temporaryFolder } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';
import { MODEL, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');

jest.setTimeout(120_000);

beforeAll(async () => {
  expect(await trainSmile(RUN)).toMatchObject({ code: 0 });
});

async function holdLock(path: string): Promise<AsyncDisposable> {
  const lock = await RunLock.take(path);
  return { [Symbol.asyncDispose]: () => lock.release() };
}

describe('inspect', () => {
  test('each kind of thing', async () => {
    const checkpoint = folder.join('smile2.checkpoint');
    await cli(['export', 'rinna', '--prefix', BEST, '--out', checkpoint]);
    cpSync(join(MODEL, 'spiece.model'), folder.join('spiece.model'));
    const paths = [BEST, checkpoint, join(RUN, 'encoder.safetensors'), RUN, MODEL, folder.join('spiece.model')];
    const { code, stdout } = await cli(['inspect', '--model', MODEL, '--json', ...paths]);
    expect(code).toBe(0);
    expect(jsonLines(stdout)).toMatchObject([
      {
        kind: 'prefix',
        format: 'safetensors',
        shape: [10, 4, 2, 6, 32],
        metadata: { task: 'smile' },
        statistics: { nanCount: 0 },
      },
      { kind: 'prefix', format: 'rinna', shape: [10, 4, 2, 6, 32] },
      { kind: 'encoder', prefixLength: 10 },
      {
        kind: 'run',
        epochs: [{ epoch: 1, step: 8, best: true }, { epoch: 2 }],
        ...{
          state: 'epochs',
          step: 16,
          totalSteps: 16,
          process: null,
          host: null,
          resumable: { step: 16, file: 'state-000000016.safetensors' },
        },
        best: { step: 16, epoch: 2 },
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

  test('a run tells where it stands, and whether its files are as they were written', async () => {
    const run = folder.join('changed');
    cpSync(RUN, run, { recursive: true });
    const whole = (await cli(['inspect', run])).stdout;
    expect(whole).toMatch(/^state +Finished$/m);
    expect(whole).toMatch(/^steps +16 of 16, in 2 epochs$/m);
    expect(whole).toMatch(/^best +step 16, epoch 2: validation loss [\d.]+, perplexity [\d.]+$/m);
    expect(whole).toMatch(/^time +\S+, \d+ tokens a second, [\d.]+ [MG]B of memory at the peak$/m);
    expect(whole).toMatch(/^resumable +yes, at step 16, from state-000000016\.safetensors$/m);
    expect(whole).toMatch(/^best\.safetensors +62\.\d kB +yes$/m);
    expect(whole).toMatch(/^report\.html +\d+ kB$/m);

    const cut = (name: string): void => truncateSync(join(run, name), statSync(join(run, name)).size - 4);
    cut('state-000000016.safetensors');
    rmSync(join(run, 'last.safetensors'));
    const bytes = readFileSync(join(run, 'best.safetensors'));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(join(run, 'best.safetensors'), bytes);
    const { code, stdout, stderr } = await cli(['inspect', run]);
    expect(code).toBe(0);
    const size = statSync(join(run, 'state-000000016.safetensors')).size;
    expect(stderr).toBe(
      `warning: ${join(run, 'best.safetensors')} has changed: its SHA-256 is another one\n` +
        `warning: ${join(run, 'last.safetensors')} is missing\n` +
        `warning: ${join(run, 'state-000000016.safetensors')} has changed: ${size} bytes, expected ${size + 4}\n`,
    );
    // The state before that one is whole.
    expect(stdout).toMatch(/^resumable +yes, at step 8, from state-000000008\.safetensors$/m);
    expect(stdout).toMatch(/^last\.safetensors +is missing$/m);
    cut('state-000000008.safetensors');
    expect((await cli(['inspect', run])).stdout).toMatch(
      /^resumable +no: .*state-000000016\.safetensors is not usable/m,
    );
    for (const step of ['08', '16']) rmSync(join(run, `state-0000000${step}.safetensors`));
    expect(jsonLines((await cli(['inspect', run, '--json'])).stdout)).toMatchObject([
      { resumable: { problem: 'no state was saved' } },
    ]);
  });

  test('a run that is at work, and one that was killed', async () => {
    const run = folder.join('half');
    cpSync(RUN, run, { recursive: true });
    const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').split('\n');
    const half = lines.findIndex((line) => line.startsWith('{"type":"step","step":12,'));
    writeFileSync(
      join(run, 'metrics.jsonl'),
      `${lines.slice(0, half + 1).join('\n')}\n${lines[half + 1]!.slice(0, 30)}`,
    );
    rmSync(join(run, 'best.safetensors'));
    const killed = await cli(['inspect', run]);
    expect(killed.stdout).toMatch(/^state +Not finished: interrupted, or still going on$/m);
    expect(killed.stdout).toMatch(/^steps +12 of 16, in 2 epochs$/m);
    expect(killed.stderr).toContain('best.safetensors is missing');
    await using lock = await holdLock(join(run, 'run.lock'));
    const atWork = await cli(['inspect', run]);
    expect(lock).toBeDefined();
    expect(atWork.stdout).toMatch(new RegExp(`^state +at work: process ${process.pid} on `, 'm'));
    // Its files change meanwhile.
    expect(atWork.stderr).toBe('');
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
