import { get } from '../formats/json';
import { type Fields, MAX_POSITIONS } from './fields';

/**
 * How the rotary frequencies of a model are stretched for rows that are longer than those it was first trained on, as
 * transformers (modeling_rope_utils.py) computes it.
 *
 * - `'linear'`: all frequencies are divided by `factor`.
 * - `'dynamic'`: in rows that are longer than `maxPositionEmbeddings` the base grows with the row's own length (NTK).
 * - `'yarn'`: high frequencies stay, low ones are divided by `factor`, with a ramp between (Peng et al. 2023).
 * - `'llama3'`: the same with a ramp by wavelength.
 * - `'longrope'`: each frequency has a divisor of its own, one in rows up to `originalPositions` and another in longer
 *   ones (Ding et al. 2024). Keys in a cache keep the frequencies that they were rotated by.
 *
 * `attentionFactor` multiplies cosines and sines. `betaFast` and `betaSlow` are turns within `originalPositions`.
 */
export type RopeScaling =
  | { readonly type: 'default'; readonly factor: 1 }
  | { readonly type: 'linear' | 'dynamic'; readonly factor: number }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalPositions: number;
      readonly attentionFactor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Whether the ends of the ramp are whole dimensions. */
      readonly truncate: boolean;
    }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly originalPositions: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
    }
  | {
      readonly type: 'longrope';
      readonly factor: number;
      readonly originalPositions: number;
      readonly attentionFactor: number;
      /** One divisor for each of the ceil(rotaryDims / 2) frequencies. */
      readonly shortFactor: readonly number[];
      readonly longFactor: readonly number[];
    };

/** The rotary settings of a configuration. */
export interface RotarySettings {
  readonly rotaryDims: number;
  readonly rotaryPct: number;
  readonly rotaryBase: number;
  readonly ropeScaling: RopeScaling;
}

export const NO_SCALING: RopeScaling = { type: 'default', factor: 1 };

const MAX_ROTARY_FACTOR = 1_000_000;
/** Angles of a model: positions times rotated dimensions. They are computed when it is loaded. */
const MAX_ANGLES = 2 ** 27;

/**
 * The most positions of a row, prefix included: those the model was trained for, or as many as its rotary scaling
 * stretches the original ones to. Programs that serve such models take the product, too; transformers has no limit.
 */
export function maxPositions(config: RotarySettings & { readonly maxPositionEmbeddings: number }): number {
  const { maxPositionEmbeddings: trained, ropeScaling, rotaryDims } = config;
  if (ropeScaling.type === 'default') return trained;
  const original = 'originalPositions' in ropeScaling ? ropeScaling.originalPositions : trained;
  const stretched = Math.floor(original * ropeScaling.factor);
  // The angles of `'dynamic'` are computed row by row, all others when the model is loaded.
  if (ropeScaling.type === 'dynamic') return stretched;
  return Math.max(trained, Math.min(stretched, MAX_POSITIONS, Math.floor(MAX_ANGLES / rotaryDims)));
}

/**
 * Up to how many positions, prefix included, a token's keys depend on what stands before it alone. A longer row has to
 * go through the model in one piece: its rotary frequencies depend on how long it is.
 */
export function independentPositions(config: RotarySettings & { readonly maxPositionEmbeddings: number }): number {
  const { ropeScaling, maxPositionEmbeddings } = config;
  if (ropeScaling.type === 'dynamic') return maxPositionEmbeddings;
  const positions = maxPositions(config);
  return ropeScaling.type === 'longrope' ? Math.min(ropeScaling.originalPositions, positions) : positions;
}

export function checkAngles<T extends RotarySettings & { readonly maxPositionEmbeddings: number }>(
  config: T,
  fields: Fields,
  key: string,
): T {
  const { maxPositionEmbeddings, rotaryDims } = config;
  if (maxPositionEmbeddings * rotaryDims <= MAX_ANGLES) return config;
  throw fields.bad(
    key,
    `at most ${Math.floor(MAX_ANGLES / rotaryDims)} positions with ${rotaryDims} rotated dimensions`,
    maxPositionEmbeddings,
  );
}

/**
 * The rotary settings have had three spellings. As in transformers 5, rope_parameters (or rope_scaling, its older name)
 * comes first, then rotary_pct and rotary_emb_base; partial_rotary_factor and rope_theta at the top level are read
 * last.
 */
export function resolveRotary(fields: Fields, headSize: number, maxPositionEmbeddings: number): RotarySettings {
  const scaling = fields.section('rope_scaling');
  const rope =
    scaling !== undefined && Object.keys(scaling.json).length > 0 ? scaling : fields.section('rope_parameters');
  const rotaryPct = firstOf(
    [
      [rope, 'partial_rotary_factor'],
      [fields, 'rotary_pct'],
      [fields, 'partial_rotary_factor'],
    ],
    (from, key) => from.number(key, 0, 'a number above 0 and at most 1', (value) => value > 0 && value <= 1),
    0.25,
    fields.warnings,
  );
  const rotaryBase = firstOf(
    [
      [rope, 'rope_theta'],
      [fields, 'rotary_emb_base'],
      [fields, 'rope_theta'],
    ],
    (from, key) => from.number(key, 0, 'a number above 1', (value) => value > 1),
    10000,
    fields.warnings,
  );
  const rotaryDims = Math.trunc(headSize * rotaryPct);
  if (rotaryDims < 1 || rotaryDims + (rotaryDims % 2) > headSize) {
    throw fields.bad(
      'rotary_pct',
      `a share of the head size (${headSize}) that leaves pairs of dimensions to rotate`,
      rotaryPct,
    );
  }
  const ropeScaling = rope === undefined ? NO_SCALING : resolveScaling(fields, rope, rotaryDims, maxPositionEmbeddings);
  return { rotaryDims, rotaryPct, rotaryBase, ropeScaling };
}

