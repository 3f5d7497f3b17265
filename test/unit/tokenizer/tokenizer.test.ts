import { join } from 'node:path';
import { inspect } from 'node:util';
import { Charsmap } from '../../../lib/tokenizer/charsmap';
import { PieceTrie } from '../../../lib/tokenizer/piece-trie';
import { cleanUp, CleanUpStream, StripStream } from '../../../lib/tokenizer/streams';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';

const fixtures = join(__dirname, '../../fixtures/tokenizer');
const load = (name: string): Promise<Tokenizer> => Tokenizer.load(join(fixtures, name));

function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => (state = (state * 48271) % 0x7fffffff) % below;
}

/** What each id made certain, and the rest. */
function pieces(tokenizer: Tokenizer, ids: Iterable<number>, skipSpecialTokens = false): string[] {
  const decoder = tokenizer.createDecoder({ skipSpecialTokens });
  return [...Array.from(ids, (id) => decoder.push(id)), decoder.end()];
}

describe('arguments', () => {
  test('unknown and wrong options', async () => {
    const tokenizer = await load('dummy-prefix');
    expect(() => tokenizer.encode('a', { addSpecialToken: true } as never)).toThrow(
      "Unknown option 'addSpecialToken' in options\nHint: did you mean 'addSpecialTokens'?",
    );
    expect(() => tokenizer.encode('a', { addSpecialTokens: 1 } as never)).toThrow(
      'Expected a boolean for addSpecialTokens but received 1 of type number',
    );
    expect(() => tokenizer.encode(5 as never)).toThrow('Expected a string for text but received 5 of type number');
    expect(() => tokenizer.decode([], { skip: true } as never)).toThrow("Unknown option 'skip' in options");
    expect(() => tokenizer.decode(null as never)).toThrow(
      'Expected an array of token ids for ids but received null of type null',
    );
    expect(() => tokenizer.decode('12' as never)).toThrow(
      "Expected an array of token ids for ids but received '12' of type string",
    );
    expect(tokenizer.decode(Int32Array.of(400))).toBe(tokenizer.decode([400]));
    expect(inspect(tokenizer)).toBe(
      `Tokenizer(sentencepiece, ${tokenizer.vocabSize} ids, ${join(fixtures, 'dummy-prefix', 'spiece.model')})`,
    );
    expect(() => tokenizer.createDecoder({ skipSpecialTokens: 'no' } as never)).toThrow(
      'Expected a boolean for skipSpecialTokens',
    );
    await expect(Tokenizer.load('')).rejects.toThrow(
      "Expected a non-empty string for dirOrFile but received '' of type string",
    );
  });
});

