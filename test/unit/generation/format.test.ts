import type { Constraint } from '../../../lib/generation/constraints/constraint';
import { startConstraint } from '../../../lib/generation/constraints/compiler';
import type { OutputFormat } from '../../../lib/generation/constraints/output-format';
import { XGrammar } from '../../../lib/generation/constraints/xgrammar';
import { accepts, allowed, byteModel, drawTexts, END, pieceId, VOCABULARY } from './format-helpers';

const model = byteModel();
const start = (format: OutputFormat): Promise<Constraint> => startConstraint(model, format, Int32Array.of(END));

describe('a regular expression matches what it matches in JavaScript', () => {
  const texts = [
    '',
    'a',
    'b',
    'ab',
    'aab',
    'abab',
    'A',
    '5',
    '12',
    '_',
    '-',
    ' ',
    '\u3000',
    '\n',
    '"',
    '\\',
    'é',
    'è',
    'ぁ',
    'ん',
    'あい',
    '今',
    '今日',
    '龠',
    '😀',
    '😀😀',
    '🚀',
    '今a',
    'a今',
    '.',
    '{',
    ']',
    '\u2028',
    '\u0000',
    'あ。',
    'ア',
  ];
  const patterns = [
    '今日?',
    '[ぁ-ん]',
    '[ぁ-ん]+',
    '[^ぁ-ん]',
    '[a-zぁ-ん一-龠]+',
    '[一-龠]',
    '.',
    '.*',
    '[^a]',
    '[^今]+',
    '\\s',
    '\\S',
    '\\w+',
    '\\W',
    '\\d{1,3}',
    '\\D',
    '[\\s\\d]',
    '[^\\s]',
    '[^\\w今]',
    '(?:ab)+',
    '(a|b)*',
    '(?<x>a)b?',
    'a{2}b',
    'a{0,2}b',
    'a??b',
    '^a|b$',
    '[é]',
    'é',
    '[😀-😂]',
    '😀+',
    '\\u{1F600}',
    '\\ud83d\\ude00',
    '\\u3042[い]',
    '\\x41',
    '\\u0022',
    '"|\\\\',
    '\\n',
    '\\0',
    '\\.',
    '[.]',
    '[\\]\\-]',
    '\\{',
    '[\\b]?a',
    '\\p{Script=Katakana}',
    '[\\p{Script=Hiragana}a]+',
    '\\cJ',
    '\\/|-',
  ];
  test.each(patterns)('%s', async (regex) => {
    const expected = new RegExp(`^(?:${regex})$`, 'u');
    for (const text of texts)
      expect([text, await accepts(model, { regex }, text)]).toEqual([text, expected.test(text)]);
    for (const text of await drawTexts(model, { regex }, 6, 1)) expect(text).toMatch(expected);
  });
});

test('every character is in its class, and no other', async () => {
  for (const regex of ['[一-龠]', '[^一-龠]', '[\u07ff\u0800\ud7ff\ue000\uffff\u{10000}\u{10ffff}]']) {
    const expected = new RegExp(`^${regex}$`, 'u');
    for (const code of [
      0x7f, 0x80, 0x7ff, 0x800, 0xfff, 0x1000, 0x4dff, 0x4e00, 0x4e3f, 0x4e40, 0x4fff, 0x5000, 0x8fff, 0x9000, 0x9f9f,
      0x9fa0, 0x9fa1, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x3ffff, 0x40000, 0x10ffff,
    ]) {
      const text = String.fromCodePoint(code);
      expect([regex, code, await accepts(model, { regex }, text)]).toEqual([regex, code, expected.test(text)]);
    }
  }
});

describe('a choice', () => {
  const choices = ['はい', 'いいえ', 'いい', '', ' "a"\\\n', '😀', '\u0000'];
  test('is one of the list and nothing else', async () => {
    for (const text of choices) expect(await accepts(model, { choices }, text)).toBe(true);
    for (const text of ['は', 'いいえ。', 'はいはい', ' ']) expect(await accepts(model, { choices }, text)).toBe(false);
    for (const text of await drawTexts(model, { choices }, 50, 3)) expect(choices).toContain(text);
  });
});

