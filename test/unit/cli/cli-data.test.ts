import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { openDataset } from '../../../lib/data/dataset';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { temporaryFolder } from '../../helpers';
import { cli, jsonLines } from './cli-helpers';

const folder = temporaryFolder();
const EXAMPLES = join(__dirname, '..', '..', '..', 'examples');
const MODEL = join(EXAMPLES, 'models', 'tiny-ja-neox');
const DIARY = join(EXAMPLES, 'data', 'diary.jsonl');

function put(name: string, ...records: unknown[]): string {
  const path = folder.join(name);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return path;
}

const LONG = 'これは長い文です。'.repeat(20);

describe('data', () => {
  test('counts, as a table and as JSON', async () => {
    const { code, stdout, stderr } = await cli(['data', DIARY, '--model', MODEL]);
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: 'diary.jsonl: 440 samples, 10.8 k tokens to learn, the longest sample 47; 3 duplicates\n',
    });
    await using dataset = await openDataset(DIARY, { tokenizer: await Tokenizer.load(MODEL) });
    const { statistics, hash } = dataset;
    expect(stdout.split('\n')).toEqual(
      expect.arrayContaining([
        'samples                  440',
        'tokens to learn          10754  (24.4 a sample)',
        'tokens of a sample       8 to 47; the model takes 2048, prefix included',
        'half of them have        24 or fewer, 90 % 38, 99 % 45',
        'duplicates               3',
        `hash                     ${hash}`,
      ]),
    );
    const json = jsonLines((await cli(['data', DIARY, '--model', MODEL, '--json'])).stdout);
    const percentiles = { p50: 24, p90: 38, p99: 45 };
    expect(json).toEqual([{ files: [DIARY], ...statistics, percentiles, maxPositions: 2048, vocabSize: 2048, hash }]);
  });

  test('says what is left out', async () => {
    const path = put('mixed.jsonl', { prompt: '問い', completion: '答え' }, { text: LONG }, { text: '短い' }, { text: '短い' });
    const args = ['data', path, '--model', MODEL, '--max-tokens', '16', '--quiet'];
    const dropped = await cli([...args, '--over-long', 'drop']);
    expect(dropped.stdout).toContain('dropped                  1\n');
    const truncated = await cli(['data', path, '--model', MODEL, '--max-tokens', '16', '--over-long', 'truncate']);
    expect(truncated.stderr).toMatch(/^mixed\.jsonl: 4 samples, \d+ tokens to learn behind \d+ of prompts, the longest sample 15; 1 truncated; 1 duplicate\n$/);
    expect(truncated.stdout).toMatch(/^truncated {16}1, by \d+ tokens$/m);
    const packed = await cli(['data', DIARY, '--model', MODEL, '--packing', 'lines', '--max-length', '16']);
    expect(packed.stderr).toContain('; the ends of 440 texts left out');
  }); // prettier-ignore

  test.each([2047, 3000])('a prefix of %d leaves no room: one error, and none of the lines', async (length) => {
    const args = [
      'data',
      put('two.jsonl', { text: LONG }, { text: LONG }),
      '--model',
      MODEL,
      '--prefix-seq-len',
      `${length}`,
    ];
    const expected = `error: A prefix of ${length} positions does not leave room for a sample in the model's 2048 positions\nhint: use a shorter prefix\n`;
    expect(await cli(args)).toEqual({ code: 1, stdout: '', stderr: expected });
    expect((await cli([...args, '--max-tokens', '4'])).stderr).toBe(expected);
  });

  test('finds every problem, and says what to do in words of the command line', async () => {
    const bad = put('bad.jsonl', { text: LONG }, {}, { prompt: 'a' });
    const { code, stdout, stderr } = await cli(['data', bad, '--model', MODEL, '--max-tokens', '16']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(
      /^error: The data has 3 problems:\n {2}.*bad\.jsonl:1: it takes \d+ positions, and 16 is the most\n/,
    );
    expect(stderr.endsWith('\nhint: give --over-long truncate or --over-long drop, or shorten the text\n')).toBe(true);

    // What the model takes, without the prefix.
    const limit = await cli(['data', put('one.jsonl', { text: LONG }), '--model', MODEL, '--prefix-seq-len', '2040']);
    expect(limit.stderr).toMatch(/it takes \d+ positions, and 8 is the most\n/);
    expect((await cli(['data', put('id.jsonl', { completion: [2048] }), '--model', MODEL])).stderr).toContain(
      "it has the token id 2048, and the model's ids end at 2047",
    );
    // prettier-ignore
    const chat = put('chat.jsonl', { messages: [{ role: 'user', content: 'はい' }, { role: 'assistant', content: 'いいえ' }] });
    expect((await cli(['data', chat, '--model', MODEL])).stderr).toContain(
      "hint: give --template rinna (rinna's instruction models) or --template plain (the contents, one below the other)\n",
    );
    expect((await cli(['data', chat, '--model', MODEL, '--template', 'rinna'])).code).toBe(0);
    const short = await cli(['data', put('short.jsonl', { text: 'はい' }), '--model', MODEL, '--packing', 'lines']);
    expect(short.stderr).toContain(
      'hint: the last lines of each text, up to 64 tokens or one longer line, are dropped, and no text has more: give --keep-remainder, or a smaller --max-length\n',
    );
    const noFolder = await cli(['data', DIARY, '--model', MODEL, '--cache-dir', folder.join('none')]);
    expect(noFolder.code).toBe(0); // so little stays in memory
  });

  test('reads compressed files, and refuses wrong usage', async () => {
    const path = folder.join('x.jsonl.gz');
    writeFileSync(path, gzipSync('{"text":"はい"}\n'));
    expect((await cli(['data', path, '--model', MODEL])).stderr).toMatch(/^x\.jsonl\.gz: 1 sample, /);
    for (const [args, message] of [
      [[], "missing required argument 'file'"],
      [[path], '--pretrained-model-dir, --model <dir> is needed'],
      [[path, '--model', MODEL, '--over-long', 'cut'], 'Allowed choices are error, truncate, drop.'],
      [[path, '--model', MODEL, '--template', 'x'], 'Allowed choices are rinna, plain.'],
      [
        [path, '--model', MODEL, '--packing', 'lines', '--template', 'plain'],
        '--template has no effect with --packing lines',
      ],
      [[path, '--model', MODEL, '--suffix', '!'], '--suffix has no effect without --packing lines'],
      [[path, '--model', MODEL, '--max-tokens', '0'], 'Expected a whole number of at least 1.'],
    ] as const) {
      const { code, stderr } = await cli(['data', ...args]);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
    }
    expect((await cli(['data', folder.join('none.jsonl'), '--model', MODEL])).stderr).toContain('No such file: ');
  });
});
