import { NeoXPrefixError } from '../../base/errors';
import { xgrammarRegex } from './regex';

type Json = Readonly<Record<string, unknown>>;

/** What says nothing about a value. */
const ANNOTATIONS = [
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  '$comment',
  '$schema',
];
const DEFINITIONS = ['$defs', 'definitions'];
/** Keywords that each say what a value is; a schema has one of them. */
const KINDS = ['$ref', 'const', 'enum', 'anyOf', 'allOf', 'type'] as const;
const BOUNDS = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const;

/** Keywords beside `type`. */
const BESIDE: Readonly<Record<string, readonly string[]>> = {
  null: [],
  boolean: [],
  number: [],
  integer: BOUNDS,
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  object: ['properties', 'required', 'additionalProperties', 'minProperties', 'maxProperties'],
};

/** Formats of strings that XGrammar writes as they should be. */
const FORMATS = ['date', 'time', 'date-time', 'duration', 'uuid', 'ipv4', 'ipv6'];

const MOST_DEPTH = 64;
/** Of characters, items, properties and values: more takes too long to compile. */
const MOST_COUNT = 4096;
const MOST_VALUES = 10_000;

/**
 * A JSON schema as XGrammar (0.1.27) keeps to it. XGrammar passes over keywords that it does not know and is wrong
 * about some that it does (bounds of numbers, characters that JSON escapes), and a text shall be valid by its schema;
 * so what it does not keep is refused by name, or written in another way where there is one.
 * @throws NEOX_BAD_ARGUMENT
 */
export function xgrammarSchema(schema: Json | boolean, name: string): Json | boolean {
  return prepare(schema, name, 0);
}

function refuse(message: string, hint?: string): never {
  throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', message, hint === undefined ? {} : { hint });
}

function prepare(schema: unknown, place: string, depth: number): Json | boolean {
  if (schema === true) return true;
  if (schema === false) return refuse(`${place} is false: no value is valid`);
  if (!isObject(schema)) return refuse(`${place} is no schema: an object or true`);
  if (depth > MOST_DEPTH) return refuse(`${place} is nested deeper than ${MOST_DEPTH} schemas`);
  const inner = (value: unknown, ...path: (string | number)[]): Json | boolean =>
    prepare(value, `${place}${path.map((part) => `.${part}`).join('')}`, depth + 1);
  const { kind, given } = kindOf(schema, place);
  return { ...definitionsOf(schema, place, inner), ...valueOf(kind, given, place, inner) };
}

type Inner = (value: unknown, ...path: (string | number)[]) => Json | boolean;

/** The one keyword that says what a value is, and what stands beside it. */
function kindOf(schema: Json, place: string): { kind: string | undefined; given: Json } {
  const given = Object.fromEntries(
    Object.entries(schema).filter(([key]) => ![...ANNOTATIONS, ...DEFINITIONS].includes(key)),
  );
  const [kind] = KINDS.filter((key) => key in given);
  const beside = Object.keys(given).filter((key) => key !== kind);
  const types: unknown[] = kind === 'type' ? [given.type].flat() : [];
  for (const type of types) {
    if (typeof type !== 'string' || !(type in BESIDE))
      refuse(`${place}.type is not one of ${Object.keys(BESIDE).join(', ')}`);
  }
  const allowed =
    kind === 'const' || kind === 'enum'
      ? ['type']
      : kind === 'type'
        ? types.flatMap((type) => BESIDE[type as string] ?? [])
        : [];
  for (const key of beside) {
    if (allowed.includes(key)) continue;
    const type = Object.keys(BESIDE).find((name) => BESIDE[name]?.includes(key));
    refuse(
      `${place}.${key} is not kept to${kind === undefined ? '' : ` beside ${kind}${kind === 'type' ? ` ${types.join(', ')}` : ''}`}`,
      type !== undefined && kind === undefined
        ? `say type: '${type}' beside it`
        : 'leave it out and look at the value yourself; docs/guides/generating.md has the keywords that are kept to',
    );
  }
  return { kind, given };
}

