import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SentencePiece } from '../../../lib/tokenizer/sentencepiece';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';

const errorWith = (fields: object): Error => expect.objectContaining(fields) as Error;

const fixtures = join(__dirname, '../../fixtures/tokenizer');
const good = readFileSync(join(fixtures, 'dummy-prefix/spiece.model'));

// A protobuf writer for messages that no trainer would write.
const varint = (value: number): number[] =>
  value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(Math.floor(value / 128))];
const bytesField = (field: number, bytes: ArrayLike<number>): number[] => [
  ...varint(field * 8 + 2),
  ...varint(bytes.length),
  ...Array.from(bytes),
];
const intField = (field: number, value: number): number[] => [...varint(field * 8), ...varint(value)];
const floatField = (field: number, value: number): number[] => [
  ...varint(field * 8 + 5),
  ...new Uint8Array(Float32Array.of(value).buffer),
];
const piece = (text: string, type = 1, score = -1): number[] =>
  bytesField(1, [...bytesField(1, Buffer.from(text)), ...floatField(2, score), ...intField(3, type)]);
const unknown = piece('<unk>', 2, 0);
const normalizer = (charsmap: ArrayLike<number>): number[] => bytesField(3, bytesField(2, charsmap));
const u32 = (...values: number[]): number[] => [...new Uint8Array(Uint32Array.from(values).buffer)];

/** A charsmap with one rule, 'a' -> 'b', with two units to tamper with. */
function charsmap({
  root = 256 << 10,
  a = 0x61 | 0x100 | (1 << 10),
  leaf = 0x80000000,
  size = 512,
  texts = 'b\0',
} = {}): number[] {
  const units = new Uint32Array(size);
  units[0] = root;
  // The root's children lie at 256 ^ label; the leaf of 'a' at its own index ^ 1.
  if (size > 256) {
    units[256 ^ 0x61] = a;
    units[256 ^ 0x61 ^ 1] = leaf;
  }
  return [...u32(size * 4), ...u32(...units), ...Buffer.from(texts)];
}

const load = (...parts: number[][]): SentencePiece =>
  new SentencePiece(Uint8Array.from(parts.flat()), 'some/spiece.model');

