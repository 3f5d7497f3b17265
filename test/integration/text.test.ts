import { GenerationEngine } from '../../lib/engine/engine';
import type { GenerateOptions } from '../../lib/generation/request';
import type { NeoXModel } from '../../lib/neox-model';
import { EXAMPLE_MODEL, loadModel } from '../helpers';

let model: NeoXModel;
let engine: GenerationEngine;
beforeAll(async () => {
  model = await loadModel(EXAMPLE_MODEL);
  engine = new GenerationEngine(model);
});
afterAll(() => model.dispose());

const PROMPT = '今日は公園で猫を見ました。';
/** `<s>`: special, and not what ends a text. */
const BOS = 2;
const EOS = 3;
/** Has the space of a piece that begins a word come often. */
const DRAWN = { maxNewTokens: 24, temperature: 1.5, ignoreEos: true } as const;

async function streamed(pieces: AsyncIterable<{ text: string }>): Promise<string> {
  let text = '';
  for await (const piece of pieces) text += piece.text;
  return text;
}

/** The text by every way to it. */
async function allTexts(prompt: string | number[], options: Omit<GenerateOptions, 'prefix'>): Promise<string[]> {
  const { seed, n, ...rest } = options;
  const one = { ...rest, seed: seed as number };
  const [row] = await model.generate([prompt], { ...one, n: n ?? 1 });
  return [
    (row as { text: string }).text,
    (await model.generate(prompt, { ...one, logprobs: 0, stop: 'これは来ない文' })).text,
    await streamed(model.stream(prompt, one)),
    (await engine.generate({ ...one, prompt })).text,
    await streamed(engine.stream({ ...one, prompt })),
  ];
}

describe('the text is what the new tokens add to that of the prompt', () => {
  test('prompt and text, joined, are the text of all ids', async () => {
    let spaces = 0;
    for (let seed = 0; seed < 8; seed++) {
      const prompt = seed % 2 === 0 ? PROMPT : [...model.tokenizer.encode(PROMPT).subarray(0, 4 + seed)];
      const ids = typeof prompt === 'string' ? [...model.tokenizer.encode(prompt)] : prompt;
      const { tokens } = await model.generate(prompt, { ...DRAWN, seed });
      const decode = (list: number[]): string => model.tokenizer.decode(list, { skipSpecialTokens: true });
      const expected = decode([...ids, ...tokens]).slice(decode(ids).length);
      expect(decode([...ids, ...tokens])).toBe(decode(ids) + expected);
      expect(await allTexts(prompt, { ...DRAWN, seed })).toEqual(Array<string>(5).fill(expected));
      if (expected.startsWith(' ')) spaces++;
    }
    expect(spaces).toBeGreaterThan(0);
  });

  test('a beam search, of a model and of an engine', async () => {
    const options = { maxNewTokens: 6, numBeams: 2, logitBias: { [space()]: 100 } };
    const { text, tokens } = await model.generate(PROMPT, options);
    const decode = (list: Iterable<number>): string => model.tokenizer.decode([...list], { skipSpecialTokens: true });
    const ids = model.tokenizer.encode(`${PROMPT} 猫`);
    // The bias has spaces come that a decoder strips at the end.
    expect(tokens).toHaveLength(6);
    expect(PROMPT + text).toBe(decode([...model.tokenizer.encode(PROMPT), ...tokens]));
    expect((await engine.generate({ prompt: PROMPT, ...options })).text).toBe(text);
    expect(decode(ids)).toBe(`${PROMPT} 猫`);
  });

  test('appended text by text, a text goes on as it would in one', async () => {
    const ids = [...model.tokenizer.encode(`${PROMPT} 猫です。 犬です。`)];
    let text = '';
    for (let i = 1; i < ids.length; i++) {
      const force = { logitBias: { [ids[i] as number]: 1000 }, maxNewTokens: 1, ignoreEos: true, temperature: 0 };
      text += (await model.generate(ids.slice(0, i), force)).text;
    }
    expect(model.tokenizer.decode(ids.slice(0, 1)) + text).toBe(`${PROMPT} 猫です。 犬です。`);
  });

  test('the first space counts for a stop string', async () => {
    const id = model.tokenizer.encode('😃').at(-1) as number;
    const [first] = [...model.tokenizer.encode('😃')];
    const logitBias = { [first as number]: 500, [id]: 400 };
    const smile = { logitBias, maxNewTokens: 8, ignoreEos: true, temperature: 0 };
    const plain = await model.generate(PROMPT, { ...smile, noRepeatNgramSize: 1 });
    expect(plain.text.startsWith(' ')).toBe(true);
    const stopped = await model.generate(PROMPT, { ...smile, noRepeatNgramSize: 1, stop: plain.text.slice(0, 2) });
    expect([stopped.text, stopped.stop]).toEqual(['', plain.text.slice(0, 2)]);
  });

  test('decodeAlone reads the new tokens by themselves', async () => {
    const force = { logitBias: { [space()]: 60 }, presencePenalty: 100, maxNewTokens: 8, seed: 3, ignoreEos: true };
    const { tokens, text } = await model.generate(PROMPT, { ...force, decodeAlone: true });
    expect(text).toBe(model.tokenizer.decode(tokens, { skipSpecialTokens: true }));
    expect(await allTexts(PROMPT, { ...force, decodeAlone: true })).toEqual(Array<string>(5).fill(text));
    const behind = await model.generate(PROMPT, force);
    expect(behind.text.length).toBeGreaterThanOrEqual(text.length);
  });

  test('white space that the prompt ends in does not come twice', async () => {
    const force = { logitBias: { [space()]: 60 }, presencePenalty: 100, maxNewTokens: 8, seed: 3, ignoreEos: true };
    const { text } = await model.generate(PROMPT, force);
    expect(text[0]).toBe(' ');
    expect((await model.generate(`${PROMPT} `, force)).text).toBe(text.slice(1));
    expect(await streamed(model.stream(`${PROMPT}　`, force))).toBe(text.slice(1));
  });

  test('a format keeps its spaces', async () => {
    const format = { regex: ' 猫です' };
    expect((await model.generate(PROMPT, { format })).text).toBe(' 猫です');
  });
});

describe('a stop string that is a special token, or runs into one', () => {
  test('ends the text, by every way to it', async () => {
    let count = 0;
    for (let seed = 0; seed < 10; seed++) {
      const often = { ...DRAWN, seed, logitBias: { [BOS]: 12, [EOS]: -Infinity } };
      const { tokens } = await model.generate(PROMPT, often);
      const at = tokens.indexOf(BOS);
      if (at < 1 || tokens[at - 1] === space()) continue;
      count++;
      const before = (await model.generate(PROMPT, { ...often, maxNewTokens: at })).text;
      for (const stop of ['<s>', `${before.slice(-1)}<s>`]) {
        const result = await model.generate(PROMPT, { ...often, stop });
        expect(result).toMatchObject({ finishReason: 'stop', stop, tokens: tokens.slice(0, at + 1) });
        expect(result.text).toBe(before.slice(0, before.length - (stop.length - 3)));
        expect(await streamed(model.stream(PROMPT, { ...often, stop }))).toBe(result.text);
        expect(await engine.generate({ ...often, prompt: PROMPT, stop })).toMatchObject({ text: result.text, stop });
        expect(await streamed(engine.stream({ ...often, prompt: PROMPT, stop }))).toBe(result.text);
      }
    }
    expect(count).toBeGreaterThan(2);
  });
});

/** The piece of a space alone. */
function space(): number {
  const id = model.tokenizer.tokenToId('\u2581');
  if (id === undefined) throw new Error('the vocabulary has no space');
  return id;
}
