import { BEAM_OPTIONS } from '../../generation/beam-options';
import type { OutputFormat } from '../../generation/constraints/output-format';
import { SAMPLING_OPTIONS } from '../../generation/sampling-options';
import type { EngineRequest } from '../../engine/engine-request';
import { REQUEST_OPTIONS } from '../../engine/engine-request';
import { isObject } from '../../formats/json';
import { badField, HttpError } from '../http-error';
import {
  checked,
  field,
  type Field,
  type FieldTable,
  flag,
  optionField,
  string,
  unsupported,
  unused,
  wholeNumber,
} from '../field-table';
import type { Limits } from '../server-options';

/** What both completions and chats may have. */
export function commonFields(limits: Limits): FieldTable {
  const { maxNewTokens, minNewTokens, temperature, topP, topK, minP, typicalP } = SAMPLING_OPTIONS;
  const { repetitionPenalty, presencePenalty, frequencyPenalty, noRepeatNgramSize, ignoreEos } = SAMPLING_OPTIONS;
  return {
    model: string('a model of /v1/models: the base model or a prefix'),
    max_tokens: optionField(maxNewTokens),
    max_completion_tokens: optionField(maxNewTokens),
    min_tokens: optionField(minNewTokens),
    temperature: optionField(temperature, 2),
    top_p: optionField(topP),
    top_k: field({ type: 'integer', minimum: -1 }, `${topK.help}; -1: from all`, (name, value) =>
      value === -1 ? 0 : topK.check(name, value),
    ),
    min_p: optionField(minP),
    typical_p: optionField(typicalP),
    n: wholeNumber('texts for each prompt', 1, limits.n),
    seed: field({ type: 'integer' }, 'seed of the draws; drawn and told where it is not given', checkSeed),
    stop: stopField(limits),
    presence_penalty: optionField(presencePenalty),
    frequency_penalty: optionField(frequencyPenalty),
    repetition_penalty: optionField(repetitionPenalty),
    no_repeat_ngram_size: optionField(noRepeatNgramSize),
    logit_bias: field({ type: 'object' }, 'added to the logits of tokens, by id', (name, value) =>
      checkBias(name, value, limits),
    ),
    bad_words: field({ type: 'array', items: { type: 'string' } }, 'words that must not come', (name, value) =>
      strings(name, value, limits.badWords),
    ),
    ignore_eos: optionField(ignoreEos),
    stop_token_ids: field({ type: 'array', items: { type: 'integer' } }, 'tokens that end the text, too', ids),
    stream: flag('the text piece by piece, as server-sent events'),
    stream_options: field({ type: 'object' }, 'include_usage, continuous_usage_stats', streamOptions),
    response_format: field({ type: 'object' }, 'text, json_object or json_schema', (name, value) =>
      responseFormat(name, value, limits),
    ),
    structured_outputs: field({ type: 'object' }, 'one of json, regex, choice', (name, value) =>
      structuredOutputs(name, value, limits),
    ),
    use_beam_search: flag('search for the n most likely texts'),
    length_penalty: optionField(BEAM_OPTIONS.lengthPenalty),
    priority: field(
      { type: 'integer', minimum: 0, maximum: 100 },
      'higher is earlier (in vLLM lower is), from 0 to 100',
      (name, value) => REQUEST_OPTIONS.priority.check(name, value),
    ),
    return_token_ids: flag('token ids of the prompt and of the text beside them'),
    tools: unsupported('the models know no tools', isEmptyList),
    tool_choice: unsupported('the models know no tools', (value) => value === 'none' || value === 'auto'),
    functions: unsupported('the models know no functions', isEmptyList),
    function_call: unsupported('the models know no functions', (value) => value === 'none'),
    audio: unsupported('the models write text'),
    modalities: unsupported(
      'the models write text',
      (value) => Array.isArray(value) && value.every((one) => one === 'text'),
    ),
    prediction: unsupported('there is no speculative decoding'),
    ...Object.fromEntries(UNUSED.map((name): [string, Field] => [name, unused])),
  };
}

