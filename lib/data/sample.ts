import { types } from 'node:util';
import { badArgument, checkInteger, checkOptions } from '../base/arguments';
import { joinIds } from '../base/joined-ids';
import { NeoXPrefixError } from '../base/errors';

/** Text or token ids. */
export type TextOrIds = string | number[] | Int32Array;

/** What is answered, and the answer. The completion is learned, and behind it to stop. */
export interface Turn {
  prompt: TextOrIds;
  completion: TextOrIds;
}

/**
 * A training sample. The model learns `completion` (and then to stop) behind `prompt`; without a prompt it learns the
 * whole text.
 */
export interface Sample {
  prompt?: TextOrIds;
  completion: TextOrIds;
  /**
   * What follows in a conversation, each turn behind all that stands before it. Every completion is learned. Defaults
   * to none.
   */
  turns?: readonly Turn[];
}

/** A turn as ids; neither is empty. */
export interface TokenizedTurn {
  prompt: Int32Array;
  completion: Int32Array;
}

/** A sample as ids. */
export interface TokenizedSample {
  /** May be empty. */
  prompt: Int32Array;
  /** Not empty. */
  completion: Int32Array;
  /** What follows in a conversation. */
  turns?: readonly TokenizedTurn[];
  /** Whether the last completion was cut: the model does not learn to stop behind it. */
  truncated?: true;
}

/** What the data code needs of a tokenizer. */
export interface Encoder {
  /** The ids of a text, without special tokens of the tokenizer's own. */
  encode(text: string): Int32Array;
  /** The id of a token, or undefined. Asked which template of conversations is the model's. */
  tokenToId?(token: string): number | undefined;
}

/** The largest token id. The two bits above it are used where samples are stored. */
export const MAX_ID = 2 ** 30 - 1;

/**
 * Turns a sample into ids. Prompts and completions are encoded one by one, without special tokens, as rinna's recipe
 * does.
 *
 * @param name What errors call the sample. Defaults to `'sample'`.
 * @throws NEOX_BAD_ARGUMENT for a wrong type, NEOX_BAD_DATA for a completion without tokens.
 */
export function tokenizeSample(sample: Sample, tokenizer: Encoder, name = 'sample'): TokenizedSample {
  if (sample === null || typeof sample !== 'object') throw badArgument(name, 'an object with a completion', sample);
  checkOptions(name, sample, ['prompt', 'completion', 'turns']);
  const prompt = sample.prompt === undefined ? new Int32Array(0) : toIds(sample.prompt, tokenizer, `${name}.prompt`);
  const completion = toCompletion(sample.completion, tokenizer, name);
  if (sample.turns === undefined || sample.turns.length === 0) return { prompt, completion };
  if (!Array.isArray(sample.turns))
    throw badArgument(`${name}.turns`, 'an array of { prompt, completion }', sample.turns);
  const turns: TokenizedTurn[] = [{ prompt, completion }];
  for (const [i, turn] of (sample.turns as Turn[]).entries()) {
    const at = `${name}.turns[${i}]`;
    if (turn === null || typeof turn !== 'object')
      throw badArgument(at, 'an object with a prompt and a completion', turn);
    checkOptions(at, turn, ['prompt', 'completion']);
    const next = {
      prompt: toIds(turn.prompt, tokenizer, `${at}.prompt`),
      completion: toCompletion(turn.completion, tokenizer, at),
    };
    const last = turns.at(-1) as TokenizedTurn;
    // With nothing in between, two completions are one.
    if (next.prompt.length === 0) last.completion = joinIds([last.completion, next.completion]);
    else turns.push(next);
  }
  const [first, ...rest] = turns as [TokenizedTurn, ...TokenizedTurn[]];
  return rest.length === 0 ? first : { ...first, turns: rest };
}

/**
 * For long work in small pieces: a function to call between them, which gives the event loop a turn every few
 * milliseconds.
 */
export function eventLoopTurns(signal: AbortSignal | undefined): () => Promise<void> | void {
  let turned = performance.now();
  return () => {
    signal?.throwIfAborted();
    if (performance.now() - turned <= 8) return;
    return new Promise((resolve) => {
      setImmediate(() => {
        turned = performance.now();
        resolve();
      });
    });
  };
}

function toCompletion(value: unknown, tokenizer: Encoder, name: string): Int32Array {
  const ids = toIds(value, tokenizer, `${name}.completion`);
  if (ids.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', `${name}.completion has no tokens`);
  return ids;
}

function toIds(value: unknown, tokenizer: Encoder, name: string): Int32Array {
  if (typeof value === 'string') return tokenizer.encode(value);
  if (types.isInt32Array(value)) {
    const wrong = value.find((id) => id < 0 || id > MAX_ID);
    if (wrong !== undefined) throw badArgument(name, `token ids between 0 and ${MAX_ID}`, wrong);
    return value;
  }
  if (!Array.isArray(value)) throw badArgument(name, 'a string or token ids', value);
  return Int32Array.from(value as unknown[], (id, i) => checkInteger(`${name}[${i}]`, id, 0, MAX_ID));
}

/** How a sample becomes rows. */
export interface RowOptions {
  /** The beginning-of-sequence token. */
  bosId: number;
  /** The end-of-sequence token. */
  eosId: number;
  /** Whether a sample without a prompt also gives a row without `bosId`. Defaults to `true`. */
  twoRows?: boolean;
}

/**
 * One row of a batch: `targets[i]` is the id that the model shall predict after `inputs[i]`, or -1 where nothing is
 * learned.
 */
export interface Row {
  inputs: Int32Array;
  targets: Int32Array;
}

/**
 * The rows that a sample trains (rinna's recipe, forward_step of prefix_tuning_example.py). c = completion, p = prompt:
 *
 *     with a prompt:   inputs [p c]          targets [-1 ... -1 c eos]     (p.length - 1 times -1)
 *     without:         inputs [bos c]        targets [c eos]
 *                      inputs [c]            targets [c without its first id, eos]     (with `twoRows`)
 *     a conversation:  inputs [p c p' c']    targets [-1 ... -1 c eos -1 ... -1 c' eos]
 *     truncated:       as above, without the last input and the last eos
 *
 * So a conversation is one row whose loss is the sum of those of its completions, each behind all that stands before
 * it: behind a completion the end is learned, although the conversation goes on. What is not learned is marked by its
 * position, so an id that happens to be the pad or end token is learned like any other.
 */
export function sampleRows({ prompt, completion, turns = [], truncated }: TokenizedSample, options: RowOptions): Row[] {
  const { bosId, eosId, twoRows = true } = options;
  if (completion.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'A sample has no completion tokens');
  const later = turns.flatMap((turn) => [turn.prompt, turn.completion]);
  const inputs = joinIds([prompt.length === 0 ? Int32Array.of(bosId) : prompt, completion, ...later]);
  const targets = new Int32Array(inputs.length).fill(-1);
  let end = 0;
  for (const turn of [{ prompt, completion }, ...turns]) {
    end += (end === 0 && turn.prompt.length === 0 ? 1 : turn.prompt.length) + turn.completion.length;
    targets.set(turn.completion, end - turn.completion.length - 1);
    targets[end - 1] = eosId;
  }
  const cut = truncated === true ? inputs.length - 1 : inputs.length;
  const row = (first: number): Row => ({ inputs: inputs.subarray(first, cut), targets: targets.subarray(first, cut) });
  // Behind a single id that was cut nothing is left to learn without the first token.
  return prompt.length === 0 && twoRows && cut > 1 ? [row(0), row(1)] : [row(0)];
}
