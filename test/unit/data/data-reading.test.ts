import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import fsPromises from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { openDataset, readDataset, type OpenDatasetOptions } from '../../../lib/data/dataset';
import { readLines } from '../../../lib/formats/lines';
import { Problems } from '../../../lib/data/problems';
import { badLine } from '../../../lib/formats/bad-line';
import type { TokenizedSample } from '../../../lib/data/sample';
import type { NeoXPrefixError } from '../../../lib/base/errors';
import { expectRefusal, failureOf, runProgram, temporaryFolder, watchEventLoop, wrong } from '../../helpers';

const folder = temporaryFolder();
/** One id a character that is not white space. */
const tokenizer = {
  encode: (text: string): Int32Array => Int32Array.from(text.replace(/\s/g, ''), (c) => c.codePointAt(0) as number),
};

let files = 0;
function put(content: string | Uint8Array, extension = 'jsonl'): string {
  const path = folder.join(`${files++}.${extension}`);
  writeFileSync(path, content);
  return path;
}

const jsonl = (...records: unknown[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join('');

async function samplesOf(paths: string | string[], options: OpenDatasetOptions = {}): Promise<TokenizedSample[]> {
  await using dataset = await openDataset(paths, { tokenizer, ...options });
  return await dataset.get(Array.from({ length: dataset.length }, (_, i) => i));
}

const text = (ids: Int32Array): string => String.fromCodePoint(...ids);
const texts = (samples: readonly TokenizedSample[]): string[][] =>
  samples.map(({ prompt, completion, turns = [] }) =>
    [prompt, completion, ...turns.flatMap((turn) => [turn.prompt, turn.completion])].map(text),
  );

describe('openDataset', () => {
  test('reads what readDataset reads, as ids, and counts', async () => {
    const a = put(
      `${jsonl({ text: 'abc' }, { prompt: 'de', completion: 'f' })}\n \n${jsonl({ completion: [7, 8] }, { text: 'abc' })}`,
    );
    const b = put('xy\n\nz\n', 'txt');
    await using dataset = await openDataset([a, b], { tokenizer });
    const samples = await dataset.get([0, 1, 2, 3, 4, 5]);
    // prettier-ignore
    expect(texts(samples)).toEqual([['', 'abc'], ['de', 'f'], ['', '\x07\b'], ['', 'abc'], ['', 'xy'], ['', 'z']]);
    expect(dataset.isOnDisk).toBe(false);
    expect(dataset.statistics).toEqual({
      samples: 6,
      promptTokens: 2,
      completionTokens: 12,
      longest: 3,
      shortest: 1,
      largestId: 'z'.charCodeAt(0),
      conversations: 0,
      truncated: 0,
      truncatedTokens: 0,
      dropped: 0,
      remainders: 0,
      duplicates: 1,
      duplicatesAreLowerBound: false,
      emptyLines: 3,
    });
    expect(
      texts(await samplesOf(put(jsonl({ prompt: [65], completion: [66] })), { tokenizer: wrong(undefined) })),
    ).toEqual([['A', 'B']]);
  });

  test('packs lines, and counts what is left over', async () => {
    const path = put(jsonl({ text: 'ab\ncd\nef' }, { text: 'gh\nij\nkl' }));
    await using dataset = await openDataset(path, { tokenizer, packing: 'lines', maxLength: 4 });
    expect(texts(await dataset.get([0, 1]))).toEqual([['', 'abcd'], ['', 'ghij']]); // prettier-ignore
    expect(dataset.statistics.remainders).toBe(2);
    const whole = await openDataset(path, { tokenizer, packing: 'lines', maxLength: 4, keepRemainder: true });
    expect([whole.length, whole.statistics.remainders]).toEqual([4, 0]);
  });

  test('has the same identity in memory and in a file, of one file and of its parts', async () => {
    const lines = Array.from({ length: 300 }, (_, i) => ({
      prompt: `p${i % 7}`,
      completion: 'c'.repeat(1 + (i % 40)),
    }));
    const whole = put(jsonl(...lines));
    const parts = [put(jsonl(...lines.slice(0, 100))), put(gzipSync(jsonl(...lines.slice(100))), 'jsonl.gz')];
    await using inMemory = await openDataset(whole, { tokenizer });
    await using onDisk = await openDataset(parts, { tokenizer, inMemoryLimit: 0, cacheDir: folder.path });
    expect([inMemory.isOnDisk, onDisk.isOnDisk]).toEqual([false, true]);
    expect(onDisk.hash).toBe(inMemory.hash);
    expect(onDisk.statistics).toEqual(inMemory.statistics);
  });

  test('tells how far it is, lets the event loop turn, and can be aborted', async () => {
    // prettier-ignore
    const slow = { encode: (): Int32Array => { for (const end = performance.now() + 1; performance.now() < end; ); return Int32Array.of(1); } };
    const path = put(jsonl(...Array.from({ length: 200 }, () => ({ text: 'a' }))));
    const size = jsonl({ text: 'a' }).length * 200;
    const progress: { bytes: number; totalBytes: number; samples: number }[] = [];
    const { turns } = await watchEventLoop(() =>
      openDataset([path, path], { tokenizer: slow, onProgress: (p) => progress.push(p) }),
    );
    expect(turns).toBeGreaterThan(5);
    expect(progress).toEqual([
      { bytes: size, totalBytes: 2 * size, samples: 0 },
      { bytes: 2 * size, totalBytes: 2 * size, samples: 200 },
    ]);
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 20);
    await expect(openDataset(path, { tokenizer: slow, signal: controller.signal })).rejects.toBe(reason);
    await expect(openDataset(path, { tokenizer, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const later = new AbortController();
    await expect(
      openDataset(path, { tokenizer: { encode: () => (later.abort(), Int32Array.of(1)) }, signal: later.signal }),
    ).rejects.toMatchObject({ name: 'AbortError' });
  });

  test('options are checked by name', async () => {
    const path = put('a', 'txt');
    const open = (options: object) => (): Promise<unknown> => openDataset(path, { tokenizer, ...options });
    for (const [act, message] of [
      [open({ overlong: 'drop' }), "Unknown option 'overlong' in options\nHint: did you mean 'overLong'?"],
      [open({ overLong: 'cut' }), "Expected one of 'error', 'truncate', 'drop' for overLong but received 'cut' of type string"],
      [open({ maxTokens: 0 }), 'Expected an integer of at least 1 for maxTokens but received 0 of type number'],
      [open({ vocabSize: '9' }), "Expected an integer of at least 1 for vocabSize but received '9' of type string"],
      [open({ inMemoryLimit: -1 }), 'Expected an integer of at least 0 for inMemoryLimit but received -1 of type number'],
      [open({ cacheDir: '' }), "Expected a non-empty string for cacheDir but received '' of type string"],
      [open({ onProgress: 1 }), 'Expected a function for onProgress but received 1 of type number'],
      [open({ tokenizer: {} }), 'Expected a tokenizer for tokenizer but received an object of type object'],
      [open({ tokenizer: undefined }), 'Expected a tokenizer (the data is text) for tokenizer but received undefined of type undefined'],
      [open({ template: 'chatml' }), "Expected 'rinna', 'plain' or a function for template but received 'chatml' of type string"],
      [open({ template: 'plain', packing: 'lines' }), "Expected nothing with packing: 'lines' for template but received 'plain' of type string"],
      [open({ suffix: '!' }), "Expected nothing without packing: 'lines' for suffix but received '!' of type string"],
      [open({ maxLength: 64 }), "Expected nothing without packing: 'lines' for maxLength but received 64 of type number"],
      [open({ keepRemainder: false }), "Expected nothing without packing: 'lines' for keepRemainder but received false of type boolean"],
      [() => readDataset(path, { suffix: '!' }), "Expected nothing without packing: 'lines' for suffix but received '!' of type string"],
      [() => readDataset(path, wrong({ max_length: 5 })), "Unknown option 'max_length' in options\nHint: did you mean 'maxLength'?"],
    ] as const) await expectRefusal({ name: '', act, text: message });
    for (const read of [openDataset, readDataset]) {
      const missing = folder.join('none.txt');
      const first = jest.fn(() => Int32Array.of(1));
      const error = await failureOf(read([path, missing], { tokenizer: { encode: first } }));
      expect(error).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND', path: missing, message: `No such file or folder: ${missing}` });
      expect(first).not.toHaveBeenCalled();
    }
  }); // prettier-ignore
});

describe('what is too long', () => {
  const path = (): string =>
    put(
      jsonl(
        { text: 'abcd' },
        { prompt: 'abc', completion: 'defgh' },
        { text: 'abc' },
        { prompt: 'ab', completion: 'cd' },
      ),
    );

  test('is an error that names all places', async () => {
    const file = path();
    await expectRefusal({
      name: '',
      act: () => openDataset(file, { tokenizer, maxTokens: 4 }),
      code: 'NEOX_BAD_DATA',
      text:
        `The data has 2 problems:\n  ${file}:1: it takes 5 positions, and 4 is the most\n  ${file}:2: it takes 8 positions, and 4 is the most\n` +
        "Hint: give overLong: 'truncate' or 'drop', or shorten the text",
    });
    // The beginning-of-sequence token counts where there is no prompt.
    expect(await samplesOf(file, { maxTokens: 8 })).toHaveLength(4);
  });

  test('is dropped', async () => {
    const dataset = await openDataset(path(), { tokenizer, maxTokens: 4, overLong: 'drop' });
    expect(texts(await dataset.get([0, 1]))).toEqual([['', 'abc'], ['ab', 'cd']]); // prettier-ignore
    expect([dataset.length, dataset.statistics.dropped]).toEqual([2, 2]);
    const file = path();
    await expectRefusal({
      name: '',
      act: () => openDataset(file, { tokenizer, maxTokens: 2, overLong: 'drop' }),
      code: 'NEOX_BAD_DATA',
      text: `There is no sample in ${file}: 4 were dropped, as too long`,
    });
  });

  test('is truncated, at the end of the completion', async () => {
    const dataset = await openDataset(path(), { tokenizer, maxTokens: 4, overLong: 'truncate' });
    const samples = await dataset.get([0, 1, 2, 3]);
    expect(texts(samples)).toEqual([['', 'abc'], ['abc', 'd'], ['', 'abc'], ['ab', 'cd']]); // prettier-ignore
    expect(samples.map(({ truncated }) => truncated)).toEqual([true, true, undefined, undefined]);
    expect(dataset.statistics).toMatchObject({ truncated: 2, truncatedTokens: 1 + 4, dropped: 0, longest: 4 });
    const file = path();
    await expectRefusal({
      name: '',
      act: () => openDataset(file, { tokenizer, maxTokens: 3, overLong: 'truncate' }),
      code: 'NEOX_BAD_DATA',
      text: `${file}:2: its prompt has 3 tokens of 3 at most, so nothing would be left to learn`,
    });
  });
});

describe('problems', () => {
  test('are collected over all files: the first ten and their number', async () => {
    const bad = put(
      `{"text":"a"}\n{\n${jsonl({ text: '' }, { prompt: 'a' }, ...Array.from({ length: 8 }, () => ({})))}{"text":" "}\n`,
    );
    const empty = put('\n', 'txt');
    for (const read of [openDataset, readDataset]) {
      const { message, code, path } = (await failureOf(read([bad, empty], { tokenizer }))) as NeoXPrefixError;
      expect({ code, path }).toEqual({ code: 'NEOX_BAD_DATA', path: bad });
      const [head, ...list] = message.split('\n');
      // readDataset does not tokenize.
      expect(head).toBe(`The data has ${read === openDataset ? 13 : 12} problems, of which the first 10:`);
      expect(list).toHaveLength(10);
      expect(list[0]).toContain(`  ${bad}:2: it is not valid JSON`);
      expect(list.slice(1, 4)).toEqual([
        `  ${bad}:3: its text is empty`,
        `  ${bad}:4: it has a "prompt" but no "completion"`,
        `  ${bad}:5: it has neither "text" nor "completion" nor "messages"`,
      ]);
    }
  });

  test('each is named: no tokens, no text, ids that the model does not have', async () => {
    const a = put(
      jsonl(
        { text: ' \n' },
        { prompt: [5], completion: [64] },
        { prompt: [64], completion: [5] },
        { completion: [63] },
      ),
    );
    const b = put('', 'txt');
    await expectRefusal({
      name: '',
      act: () => openDataset([a, b], { tokenizer, vocabSize: 64 }),
      code: 'NEOX_BAD_DATA',
      text:
        `The data has 4 problems:\n  ${a}:1: sample.completion has no tokens\n  ${a}:2: it has the token id 64, and the model's ids end at 63\n` +
        `  ${a}:3: it has the token id 64, and the model's ids end at 63\n  ${b}: it has no text`,
    });
  });

  test('no sample at all', async () => {
    const short = put(jsonl({ text: 'ab' }));
    await expectRefusal({
      name: '',
      act: () => openDataset(short, { tokenizer, packing: 'lines' }),
      code: 'NEOX_BAD_DATA',
      text: `There is no sample in ${short}\nHint: the last lines of each text, up to 64 tokens or one longer line, are dropped, and no text has more: give keepRemainder: true, or a smaller maxLength`,
    });
  });

  test('so many that it is not worth going on end the reading', async () => {
    const file = put('{}\n'.repeat(5000));
    const encode = jest.fn(() => Int32Array.of(1));
    const after = put('a', 'txt');
    const error = (await failureOf(openDataset([file, after], { tokenizer: { encode } }))) as NeoXPrefixError;
    expect(error.message).toMatch(/^The data has 1000 problems or more, of which the first 10:\n/);
    expect(encode).not.toHaveBeenCalled();
  });

  test('one that ends the reading comes with those before it', async () => {
    const file = put(Buffer.concat([Buffer.from('{}\n{"text":"'), Buffer.from([0xff]), Buffer.from('"}\n')]));
    const error = (await failureOf(openDataset(file, { tokenizer }))) as NeoXPrefixError;
    expect(error.message).toBe(
      `The data has 2 problems:\n  ${file}:1: it has neither "text" nor "completion" nor "messages"\n  ${file}:2: it is not valid UTF-8`,
    );
    const problems = new Problems();
    problems.add(badLine('a', 1, 'x'));
    const other = new Error('other');
    expect(problems.ending(other)).toBe(other);
  });
});

describe('gzip', () => {
  const content = jsonl(
    ...Array.from({ length: 20_000 }, (_, i) => ({ text: `これは${i}行目です ${(i * 7919) % 1000}` })),
  );

  test('is read whatever the name, in several members too', async () => {
    const half = content.indexOf('\n', content.length / 2) + 1;
    const members = Buffer.concat([gzipSync(content.slice(0, half)), gzipSync(content.slice(half))]);
    const expected = await readDataset(put(content));
    expect(expected).toHaveLength(20_000);
    for (const path of [
      put(gzipSync(content), 'jsonl.gz'),
      put(gzipSync(content), 'jsonl'),
      put(members, 'NDJSON.GZ'),
    ]) {
      expect(JSON.stringify(await readDataset(path))).toBe(JSON.stringify(expected));
    }
    expect(await readDataset(put(gzipSync('a\nb'), 'txt.gz'))).toEqual([{ completion: 'a' }, { completion: 'b' }]);
    expect(await readDataset(put(gzipSync(jsonl({ text: 'a' })), 'gz'), { format: 'jsonl' })).toEqual([
      { completion: 'a' },
    ]);
  });

  test('that is cut off or damaged says where', async () => {
    const whole = gzipSync(content);
    const cut = put(whole.subarray(0, whole.length / 2), 'jsonl.gz');
    const error = (await failureOf(openDataset(cut, { tokenizer }))) as NeoXPrefixError;
    expect(error).toMatchObject({ code: 'NEOX_BAD_DATA', path: cut });
    const found = /^(.*):(\d+): the gzip data ends too early, here or a little behind$/.exec(error.message);
    expect(found?.[1]).toBe(cut);
    expect(Number(found?.[2])).toBeGreaterThan(5000);
    expect(Number(found?.[2])).toBeLessThan(11_000);

    const damaged = Buffer.from(whole);
    // The first block, behind a header of ten bytes, gets a type that there is not.
    damaged[10]! |= 0b110;
    const path = put(damaged, 'jsonl.gz');
    await expect(openDataset(path, { tokenizer })).rejects.toMatchObject({ code: 'NEOX_BAD_DATA', path });
    await expect(openDataset(path, { tokenizer })).rejects.toThrow(
      `${path}:1: the gzip data is damaged, here or a little behind: invalid block type`,
    );

    const checksum = Buffer.from(whole);
    checksum[whole.length - 6]! ^= 1;
    await expect(openDataset(put(checksum, 'jsonl.gz'), { tokenizer })).rejects.toThrow(
      /the gzip data is damaged.*incorrect data check/,
    );
    const head = put(whole.subarray(0, 5), 'jsonl.gz');
    await expect(openDataset(head, { tokenizer })).rejects.toThrow(`${head}:1: the gzip data ends too early`);
  });

  test('that is none in spite of its name is refused', async () => {
    for (const bytes of [content, '', '\x1f']) {
      const path = put(bytes, 'jsonl.gz');
      await expectRefusal({
        name: '',
        act: () => openDataset(path, { tokenizer }),
        code: 'NEOX_BAD_DATA',
        text: `${path}:1: the file is named .gz but is not compressed by gzip`,
      });
    }
  });

  test('leaving early closes the file', async () => {
    for (const path of [put(gzipSync(content), 'jsonl.gz'), put(content)]) {
      for (let i = 0; i < 5; i++) {
        for await (const { number } of readLines(path)) if (number === 3) break;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      const open = readdirSync('/proc/self/fd').map((fd) =>
        fsPromises.readlink(join('/proc/self/fd', fd)).catch(() => ''),
      );
      expect((await Promise.all(open)).filter((target) => target === path)).toEqual([]);
    }
  });
});

describe('the temporary file', () => {
  const big = (): string => put(jsonl(...Array.from({ length: 100 }, () => ({ text: 'x'.repeat(10_000) }))));

  test('has no name and is gone after close', async () => {
    const cacheDir = folder.join('cache');
    mkdirSync(cacheDir);
    const before = async (): Promise<string[]> => {
      const links = readdirSync('/proc/self/fd').map((fd) =>
        fsPromises.readlink(join('/proc/self/fd', fd)).catch(() => ''),
      );
      return (await Promise.all(links)).filter((link) => link.startsWith(cacheDir));
    };
    const dataset = await openDataset(big(), { tokenizer, inMemoryLimit: 2 ** 20, cacheDir });
    expect(dataset.isOnDisk).toBe(true);
    expect(readdirSync(cacheDir)).toEqual([]);
    expect(await before()).toEqual([expect.stringMatching(/ids \(deleted\)$/)]);
    await dataset.close();
    expect(await before()).toEqual([]);
    // An error on the way leaves nothing either.
    const bad = put(`${jsonl(...Array.from({ length: 100 }, () => ({ text: 'x'.repeat(10_000) })))}{`);
    await expect(openDataset(bad, { tokenizer, inMemoryLimit: 0, cacheDir })).rejects.toThrow(
      `${bad}:101: it is not valid JSON`,
    );
    expect(await before()).toEqual([]);
  });

  test('that finds no room says so, and what to do', async () => {
    const cacheDir = folder.join('full');
    mkdirSync(cacheDir);
    const real = fsPromises.open;
    const open = jest.spyOn(fsPromises, 'open').mockImplementation(async (...args) => {
      // The data are opened first, to be read.
      if (args[1] !== 'wx+') return real(...args);
      open.mockRestore();
      const handle = await fsPromises.open(...args);
      jest.spyOn(handle, 'write').mockRejectedValue(Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' }));
      return handle;
    });
    await expectRefusal({
      name: '',
      act: () => openDataset(big(), { tokenizer, inMemoryLimit: 0, cacheDir }),
      code: 'NEOX_IO',
      text:
        `Cannot write, behind 0 bytes, to a temporary file in ${cacheDir}: ENOSPC\n` +
        'Hint: the disk is full; free some space there, or name another folder with cacheDir',
    });
    expect(readdirSync(cacheDir)).toEqual([]);
    await expectRefusal({
      name: '',
      act: () => openDataset(big(), { tokenizer, inMemoryLimit: 0, cacheDir: folder.join('none') }),
      code: 'NEOX_FILE_NOT_FOUND',
      text: `No such file or folder: ${folder.join('none')}`,
    });
  }); // prettier-ignore
});

test('a file of 60 MB is read with a few MB of memory', async () => {
  const { stdout, stderr, code } = await runProgram('dataset', [folder.path, '60']);
  expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
  const found = JSON.parse(stdout) as { samples: number; ids: number; last: string; live: number; rss: number };
  expect(found).toMatchObject({ samples: 223_000, last: 'qeto 299' });
  // As ids alone it is 107 MB.
  expect(4 * found.ids).toBeGreaterThan(100e6);
  expect(found.live).toBeLessThan(4e6);
  expect(found.rss).toBeLessThan(30e6);
});
