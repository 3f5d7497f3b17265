import { EXAMPLE_MODEL, loadModel } from '../helpers';
import type { GenerateOptions } from '../../lib/generation/request';
import type { GenerateResult } from '../../lib/generation/output';
import { cli, jsonLines } from '../unit/cli/cli-helpers';

const GENERATE = ['generate', '--model', EXAMPLE_MODEL, '--threads', '1', '--prompt', '今日は', '--json'];

type CliAnswer = GenerateResult & { prompt: string; prefix: null; seed: number | null };

async function answer(args: readonly string[]): Promise<CliAnswer> {
  const { code, stdout, stderr } = await cli([...GENERATE, ...args]);
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  const [{ results }] = jsonLines(stdout) as unknown as [{ results: CliAnswer[] }];
  expect(results).toHaveLength(1);
  return results[0] as CliAnswer;
}

/** Flags, and the options of the library that they are. */
const CASES: [string, string[], GenerateOptions][] = [
  [
    'thresholds',
    ['--min-p', '0.05', '--typical-p', '0.9', '--top-p-rule', 'rinna'],
    { minP: 0.05, typicalP: 0.9, topPRule: 'rinna' },
  ],
  [
    'penalties',
    [
      '--repetition-penalty',
      '1.3',
      '--presence-penalty',
      '0.5',
      '--frequency-penalty',
      '-0.2',
      '--no-repeat-ngram-size',
      '3',
    ],
    { repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: -0.2, noRepeatNgramSize: 3 },
  ],
  [
    'words and biases',
    ['--bad-word', 'でした', '--bad-word', '公園', '--logit-bias', '5=2.5', '--logit-bias', '4=-inf'],
    { badWords: ['でした', '公園'], logitBias: { 5: 2.5, 4: -Infinity } },
  ],
  [
    'ends',
    ['--min-new-tokens', '9', '--eos-token-id', '16', '--eos-token-id', '3', '--stop', 'た', '--stop', 'す'],
    { minNewTokens: 9, eosTokenIds: [16, 3], stop: ['た', 'す'] },
  ],
  ['log-probabilities', ['--logprobs', '2', '--prompt-logprobs', '1'], { logprobs: 2, promptLogprobs: 1 }],
  ['several texts', ['--n', '3'], { n: 3 }],
];

test.each(CASES)('%s', async (_, flags, options) => {
  await using model = await loadModel(EXAMPLE_MODEL);
  const expected = await model.generate('今日は', { topP: 0.95, topK: 50, seed: 3, maxNewTokens: 24, ...options });
  const plain = await model.generate('今日は', { topP: 0.95, topK: 50, seed: 3, maxNewTokens: 24 });
  expect(expected).not.toEqual(plain);
  const { prompt, prefix, seed, ...result } = await answer(['--seed', '3', '--max-new-tokens', '24', ...flags]);
  expect({ prompt, prefix, seed }).toEqual({ prompt: '今日は', prefix: null, seed: 3 });
  expect(result).toEqual(JSON.parse(JSON.stringify(expected)));
});

test('beam search', async () => {
  await using model = await loadModel(EXAMPLE_MODEL);
  const options = {
    numBeams: 4,
    lengthPenalty: 0.5,
    earlyStopping: 'never',
    numReturnSequences: 2,
    maxNewTokens: 24,
  } as const;
  const expected = await model.generate('今日は', options);
  const flags = [
    '--num-beams',
    '4',
    '--length-penalty',
    '0.5',
    '--early-stopping',
    'never',
    '--num-return-sequences',
    '2',
  ];
  const { prompt, prefix, seed, ...result } = await answer(['--max-new-tokens', '24', ...flags]);
  expect({ prompt, prefix, seed }).toEqual({ prompt: '今日は', prefix: null, seed: null });
  expect(result).toEqual(JSON.parse(JSON.stringify(expected)));
  const early = await answer(['--max-new-tokens', '24', '--num-beams', '4', '--early-stopping']);
  expect(early.tokens).toEqual(
    (await model.generate('今日は', { numBeams: 4, earlyStopping: true, maxNewTokens: 24 })).tokens,
  );
});

test('several texts are printed below each other', async () => {
  const args = GENERATE.filter((arg) => arg !== '--json');
  const { stdout } = await cli([...args, '--seed', '3', '--max-new-tokens', '8', '--n', '3']);
  const { completions } = await answer(['--seed', '3', '--max-new-tokens', '8', '--n', '3']);
  expect(stdout).toBe(completions?.map(({ text }) => `今日は${text}\n`).join(''));
});

test('a stop string and log-probabilities in a stream', async () => {
  const flags = ['--decode-method', 'greedy', '--logprobs', '0', '--stop', 'した'];
  const lines = jsonLines((await cli([...GENERATE, ...flags, '--stream'])).stdout);
  const { usage, ...whole } = await answer(flags);
  expect(whole.stop).toBe('した');
  expect(lines.at(-1)).toMatchObject({ type: 'result', text: whole.text, tokens: whole.tokens, stop: 'した', usage });
  expect(lines.at(-1)?.['logprobs']).toEqual(whole.logprobs);
});

test.each([
  ['--length-penalty without beams', ['--length-penalty', '2'], '--length-penalty is an option of beam search'],
  ['--early-stopping without beams', ['--early-stopping'], '--early-stopping is an option of beam search'],
  [
    '--decode-method with beams',
    ['--num-beams', '2', '--decode-method', 'greedy'],
    '--decode-method greedy and --num-beams 2 do not go',
  ],
  ['--seed with beams', ['--num-beams', '2', '--seed', '1'], '--seed has no effect with --num-beams'],
  ['--stream with several texts', ['--n', '2', '--stream'], '--stream shows one answer at a time'],
  ['a bias without a number', ['--logit-bias', '5'], 'Expected ID=NUMBER or ID=-inf.'],
  ['another end of a search', ['--num-beams', '2', '--early-stopping', 'soon'], "Expected nothing or 'never'."],
])('%s', async (_, flags, message) => {
  const { code, stdout, stderr } = await cli([...GENERATE, ...flags]);
  expect(code).toBe(2);
  expect(stdout + stderr).toContain(message);
});

test('what the library refuses with beams is told by its name', async () => {
  const { code, stdout } = await cli([...GENERATE, '--num-beams', '2', '--top-p', '0.9']);
  expect(code).not.toBe(0);
  expect(stdout).toContain('topP and numBeams: 2 do not go together');
});
