import {
  badArgument,
  checkBoolean,
  checkFunction,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkPath,
  checkSignal,
  checkString,
  nearest,
  show,
} from '../../../lib/base/arguments';
import { NeoXPrefixError } from '../../../lib/base/errors';

class Thing {
  readonly name = 'thing';
}

test.each<[unknown, string]>([
  ['text', "'text'"],
  ['x'.repeat(61), `'${'x'.repeat(57)}...'`],
  [5, '5'],
  [-0.5, '-0.5'],
  [NaN, 'NaN'],
  [10n, '10n'],
  [true, 'true'],
  [undefined, 'undefined'],
  [null, 'null'],
  [Symbol('s'), 'Symbol(s)'],
  [() => 1, 'a function'],
  [[1, 2], 'an array of 2'],
  [Int32Array.of(1), 'a Int32Array'],
  [{}, 'an object'],
  [Object.create(null), 'an object'],
  [new Thing(), 'a Thing'],
])('%p is shown as %s', (value, text) => expect(show(value)).toBe(text));

test('one formatter for bad arguments', () => {
  expect(badArgument('x', 'an integer', null)).toMatchObject({
    name: 'NeoXPrefixError',
    code: 'NEOX_BAD_ARGUMENT',
    message: 'Expected an integer for x but received null of type null',
  });
  const hinted = badArgument('x', 'a string', [1], 'try another');
  expect(hinted.message).toBe('Expected a string for x but received an array of 1 of type array\nHint: try another');
  expect(hinted.hint).toBe('try another');
});

const refused = (check: () => unknown, text: string): void => {
  expect(check).toThrow(NeoXPrefixError);
  expect(check).toThrow(expect.objectContaining({ code: 'NEOX_BAD_ARGUMENT', message: text }) as Error);
};

test('integers', () => {
  expect([checkInteger('n', 0, 0), checkInteger('n', 5, 0, 5), checkInteger('n', Number.MAX_SAFE_INTEGER, 0)]).toEqual([
    0,
    5,
    Number.MAX_SAFE_INTEGER,
  ]);
  for (const value of [-1, 0.5, NaN, Infinity, 2 ** 53])
    refused(
      () => checkInteger('n', value, 0),
      `Expected an integer of at least 0 for n but received ${value} of type number`,
    );
  refused(() => checkInteger('n', '3', 0), "Expected an integer of at least 0 for n but received '3' of type string");
  refused(() => checkInteger('n', 6, 0, 5), 'Expected an integer between 0 and 5 for n but received 6 of type number');
});

test('numbers', () => {
  expect([checkNumber('x', -1.5), checkNumber('x', 0, 0), checkNumber('x', 1, 0, 1, true)]).toEqual([-1.5, 0, 1]);
  refused(() => checkNumber('x', NaN), 'Expected a finite number for x but received NaN of type number');
  refused(() => checkNumber('x', -1, 0), 'Expected a finite number of at least 0 for x but received -1 of type number');
  refused(
    () => checkNumber('x', 0, 0, 1, true),
    'Expected a finite number above 0 and at most 1 for x but received 0 of type number',
  );
  refused(
    () => checkNumber('x', 5, -Infinity, 4),
    'Expected a finite number and at most 4 for x but received 5 of type number',
  );
});

test('strings, booleans, functions, choices', () => {
  expect([checkString('s', 'a'), checkBoolean('b', false), checkOneOf('o', 'a', ['a', 'b'])]).toEqual([
    'a',
    false,
    'a',
  ]);
  expect(checkFunction('f', refused)).toBe(refused);
  refused(() => checkString('s', ''), "Expected a non-empty string for s but received '' of type string");
  refused(() => checkBoolean('b', 0), 'Expected a boolean for b but received 0 of type number');
  refused(() => checkFunction('f', {}), 'Expected a function for f but received an object of type object');
  refused(() => checkOneOf('o', 'c', ['a', 'b']), "Expected one of 'a', 'b' for o but received 'c' of type string");
});

test('paths', () => {
  expect(checkPath('path', 'a/b')).toBe('a/b');
  refused(() => checkPath('path', ''), "Expected a non-empty string for path but received '' of type string");
  refused(
    () => checkPath('path', 'a\0b'),
    "Expected a path without NUL characters for path but received 'a\\u0000b' of type string",
  );
});

test('signals', () => {
  const { signal } = new AbortController();
  expect([checkSignal('signal', undefined), checkSignal('signal', signal)]).toEqual([undefined, signal]);
  refused(
    () => checkSignal('signal', new AbortController()),
    'Expected an AbortSignal for signal but received a AbortController of type object',
  );
  refused(() => checkSignal('signal', null), 'Expected an AbortSignal for signal but received null of type null');
});

test('options', () => {
  const given = { a: 1 };
  expect(checkOptions('options', given, ['a'])).toBe(given);
  expect(checkOptions('options', undefined, ['a'])).toEqual({});
  refused(() => checkOptions('options', null, []), 'Expected an object for options but received null of type null');
  refused(
    () => checkOptions('options', [], []),
    'Expected an object for options but received an array of 0 of type array',
  );
  refused(
    () => checkOptions('options', { batch_size: 1 }, ['batchSize', 'seed']),
    "Unknown option 'batch_size' in options\nHint: did you mean 'batchSize'?",
  );
  refused(
    () => checkOptions('options', { colour: 1 }, ['batchSize', 'seed']),
    "Unknown option 'colour' in options\nHint: known options: batchSize, seed",
  );
  const hint = 'Hint: leave it out, or give undefined, for its default';
  expect(checkOptions('options', { seed: undefined }, ['seed'])).toEqual({ seed: undefined });
  refused(
    () => checkOptions('options', { seed: null }, ['seed']),
    `Expected a value for seed but received null of type null\n${hint}`,
  );
  refused(
    () => checkOptions('turns[1]', { text: null }, ['text']),
    `Expected a value for turns[1].text but received null of type null\n${hint}`,
  );
});

test('the word that was meant', () => {
  const known = ['prefixLength', 'learningRate', 'seed', 'topK', 'topP'];
  expect(nearest('prefix_length', known)).toBe('prefixLength');
  expect(nearest('learningrat', known)).toBe('learningRate');
  expect(nearest('sed', known)).toBe('seed');
  expect(nearest('topp', known)).toBe('topP');
  expect(nearest('temperature', known)).toBeUndefined();
  expect(nearest('x', [])).toBeUndefined();
});
