import { startConstraint } from '../../../lib/generation/constraints/compiler';
import { checkFormat, type OutputFormat } from '../../../lib/generation/constraints/output-format';
import { expectRefusal, type Refusal } from '../../helpers';
import { byteModel, END } from './format-helpers';

const model = byteModel();
const start = (format: OutputFormat): Promise<unknown> => startConstraint(model, format, Int32Array.of(END));

describe('what is refused', () => {
  const regex = (source: string) => (): unknown => start({ regex: source });
  const schema = (jsonSchema: Record<string, unknown> | boolean) => (): unknown => start({ jsonSchema });
  let deep: Record<string, unknown> = { type: 'null' };
  for (let i = 0; i < 100; i++) deep = { anyOf: [deep] };
  const BESIDE =
    '\nHint: leave it out and look at the value yourself; docs/guides/generating.md has the keywords that are kept to';
  const refusals: Refusal[] = [
    {
      name: 'a syntax error',
      act: regex('(a'),
      text: /^Expected the source of a regular expression with the flag u \(Invalid regular expression.*\) for format\.regex but received '\(a' of type string$/,
    },
    {
      name: 'looking ahead',
      act: regex('a(?=b)'),
      text: /^XGrammar refuses format\.regex: Regex parsing error at position \d+: Lookahead is not supported yet\.$/,
    },
    {
      name: 'a reference',
      act: regex('(a)\\1'),
      text: /^XGrammar refuses format\.regex: .*Backreference is not supported yet\.$/,
    },
    {
      name: 'a word boundary',
      act: regex('a\\b'),
      text: /^XGrammar refuses format\.regex: .*Word boundary is not supported yet\.$/,
    },
    {
      name: 'an anchor inside',
      act: regex('a^b'),
      text: /^XGrammar refuses format\.regex: .*'\^' should be at the start/,
    },
    { name: 'an alternative of nothing', act: regex('a|'), text: /^XGrammar refuses format\.regex: EBNF parser error/ },
    { name: 'a class of nothing', act: regex('[]'), text: 'format.regex has [], which matches no character' },
    {
      name: 'all letters',
      act: regex('\\p{L}'),
      text: 'format.regex has \\p{L}, which is more than 128 ranges of characters',
    },
    {
      name: 'too many repetitions',
      act: regex('a{3,500}'),
      text: 'format.regex repeats something 500 times, and 256 is the most',
    },
    { name: 'nesting', act: regex('('.repeat(20_000) + 'a' + ')'.repeat(20_000)), text: /format\.regex/ },
    { name: 'false', act: schema(false), text: 'format.jsonSchema is false: no value is valid' },
    {
      name: 'no schema',
      act: schema({ anyOf: [3] }),
      text: 'format.jsonSchema.anyOf.0 is no schema: an object or true',
    },
    { name: 'a deep schema', act: schema(deep), text: /is nested deeper than 64 schemas$/ },
    {
      name: 'an unknown keyword',
      act: schema({ type: 'object', properties: { a: { not: {} } } }),
      text: `format.jsonSchema.properties.a.not is not kept to${BESIDE}`,
    },
    {
      name: 'a keyword of another type',
      act: schema({ type: 'string', minimum: 1 }),
      text: `format.jsonSchema.minimum is not kept to beside type string${BESIDE}`,
    },
    {
      name: 'a keyword without a type',
      act: schema({ minLength: 1 }),
      text: "format.jsonSchema.minLength is not kept to\nHint: say type: 'string' beside it",
    },
    {
      name: 'two kinds',
      act: schema({ $ref: '#', type: 'null' }),
      text: `format.jsonSchema.type is not kept to beside $ref${BESIDE}`,
    },
    {
      name: 'an unknown type',
      act: schema({ type: 'text' }),
      text: 'format.jsonSchema.type is not one of null, boolean, number, integer, string, array, object',
    },
    {
      name: 'bounds of a number',
      act: schema({ type: 'number', minimum: 0 }),
      text: `format.jsonSchema.minimum is not kept to beside type number${BESIDE}`,
    },
    {
      name: 'a bound that is none',
      act: schema({ type: 'integer', minimum: '1' }),
      text: 'format.jsonSchema.minimum is not a number',
    },
    {
      name: 'bounds without an integer',
      act: schema({ type: 'integer', minimum: 1.2, maximum: 1.8 }),
      text: 'format.jsonSchema has bounds that no integer is within',
    },
    {
      name: 'wide bounds',
      act: schema({ type: 'integer', minimum: 18 }),
      text: 'format.jsonSchema has bounds that are not kept to: minimum 0 or 1 without a maximum, or a minimum and a maximum with at most 10000 integers are',
    },
    {
      name: 'a length that is none',
      act: schema({ type: 'string', maxLength: 5000 }),
      text: 'format.jsonSchema.maxLength is not an integer between 0 and 4096',
    },
    {
      name: 'lengths the wrong way',
      act: schema({ type: 'string', minLength: 3, maxLength: 2 }),
      text: 'format.jsonSchema.minLength is above maxLength',
    },
    {
      name: 'pattern and length',
      act: schema({ type: 'string', pattern: 'a', maxLength: 2 }),
      text: 'format.jsonSchema has pattern and maxLength, of which only one is kept to',
    },
    {
      name: 'a pattern that is none',
      act: schema({ type: 'string', pattern: 3 }),
      text: 'format.jsonSchema.pattern is not a non-empty string',
    },
    {
      name: 'a pattern with a quote',
      act: schema({ type: 'string', pattern: 'a"' }),
      text: 'format.jsonSchema.pattern has "\\"", which a JSON string has only escaped',
    },
    {
      name: 'a pattern with a line break',
      act: schema({ type: 'string', pattern: '\\n' }),
      text: 'format.jsonSchema.pattern has \\n, which a JSON string has only escaped',
    },
    {
      name: 'an unknown format',
      act: schema({ type: 'string', format: 'email' }),
      text: 'format.jsonSchema.format is not one of date, time, date-time, duration, uuid, ipv4, ipv6',
    },
    {
      name: 'a reference elsewhere',
      act: schema({ $ref: 'other.json' }),
      text: "format.jsonSchema.$ref is neither '#' nor '#/$defs/NAME'",
    },
    {
      name: 'a reference to nothing',
      act: schema({ $ref: '#/$defs/x', $defs: {} }),
      text: /^XGrammar refuses format\.jsonSchema: Cannot find field x/,
    },
    { name: 'definitions that are none', act: schema({ $defs: 3 }), text: 'format.jsonSchema.$defs is not an object' },
    {
      name: 'values that are none',
      act: schema({ enum: [] }),
      text: 'format.jsonSchema.enum is not an array of 1 to 10000 values',
    },
    {
      name: 'a value of another type',
      act: schema({ type: 'string', enum: ['a', 1] }),
      text: 'format.jsonSchema.enum has 1, which is not of type string',
    },
    {
      name: 'anyOf of nothing',
      act: schema({ anyOf: [] }),
      text: 'format.jsonSchema.anyOf is not an array of schemas',
    },
    {
      name: 'allOf of two',
      act: schema({ allOf: [{}, {}] }),
      text: 'format.jsonSchema.allOf is not an array of one schema\nHint: write them as one',
    },
    {
      name: 'prefixItems that are none',
      act: schema({ type: 'array', prefixItems: [] }),
      text: 'format.jsonSchema.prefixItems is not an array of schemas',
    },
    {
      name: 'a tuple with a count',
      act: schema({ type: 'array', prefixItems: [{}], minItems: 1 }),
      text: 'format.jsonSchema has prefixItems and minItems, of which only one is kept to',
    },
    {
      name: 'properties that are none',
      act: schema({ type: 'object', properties: [] }),
      text: 'format.jsonSchema.properties is not an object',
    },
    {
      name: 'a name that is escaped',
      act: schema({ type: 'object', properties: { 'a"': {} } }),
      text: 'format.jsonSchema.properties has the name "a\\"", which JSON escapes',
    },
    {
      name: 'required that is none',
      act: schema({ type: 'object', required: 'a' }),
      text: 'format.jsonSchema.required is not an array of names',
    },
    {
      name: 'required without a property',
      act: schema({ type: 'object', required: ['a'] }),
      text: 'format.jsonSchema.required has "a", which is not in properties',
    },
    {
      name: 'properties and others',
      act: schema({ type: 'object', properties: {}, additionalProperties: true }),
      text: 'format.jsonSchema has properties and additionalProperties, of which only one is kept to',
    },
    {
      name: 'a count without properties',
      act: schema({ type: 'object', minProperties: 1 }),
      text: 'format.jsonSchema.minProperties needs properties',
    },
    {
      name: 'a schema without an end',
      act: schema({ $ref: '#' }),
      code: 'NEOX_UNSUPPORTED',
      text: 'No token goes on with a text of this format\nHint: no text has the format, or the vocabulary lacks characters that it needs',
    },
    {
      name: 'no object',
      act: () => checkFormat('json'),
      text: "Expected an object for format but received 'json' of type string",
    },
    {
      name: 'no kind',
      act: () => checkFormat({}),
      text: 'Expected one of jsonSchema, regex, choices for format but received an object of type object',
    },
    {
      name: 'two kinds of format',
      act: () => checkFormat({ regex: 'a', choices: ['a'] }),
      text: 'Expected one of jsonSchema, regex, choices for format but received an object of type object',
    },
    {
      name: 'an unknown kind',
      act: () => checkFormat({ grammar: '' }),
      text: "Unknown option 'grammar' in format\nHint: known options: jsonSchema, regex, choices",
    },
    {
      name: 'a RegExp',
      act: () => checkFormat({ regex: /a/ }),
      text: 'Expected a non-empty string for format.regex but received a RegExp of type object\nHint: give the source of a RegExp',
    },
    {
      name: 'no choice',
      act: () => checkFormat({ choices: [] }),
      text: 'Expected an array of 1 to 10000 strings for format.choices but received an array of 0 of type array',
    },
    {
      name: 'half a character',
      act: () => checkFormat({ choices: ['a', '\ud800'] }),
      text: /^Expected a well-formed string for format\.choices\[1\]/,
    },
    {
      name: 'a schema that is an array',
      act: () => checkFormat({ jsonSchema: [] }),
      text: 'Expected an object or true for format.jsonSchema but received an array of 0 of type array',
    },
    {
      name: 'a schema that is in itself',
      act: () => {
        const self: Record<string, unknown> = {};
        self['items'] = self;
        return checkFormat({ jsonSchema: self });
      },
      text: 'Expected a JSON value (Converting circular structure to JSON) for format.jsonSchema but received an object of type object',
    },
  ];
  test.each(refusals)('$name', expectRefusal);
});
