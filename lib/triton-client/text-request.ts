import { randomInt } from 'node:crypto';
import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { packWords } from '../fastertransformer/word-lists';
import { type Prompt, spacesAtEnd } from '../generation/request';
import { wordForms } from '../generation/word-forms';
import { type Tensor, tensor } from '../inference-protocol/tensors';
import { isTokenIds, type TokenIds } from '../model/rows';
import type { TextContext } from '../tokenizer/backend';
import type { Tokenizer } from '../tokenizer/tokenizer';
import type { TaskTable } from './task-table';
import type { CheckedOptions } from './text-options';

/** What the request's rows are, for reading the answer. */
export interface TextRequest {
  readonly inputs: ReadonlyMap<string, Tensor>;
  /** What the text of each row goes on from. */
  readonly contexts: readonly TextContext[];
  readonly lengths: readonly number[];
  /** Longest prompt of the batch: that of all rows, with their padding. */
  readonly width: number;
  readonly maxNewTokens: readonly number[];
  readonly endId: number;
  readonly beamWidth: number;
  readonly logprobs: boolean;
  readonly stopStrings: readonly string[];
  readonly stopIds: readonly (readonly number[])[];
}

const MAX_ID = 2 ** 32 - 1;

/**
 * The tensors of a request to FasterTransformer, [B, 1] but for ids [B, S] and words [B, 2, W].
 * @throws NEOX_BAD_ARGUMENT for what FasterTransformer fails at, or answers wrongly
 */
export function textRequest(
  prompts: readonly unknown[],
  options: CheckedOptions,
  tasks: TaskTable,
  tokenizer: Tokenizer | undefined,
): TextRequest {
  const endId = options.endId ?? tasks.endId ?? tokenizer?.eosId;
  if (endId === undefined) {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', 'The token that ends a text is not known: rows are padded with it', {
      hint: 'give endId, or the client a tokenizer, or the path of config.ini as tasks',
    });
  }
  const startId = options.startId ?? tasks.startId ?? tokenizer?.bosId;
  const taskIds = rowTasks(options, tasks);
  const rows = prompts.map((prompt, i) => {
    const name = prompts.length === 1 ? 'prompt' : `prompt[${i}]`;
    return checkRow(name, promptTokens(name, prompt, tokenizer), taskIds !== undefined, tasks.hasTasks, startId);
  });
  const width = Math.max(...rows.map(({ length }) => length));
  const { beamWidth, logprobs } = options;
  const column = (datatype: 'UINT32' | 'FP32' | 'UINT64', values: readonly (number | bigint)[]): Tensor =>
    tensor(
      datatype,
      values.map((value) => [value]),
    );
  const all = (value: number): number[] => rows.map(() => value);
  const inputs = new Map<string, Tensor>([
    [
      'input_ids',
      tensor(
        'UINT32',
        rows.map((row) => [...row, ...new Array<number>(width - row.length).fill(endId)]),
      ),
    ],
    ['input_lengths', column('UINT32', lengthsOf(rows))],
    ['request_output_len', column('UINT32', options.maxNewTokens)],
    ['end_id', column('UINT32', all(endId))],
    ['random_seed', column('UINT64', options.seeds ?? rows.map(() => randomInt(2 ** 47)))],
  ]);
  if (startId !== undefined) inputs.set('start_id', column('UINT32', all(startId)));
  for (const [name, values] of options.numbers) inputs.set(name, column(WHOLE.has(name) ? 'UINT32' : 'FP32', values));
  if (beamWidth > 1) inputs.set('beam_width', column('UINT32', all(beamWidth)));
  if (logprobs)
    inputs.set(
      'is_return_log_probs',
      tensor(
        'BOOL',
        rows.map(() => [true]),
      ),
    );
  if (taskIds !== undefined) inputs.set('prompt_learning_task_name_ids', column('UINT32', taskIds));
  const badWords = wordIds(options.badWords, 'badWords', tokenizer);
  if (badWords.length > 0) inputs.set('bad_words_list', wordsTensor(badWords, rows.length));
  const stopWords = wordIds(options.stop, 'stop', tokenizer);
  if (stopWords.length > 0) inputs.set('stop_words_list', wordsTensor(stopWords, rows.length));
  return {
    inputs,
    contexts: rows.map((ids, i) => ({ ids, spaces: spacesAtEnd(prompts[i] as Prompt) })),
    lengths: lengthsOf(rows),
    width,
    maxNewTokens: options.maxNewTokens,
    endId,
    beamWidth,
    logprobs,
    stopStrings: options.stop.filter((word) => typeof word === 'string'),
    stopIds: options.stop.filter((word) => typeof word !== 'string'),
  };
}

