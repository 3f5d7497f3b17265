import { isError } from '../../base/errors';
import { randomInt, randomUUID } from 'node:crypto';
import type { EngineResult } from '../../engine/engine';
import type { EngineRequest } from '../../engine/engine-request';
import type { EnginePiece } from '../../engine/stream';
import type { Completion, Usage } from '../../generation/output';
import { EventStream } from '../event-stream';
import type { Exchange } from '../exchange';
import { ClientLeft, type HttpError, openAiError, toHttpError } from '../http-error';
import type { Service } from '../service';

/** A request for texts, checked: what is asked of the engine, and how the answer is written. */
export interface TextJob {
  exchange: Exchange;
  service: Service;
  id: string;
  model: string;
  requests: EngineRequest[];
  /** Texts of each request. */
  n: number;
  seed: number;
  isStream: boolean;
  usage: boolean;
  continuous: boolean;
}

/** How one kind of endpoint writes its texts. */
export interface Writer {
  /** `'text_completion'` or `'chat.completion'`. */
  object: string;
  /** What the parts of a stream are called. */
  chunk: string;
  /** One text as a choice of the whole answer. */
  choice(index: number, text: Completion, result: EngineResult): Record<string, unknown>;
  /** What stands in front of the pieces of a text; undefined for nothing. */
  begin(index: number): Record<string, unknown> | undefined;
  /** A piece as a choice; undefined where there is nothing to tell. */
  piece(piece: EnginePiece): Record<string, unknown> | undefined;
}

export const newSeed = (): number => randomInt(2 ** 47);

export function newId(kind: string): string {
  return `${kind}-${randomUUID().replaceAll('-', '')}`;
}

export function usageBody(usages: readonly Usage[]): Record<string, unknown> {
  const sum = (of: (usage: Usage) => number): number => usages.reduce((total, usage) => total + of(usage), 0);
  const prompt = sum(({ promptTokens }) => promptTokens);
  const completion = sum(({ completionTokens }) => completionTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens ?? 0) },
    prefix_tokens: sum(({ prefixTokens }) => prefixTokens),
  };
}

/** Runs a job and answers, whole or piece by piece. */
export async function answer(job: TextJob, writer: Writer): Promise<void> {
  const { service, requests, n } = job;
  service.checkRows(requests.length * n);
  await (job.isStream ? stream(job, writer) : whole(job, writer));
}

function headOf({ id, model, service, seed }: TextJob, object: string): Record<string, unknown> {
  const created = Math.floor(Date.now() / 1e3);
  return { id, object, created, model, system_fingerprint: service.fingerprint, seed };
}

async function whole(job: TextJob, writer: Writer): Promise<void> {
  const { exchange, service, requests, n } = job;
  const results = await service.engine.generate(requests.map((request) => ({ ...request, signal: exchange.signal })));
  const usage = usageBody(results.map((result) => result.usage));
  const choices = results.flatMap((result, i) =>
    (result.completions ?? [result]).map((text, j) => writer.choice(i * n + j, text, result)),
  );
  note(job, usage);
  for (const { timing, completions, ...only } of results) {
    const texts = completions ?? [only];
    for (const text of texts) service.metrics?.textEnded(job.model, text.finishReason);
    const tokens = Math.max(...texts.map((text) => text.tokens.length));
    service.metrics?.timed(timing, tokens);
  }
  exchange.sendJson(200, { ...headOf(job, writer.object), choices, usage });
}

async function stream(job: TextJob, writer: Writer): Promise<void> {
  const { exchange, service, requests, n } = job;
  const events = new EventStream(exchange);
  const head = headOf(job, writer.chunk);
  const [begin, end] = JSON.stringify({ ...head, choices: 0 }).split('"choices":0') as [string, string];
  const part = (choices: unknown, usage?: unknown): void =>
    events.add(`${begin}"choices":${JSON.stringify(choices)}${tail(usage)}${end}`);
  const tail = (usage: unknown): string => (usage === undefined ? '' : `,"usage":${JSON.stringify(usage)}`);
  const ends: Usage[] = [];
  const pieces = service.engine.stream(requests.map((request) => ({ ...request, signal: exchange.signal })));
  const counts = new Map<number, number>();
  const running = (): unknown => {
    const completion = [...counts.values()].reduce((sum, count) => sum + count, 0);
    return job.continuous ? { completion_tokens: completion } : job.usage ? null : undefined;
  };
  let isBegun = false;
  try {
    for (let list = await pieces.nextPieces(); list.length > 0; list = await pieces.nextPieces()) {
      if (!isBegun) {
        isBegun = true;
        for (let index = 0; index < requests.length * n; index++) {
          const first = writer.begin(index);
          if (first !== undefined) part([first], running());
        }
      }
      for (const piece of list) {
        if (piece.token !== undefined) counts.set(piece.index, (counts.get(piece.index) ?? 0) + 1);
        const choice = writer.piece(piece);
        if (choice !== undefined) part([choice], running());
        if (piece.usage === undefined) continue;
        // The prompt of several texts is one prompt.
        const isFirst = piece.index % n === 0;
        const none = { promptTokens: 0, prefixTokens: 0, cachedTokens: 0 };
        ends.push(isFirst ? piece.usage : { ...piece.usage, ...none });
        service.metrics?.textEnded(job.model, piece.finishReason ?? 'length');
        if (piece.timing !== undefined) service.metrics?.timed(piece.timing, piece.usage.completionTokens);
      }
      await events.flush();
    }
    const usage = usageBody(ends);
    note(job, usage);
    if (job.usage) part([], usage);
    events.add('[DONE]');
    events.end();
  } catch (error) {
    // Before the head the error has a status of its own.
    if (!events.begun) {
      events.drop();
      throw error;
    }
    fail(job, events, error);
  } finally {
    await pieces.return();
  }
}

/** An error behind the head of a stream: the status is 200 and stays so. */
function fail({ exchange, service, model }: TextJob, events: EventStream, error: unknown): void {
  const left = error instanceof ClientLeft;
  const known: HttpError = toHttpError(error, () => service.retryAfter());
  Object.assign(exchange.event, { error: left ? 'client_left' : known.code, status: left ? 499 : 200 });
  if (!left && known.status === 500 && isError(error)) exchange.event.stack = error.stack ?? error.message;
  service.metrics?.textEnded(model, left ? 'client_left' : 'error');
  events.add(JSON.stringify(openAiError(known)));
  events.add('[DONE]');
  events.end();
}

function note({ exchange }: TextJob, usage: Record<string, unknown>): void {
  exchange.event.promptTokens = usage['prompt_tokens'] as number;
  exchange.event.completionTokens = usage['completion_tokens'] as number;
}
