import { RowText } from '../../../lib/generation/stop-strings';
import { Tokenizer, type TokenDecoder } from '../../../lib/tokenizer/tokenizer';
import { EXAMPLE_MODEL } from '../../helpers';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await Tokenizer.load(EXAMPLE_MODEL);
});

const decoder = (): TokenDecoder => tokenizer.createDecoder({ skipSpecialTokens: true });

const TEXT = '今日は天気がよかったです。 公園で犬と歩きました。';

/** Pushes the text token by token; gives what came out after each. */
function feed(stops: string[], text = TEXT): { row: RowText; pieces: string[] } {
  const row = new RowText(decoder(), stops);
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
  const row = new RowText(decoder(), ['。です']);
  const ids = tokenizer.encode('です。です');
  let out = '';
  for (const id of ids) out += row.push(id);
  expect(out + row.end()).toBe('です');
  const other = new RowText(decoder(), ['。です']);
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
