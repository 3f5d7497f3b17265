import { badArgument, checkBoolean, checkOptions, checkString } from '../base/arguments';
import {
  boolean,
  callback,
  choice,
  completeOptions,
  integer,
  number,
  type OptionTable,
  special,
  text,
} from '../base/options';
import type { PrefixStore } from '../engine/prefix-store';
import type { FasterTransformerOptions } from './v2/fastertransformer-model';
import { TEMPLATES, type Template } from '../tokenizer/templates';

/** Bounds of what one request may ask for and how long it may take. */
export interface ServerLimits {
  /** Bytes of a request's body. Defaults to 4 MiB. */
  bodyBytes?: number;
  /** Bytes of a prefix that is sent to be loaded. Defaults to 1 GiB. */
  prefixBytes?: number;
  /** Prompts of one request. Defaults to `128`. */
  prompts?: number;
  /** Texts for each prompt. Defaults to `128`. */
  n?: number;
  /** Most likely tokens beside each. Defaults to `20`. */
  logprobs?: number;
  /** Stop strings. Defaults to `16`. */
  stop?: number;
  /** Characters of each of them. Defaults to `256`. */
  stopLength?: number;
  /** Entries of `logit_bias`. Defaults to `1024`. */
  logitBias?: number;
  /** Entries of `bad_words`. Defaults to `256`. */
  badWords?: number;
  /** Bytes of a JSON schema, a regular expression or a list of choices. Defaults to 64 KiB. */
  schemaBytes?: number;
  /** Cap of `max_tokens`. Defaults to none: the model's positions are one. */
  maxTokens?: number;
  /** What `max_tokens` is for a chat that does not say. Defaults to `512`. */
  defaultMaxTokens?: number;
  /** Seconds for a whole request, queue included. Defaults to `600`. */
  requestSeconds?: number;
  /** Seconds that a client may leave a stream unread before it is cut off. Defaults to `60`. */
  stallSeconds?: number;
  /** Seconds of silence after which a stream says that it is alive. Defaults to `15`. */
  keepAliveSeconds?: number;
  /** Connections at once. Defaults to `1024`. */
  connections?: number;
}

export const LIMITS = {
  bodyBytes: integer({ min: 1024, default: 4 * 2 ** 20, symbol: 'bytes', help: 'of a body' }),
  prefixBytes: integer({ min: 1024, default: 2 ** 30, symbol: 'bytes', help: 'of a prefix that is sent' }),
  prompts: integer({ min: 1, default: 128, help: 'prompts of one request' }),
  n: integer({ min: 1, max: 1024, default: 128, help: 'texts for each prompt' }),
  logprobs: integer({ min: 0, max: 100, default: 20, help: 'most likely tokens beside each' }),
  stop: integer({ min: 1, default: 16, help: 'stop strings' }),
  stopLength: integer({ min: 1, default: 256, help: 'characters of a stop string' }),
  logitBias: integer({ min: 0, default: 1024, help: 'entries of logit_bias' }),
  badWords: integer({ min: 0, default: 256, help: 'entries of bad_words' }),
  schemaBytes: integer({ min: 2, default: 2 ** 16, symbol: 'bytes', help: 'of a schema, expression or list' }),
  maxTokens: integer({ min: 1, otherwise: "the model's positions", help: 'cap of max_tokens' }),
  defaultMaxTokens: integer({ min: 1, default: 512, help: 'max_tokens of a chat that does not say' }),
  requestSeconds: number({ above: 0, max: 1e6, default: 600, symbol: 's', help: 'for a whole request' }),
  stallSeconds: number({ above: 0, max: 1e6, default: 60, symbol: 's', help: 'that a stream may be left unread' }),
  keepAliveSeconds: number({ above: 0, max: 1e6, default: 15, symbol: 's', help: 'of silence in a stream' }),
  connections: integer({ min: 1, default: 1024, help: 'connections at once' }),
} satisfies OptionTable<ServerLimits>;

/** What happened to one request, for a log: no text, no key. */
export interface RequestEvent {
  id: string;
  method: string;
  /** The route's pattern, or `'none'`. */
  route: string;
  /** What was sent; 499 where the client left before. */
  status: number;
  milliseconds: number;
  model?: string;
  promptTokens?: number;
  completionTokens?: number;
  /** Fields of the request that are not known here. */
  ignored?: readonly string[];
  /** OpenAI's code of the error. */
  error?: string;
  /** Where a failure of the server itself comes from. */
  stack?: string;
  /** With `logContent`: the request's body. */
  content?: unknown;
}

