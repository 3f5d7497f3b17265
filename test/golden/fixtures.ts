/**
 * The golden fixtures that scripts/golden writes: tiny models, and what transformers and PyTorch compute with them. The
 * reader below is a plain one on purpose and shares nothing with the library, so that no test checks a reader with
 * itself.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixWeights } from '../../lib/prefix/weights';

export const GOLDEN_DIRECTORY = join(__dirname, '..', 'fixtures', 'golden');

export type GoldenDType = 'float32' | 'bfloat16' | 'float16';

/** Without a prefix, and with the fixture's random one. */
export type GoldenKind = 'base' | 'prefix';
export const GOLDEN_KINDS: readonly GoldenKind[] = ['base', 'prefix'];

/** Elements in row-major order, whatever their type in the file was. */
export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export class GoldenTensors {
  constructor(
    private readonly path: string,
    private readonly tensors: ReadonlyMap<string, GoldenTensor>,
  ) {}

  get(name: string): GoldenTensor {
    const tensor = this.tensors.get(name);
    if (tensor === undefined)
      throw new Error(`${this.path} has no tensor ${name}, only ${[...this.tensors.keys()].join(', ')}`);
    return tensor;
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** The tensors whose names start with `prefix`, by the rest of their names. */
  under(prefix: string): Map<string, GoldenTensor> {
    const found = [...this.tensors].filter(([name]) => name.startsWith(prefix));
    if (found.length === 0) throw new Error(`${this.path} has no tensor under ${prefix}`);
    return new Map(found.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
  }
}

/** reference.json. A token or target of one position is a number; target -1 is ignored. */
export interface GoldenReference {
  readonly about: string;
  readonly prefixLength: number;
  /** Token rows of unequal length. Every result was computed for a row alone. */
  readonly rows: readonly (readonly number[])[];
  readonly targets: readonly (readonly number[])[];
  /** `split_logits` come from two calls on the last row: this many tokens, then the rest on their cache. */
  readonly split: number;
  readonly newTokens: number;
  /** Cross entropies over all rows. */
  readonly losses: Partial<Record<GoldenDType, Record<GoldenKind, { readonly sum: number; readonly count: number }>>>;
  /** float32 greedy tokens by row; the end token does not end them. */
  readonly greedy: Record<GoldenKind, readonly (readonly number[])[]> & { readonly smallestMargin: number };
}

export interface GoldenModel {
  readonly name: string;
  readonly directory: string;
  readonly reference: GoldenReference;
  readonly tensors: GoldenTensors;
  /** The dtypes that there are logits for. */
  readonly dtypes: readonly GoldenDType[];
  /** The random prefix, [P, L, 2, N, D]. */
  readonly prefix: GoldenTensor;
  /** The model's own keys and values of token ids 0..P-1, [P, L, 2, N, D]. */
  readonly tokenKeysAndValues: GoldenTensor;
  /** Logits [T, V] of a row. */
  logits(dtype: GoldenDType, kind: GoldenKind, row: number): GoldenTensor;
  /** Logits [T, V] of the last row, computed in two calls. */
  splitLogits(dtype: GoldenDType, kind: GoldenKind): GoldenTensor;
}

export interface GoldenSample {
  readonly prompt: readonly number[];
  readonly completion: readonly number[];
}

export interface GoldenEvaluation {
  readonly loss: number;
  readonly perplexity: number;
  readonly tokens: number;
}

/**
 * One value a step. Losses are those before the step's update, means over the tokens of all its micro-batches; norms
 * those before clipping.
 */
export interface GoldenCurve {
  readonly accumulation: number;
  readonly losses: readonly number[];
  readonly tokens: readonly number[];
  readonly learningRates: readonly number[];
  readonly gradientNorms: readonly number[];
  readonly validationBefore: GoldenEvaluation;
  readonly validationAfter: GoldenEvaluation;
}

/**
 * training.<dtype>.json. Batches are the samples in order, `batchSize` at a time, from the start again when they end.
 */
export interface GoldenTrainingRecord {
  readonly prefixLength: number;
  readonly inputDim: number;
  readonly hiddenDim: number;
  readonly batchSize: number;
  readonly recipe: {
    readonly learningRate: number;
    readonly beta1: number;
    readonly beta2: number;
    readonly epsilon: number;
    readonly weightDecay: number;
    readonly warmupSteps: number;
    readonly totalSteps: number;
    readonly gradientClip: number;
  };
  readonly samples: readonly GoldenSample[];
  readonly validation: readonly GoldenSample[];
  readonly firstBatch: {
    readonly inputs: readonly (readonly number[])[];
    readonly targets: readonly (readonly number[])[];
    readonly loss: number;
    readonly tokens: number;
  };
  readonly curve: GoldenCurve;
  readonly accumulated: GoldenCurve;
  readonly fit: {
    readonly steps: number;
    readonly learningRate: number;
    readonly weightDecay: number;
    readonly firstLoss: number;
    readonly lastLoss: number;
    readonly finalLoss: number;
  };
}

/**
 * Tensors: `initial.NAME` (the encoder to start from), `prefix` (its output), `prefix_gradient` and `gradient.NAME` (of
 * the first batch's loss), `curve.NAME` and `curve.prefix` (after `curve`), `accumulated.prefix`, `fit.target` and
 * `fit.prefix`.
 */
export interface GoldenTraining {
  readonly name: string;
  readonly dtype: GoldenDType;
  readonly directory: string;
  readonly record: GoldenTrainingRecord;
  readonly tensors: GoldenTensors;
}

/** What NVIDIA's converter wrote for one precision and tensor-parallel degree. */
export interface GoldenConversion {
  readonly dtype: 'fp32' | 'fp16';
  readonly tensorParallel: number;
  readonly configIni: string;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

export interface GoldenFasterTransformer {
  readonly source: string;
  readonly modelName: string;
  readonly conversions: readonly GoldenConversion[];
}

export const TRAINING_CASES: readonly { readonly name: string; readonly dtype: GoldenDType }[] = [
  { name: 'sequential', dtype: 'float32' },
  { name: 'parallel', dtype: 'float32' },
  { name: 'sequential', dtype: 'bfloat16' },
  { name: 'gpt2', dtype: 'float32' },
];

export const FASTER_TRANSFORMER_CASES: readonly string[] = ['sequential', 'parallel', 'gpt2'];

/** Names of all golden models, in alphabetical order. */
export function goldenModelNames(): string[] {
  return readdirSync(GOLDEN_DIRECTORY, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
}

export function loadGoldenModel(name: string): GoldenModel {
  const directory = join(GOLDEN_DIRECTORY, name);
  const tensors = readTensors(join(directory, 'reference.safetensors'));
  const reference = readJson(join(directory, 'reference.json')) as GoldenReference;
  return {
    name,
    directory,
    reference,
    tensors,
    dtypes: (['float32', 'bfloat16', 'float16'] as const).filter((dtype) => reference.losses[dtype] !== undefined),
    prefix: tensors.get('prefix'),
    tokenKeysAndValues: tensors.get('token_keys_and_values'),
    logits: (dtype, kind, row) => tensors.get(`${dtype}.${kind}.logits.${row}`),
    splitLogits: (dtype, kind) => tensors.get(`${dtype}.${kind}.split_logits`),
  };
}

export function loadGoldenTraining(name: string, dtype: GoldenDType): GoldenTraining {
  const directory = join(GOLDEN_DIRECTORY, name);
  return {
    name,
    dtype,
    directory,
    record: readJson(join(directory, `training.${dtype}.json`)) as GoldenTrainingRecord,
    tensors: readTensors(join(directory, `training.${dtype}.safetensors`)),
  };
}

export function loadGoldenFasterTransformer(name: string): GoldenFasterTransformer {
  return readJson(join(GOLDEN_DIRECTORY, name, 'fastertransformer.json')) as GoldenFasterTransformer;
}

/** Largest and mean absolute difference; different lengths or a NaN are an error. */
export function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): { max: number; mean: number } {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} elements where ${expected.length} are expected`);
  let max = 0;
  let sum = 0;
  for (let k = 0; k < expected.length; k++) {
    const apart = Math.abs((actual[k] as number) - (expected[k] as number));
    if (Number.isNaN(apart)) throw new Error(`element ${k} is ${actual[k]} where ${expected[k]} is expected`);
    max = Math.max(max, apart);
    sum += apart;
  }
  return { max, mean: expected.length === 0 ? 0 : sum / expected.length };
}

/** Norm of the difference over the norm of what is expected: the measure for gradients. */
export function relativeDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} elements where ${expected.length} are expected`);
  let apart = 0;
  let norm = 0;
  for (let k = 0; k < expected.length; k++) {
    apart += ((actual[k] as number) - (expected[k] as number)) ** 2;
    norm += (expected[k] as number) ** 2;
  }
  const relative = Math.sqrt(apart / norm);
  if (Number.isNaN(relative)) throw new Error('the relative difference is not a number');
  return relative;
}

export function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** Every floating-point tensor of a safetensors file. */
export function readTensors(path: string): GoldenTensors {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<string, HeaderEntry>;
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = file.subarray(start + entry.data_offsets[0], start + entry.data_offsets[1]);
    tensors.set(name, { shape: entry.shape, data: decode(bytes, entry.dtype) });
  }
  return new GoldenTensors(path, tensors);
}

