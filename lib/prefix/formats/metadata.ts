import type { GPTNeoXConfig } from '../../architecture/config';
import { badArgument, checkInteger, checkOptions } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { isObject, parseJsonObject } from '../../formats/json';

/** Of our safetensors files; a reader refuses a higher one. */
export const FORMAT_VERSION = 1;

/** What JSON can hold. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

/** Entries of {@link BaseModelSummary} that are text. */
const BASE_MODEL_TEXTS = ['fingerprint', 'name'];

/** The base model that a prefix was trained on, as far as it is known. */
export interface BaseModelSummary {
  /** Checkpoint.fingerprint. A prefix is refused by a model of another fingerprint. */
  readonly fingerprint?: string;
  /** For people: a folder or repository name. */
  readonly name?: string;
  /** V */
  readonly vocabSize?: number;
  /** H */
  readonly hiddenSize?: number;
  /** L */
  readonly numLayers?: number;
  /** N */
  readonly numHeads?: number;
}

/** What a prefix remembers of its making; saved with our safetensors files and PEFT folders. */
export interface PrefixMetadata {
  /** Version of the file format, now 1. */
  readonly formatVersion: number;
  /** The name of the task. */
  readonly task?: string;
  /** The model that it was trained on. */
  readonly baseModel?: BaseModelSummary;
  /** SHA-256 of the tokenizer's file. */
  readonly tokenizerHash?: string;
  /** The options of the training run. */
  readonly recipe?: { readonly [key: string]: JsonValue };
  /** Results of the training run, by name. */
  readonly metrics?: { readonly [key: string]: JsonValue };
}

/** The summary of a base model, for the metadata of a prefix that is trained on it. */
export function describeBaseModel(config: GPTNeoXConfig, fingerprint: string, name?: string): BaseModelSummary {
  const { vocabSize, hiddenSize, numLayers, numHeads } = config;
  return { fingerprint, ...(name === undefined ? {} : { name }), vocabSize, hiddenSize, numLayers, numHeads };
}

/**
 * Metadata that a program gives, under the rules of a file's: what could not be saved and read back is refused now, not
 * then. Gives a copy, as a file would give it back.
 * @throws NEOX_BAD_ARGUMENT
 */
export function checkMetadata(name: string, given: unknown): Omit<PrefixMetadata, 'formatVersion'> {
  const metadata = checkOptions(name, given, [
    'formatVersion',
    'task',
    'baseModel',
    'tokenizerHash',
    'recipe',
    'metrics',
  ]);
  // Of the metadata of another prefix, copied with the rest.
  if (metadata['formatVersion'] !== undefined)
    checkInteger(`${name}.formatVersion`, metadata['formatVersion'], 0, FORMAT_VERSION);
  const text = (key: string, owner = metadata, ownerName = name): object => {
    const value = owner[key];
    if (value !== undefined && typeof value !== 'string') throw badArgument(`${ownerName}.${key}`, 'a string', value);
    return value === undefined ? {} : { [key]: value };
  };
  const section = (key: string): object =>
    metadata[key] === undefined ? {} : { [key]: jsonCopy(`${name}.${key}`, metadata[key]) };
  const baseModel = section('baseModel') as { baseModel?: Record<string, unknown> };
  for (const key of BASE_MODEL_TEXTS) text(key, baseModel.baseModel ?? {}, `${name}.baseModel`);
  return { ...text('task'), ...baseModel, ...text('tokenizerHash'), ...section('recipe'), ...section('metrics') };
}

function jsonCopy(name: string, value: unknown): unknown {
  if (!isObject(value)) throw badArgument(name, 'an object', value);
  try {
    return parseJsonObject(Buffer.from(JSON.stringify(value)), 'NEOX_BAD_PREFIX', 'The metadata', name);
  } catch (error) {
    const [why] = (error as Error).message.replace(/^.* is not usable: /, '').split('\n');
    throw badArgument(name, 'an object that JSON can hold', value, why);
  }
}

/** As the metadata of a safetensors file, which are strings by name. */
export function metadataToStrings(metadata: PrefixMetadata): Record<string, string> {
  const strings: Record<string, string> = { 'neox_prefix.format_version': String(FORMAT_VERSION) };
  if (metadata.task !== undefined) strings['neox_prefix.task'] = metadata.task;
  if (metadata.tokenizerHash !== undefined) strings['neox_prefix.tokenizer_hash'] = metadata.tokenizerHash;
  if (metadata.baseModel !== undefined) strings['neox_prefix.base_model'] = JSON.stringify(metadata.baseModel);
  if (metadata.recipe !== undefined) strings['neox_prefix.recipe'] = JSON.stringify(metadata.recipe);
  if (metadata.metrics !== undefined) strings['neox_prefix.metrics'] = JSON.stringify(metadata.metrics);
  return strings;
}

/** @throws NEOX_UNSUPPORTED for a file of a later version, NEOX_BAD_PREFIX for metadata that cannot be read */
export function metadataFromStrings(strings: ReadonlyMap<string, string>, path: string): PrefixMetadata {
  const version = strings.get('neox_prefix.format_version') ?? String(FORMAT_VERSION);
  if (!/^\d{1,6}$/.test(version))
    throw badMetadata(path, `expected a number for neox_prefix.format_version, found '${version.slice(0, 40)}'`);
  if (Number(version) > FORMAT_VERSION) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The prefix ${path} is of format version ${version}; this package reads up to ${FORMAT_VERSION}`,
      {
        path,
        hint: 'update neox-prefix',
      },
    );
  }
  const task = strings.get('neox_prefix.task');
  const tokenizerHash = strings.get('neox_prefix.tokenizer_hash');
  const baseModel = section(strings, 'neox_prefix.base_model', path);
  const recipe = section(strings, 'neox_prefix.recipe', path);
  const metrics = section(strings, 'neox_prefix.metrics', path);
  return {
    formatVersion: Number(version),
    ...(task === undefined ? {} : { task }),
    ...(baseModel === undefined ? {} : { baseModel: checkBaseModel(baseModel, path) }),
    ...(tokenizerHash === undefined ? {} : { tokenizerHash }),
    ...(recipe === undefined ? {} : { recipe }),
    ...(metrics === undefined ? {} : { metrics }),
  };
}

function section(
  strings: ReadonlyMap<string, string>,
  key: string,
  path: string,
): { readonly [key: string]: JsonValue } | undefined {
  const text = strings.get(key);
  if (text === undefined) return undefined;
  return parseJsonObject(Buffer.from(text), 'NEOX_BAD_PREFIX', `The metadata ${key} of`, path) as {
    readonly [key: string]: JsonValue;
  };
}

function checkBaseModel(value: { readonly [key: string]: JsonValue }, path: string): BaseModelSummary {
  for (const key of BASE_MODEL_TEXTS) {
    const text = value[key];
    if (text !== undefined && typeof text !== 'string')
      throw badMetadata(path, `expected text for ${key} of neox_prefix.base_model`);
  }
  return value;
}

function badMetadata(path: string, problem: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_PREFIX', `The prefix ${path} is not usable: ${problem}`, { path });
}