function definitionsOf(schema: Json, place: string, inner: Inner): Json {
  const found = DEFINITIONS.filter((key) => key in schema).map((key) => {
    const definitions = schema[key];
    if (!isObject(definitions)) return refuse(`${place}.${key} is not an object`);
    return [
      key,
      Object.fromEntries(Object.entries(definitions).map(([name, value]) => [name, inner(value, key, name)])),
    ];
  });
  return Object.fromEntries(found) as Json;
}

function valueOf(kind: string | undefined, given: Json, place: string, inner: Inner): Json {
  switch (kind) {
    case undefined:
      return {};
    case '$ref': {
      const { $ref } = given;
      if (typeof $ref !== 'string' || !/^#(?:\/(?:\$defs|definitions)\/[^/~%]+)?$/.test($ref)) {
        return refuse(`${place}.$ref is neither '#' nor '#/$defs/NAME'`);
      }
      return { $ref };
    }
    case 'const':
      return { enum: checkedValues([given.const], given.type, `${place}.const`) };
    case 'enum':
      return { enum: checkedValues(given.enum, given.type, `${place}.enum`) };
    case 'anyOf': {
      const { anyOf } = given;
      if (!Array.isArray(anyOf) || anyOf.length === 0) return refuse(`${place}.anyOf is not an array of schemas`);
      return { anyOf: anyOf.map((item: unknown, i) => inner(item, 'anyOf', i)) };
    }
    case 'allOf': {
      const { allOf } = given;
      if (!Array.isArray(allOf) || allOf.length !== 1)
        return refuse(`${place}.allOf is not an array of one schema`, 'write them as one');
      return { allOf: [inner(allOf[0], 'allOf', 0)] };
    }
    default: {
      const types = [given.type].flat() as string[];
      const typed = types.map((type) => typedValue(type, pick(given, BESIDE[type] ?? []), place, inner));
      return typed.length === 1 ? (typed[0] as Json) : { anyOf: typed };
    }
  }
}

function checkedValues(values: unknown, type: unknown, place: string): unknown[] {
  if (!Array.isArray(values) || values.length === 0 || values.length > MOST_VALUES) {
    return refuse(`${place} is not an array of 1 to ${MOST_VALUES} values`);
  }
  const types: unknown[] = type === undefined ? [] : [type].flat();
  for (const value of values as unknown[]) {
    const own = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
    const fits = types.includes(own) || (types.includes('integer') && Number.isInteger(value));
    if (types.length > 0 && !fits)
      refuse(`${place} has ${JSON.stringify(value)}, which is not of type ${types.join(', ')}`);
  }
  return values as unknown[];
}

function typedValue(type: string, given: Json, place: string, inner: Inner): Json {
  switch (type) {
    case 'integer':
      return integer(given, place);
    case 'string':
      return string(given, place);
    case 'array':
      return array(given, place, inner);
    case 'object':
      return object(given, place, inner);
    default:
      return { type };
  }
}

function integer(given: Json, place: string): Json {
  for (const key of BOUNDS) {
    if (key in given && !Number.isFinite(given[key])) refuse(`${place}.${key} is not a number`);
  }
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = given as Partial<
    Record<(typeof BOUNDS)[number], number>
  >;
  const low = Math.max(Math.ceil(minimum ?? -Infinity), Math.floor(exclusiveMinimum ?? -Infinity) + 1);
  const high = Math.min(Math.floor(maximum ?? Infinity), Math.ceil(exclusiveMaximum ?? Infinity) - 1);
  if (low > high) return refuse(`${place} has bounds that no integer is within`);
  if (low === -Infinity && high === Infinity) return { type: 'integer' };
  if (high === Infinity && (low === 0 || low === 1)) return { type: 'integer', minimum: low };
  if (high - low < MOST_VALUES) return { enum: Array.from({ length: high - low + 1 }, (_, i) => low + i) };
  return refuse(
    `${place} has bounds that are not kept to: minimum 0 or 1 without a maximum, or a minimum and a maximum with at most ${MOST_VALUES} integers are`,
  );
}

