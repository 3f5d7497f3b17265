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
} from './arguments';

/** What the values of an option are, as data: parsers of a command line and of JSON follow it. */
export type ValueForm =
  | { readonly kind: 'integer'; readonly min: number; readonly max: number; readonly words?: readonly string[] }
  | { readonly kind: 'number'; readonly min: number; readonly max: number; readonly above: boolean }
  | { readonly kind: 'boolean'; readonly words?: readonly string[] }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  | { readonly kind: 'text' }
  /** Several values, or one that only a program can give. */
  | { readonly kind: 'other' };

/** Everything about an option but its documentation, which stands at its interface. */
export interface OptionEntry<T, D extends T | undefined = T | undefined> {
  readonly form: ValueForm;
  /** The value of an option that is given. @throws NEOX_BAD_ARGUMENT */
  readonly check: (name: string, value: unknown) => T;
  /** What is taken where the option is not given. */
  readonly default: D;
  /** What `default` is in words where it is not a value: 'none', 'a random one'. */
  readonly otherwise: string;
  /** What the option does, in a phrase: help texts and the tables of the documentation show it. */
  readonly help: string;
  /** The letter or word that stands for the value in a help text. */
  readonly symbol: string;
  /** Another option beside which this one has no use, so that the two together are refused. */
  readonly notWith?: string;
}

/** The one list of the options of an interface: names, checks, defaults and what is said of them follow from it. */
export type OptionTable<Options> = {
  readonly [Name in keyof Options]-?: OptionEntry<Exclude<Options[Name], undefined>>;
};

export type AnyTable = Readonly<Record<string, OptionEntry<unknown>>>;

/** The options of a table with a value for each that has a default. */
export type Completed<Table extends AnyTable> = {
  [Name in keyof Table]: Table[Name] extends OptionEntry<infer T, infer D> ? T | D : never;
};

interface Words {
  help: string;
  symbol?: string;
  notWith?: string;
}

/** An option's words, and its default. */
type WithDefault<T> = Words & { default: T };
/** The same without a default value; `otherwise` says what there is then. */
type Without = Words & { default?: undefined; otherwise?: string };

interface Special<T> {
  check?: Check<T>;
  form?: ValueForm;
}

type Check<T> = (name: string, value: unknown) => T;

function entry<T, D extends T | undefined = T | undefined>(
  form: ValueForm,
  check: Check<T>,
  { help, symbol, notWith, ...rest }: Words & { default?: unknown; otherwise?: string },
): OptionEntry<T, D> {
  return {
    ...{ form, check, help, default: rest.default as D, otherwise: rest.otherwise ?? 'none' },
    symbol:
      symbol ?? { integer: 'n', number: 'x', boolean: '', choice: 'name', text: 'text', other: 'value' }[form.kind],
    ...(notWith !== undefined && { notWith }),
  };
}

/** An integer in [min, max]. */
export function integer(spec: WithDefault<number> & { min: number; max?: number }): OptionEntry<number, number>;
export function integer(spec: Without & { min: number; max?: number }): OptionEntry<number, undefined>;
export function integer(spec: (WithDefault<number> | Without) & { min: number; max?: number }): OptionEntry<number> {
  const { min, max = Number.MAX_SAFE_INTEGER } = spec;
  return entry({ kind: 'integer', min, max }, (name, value) => checkInteger(name, value, min, max), spec);
}

/** An integer of at least `min`, or one of some words; `expected` is what errors call the two. */
export function integerOr<const W extends string>(
  words: readonly W[],
  spec: WithDefault<number | W> & { min: number; expected: string },
): OptionEntry<number | W, number | W> {
  const { min, expected } = spec;
  const check = (name: string, value: unknown): number | W => {
    if (words.includes(value as W)) return value as W;
    if (typeof value !== 'number') throw badArgument(name, expected, value);
    return checkInteger(name, value, min);
  };
  return entry({ kind: 'integer', min, max: Number.MAX_SAFE_INTEGER, words }, check, spec);
}

