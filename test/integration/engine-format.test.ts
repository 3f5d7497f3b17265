import { join } from 'node:path';
import { Constraint } from '../../lib/generation/constraints/constraint';
import type { OutputFormat } from '../../lib/generation/constraints/output-format';
import { PACKAGE_ROOT } from '../../lib/base/package';
import type { NeoXModel } from '../../lib/neox-model';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';
import {
  EXAMPLE_MODEL,
  expectRefusal,
  failureOf,
  loadModel,
  Random,
  randomPrefix,
  temporaryFolder,
  wrong,
  type Refusal,
} from '../helpers';
import { alone, answerOf, drawRequests, GenerationEngine, pause, somePrefixes, writeModel } from './engine-helpers';

const folder = temporaryFolder();
const realFind = Constraint.prototype.findMask;
const realFree = Constraint.prototype.dispose;

const SCHEMA = {
  type: 'object',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 6 },
    age: { type: 'integer', minimum: 0, maximum: 130 },
    tags: { type: 'array', items: { enum: ['犬', '猫', 'a"b'] }, maxItems: 3 },
    size: { type: 'number' },
  },
  required: ['name', 'age', 'tags'],
} as const;

const FORMATS: Record<string, OutputFormat> = {
  schema: { jsonSchema: SCHEMA },
  'any JSON': { jsonSchema: true },
  regex: { regex: '[ぁ-ん]{1,4}(です|ます)。?' },
  'regex with spaces': { regex: ' +a *' },
  choices: { choices: ['はい', 'いいえ', 'わかりません', ' 犬 '] },
};

interface Cat {
  name: string;
  age: number;
  tags: string[];
  size?: number;
}

/** Whether a text has a format. */
const has: Record<string, (text: string) => boolean> = {
  schema: (text) => {
    const { name, age, tags, size, ...others } = JSON.parse(text) as Cat;
    const inName = Array.from(name).length;
    const tagsFit = tags.length <= 3 && tags.every((tag) => SCHEMA.properties.tags.items.enum.includes(tag as never));
    const numbersFit =
      Number.isInteger(age) && age >= 0 && age <= 130 && (size === undefined || typeof size === 'number');
    return inName >= 1 && inName <= 6 && tagsFit && numbersFit && Object.keys(others).length === 0;
  },
  'any JSON': (text) => JSON.parse(text) !== undefined,
  regex: (text) => /^[ぁ-ん]{1,4}(です|ます)。?$/u.test(text),
  'regex with spaces': (text) => /^ +[今日a]* *$/u.test(text),
  choices: (text) => ['はい', 'いいえ', 'わかりません', ' 犬 ', '今日', '今日 ', '小説'].includes(text),
};

/**
 * A random model over a tokenizer: it has no idea what it says, so all that is right about it is the format's doing.
 */
async function modelWith(name: string): Promise<NeoXModel> {
  const tokenizer = name === 'example' ? EXAMPLE_MODEL : join(PACKAGE_ROOT, 'test', 'fixtures', 'tokenizer', name);
  const { vocabSize, eosId } = await Tokenizer.load(tokenizer);
  // A few entries more than the tokenizer has, as many models have them.
  const config = { vocab_size: vocabSize + 13, eos_token_id: eosId ?? vocabSize - 1, max_position_embeddings: 512 };
  return loadModel(await writeModel(folder.join(name), config), { tokenizer });
}

/** What a vocabulary of few characters and no bytes can write. */
const WITHOUT_BYTES: Record<string, OutputFormat> = {
  'regex with spaces': { regex: ' +[今日a] *' },
  choices: { choices: ['今日', '今日 ', '小説'] },
};