describe.each(['dummy-prefix', 'byte-fallback', 'byte-level'])('%s', (name) => {
  test('ids outside the vocabulary decode to nothing, wherever they stand', async () => {
    const tokenizer = await load(name);
    const ids = [...tokenizer.encode('今日は、公園で😃カレーを食べました。')];
    const outside = [tokenizer.vocabSize, 50_000, -1, 2 ** 31 - 1, 1.5, NaN];
    const mixed = ids.flatMap((id, i) => [id, outside[i % outside.length] as number]);
    expect(tokenizer.decode(mixed)).toBe(tokenizer.decode(ids));
    expect(tokenizer.decode(outside)).toBe('');
    expect(tokenizer.idToToken(tokenizer.vocabSize)).toBeUndefined();
  });

  test('tokens and ids are each other’s inverse', async () => {
    const tokenizer = await load(name);
    for (let id = 0; id < tokenizer.vocabSize; id++)
      expect(tokenizer.tokenToId(tokenizer.idToToken(id) as string)).toBe(id);
    expect(tokenizer.tokenToId('no such token')).toBeUndefined();
  });

  test('a lone surrogate counts as U+FFFD', async () => {
    const tokenizer = await load(name);
    expect(tokenizer.encode('a\ud83db')).toEqual(tokenizer.encode('a\ufffdb'));
    expect(tokenizer.encode('\ude03')).toEqual(tokenizer.encode('\ufffd'));
  });

  test('decoding takes time in proportion to the ids', async () => {
    const tokenizer = await load(name);
    const text = '今日は、公園で😃カレーを食べました。';
    const ids = Array.from({ length: 1500 }, () => [...tokenizer.encode(text)]).flat();
    const started = performance.now();
    const parts = pieces(tokenizer, ids, true);
    // Decoding all ids again for each would take 30 000 times as long as once.
    expect(performance.now() - started).toBeLessThan(10_000);
    expect(parts.join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
  });
});

describe('streaming', () => {
  test('a character in several byte tokens comes with its last byte', async () => {
    for (const name of ['byte-fallback', 'byte-level']) {
      const tokenizer = await load(name);
      const ids = tokenizer.encode('龘靐👩‍🚀');
      const parts = pieces(tokenizer, ids);
      expect(ids.length).toBeGreaterThan(6);
      expect(parts.join('')).toBe('龘靐👩‍🚀');
      expect(parts.filter((part) => part !== '')).toEqual(['龘', '靐', '👩', '\u200d', '🚀']);
    }
  });

  test('bytes that make no character become U+FFFD when that is certain', async () => {
    const fallback = await load('byte-fallback');
    const byte = (value: number): number =>
      fallback.tokenToId(`<0x${value.toString(16).toUpperCase().padStart(2, '0')}>`) as number;
    // Each byte by itself, as SentencePiece: E3 81 and then an ASCII byte; a lone trail byte; a surrogate; an overlong
    // form; the end.
    expect(pieces(fallback, [byte(0xe3), byte(0x81), byte(0x41)])).toEqual(['', '', '\ufffd\ufffdA', '']);
    expect(pieces(fallback, [byte(0x80), byte(0x41)])).toEqual(['\ufffd', 'A', '']);
    expect(pieces(fallback, [byte(0xed), byte(0xa0), byte(0x80)]).join('')).toBe('\ufffd\ufffd\ufffd');
    expect(pieces(fallback, [byte(0xc0), byte(0xaf)]).join('')).toBe('\ufffd\ufffd');
    expect(pieces(fallback, [byte(0xf0), byte(0x9f), byte(0x98)])).toEqual(['', '', '', '\ufffd\ufffd\ufffd']);
    // A cut character is one U+FFFD in byte-level BPE, as in the Rust tokenizers.
    const bpe = await load('byte-level');
    expect(pieces(bpe, bpe.encode('😃').slice(0, -1)).at(-1)).toBe('\ufffd');
  });

  test('without special tokens every piece comes at once, but for white space at the end', async () => {
    const tokenizer = await load('dummy-prefix');
    const ids = tokenizer.encode('今日は 公園');
    const parts = pieces(tokenizer, ids, true);
    expect(parts.join('')).toBe('今日は 公園');
    expect(parts.at(-1)).toBe('');
    expect(parts.at(-2)).not.toBe('');
  });

  test('text behind a special token waits for the next one', async () => {
    const tokenizer = await load('dummy-prefix');
    const [eos, text] = [tokenizer.eosId as number, tokenizer.encode('公園').at(-1) as number];
    const printed = tokenizer.decode([text]);
    expect(pieces(tokenizer, [text, eos, text, eos])).toEqual([printed, '</s>', '', ` ${printed}</s>`, '']);
    expect(pieces(tokenizer, [text, eos, text])).toEqual([printed, '</s>', '', printed]);
  });

  test('decoders of one tokenizer do not meet', async () => {
    const tokenizer = await load('byte-level');
    const ids = [...tokenizer.encode('龘')];
    const [a, b] = [tokenizer.createDecoder(), tokenizer.createDecoder()];
    const texts = ids.map((id) => [a.push(id), b.push(id)]);
    expect(texts.at(-1)).toEqual(['龘', '龘']);
  });
});

test('T5Tokenizer adds </s> once', async () => {
  const tokenizer = await load('dummy-prefix');
  const eos = tokenizer.eosId as number;
  expect(tokenizer.encode('', { addSpecialTokens: true })).toEqual(Int32Array.of(eos));
  expect(tokenizer.encode('</s>', { addSpecialTokens: true })).toEqual(Int32Array.of(eos));
  expect(tokenizer.encode('カレー', { addSpecialTokens: true }).at(-1)).toBe(eos);
  expect(tokenizer.encode('カレー').at(-1)).not.toBe(eos);
});

describe('text streams equal the whole', () => {
  const parts = [
    ' ',
    '  ',
    '.',
    ',',
    "'",
    "n't",
    " 's",
    ' re',
    've',
    'あ',
    'a ',
    '\n',
    '\u3000',
    '',
    '!?',
    't',
    '\x1c',
    '\ufeff',
  ];
  const random = randomNumbers(7);
  const cases = Array.from({ length: 500 }, () =>
    Array.from({ length: 1 + random(12) }, () => parts[random(parts.length)] as string),
  );

  test('clean-up', () => {
    for (const chunks of cases) {
      const stream = new CleanUpStream();
      expect(chunks.map((chunk) => stream.push(chunk)).join('') + stream.end()).toBe(cleanUp(chunks.join('')));
    }
    expect(cleanUp("I do n't know , it 's ' fine ' .")).toBe("I don't know, it's'fine '.");
    expect(new CleanUpStream().push('today it seven')).toBe('today it seven');
  });

  test('strip, with Python’s white space', () => {
    for (const chunks of cases) {
      const stream = new StripStream();
      const whole = chunks
        .join('')
        .replace(/^[\s\x1c-\x1f\x85]+/, (space) => space.slice(space.indexOf('\ufeff') >>> 0));
      const text = chunks.map((chunk) => stream.push(chunk)).join('') + stream.end();
      expect(whole.startsWith(text)).toBe(true);
      expect(whole.slice(text.length)).toMatch(/^[ \n\u3000\x1c]*$/);
      expect(text).not.toMatch(/[ \n\u3000\x1c]$/);
    }
  });
});

describe('tries', () => {
  test('a piece trie grows and keeps what it has', () => {
    const trie = new PieceTrie(4);
    const random = randomNumbers(3);
    const expected = new Map<string, number>();
    for (let i = 0; i < 5000; i++) {
      const key = Uint8Array.from({ length: 1 + random(5) }, () => random(256));
      const isNew = !expected.has(key.join());
      expect(trie.add(key, 0, key.length, i)).toBe(isNew);
      if (isNew) expected.set(key.join(), i);
    }
    for (const [key, value] of expected) {
      const node = key.split(',').reduce((at, byte) => trie.step(at, Number(byte)), 0);
      expect(trie.value(node)).toBe(value);
    }
    expect(trie.step(0, 0) === -1 || trie.value(trie.step(0, 0)) >= -1).toBe(true);
  });

  test('a charsmap takes the longest rule', () => {
    // Rules a -> x, aa -> yz, packed by hand: children of the unit i with offset o lie at i ^ o ^ label.
    const units = new Uint32Array(1024);
    units[0] = 256 << 10;
    const a = 256 ^ 0x61;
    units[a] = 0x61 | 0x100 | (512 << 10);
    units[a ^ 512] = 0x80000000;
    const aa = a ^ 512 ^ 0x61;
    units[aa] = 0x61 | 0x100 | (1 << 10);
    units[aa ^ 1] = 0x80000002;
    const blob = Buffer.concat([Uint32Array.of(units.byteLength), units].map((part) => Buffer.from(part.buffer)));
    const map = new Charsmap(Buffer.concat([blob, Buffer.from('x\0yz\0')]));
    const found = (text: string): [number, string] => {
      map.match(Buffer.from(text), 0, text.length);
      return [
        map.matchLength,
        map.matchLength === 0 ? '' : Buffer.from(map.texts.subarray(map.textStart, map.textEnd)).toString(),
      ];
    };
    // prettier-ignore
    expect(['a', 'ab', 'aa', 'aaa', 'b', ''].map(found)).toEqual([[1, 'x'], [1, 'x'], [2, 'yz'], [2, 'yz'], [0, ''], [0, '']]);
  });
});
