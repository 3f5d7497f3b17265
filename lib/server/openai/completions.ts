import type { EngineResult } from '../../engine/engine';
import type { EngineRequest } from '../../engine/engine-request';
import type { EnginePiece } from '../../engine/stream';
import { type Completion, decoderFor } from '../../generation/output';
import { type Prompt, promptIds, spacesAtEnd } from '../../generation/request';
import type { ScoredToken } from '../../generation/token-scores';
import { NO_CONTEXT, type TextContext } from '../../tokenizer/backend';
import { trimEndAsPython } from '../../tokenizer/streams';
import type { Exchange } from '../exchange';
import { badField, HttpError } from '../http-error';
import {
  bodySchema,
  checked,
  field,
  type FieldTable,
  flag,
  readFields,
  unsupported,
  wholeNumber,
} from '../field-table';
import type { Route } from '../router';
import type { Limits } from '../server-options';
import type { Service } from '../service';
import { answer, newId, newSeed, type TextJob, type Writer } from './generation';
import { commonFields, engineOptions } from './generation-fields';
import { finite, TokenStrings } from './token-strings';

const DEFAULT_TOKENS = 16;

export function completionFields(limits: Limits): FieldTable {
  return {
    ...commonFields(limits),
    prompt: field(
      { anyOf: [{ type: 'string' }, { type: 'array', items: {} }] },
      'a text, token ids, or a list of either',
      (name, value) => promptsOf(name, value, limits),
    ),
    logprobs: wholeNumber('log-probabilities of the tokens, and of the k most likely ones', 0, limits.logprobs),
    prompt_logprobs: wholeNumber('the same for the prompt', 0, limits.logprobs),
    echo: flag('the prompt in front of the text'),
    best_of: field({ type: 'integer' }, 'as n', (_, value) => value),
    suffix: unsupported('the models write what follows', (value) => value === ''),
  };
}

export function completionRoutes(service: Service): Route[] {
  const fields = completionFields(service.settings.limits);
  return [
    {
      method: 'POST',
      path: '/v1/completions',
      access: 'api',
      summary: 'Goes on with a text',
      schema: bodySchema(fields, ['model', 'prompt']),
      handle: (exchange) => complete(exchange, service, fields),
    },
  ];
}

async function complete(exchange: Exchange, service: Service, fields: FieldTable): Promise<void> {
  const { values, ignored } = readFields(fields, await exchange.json());
  noteIgnored(exchange, ignored);
  const { model, ...common } = commonJob(exchange, service, values, 'cmpl', DEFAULT_TOKENS);
  const prompts = values['prompt'] as Prompt[] | undefined;
  if (prompts === undefined) throw badField('prompt', 'prompt is needed', 'missing_field');
  const n = common.n;
  if (values['best_of'] !== undefined && values['best_of'] !== n)
    throw new HttpError(400, 'unsupported_parameter', 'best_of must be n', { param: 'best_of' });
  checkLengths(service, prompts);
  const logprobs = values['logprobs'] as number | undefined;
  const echo = values['echo'] === true;
  const promptLogprobs = (values['prompt_logprobs'] as number | undefined) ?? (echo ? logprobs : undefined);
  const own: Partial<EngineRequest> = {
    ...(logprobs !== undefined && { logprobs, endToken: true }),
    ...(promptLogprobs !== undefined && { promptLogprobs }),
  };
  const requests = prompts.map((prompt) => ({ ...common.options, ...own, prompt }));
  const writer = new CompletionWriter(service, prompts, n, {
    echo,
    logprobs,
    promptLogprobs: values['prompt_logprobs'] !== undefined,
    ids: values['return_token_ids'] === true,
  });
  await answer({ ...common, exchange, service, model, requests }, writer);
}

/** What completions and chats have in common. */
export function commonJob(
  exchange: Exchange,
  service: Service,
  values: Readonly<Record<string, unknown>>,
  kind: string,
  tokens: number,
): Omit<TextJob, 'exchange' | 'service' | 'requests'> & { options: Omit<EngineRequest, 'prompt'> } {
  const { settings, model: loaded } = service;
  const model = values['model'] as string | undefined;
  if (model === undefined) throw badField('model', 'model is needed: one of /v1/models', 'missing_field');
  const prefix = service.prefixOf(model, exchange);
  const n = (values['n'] as number | undefined) ?? 1;
  const seed = (values['seed'] as number | undefined) ?? newSeed();
  const given = (values['max_completion_tokens'] ?? values['max_tokens']) as number | undefined;
  const maxNewTokens = Math.min(given ?? tokens, settings.limits.maxTokens ?? Infinity);
  const least = (values['min_tokens'] as number | undefined) ?? 0;
  if (least > maxNewTokens)
    throw badField('min_tokens', `min_tokens (${least}) is larger than max_tokens (${maxNewTokens})`);
  const isStream = values['stream'] === true;
  const streamOptions = values['stream_options'] as { usage: boolean; continuous: boolean } | undefined;
  if (streamOptions !== undefined && !isStream) throw badField('stream_options', 'stream_options is for stream: true');
  const options = engineOptions(values, loaded.config.eosTokenIds);
  const isSearch = options.numBeams !== undefined;
  return {
    id: newId(kind),
    model,
    n,
    seed,
    isStream,
    usage: streamOptions?.usage ?? false,
    continuous: streamOptions?.continuous ?? false,
    options: {
      ...options,
      maxNewTokens,
      ...(!isSearch && { n, seed }),
      ...(prefix !== undefined && { prefix }),
    },
  };
}