describe.each([
  { name: 'byte-level', formats: FORMATS },
  { name: 'byte-fallback', formats: FORMATS },
  { name: 'dummy-prefix', formats: WITHOUT_BYTES },
])('a model with the tokenizer $name', ({ name, formats }) => {
  let model: NeoXModel;
  let engine: GenerationEngine;
  beforeAll(async () => {
    model = await modelWith(name);
    engine = new GenerationEngine(model, { maxRows: 6 });
  });
  afterAll(() => model.dispose());

  test.each(Object.keys(formats))('says nothing but what the format allows: %s', async (kind) => {
    const format = formats[kind]!;
    const requests = Array.from({ length: 24 }, (_, i) => ({
      prompt: [i],
      maxNewTokens: 120,
      temperature: 1 + (i % 3),
      format,
      seed: i,
    }));
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    let complete = 0;
    for (const [i, result] of results.entries()) {
      const { text, finishReason } = result;
      // The same from the model alone, token by token and in a stream.
      expect(answerOf(result)).toEqual(await alone(model, requests[i]!));
      if (finishReason === 'length') continue;
      complete++;
      expect([text, has[kind]!(text)]).toEqual([text, true]);
    }
    expect(complete).toBeGreaterThan(0);
  });

  test('in a stream, whose pieces are the text', async () => {
    for (const format of Object.values(formats)) {
      const request = { prompt: [3], maxNewTokens: 60, format, seed: 5 };
      let [text, fromModel] = ['', ''];
      for await (const piece of engine.stream(request)) text += piece.text;
      const { prompt, ...options } = request;
      for await (const piece of model.stream(prompt, options)) fromModel += piece.text;
      expect(text).toBe((await engine.generate(request)).text);
      expect(fromModel).toBe(text);
    }
  });
});