const UNUSED = [
  'user',
  'store',
  'metadata',
  'service_tier',
  'parallel_tool_calls',
  'safety_identifier',
  'prompt_cache_key',
  'request_id',
];

const isEmptyList = (value: unknown): boolean => Array.isArray(value) && value.length === 0;

const TOP = 2 ** 53;

/** Clients send -1 and other negative ones: a negative s is s + 2^53. */
function checkSeed(name: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value))
    throw badField(name, `Expected an integer from -(2^53 - 1) to 2^53 - 1 for ${name}`);
  return value < 0 ? value + TOP : value;
}

function strings(name: string, value: unknown, most: number): string[] {
  const fits =
    Array.isArray(value) && value.length <= most && value.every((one) => typeof one === 'string' && one !== '');
  if (!fits) throw badField(name, `Expected an array of up to ${most} strings that are not empty for ${name}`);
  return value as string[];
}

function ids(name: string, value: unknown): number[] {
  const fits =
    Array.isArray(value) && value.length <= 1024 && value.every((one) => Number.isSafeInteger(one) && one >= 0);
  if (!fits) throw badField(name, `Expected an array of up to 1024 token ids for ${name}`);
  return value as number[];
}

function stopField({ stop: most, stopLength }: Limits): Field {
  const one = { type: 'string', minLength: 1, maxLength: stopLength };
  const schema = { anyOf: [one, { type: 'array', items: one, maxItems: most }] };
  return field(schema, 'a text, or several; the text ends before the first that comes', (name, value) => {
    const list = strings(name, typeof value === 'string' ? [value] : value, most);
    if (list.some((text) => text.length > stopLength))
      throw badField(name, `Expected at most ${stopLength} characters in each text of ${name}`);
    return list;
  });
}

function checkBias(name: string, value: unknown, { logitBias: most }: Limits): Record<string, number> {
  const entries = isObject(value) ? Object.entries(value) : undefined;
  const fits = entries?.every(
    ([id, bias]) => /^\d{1,9}$/.test(id) && typeof bias === 'number' && bias >= -100 && bias <= 100,
  );
  if (entries === undefined || fits !== true || entries.length > most)
    throw badField(name, `Expected up to ${most} numbers from -100 to 100 by token ids for ${name}`);
  return value as Record<string, number>;
}

function streamOptions(name: string, value: unknown): { usage: boolean; continuous: boolean } {
  if (!isObject(value)) throw badField(name, `Expected an object for ${name}`);
  const of = (key: string): boolean => {
    const one = value[key] ?? false;
    if (typeof one !== 'boolean') throw badField(name, `Expected true or false for ${name}.${key}`);
    return one;
  };
  return { usage: of('include_usage'), continuous: of('continuous_usage_stats') };
}

function limited(name: string, value: unknown, { schemaBytes }: Limits): void {
  const bytes = Buffer.byteLength(JSON.stringify(value ?? null));
  if (bytes > schemaBytes) throw badField(name, `${name} has ${bytes} bytes, and at most ${schemaBytes} are taken`);
}

function responseFormat(name: string, value: unknown, limits: Limits): OutputFormat | undefined {
  if (!isObject(value)) throw badField(name, `Expected an object for ${name}`);
  const { type, json_schema: wrapped } = value;
  if (type === 'text') return undefined;
  if (type === 'json_object') return { jsonSchema: { type: 'object' } };
  if (type !== 'json_schema') throw badField(name, `Expected 'text', 'json_object' or 'json_schema' for ${name}.type`);
  const schema = isObject(wrapped) ? wrapped['schema'] : undefined;
  if (!isObject(schema)) throw badField(name, `Expected an object for ${name}.json_schema.schema`);
  limited(name, schema, limits);
  return { jsonSchema: schema };
}

