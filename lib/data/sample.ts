import { badArgument, checkInteger, checkOptions, checkSignal } from '../arguments';
import { NeoXPrefixError } from '../errors';

/** Text or token ids. */
export type TextOrIds = string | number[] | Int32Array;

/** A training sample. The model learns `completion` (and then to stop) behind `prompt`; without a prompt it learns the whole text. */
export interface Sample {
  prompt?: TextOrIds;
  completion: TextOrIds;
}

/** A sample as ids; `prompt` may be empty, `completion` is not. */
export interface TokenizedSample {
  prompt: Int32Array;
  completion: Int32Array;
}

/** What the data code needs of a tokenizer. */
export interface Encoder {
  encode(text: string): Int32Array;
}

export const MAX_ID = 2 ** 31 - 1;

/**
 * Turns a sample into ids. Prompt and completion are encoded one by one, without special tokens, as rinna's recipe does.
 *
 * @param name What errors call the sample. Defaults to `'sample'`.
 * @throws NEOX_BAD_ARGUMENT for a wrong type, NEOX_BAD_DATA for a completion without tokens.
 */
export function tokenizeSample(sample: Sample, tokenizer: Encoder, name = 'sample'): TokenizedSample {
  if (sample === null || typeof sample !== 'object') throw badArgument(name, 'an object with a completion', sample);
  checkOptions(name, sample, ['prompt', 'completion']);
  const prompt = sample.prompt === undefined ? new Int32Array(0) : toIds(sample.prompt, tokenizer, `${name}.prompt`);
  const completion = toIds(sample.completion, tokenizer, `${name}.completion`);
  if (completion.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', `${name}.completion has no tokens`);
  return { prompt, completion };
}

/**
 * Turns samples into ids, giving the event loop a turn every few milliseconds.
 *
 * @throws as `tokenizeSample`, naming the index; the reason of `signal` when it aborts.
 */
export async function tokenizeSamples(samples: readonly Sample[], tokenizer: Encoder, signal?: AbortSignal): Promise<TokenizedSample[]> {
  if (!Array.isArray(samples)) throw badArgument('samples', 'an array of { prompt?, completion }', samples);
  checkSignal('signal', signal);
  const result: TokenizedSample[] = [];
  let turn = performance.now();
  for (const [i, sample] of (samples as Sample[]).entries()) {
    if (performance.now() - turn > 8) {
      await new Promise(setImmediate);
      turn = performance.now();
    }
    signal?.throwIfAborted();
    result.push(tokenizeSample(sample, tokenizer, `samples[${i}]`));
  }
  return result;
}

function toIds(value: unknown, tokenizer: Encoder, name: string): Int32Array {
  if (typeof value === 'string') return tokenizer.encode(value);
  if (value instanceof Int32Array) {
    if (value.some((id) => id < 0))
      throw badArgument(
        name,
        'token ids of at least 0',
        value.find((id) => id < 0),
      );
    return value;
  }
  if (!Array.isArray(value)) throw badArgument(name, 'a string or token ids', value);
  return Int32Array.from(value as unknown[], (id, i) => checkInteger(`${name}[${i}]`, id, 0, MAX_ID));
}

export interface RowOptions {
  bosId: number;
  eosId: number;
  /** Whether a sample without a prompt also gives a row without `bosId`. Defaults to `true`. */
  twoRows?: boolean;
}

/** One row of a batch: `targets[i]` is the id that the model shall predict after `inputs[i]`, or -1 where nothing is learned. */
export interface Row {
  inputs: Int32Array;
  targets: Int32Array;
}

/**
 * The rows that a sample trains (rinna's recipe, forward_step of prefix_tuning_example.py). c = completion, p = prompt:
 *
 *     with a prompt:  inputs [p c]      targets [-1 ... -1 c eos]     (p.length - 1 times -1)
 *     without:        inputs [bos c]    targets [c eos]
 *                     inputs [c]        targets [c without its first id, eos]     (with `twoRows`)
 *
 * What is not learned is marked by its position, so an id that happens to be the pad or end token is learned like any other.
 */
export function sampleRows({ prompt, completion }: TokenizedSample, { bosId, eosId, twoRows = true }: RowOptions): Row[] {
  if (completion.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'A sample has no completion tokens');
  const behind = Int32Array.of(eosId);
  if (prompt.length > 0) {
    return [{ inputs: join(prompt, completion), targets: join(new Int32Array(prompt.length - 1).fill(-1), completion, behind) }];
  }
  const whole = { inputs: join(Int32Array.of(bosId), completion), targets: join(completion, behind) };
  return twoRows ? [whole, { inputs: completion, targets: join(completion.subarray(1), behind) }] : [whole];
}

function join(...parts: Int32Array[]): Int32Array {
  const result = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/**
 * Splits by count, as rinna's script: the first `train` samples train, the last `validation` validate, what lies between is left out.
 *
 * @throws NEOX_BAD_ARGUMENT; NEOX_BAD_DATA when there are fewer than `train + validation` samples.
 */
export function splitDataset<T>(samples: readonly T[], counts: { train: number; validation: number }): { train: T[]; validation: T[] } {
  const given: unknown = samples;
  if (!Array.isArray(given)) throw badArgument('samples', 'an array', samples);
  const { train, validation } = checkOptions('counts', counts, ['train', 'validation']) as typeof counts;
  checkInteger('train', train, 1);
  checkInteger('validation', validation, 0);
  if (samples.length < train + validation) {
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `${train} training and ${validation} validation samples were asked for, but there are only ${samples.length} samples`,
    );
  }
  return { train: samples.slice(0, train), validation: samples.slice(samples.length - validation) };
}