/** The first source that says something; a later one that says something else is worth a warning. */
function firstOf(
  sources: readonly (readonly [Fields | undefined, string])[],
  read: (from: Fields, key: string) => number,
  fallback: number,
  warnings: string[],
): number {
  let chosen: { key: string; value: number } | undefined;
  for (const [i, [from, key]] of sources.entries()) {
    if (from === undefined || !from.has(key)) continue;
    const value = read(from, key);
    if (chosen === undefined) {
      chosen = { key, value };
      // transformers 4 and 5 read the last source only in the configurations of other models.
      if (i === sources.length - 1 && value !== fallback)
        warnings.push(
          `${key} ${value} is used; transformers does not read it outside of rope_parameters and takes ${fallback}`,
        );
    } else if (chosen.value !== value) warnings.push(`${chosen.key} ${chosen.value} is used; ${key} says ${value}`);
  }
  return chosen?.value ?? fallback;
}

function resolveScaling(fields: Fields, rope: Fields, rotaryDims: number, trained: number): RopeScaling {
  const key = rope.has('rope_type') ? 'rope_type' : 'type';
  const type: unknown = get(rope.json, key) ?? 'default';
  switch (type) {
    case 'default':
      return NO_SCALING;
    case 'linear':
      return { type, factor: factorOf(rope) };
    case 'dynamic':
      if (rotaryDims < 3) throw rope.unsupported(key, type, 'dynamic only with at least 3 rotary dimensions');
      return { type, factor: factorOf(rope) };
    case 'yarn':
      // transformers fails on them: its ramp has a value less than there are frequencies.
      if (rotaryDims % 2 !== 0) throw rope.unsupported(key, type, 'yarn only with an even number of rotary dimensions');
      return yarn(rope, originalOf(fields, rope, trained), trained);
    case 'llama3':
      return llama3(rope, originalOf(fields, rope, trained));
    case 'longrope':
      return longrope(rope, originalOf(fields, rope, trained), trained, rotaryDims);
    default:
      throw rope.unsupported(key, type, 'default, linear, dynamic, yarn, llama3, longrope');
  }
}

/** As transformers: the key beside the section, as Phi-3 has it, goes before the one in it. */
function originalOf(fields: Fields, rope: Fields, trained: number): number {
  const key = 'original_max_position_embeddings';
  return (fields.has(key) ? fields : rope).integer(key, 2, trained, MAX_POSITIONS);
}

function factorOf(rope: Fields, fallback?: number): number {
  if (!rope.has('factor') && fallback === undefined) throw rope.bad('factor', 'a number of at least 1', undefined);
  const isFactor = (value: number): boolean => value >= 1 && value <= MAX_ROTARY_FACTOR;
  return rope.number('factor', fallback ?? 0, `a number from 1 to ${MAX_ROTARY_FACTOR}`, isFactor);
}

function positive(rope: Fields, key: string, fallback: number): number {
  return rope.number(key, fallback, 'a positive number', (value) => value > 0);
}

function yarn(rope: Fields, originalPositions: number, trained: number): RopeScaling {
  const factor = factorOf(rope, Math.max(1, trained / originalPositions));
  const scaleOf = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const zero = (key: string): number => rope.number(key, 0, 'a number of at least 0', (value) => value >= 0);
  const [mscale, mscaleAllDim] = [zero('mscale'), zero('mscale_all_dim')];
  const usual = mscale > 0 && mscaleAllDim > 0 ? scaleOf(mscale) / scaleOf(mscaleAllDim) : scaleOf(1);
  return {
    type: 'yarn',
    factor,
    originalPositions,
    attentionFactor: positive(rope, 'attention_factor', usual),
    // A zero counts as not given.
    betaFast: zero('beta_fast') || 32,
    betaSlow: zero('beta_slow') || 1,
    truncate: rope.boolean('truncate', true),
  };
}

function llama3(rope: Fields, originalPositions: number): RopeScaling {
  const needed = (key: string): number => positive(rope, key, NaN);
  const [lowFreqFactor, highFreqFactor] = [needed('low_freq_factor'), needed('high_freq_factor')];
  if (highFreqFactor <= lowFreqFactor)
    throw rope.bad('high_freq_factor', `a number above low_freq_factor (${lowFreqFactor})`, highFreqFactor);
  return { type: 'llama3', factor: factorOf(rope), originalPositions, lowFreqFactor, highFreqFactor };
}

function longrope(rope: Fields, originalPositions: number, trained: number, rotaryDims: number): RopeScaling {
  const factor = factorOf(rope, Math.max(1, trained / originalPositions));
  const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalPositions));
  const count = Math.ceil(rotaryDims / 2);
  return {
    type: 'longrope',
    factor,
    originalPositions,
    attentionFactor: positive(rope, 'attention_factor', usual),
    shortFactor: rope.positives('short_factor', count),
    longFactor: rope.positives('long_factor', count),
  };
}
