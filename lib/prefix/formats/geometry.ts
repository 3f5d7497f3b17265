import type { GPTNeoXConfig } from '../../architecture/config';
import { NeoXPrefixError } from '../../base/errors';

/** The sizes of a prefix: P, L, N and D of its [P, L, 2, N, D]. */
export interface PrefixGeometry {
  /** P */
  readonly prefixLength: number;
  /** L */
  readonly numLayers: number;
  /** N */
  readonly numHeads: number;
  /** D */
  readonly headSize: number;
}

/** What is known besides the file, for files that hold nothing but numbers. */
export interface GeometryHints {
  readonly config?: GPTNeoXConfig | undefined;
  readonly prefixLength?: number | undefined;
  readonly numLayers?: number | undefined;
  readonly numHeads?: number | undefined;
}

export function shapeOf(geometry: PrefixGeometry): [number, number, 2, number, number] {
  return [geometry.prefixLength, geometry.numLayers, 2, geometry.numHeads, geometry.headSize];
}

/** L*2*N*D: the values of one prefix position. */
export function widthOf({ numLayers, numHeads, headSize }: Omit<PrefixGeometry, 'prefixLength'>): number {
  return numLayers * 2 * numHeads * headSize;
}

/**
 * Finds P, L, N and D of a tensor in the order [P, L, 2, N, D], whatever dimensions it was given: [P, L*2*H] as rinna
 * and PEFT save it, [P, 2*L, N, D], all five, one, or any other with dimensions of size 1.
 * @throws NEOX_PREFIX_MISMATCH when it cannot belong to the given model, NEOX_BAD_PREFIX when the file and the hints do
 *   not suffice
 */
export function resolveGeometry(shape: readonly number[], hints: GeometryHints, path: string): PrefixGeometry {
  const count = shape.reduce((product, size) => product * size, 1);
  if (count === 0) throw badShape(shape, path, 'it has no elements');
  const model = hints.config;
  const own = ownGeometry(shape);
  // [1, ...] may be a batch of one in front of something else, so there the model decides.
  if (own !== undefined && (model === undefined || shape.length === 5 || shape[0] !== 1)) return own;
  if (model !== undefined)
    return { prefixLength: lengthFor(model, shape, count, hints.prefixLength, path), ...layersOf(model) };
  const { numLayers, numHeads } = hints;
  const prefixLength = hints.prefixLength ?? (shape.length === 2 ? shape[0] : undefined);
  if (numLayers === undefined || numHeads === undefined || prefixLength === undefined) {
    throw badShape(
      shape,
      path,
      'it does not say how many layers and heads it is for',
      'pass the model (or its config), or numLayers and numHeads',
    );
  }
  const headSize = count / (prefixLength * numLayers * 2 * numHeads);
  if (!Number.isInteger(headSize)) {
    throw badShape(
      shape,
      path,
      `it does not divide into ${prefixLength} positions, ${numLayers} layers and ${numHeads} heads`,
    );
  }
  return { prefixLength, numLayers, numHeads, headSize };
}

function layersOf({ numLayers, numHeads, headSize }: GPTNeoXConfig): Omit<PrefixGeometry, 'prefixLength'> {
  return { numLayers, numHeads, headSize };
}

/** [P, L, 2, N, D] and [P, 2*L, N, D] say everything themselves. */
function ownGeometry(shape: readonly number[]): PrefixGeometry | undefined {
  const [first = 1, second = 0, third = 0, fourth = 0, fifth = 0] = shape;
  if (shape.length === 5 && third === 2)
    return { prefixLength: first, numLayers: second, numHeads: fourth, headSize: fifth };
  if (shape.length === 4 && second % 2 === 0)
    return { prefixLength: first, numLayers: second / 2, numHeads: third, headSize: fourth };
  return undefined;
}

/** P: dimensions, from the last, that multiply to the width of the model leave it over. */
function lengthFor(
  model: GPTNeoXConfig,
  shape: readonly number[],
  count: number,
  prefixLength: number | undefined,
  path: string,
): number {
  const width = widthOf(layersOf(model));
  if (prefixLength !== undefined && count === prefixLength * width) return prefixLength;
  let product = 1;
  for (let d = shape.length - 1; d >= 0 && product < width; d--) product *= shape[d] as number;
  const isFlat = shape.filter((size) => size > 1).length <= 1;
  if (prefixLength === undefined && (product === width || isFlat) && count % width === 0) return count / width;
  const wanted = `[${prefixLength ?? 'P'}, ${model.numLayers}, 2, ${model.numHeads}, ${model.headSize}] (${width} values a position)`;
  throw new NeoXPrefixError(
    'NEOX_PREFIX_MISMATCH',
    `The prefix ${path} of shape [${shape.join(', ')}] does not fit the model, which takes ${wanted}`,
    {
      path,
      hint: 'load it over the base model that it was trained on',
    },
  );
}

function badShape(shape: readonly number[], path: string, problem: string, hint?: string): NeoXPrefixError {
  const message = `The prefix ${path} of shape [${shape.join(', ')}] is not usable: ${problem}`;
  return new NeoXPrefixError('NEOX_BAD_PREFIX', message, hint === undefined ? { path } : { path, hint });
}
