import { mkdirSync } from 'node:fs';
import type { EngineReport } from '../../types/native';
import type { StreamPiece } from '../../lib/generation/output';
import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixWeights } from '../../lib/prefix/weights';
import {
  drawLogits,
  EXAMPLE_MODEL,
  failureOf,
  loadModel,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
} from '../helpers';

const folder = temporaryFolder();
/** With a tokenizer. */
let model: NeoXModel;
/** 64 tokens, every one of them likely. */
let flat: NeoXModel;

beforeAll(async () => {
  mkdirSync(folder.join('flat'));
  model = await loadModel(EXAMPLE_MODEL);
  flat = await loadModel(await writeRandomModel(folder.join('flat')));
});
afterAll(async () => {
  await model.dispose();
  await flat.dispose();
});

const PROMPT = '今日は';

describe('several completions', () => {
  test('are draws of their own; the first is what one alone is; the others do not depend on how many there are', async () => {
    const prefix = randomPrefix(flat, 3);
    const options = { seed: 5, maxNewTokens: 12, ignoreEos: true, prefix };
    const prompt = [1, 2, 3, 4, 5];
    const [single, three, five] = await Promise.all([
      flat.generate(prompt, options),
      flat.generate(prompt, { ...options, n: 3 }),
      flat.generate(prompt, { ...options, n: 5 }),
    ]);
    expect(single.completions).toBeUndefined();
    expect(three.completions?.[0]?.tokens).toEqual(single.tokens);
    expect(three.tokens).toEqual(single.tokens);
    expect(five.completions?.slice(0, 3)).toEqual(three.completions);
    expect(new Set(five.completions?.map(({ tokens }) => tokens.join())).size).toBe(5);
    expect(five.usage).toEqual({ promptTokens: 5, prefixTokens: 3, completionTokens: 60 });
  });

  test('of a prompt in a batch, and of one token', async () => {
    const prompts = [[7], [1, 2, 3, 4, 5], [9, 9]];
    const options = { n: 2, maxNewTokens: 8, temperature: 1.2, logprobs: 1 };
    const together = await flat.generate(prompts, { ...options, seed: [1, 2, 3] });
    for (const [i, prompt] of prompts.entries())
      expect(await flat.generate(prompt, { ...options, seed: i + 1 })).toEqual(together[i]);
  });

  test('greedy ones are equal', async () => {
    const { completions } = await flat.generate([1, 2, 3], { n: 3, temperature: 0, maxNewTokens: 6 });
    expect(completions?.[1]).toEqual(completions?.[0]);
    expect(completions?.[2]).toEqual(completions?.[0]);
  });
});