function decode(bytes: Buffer, dtype: string): Float32Array {
  switch (dtype) {
    case 'F32':
      return Float32Array.from({ length: bytes.length / 4 }, (_, k) => bytes.readFloatLE(4 * k));
    case 'BF16': {
      const bits = Uint32Array.from({ length: bytes.length / 2 }, (_, k) => bytes.readUInt16LE(2 * k) << 16);
      return new Float32Array(bits.buffer);
    }
    case 'F16':
      return Float32Array.from({ length: bytes.length / 2 }, (_, k) => halfToNumber(bytes.readUInt16LE(2 * k)));
    default:
      throw new Error(`${dtype} tensors are not read here`);
  }
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A file of test/fixtures/generation, which scripts/golden/generation.py writes. */
export function generationFixture(name: string): unknown {
  return JSON.parse(readFileSync(join(GOLDEN_DIRECTORY, '..', 'generation', `${name}.json`), 'utf8'));
}

/** The random prefix of a golden model. */
export function goldenPrefix(model: NeoXModel, { prefix, reference }: GoldenModel): PrefixWeights {
  const { numLayers, numHeads, headSize } = model.config;
  return PrefixWeights.fromTensor(prefix.data, { prefixLength: reference.prefixLength, numLayers, numHeads, headSize });
}