/** A finite number: of at least `min` or, where that is given, above `above`; at most `max`. */
export function number(
  spec: WithDefault<number> & { min?: number; above?: number; max?: number },
): OptionEntry<number, number>;
export function number(spec: Without & { min?: number; above?: number; max?: number }): OptionEntry<number, undefined>;
export function number(
  spec: (WithDefault<number> | Without) & { min?: number; above?: number; max?: number },
): OptionEntry<number> {
  const { min = -Infinity, above, max = Infinity } = spec;
  const from = above ?? min;
  const isAbove = above !== undefined;
  const check = (name: string, value: unknown): number => checkNumber(name, value, from, max, isAbove);
  return entry({ kind: 'number', min: from, max, above: isAbove }, check, spec);
}

export function boolean(spec: WithDefault<boolean>): OptionEntry<boolean, boolean> {
  return entry({ kind: 'boolean' }, checkBoolean, spec);
}

/** True, false or a word. */
export function booleanOr<const W extends string>(
  word: W,
  spec: WithDefault<boolean | W>,
): OptionEntry<boolean | W, boolean | W> {
  const check = (name: string, value: unknown): boolean | W => {
    if (typeof value !== 'boolean' && value !== word) throw badArgument(name, `true, false or '${word}'`, value);
    return value as boolean | W;
  };
  return entry({ kind: 'boolean', words: [word] }, check, spec);
}

/** One of some words. */
export function choice<const C extends string>(choices: readonly C[], spec: WithDefault<C>): OptionEntry<C, C> {
  return entry({ kind: 'choice', choices }, (name, value) => checkOneOf(name, value, choices), spec);
}

/** A text that is not empty. */
export function text(spec: WithDefault<string>): OptionEntry<string, string>;
export function text(spec: Without): OptionEntry<string, undefined>;
export function text(spec: WithDefault<string> | Without): OptionEntry<string> {
  return entry({ kind: 'text' }, checkString, spec);
}

/** The path of a file or folder. */
export function path(spec: Without): OptionEntry<string, undefined> {
  return entry({ kind: 'text' }, checkPath, spec);
}

/** An option with a check of its own; without one, for what can be checked only where more is known than its value. */
export function special<T>(spec: WithDefault<T> & Special<T>): OptionEntry<T, T>;
export function special<T>(spec: Without & Special<T>): OptionEntry<T, undefined>;
export function special<T>(spec: (WithDefault<T> | Without) & Special<T>): OptionEntry<T> {
  return entry(spec.form ?? { kind: 'other' }, spec.check ?? ((_, value) => value as T), spec);
}

/** An AbortSignal. */
export function abortSignal(help: string): OptionEntry<AbortSignal, undefined> {
  return special({ check: (name, value) => checkSignal(name, value) as AbortSignal, help });
}

/** A function. */
export function callback<F>(help: string): OptionEntry<F, undefined> {
  return special({ check: (name, value) => checkFunction(name, value as F), help });
}

/** The names of a table's options. */
export function namesOf<Table extends AnyTable>(table: Table): (keyof Table & string)[] {
  return Object.keys(table);
}

/** Some of the entries of an object. */
export function pick<T extends object, Name extends keyof T & string>(
  from: T,
  ...names: readonly Name[]
): Pick<T, Name> {
  return Object.fromEntries(names.map((name) => [name, from[name]])) as unknown as Pick<T, Name>;
}

/** All entries of an object but some. */
export function without<T extends object, Name extends keyof T & string>(
  from: T,
  ...names: readonly Name[]
): Omit<T, Name> {
  const left = Object.entries(from).filter(([name]) => !(names as readonly string[]).includes(name));
  return Object.fromEntries(left) as unknown as Omit<T, Name>;
}

/** Checks the options of a table among some, and completes them with their defaults. @throws NEOX_BAD_ARGUMENT */
export function completed<Table extends AnyTable>(table: Table, options: object): Completed<Table> {
  const values = Object.entries(table).map(([name, { check, default: fallback }]) => {
    const value = (options as Record<string, unknown>)[name];
    return [name, value === undefined ? fallback : check(name, value)];
  });
  return Object.fromEntries(values) as Completed<Table>;
}

/** As {@link completed}, for options that are all in the table; `name` is what errors call them. */
export function completeOptions<Table extends AnyTable>(
  table: Table,
  options: unknown,
  name = 'options',
): Completed<Table> {
  return completed(table, checkOptions(name, options, namesOf(table)));
}