describe('a value is valid by its schema', () => {
  const integers =
    (low: number, high: number) =>
    (value: unknown): boolean =>
      Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
  const points = (value: unknown): number => Array.from(value as string).length;
  const keys = (value: unknown): string => Object.keys(value as object).join();
  const isString = (value: unknown): boolean => typeof value === 'string';
  const SCHEMAS: Record<
    string,
    { schema: Record<string, unknown> | boolean; valid: (value: unknown) => boolean; yes?: string[]; no?: string[] }
  > = {
    anything: { schema: true, valid: () => true, yes: ['{"a": [1.5, "x"]}', 'null'] },
    types: {
      schema: { type: ['null', 'boolean'] },
      valid: (value) => value === null || typeof value === 'boolean',
      yes: ['null', 'true'],
      no: ['1'],
    },
    integer: { schema: { type: 'integer' }, valid: Number.isInteger, yes: ['0', '-12'], no: ['01', '1.5', '-0'] },
    number: {
      schema: { type: 'number' },
      valid: (value) => typeof value === 'number',
      yes: ['-0.5', '1e3'],
      no: ['.5'],
    },
    'from 0': { schema: { type: 'integer', minimum: 0 }, valid: integers(0, Infinity), yes: ['0', '4711'], no: ['-1'] },
    'above 0': {
      schema: { type: 'integer', exclusiveMinimum: 0 },
      valid: integers(1, Infinity),
      yes: ['1', '10'],
      no: ['0', '-1'],
    },
    'from -7 to 1689': {
      schema: { type: 'integer', minimum: -7, exclusiveMaximum: 1689.5 },
      valid: integers(-7, 1689),
      yes: ['-7', '1004', '1689'],
      no: ['-8', '1690', '-'],
    },
    string: { schema: { type: 'string' }, valid: isString, yes: ['"今\\n"', '"\\u3042"'], no: ['"\n"', 'a'] },
    'string of 1 to 3': {
      schema: { type: 'string', minLength: 1, maxLength: 3 },
      valid: (value) => points(value) >= 1 && points(value) <= 3,
      yes: ['"今日は"', '"😀😀😀"'],
      no: ['""', '"abcd"', '"\t"'],
    },
    pattern: {
      schema: { type: 'string', pattern: '^[^今]{2}[ぁ-ん.]?$' },
      valid: (value) => /^[^今]{2}[ぁ-ん.]?$/u.test(value as string),
      yes: ['"aあ"', '"日日ん"'],
      no: ['"今日"', '"a"', '"a""', '"a\\"'],
    },
    date: {
      schema: { type: 'string', format: 'date' },
      valid: (value) => /^\d{4}-\d\d-\d\d$/.test(value as string),
      yes: ['"2024-02-29"'],
      no: ['"2024-13-01"'],
    },
    uuid: {
      schema: { type: 'string', format: 'uuid' },
      valid: (value) => /^[\da-f]{8}-([\da-f]{4}-){3}[\da-f]{12}$/i.test(value as string),
    },
    enum: {
      schema: { enum: [1, 'a"b\\', null, '今日', 0.1, { x: [1] }] },
      valid: (value) => [1, 'a"b\\', null, '今日', 0.1].includes(value as never) || keys(value) === 'x',
      yes: ['"a\\"b\\\\"', '"今日"'],
      no: ['2'],
    },
    const: { schema: { const: '今"', type: 'string' }, valid: (value) => value === '今"', yes: ['"今\\""'] },
    anyOf: {
      schema: { anyOf: [{ type: 'integer', minimum: 3, maximum: 4 }, { const: 'x' }] },
      valid: (value) => value === 3 || value === 4 || value === 'x',
      yes: ['3', '"x"'],
      no: ['5'],
    },
    allOf: { schema: { allOf: [{ type: 'null' }] }, valid: (value) => value === null },
    array: {
      schema: { type: 'array', items: { type: 'boolean' }, minItems: 1, maxItems: 3 },
      valid: (value) =>
        Array.isArray(value) &&
        value.length >= 1 &&
        value.length <= 3 &&
        value.every((item) => typeof item === 'boolean'),
      yes: ['[true, false]'],
      no: ['[]', '[1]', '[true, true, true, true]'],
    },
    tuple: {
      schema: { type: 'array', prefixItems: [{ type: 'null' }, { const: 2 }] },
      valid: (value) => JSON.stringify(value) === '[null,2]',
      yes: ['[null, 2]'],
      no: ['[null]', '[null, 2, 3]'],
    },
    'tuple and more': {
      schema: { type: 'array', prefixItems: [{ const: 1 }], items: { type: 'null' } },
      valid: (value) => Array.isArray(value) && value[0] === 1 && value.slice(1).every((item) => item === null),
      yes: ['[1]', '[1, null, null]'],
      no: ['[]', '[1, 1]'],
    },
    object: {
      schema: {
        title: 'cat',
        type: 'object',
        properties: {
          name: { type: 'string', maxLength: 4 },
          年: { type: 'integer', minimum: 0, maximum: 30 },
          x: true,
        },
        required: ['name', '年'],
      },
      valid: (value) => /^name,年(,x)?$/.test(keys(value)) && points((value as { name: string }).name) <= 4,
      yes: ['{"name": "たま", "年": 3}'],
      no: ['{"name": "たま"}', '{"name": "たま", "年": 3, "y": 1}', '{"年": 3, "name": "たま"}'],
    },
    'object of one': {
      schema: { type: 'object', properties: { a: { const: 1 }, b: { const: 2 } }, minProperties: 1, maxProperties: 1 },
      valid: (value) => ['a', 'b'].includes(keys(value)),
      no: ['{}', '{"a": 1, "b": 2}'],
    },
    map: {
      schema: { type: 'object', additionalProperties: { type: 'null' } },
      valid: (value) => Object.values(value as object).every((item) => item === null),
      yes: ['{}', '{"今": null}'],
      no: ['{"a": 1}'],
    },
    'any object': {
      schema: { type: 'object' },
      valid: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
      yes: ['{}'],
    },
    'no property': {
      schema: { type: 'object', additionalProperties: false },
      valid: (value) => keys(value) === '',
      yes: ['{}'],
      no: ['{"a": 1}'],
    },
    list: {
      schema: {
        $ref: '#/$defs/node',
        $defs: {
          node: {
            type: 'object',
            properties: { next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] } },
            required: ['next'],
          },
        },
      },
      valid: (value) => keys(value) === 'next',
      yes: ['{"next": {"next": null}}'],
      no: ['{"next": 1}'],
    },
  };
  test.each(Object.keys(SCHEMAS))('%s', async (name) => {
    const { schema, valid, yes = [], no = [] } = SCHEMAS[name]!;
    const format = { jsonSchema: schema };
    for (const text of yes) expect([text, await accepts(model, format, text)]).toEqual([text, true]);
    for (const text of no) expect([text, await accepts(model, format, text)]).toEqual([text, false]);
    const texts = await drawTexts(model, format, 30, 5);
    expect(texts.length).toBeGreaterThan(0);
    for (const text of texts) expect([text, valid(JSON.parse(text))]).toEqual([text, true]);
  });
});

