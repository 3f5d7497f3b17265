import { type Command, InvalidArgumentError, Option } from 'commander';
import { isNeoXPrefixError } from '../base/errors';
import type { OptionEntry, ValueForm } from '../base/options';
import { checkTaskName } from '../fastertransformer/config-ini';
import { UsageError } from './usage-errors';

/** Parsers of option values. commander puts the option's name in front of what they throw. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? NaN : Number(text);
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(
      `Expected a whole number ${max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`}.`,
    );
  };
}

/** A number in [min, max]; `above` leaves out min itself. */
export function number(min: number, max = Infinity, above = false): (text: string) => number {
  const from = above ? `above ${min}` : max === Infinity ? `of at least ${min}` : `from ${min}`;
  return (text) => {
    const value = text.trim() === '' ? NaN : Number(text);
    if (Number.isFinite(value) && (above ? value > min : value >= min) && value <= max) return value;
    const to = max === Infinity ? '' : above ? ` and at most ${max}` : ` to ${max}`;
    throw new InvalidArgumentError(`Expected a number ${from}${to}.`);
  };
}

/** For options that may be given more than once. */
export function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}

export interface NamedFile {
  name: string;
  path: string;
}

/** NAME=FILE, more than once, each name once. */
export function collectTasks(text: string, before: NamedFile[] | undefined): NamedFile[] {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError('Expected NAME=FILE.');
  const [name, path] = [text.slice(0, at), text.slice(at + 1)];
  if (before?.some((task) => task.name === name) === true)
    throw new InvalidArgumentError(`Two tasks are named '${name}'.`);
  try {
    checkTaskName(name);
  } catch (error) {
    throw isNeoXPrefixError(error) ? new InvalidArgumentError(error.message) : error;
  }
  return [...(before ?? []), { name, path }];
}

interface Details<T> {
  parse?: (text: string, before: T | undefined) => T;
  choices?: readonly string[];
  /**
   * What the library takes when the option is not given; told in the help, not passed on, so that it is stated once.
   */
  default?: string | number;
  /** `true`, or the option in place of which this one is needed. */
  required?: true | { unless: string };
  conflicts?: string[];
}

/**
 * commander's own mandatory options are missed before a misspelled one is named, which hides the cause; so they are
 * checked here, after commander is done.
 */
const REQUIRED = new WeakMap<Option, true | { unless: string }>();

export function checkRequired(command: Command): void {
  for (const item of command.options) {
    const required = REQUIRED.get(item);
    const isGiven = (name: string): boolean => command.getOptionValue(name) !== undefined;
    if (required === undefined || isGiven(item.attributeName())) continue;
    if (required === true) command.error(`error: ${item.flags} is needed`);
    if (!isGiven(required.unless)) command.error(`error: ${item.flags} is needed, or --${kebab(required.unless)}`);
  }
}

export function option<T = string>(flags: string, description: string, details: Details<T> = {}): Option {
  const { choices, default: fallback, required } = details;
  const needed =
    required === undefined ? '' : required === true ? ' (needed)' : ` (needed without --${required.unless})`;
  const remark = needed !== '' || fallback === undefined ? needed : ` (default: ${fallback})`;
  const result = new Option(flags, description + remark);
  if (details.parse !== undefined) result.argParser(details.parse);
  if (choices !== undefined) result.choices(choices);
  if (required !== undefined) REQUIRED.set(result, required);
  if (details.conflicts !== undefined) result.conflicts(details.conflicts);
  return result;
}

/** The parser of a value that the library describes; undefined where commander needs none. */
function parserOf(form: ValueForm): ((text: string) => unknown) | undefined {
  switch (form.kind) {
    case 'integer': {
      const { min, max, words = [] } = form;
      const parse = integer(min, max);
      return (text) => words.find((word) => word === text) ?? parse(text);
    }
    case 'number':
      return number(form.min, form.max, form.above);
    default:
      return undefined;
  }
}

/** What the command line says otherwise than the library's table of options. */
export interface Otherwise extends Omit<Details<never>, 'parse' | 'choices'> {
  /** Its flag, where that is not the option's name in kebab case. */
  flags?: string;
  help?: string;
  parse?: (text: string, before: never) => unknown;
}

/** An option of the library as one of the command line: its value, default and explanation are those of the table. */
export function optionOf(name: string, entry: OptionEntry<unknown>, otherwise: Otherwise = {}): Option {
  const { form, symbol } = entry;
  const prefix = form.kind === 'boolean' && entry.default === true ? '--no-' : '--';
  const {
    flags = `${prefix}${kebab(name)}${symbol === '' ? '' : ` <${symbol}>`}`,
    help,
    parse,
    ...details
  } = otherwise;
  const parser = parse ?? parserOf(form);
  const fallback = entry.default ?? (entry.otherwise === 'none' ? undefined : entry.otherwise);
  return option<unknown>(flags, help ?? entry.help, {
    ...(parser !== undefined && { parse: parser as (text: string) => unknown }),
    ...(form.kind === 'choice' && { choices: form.choices }),
    ...(form.kind !== 'boolean' && fallback !== undefined && { default: fallback as string | number }),
    ...details,
  });
}

export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** A description as it is written in the source: single line breaks are there for the source only. */
export function unwrap(text: string): string {
  return text.replace(/(?<!\n)\n(?!\n)/g, ' ');
}

/** Options of rinna's scripts that have no meaning here. Given, they say what to do instead. */
export function refuseOptions(command: Command, refused: Readonly<Record<string, string>>): void {
  for (const [name, instead] of Object.entries(refused)) {
    const refusal = new Option(`--${name} [value]`).hideHelp();
    command.addOption(refusal);
    command.on(`option:${name}`, () => {
      throw new UsageError(`--${name} of rinna's script has no meaning here`, instead);
    });
  }
}

/** The values that are there: what is not given is for the library to decide. */
export function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