describe('damaged spiece.model files', () => {
  test.each<[string, number[][], string]>([
    ['an empty file', [], 'it has no pieces'],
    ['a message cut inside a number', [[0x0a, 0x80]], 'the message ends inside a number'],
    ['a number without an end', [[0x0a, ...new Array<number>(11).fill(0xff)]], 'longer than 10 bytes'],
    ['a length past the end', [[0x0a, 0x7f, 0x00]], 'needs 127 bytes but only 1 are left'],
    [
      'a length near 2^64',
      [[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]],
      'bytes but only 0 are left',
    ],
    ['field number 0', [[0x02, 0x00]], 'field number'],
    ['a field number past 2^29', [[0x82, 0x80, 0x80, 0x80, 0x80, 0x01]], 'field number'],
    ['a group', [[0x0b]], 'wire type 3'],
    ['a piece as a number', [intField(1, 5)], 'field 1 has wire type 0, expected 2'],
    ['a score as a number', [bytesField(1, intField(2, 5))], 'field 2 has wire type 0, expected 5'],
    ['an empty piece', [unknown, bytesField(1, [])], 'piece 1 is empty'],
    ['an unknown piece type', [piece('a', 9)], 'piece 0 has the unknown type 9'],
    ['no unknown piece', [piece('a')], 'it has no unknown piece'],
    ['two unknown pieces', [unknown, piece('<u>', 2)], 'pieces 0 and 1 both are the unknown piece'],
    ['a piece twice', [unknown, piece('あ'), piece('あ')], "the piece 'あ' occurs twice"],
    ['a control piece twice', [unknown, piece('<s>', 3), piece('<s>', 3)], "the piece '<s>' occurs twice"],
    ['a score that is no number', [unknown, piece('あ', 1, NaN)], "the score of the piece 'あ' is NaN"],
    ['an infinite score', [unknown, piece('あ', 1, -Infinity)], "the score of the piece 'あ' is -Infinity"],
    ['a byte piece without byte fallback', [unknown, piece('<0x41>', 6)], 'although byte_fallback is false'],
    [
      'a misspelled byte piece',
      [unknown, piece('<0x-1>', 6), bytesField(2, intField(35, 1))],
      'byte piece 1 is not written as <0xHH>',
    ],
    [
      'a byte piece twice',
      [unknown, piece('<0x41>', 6), piece('<0x41>', 6), bytesField(2, intField(35, 1))],
      '<0x41> occurs twice',
    ],
    [
      'missing byte pieces',
      [unknown, piece('<0x00>', 6), bytesField(2, intField(35, 1))],
      'the piece of byte 1 is missing',
    ],
    ['rules of 3 bytes', [unknown, normalizer([1, 2, 3])], 'its normalisation rules are cut off'],
    [
      'rules longer than the file',
      [unknown, normalizer([...u32(0xfffffff0), 0, 0, 0, 0])],
      'needs 4294967280 of 8 bytes',
    ],
    ['rules without a trie', [unknown, normalizer([...u32(0), 0])], 'its normalisation rules are cut off'],
    [
      'a trie whose root points outside',
      [unknown, normalizer(charsmap({ root: 0x3fffff << 10 }))],
      'point outside the trie',
    ],
    [
      'a trie whose node points outside',
      [unknown, normalizer(charsmap({ a: 0x61 | (0x1fffff << 10) }))],
      'point outside the trie',
    ],
    ['a trie of less than one block', [unknown, normalizer(charsmap({ size: 16 }))], 'point outside the trie'],
    [
      'a rule whose text lies outside',
      [unknown, normalizer(charsmap({ leaf: 0x80000002 }))],
      'point outside the texts: byte 2 of 2',
    ],
  ])('%s', (_, parts, message) => {
    expect(() => load(...parts)).toThrow(errorWith({ code: 'NEOX_BAD_TOKENIZER', path: 'some/spiece.model' }));
    expect(() => load(...parts)).toThrow(message);
    expect(() => load(...parts)).toThrow('some/spiece.model is not a valid SentencePiece model: ');
  });

  test('the same bytes without the damage are read', () => {
    const sentencePiece = load(unknown, piece('▁', 1, -2), piece('b'), normalizer(charsmap()));
    expect([...sentencePiece.encode('ab')]).toEqual([1, 2, 2]);
  });

  test('BPE models and denormalisers are unsupported, not damaged', () => {
    expect(() => load(unknown, bytesField(2, intField(3, 2)))).toThrow(errorWith({ code: 'NEOX_UNSUPPORTED' }));
    expect(() => load(unknown, bytesField(2, intField(3, 2)))).toThrow(
      'is a SentencePiece BPE model; only unigram models are supported',
    );
    expect(() => load(unknown, bytesField(5, bytesField(2, charsmap())))).toThrow('denormalisation rules');
  });

  test('a real model cut anywhere is refused or is a shorter model', () => {
    for (let length = 0; length < good.length; length += 97) {
      try {
        new SentencePiece(good.subarray(0, length), 'cut');
      } catch (error) {
        expect(error).toMatchObject({ code: 'NEOX_BAD_TOKENIZER', path: 'cut' });
      }
    }
  });

  test('a real model with bytes changed never does worse than an error', () => {
    let state = 1;
    const random = (below: number): number => (state = (state * 48271) % 0x7fffffff) % below;
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(good);
      for (let i = 0; i < 4; i++) bytes[random(bytes.length)] = random(256);
      try {
        new SentencePiece(bytes, 'changed').encode('今日は、ＡＢＣ　ガ\u3099😃\0\n');
      } catch (error) {
        expect(['NEOX_BAD_TOKENIZER', 'NEOX_UNSUPPORTED']).toContain((error as { code?: string }).code);
      }
    }
  });
});