function string(given: Json, place: string): Json {
  const { pattern, format } = given;
  const counts = checkedCounts(given, ['minLength', 'maxLength'], place);
  const asked = [
    pattern !== undefined && 'pattern',
    format !== undefined && 'format',
    ...Object.keys(counts).slice(0, 1),
  ].filter(Boolean);
  if (asked.length > 1) return refuse(`${place} has ${asked.join(' and ')}, of which only one is kept to`);
  if (pattern !== undefined) {
    if (typeof pattern !== 'string' || pattern === '') return refuse(`${place}.pattern is not a non-empty string`);
    return { type: 'string', pattern: xgrammarRegex(pattern, `${place}.pattern`, true) };
  }
  if (format === undefined) return { type: 'string', ...counts };
  if (!FORMATS.includes(format as string)) return refuse(`${place}.format is not one of ${FORMATS.join(', ')}`);
  return { type: 'string', format };
}

function array(given: Json, place: string, inner: Inner): Json {
  const { items, prefixItems } = given;
  const counts = checkedCounts(given, ['minItems', 'maxItems'], place);
  if (prefixItems === undefined) {
    return { type: 'array', ...(items !== undefined && { items: inner(items, 'items') }), ...counts };
  }
  if (!Array.isArray(prefixItems) || prefixItems.length === 0)
    return refuse(`${place}.prefixItems is not an array of schemas`);
  if (Object.keys(counts).length > 0)
    return refuse(`${place} has prefixItems and ${Object.keys(counts).join(', ')}, of which only one is kept to`);
  return {
    type: 'array',
    prefixItems: prefixItems.map((item: unknown, i) => inner(item, 'prefixItems', i)),
    items: items === undefined || items === false ? false : inner(items, 'items'),
  };
}

function object(given: Json, place: string, inner: Inner): Json {
  const { properties, required = [], additionalProperties } = given;
  const counts = checkedCounts(given, ['minProperties', 'maxProperties'], place);
  const open = additionalProperties !== undefined && additionalProperties !== false;
  if (!Array.isArray(required)) return refuse(`${place}.required is not an array of names`);
  if (properties !== undefined && !isObject(properties)) return refuse(`${place}.properties is not an object`);
  for (const name of Object.keys(properties ?? {})) {
    if (/["\\\u0000-\u001f]|\p{Surrogate}/u.test(name))
      refuse(`${place}.properties has the name ${JSON.stringify(name)}, which JSON escapes`);
  }
  const missing: unknown = required.find((name) => typeof name !== 'string' || !Object.hasOwn(properties ?? {}, name));
  if (missing !== undefined)
    return refuse(`${place}.required has ${JSON.stringify(missing)}, which is not in properties`);
  // A further property could have the name of one of them, and the counts do not know of names that come twice.
  if (open && properties !== undefined)
    return refuse(`${place} has properties and additionalProperties, of which only one is kept to`);
  if (properties === undefined && Object.keys(counts).length > 0)
    return refuse(`${place}.${Object.keys(counts)[0] ?? ''} needs properties`);
  if (properties === undefined) {
    if (additionalProperties === false) return { type: 'object', properties: {}, additionalProperties: false };
    return {
      type: 'object',
      ...(open && { additionalProperties: inner(additionalProperties, 'additionalProperties') }),
    };
  }
  const own = Object.entries(properties).map(([name, value]) => [name, inner(value, 'properties', name)]);
  return {
    type: 'object',
    properties: Object.fromEntries(own) as Json,
    required,
    additionalProperties: false,
    ...counts,
  };
}

function checkedCounts(given: Json, names: readonly [string, string], place: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) {
    const count = given[name];
    if (count === undefined) continue;
    if (!Number.isInteger(count) || (count as number) < 0 || (count as number) > MOST_COUNT) {
      refuse(`${place}.${name} is not an integer between 0 and ${MOST_COUNT}`);
    }
    counts[name] = count as number;
  }
  const [least, most] = names.map((name) => counts[name]);
  if (least !== undefined && most !== undefined && least > most) refuse(`${place}.${names[0]} is above ${names[1]}`);
  return counts;
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const pick = (given: Json, keys: readonly string[]): Json =>
  Object.fromEntries(Object.entries(given).filter(([key]) => keys.includes(key)));
