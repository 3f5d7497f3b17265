import { type NeoXPrefixError } from '../base/errors';
import type { FinishReason } from '../generation/output';
import { RowText } from '../generation/stop-strings';
import type { Tensor } from '../inference-protocol/tensors';
import { NO_CONTEXT } from '../tokenizer/backend';
import type { Tokenizer } from '../tokenizer/tokenizer';
import { badAnswer } from './transport';
import type { TextRequest } from './text-request';

/** One text for a prompt. */
export interface TritonCompletion {
  /** The new text, without special tokens, and without a stop string. Empty when the client has no tokenizer. */
  text: string;
  /** The new token ids, without the end token; up to the one that completes a stop string. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** The stop string that ended the text. */
  stop?: string;
  /**
   * With `logprobs`: the sum of the tokens' log-probabilities over the whole vocabulary. It counts all tokens that the
   * server has generated, those behind a stop string and the end token too.
   */
  cumLogProb?: number;
  /**
   * With `logprobs`, of each token: FasterTransformer gives its log-probability among the top-k tokens that it was
   * drawn from, which is 0 where `topK` is 1. Their sum is not `cumLogProb`.
   */
  tokenLogProbs?: number[];
}

/** What a prompt gives. With beams its own fields are those of the best. */
export interface TritonResult extends TritonCompletion {
  /** All beams, the best first, with `beamWidth` above 1. */
  completions?: TritonCompletion[];
  /** Tokens of the prompt. */
  promptTokens: number;
}

/** What a stream gives: one piece for each new token, and a last one with the rest of the text and how it ended. */
export interface TritonPiece {
  /** Text that is certain now; '' while a character is unfinished, or what may be a stop string. */
  text: string;
  /** The new token; undefined in the last piece. */
  token?: number;
  /** Why the text ended; in the last piece only. */
  finishReason?: FinishReason;
  /** The stop string that ended the text; in the last piece only. */
  stop?: string;
}

/** The results of all rows. @throws NEOX_REMOTE when the answer is not FasterTransformer's */
export function textResults(
  outputs: ReadonlyMap<string, Tensor>,
  request: TextRequest,
  tokenizer: Tokenizer | undefined,
): TritonResult[] {
  const answer = readOutputs(outputs, request);
  return request.lengths.map((promptTokens, row) => {
    const completions = Array.from({ length: answer.beams }, (_, beam) => {
      const tokens = answer.newTokens(row, beam);
      const text = new GeneratedText(request, row, tokenizer);
      for (const token of tokens) if (!text.ended) text.push(token);
      text.finish();
      const completion = text.completion();
      if (answer.cumLogProb !== undefined) completion.cumLogProb = answer.cumLogProb(row, beam);
      if (answer.tokenLogProbs !== undefined)
        completion.tokenLogProbs = answer.tokenLogProbs(row, beam).slice(0, completion.tokens.length);
      return completion;
    });
    return {
      ...(completions[0] as TritonCompletion),
      ...(request.beamWidth > 1 && { completions }),
      promptTokens,
    };
  });
}

/** The text of one row, token by token. */
export class GeneratedText {
  readonly tokens: number[] = [];
  private readonly text: RowText | undefined;
  private reason: FinishReason | undefined;

  constructor(
    private readonly request: TextRequest,
    private readonly row: number,
    tokenizer: Tokenizer | undefined,
  ) {
    if (tokenizer === undefined) return;
    const decoder = tokenizer.textStream(true, request.contexts[row] ?? NO_CONTEXT);
    this.text = new RowText(decoder, request.stopStrings, tokenizer);
  }

  /** Whether the end token, a stop string or stop ids have come. */
  get ended(): boolean {
    return this.reason !== undefined;
  }

  /** Takes a token; gives the text that is certain now. */
  push(token: number): string {
    const { endId, stopIds, maxNewTokens } = this.request;
    if (token === endId) {
      this.reason = 'stop';
      return '';
    }
    this.tokens.push(token);
    const text = this.text?.push(token) ?? '';
    const isStop = this.text?.stop !== undefined || stopIds.some((ids) => endsWith(this.tokens, ids));
    if (isStop) this.reason = 'stop';
    else if (this.tokens.length >= (maxNewTokens[this.row] as number)) this.reason = 'length';
    return text;
  }