export function noteIgnored(exchange: Exchange, ignored: readonly string[]): void {
  if (ignored.length === 0) return;
  // Names of fields are the client's: only what may stand in a header does.
  const plain = ignored.filter((name) => /^[\w.-]{1,64}$/.test(name)).slice(0, 16);
  if (plain.length > 0) exchange.headers['x-ignored-fields'] = plain.join(', ');
  exchange.event.ignored = plain;
}

/** Texts that cannot fit are refused before they are encoded, which takes time. */
export function checkLengths(service: Service, prompts: readonly Prompt[]): void {
  const most = service.maxPositions * 128;
  for (const prompt of prompts) {
    if (prompt.length <= most) continue;
    const message = `A prompt has ${prompt.length} characters, and the model ${service.maxPositions} positions`;
    throw new HttpError(400, 'context_length_exceeded', message, { param: 'prompt' });
  }
}

export function promptsOf(name: string, value: unknown, { prompts: most }: Limits): Prompt[] {
  const isIds = (one: unknown): one is number[] =>
    Array.isArray(one) && one.length > 0 && one.every((id) => Number.isSafeInteger(id) && id >= 0);
  if (typeof value === 'string') return [value];
  if (isIds(value)) return [value];
  const fits =
    Array.isArray(value) &&
    value.length > 0 &&
    (value.every((one) => typeof one === 'string') || value.every((one) => isIds(one)));
  if (!fits)
    throw badField(name, `Expected a text, token ids, or a list of either, none of them an empty list, for ${name}`);
  if (value.length > most) throw badField(name, `${name} has ${value.length} prompts, and at most ${most} are taken`);
  return value;
}

interface Wanted {
  echo: boolean;
  logprobs: number | undefined;
  promptLogprobs: boolean;
  ids: boolean;
}

/** The log-probabilities of a run of tokens in OpenAI's older form. */
interface LegacyLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

/** What is known of a prompt, for those who want it back. */
interface PromptText {
  ids: Int32Array;
  context: TextContext;
  text: string;
}

class CompletionWriter implements Writer {
  readonly object = 'text_completion';
  readonly chunk = 'text_completion';
  private readonly prompts: PromptText[];
  /** The strings of the tokens of each text of a stream, from its first piece to its last. */
  private readonly strings = new Map<number, TokenStrings>();

  constructor(
    private readonly service: Service,
    prompts: readonly Prompt[],
    private readonly n: number,
    private readonly wanted: Wanted,
  ) {
    const { echo, logprobs, ids } = wanted;
    const needed = echo || ids || logprobs !== undefined;
    this.prompts = needed ? prompts.map((prompt, i) => this.promptText(prompt, i)) : [];
  }

  choice(index: number, completion: Completion, result: EngineResult): Record<string, unknown> {
    const { text, tokens, finishReason, stop, logprobs, end } = completion;
    const prompt = this.prompts[Math.floor(index / this.n)];
    const { echo } = this.wanted;
    const ended = end?.logprob;
    const all = logprobs === undefined ? undefined : ended === undefined ? logprobs : [...logprobs, ended];
    let scores: LegacyLogprobs | null = null;
    if (all !== undefined) {
      const strings = this.startOf(prompt);
      const front = echo ? this.legacy(strings, prompt, result.promptLogprobs ?? []) : undefined;
      scores = joined(front, this.scores(strings, all));
    }
    return {
      index,
      text: echo ? (prompt?.text ?? '') + text : text,
      logprobs: scores,
      finish_reason: finishReason,
      stop_reason: stop ?? null,
      ...(this.wanted.promptLogprobs && { prompt_logprobs: this.promptScores(prompt, result.promptLogprobs ?? []) }),
      ...(this.wanted.ids && { token_ids: tokens, prompt_token_ids: Array.from(prompt?.ids ?? []) }),
    };
  }

  begin(index: number): Record<string, unknown> | undefined {
    const { echo, logprobs } = this.wanted;
    // With scores of the prompt, the text of it comes with them.
    if (!echo || logprobs !== undefined) return undefined;
    return this.part(index, this.prompts[Math.floor(index / this.n)]?.text ?? '', null);
  }

