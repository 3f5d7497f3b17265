import {
  booleanOr,
  choice,
  completed,
  completeOptions,
  integer,
  integerOr,
  namesOf,
  number,
  type OptionTable,
  special,
  text,
} from '../../../lib/base/options';

interface Options {
  count?: number;
  share?: number;
  kind?: 'a' | 'b';
  steps?: number | 'all';
  early?: boolean | 'never';
  label?: string;
  given?: number[];
}

const TABLE = {
  count: integer({ min: 1, max: 9, default: 4, help: 'how many' }),
  share: number({ above: 0, max: 1, default: 1, symbol: 'p', help: 'what part' }),
  kind: choice(['a', 'b'], { default: 'a', help: 'which' }),
  steps: integerOr(['all'], { min: 1, default: 'all', expected: "a number of steps, or 'all'", help: 'how far' }),
  early: booleanOr('never', { default: false, help: 'whether to stop' }),
  label: text({ otherwise: 'the file name', help: 'what it is called', notWith: 'kind' }),
  given: special<number[]>({ help: 'what there is' }),
} satisfies OptionTable<Options>;

test('a table completes options with its defaults, and leaves out what there is no default for', () => {
  const expected = { count: 4, share: 1, kind: 'a', steps: 'all', early: false, label: undefined, given: undefined };
  expect(completed(TABLE, {})).toEqual(expected);
  expect(completeOptions(TABLE, undefined)).toEqual(expected);
  expect(completed(TABLE, { count: 2, steps: 3, early: 'never', given: [1], other: 5 })).toEqual({
    ...expected,
    ...{ count: 2, steps: 3, early: 'never', given: [1] },
  });
});

test.each([
  [{ count: 0 }, 'Expected an integer between 1 and 9 for count but received 0 of type number'],
  [{ share: 0 }, 'Expected a finite number above 0 and at most 1 for share but received 0 of type number'],
  [{ kind: 'c' }, "Expected one of 'a', 'b' for kind but received 'c' of type string"],
  [{ steps: 'some' }, "Expected a number of steps, or 'all' for steps but received 'some' of type string"],
  [{ steps: 0 }, 'Expected an integer of at least 1 for steps but received 0 of type number'],
  [{ early: 'soon' }, "Expected true, false or 'never' for early but received 'soon' of type string"],
  [{ label: '' }, "Expected a non-empty string for label but received '' of type string"],
  [{ cuont: 1 }, "Unknown option 'cuont' in options\nHint: did you mean 'count'?"],
  [{ count: null }, 'Expected a value for count but received null of type null'],
])('%j is refused', (options, message) => {
  expect(() => completeOptions(TABLE, options)).toThrow(message);
});

test('a table says what a command line and the documents need', () => {
  expect(namesOf(TABLE)).toEqual(['count', 'share', 'kind', 'steps', 'early', 'label', 'given']);
  expect(TABLE.share).toMatchObject({ symbol: 'p', form: { kind: 'number', min: 0, max: 1, above: true } });
  expect(TABLE.steps.form).toMatchObject({ kind: 'integer', words: ['all'] });
  expect(TABLE.label).toMatchObject({ otherwise: 'the file name', notWith: 'kind', default: undefined });
});