  /** The rest of the text. What the server ended before its time, it ended by words of its own. */
  finish(): string {
    const rest = this.text?.end() ?? '';
    if (this.text?.stop !== undefined) this.reason = 'stop';
    this.reason ??= 'stop';
    return rest;
  }

  completion(): TritonCompletion {
    const { text, tokens, reason } = this;
    return {
      text: text?.text ?? '',
      tokens,
      finishReason: reason ?? 'stop',
      ...(text?.stop !== undefined && { stop: text.stop }),
    };
  }
}

function endsWith(tokens: readonly number[], ids: readonly number[]): boolean {
  const from = tokens.length - ids.length;
  return from >= 0 && ids.every((id, i) => tokens[from + i] === id);
}

interface Outputs {
  readonly beams: number;
  /** With the end token, where one came. */
  newTokens(row: number, beam: number): number[];
  readonly cumLogProb: ((row: number, beam: number) => number) | undefined;
  readonly tokenLogProbs: ((row: number, beam: number) => number[]) | undefined;
}

/**
 * Reads the tensors by their shapes. A row of `output_ids` [B, beams, T] is its prompt, then its new tokens, then end
 * ids. `sequence_length` [B, beams] counts from the width S of the padded batch, though the ids are packed: a shorter
 * row cut there would have end ids as text.
 */
export function readOutputs(outputs: ReadonlyMap<string, Tensor>, request: TextRequest): Outputs {
  const { lengths, width } = request;
  const rows = lengths.length;
  const ids = numbersOf(outputs, 'output_ids');
  const ends = numbersOf(outputs, 'sequence_length');
  const [, beams = 0, columns = 0] = ids.shape;
  if (ids.shape.length !== 3 || ids.shape[0] !== rows || beams < 1)
    throw strange(`output_ids has the shape [${ids.shape.join(', ')}], expected [${rows}, beams, tokens]`);
  if (ends.data.length !== rows * beams)
    throw strange(`sequence_length has the shape [${ends.shape.join(', ')}], expected [${rows}, ${beams}]`);
  const count = (row: number, beam: number): number => {
    const generated = (ends.data[row * beams + beam] as number) - width;
    if (generated < 0 || (lengths[row] as number) + generated > columns)
      throw strange(`a row of ${columns} ids has a sequence_length of ${generated + width}`);
    return generated;
  };
  const cum = outputs.has('cum_log_probs') ? numbersOf(outputs, 'cum_log_probs') : undefined;
  const scores = outputs.has('output_log_probs') ? numbersOf(outputs, 'output_log_probs') : undefined;
  const longest = scores?.shape.at(-1) ?? 0;
  return {
    beams,
    newTokens: (row, beam) => {
      const start = (row * beams + beam) * columns + (lengths[row] as number);
      return Array.from(ids.data.subarray(start, start + count(row, beam)));
    },
    cumLogProb: request.logprobs && cum ? (row, beam) => cum.data[row * beams + beam] as number : undefined,
    tokenLogProbs:
      request.logprobs && scores
        ? (row, beam) => {
            const start = (row * beams + beam) * longest;
            return Array.from(scores.data.subarray(start, start + count(row, beam)));
          }
        : undefined,
  };
}

function numbersOf(
  outputs: ReadonlyMap<string, Tensor>,
  name: string,
): { data: Uint32Array | Int32Array | Float32Array; shape: readonly number[] } {
  const found = outputs.get(name);
  if (found === undefined) throw strange(`it has no ${name}: it has ${[...outputs.keys()].join(', ') || 'nothing'}`);
  if (found.datatype === 'UINT32' || found.datatype === 'INT32' || found.datatype === 'FP32') return found;
  throw strange(`${name} is of type ${found.datatype}`);
}

function strange(message: string): NeoXPrefixError {
  return badAnswer(new Error(message));
}
