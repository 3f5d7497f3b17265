import { type Message } from '../../tokenizer/templates';
import type { Exchange } from '../exchange';
import { badField } from '../http-error';
import { bodySchema, field, type FieldTable, flag, readFields, string } from '../field-table';
import type { Route } from '../router';
import type { Service } from '../service';
import { chatPrompt, messagesOf } from './chat';
import { checkLengths } from './completions';

const TOKENIZE: FieldTable = {
  model: string('a model of /v1/models'),
  prompt: string('the text'),
  messages: field({ type: 'array', items: { type: 'object' } }, 'a conversation instead of a text', messagesOf),
  add_special_tokens: flag("what the tokenizer's own rules add"),
  return_token_strs: flag('the tokens as the vocabulary writes them, too'),
};
const DETOKENIZE: FieldTable = {
  model: string('a model of /v1/models'),
  tokens: field({ type: 'array', items: { type: 'integer' } }, 'token ids', (name, value) => {
    if (!Array.isArray(value) || !value.every((id) => Number.isSafeInteger(id) && id >= 0 && id < 2 ** 31))
      throw badField(name, `Expected an array of token ids for ${name}`);
    return value as number[];
  }),
};

/** As vLLM has them; lm-eval reads its remote tokenizer by them. */
export function tokenizeRoutes(service: Service): Route[] {
  return ['', '/v1'].flatMap((front): Route[] => [
    {
      method: 'POST',
      path: `${front}/tokenize`,
      access: 'api',
      summary: 'The tokens of a text',
      schema: bodySchema(TOKENIZE, []),
      handle: (exchange) => tokenize(exchange, service),
    },
    {
      method: 'POST',
      path: `${front}/detokenize`,
      access: 'api',
      summary: 'The text of tokens',
      schema: bodySchema(DETOKENIZE, ['tokens']),
      handle: (exchange) => detokenize(exchange, service),
    },
    {
      method: 'GET',
      path: `${front}/tokenizer_info`,
      access: 'api',
      summary: 'The special tokens',
      handle: (exchange) => {
        const { tokenizer } = service.model;
        const token = (id: number | undefined): string | null =>
          id === undefined ? null : (tokenizer.idToToken(id) ?? null);
        exchange.sendJson(200, {
          tokenizer_class: tokenizer.kind,
          bos_token: token(tokenizer.bosId),
          eos_token: token(tokenizer.eosId ?? service.model.config.eosTokenIds[0]),
          pad_token: token(tokenizer.padId),
          unk_token: token(tokenizer.unkId),
          chat_template: null,
        });
      },
    },
  ]);
}

async function tokenize(exchange: Exchange, service: Service): Promise<void> {
  const { values } = readFields(TOKENIZE, await exchange.json());
  const { model, prompt, messages } = values;
  if (model !== undefined) service.prefixOf(model as string, exchange);
  if ((prompt === undefined) === (messages === undefined)) throw badField('prompt', 'Give one of prompt and messages');
  const text = messages === undefined ? (prompt as string) : chatPrompt(service, messages as Message[]).prompt;
  checkLengths(service, [text]);
  const { tokenizer } = service.model;
  const tokens = Array.from(tokenizer.encode(text, { addSpecialTokens: values['add_special_tokens'] === true }));
  exchange.sendJson(200, {
    count: tokens.length,
    max_model_len: service.maxPositions,
    tokens,
    token_strs: values['return_token_strs'] === true ? tokens.map((id) => tokenizer.idToToken(id) ?? null) : null,
  });
}

async function detokenize(exchange: Exchange, service: Service): Promise<void> {
  const { values } = readFields(DETOKENIZE, await exchange.json());
  if (values['model'] !== undefined) service.prefixOf(values['model'] as string, exchange);
  const tokens = values['tokens'] as number[] | undefined;
  if (tokens === undefined) throw badField('tokens', 'tokens is needed', 'missing_field');
  exchange.sendJson(200, { prompt: service.model.tokenizer.decode(tokens) });
}
