import { UNKNOWN_PIECE, bytesField, charsmap, intField, join, piece, rules, varint } from '../bytes';
import { changedJson, replaced, type AbuseCase } from './case';

type Row = readonly [name: string, bytes: () => Buffer, message: string, code?: AbuseCase['code']];

const bytePieces = (change: (text: string, byte: number) => string = (text) => text): Buffer =>
  join(
    ...Array.from({ length: 256 }, (_, byte) =>
      piece(change(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, byte), 6),
    ),
    bytesField(2, intField(35, 1)),
  );
const trainer = (...fields: Buffer[]): Buffer => bytesField(2, ...fields);
const letters = join(UNKNOWN_PIECE, piece('a'), piece('b'));
/** A rule whose text is far longer than what it replaces. */
const growing = (bytes: number): Buffer => join(letters, rules(charsmap(undefined, `${'b'.repeat(bytes)}\0`)));

/**
 * 160 kB of pieces whose edges all fall into one place of a hash table, if the table is PieceTrie: each new one would
 * look at all before.
 */
function colliding(): Buffer {
  const { imul } = Math;
  const pieces: Buffer[] = [UNKNOWN_PIECE];
  let node = 1;
  let last = 0;
  for (let i = 0; i < 40; i++) {
    const content = Buffer.alloc(4000);
    for (let at = 0; at < content.length; at++) {
      // The first byte tells the pieces apart; the others lead to a hash that starts with eight zero bits.
      let byte = i;
      if (at > 0) for (byte = 0; byte < 255 && imul((last << 8) + byte + 1, 0x9e3779b1) >>> 24 !== 0; byte++);
      content[at] = byte;
      last = node++;
    }
    pieces.push(piece(content));
  }
  return join(...pieces);
}

const SPIECE = (
  [
    ['an empty file', () => Buffer.alloc(0), 'it has no pieces'],
    ['a number that does not end', () => Buffer.alloc(1000, 0xff), 'longer than 10 bytes'],
    ['a length of 2^64 - 1', () => join(Buffer.from([0x0a]), varint(2n ** 64n - 1n)), 'bytes but only 0 are left'],
    [
      'a length of 2^32, which 32 bits lose',
      () => join(Buffer.from([0x0a]), varint(2n ** 32n), Buffer.alloc(100)),
      'bytes but only 100 are left',
    ],
    [
      'a piece that reaches outside of its message',
      () => bytesField(1, Buffer.from([0x0a, 0x7f, 0x61])),
      'needs 127 bytes but only 1 are left',
    ],
    ['field number 0', () => Buffer.from([0x02, 0x00]), 'the field number'],
    ['a group without an end', () => Buffer.from([0x0b]), 'wire type 3'],
    ['a piece that is a number', () => intField(1, 1), 'expected 2'],
    ['a score that is NaN', () => join(UNKNOWN_PIECE, piece('a', 1, NaN)), 'is NaN'],
    ['a score that is infinite', () => join(UNKNOWN_PIECE, piece('a', 1, Infinity)), 'is Infinity'],
    ['a piece type of -1', () => join(UNKNOWN_PIECE, piece('a', -1)), 'unknown type -1'],
    ['an empty piece', () => join(UNKNOWN_PIECE, piece('')), 'piece 1 is empty'],
    ['a piece of 5,000 bytes', () => join(UNKNOWN_PIECE, piece('a'.repeat(5000))), 'has 5000 bytes, more than 4096'],
    ['one piece twice', () => join(UNKNOWN_PIECE, piece('a'), piece('a')), "the piece 'a' occurs twice"],
    [
      'more pieces than any model has',
      () => Buffer.alloc(5 * (2 ** 20 + 1), bytesField(1, bytesField(1, 'a'))),
      'more than 1048576 pieces',
    ],
    ['pieces whose hashes collide', colliding, 'chosen to make the search slow'],
    ['no unknown piece', () => piece('a'), 'no unknown piece'],
    ['two unknown pieces', () => join(UNKNOWN_PIECE, piece('<u>', 2)), 'both are the unknown piece'],
    [
      'the byte piece <0x-1>',
      () =>
        join(
          UNKNOWN_PIECE,
          bytePieces((text, byte) => (byte === 0 ? '<0x-1>' : text)),
        ),
      'is not written as <0xHH>',
    ],
    [
      'the byte piece <0x100>',
      () =>
        join(
          UNKNOWN_PIECE,
          bytePieces((text, byte) => (byte === 0 ? '<0x100>' : text)),
        ),
      'is not written as <0xHH>',
    ],
    [
      'the byte piece <0xZZ>',
      () =>
        join(
          UNKNOWN_PIECE,
          bytePieces((text, byte) => (byte === 0 ? '<0xZZ>' : text)),
        ),
      'is not written as <0xHH>',
    ],
    [
      'a byte piece twice',
      () =>
        join(
          UNKNOWN_PIECE,
          bytePieces((text, byte) => (byte === 1 ? '<0x00>' : text)),
        ),
      '<0x00> occurs twice',
    ],
    ['255 byte pieces', () => join(UNKNOWN_PIECE, bytePieces().subarray(17)), 'is missing'],
    [
      'byte pieces without byte fallback',
      () => join(UNKNOWN_PIECE, piece('<0x00>', 6)),
      'although byte_fallback is false',
    ],
    [
      'a text for unknown pieces of a megabyte',
      () => join(letters, trainer(bytesField(44, 'x'.repeat(1 << 20)))),
      'longer than 4096 bytes',
    ],
    ['rules cut off', () => join(letters, rules(charsmap().subarray(0, 100))), 'are cut off'],
    ['rules of a trie of 4 GB', () => join(letters, rules(Buffer.alloc(64, 0xff))), 'are cut off'],
    [
      'a trie that points outside',
      () => join(letters, rules(charsmap((units) => (units[0] = 0x3fffff << 10)))),
      'point outside the trie',
    ],
    [
      'a trie whose offset overflows',
      () => join(letters, rules(charsmap((units) => (units[0] = 0xffffffff)))),
      'point outside the trie',
    ],
    [
      'a rule whose text is outside',
      () => join(letters, rules(charsmap((units) => (units[256 ^ 0x61 ^ 1] = 0xffffffff)))),
      'point outside the texts',
    ],
    ['a rule that makes a letter a megabyte', () => growing(1 << 20), 'more than 64 times as long'],
    ['a BPE model', () => join(letters, trainer(intField(3, 2))), 'is a SentencePiece BPE model', 'NEOX_UNSUPPORTED'],
    [
      'a model of type 2^31',
      () => join(letters, trainer(intField(3, 2n ** 31n))),
      'type -2147483648',
      'NEOX_UNSUPPORTED',
    ],
    [
      'rules for the way back',
      () => join(letters, bytesField(5, bytesField(2, charsmap()))),
      'denormalisation rules',
      'NEOX_UNSUPPORTED',
    ],
  ] as readonly Row[]
).map(([name, bytes, message, code = 'NEOX_BAD_TOKENIZER']): AbuseCase => {
  return { format: 'spiece', name, files: () => ({ 'spiece.model': bytes() }), code, message, path: 'spiece.model' };
});

