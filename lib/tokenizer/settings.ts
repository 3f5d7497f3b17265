import { join } from 'node:path';
import { NeoXPrefixError } from '../base/errors';
import { kindOf, readSmallFile } from '../base/files';
import { isObject, parseJsonObject } from '../formats/json';

/** A token that is found in the text before the model sees it (tokenizers' AddedToken). */
export interface AddedToken {
  readonly content: string;
  /** Takes the white space on its left. */
  readonly lstrip: boolean;
  /** Takes the white space on its right. */
  readonly rstrip: boolean;
  /** Is not found inside words. */
  readonly singleWord: boolean;
}

/** In the order in which transformers gives ids to those that the vocabulary lacks. */
export const SPECIAL_TOKEN_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;
export type SpecialTokenName = (typeof SPECIAL_TOKEN_NAMES)[number];

/** What the small files beside a vocabulary say. */
export interface TokenizerSettings {
  /** False when there is neither tokenizer_config.json nor special_tokens_map.json. */
  readonly found: boolean;
  readonly tokenizerClass?: string;
  readonly specialTokens: ReadonlyMap<SpecialTokenName, AddedToken>;
  readonly additionalSpecialTokens: readonly AddedToken[];
  /** Whether the files name additional_special_tokens at all, be it an empty list. */
  readonly hasAdditionalSpecialTokens: boolean;
  readonly addedTokens: ReadonlyMap<number, AddedToken>;
  /** T5Tokenizer's sentinels. Defaults to `100` where a tokenizer_config.json is silent. */
  readonly extraIds: number;
  /** Undefined where nothing is said: T5Tokenizer then adds one, GPT2Tokenizer none. */
  readonly addPrefixSpace: boolean | undefined;
  /** `clean_up_tokenization_spaces`. Defaults to `false`. */
  readonly cleanUp: boolean;
  /** T5Tokenizer's `legacy`. Defaults to `true`. */
  readonly legacy: boolean;
  /** Ids that the model's config.json gives. */
  readonly modelIds: { readonly bosId?: number; readonly eosId?: number; readonly padId?: number };
}

type Json = Record<string, unknown>;

const MAX_FILE_BYTES = 16 * 2 ** 20;
/** Added tokens become one regular expression, or a trie with an object for each character. */
const MAX_ADDED_TOKENS = 20_000;
const MAX_TOKEN_LENGTH = 1024;

/**
 * Reads tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json of a folder; each may be
 * missing.
 */
export async function readSettings(directory: string): Promise<TokenizerSettings> {
  const [config, map, added, model] = await Promise.all(
    ['tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'config.json'].map((name) =>
      readJson(join(directory, name)),
    ),
  );
  const path = join(directory, 'tokenizer_config.json');
  const addedTokens = readAddedTokens(config?.added_tokens_decoder, added, path, join(directory, 'added_tokens.json'));
  // As transformers: the map counts only where the configuration does not list the added tokens itself.
  const usesMap = config?.added_tokens_decoder === undefined;
  const tokens: Json = usesMap ? { ...config, ...map } : config;
  const sourceOf = (name: string): string =>
    usesMap && map?.[name] !== undefined ? join(directory, 'special_tokens_map.json') : path;

  const specialTokens = new Map<SpecialTokenName, AddedToken>();
  for (const name of SPECIAL_TOKEN_NAMES) {
    const value = tokens[name];
    if (value !== undefined && value !== null && value !== '')
      specialTokens.set(name, toAddedToken(value, name, sourceOf(name)));
  }
  const additional: unknown = tokens.additional_special_tokens ?? undefined;
  if (additional !== undefined && !Array.isArray(additional))
    throw bad(sourceOf('additional_special_tokens'), 'additional_special_tokens is not a list');
  checkAddedCount(additional?.length ?? 0, sourceOf('additional_special_tokens'));
  const tokenizerClass = text(config, 'tokenizer_class', path);
  return {
    found: config !== undefined || map !== undefined,
    ...(tokenizerClass !== undefined && { tokenizerClass }),
    specialTokens,
    additionalSpecialTokens: ((additional ?? []) as unknown[]).map((value) => {
      return toAddedToken(value, 'additional_special_tokens', sourceOf('additional_special_tokens'));
    }),
    hasAdditionalSpecialTokens: additional !== undefined,
    addedTokens,
    extraIds: count(config, 'extra_ids', path) ?? (config === undefined ? 0 : 100),
    addPrefixSpace: flag(config, 'add_prefix_space', path),
    cleanUp: flag(config, 'clean_up_tokenization_spaces', path) ?? false,
    legacy: flag(config, 'legacy', path) ?? true,
    modelIds: {
      ...optional('bosId', firstId(model?.bos_token_id)),
      ...optional('eosId', firstId(model?.eos_token_id)),
      ...optional('padId', firstId(model?.pad_token_id)),
    },
  };
}

