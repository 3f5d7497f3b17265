import { join } from 'node:path';
import { tensor } from '../../../lib/inference-protocol/tensors';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { FakeTriton, ftOutputs, numbers } from '../triton-client/fake-triton';
import { cli, jsonLines } from './cli-helpers';

const MODEL = join(__dirname, '..', '..', '..', 'examples', 'models', 'tiny-ja-neox');
const END = 3;
const server = new FakeTriton();
let tokenizer: Tokenizer;
let ids: number[];
beforeAll(async () => {
  await server.start();
  tokenizer = await Tokenizer.load(MODEL);
  // As behind other text: at the start of one they have a space more.
  ids = Array.from(tokenizer.encode('。楽しい')).slice(tokenizer.encode('。').length);
  server.config = { parameters: { neox_prefix_tasks: { string_value: 'smile=0,polite=1' } } };
});
afterAll(() => server.stop());
beforeEach(() => {
  server.asked.length = 0;
  server.answer = (request) => {
    const rows = request.inputs.get('input_ids')!.shape[0]!;
    return { outputs: ftOutputs(request, new Array<number[][]>(rows).fill([[...ids, END]]), END) };
  };
});

const generate = (url: string, ...args: string[]): ReturnType<typeof cli> =>
  cli(['generate', '--triton', url, '--tokenizer', MODEL, ...args]);

it('answers prompts under a task', async () => {
  const { code, stdout, stderr } = await generate(
    server.urls.grpc,
    ...[
      '--task',
      'polite',
      '--prompt',
      '今日は',
      '--prompt',
      '明日は',
      '--seed',
      '5',
      '--max-new-tokens',
      '9',
      '--quiet',
    ],
  );
  expect([code, stderr, stdout]).toEqual([0, '', '今日は楽しい\n明日は楽しい\n']);
  const [{ inputs }] = server.asked as [(typeof server.asked)[number]];
  expect(inputs.get('prompt_learning_task_name_ids')).toEqual(tensor('UINT32', [[1], [1]]));
  expect(inputs.get('random_seed')).toEqual(tensor('UINT64', [[5], [6]]));
  expect(numbers(inputs.get('request_output_len'))).toEqual([9, 9]);
  // rinna's defaults, as everywhere on the command line.
  expect(numbers(inputs.get('runtime_top_k'))).toEqual([50, 50]);
  expect(inputs.get('runtime_top_p')).toEqual(tensor('FP32', [[0.95], [0.95]]));
});

it('compares tasks, and gives JSON', async () => {
  const { code, stdout } = await generate(
    server.urls.http,
    ...['--task', 'smile', '--task', '1', '--prompt', '今日は', '--seed', '1', '--decode-method', 'greedy', '--json'],
  );
  expect(code).toBe(0);
  expect(jsonLines(stdout)).toMatchObject([
    {
      results: [
        { prompt: '今日は', task: 'smile', seed: 1, text: '楽しい', tokens: ids, finishReason: 'stop' },
        { prompt: '今日は', task: '1', text: '楽しい' },
      ],
    },
  ]);
  expect(numbers(server.asked[0]?.inputs.get('prompt_learning_task_name_ids'))).toEqual([0, 1]);
  expect(numbers(server.asked[0]?.inputs.get('runtime_top_k'))).toEqual([1, 1]);
});

it('streams', async () => {
  server.streamed = (request) =>
    [...ids, END].map((_, i) => ({ outputs: ftOutputs(request, [[[...ids, END].slice(0, i + 1)]], END) }));
  const args = ['--task', 'smile', '--prompt', '今日は', '--seed', '1', '--stream'];
  const { code, stdout } = await generate(server.urls.grpc, ...args, '--json');
  expect(code).toBe(0);
  const lines = jsonLines(stdout);
  expect(lines.at(-1)).toMatchObject({
    type: 'result',
    task: 'smile',
    text: '楽しい',
    tokens: ids,
    finishReason: 'stop',
  });
  expect(
    lines
      .slice(0, -1)
      .map(({ text }) => text)
      .join(''),
  ).toBe('楽しい');
});

it('reads prompts line by line', async () => {
  const args = ['generate', '--triton', server.urls.http, '--tokenizer', MODEL, '--task', 'smile', '--quiet'];
  const { code, stdout } = await cli(args, { stdin: '今日は\n明日は\n' });
  expect([code, stdout]).toEqual([0, '今日は楽しい\n明日は楽しい\n']);
});

it.each<[string[], number, string]>([
  [['--device', 'cuda'], 2, '--device does not go together with --triton'],
  [['--no-generation-config'], 2, '--no-generation-config does not go together with --triton'],
  [['--prefix', 'a'], 2, '--prefix does not go together with --triton'],
  [['--min-p', '0.5'], 2, '--min-p does not go together with --triton'],
  [['--model', 'a'], 2, '--model does not go together with --triton'],
  [['--stream', '--task', 'smile', '--task', 'polite'], 2, '--stream shows one answer at a time'],
  [['--eos-token-id', '1', '--eos-token-id', '2'], 2, 'FasterTransformer knows one end token'],
  [['--task', 'smil', '--prompt', 'a'], 1, "did you mean 'smile'?"],
])('%j is refused', async (args, exit, text) => {
  const { code, stderr } = await generate(server.urls.http, ...args);
  expect(stderr).toContain(text);
  expect(code).toBe(exit);
});

it('needs a tokenizer, or a model, and tasks need a server', async () => {
  const run = async (...args: string[]): Promise<string> => (await cli(['generate', '--prompt', 'a', ...args])).stderr;
  expect(await run('--triton', server.urls.http)).toContain('--triton needs --tokenizer');
  expect(await run()).toContain('--model <dir> is needed, or --triton');
  expect(await run('--model', MODEL, '--task', 'smile')).toContain('--task and --triton-model go with --triton');
});