const WHOLE: ReadonlySet<string> = new Set(['runtime_top_k', 'top_p_reset_ids']);

const lengthsOf = (rows: readonly ArrayLike<number>[]): number[] => rows.map(({ length }) => length);

/** Ids of the rows' tasks; undefined where no row has one. */
function rowTasks({ tasks, beamWidth, allowBeams }: CheckedOptions, table: TaskTable): number[] | undefined {
  if (tasks === undefined || tasks.every((task) => task === undefined)) return undefined;
  const ids = tasks.map((task, i) => {
    if (task !== undefined) return table.idOf(tasks.length === 1 ? 'task' : `task[${i}]`, task);
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `Prompt ${i} has no task, and others of the call have one`, {
      hint: 'FasterTransformer has no id for "none": make two calls, or export a task whose prefix has length 0',
    });
  });
  if (beamWidth > 1 && !allowBeams) {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `beamWidth ${beamWidth} and a task do not go together: FasterTransformer's bookkeeping of beams does not count the prefix`,
      { hint: 'use beamWidth 1, or give allowBeams: true if you know that your server is right' },
    );
  }
  return ids;
}

function promptTokens(name: string, prompt: unknown, tokenizer: Tokenizer | undefined): TokenIds {
  if (typeof prompt === 'string') {
    if (tokenizer !== undefined) return tokenizer.encode(prompt);
    throw badArgument(name, 'token ids', prompt, 'give the client a tokenizer for prompts that are text');
  }
  if (!isTokenIds(prompt)) throw badArgument(name, 'a string or token ids', prompt);
  for (const [i, id] of prompt.entries()) {
    if (!Number.isInteger(id) || id < 0 || id > MAX_ID) throw badArgument(`${name}[${i}]`, 'a token id', id);
  }
  return prompt;
}

function checkRow(
  name: string,
  ids: TokenIds,
  hasTask: boolean,
  modelHasTasks: boolean,
  startId: number | undefined,
): TokenIds {
  if (ids.length === 0 && hasTask)
    throw badArgument(name, 'at least one token beside a task', ids, 'FasterTransformer fails at an empty prompt');
  if (ids.length === 0 && startId === undefined)
    throw badArgument(name, 'at least one token', ids, 'or give startId, which an empty prompt begins with');
  const row = ids.length === 0 ? [startId as number] : ids;
  if (row.length === 1 && !hasTask && modelHasTasks) {
    throw badArgument(
      name,
      'at least two tokens',
      row,
      'FasterTransformer fails at one token without a task on a model with tasks: give a task, or more text',
    );
  }
  return row;
}

function wordIds(
  words: readonly (string | readonly number[])[],
  name: string,
  tokenizer: Tokenizer | undefined,
): (readonly number[])[] {
  const forms = words.flatMap((word, i) => {
    if (typeof word !== 'string') return [word];
    if (tokenizer === undefined)
      throw badArgument(`${name}[${i}]`, 'token ids', word, 'give the client a tokenizer for words that are text');
    return wordForms(tokenizer, word).map((ids) => Array.from(ids));
  });
  return [...new Map(forms.filter(({ length }) => length > 0).map((ids) => [ids.join(), ids])).values()];
}

/** The same words for all rows. */
function wordsTensor(words: readonly (readonly number[])[], rows: number): Tensor {
  const { ids, ends } = packWords(words);
  return tensor('INT32', new Array<number[][]>(rows).fill([ids, ends]));
}
