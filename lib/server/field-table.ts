import { isNeoXPrefixError } from '../base/errors';
import type { OptionEntry, ValueForm } from '../base/options';
import { badField, HttpError } from './http-error';

/** A schema as JSON has it; of it only what OpenAPI shows is used. */
export type JsonSchema = Readonly<Record<string, unknown>>;

/** One field of a request's body. */
export interface Field {
  schema: JsonSchema;
  /** What it is, in a phrase. */
  help: string;
  /** Its value, checked. @throws NEOX_BAD_ARGUMENT, HttpError */
  check: (name: string, value: unknown) => unknown;
}

export type FieldTable = Readonly<Record<string, Field>>;

const MOST_SAFE = Number.MAX_SAFE_INTEGER;

function schemaOf(form: ValueForm): JsonSchema {
  switch (form.kind) {
    case 'integer':
      return { type: 'integer', minimum: form.min, ...(form.max < MOST_SAFE && { maximum: form.max }) };
    case 'number': {
      const low = Number.isFinite(form.min) ? { [form.above ? 'exclusiveMinimum' : 'minimum']: form.min } : {};
      return { type: 'number', ...low, ...(Number.isFinite(form.max) && { maximum: form.max }) };
    }
    case 'boolean':
      return { type: 'boolean' };
    case 'choice':
      return { type: 'string', enum: form.choices };
    case 'text':
      return { type: 'string' };
    case 'other':
      return {};
  }
}

/** A field that is an option of the library under its name on the wire; `max` lowers its upper end. */
export function optionField(entry: OptionEntry<unknown>, max?: number): Field {
  const schema = { ...schemaOf(entry.form), ...(max !== undefined && { maximum: max }) };
  const check = (name: string, value: unknown): unknown => {
    const checked = entry.check(name, value);
    if (max !== undefined && (checked as number) > max)
      throw badField(name, `Expected at most ${max} for ${name} but received ${String(checked)}`);
    return checked;
  };
  return { schema, help: entry.help, check };
}

export function field(schema: JsonSchema, help: string, check: (name: string, value: unknown) => unknown): Field {
  return { schema, help, check };
}

function refused(name: string, expected: string): never {
  throw badField(name, `Expected ${expected} for ${name}`);
}

export const flag = (help: string): Field =>
  field({ type: 'boolean' }, help, (name, value) =>
    typeof value === 'boolean' ? value : refused(name, 'true or false'),
  );

export const string = (help: string): Field =>
  field({ type: 'string' }, help, (name, value) => (typeof value === 'string' ? value : refused(name, 'a string')));

export const word = (help: string, words: readonly string[]): Field =>
  field({ type: 'string', enum: words }, help, (name, value) =>
    typeof value === 'string' && words.includes(value)
      ? value
      : refused(name, `one of ${words.map((one) => `'${one}'`).join(', ')}`),
  );

export const wholeNumber = (help: string, minimum: number, maximum: number): Field =>
  field({ type: 'integer', minimum, maximum }, help, (name, value) =>
    Number.isSafeInteger(value) && (value as number) >= minimum && (value as number) <= maximum
      ? value
      : refused(name, `an integer from ${minimum} to ${maximum}`),
  );

/** Accepted and without effect. */
export const unused: Field = field({}, 'accepted, without effect', (_, value) => value);

/** Known, but what it asks for is not there: ignoring it would change the answer in silence. */
export function unsupported(help: string, harmless: (value: unknown) => boolean = () => false): Field {
  return field({}, help, (name, value) => {
    if (harmless(value)) return undefined;
    throw new HttpError(400, 'unsupported_parameter', `${name} is not supported: ${help}`, { param: name });
  });
}

/** The values of a body's fields, and the names of those that nobody knows. Null is as if it were not there. */
export interface FieldValues {
  values: Readonly<Record<string, unknown>>;
  ignored: string[];
}

/** @throws HttpError 400, which names the field */
export function readFields(table: FieldTable, body: Readonly<Record<string, unknown>>): FieldValues {
  const values: Record<string, unknown> = {};
  const ignored: string[] = [];
  for (const [name, value] of Object.entries(body)) {
    const known = Object.hasOwn(table, name) ? table[name] : undefined;
    if (known === undefined) {
      ignored.push(name);
    } else if (value !== null) {
      values[name] = checked(name, () => known.check(name, value));
    }
  }
  return { values, ignored };
}

/** Gives errors of the library the name of the field. */
export function checked<T>(param: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (isNeoXPrefixError(error) && error.code === 'NEOX_BAD_ARGUMENT') throw badField(param, error.message);
    throw error;
  }
}

/** The schema of a body with these fields. */
export function bodySchema(table: FieldTable, required: readonly string[]): JsonSchema {
  const properties = Object.entries(table).map(([name, { schema, help }]) => [name, { ...schema, description: help }]);
  return { type: 'object', properties: Object.fromEntries(properties) as JsonSchema, required };
}