describe('the mask', () => {
  test('has pieces of several bytes, ends where the text may end, and no token without a text', async () => {
    const constraint = await start({ regex: '(今日|[a-z])+' });
    expect(constraint.mask).toHaveLength(Math.ceil(VOCABULARY / 32));
    expect(allowed(constraint)).toEqual(
      [...Array.from({ length: 26 }, (_, i) => 97 + i), 0xe4, pieceId('今日'), pieceId('true')].sort((a, b) => a - b),
    );
    constraint.accept(pieceId('今日'));
    await constraint.findMask();
    expect(allowed(constraint)).toContain(END);
    constraint.dispose();
    const anything = await start({ regex: '[^]*' });
    expect(allowed(anything).filter((id) => id > pieceId('です。') || id === END + 1)).toEqual([]);
    for (const never of [0xc0, 0xc1, 0xf5, 0xff]) expect(allowed(anything)).not.toContain(never);
    anything.dispose();
  });

  test('other end tokens end the text, and are no part of it', async () => {
    const constraint = await startConstraint(model, { regex: 'a|bc' }, Int32Array.of(97, 299));
    expect(allowed(constraint)).toEqual([98]);
    constraint.accept(98);
    await constraint.findMask();
    constraint.accept(99);
    await constraint.findMask();
    expect(allowed(constraint)).toEqual([97, 299]);
    constraint.dispose();
  });

  test('a token that was not in it is an error', async () => {
    const constraint = await start({ regex: 'a' });
    constraint.accept(98);
    await expect(constraint.findMask()).rejects.toMatchObject({
      code: 'NEOX_NATIVE',
      message: 'XGrammar refuses token 98, which it allowed',
    });
    constraint.dispose();
  });
});

test('more formats than an instance compiles, wrong ones among them, disturb no row', async () => {
  const first = await start({ choices: ['abc'] });
  for (let i = 0; i < 80; i++) {
    expect(await accepts(model, { choices: [`x${i}`] }, `x${i}`)).toBe(true);
    await expect(start({ regex: `(?=a)${i}` })).rejects.toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
  }
  for (const byte of Buffer.from('abc')) {
    expect(allowed(first)).toEqual([byte]);
    first.accept(byte);
    await first.findMask();
  }
  expect(allowed(first)).toEqual([END]);
  first.dispose();
});

test('an instance listens to nothing that happens to the process', async () => {
  const events = ['exit', 'uncaughtException', 'unhandledRejection'];
  const before = events.map((event) => process.listenerCount(event));
  const { api } = new XGrammar();
  (await api.Grammar.builtinJSONGrammar()).dispose();
  expect(events.map((event) => process.listenerCount(event))).toEqual(before);
});