function structuredOutputs(name: string, value: unknown, limits: Limits): OutputFormat {
  const given = isObject(value) ? Object.entries(value).filter(([, one]) => one !== null) : [];
  const [kind, content] = given[0] ?? [];
  if (given.length !== 1 || !['json', 'regex', 'choice'].includes(kind ?? ''))
    throw badField(name, `Expected an object with one of json, regex and choice for ${name}`);
  limited(name, content, limits);
  if (kind === 'regex') {
    if (typeof content !== 'string') throw badField(name, `Expected a string for ${name}.regex`);
    return { regex: content };
  }
  if (kind === 'choice') return { choices: strings(`${name}.choice`, content, 10_000) };
  const schema = typeof content === 'string' ? checked(name, () => parsed(name, content)) : content;
  if (!isObject(schema) && schema !== true) throw badField(name, `Expected a schema for ${name}.json`);
  return { jsonSchema: schema };
}

function parsed(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw badField(name, `Expected JSON for ${name}.json`);
  }
}

/** Fields of the wire that are an option of the library under another name. */
const SAME: Readonly<Record<string, keyof EngineRequest>> = {
  min_tokens: 'minNewTokens',
  temperature: 'temperature',
  top_p: 'topP',
  top_k: 'topK',
  min_p: 'minP',
  typical_p: 'typicalP',
  stop: 'stop',
  presence_penalty: 'presencePenalty',
  frequency_penalty: 'frequencyPenalty',
  repetition_penalty: 'repetitionPenalty',
  no_repeat_ngram_size: 'noRepeatNgramSize',
  logit_bias: 'logitBias',
  bad_words: 'badWords',
  ignore_eos: 'ignoreEos',
  response_format: 'format',
  structured_outputs: 'format',
  priority: 'priority',
};

/** The library's options of the common fields, but for prompt, prefix, seed, number of tokens and of texts. */
export function engineOptions(
  values: Readonly<Record<string, unknown>>,
  endIds: readonly number[],
): Omit<EngineRequest, 'prompt'> {
  const options: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(SAME)) if (values[name] !== undefined) options[option] = values[name];
  const more = values['stop_token_ids'] as number[] | undefined;
  if (more !== undefined && more.length > 0) options['eosTokenIds'] = [...endIds, ...more];
  if (values['response_format'] !== undefined && values['structured_outputs'] !== undefined)
    throw badField('structured_outputs', 'response_format and structured_outputs do not go together');
  if (options['format'] !== undefined) {
    for (const name of ['stop', 'ignore_eos'])
      if (values[name] !== undefined && values[name] !== false)
        throw badField(
          name,
          `${name} does not go together with a format of the answer: it would end it before its end`,
        );
  }
  if (values['ignore_eos'] === true && more !== undefined && more.length > 0)
    throw badField('stop_token_ids', 'ignore_eos and stop_token_ids contradict each other');
  if (values['use_beam_search'] === true) beams(values, options);
  else if (values['length_penalty'] !== undefined && values['length_penalty'] !== 1)
    throw badField('length_penalty', 'length_penalty is for use_beam_search');
  return options;
}

/** As vLLM has it: n is the number of beams and of texts. */
function beams(values: Readonly<Record<string, unknown>>, options: Record<string, unknown>): void {
  const n = (values['n'] as number | undefined) ?? 1;
  for (const name of [
    'stream',
    'logprobs',
    'stop',
    'response_format',
    'structured_outputs',
    'echo',
    'prompt_logprobs',
  ]) {
    if (values[name] !== undefined && values[name] !== false)
      throw new HttpError(400, 'unsupported_parameter', `${name} does not go together with use_beam_search`, {
        param: name,
      });
  }
  for (const name of ['topK', 'topP', 'minP', 'typicalP', 'temperature']) options[name] = undefined;
  if (n === 1) {
    options['temperature'] = 0;
    return;
  }
  Object.assign(options, { numBeams: n, numReturnSequences: n });
  if (values['length_penalty'] !== undefined) options['lengthPenalty'] = values['length_penalty'];
}
