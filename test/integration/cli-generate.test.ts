import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { temporaryFolder, writeRandomModel } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';
import { MODEL, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');
const GENERATE = ['generate', '--model', MODEL, '--threads', '1', '--seed', '1', '--max-new-tokens', '20'];

jest.setTimeout(120_000);

beforeAll(async () => {
  expect(await trainSmile(RUN)).toMatchObject({ code: 0 });
});

describe('generate', () => {
  test('prints prompt and text; the seed decides', async () => {
    const first = await cli([...GENERATE, '--prefix', BEST, '--prompt', '今日は']);
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/^今日は.+\n$/);
    const again = await cli([...GENERATE, '--prefix', BEST, '--prompt', '今日は', '--stream']);
    expect(again.stdout).toBe(first.stdout);
    const [other] = jsonLines(
      (await cli([...GENERATE, '--seed', '2', '--prefix', BEST, '--prompt', '今日は', '--json'])).stdout,
    );
    expect(other).toMatchObject({
      results: [{ prompt: '今日は', prefix: 'smile', seed: 2, usage: { prefixTokens: 10 } }],
    });
    expect(first.stdout).not.toContain((other as { results: { text: string }[] }).results[0]!.text);
  });

  test('rinna’s decoding is the default, and its parts can be set', async () => {
    const text = async (...args: string[]): Promise<string> =>
      (await cli([...GENERATE, '--prompt', '今日は', ...args])).stdout;
    const nucleus = await text();
    expect(await text('--decode-method', 'nucleus', '--top-p', '0.95', '--top-k', '50', '--temperature', '1')).toBe(
      nucleus,
    );
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
      {
        results: [
          expect.objectContaining({
            finishReason: 'length',
            usage: expect.objectContaining({ completionTokens: 128 }),
          }),
        ],
      },
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
    expect((await cli([...GENERATE, '--seed', '2', '--prompt', '休日の朝に'])).stdout).toBe(
      `休日の朝に${results[3]!.text}\n`,
    );
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
    expect(lines.at(-1)).toMatchObject({
      type: 'result',
      text: pieces.map(({ text }) => text).join(''),
      usage: { promptTokens: 1 },
    });
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
    const json = jsonLines(
      (await cli([...GENERATE, '--prefix', BEST, '--json'], { stdin: '今日は\n\n休日の朝に' })).stdout,
    );
    expect(json.map(({ prompt, text }) => `${prompt as string}${text as string}`)).toEqual(lines.slice(0, 3));
  });

  test('stdin and a file of prompts have the same lines', async () => {
    const prompts = ['今日は', '休日の\u2028朝に', '犬\rは', '\ufeff猫は', '町の\u2029広場で'];
    const bytes = Buffer.from(`\ufeff${prompts.join('\r\n')}\n`);
    const file = folder.join('prompts.txt');
    writeFileSync(file, bytes);
    const found = jsonLines((await cli([...GENERATE, '--json'], { stdin: bytes })).stdout);
    expect(found.map(({ prompt }) => prompt)).toEqual(prompts);
    const [read] = jsonLines((await cli([...GENERATE, '--json', '--prompts-file', file])).stdout);
    const results = read?.['results'] as { prompt: string; text: string }[];
    expect(results.map(({ prompt, text }) => [prompt, text])).toEqual(found.map(({ prompt, text }) => [prompt, text]));
    const zipped = jsonLines((await cli([...GENERATE, '--json'], { stdin: gzipSync(bytes) })).stdout);
    expect(zipped).toEqual(found);
  });

  test('stdin that is not UTF-8 is an error, as a file is', async () => {
    const bytes = Buffer.concat([Buffer.from('今日は\n'), Buffer.from([0x8d, 0xa1, 0x0a])]);
    const file = folder.join('sjis.txt');
    writeFileSync(file, bytes);
    const byFile = await cli([...GENERATE, '--prompts-file', file]);
    const byPipe = await cli(GENERATE, { stdin: bytes });
    expect([byPipe.code, byFile.code]).toEqual([1, 1]);
    expect(byFile.stderr).toContain(`${file}:2: it is not valid UTF-8`);
    expect(byPipe.stderr).toContain('standard input:2: it is not valid UTF-8');
    expect(byPipe.stdout).toMatch(/^今日は.+\n$/);
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
    expect(stderr).toContain(
      '[10, 4, 2, 6, 32] (positions, layers, 2, heads, head size), the model takes [10, 2, 2, 2, 16]',
    );
  });
});