describe('with the example model', () => {
  let model: NeoXModel;
  beforeAll(async () => (model = await modelWith('example')));
  afterAll(() => model.dispose());

  test('every choice can come, and every value of an enum', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 16 });
    const choices = ['今日', '今日は', '犬', 'はい'];
    const said = new Set<string>();
    const values = new Set<unknown>();
    await Promise.all(
      Array.from({ length: 150 }, async (_, seed) => {
        const drawn = { temperature: 100, seed, maxNewTokens: 60 };
        said.add((await engine.generate({ ...drawn, prompt: '今日は', format: { choices } })).text);
        const { text } = await engine.generate({
          ...drawn,
          prompt: [4],
          format: { jsonSchema: { enum: [3, 77, 20] } },
        });
        values.add(JSON.parse(text));
      }),
    );
    expect([...said].sort()).toEqual([...choices].sort());
    expect(values).toEqual(new Set([3, 77, 20]));
  });

  test('rows with formats and without, prefixes, and a text that maxNewTokens ends', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 5, prefillTokens: 9 });
    const random = new Random(3);
    const formats = [FORMATS['regex']!, FORMATS['any JSON']!, ...Object.values(WITHOUT_BYTES)];
    const requests = drawRequests(model, 40, somePrefixes(model, [4, 11]), 9).map((request) => ({
      ...request,
      ignoreEos: false,
      ...(random.next() < 0.7 && { format: random.pick(formats) }),
    }));
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    for (const [i, result] of results.entries()) expect(answerOf(result)).toEqual(await alone(model, requests[i]!));
    expect(results.some(({ finishReason }) => finishReason === 'length')).toBe(true);
  });

  test('several completions', async () => {
    await using engine = new GenerationEngine(model, { maxRows: 4 });
    const options = { format: FORMATS['choices']!, n: 6, seed: 3, prefix: randomPrefix(model, 3) };
    const result = await engine.generate({ prompt: '今日は', ...options });
    const { usage, ...expected } = await model.generate('今日は', options);
    expect(result).toMatchObject({ ...expected, usage: { completionTokens: usage.completionTokens } });
    expect(result.completions).toHaveLength(6);
  });

  test('another end token ends the text, and is no part of it elsewhere', async () => {
    const quote = model.tokenizer.tokenToId('犬') as number;
    const { text, finishReason, tokens } = await model.generate('今日は', {
      format: { choices: ['今日'] },
      eosTokenIds: [quote],
      temperature: 5,
      seed: 1,
    });
    expect({ text, finishReason }).toEqual({ text: '今日', finishReason: 'stop' });
    expect(tokens).not.toContain(quote);
    const refused = model.generate('今日は', { format: { choices: ['犬'] }, eosTokenIds: [quote] });
    await expect(refused).rejects.toMatchObject({ code: 'NEOX_UNSUPPORTED' });
  });

  test('what the vocabulary has no tokens for fails its own row, and no other', async () => {
    await using engine = new GenerationEngine(model);
    const good = engine.generate({ prompt: '今日は', format: { choices: ['はい'] } });
    const free = engine.generate({ prompt: '今日は', maxNewTokens: 8, temperature: 0 });
    const deadEnd =
      'No token goes on with a text of this format\nHint: no text has the format, or the vocabulary lacks characters that it needs';
    const noTokens = "The vocabulary of the tokenizer has no tokens for format.choices[1], 'は𠮷'";
    const cases: [OutputFormat, string][] = [
      [{ choices: ['はい', 'は𠮷'] }, noTokens],
      [{ regex: '𠮷' }, deadEnd],
      [{ regex: 'は𠮷' }, deadEnd],
    ];
    for (const [format, text] of cases) {
      for (const act of [
        () => engine.generate({ prompt: '今日は', format }),
        () => model.generate('今日は', { format }),
      ]) {
        await expectRefusal({ name: '', act, code: 'NEOX_UNSUPPORTED', text });
      }
    }
    expect((await good).text).toBe('はい');
    expect((await free).tokens).toEqual((await model.generate('今日は', { maxNewTokens: 8, temperature: 0 })).tokens);
    expect(engine.stats()).toMatchObject({ running: 0, kvReservedTokens: 0, completed: 2, failed: 3 });
  });

  test('options that leave nothing of what the format allows fail their own row', async () => {
    await using engine = new GenerationEngine(model);
    const good = engine.generate({ prompt: '今日は', format: { choices: ['はい'] } });
    await expectRefusal({
      name: '',
      act: () =>
        engine.generate({ prompt: '今日は', format: { choices: ['はい'] }, minNewTokens: 9, maxNewTokens: 20 }),
      text: 'No token is left to choose from: logitBias, badWords, noRepeatNgramSize, minNewTokens or the format ban all of them',
    });
    expect((await good).text).toBe('はい');
  });

  test('a wrong format fails its own row', async () => {
    await using engine = new GenerationEngine(model);
    const good = engine.generate({ prompt: '今日は', format: { choices: ['はい'] } });
    const wrongOnes = ['a(?=b)', '[]', 'a|'].map((regex) => engine.generate({ prompt: '今日は', format: { regex } }));
    for (const result of wrongOnes) expect(await failureOf(result)).toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
    expect((await good).text).toBe('はい');
  });

  test('log-probabilities of text and prompt', async () => {
    const format = { choices: ['今日', '犬'] };
    const { logprobs, promptLogprobs, tokens } = await model.generate('今日は', {
      format,
      logprobs: 2,
      promptLogprobs: 1,
      seed: 2,
    });
    expect(logprobs?.map(({ token }) => token)).toEqual(tokens);
    expect(promptLogprobs).toEqual(
      (await model.generate('今日は', { promptLogprobs: 1, maxNewTokens: 1 })).promptLogprobs,
    );
  });

  test('however a row ends, its matcher is freed', async () => {
    const made = new Set<Constraint>();
    const freed = new Set<Constraint>();
    const find = jest.spyOn(Constraint.prototype, 'findMask').mockImplementation(function (this: Constraint) {
      made.add(this);
      return realFind.call(this);
    });
    const free = jest.spyOn(Constraint.prototype, 'dispose').mockImplementation(function (this: Constraint) {
      expect(freed.has(this)).toBe(false);
      freed.add(this);
      realFree.call(this);
    });
    const format = { regex: '[ぁ-ん]*' };
    const long = {
      prompt: '今日は',
      format,
      maxNewTokens: 100,
      logitBias: new Map([[model.config.eosTokenIds[0]!, -100]]),
    };
    {
      await using engine = new GenerationEngine(model, { maxRows: 3 });
      await engine.generate({ ...long, maxNewTokens: 3 });
      await engine.generate({ prompt: '今日は', format: { choices: ['犬'] } });
      await engine.generate({ ...long, maxNewTokens: 0 });
      await failureOf(engine.generate({ prompt: '今日は', format: { regex: 'は𠮷' } }));
      const controller = new AbortController();
      const many = Promise.allSettled(
        Array.from({ length: 8 }, () => engine.generate({ ...long, signal: controller.signal })),
      );
      const left = engine.stream(long);
      for await (const piece of left) if (piece.token !== undefined) break;
      controller.abort('enough');
      expect((await many).at(-1)).toEqual({ status: 'rejected', reason: 'enough' });
      for await (const piece of model.stream('今日は', { format, maxNewTokens: 50 }))
        if (piece.token !== undefined) break;
      await failureOf(model.generate(['今日は', '今日は'], { format: { regex: 'は𠮷' } }));
      void engine.generate(long).catch(() => undefined);
      void engine.generate(long).catch(() => undefined);
      await pause(20);
    }
    expect(made.size).toBeGreaterThan(14);
    expect([...made].filter((constraint) => !freed.has(constraint))).toEqual([]);
    find.mockRestore();
    free.mockRestore();
  });

  test('an aborted call of the model ends within a token, with the reason', async () => {
    const controller = new AbortController();
    // So many rows that they are not done when the timer is late.
    const prompts = Array<string>(64).fill('今日は');
    const work = model.generate(prompts, {
      format: { regex: '[^]*' },
      maxNewTokens: 400,
      minNewTokens: 400,
      signal: controller.signal,
    });
    await pause(30);
    controller.abort('enough');
    expect(await failureOf(work)).toBe('enough');
  });

  test('the same format is made once', async () => {
    const format = { choices: ['はい', '犬'] };
    const first = await model.generate('今日は', { format, seed: 1 });
    format.choices.pop();
    const second = await model.generate('今日は', { format, seed: 1 });
    expect(first.text).not.toBe('');
    expect(second.text).toBe('はい');
  });
});

