import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import type { GenerationEngine } from '../../engine/engine';
import type { EngineRequest } from '../../engine/engine-request';
import { BACKEND_INPUTS, BACKEND_OUTPUTS } from '../../fastertransformer/backend-tensors';
import { TASKS_PARAMETER, writeTasks } from '../../fastertransformer/task-list';
import { unpackWords } from '../../fastertransformer/word-lists';
import type { InferRequestMessage } from '../../inference-protocol/messages';
import type { Tensor } from '../../inference-protocol/tensors';
import type { Outputs, ServedModel } from './served-model';

/** Serves the store's prefixes also as the tasks of a model of Triton's fastertransformer backend. */
export interface FasterTransformerOptions {
  /** The model's name. Defaults to `'fastertransformer'`. */
  name?: string;
  /** Names of prefixes; a task's id is its place. */
  tasks: readonly string[];
  /** One response a token, over gRPC streams alone. Defaults to `false`. */
  decoupled?: boolean;
}

const MAX_BATCH_SIZE = 1024;
/** What FasterTransformer's most tokens of an answer are bounded by here: the output has a place for each. */
const MAX_OUTPUT = 2 ** 20;

/** A row of a request, and what of its tokens the engine does not know to end it. */
interface Row {
  readonly request: EngineRequest;
  readonly prompt: readonly number[];
  /** Ids that end the row when its last tokens are these; single ones are the engine's end tokens. */
  readonly stopWords: readonly (readonly number[])[];
}

interface Batch {
  readonly rows: readonly Row[];
  /** Of the longest prompt. */
  readonly width: number;
  readonly longest: number;
  readonly endId: number;
  readonly scored: boolean;
}

/** What a row has generated, its end token or stop word included. */
interface Generated {
  readonly tokens: readonly number[];
  readonly logprobs: readonly number[];
}

/**
 * The signature of NVIDIA's GPT-NeoX for Triton (all_models/gptneox), so that programs written for it run without a
 * GPU. Of its inputs those that would change the answer and are not served are refused: beams above 1 and a top-p that
 * decays. Log-probabilities are those of the model over the whole vocabulary; FasterTransformer gives some among the
 * top-k tokens.
 */
export class FasterTransformerModel implements ServedModel {
  readonly platform = '';
  readonly backend = 'fastertransformer';
  readonly maxBatchSize = MAX_BATCH_SIZE;
  readonly inputs = BACKEND_INPUTS;
  readonly outputs = BACKEND_OUTPUTS;
  readonly optionNames = OPTION_WORDS;
  readonly name: string;
  readonly decoupled: boolean;
  private readonly tasks: readonly string[];

  /** @param endId the model's end-of-sequence token, for requests without end_id */
  constructor(
    private readonly engine: GenerationEngine,
    { name = 'fastertransformer', tasks, decoupled = false }: FasterTransformerOptions,
    private readonly endId: number | undefined,
  ) {
    this.name = name;
    this.tasks = tasks;
    this.decoupled = decoupled;
  }

  get parameters(): Record<string, string> {
    const tasks = this.tasks.map((name, id) => ({ id, name }));
    return { model_type: 'GPT-NeoX', ...(tasks.length > 0 && { [TASKS_PARAMETER]: writeTasks(tasks) }) };
  }

  async infer(request: InferRequestMessage, signal: AbortSignal): Promise<Outputs> {
    if (this.decoupled) {
      throw new NeoXPrefixError(
        'NEOX_UNSUPPORTED',
        `The model '${this.name}' is decoupled, and answers over ModelStreamInfer alone`,
      );
    }
    const batch = this.batchOf(request);
    const results = await this.engine.generate(batch.rows.map((row) => ({ ...row.request, signal })));
    const generated = results.map(({ tokens, logprobs = [], end }, i) => {
      const all = end === undefined ? tokens : [...tokens, end.token];
      const scores = [...logprobs, ...(end?.logprob === undefined ? [] : [end.logprob])].map(({ logprob }) => logprob);
      const length = lengthOf(all, batch.rows[i] as Row);
      return { tokens: all.slice(0, length), logprobs: scores.slice(0, length) };
    });
    return outputsOf(batch, generated);
  }

  /** One response a token, each with all tokens so far, as FasterTransformer gives them. */
  async *stream(request: InferRequestMessage, signal: AbortSignal): AsyncGenerator<Outputs, void, undefined> {
    if (!this.decoupled) {
      yield await this.infer(request, signal);
      return;
    }
    const batch = this.batchOf(request);
    const [row] = batch.rows;
    if (row === undefined || batch.rows.length > 1)
      throw badArgument('input_ids', 'one row for a decoupled model', batch.rows);
    const tokens: number[] = [];
    const logprobs: number[] = [];
    for await (const piece of this.engine.stream({ ...row.request, signal })) {
      const { token = piece.end?.token, logprob = piece.end?.logprob } = piece;
      if (token === undefined) continue;
      tokens.push(token);
      if (logprob !== undefined) logprobs.push(logprob.logprob);
      yield outputsOf(batch, [{ tokens, logprobs }]);
      if (row.stopWords.some((word) => endsWith(tokens, word))) break;
    }
  }