describe('stop strings', () => {
  const GREEDY = { temperature: 0, ignoreEos: true, maxNewTokens: 40 };

  test('end the text before them, and the tokens with the one that completes them', async () => {
    const whole = await model.generate(PROMPT, GREEDY);
    const at = Math.floor(whole.text.length / 2);
    const stop = whole.text.slice(at, at + 5);
    const result = await model.generate(PROMPT, { ...GREEDY, maxNewTokens: 2000, stop, logprobs: 0 });
    expect(result.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(result).toMatchObject({ finishReason: 'stop', stop });
    const { tokens } = result;
    expect(tokens).toEqual(whole.tokens.slice(0, tokens.length));
    const decode = (count: number): string => model.tokenizer.decode(tokens.slice(0, count));
    expect(decode(tokens.length)).toContain(stop);
    expect(decode(tokens.length - 1)).not.toContain(stop);
    expect(result.logprobs?.map(({ token }) => token)).toEqual(tokens);
    expect(result.usage.completionTokens).toBe(tokens.length);
  });

  test('of one row leave the others as they are, and one that does not come changes nothing', async () => {
    const options = { ...GREEDY, maxNewTokens: 60 };
    const other = await model.generate('春になって', options);
    const stop = ['。', '来ない言葉'];
    const [first, second] = await model.generate([PROMPT, '春になって'], { ...options, stop });
    expect(first?.stop).toBe('。');
    expect(second?.text).toBe(other.text.slice(0, other.text.indexOf('。')));
    expect(await model.generate('春になって', { ...options, stop: ['来ない言葉'] })).toEqual(other);
  });

  test('are not in a stream, nor what might begin them', async () => {
    const whole = await model.generate(PROMPT, GREEDY);
    const stop = whole.text.slice(10, 14);
    const pieces: StreamPiece[] = [];
    for await (const piece of model.stream(PROMPT, { ...GREEDY, maxNewTokens: 2000, stop })) pieces.push(piece);
    const expected = await model.generate(PROMPT, { ...GREEDY, stop });
    expect(pieces.map(({ text }) => text).join('')).toBe(expected.text);
    expect(pieces.flatMap(({ token }) => token ?? [])).toEqual(expected.tokens);
    expect(pieces.at(-1)).toEqual({ text: '', finishReason: 'stop', stop, usage: expected.usage });
  });

  test('end the native work of the row, and of that row alone', async () => {
    const options = { ...GREEDY, maxNewTokens: 800 };
    const [first, second] = await model.generate([PROMPT, '私の'], options);
    const text = first?.text ?? '';
    const stop = Array.from(text, (_, i) => text.slice(i, i + 6)).find((part) => !second?.text.includes(part));
    const given = [0, 0]; // tokens, by the native engine, for each row
    const { engineRun } = native();
    const count = ({ tokens }: EngineReport): void => {
      for (let i = 0; i < tokens.length; i += 2) given[tokens[i] as number]! += 1;
    };
    const spy = jest.spyOn(native(), 'engineRun').mockImplementation(async (to, engine, commands, onTokens) => {
      const report = await engineRun(to, engine, commands, (part) => {
        count(part);
        onTokens?.(part);
      });
      count(report);
      return report;
    });
    try {
      const [stopped, other] = await model.generate([PROMPT, '私の'], { ...options, stop: stop as string });
      expect(stopped).toMatchObject({ finishReason: 'stop', stop });
      expect(other).toEqual(second);
      expect(given[0]).toBeLessThan(700);
      expect(given[1]).toBe(800);
    } finally {
      spy.mockRestore();
    }
  });
});

describe('words and ends', () => {
  test('a banned word does not come in the tokens that the tokenizer writes it in', async () => {
    const options = {
      maxNewTokens: 60,
      ignoreEos: true,
      seed: Array.from({ length: 12 }, (_, i) => i),
      temperature: 1.2,
    };
    const { tokenizer } = model;
    const words = ['でした', 'です。'];
    // Behind other text; each is more than one token.
    const forms = words.map((word) => Array.from(tokenizer.encode(`。${word}`).slice(tokenizer.encode('。').length)));
    const count = async (badWords: string[]): Promise<number[]> => {
      const results = await model.generate(
        options.seed.map(() => PROMPT),
        { ...options, badWords },
      );
      return forms.map((form) =>
        results.reduce(
          (sum, { tokens }) =>
            sum + tokens.filter((_, i) => tokens.slice(i, i + form.length).join() === form.join()).length,
          0,
        ),
      );
    };
    expect(forms.map(({ length }) => length)).toEqual([2, 3]);
    expect(Math.min(...(await count([])))).toBeGreaterThan(0);
    expect(await count(words)).toEqual([0, 0]);
  });

  test('end tokens of the request replace the model’s', async () => {
    const free = await flat.generate([1, 2, 3], { temperature: 0, ignoreEos: true, maxNewTokens: 20 });
    const end = free.tokens[9] as number;
    const before = free.tokens.slice(0, free.tokens.indexOf(end));
    expect(await flat.generate([1, 2, 3], { temperature: 0, maxNewTokens: 20, eosTokenIds: [end] })).toMatchObject({
      tokens: before,
      finishReason: 'stop',
    });
    const longer = await flat.generate([1, 2, 3], {
      temperature: 0,
      maxNewTokens: 20,
      eosTokenIds: [end],
      minNewTokens: before.length + 1,
    });
    expect(longer.tokens.length).toBeGreaterThan(before.length);
    expect(longer.tokens.slice(0, before.length + 1)).not.toContain(end);
  });

  test('a bias makes a token come always, and -Infinity never', async () => {
    const { tokens } = await flat.generate([1], { maxNewTokens: 10, seed: 1, ignoreEos: true, logitBias: { 7: 1e6 } });
    expect(tokens).toEqual(new Array<number>(10).fill(7));
    const all = new Map(Array.from({ length: 62 }, (_, i) => [i + 2, -Infinity]));
    const others = await flat.generate([1], { maxNewTokens: 50, seed: 1, ignoreEos: true, logitBias: all });
    expect(new Set(others.tokens)).toEqual(new Set([0, 1]));
  });
});

describe('a sampler by hand', () => {
  test('draws what generate draws', async () => {
    const options = {
      temperature: 0.9,
      topP: 0.9,
      repetitionPenalty: 1.2,
      frequencyPenalty: 0.3,
      seed: 17,
      logprobs: 2,
    };
    const prompt = [4, 5, 6];
    const expected = await flat.generate(prompt, { ...options, maxNewTokens: 15, ignoreEos: true });
    const sampler = flat.createSampler({ ...options, ignoreEos: true }, prompt);
    let { logits, pastKeyValues } = await flat.forward({ inputIds: [prompt], logits: 'last' });
    const tokens: number[] = [];
    const logprobs = [];
    for (let i = 0; i < 15; i++) {
      const choice = sampler.next(logits?.data as Float32Array);
      tokens.push(choice.token);
      logprobs.push(choice.logprob);
      ({ logits, pastKeyValues } = await flat.forward({ inputIds: [[choice.token]], pastKeyValues, logits: 'last' }));
    }
    expect(tokens).toEqual(expected.tokens);
    expect(logprobs).toEqual(expected.logprobs);
  });

  test('leaves the logits as they are, and says when a text ends', () => {
    const logits = drawLogits(3, 64, 2);
    const copy = logits.slice();
    const sampler = flat.createSampler(
      { temperature: 0, repetitionPenalty: 2, eosTokenIds: [5], logitBias: { 5: 100 } },
      [1],
    );
    expect(sampler.next(logits)).toEqual({ token: 5, ends: true });
    expect(logits).toEqual(copy);
    expect(flat.createSampler({ temperature: 0 }).next(drawLogits(1, 64, 3)).ends).toBe(false);
  });
});

describe('numbers that are none', () => {
  test('in the logits of a generation, a beam search and a score', async () => {
    const { numLayers, numHeads, headSize } = flat.config;
    const data = new Float32Array(2 * numLayers * 2 * numHeads * headSize).fill(3e38);
    const prefix = PrefixWeights.fromTensor(data, { prefixLength: 2, numLayers, numHeads, headSize });
    const text = {
      code: 'NEOX_NOT_FINITE',
      message: expect.stringMatching(/^The model gives logits that are not finite for row 1\nHint: /) as string,
    };
    const one = [prefix, prefix];
    one[0] = randomPrefix(flat, 2);
    const prompts = [
      [1, 2],
      [1, 2],
    ];
    expect(await failureOf(flat.generate(prompts, { prefix: one }))).toMatchObject(text);
    expect(await failureOf(flat.generate(prompts, { prefix: one, temperature: 0 }))).toMatchObject(text);
    expect(await failureOf(flat.generate(prompts, { prefix: one, numBeams: 2 }))).toMatchObject(text);
    expect(await failureOf(flat.generate(prompts, { prefix: one, promptLogprobs: 1 }))).toMatchObject(text);
    expect(await failureOf(flat.score([1, 2], [[3]], { prefix }))).toMatchObject({ code: 'NEOX_NOT_FINITE' });
    // The model is as good as before.
    expect((await flat.generate([1, 2], { maxNewTokens: 3, ignoreEos: true })).tokens).toHaveLength(3);
  });

  test.each([
    ['NaN', NaN],
    ['infinity', Infinity],
  ])('%s among others', async (_name, value) => {
    for (const place of [0, 20, 63]) {
      const logits = drawLogits(1, 64, 1);
      logits[place] = value;
      for (const temperature of [0, 1]) {
        const error = await failureOf(() => flat.createSampler({ temperature }).next(logits));
        expect(error).toMatchObject({ name: 'NeoXPrefixError', code: 'NEOX_NOT_FINITE' });
      }
    }
  });

  test('-Infinity is a ban, and an error where there is nothing else', async () => {
    const logits = new Float32Array(64).fill(-Infinity);
    expect(await failureOf(() => flat.createSampler().next(logits))).toMatchObject({ code: 'NEOX_NOT_FINITE' });
    logits[9] = -1000;
    expect(flat.createSampler().next(logits).token).toBe(9);
  });
});

test('options that ban every token', async () => {
  const logitBias = Object.fromEntries(Array.from({ length: 64 }, (_, i) => [i, -Infinity]));
  const text = {
    code: 'NEOX_BAD_ARGUMENT',
    message:
      'No token is left to choose from: logitBias, badWords, noRepeatNgramSize, minNewTokens or the format ban all of them for row 0',
  };
  for (const options of [{}, { temperature: 0 }, { numBeams: 3 }])
    expect(await failureOf(flat.generate([1], { ...options, logitBias }))).toMatchObject(text);
});