/** Settings of a {@link PrefixServer}. */
export interface ServerOptions {
  /** The prefixes: each name is a model. Defaults to those of the engine. */
  prefixes?: PrefixStore;
  /** What the base model is called. Defaults to the name of its folder. */
  baseName?: string;
  /** Where to listen. Defaults to `'127.0.0.1'`. */
  host?: string;
  /** 0: any free one. Defaults to `8000`. */
  port?: number;
  /** Port of gRPC, for the Open Inference Protocol; 0: any free one. Defaults to none. */
  grpcPort?: number;
  /** Prefixes that are the tasks of a model with FasterTransformer's signature. Defaults to none. */
  fasterTransformer?: FasterTransformerOptions;
  /** Keys that requests need, as `Authorization: Bearer KEY`. Defaults to none: anybody may ask. */
  apiKeys?: readonly string[];
  /** Keys that what changes the server needs; they are good for all else too. Defaults to none. */
  adminKeys?: readonly string[];
  /** Whether it may listen beyond this machine without a key. Defaults to `false`. */
  noKey?: boolean;
  /** Origins of pages that may ask. Defaults to none. */
  cors?: readonly string[];
  /** What the header `Host` may be. Defaults to the names of this machine when `host` is one of them, else anything. */
  allowedHosts?: readonly string[];
  /** A folder that prefixes may be loaded from by name. Defaults to none: such requests are refused. */
  loadFolder?: string;
  /** How a chat becomes a prompt. Defaults to that of the tokenizer, if it is known. */
  template?: Template;
  /** Whether there is a page to try it. Defaults to `true`. */
  playground?: boolean;
  /** Whose names metrics have beside those of this package. Defaults to `'own'`. */
  metrics?: 'own' | 'vllm' | 'off';
  limits?: ServerLimits;
  /** Whether {@link onRequest} hears what was asked. Defaults to `false`. */
  logContent?: boolean;
  /** Called behind each request. Defaults to nothing. */
  onRequest?: (event: RequestEvent) => void;
}

export const SERVER_OPTIONS = {
  prefixes: special<PrefixStore>({ help: 'the prefixes: each name is a model' }),
  baseName: text({ otherwise: 'the name of its folder', help: 'what the base model is called' }),
  host: text({ default: '127.0.0.1', help: 'where to listen' }),
  port: integer({ min: 0, max: 65_535, default: 8000, help: 'port of HTTP; 0: any free one' }),
  grpcPort: integer({ min: 0, max: 65_535, otherwise: 'none', help: 'port of gRPC; 0: any free one' }),
  fasterTransformer: special<FasterTransformerOptions>({
    check: fasterTransformer,
    help: "prefixes as the tasks of a model with FasterTransformer's signature",
  }),
  apiKeys: special<readonly string[]>({ check: keys, help: 'keys that requests need' }),
  adminKeys: special<readonly string[]>({ check: keys, help: 'keys that what changes the server needs' }),
  noKey: boolean({ default: false, help: 'listen beyond this machine without a key' }),
  cors: special<readonly string[]>({ check: origins, help: 'origins of pages that may ask' }),
  allowedHosts: special<readonly string[]>({ check: keys, help: 'what the header Host may be' }),
  loadFolder: text({ help: 'folder that prefixes may be loaded from' }),
  template: special<Template>({ check: template, help: 'how a chat becomes a prompt' }),
  playground: boolean({ default: true, help: 'a page to try it' }),
  metrics: choice(['own', 'vllm', 'off'], {
    default: 'own',
    help: "names of metrics: this package's, vLLM's too, none",
  }),
  limits: special<ServerLimits>({ help: 'bounds of a request' }),
  logContent: boolean({ default: false, help: 'log what is asked' }),
  onRequest: callback<(event: RequestEvent) => void>('called behind each request'),
} satisfies OptionTable<ServerOptions>;

export type Limits = ReturnType<typeof resolveLimits>;
export type Settings = ReturnType<typeof resolveServerOptions>;

export function resolveLimits(limits: ServerLimits | undefined) {
  return completeOptions(LIMITS, limits ?? {}, 'limits');
}

/** @throws NEOX_BAD_ARGUMENT */
export function resolveServerOptions(options: ServerOptions) {
  const settings = completeOptions(SERVER_OPTIONS, options);
  return {
    ...settings,
    apiKeys: settings.apiKeys ?? [],
    adminKeys: settings.adminKeys ?? [],
    cors: settings.cors ?? [],
    limits: resolveLimits(settings.limits),
  };
}

function keys(name: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw badArgument(name, 'an array of strings', value);
  return value.map((item: unknown, i) => checkString(`${name}[${i}]`, item));
}

function fasterTransformer(name: string, value: unknown): FasterTransformerOptions {
  const { name: own, tasks, decoupled } = checkOptions(name, value, ['name', 'tasks', 'decoupled']);
  keys(`${name}.tasks`, tasks);
  if (own !== undefined) checkString(`${name}.name`, own);
  if (decoupled !== undefined) checkBoolean(`${name}.decoupled`, decoupled);
  return value as FasterTransformerOptions;
}

function origins(name: string, value: unknown): readonly string[] {
  return keys(name, value).map((origin, i) => {
    const url = URL.canParse(origin) ? new URL(origin) : undefined;
    if (url === undefined || url.origin !== origin)
      throw badArgument(`${name}[${i}]`, "an origin such as 'https://example.com'", origin);
    return origin;
  });
}

function template(name: string, value: unknown): Template {
  if (typeof value === 'function' || TEMPLATES.includes(value as never)) return value as Template;
  throw badArgument(name, `${TEMPLATES.map((one) => `'${one}'`).join(', ')} or a function`, value);
}
