import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { expectRefusal, temporaryFolder } from '../../helpers';

const folder = temporaryFolder();
const BYTE_LEVEL = join(__dirname, '..', '..', 'fixtures', 'tokenizer', 'byte-level');

/** Ids of the Rust tokenizers (0.23): U+0085 is white space and U+FEFF is none; in JavaScript it is the reverse. */
const IDS: readonly [string, number[]][] = [
  ['a\ufeff b', [66, 173, 121, 125, 222, 67]],
  ['\ufeffa\ufeff\ufeff', [173, 121, 125, 66, 173, 121, 125, 173, 121, 125]],
  ['x\u0085y', [89, 128, 229, 90]],
  ['x \u0085 y', [89, 222, 128, 229, 222, 90]],
  ['\u0085\u0085 z', [128, 229, 128, 229, 222, 91]],
  ['a\u0085\ufeff\u0085b', [66, 128, 229, 173, 121, 125, 128, 229, 67]],
  ['\u4eca\u65e5\u306f\ufeff\u3000\u6674\u308c', [350, 173, 121, 125, 260, 224, 164, 249, 114, 259, 236]],
  ['a\u180e b', [66, 159, 256, 238, 222, 67]],
  ['a\u200b b\u2028\u2029c', [66, 160, 224, 235, 222, 67, 160, 224, 103, 160, 224, 104, 68]],
  [
    "it's \ufeff1\u00852  end\n\n\tx",
    [74, 85, 8, 84, 222, 173, 121, 125, 18, 128, 229, 19, 506, 70, 79, 69, 200, 200, 199, 89],
  ],
];

test.each(IDS)('white space is what the Rust tokenizers take for it: %j', async (text, ids) => {
  const tokenizer = await Tokenizer.load(BYTE_LEVEL);
  expect([...tokenizer.encode(text)]).toEqual(ids);
  expect(tokenizer.decode(ids)).toBe(text);
});

test('an added token that is a single word is refused by name', () => {
  cpSync(BYTE_LEVEL, folder.path, { recursive: true });
  const path = folder.join('tokenizer.json');
  const json = JSON.parse(readFileSync(path, 'utf8')) as { added_tokens: object[] };
  json.added_tokens.push({ id: 900, content: 'cat', single_word: true, special: false });
  writeFileSync(path, JSON.stringify(json));
  return expectRefusal({
    name: '',
    act: () => Tokenizer.load(path),
    code: 'NEOX_UNSUPPORTED',
    text: /has the added token 'cat' with single_word: true, which is not supported/,
  });
});