  private batchOf(request: InferRequestMessage): Batch {
    const reader = new RowReader(request);
    const { rows: count } = reader;
    const { data, width } = reader.ids();
    const lengths = reader.column('input_lengths') as number[];
    const outputLengths = reader.column('request_output_len') as number[];
    const [endId = this.endId] = (reader.optional('end_id') ?? []) as number[];
    if (endId === undefined) throw badArgument('end_id', 'an id, because the model has no end token', endId);
    const scored = reader.optional('is_return_log_probs')?.[0] === true;
    this.refuse(reader);
    const settings = SAMPLING.map(([name, option]) => [option, reader.optional(name) as number[] | undefined] as const);
    const topK = (reader.optional('runtime_top_k') ?? []) as number[];
    const topP = (reader.optional('runtime_top_p') ?? []) as number[];
    const seeds = reader.optional('random_seed') as bigint[] | undefined;
    const tasks = reader.optional('prompt_learning_task_name_ids') as number[] | undefined;
    const badWords = reader.words('bad_words_list');
    const stopWords = reader.words('stop_words_list');
    const rows = Array.from({ length: count }, (_, row): Row => {
      const length = lengths[row] as number;
      if (length > width)
        throw badArgument(`input_lengths[${row}]`, `at most ${width}, the width of input_ids`, length);
      const prompt = Array.from(data.subarray(row * width, row * width + length));
      const task = tasks?.[row];
      const words = stopWords?.[row] ?? [];
      const maxNewTokens = outputLengths[row] as number;
      if (maxNewTokens > MAX_OUTPUT)
        throw badArgument(`request_output_len[${row}]`, `at most ${MAX_OUTPUT}`, maxNewTokens);
      return {
        prompt,
        stopWords: words.filter((word) => word.length > 1),
        request: {
          prompt: this.checkPrompt(prompt, task),
          maxNewTokens,
          eosTokenIds: [...new Set([endId, ...words.filter((word) => word.length === 1).flat()])],
          endToken: true,
          ...drawOf(topK[row] ?? 0, topP[row] ?? 0),
          ...Object.fromEntries(settings.flatMap(([option, values]) => (values ? [[option, values[row]]] : []))),
          // FasterTransformer takes all 64 bits, and no seed for 0.
          seed: Number(BigInt.asUintN(53, seeds?.[row] ?? 0n)),
          ...(task !== undefined && { prefix: this.taskName(row, task) }),
          ...(badWords?.[row] && { badWords: badWords[row] }),
          ...(scored && { logprobs: 0 }),
        },
      };
    });
    return { rows, width, longest: Math.max(...outputLengths), endId, scored };
  }

  /** What FasterTransformer fails at, too. */
  private checkPrompt(prompt: readonly number[], task: number | undefined): readonly number[] {
    if (prompt.length === 0 && task !== undefined)
      throw badArgument('input_lengths', 'at least 1 beside a task', 0, 'FasterTransformer fails at an empty input');
    if (prompt.length < 2 && task === undefined && this.tasks.length > 0) {
      throw badArgument(
        'input_lengths',
        'at least 2 without a task on a model with tasks',
        prompt.length,
        'FasterTransformer fails at it',
      );
    }
    return prompt;
  }

  private taskName(row: number, id: number): string {
    const name = this.tasks[id];
    if (name !== undefined) return name;
    const known = this.tasks.length === 0 ? 'no task' : `ids from 0 to ${this.tasks.length - 1}`;
    throw badArgument(`prompt_learning_task_name_ids[${row}]`, `a task's id (the model has ${known})`, id);
  }

  private refuse(reader: RowReader): void {
    const beams = reader.optional('beam_width')?.[0] ?? 1;
    if (beams !== 1) throw badArgument('beam_width', '1: this server makes no beam searches for it', beams);
    const decay = reader.optional('top_p_decay')?.find((value) => value !== 1);
    if (decay !== undefined) throw badArgument('top_p_decay', '1: a top-p that decays is not served', decay);
  }
}

/** Inputs that an option of the engine is for. */
const SAMPLING = [
  ['temperature', 'temperature'],
  ['repetition_penalty', 'repetitionPenalty'],
] as const satisfies readonly (readonly [string, keyof EngineRequest])[];

const OPTION_WORDS: Readonly<Record<string, string>> = {
  prompt: 'input_ids',
  maxNewTokens: 'request_output_len',
  eosTokenIds: 'end_id',
  topK: 'runtime_top_k',
  topP: 'runtime_top_p',
  repetitionPenalty: 'repetition_penalty',
  seed: 'random_seed',
  badWords: 'bad_words_list',
};

