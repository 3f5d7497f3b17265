import { RowText } from '../../../lib/generation/stop-strings';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { EXAMPLE_MODEL } from '../../helpers';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await Tokenizer.load(EXAMPLE_MODEL);
});

const rowText = (stops: string[]): RowText =>
  new RowText(tokenizer.textStream(true, { ids: [], spaces: 0 }), stops, tokenizer);

const TEXT = '今日は天気がよかったです。 公園で犬と歩きました。';

/** Pushes the text token by token; gives what came out after each. */
function feed(stops: string[], text = TEXT): { row: RowText; pieces: string[] } {
  const row = rowText(stops);
  const pieces = Array.from(tokenizer.encode(text), (id) => row.push(id));
  pieces.push(row.end());
  return { row, pieces };
}

test('without stop strings the pieces are the text', () => {
  const { row, pieces } = feed([]);
  expect(pieces.join('')).toBe(TEXT);
  expect(row.text).toBe(TEXT);
  expect(row.stop).toBeUndefined();
});

test('a stop string ends the text before it, wherever tokens begin and end', () => {
  // Every substring, so that some lie inside a token, some across two, some across three.
  for (let from = 0; from < TEXT.length; from++) {
    for (const length of [1, 2, 3, 7]) {
      const stop = TEXT.slice(from, from + length);
      if (stop === '') continue;
      const expected = TEXT.slice(0, TEXT.indexOf(stop));
      const { row, pieces } = feed([stop]);
      expect([row.stop, row.text, pieces.join('')]).toEqual([stop, expected, expected]);
    }
  }
});

test('what may begin a stop string is held back until it does not', () => {
  const row = rowText(['。です']);
  const ids = tokenizer.encode('です。です');
  let out = '';
  for (const id of ids) out += row.push(id);
  expect(out + row.end()).toBe('です');
  const other = rowText(['。です']);
  const [first, second] = ['です。', 'です。は'].map((text) => tokenizer.encode(text));
  expect(Array.from(first as Int32Array, (id) => other.push(id)).join('')).toBe('です');
  const rest = (second as Int32Array).slice((first as Int32Array).length);
  expect(Array.from(rest, (id) => other.push(id)).join('') + other.end()).toBe('。は');
});

test('of several the one that begins first ends the text; nothing comes after it', () => {
  const { row, pieces } = feed(['犬', '公園', '天気がよくない']);
  expect(row.stop).toBe('公園');
  expect(pieces.join('')).toBe('今日は天気がよかったです。 ');
  expect(row.push(tokenizer.encode('犬')[0] as number)).toBe('');
  expect(row.end()).toBe('');
});

describe('stop strings that are or hold special tokens', () => {
  const [BOS, UNK] = [2, 1];
  const ids = (): number[] => [...tokenizer.encode('犬です。'), BOS, UNK, ...tokenizer.encode('猫です。')];

  test.each([
    ['the token alone', ['<s>'], '犬です。', '<s>'],
    ['from plain text into the token', ['。<s>'], '犬です', '。<s>'],
    ['from one token into the next', ['<s><unk>'], '犬です。', '<s><unk>'],
    ['a part of a token', ['nk'], '犬です。', 'nk'],
    ['from the token into plain text', ['<unk> 猫'], '犬です。', '<unk> 猫'],
    ['a text that the tokens between keep from coming', ['。 猫'], '犬です。 猫です。', undefined],
    ['what begins a stop string and is none', ['。<s>犬', '<unk> 犬'], '犬です。 猫です。', undefined],
  ])('%s', (_name, stops, text, stop) => {
    const row = rowText(stops);
    const pieces = ids().map((id) => row.push(id));
    pieces.push(row.end());
    expect([row.stop, row.text, pieces.join('')]).toEqual([stop, text, text]);
  });

  test('nothing of a stop text leaks while it may still come', () => {
    const row = rowText(['です。<s>']);
    const [, ...shown] = [0, ...ids().slice(0, -3)].map((id, i) => (i === 0 ? '' : row.push(id)));
    expect(shown.join('')).toBe('犬');
    expect(row.stop).toBe('です。<s>');
  });
});
