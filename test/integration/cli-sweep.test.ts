import { existsSync, readdirSync } from 'node:fs';
import { PrefixWeights } from '../../lib/prefix/weights';
import { temporaryFolder } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';
import { TRAIN } from './cli-run';

const folder = temporaryFolder();
const OUT = folder.join('sweep');
const [, ...REST] = TRAIN;
// TRAIN ends with a single learning rate, and these are several.
const SWEEP = ['sweep', ...REST.slice(0, -2), '--n-training-steps', '3', '--no-samples', '--out', OUT];
const LISTS = ['--max-lrs', '1e-3,1e-2', '--prefix-seq-lens', '2,5'];

jest.setTimeout(120_000);

test('trains each combination over one loaded model, and prints a table with the best one first', async () => {
  const { code, stdout, stderr } = await cli([...SWEEP, ...LISTS]);
  expect({ code, errors: stderr.includes('error') && !stderr.includes('squared error') }).toEqual({
    code: 0,
    errors: false,
  });
  expect(stderr.match(/loaded in/g)).toHaveLength(1);
  expect(stderr).toMatch(/^run 4 of 4: learningRate=0\.01,prefixLength=5$/m);
  const [heading, first, ...others] = stdout.split('\n');
  expect(heading).toMatch(/^ +loss +perplexity +best epoch +steps +time$/);
  const losses = [first, ...others.slice(0, 3)].map((line) => Number((line as string).split(/ +/)[1]));
  expect(losses).toEqual([...losses].sort((a, b) => a - b));
  const best = (first as string).split(' ')[0] as string;
  expect(stdout).toContain(`best of 4 runs: ${OUT}/${best}/best.safetensors\n`);
  expect((await PrefixWeights.load(`${OUT}/${best}/best.safetensors`)).prefixLength).toBe(Number(best.slice(-1)));
  expect(readdirSync(OUT)).toHaveLength(4);

  const taken = await cli([...SWEEP, '--max-lrs', '1,1e-2', '--prefix-seq-lens', '5']);
  expect(taken).toMatchObject({ code: 2, stdout: '' });
  expect(taken.stderr).toBe(
    `error: There is a training run already in ${OUT}/learningRate=0.01,prefixLength=5\n` +
      'hint: give --resume to go on with it, --overwrite to replace it, or choose another --out\n',
  );
  expect(readdirSync(OUT)).toHaveLength(4);

  const resumed = await cli([...SWEEP, ...LISTS, '--resume', '--json']);
  expect(resumed.code).toBe(0);
  const events = jsonLines(resumed.stdout);
  expect(events.some(({ type }) => type === 'step')).toBe(false);
  const names = ['0.001,prefixLength=2', '0.001,prefixLength=5', '0.01,prefixLength=2', '0.01,prefixLength=5'];
  expect([...new Set(events.slice(0, -1).map(({ run }) => run))]).toEqual(names.map((name) => `learningRate=${name}`));
  expect((events.at(-1) as { runs: { loss: number }[] }).runs.map(({ loss }) => loss.toFixed(4))).toEqual(
    losses.map((loss) => loss.toFixed(4)),
  );
});

test('a prompt that is too long behind the longest prefix is refused before the first run', async () => {
  const out = folder.join('too long');
  // It fits behind the first of them.
  const args = [
    ...SWEEP.slice(0, -3),
    '--out',
    out,
    '--prefix-seq-lens',
    '2,1900',
    '--sample-prompt',
    '雨'.repeat(200),
  ];
  const { code, stderr } = await cli(args);
  expect([code, stderr]).toEqual([1, expect.stringMatching(/error: --sample-prompt \[0\] needs 21\d\d positions/)]);
  expect(existsSync(out)).toBe(false);
});

test.each([
  [
    [],
    /error: A sweep needs a list of values: one or more of --max-lrs, --prefix-seq-lens, --prefix-hidden-dims, --batch-sizes, --seeds\n/,
  ],
  [['--max-lrs', '1e-3,1e-3'], /Expected each value once\./],
  [['--max-lrs', '1e-3', '--max-lr', '1'], /cannot be used with option/],
  [['--max-lrs', '1e-3,x'], /Expected a number of at least 0\./],
])('%j is refused before anything is loaded', async (args, text) => {
  const { code, stderr } = await cli([...SWEEP.slice(0, -1), folder.join('none'), ...args]);
  expect(code).toBe(2);
  expect(stderr).toMatch(text);
  expect(stderr).not.toContain('loaded in');
});