const json = (changes: Readonly<Record<string, unknown>>) => () => changedJson('tokenizer', 'tokenizer.json', changes);
const decoder = { type: 'ByteLevel' };
const bpe =
  (model: object, rest: object = {}) =>
  () =>
    JSON.stringify({ model: { type: 'BPE', vocab: { a: 0 }, merges: [], ...model }, decoder, ...rest });
const split = (pattern: unknown) => ({ pre_tokenizer: { type: 'Split', pattern, behavior: 'Isolated' } });
const doubling = {
  type: 'Sequence',
  normalizers: new Array(60).fill({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
};

const TOKENIZER_JSON = (
  [
    ['no JSON', () => '{"model":', 'expected JSON'],
    ['a list', () => '[]', 'expected a JSON object'],
    ['bytes that are not UTF-8', () => Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), 'expected UTF-8'],
    ['nesting that would overflow a recursive parser', () => `{"model":${'['.repeat(100_000)}`, 'levels of nesting'],
    ['one key twice', () => '{"model":{},"model":{}}', "'model' is given twice"],
    ['one token twice', () => '{"model":{"vocab":{"a":0,"\\u0061":1}}}', "'a' is given twice"],
    ['an id of -1', bpe({ vocab: { a: -1 } }), "the id of the token 'a' is not"],
    ['an id of 2^31', bpe({ vocab: { a: 2 ** 31 } }), "the id of the token 'a' is not"],
    [
      'an id of 1e308',
      () => '{"model":{"type":"BPE","vocab":{"a":1e308},"merges":[]},"decoder":{"type":"ByteLevel"}}',
      "the id of the token 'a' is not",
    ],
    ['an id as text', bpe({ vocab: { a: '0' } }), "the id of the token 'a' is not"],
    ['a vocabulary that is a list', bpe({ vocab: ['a'] }), 'its model has no vocabulary'],
    ['merges that are numbers', bpe({ merges: [1, 2] }), 'tokenizer.json'],
    ['merges that are missing', bpe({ merges: undefined }), 'tokenizer.json'],
    ['added tokens that are an object', json({ added_tokens: {} }), 'added_tokens is not a list'],
    ['an added token without content', json({ added_tokens: [{ id: 1 }] }), 'neither a string nor'],
    ['an empty added token', json({ added_tokens: [{ id: 1, content: '' }] }), 'neither a string nor'],
    [
      'an added token of 100,000 characters',
      json({ added_tokens: [{ id: 1, content: 'x'.repeat(100_000) }] }),
      'more than 1024',
    ],
    [
      '20,001 added tokens',
      json({ added_tokens: Array.from({ length: 20_001 }, (_, id) => ({ id, content: `<${id}>` })) }),
      'it adds 20001 tokens',
    ],
    ['a pattern that runs for ever', json(split({ Regex: '(a+)+$' })), "a split by '(a+)+$'", 'NEOX_UNSUPPORTED'],
    ['a pattern without text', json(split({ String: '' })), "a split by ''", 'NEOX_UNSUPPORTED'],
    ['a normaliser that doubles the text sixty times', json({ normalizer: doubling }), 'its normalizer has 60 steps'],
    [
      'a normaliser that replaces',
      json({ normalizer: doubling.normalizers[0] as object }),
      "the normalizer 'Replace'",
      'NEOX_UNSUPPORTED',
    ],
    [
      'a normaliser that is unknown',
      json({ normalizer: { type: 'constructor' } }),
      "the normalizer 'constructor'",
      'NEOX_UNSUPPORTED',
    ],
    ['a sequence without parts', json({ pre_tokenizer: { type: 'Sequence' } }), 'a sequence without a list of parts'],
    [
      'a sequence in a sequence',
      json({ pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Sequence' }] } }),
      "the pre_tokenizer 'Sequence'",
      'NEOX_UNSUPPORTED',
    ],
    [
      'a template of 100,000 parts',
      json({ post_processor: { type: 'TemplateProcessing', single: new Array(100_000).fill({}), pair: [] } }),
      'at most 64 parts',
    ],
    ['a Unigram model', () => '{"model":{"type":"Unigram","vocab":[]}}', 'spiece.model', 'NEOX_UNSUPPORTED'],
  ] as readonly (readonly [string, () => Buffer | string, string, AbuseCase['code']?])[]
).map(([name, bytes, message, code = 'NEOX_BAD_TOKENIZER']): AbuseCase => {
  const path = 'tokenizer.json';
  return { format: 'tokenizer', name, files: () => replaced('tokenizer', path, bytes()), code, message, path };
});

const many = Object.fromEntries(Array.from({ length: 20_001 }, (_, i) => [`<${i}>`, 1000 + i]));
const SETTINGS = (
  [
    ['tokenizer_config.json', 'nesting', `{"a":${'['.repeat(1000)}`, 'levels of nesting'],
    ['tokenizer_config.json', 'one key twice', '{"eos_token":"a","eos_token":"b"}', 'is given twice'],
    ['tokenizer_config.json', 'a class that is an object', '{"tokenizer_class":{}}', 'tokenizer_class is not a string'],
    ['tokenizer_config.json', '1e308 sentinels', '{"extra_ids":1e308}', 'extra_ids is not an integer'],
    ['tokenizer_config.json', 'a token id of -1', '{"added_tokens_decoder":{"-1":{"content":"a"}}}', "the id '-1'"],
    [
      'tokenizer_config.json',
      'a token id of 2^40',
      `{"added_tokens_decoder":{"${2 ** 40}":{"content":"a"}}}`,
      'is not an integer',
    ],
    [
      'tokenizer_config.json',
      'a token of 100,000 characters',
      JSON.stringify({ bos_token: 'x'.repeat(1e5) }),
      'more than 1024',
    ],
    ['added_tokens.json', '20,001 tokens', JSON.stringify(many), 'it adds 20001 tokens'],
    ['added_tokens.json', 'an id as text', '{"<a>":"1"}', 'is not an integer'],
    ['special_tokens_map.json', 'a token that is a list', '{"eos_token":["</s>"]}', 'eos_token is neither'],
  ] as const
).map(([file, name, bytes, message]): AbuseCase => {
  const files = (): ReturnType<AbuseCase['files']> => replaced('tokenizer', file, bytes, 1);
  return { format: 'tokenizer', name: `${file} with ${name}`, files, code: 'NEOX_BAD_TOKENIZER', message, path: file };
});

export const TOKENIZER_CASES: readonly AbuseCase[] = [...SPIECE, ...TOKENIZER_JSON, ...SETTINGS];
