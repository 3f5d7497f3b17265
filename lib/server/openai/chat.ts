import type { EnginePiece } from '../../engine/stream';
import type { EngineRequest } from '../../engine/engine-request';
import { templateFor } from '../../data/conversation';
import type { Completion } from '../../generation/output';
import type { ScoredToken } from '../../generation/token-scores';
import { isObject } from '../../formats/json';
import { conversationSegments, type Message, type Template } from '../../tokenizer/templates';
import type { Exchange } from '../exchange';
import { badField, HttpError } from '../http-error';
import { bodySchema, checked, field, type FieldTable, flag, readFields, wholeNumber } from '../field-table';
import type { Route } from '../router';
import type { Limits } from '../server-options';
import type { Service } from '../service';
import { checkLengths, commonJob, noteIgnored } from './completions';
import { answer, type Writer } from './generation';
import { commonFields } from './generation-fields';
import { finite, TokenStrings } from './token-strings';

const MOST_MESSAGES = 1024;
const NEW_LINE = '<NL>';

export function chatFields(limits: Limits): FieldTable {
  return {
    ...commonFields(limits),
    messages: field({ type: 'array', items: { type: 'object' } }, 'the conversation so far', messagesOf),
    logprobs: flag('log-probabilities of the tokens'),
    top_logprobs: wholeNumber('the most likely tokens beside each', 0, limits.logprobs),
  };
}

export function chatRoutes(service: Service): Route[] {
  const fields = chatFields(service.settings.limits);
  return [
    {
      method: 'POST',
      path: '/v1/chat/completions',
      access: 'api',
      summary: 'Answers a conversation',
      schema: bodySchema(fields, ['model', 'messages']),
      handle: (exchange) => chat(exchange, service, fields),
    },
  ];
}

async function chat(exchange: Exchange, service: Service, fields: FieldTable): Promise<void> {
  const { values, ignored } = readFields(fields, await exchange.json());
  noteIgnored(exchange, ignored);
  const { model, options, ...common } = commonJob(
    exchange,
    service,
    values,
    'chatcmpl',
    service.settings.limits.defaultMaxTokens,
  );
  const messages = values['messages'] as Message[] | undefined;
  if (messages === undefined) throw badField('messages', 'messages is needed', 'missing_field');
  const { prompt, template } = chatPrompt(service, messages);
  checkLengths(service, [prompt]);
  const isScored = values['logprobs'] === true;
  if (values['top_logprobs'] !== undefined && !isScored)
    throw badField('top_logprobs', 'top_logprobs is for logprobs: true');
  const own: Partial<EngineRequest> = isScored
    ? { logprobs: (values['top_logprobs'] as number | undefined) ?? 0, endToken: true }
    : {};
  const stops = options.stop as readonly string[] | undefined;
  // In rinna's format a line break is written <NL>, which is what the model says.
  const stop = template === 'rinna' ? stops?.flatMap(withMarks) : stops;
  const request = { ...options, ...own, prompt, ...(stop !== undefined && { stop }) };
  const writer = new ChatWriter(service, template === 'rinna', isScored);
  await answer({ ...common, exchange, service, model, requests: [request] }, writer);
}

function withMarks(text: string): string[] {
  return text.includes('\n') ? [text, text.replaceAll('\n', NEW_LINE)] : [text];
}

/** The prompt of a conversation, for the assistant to go on. @throws HttpError */
export function chatPrompt(service: Service, messages: readonly Message[]): { prompt: string; template: Template } {
  const { settings, model } = service;
  let template = settings.template;
  if (template === undefined) {
    try {
      template = templateFor(undefined, model.hasTokenizer ? model.tokenizer : undefined, 'The request');
    } catch {
      const message =
        'Nothing says how a conversation becomes a prompt of this model: start the server with --template';
      throw new HttpError(400, 'no_chat_template', message, { param: 'messages' });
    }
  }
  const chosen = template;
  const turns = [...messages, { role: 'assistant', content: '.' }];
  const segments = checked('messages', () => [...conversationSegments(turns, chosen)]);
  // The last piece is the answer that the model is to write.
  const end = segments.findLastIndex(({ learned }) => learned);
  const prompt = segments
    .slice(0, end)
    .map(({ text }) => text)
    .join('');
  return { prompt, template: chosen };
}

