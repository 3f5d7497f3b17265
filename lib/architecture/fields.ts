import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { get, isObject, type JsonObject } from '../formats/json';
import { ACTIVATION_ALIASES, ACTIVATIONS, type HiddenAct, UNSUPPORTED_ACTIVATIONS } from './activations';

/** The type that the weights are said to have. */
export type TorchDType = 'float32' | 'float16' | 'bfloat16' | 'float64' | null;

/** Far above any model; what they guard is the memory of a process that is given a damaged file. */
const MAX_SIZE = 2 ** 24;
export const MAX_LAYERS = 10_000;
export const MAX_POSITIONS = 2 ** 20;

/** Typed access to the keys of one config.json; a missing or null key gives the default. */
export class Fields {
  constructor(
    readonly json: JsonObject,
    private readonly path: string,
    readonly warnings: string[],
    private readonly prefix = '',
  ) {}

  bad(key: string, expected: string, actual: unknown): NeoXPrefixError {
    const message = `Expected ${expected} for ${this.prefix}${key} in ${this.path} but found ${actual === undefined ? 'nothing' : show(actual)}`;
    return new NeoXPrefixError('NEOX_BAD_CONFIG', message, { path: this.path });
  }

  unsupported(key: string, actual: unknown, supported: string): NeoXPrefixError {
    const message = `${this.prefix}${key} ${show(actual)} in ${this.path} is not supported; supported: ${supported}`;
    return new NeoXPrefixError('NEOX_UNSUPPORTED', message, { path: this.path });
  }

  has(key: string): boolean {
    const value = get(this.json, key);
    return value !== undefined && value !== null;
  }

  integer(key: string, min: number, fallback?: number, max = MAX_SIZE): number {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      throw this.bad(key, `an integer between ${min} and ${max}`, value);
    }
    return value;
  }

  number(key: string, fallback: number, expected: string, valid: (value: number) => boolean): number {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || !valid(value))
      throw this.bad(key, expected, get(this.json, key) ?? undefined);
    return value;
  }

  /** A list of `count` positive numbers. */
  positives(key: string, count: number): number[] {
    const value = get(this.json, key);
    const numbers = Array.isArray(value) ? (value as unknown[]) : [];
    const valid = (item: unknown): item is number => typeof item === 'number' && Number.isFinite(item) && item > 0;
    if (numbers.length !== count || !numbers.every(valid)) throw this.bad(key, `${count} positive numbers`, value);
    return numbers;
  }

  /** `value` of `key`, divided by that of `byKey`. */
  divide(key: string, value: number, byKey: string, by: number): number {
    if (value % by !== 0) throw this.bad(key, `a multiple of ${byKey} (${by})`, value);
    return value / by;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = get(this.json, key) ?? fallback;
    if (typeof value !== 'boolean') throw this.bad(key, 'true or false', value);
    return value;
  }

  section(key: string): Fields | undefined {
    const value = get(this.json, key) ?? undefined;
    if (value === undefined) return undefined;
    if (!isObject(value)) throw this.bad(key, 'an object', value);
    return new Fields(value, this.path, this.warnings, `${this.prefix}${key}.`);
  }

  activation(key: string, fallback: HiddenAct = 'gelu'): HiddenAct {
    const value = get(this.json, key) ?? fallback;
    const name =
      typeof value === 'string' && Object.hasOwn(ACTIVATION_ALIASES, value) ? ACTIVATION_ALIASES[value] : value;
    const found = ACTIVATIONS.find((known) => known === name);
    const reason = typeof value === 'string' ? UNSUPPORTED_ACTIVATIONS[value] : undefined;
    if (found === undefined && reason !== undefined)
      throw this.unsupported(key, value, `activations without weights; ${reason}`);
    if (found === undefined)
      throw this.unsupported(key, value, [...ACTIVATIONS, ...Object.keys(ACTIVATION_ALIASES)].join(', '));
    return found;
  }

  token(key: string, vocabSize: number, fallback: number | null): number | null {
    return this.tokens(key, vocabSize, fallback)[0] ?? null;
  }

  /**
   * Ids outside of the vocabulary are left out with a warning: real files have them, for a tokenizer that was never
   * used.
   */
  tokens(key: string, vocabSize: number, fallback: number | null): number[] {
    const stated = get(this.json, key);
    const value = stated === undefined ? fallback : stated;
    if (value === null) return [];
    const ids = Array.isArray(value) ? (value as unknown[]) : [value];
    return ids.filter((id): id is number => {
      if (typeof id !== 'number' || !Number.isInteger(id)) throw this.bad(key, 'token ids', id);
      const inside = id >= 0 && id < vocabSize;
      if (!inside && stated !== undefined)
        this.warnings.push(`${key} ${id} is ignored: the vocabulary has ${vocabSize} tokens`);
      return inside;
    });
  }

  dtype(): TorchDType {
    const value = get(this.json, 'dtype') ?? get(this.json, 'torch_dtype') ?? null;
    const name = typeof value === 'string' ? value.replace(/^torch\./, '') : value;
    if (name === null || name === 'float32' || name === 'float16' || name === 'bfloat16' || name === 'float64')
      return name;
    throw this.unsupported(
      get(this.json, 'dtype') === undefined ? 'torch_dtype' : 'dtype',
      value,
      'float32, float16, bfloat16, float64',
    );
  }
}