describe('what is refused', () => {
  let model: NeoXModel;
  beforeAll(async () => (model = await modelWith('example')));
  afterAll(() => model.dispose());

  const act = (options: unknown) => (): unknown => model.generate('今日は', wrong(options));
  const choices = ['はい'];
  const refusals: Refusal[] = [
    {
      name: 'ignoreEos',
      act: act({ format: { choices }, ignoreEos: true }),
      text: 'format and ignoreEos: true do not go together\nHint: a text that has its format ends by an end token',
    },
    {
      name: 'stop',
      act: act({ format: { choices }, stop: '。' }),
      text: 'format and stop do not go together\nHint: a stop string would end the text before it has its format',
    },
    {
      name: 'a beam search',
      act: act({ format: { choices }, numBeams: 3 }),
      text: 'format and numBeams: 3 do not go together\nHint: a beam search does not sample',
    },
    {
      name: 'a format that is none, in an engine',
      act: () => new GenerationEngine(model).stream({ prompt: [1], format: wrong({ schema: {} }) }),
      text: "Unknown option 'schema' in format\nHint: known options: jsonSchema, regex, choices",
    },
  ];
  test.each(refusals)('$name', expectRefusal);

  test('a model without an end token, or without a tokenizer', async () => {
    const { vocabSize } = await Tokenizer.load(EXAMPLE_MODEL);
    const config = { vocab_size: vocabSize, eos_token_id: null };
    await using endless = await loadModel(await writeModel(folder.join('endless'), config), {
      tokenizer: EXAMPLE_MODEL,
    });
    await expectRefusal({
      name: '',
      act: () => endless.generate('今日は', { format: { choices } }),
      code: 'NEOX_UNSUPPORTED',
      text: 'A format needs an end-of-sequence token, and this model has none\nHint: say with eosTokenIds which token ends a text',
    });
    await using mute = await loadModel(await writeModel(folder.join('mute')));
    await expect(mute.generate([1], { format: { choices } })).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
  });
});