/** FasterTransformer's rules: neither is greedy; with a top-k alone the top-p is 1. */
function drawOf(topK: number, topP: number): Partial<EngineRequest> {
  if (topK === 0 && topP === 0) return { topK: 1 };
  return { topK, topP: topP === 0 ? 1 : topP };
}

/** Rows of a batch, [B, ...]. */
class RowReader {
  readonly rows: number;

  constructor(private readonly request: InferRequestMessage) {
    const { shape } = this.needed('input_ids');
    const [rows = 0] = shape;
    if (shape.length !== 2 || rows < 1 || rows > MAX_BATCH_SIZE)
      throw this.shapeError('input_ids', shape, `[B, S], B from 1 to ${MAX_BATCH_SIZE}`);
    this.rows = rows;
  }

  ids(): { data: Uint32Array; width: number } {
    const { data, shape } = this.needed('input_ids');
    return { data: data as Uint32Array, width: shape[1] ?? 0 };
  }

  /** A number a row, [B, 1]. */
  column(name: string): (number | bigint | boolean)[] {
    const { datatype, data, shape } = this.needed(name);
    if (shape.length !== 2 || shape[0] !== this.rows || shape[1] !== 1)
      throw this.shapeError(name, shape, `[${this.rows}, 1]`);
    if (datatype === 'BOOL') return Array.from(data as Uint8Array, (value) => value !== 0);
    return Array.from<number | bigint>(data as Uint32Array | BigUint64Array);
  }

  optional(name: string): (number | bigint | boolean)[] | undefined {
    return this.request.inputs.has(name) ? this.column(name) : undefined;
  }

  /** The words of each row, [B, 2, W]. */
  words(name: string): number[][][] | undefined {
    const found = this.request.inputs.get(name);
    if (found === undefined) return undefined;
    const [rows, two, width = 0] = found.shape;
    if (found.shape.length !== 3 || rows !== this.rows || two !== 2)
      throw this.shapeError(name, found.shape, `[${this.rows}, 2, W]`);
    const data = found.data as Int32Array;
    return Array.from({ length: this.rows }, (_, row) => {
      const at = row * 2 * width;
      const words = unpackWords(data.subarray(at, at + width), data.subarray(at + width, at + 2 * width));
      if (words !== undefined) return words;
      throw badArgument(`${name}[${row}]`, 'ids, and where each word ends, padded with -1', 'other numbers');
    });
  }

  private needed(name: string): Tensor {
    const found = this.request.inputs.get(name);
    if (found !== undefined) return found;
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `Expected the input '${name}', and the request has none`);
  }

  private shapeError(name: string, shape: readonly number[], expected: string): NeoXPrefixError {
    return new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `The input '${name}' has the shape [${shape.join(', ')}], expected ${expected}`,
    );
  }
}

/** Tokens up to the first place where the last ones are a stop word. */
function lengthOf(tokens: readonly number[], { stopWords }: Row): number {
  if (stopWords.length === 0) return tokens.length;
  for (let length = 1; length < tokens.length; length++) {
    const head = tokens.slice(0, length);
    if (stopWords.some((word) => endsWith(head, word))) return length;
  }
  return tokens.length;
}

function endsWith(tokens: readonly number[], word: readonly number[]): boolean {
  const from = tokens.length - word.length;
  return from >= 0 && word.every((id, i) => tokens[from + i] === id);
}

/**
 * `output_ids` [B, 1, S + longest]: prompt, new tokens, end ids. `sequence_length` [B, 1]: counted from the padded
 * width S, as FasterTransformer does.
 */
function outputsOf({ rows, width, longest, endId, scored }: Batch, generated: readonly Generated[]): Outputs {
  const columns = width + longest;
  const ids = new Uint32Array(rows.length * columns).fill(endId);
  const lengths = new Uint32Array(rows.length);
  const scores = new Float32Array(rows.length * longest);
  const sums = new Float32Array(rows.length);
  for (const [row, { tokens, logprobs }] of generated.entries()) {
    ids.set([...(rows[row] as Row).prompt, ...tokens], row * columns);
    lengths[row] = width + tokens.length;
    scores.set(logprobs, row * longest);
    sums[row] = logprobs.reduce((sum, value) => sum + value, 0);
  }
  const shaped = (datatype: 'UINT32' | 'FP32', data: Uint32Array | Float32Array, last?: number): Tensor =>
    ({ datatype, data, shape: [rows.length, 1, ...(last === undefined ? [] : [last])] }) as Tensor;
  const outputs = new Map([
    ['output_ids', shaped('UINT32', ids, columns)],
    ['sequence_length', shaped('UINT32', lengths)],
  ]);
  if (scored) {
    outputs.set('cum_log_probs', shaped('FP32', sums));
    outputs.set('output_log_probs', shaped('FP32', scores, longest));
  }
  return outputs;
}
