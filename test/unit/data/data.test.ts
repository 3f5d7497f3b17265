import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDataset, readDataset } from '../../../lib/data/dataset';
import { readLines } from '../../../lib/formats/lines';
import { packLines } from '../../../lib/data/packing';
import { sampleRows, tokenizeSample } from '../../../lib/data/sample';
import type { Sample } from '../../../lib/data/sample';
import { splitDataset } from '../../../lib/data/split';
import { TokenizedDataset } from '../../../lib/data/tokenized-dataset';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';

const errorWith = (fields: object): Error => expect.objectContaining(fields) as Error;

const fixtures = join(__dirname, '../../fixtures/tokenizer');
/** One id a character that is not white space. */
const characters = {
  encode: (text: string): Int32Array => Int32Array.from(text.replace(/\s/g, ''), (c) => c.codePointAt(0) as number),
};
const ids = (text: string): number[] => [...characters.encode(text)];

let directory: string;
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'neox-data-'))));
afterEach(() => rmSync(directory, { recursive: true }));

function put(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

describe('readDataset', () => {
  test('a file without a sample is refused, as by openDataset', async () => {
    const path = put('empty.jsonl', '\n\n');
    for (const read of [readDataset, openDataset])
      await expect(read(path)).rejects.toMatchObject({ code: 'NEOX_BAD_DATA' });
    const line = put('line.txt', 'あ'.repeat(100));
    const encode = (s: string): Int32Array => Int32Array.from(s, (_, i) => i);
    await expect(readDataset(line, { packing: 'lines', tokenizer: { encode } })).rejects.toMatchObject({
      code: 'NEOX_BAD_DATA',
      hint: expect.stringContaining('or one longer line, are dropped, and no text has more') as string,
    });
  });

  test('JSON Lines in every form', async () => {
    const path = put(
      'a.jsonl',
      '\ufeff{"text": "一\\n二"}\r\n\n{"prompt": "問", "completion": "答", "other": 1}\n{"completion": [1, 2]}\n{"prompt": [], "completion": "\u2028x"}',
    );
    expect(await readDataset(path)).toEqual([
      { completion: '一\n二' },
      { prompt: '問', completion: '答' },
      { completion: [1, 2] },
      { prompt: [], completion: '\u2028x' },
    ]);
  });

  test('plain text, several files, a format for another extension', async () => {
    const text = put('a.TXT', '一\r\n\n 二 \n');
    const other = put('b.dat', '{"text":"三"}');
    expect(await readDataset(text)).toEqual([{ completion: '一' }, { completion: ' 二 ' }]);
    expect(await readDataset([text, text])).toHaveLength(4);
    expect(await readDataset([other], { format: 'jsonl' })).toEqual([{ completion: '三' }]);
    await expect(readDataset(other)).rejects.toThrow(
      'Expected a file named .jsonl, .ndjson, .txt, or that and .gz, for path but received',
    );
  });

  test.each<[string, string | Uint8Array, number, string]>([
    ['bad JSON', '{"text":"a"}\n{"text":', 2, 'it is not valid JSON: '],
    ['no object', '"text"', 1, 'it is not a JSON object'],
    ['a list', '\n\n[1]', 3, 'it is not a JSON object'],
    ['nothing known', '{"txt":"a"}', 1, 'it has neither "text" nor "completion"'],
    ['a prompt alone', '{"prompt":"a"}', 1, 'it has a "prompt" but no "completion"'],
    ['both forms', '{"text":"a","completion":"b"}', 1, 'one form or the other'],
    ['text of a wrong type', '{"text":null}', 1, '"text" is null, not a string'],
    [
      'completion of a wrong type',
      '{"completion":{}}',
      1,
      '"completion" is an object, not a string or a list of token ids',
    ],
    ['prompt of a wrong type', '{"prompt":1,"completion":"b"}', 1, '"prompt" is a number'],
    ['a bad id', '{"completion":[1,-2]}', 1, '"completion"[1] is not a token id'],
    ['a broken id', '{"completion":[1.5]}', 1, '"completion"[0] is not a token id'],
    ['a huge id', '{"completion":[2147483648]}', 1, '"completion"[0] is not a token id'],
    ['an empty text', '{"text":""}', 1, 'its text is empty'],
    ['an empty completion', '{"prompt":"a","completion":[]}', 1, 'its "completion" is empty'],
    [
      'bytes that are not UTF-8',
      Buffer.from([...Buffer.from('{"text":"a"}\n{"text":"'), 0xe3, 0x81, 0x22, 0x7d]),
      2,
      'it is not valid UTF-8',
    ],
    ['a byte order mark in the middle', '{"text":"a"}\n\ufeff{"text":"a"}', 2, 'it is not valid JSON'],
  ])('%s: file, line and what is wrong', async (_, content, line, message) => {
    const path = put('bad.jsonl', content);
    const promise = readDataset(path);
    await expect(promise).rejects.toMatchObject({ code: 'NEOX_BAD_DATA', path });
    await expect(promise).rejects.toThrow(`${path}:${line}: `);
    await expect(promise).rejects.toThrow(message);
  });

  test('options', async () => {
    const path = put('a.txt', 'a');
    await expect(readDataset(path, { packin: 'lines' } as never)).rejects.toThrow(
      "Unknown option 'packin' in options\nHint: did you mean 'packing'?",
    );
    await expect(readDataset(path, { packing: 'all' } as never)).rejects.toThrow(
      "Expected 'none' or 'lines' for packing but received 'all'",
    );
    await expect(readDataset(path, { format: 'csv' } as never)).rejects.toThrow(
      "Expected 'jsonl' or 'text' for format",
    );
    await expect(readDataset(path, { packing: 'lines' })).rejects.toThrow(
      'Expected a tokenizer (packing counts tokens) for tokenizer',
    );
    await expect(readDataset(path, { maxLength: 0 })).rejects.toThrow(
      'Expected an integer of at least 1 for maxLength',
    );
    await expect(readDataset(path, { keepRemainder: 1 } as never)).rejects.toThrow(
      'Expected a boolean for keepRemainder',
    );
    await expect(readDataset(path, { suffix: 1 } as never)).rejects.toThrow('Expected a string for suffix');
    await expect(readDataset([])).rejects.toThrow('Expected a path or a non-empty array of paths for paths');
    await expect(readDataset([path, 5] as never)).rejects.toThrow('Expected a non-empty string for paths[1]');
    await expect(readDataset(join(directory, 'none.txt'))).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
    await expect(readDataset(directory, { format: 'text' })).rejects.toMatchObject({ code: 'NEOX_IO' });
    const reason = new Error('enough');
    await expect(readDataset(path, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('lines', () => {
  test('characters and lines across the pieces in which a file is read', async () => {
    const texts = Array.from({ length: 4000 }, (_, i) => 'あ😃\u2028\u0085'.repeat(i % 23) + String(i));
    const path = put('long.txt', texts.join('\n'));
    const lines = [];
    for await (const line of readLines(path)) lines.push(line);
    expect(lines).toEqual(texts.map((text, i) => ({ number: i + 1, text })));
  });

  test('an empty file and a last line without an end', async () => {
    const read = async (content: string): Promise<string[]> => {
      const result = [];
      for await (const { text } of readLines(put('x', content))) result.push(text);
      return result;
    };
    expect(await read('')).toEqual([]);
    expect(await read('\n')).toEqual(['']);
    expect(await read('\ufeffa\n\ufeffb')).toEqual(['a', '\ufeffb']);
  });
});

describe('packing', () => {
  test('as the reference recipe: the rest of a document is dropped, a long line stands alone', () => {
    const pack = (lines: string[], keepRemainder = false): number[][] =>
      packLines(lines, characters, { suffix: '!', maxLength: 6, keepRemainder }).samples.map((sample) => [...sample]);
    expect(pack(['ab', 'cd', 'ef'])).toEqual([ids('ab!cd!')]);
    expect(pack(['ab', 'cd', 'ef'], true)).toEqual([ids('ab!cd!'), ids('ef!')]);
    expect(pack(['longer than six', 'ab'])).toEqual([ids('longerthansix!')]);
    expect(pack(['ab'])).toEqual([]);
    expect(pack([''], true)).toEqual([ids('!')]);
    expect(packLines(['', ''], characters, { suffix: '', maxLength: 6, keepRemainder: true })).toEqual({
      samples: [],
      hasRemainder: false,
    });
  });

  test('the first sample of a document starts with a line break, later ones do not', () => {
    const seen: string[] = [];
    const encoder = {
      encode: (text: string): Int32Array => (seen.push(text), Int32Array.from({ length: text.length }, () => 1)),
    };
    packLines(['ab', 'cd', 'ef'], encoder, { suffix: '', maxLength: 6, keepRemainder: true });
    expect(seen).toEqual(['\nab', '\nab\ncd', '\nab\ncd\nef', '\nab\ncd', 'ef']);
  });

  test('is what Python makes of the same documents', async () => {
    const tokenizer = await Tokenizer.load(join(fixtures, 'dummy-prefix'));
    const golden = JSON.parse(readFileSync(join(fixtures, 'packing.json'), 'utf8')) as {
      suffix: string;
      maxLength: number;
      documents: string[];
      samples: number[][];
    }[];
    for (const { suffix, maxLength, documents, samples } of golden) {
      const path = put('docs.jsonl', documents.map((text) => JSON.stringify({ text })).join('\n'));
      const packed = await readDataset(path, { packing: 'lines', suffix, maxLength, tokenizer });
      expect(packed.map(({ completion }) => Array.from(completion as Int32Array))).toEqual(samples);
      expect(samples.length).toBeGreaterThan(3);
    }
  });

  test('plain text: empty lines part documents', async () => {
    const path = put('docs.txt', 'ab\ncd\nef\n\n\ngh\nij\nkl');
    const samples = await readDataset(path, { packing: 'lines', suffix: '!', maxLength: 6, tokenizer: characters });
    expect(samples.map(({ completion }) => Array.from(completion as Int32Array))).toEqual([
      ids('ab!cd!'),
      ids('gh!ij!'),
    ]);
  });

  test('needs texts', async () => {
    const path = put('a.jsonl', '{"completion":"a"}');
    await expect(readDataset(path, { packing: 'lines', tokenizer: characters })).rejects.toThrow(
      `${path}:1: packing needs {"text"}`,
    );
  });
});

describe('samples', () => {
  test('become ids, prompt and completion apart', () => {
    expect(tokenizeSample({ prompt: 'a', completion: [1, 2] }, characters)).toEqual({
      prompt: Int32Array.of(97),
      completion: Int32Array.of(1, 2),
    });
    expect(tokenizeSample({ completion: Int32Array.of(3) }, characters)).toEqual({
      prompt: new Int32Array(0),
      completion: Int32Array.of(3),
    });
  });

  test('wrong ones are named', async () => {
    const fails = (sample: unknown): Promise<unknown> =>
      TokenizedDataset.from([{ completion: 'ok' }, sample as Sample], { tokenizer: characters });
    await expect(fails({ completion: '\n' })).rejects.toMatchObject({
      code: 'NEOX_BAD_DATA',
      message: 'samples[1].completion has no tokens',
    });
    await expect(fails({})).rejects.toThrow(
      'Expected a string or token ids for samples[1].completion but received undefined',
    );
    await expect(fails({ completion: [1, 2 ** 31] })).rejects.toThrow(
      'for samples[1].completion[1] but received 2147483648',
    );
    await expect(fails({ completion: Int32Array.of(1, -1) })).rejects.toThrow(
      'Expected token ids between 0 and 1073741823 for samples[1].completion but received -1',
    );
    await expect(fails(null)).rejects.toThrow('Expected an object with a completion for samples[1]');
    await expect(TokenizedDataset.from('a' as never)).rejects.toThrow(
      'Expected an array of { prompt?, completion } for samples',
    );
  });

  test('tokenizing many lets the event loop turn, and can be aborted', async () => {
    // prettier-ignore
    const slow = { encode: (): Int32Array => { for (const end = performance.now() + 1; performance.now() < end; ); return Int32Array.of(1); } };
    const samples = Array.from({ length: 100 }, () => ({ completion: 'a' }));
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await TokenizedDataset.from(samples, { tokenizer: slow });
    clearInterval(timer);
    expect(turns).toBeGreaterThan(3);
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 5);
    await expect(TokenizedDataset.from(samples, { tokenizer: slow, signal: controller.signal })).rejects.toBe(reason);
  });

  test('rows without a prompt: with and without the first token', () => {
    const sample = { prompt: new Int32Array(0), completion: Int32Array.of(5, 6) };
    const both = [
      { inputs: Int32Array.of(1, 5, 6), targets: Int32Array.of(5, 6, 2) },
      { inputs: Int32Array.of(5, 6), targets: Int32Array.of(6, 2) },
    ];
    expect(sampleRows(sample, { bosId: 1, eosId: 2 })).toEqual(both);
    expect(sampleRows(sample, { bosId: 1, eosId: 2, twoRows: false })).toEqual(both.slice(0, 1));
  });

  test('a row with a prompt learns the completion only, pad and end ids in it included', () => {
    const sample = { prompt: Int32Array.of(7, 8, 9), completion: Int32Array.of(0, 2, 5) };
    expect(sampleRows(sample, { bosId: 1, eosId: 2 })).toEqual([
      { inputs: Int32Array.of(7, 8, 9, 0, 2, 5), targets: Int32Array.of(-1, -1, 0, 2, 5, 2) },
    ]);
    expect(sampleRows({ prompt: Int32Array.of(7), completion: Int32Array.of(5) }, { bosId: 1, eosId: 2 })).toEqual([
      { inputs: Int32Array.of(7, 5), targets: Int32Array.of(5, 2) },
    ]);
    expect(() =>
      sampleRows({ prompt: Int32Array.of(7), completion: new Int32Array(0) }, { bosId: 1, eosId: 2 }),
    ).toThrow('no completion tokens');
  });

  test('are split by count: the first and the last', () => {
    expect(splitDataset([1, 2, 3, 4, 5], { train: 2, validation: 2 })).toEqual({ train: [1, 2], validation: [4, 5] });
    expect(splitDataset([1, 2], { train: 2, validation: 0 })).toEqual({ train: [1, 2], validation: [] });
    expect(() => splitDataset([1, 2, 3], { train: 2, validation: 2 })).toThrow(
      errorWith({
        code: 'NEOX_BAD_DATA',
        message: '2 training and 2 validation samples were asked for, but there are only 3 samples',
      }),
    );
    expect(() => splitDataset([1], { train: 0, validation: 0 })).toThrow('Expected an integer of at least 1 for train');
  });
});

test('a misspelled key of a sample is named', () => {
  const sample = { prmpt: 'a', completion: 'b' } as unknown as Sample;
  expect(() => tokenizeSample(sample, { encode: () => Int32Array.of(1) })).toThrow(
    "Unknown option 'prmpt' in sample\nHint: did you mean 'prompt'?",
  );
});