describe('Tokenizer.load', () => {
  let directory: string;
  const put = (name: string, content: string | object): void =>
    writeFileSync(join(directory, name), typeof content === 'string' ? content : JSON.stringify(content));

  beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'neox-tokenizer-'))));
  afterEach(() => rmSync(directory, { recursive: true }));

  const copyModel = (name = 'spiece.model'): void =>
    copyFileSync(join(fixtures, 'dummy-prefix/spiece.model'), join(directory, name));
  const copyJson = (): void =>
    copyFileSync(join(fixtures, 'byte-level/tokenizer.json'), join(directory, 'tokenizer.json'));

  test('a path that is not there', async () => {
    const path = join(directory, 'missing');
    await expect(Tokenizer.load(path)).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND', path });
  });

  test('a folder without a tokenizer', async () => {
    await expect(Tokenizer.load(directory)).rejects.toThrow(
      'neither spiece.model (or another .model file) nor tokenizer.json, nor vocab.json with merges.txt',
    );
  });

  test('of two files, tokenizer_class decides', async () => {
    copyModel();
    copyJson();
    expect((await Tokenizer.load(directory)).kind).toBe('sentencepiece');
    put('tokenizer_config.json', { tokenizer_class: 'T5Tokenizer' });
    expect((await Tokenizer.load(directory)).kind).toBe('sentencepiece');
    put('tokenizer_config.json', { tokenizer_class: 'GPTNeoXTokenizer' });
    expect((await Tokenizer.load(directory)).kind).toBe('bpe');
  });

  test('vocab.json with merges.txt: where there is no tokenizer.json, and lines of two tokens', async () => {
    for (const name of ['vocab.json', 'merges.txt']) copyFileSync(join(fixtures, 'gpt2', name), join(directory, name));
    const tokenizer = await Tokenizer.load(directory);
    expect([tokenizer.kind, tokenizer.path]).toEqual(['bpe', join(directory, 'vocab.json')]);
    // Without settings <|endoftext|> is special as in OpenAI's own files.
    expect(tokenizer.decode(tokenizer.encode('a<|endoftext|>b'), { skipSpecialTokens: true })).toBe('ab');
    put('tokenizer_config.json', { tokenizer_class: 'GPT2Tokenizer', add_prefix_space: true });
    expect((await Tokenizer.load(directory)).encode('a')).toEqual(tokenizer.encode(' a'));
    put('merges.txt', '#version: 0.2\na b\nabc\n');
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({
      code: 'NEOX_BAD_TOKENIZER',
      message: expect.stringContaining('expected two tokens in each line, found "abc"') as string,
    });
    copyJson();
    expect((await Tokenizer.load(directory)).path).toBe(join(directory, 'tokenizer.json'));
  });

  test('another class with a SentencePiece model alone', async () => {
    copyModel();
    put('tokenizer_config.json', { tokenizer_class: 'LlamaTokenizer' });
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({
      code: 'NEOX_UNSUPPORTED',
      message: expect.stringContaining('LlamaTokenizer') as string,
    });
  });

  test('"legacy": false', async () => {
    copyModel();
    put('tokenizer_config.json', { legacy: false });
    await expect(Tokenizer.load(directory)).rejects.toThrow('"legacy": false, which is not supported');
  });

  test('a model under another name, and two of them', async () => {
    copyModel('sp.model');
    expect((await Tokenizer.load(directory)).path).toBe(join(directory, 'sp.model'));
    copyModel('other.model');
    await expect(Tokenizer.load(directory)).rejects.toThrow(
      '2 SentencePiece models (other.model, sp.model) and none is named spiece.model',
    );
    copyModel();
    expect((await Tokenizer.load(directory)).path).toBe(join(directory, 'spiece.model'));
  });

  test('a file alone takes its special ids from the model', async () => {
    copyModel('my.model');
    const { bosId, eosId, padId, unkId, vocabSize, hash } = await Tokenizer.load(join(directory, 'my.model'));
    expect({ bosId, eosId, padId, unkId, vocabSize }).toEqual({
      bosId: 1,
      eosId: 2,
      padId: 3,
      unkId: 0,
      vocabSize: 600,
    });
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
  });

  test('special_tokens_map.json goes before tokenizer_config.json, and config.json comes last', async () => {
    copyJson();
    put('config.json', { bos_token_id: 7, eos_token_id: [8, 9] });
    expect(await Tokenizer.load(directory)).toMatchObject({ bosId: 7, eosId: 8, padId: undefined });
    put('tokenizer_config.json', {
      bos_token: '<|padding|>',
      eos_token: '<|padding|>',
      tokenizer_class: 'GPTNeoXTokenizer',
    });
    put('special_tokens_map.json', { eos_token: { content: '<|endoftext|>', lstrip: false } });
    expect(await Tokenizer.load(directory)).toMatchObject({ bosId: 1, eosId: 0 });
  });

  test.each<[string, string | object, string]>([
    ['tokenizer_config.json', '{', 'tokenizer_config.json is not usable: expected JSON'],
    ['tokenizer_config.json', '[]', 'expected a JSON object'],
    ['tokenizer_config.json', { eos_token: 3 }, 'eos_token is neither a string nor an object'],
    ['tokenizer_config.json', { extra_ids: 1e9 }, 'extra_ids is not an integer between 0 and 10000'],
    ['tokenizer_config.json', { legacy: 'yes' }, 'legacy is not true or false'],
    ['tokenizer_config.json', { additional_special_tokens: 'x' }, 'additional_special_tokens is not a list'],
    [
      'tokenizer_config.json',
      { added_tokens_decoder: { x: { content: 'a' } } },
      "the id 'x' of an added token is not an integer",
    ],
    ['added_tokens.json', { '<x>': 2 ** 40 }, "the id of the added token '<x>' is not an integer"],
  ])('a bad %s: %j', async (name, content, message) => {
    copyModel();
    put(name, content);
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({ code: 'NEOX_BAD_TOKENIZER' });
    await expect(Tokenizer.load(directory)).rejects.toThrow(message);
  });

  test.each<[string | object, string, string]>([
    ['{"model":', 'NEOX_BAD_TOKENIZER', 'is not usable: expected JSON'],
    [{}, 'NEOX_BAD_TOKENIZER', 'it has no model'],
    [
      { model: { type: 'Unigram', vocab: [] } },
      'NEOX_UNSUPPORTED',
      'put the spiece.model of the model into its folder',
    ],
    [
      { model: { type: 'BPE', vocab: {}, merges: [] }, decoder: { type: 'Metaspace' } },
      'NEOX_UNSUPPORTED',
      "'BPE' with the decoder 'Metaspace'",
    ],
    [
      { model: { type: 'BPE', vocab: { a: -1 }, merges: [] }, decoder: { type: 'ByteLevel' } },
      'NEOX_BAD_TOKENIZER',
      "the id of the token 'a'",
    ],
    [
      { model: { type: 'BPE', vocab: { a: 1e12 }, merges: [] }, decoder: { type: 'ByteLevel' } },
      'NEOX_BAD_TOKENIZER',
      "the id of the token 'a'",
    ],
    [
      { model: { type: 'BPE', vocab: [], merges: [] }, decoder: { type: 'ByteLevel' } },
      'NEOX_BAD_TOKENIZER',
      'its model has no vocabulary',
    ],
  ])('a bad tokenizer.json: %j', async (content, code, message) => {
    put('tokenizer.json', content);
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({ code, path: join(directory, 'tokenizer.json') });
    await expect(Tokenizer.load(directory)).rejects.toThrow(message);
  });
});