  piece(piece: EnginePiece): Record<string, unknown> | undefined {
    const { index, text, token, logprob, finishReason, stop, end, promptLogprobs } = piece;
    const prompt = this.prompts[Math.floor(index / this.n)];
    const { echo, logprobs: k } = this.wanted;
    let strings = this.strings.get(index);
    if (strings === undefined && k !== undefined) this.strings.set(index, (strings = this.startOf(prompt)));
    if (promptLogprobs !== undefined) {
      const own = this.wanted.promptLogprobs ? { prompt_logprobs: this.promptScores(prompt, promptLogprobs) } : {};
      if (!echo || strings === undefined)
        return Object.keys(own).length > 0 ? { ...this.part(index, '', null), ...own } : undefined;
      return { ...this.part(index, prompt?.text ?? '', this.legacy(strings, prompt, promptLogprobs)), ...own };
    }
    const scored = logprob ?? end?.logprob;
    const scores = strings === undefined || scored === undefined ? null : this.scores(strings, [scored]);
    if (text === '' && finishReason === undefined && scores === null && !this.wanted.ids) return undefined;
    const part = this.part(index, text, scores);
    if (this.wanted.ids) part['token_ids'] = token === undefined ? [] : [token];
    if (finishReason !== undefined) Object.assign(part, { finish_reason: finishReason, stop_reason: stop ?? null });
    return part;
  }

  private part(index: number, text: string, logprobs: LegacyLogprobs | null): Record<string, unknown> {
    return { index, text, logprobs, finish_reason: null };
  }

  /** Names for the tokens of a text: with the prompt's in front, or behind them. */
  private startOf(prompt: PromptText | undefined): TokenStrings {
    const { tokenizer, hasTokenizer } = this.service.model;
    if (!hasTokenizer)
      throw badField('logprobs', 'log-probabilities have the texts of tokens, and there is no tokenizer');
    return new TokenStrings(tokenizer, this.wanted.echo ? NO_CONTEXT : (prompt?.context ?? NO_CONTEXT));
  }

  private legacy(
    strings: TokenStrings,
    prompt: PromptText | undefined,
    scores: readonly (ScoredToken | null)[],
  ): LegacyLogprobs {
    const result: LegacyLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    Array.from(prompt?.ids ?? [], (id, i) => add(result, strings, scores[i] ?? null, id));
    return result;
  }

  private scores(strings: TokenStrings, list: readonly ScoredToken[]): LegacyLogprobs {
    const result: LegacyLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const scored of list) add(result, strings, scored, scored.token);
    return result;
  }

  /** As vLLM has them: by token id. */
  private promptScores(prompt: PromptText | undefined, scores: readonly (ScoredToken | null)[]): unknown {
    const { tokenizer } = this.service.model;
    const strings = new TokenStrings(tokenizer, NO_CONTEXT);
    return scores.map((scored, i) => {
      const entries = scored === null ? [] : [scored, ...scored.top];
      const named = entries.map(({ token, logprob }): [string, unknown] => [
        String(token),
        { logprob: finite(logprob), decoded_token: strings.name(token).token },
      ]);
      strings.push(prompt?.ids[i] ?? 0);
      return scored === null ? null : Object.fromEntries(named);
    });
  }

  private promptText(prompt: Prompt, index: number): PromptText {
    const { model } = this.service;
    const ids = checked('prompt', () => promptIds(model, prompt, `prompt[${index}]`));
    let text = '';
    const decoder = this.wanted.echo ? decoderFor(model, NO_CONTEXT) : undefined;
    for (const id of ids) text += decoder?.push(id) ?? '';
    if (decoder !== undefined) text += decoder.flush();
    const spaces = spacesAtEnd(prompt);
    // SentencePiece leaves white space at the end of a prompt out, and the text that follows does not bring it again.
    const hasOwn = typeof prompt === 'string' && model.hasTokenizer && model.tokenizer.kind === 'sentencepiece';
    if (hasOwn && spaces > 0) text = trimEndAsPython(text) + prompt.slice(-spaces);
    return { ids, context: { ids, spaces }, text };
  }
}

function add(result: LegacyLogprobs, strings: TokenStrings, scored: ScoredToken | null, id: number): void {
  const top =
    scored === null ? null : strings.byString([scored, ...scored.top.filter(({ token }) => token !== scored.token)]);
  const { token, offset } = strings.push(id);
  result.tokens.push(token);
  result.token_logprobs.push(scored === null ? null : finite(scored.logprob));
  result.top_logprobs.push(top);
  result.text_offset.push(offset);
}

function joined(front: LegacyLogprobs | undefined, back: LegacyLogprobs): LegacyLogprobs {
  if (front === undefined) return back;
  return {
    tokens: [...front.tokens, ...back.tokens],
    token_logprobs: [...front.token_logprobs, ...back.token_logprobs],
    top_logprobs: [...front.top_logprobs, ...back.top_logprobs],
    text_offset: [...front.text_offset, ...back.text_offset],
  };
}
