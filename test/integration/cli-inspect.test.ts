import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../helpers';
import { cli, jsonLines } from '../unit/cli-helpers';
import { MODEL, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');

jest.setTimeout(120_000);

beforeAll(async () => {
  expect(await trainSmile(RUN)).toMatchObject({ code: 0 });
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
