import { embed } from '../../generation/embed';
import type { Prompt } from '../../generation/request';
import type { Exchange } from '../exchange';
import { badField } from '../http-error';
import { bodySchema, field, type FieldTable, readFields, string, unsupported, unused, word } from '../field-table';
import type { Route } from '../router';
import type { Service } from '../service';
import { promptIds } from '../../generation/request';
import { checkLengths, noteIgnored, promptsOf } from './completions';

export function embeddingRoutes(service: Service): Route[] {
  const fields: FieldTable = {
    model: string('a model of /v1/models'),
    input: field({}, 'a text, token ids, or a list of either', (name, value) =>
      promptsOf(name, value, service.settings.limits),
    ),
    encoding_format: word('how the numbers are written', ['float', 'base64']),
    pooling: word('the state of the last token, or the mean of all', ['last', 'mean']),
    dimensions: unsupported('a vector has the size of the model'),
    user: unused,
  };
  return [
    {
      method: 'POST',
      path: '/v1/embeddings',
      access: 'api',
      summary: 'A vector for each text',
      schema: bodySchema(fields, ['model', 'input']),
      handle: (exchange) => embeddings(exchange, service, fields),
    },
  ];
}

async function embeddings(exchange: Exchange, service: Service, fields: FieldTable): Promise<void> {
  const { values, ignored } = readFields(fields, await exchange.json());
  noteIgnored(exchange, ignored);
  const { model, input, encoding_format: format, pooling } = values as Record<string, string | undefined>;
  if (model === undefined) throw badField('model', 'model is needed: one of /v1/models', 'missing_field');
  const name = service.prefixOf(model, exchange);
  if (input === undefined) throw badField('input', 'input is needed', 'missing_field');
  const prompts = input as unknown as Prompt[];
  checkLengths(service, prompts);
  const ids = prompts.map((prompt, i) => promptIds(service.model, prompt, `input[${i}]`));
  const prefix = name === undefined ? undefined : await service.prefixes?.get(name);
  const vectors = await service.model.track(
    embed(service.model, ids, {
      signal: exchange.signal,
      ...(pooling !== undefined && { pooling: pooling as 'last' | 'mean' }),
      ...(prefix !== undefined && { prefix }),
    }),
  );
  const tokens = ids.reduce((sum, { length }) => sum + length, 0);
  exchange.event.promptTokens = tokens;
  exchange.sendJson(200, {
    object: 'list',
    model,
    data: vectors.map((vector, index) => ({
      object: 'embedding',
      index,
      embedding:
        format === 'base64'
          ? Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')
          : Array.from(vector),
    })),
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  });
}