export function messagesOf(name: string, value: unknown): Message[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > MOST_MESSAGES)
    throw badField(name, `Expected an array of 1 to ${MOST_MESSAGES} messages for ${name}`);
  return value.map((message: unknown, i) => {
    if (!isObject(message)) throw badField(name, `Expected an object with role and content for ${name}[${i}]`);
    const { role, content } = message;
    if (typeof role !== 'string' || !['system', 'developer', 'user', 'assistant'].includes(role))
      throw badField(name, `Expected 'system', 'user' or 'assistant' for ${name}[${i}].role`);
    return { role: role === 'developer' ? 'system' : role, content: contentOf(`${name}[${i}].content`, content, name) };
  });
}

function contentOf(place: string, content: unknown, param: string): string {
  if (typeof content === 'string') return content;
  const isText = (part: unknown): part is { text: string } =>
    isObject(part) && part['type'] === 'text' && typeof part['text'] === 'string';
  if (!Array.isArray(content) || !content.every(isText))
    throw badField(param, `Expected a text, or parts of the type text, for ${place}`);
  return content.map(({ text }) => text).join('');
}

/** One token of a chat's log-probabilities. */
interface ChatLogprob {
  token: string;
  logprob: number;
  bytes: number[] | null;
}

class ChatWriter implements Writer {
  readonly object = 'chat.completion';
  readonly chunk = 'chat.completion.chunk';
  /** What is held back of each text of a stream: the beginning of a mark for a line break. */
  private readonly held = new Map<number, string>();
  private readonly strings = new Map<number, TokenStrings>();

  constructor(
    private readonly service: Service,
    private readonly hasMarks: boolean,
    private readonly isScored: boolean,
  ) {}

  choice(index: number, { text, finishReason, stop, logprobs, end }: Completion): Record<string, unknown> {
    const all = [...(logprobs ?? []), ...(end?.logprob === undefined ? [] : [end.logprob])];
    return {
      index,
      message: { role: 'assistant', content: this.hasMarks ? text.replaceAll(NEW_LINE, '\n') : text, refusal: null },
      logprobs: this.isScored ? this.scores(this.newStrings(), all) : null,
      finish_reason: finishReason,
      stop_reason: stop ?? null,
    };
  }

  begin(index: number): Record<string, unknown> {
    return { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null };
  }

  piece({ index, text, logprob, finishReason, stop, end }: EnginePiece): Record<string, unknown> | undefined {
    const content = this.hasMarks ? this.withLineBreaks(index, text, finishReason !== undefined) : text;
    const scored = logprob ?? end?.logprob;
    let strings = this.strings.get(index);
    if (strings === undefined && this.isScored) this.strings.set(index, (strings = this.newStrings()));
    const logprobs = strings === undefined || scored === undefined ? null : this.scores(strings, [scored]);
    if (content === '' && finishReason === undefined && logprobs === null) return undefined;
    const delta = content === '' ? {} : { content };
    if (finishReason === undefined) return { index, delta, logprobs, finish_reason: null };
    return { index, delta, logprobs, finish_reason: finishReason, stop_reason: stop ?? null };
  }

  private withLineBreaks(index: number, text: string, isLast: boolean): string {
    const all = ((this.held.get(index) ?? '') + text).replaceAll(NEW_LINE, '\n');
    let held = 0;
    for (let length = 1; length < NEW_LINE.length && !isLast; length++)
      if (all.endsWith(NEW_LINE.slice(0, length))) held = length;
    this.held.set(index, all.slice(all.length - held));
    return all.slice(0, all.length - held);
  }

  private newStrings(): TokenStrings {
    const { tokenizer } = this.service.model;
    return new TokenStrings(tokenizer, { ids: [tokenizer.bosId ?? 0], spaces: 0 });
  }

  private scores(strings: TokenStrings, list: readonly ScoredToken[]): unknown {
    const content = list.map((scored) => {
      const one = (token: number, logprob: number): ChatLogprob => {
        const { token: name, bytes } = strings.name(token);
        return { token: name, logprob: finite(logprob), bytes: bytes === null ? null : Array.from(bytes) };
      };
      const entry = {
        ...one(scored.token, scored.logprob),
        top_logprobs: scored.top.map(({ token, logprob }) => one(token, logprob)),
      };
      strings.push(scored.token);
      return entry;
    });
    return { content, refusal: null };
  }
}
