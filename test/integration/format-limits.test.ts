/** Formats that take too much: they are refused, and nobody else waits for them. */
import { GenerationEngine } from '../../lib/engine/engine';
import { startConstraint } from '../../lib/generation/constraints/compiler';
import type { OutputFormat } from '../../lib/generation/constraints/output-format';
import type { NeoXModel } from '../../lib/neox-model';
import { EXAMPLE_MODEL, expectRefusal, failureOf, loadModel, watchEventLoop } from '../helpers';
import { accepts, byteModel, END } from '../unit/generation/format-helpers';

/** 4,096 classes of characters outside ASCII: many seconds of compiling. */
const SLOW = { regex: '(([ぁ-ん]{64}){16}){4}' };

jest.setTimeout(60_000);

describe('of a model with a second for each', () => {
  let model: NeoXModel;
  beforeAll(async () => {
    model = await loadModel(EXAMPLE_MODEL, { formatSeconds: 1 });
  });
  afterAll(() => model.dispose());

  test('one that is slow is refused in time, while the event loop and other texts go on', async () => {
    const engine = new GenerationEngine(model);
    const quick = { prompt: '今日は', format: { choices: ['はい', 'いいえ'] }, seed: 1 };
    const expected = await engine.generate(quick);
    const { result, milliseconds, longestGap } = await watchEventLoop(async () => {
      const slow = failureOf(engine.generate({ prompt: '今日は', format: SLOW }));
      const others = [];
      for (let i = 0; i < 5; i++) others.push(await engine.generate(quick));
      return { others, error: await slow };
    });
    expect(result.error).toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: `format.regex takes more than 1 s to compile
Hint: make it smaller: counts within counts multiply; formatSeconds of the model is the limit`,
    });
    for (const { text } of result.others) expect(text).toBe(expected.text);
    expect(milliseconds).toBeLessThan(6000);
    expect(longestGap).toBeLessThan(500);
    // A format that is right is compiled as before.
    expect((await engine.generate({ ...quick, format: { regex: 'はい|いいえ' } })).finishReason).toBe('stop');
    await engine.dispose();
  });

  test('a signal ends the waiting at once', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 100);
    const started = performance.now();
    const options = { format: { regex: '([ぁ-ん]{64}){32}' }, signal: controller.signal };
    expect(await failureOf(model.generate('今日は', options))).toBe(reason);
    expect(performance.now() - started).toBeLessThan(900);
    // What nobody waits for is not compiled: the next one has the thread for itself.
    expect((await model.generate('今日は', { format: { choices: ['はい'] } })).text).toBe('はい');
  });
});

test('a request that comes for a format that another gave up gets it', async () => {
  const model = byteModel();
  const controller = new AbortController();
  const [format, ends] = [{ regex: '[a-z]{3}' }, Int32Array.of(END)];
  const first = failureOf(startConstraint(model, format, ends, controller.signal));
  controller.abort();
  const second = await startConstraint(model, format, ends);
  expect(await first).toMatchObject({ name: 'AbortError' });
  expect(second.mask).toBeDefined();
  second.dispose();
});

test('one that takes more memory than it may have is refused, and others are not harmed', async () => {
  const model = byteModel({ bytes: 64 * 2 ** 20 });
  const choices = Array.from({ length: 250 }, (_, i) => `${i}${'あ'.repeat(1000)}`);
  await expectRefusal({
    name: 'memory',
    act: () => startConstraint(model, { choices }, Int32Array.of(END)),
    text: 'format.choices takes more than 64 MiB to compile',
  });
  expect(await accepts(model, { regex: '[a-z]{3}' }, 'abc')).toBe(true);
});

test('a large format has a thread of its own, and is compiled once', async () => {
  const model = byteModel();
  const format = { regex: '([ぁ-ん]{16}){2}' };
  const timed = async (): Promise<number> => {
    const started = performance.now();
    (await startConstraint(model, format, Int32Array.of(END))).dispose();
    return performance.now() - started;
  };
  const first = await timed();
  expect(await timed()).toBeLessThan(first);
  expect(await accepts(model, format, 'あ'.repeat(32))).toBe(true);
  expect(await accepts(model, { regex: 'x{2}' }, 'xx')).toBe(true);
});

describe('refused before anything is compiled', () => {
  const model = byteModel();
  const CASES: [string, OutputFormat, RegExp][] = [
    ['counts in counts', { regex: '((a{256}){256}){256}' }, /^format.regex has 16777216 characters with its counts/],
    ['ranges in counts', { regex: '(?:[ぁ-ん]{0,256}[ァ-ン]{0,256}){0,256}' }, /^format.regex has 131072 char/],
    ['a pattern', { jsonSchema: { type: 'string', pattern: '((a{99}){99}){99}' } }, /pattern has 970299 characters/],
  ];
  test.each(CASES)('%s', async (name, format, text) => {
    await expectRefusal({ name, act: () => startConstraint(model, format, Int32Array.of(END)), text });
  });

  test('by its length', async () => {
    const own = await loadModel(EXAMPLE_MODEL);
    const refused = async (format: OutputFormat, text: string): Promise<void> => {
      await expectRefusal({ name: text, act: () => own.generate('今日は', { format }), text });
    };
    const most = 'characters, and 262144 is the most';
    const choices = Array.from({ length: 10_000 }, () => 'a'.repeat(1000));
    await refused({ choices }, `format.choices has 10000000 ${most}`);
    await refused({ regex: 'a'.repeat(20_000) }, 'format.regex has 20000 characters, and 16384 is the most');
    const properties = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`name${i}`, { type: 'null' }]));
    const jsonSchema = { type: 'object', properties };
    await refused({ jsonSchema }, `format.jsonSchema has ${JSON.stringify(jsonSchema).length} ${most}`);
    await own.dispose();
  });
});