/** Parses a JSON file that holds an object; undefined when there is no such file. */
export async function readJson(path: string): Promise<Json | undefined> {
  if ((await kindOf(path)) === undefined) return undefined;
  return parseJsonObject(await readSmallFile(path, MAX_FILE_BYTES), 'NEOX_BAD_TOKENIZER', 'The file', path);
}

export function plainToken(content: string): AddedToken {
  return { content, lstrip: false, rstrip: false, singleWord: false };
}

/** Ids above this are refused: no vocabulary is near it, and tables by id are allocated. */
export const MAX_TOKEN_ID = 2 ** 24 - 1;

/** Refuses more added tokens than any tokenizer has. */
export function checkAddedCount(count: number, path: string): void {
  if (count > MAX_ADDED_TOKENS) throw bad(path, `it adds ${count} tokens, more than ${MAX_ADDED_TOKENS}`);
}

/** Refuses an added token that is empty or longer than any. */
export function checkContent(content: unknown, name: string, path: string): string {
  if (typeof content !== 'string' || content === '')
    throw bad(path, `${name} is neither a string nor an object with a string content`);
  if (content.length > MAX_TOKEN_LENGTH)
    throw bad(
      path,
      `${name} has ${content.length} characters, more than ${MAX_TOKEN_LENGTH}: '${content.slice(0, 40)}...'`,
    );
  return content;
}

function readAddedTokens(
  decoder: unknown,
  added: Json | undefined,
  path: string,
  addedPath: string,
): Map<number, AddedToken> {
  const tokens = new Map<number, AddedToken>();
  if (decoder !== undefined && decoder !== null) {
    if (!isObject(decoder)) throw bad(path, 'added_tokens_decoder is not an object');
    checkAddedCount(Object.keys(decoder).length, path);
    for (const [key, value] of Object.entries(decoder))
      tokens.set(checkId(Number(key), `the id '${key}' of an added token`, path), toAddedToken(value, key, path));
    return tokens;
  }
  checkAddedCount(Object.keys(added ?? {}).length, addedPath);
  for (const [content, id] of Object.entries(added ?? {})) {
    checkContent(content, 'an added token', addedPath);
    tokens.set(checkId(id, `the id of the added token '${content}'`, addedPath), plainToken(content));
  }
  return tokens;
}

function toAddedToken(value: unknown, name: string, path: string): AddedToken {
  const content = checkContent(isObject(value) ? value.content : value, name, path);
  const fields: Json = isObject(value) ? value : {};
  return {
    content,
    lstrip: fields.lstrip === true,
    rstrip: fields.rstrip === true,
    singleWord: fields.single_word === true,
  };
}

function checkId(value: unknown, what: string, path: string): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > MAX_TOKEN_ID)
    throw bad(path, `${what} is not an integer between 0 and ${MAX_TOKEN_ID}`);
  return value;
}

function firstId(value: unknown): number | undefined {
  const id: unknown = Array.isArray(value) ? value[0] : value;
  return typeof id === 'number' && Number.isInteger(id) && id >= 0 ? id : undefined;
}

function optional<K extends string>(key: K, value: number | undefined): Partial<Record<K, number>> {
  return value === undefined ? {} : ({ [key]: value } as Partial<Record<K, number>>);
}

function text(config: Json | undefined, key: string, path: string): string | undefined {
  const value: unknown = config?.[key] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value === 'string') return value;
  throw bad(path, `${key} is not a string`);
}

function flag(config: Json | undefined, key: string, path: string): boolean | undefined {
  const value: unknown = config?.[key] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value === 'boolean') return value;
  throw bad(path, `${key} is not true or false`);
}

function count(config: Json | undefined, key: string, path: string): number | undefined {
  const value: unknown = config?.[key] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 10_000)
    throw bad(path, `${key} is not an integer between 0 and 10000`);
  return value;
}

function bad(path: string, what: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_TOKENIZER', `${path}: ${what}`, { path });
}
