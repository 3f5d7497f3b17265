import { inspect, types } from 'node:util';

import type { GPTNeoXConfig } from '../architecture/config';
import {
  badArgument,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkPath,
  checkString,
} from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { sha256 } from '../base/files';
import { isObject } from '../formats/json';
import {
  formatOfPath,
  PREFIX_FORMATS,
  type PrefixFile,
  type PrefixFormat,
  readPrefixFile,
  WRITTEN_FORMATS,
} from './formats/index';
import { type PrefixGeometry, shapeOf, widthOf } from './formats/geometry';
import { checkMetadata, FORMAT_VERSION, type PrefixMetadata } from './formats/metadata';

export type { PrefixGeometry } from './formats/geometry';
export { type BaseModelSummary, describeBaseModel, type JsonValue, type PrefixMetadata } from './formats/metadata';
export type { PrefixFormat } from './formats/index';

/** Shape of a tensor that becomes a prefix, and what the prefix shall remember. */
export interface PrefixTensorOptions extends PrefixGeometry {
  /** Task, base model, recipe and results. Defaults to nothing but the format version. */
  metadata?: Omit<PrefixMetadata, 'formatVersion'>;
}

/** What a file does not say of its prefix, and what to let pass. */
export interface PrefixLoadOptions {
  /**
   * The model that the prefix is for (anything with a `config`) or its config. Files that hold nothing but numbers
   * (rinna's) need it, or `numLayers` and `numHeads`; with it, every file's shape is checked against it. With a model,
   * or anything else that has a `fingerprint`, the base model that the prefix remembers is checked too. Defaults to
   * none.
   */
  config?: GPTNeoXConfig | { readonly config: GPTNeoXConfig; readonly fingerprint?: string };
  /** P, for a tensor whose shape does not show it. Defaults to what the shape says. */
  prefixLength?: number;
  /** L, for a file that does not say it. Defaults to what the file or `config` says. */
  numLayers?: number;
  /** N, for a file that does not say it. Defaults to what the file or `config` says. */
  numHeads?: number;
  /** Which task of a FasterTransformer folder: its name, or its id. Defaults to the only one. */
  task?: string | number;
  /**
   * Take the prefix although it remembers another base model, for example because the same model was saved in another
   * precision. Its shape is checked all the same. Defaults to `false`.
   */
  allowFingerprintMismatch?: boolean;
  /** Load a prefix that has NaN or infinite values, to look at it; models refuse it. Defaults to `false`. */
  allowNonFinite?: boolean;
}

/** Names of the options of {@link PrefixWeights.load}. */
export const PREFIX_LOAD_OPTIONS: readonly (keyof PrefixLoadOptions)[] = [
  'config',
  'prefixLength',
  'numLayers',
  'numHeads',
  'task',
  'allowFingerprintMismatch',
  'allowNonFinite',
];

/** How to write a prefix. */
export interface PrefixSaveOptions {
  /**
   * `'safetensors'` keeps the metadata, `'rinna'` is one tensor [P, L*2*H] for torch.load, `'peft'` a folder for
   * PeftModel.from_pretrained. Defaults to what the path says: `.safetensors`; `.checkpoint`, `.weight` or `.pt` for
   * rinna; a folder, or a name without an extension, for peft.
   */
  format?: PrefixFormat;
}

/** What can be said of a prefix's values at a glance. */
export interface PrefixStatistics {
  /** Euclidean norm of each layer's keys and values, over all positions and heads. */
  readonly layers: readonly { readonly keyNorm: number; readonly valueNorm: number }[];
  /** Values that are NaN. */
  readonly nanCount: number;
  /** Values that are infinite. */
  readonly infinityCount: number;
}

/**
 * The trained key/value vectors of one task: what every layer attends to in front of the text. Keys are in post-rotary
 * space and used as they are (Li & Liang 2021, as in rinna's prefix-tuning-gpt and PEFT).
 */
export class PrefixWeights implements PrefixGeometry {
  /** P */
  readonly prefixLength: number;
  /** L */
  readonly numLayers: number;
  /** N */
  readonly numHeads: number;
  /** D */
  readonly headSize: number;
  /** Things worth showing to a person, from loading. */
  readonly warnings: readonly string[];
  private cachedHash: string | undefined;

  private constructor(
    /** float32, [P, L, 2, N, D] in row-major order; index 0 of the 2 is the key, 1 the value. Not to be changed. */
    readonly data: Float32Array,
    geometry: PrefixGeometry,
    /** What it remembers of its making; {@link withMetadata} gives another. */
    readonly metadata: PrefixMetadata,
    private readonly load: {
      warnings: readonly string[];
      allowFingerprintMismatch: boolean;
      source: string;
      format?: PrefixFile['format'];
    },
  ) {
    this.prefixLength = geometry.prefixLength;
    this.numLayers = geometry.numLayers;
    this.numHeads = geometry.numHeads;
    this.headSize = geometry.headSize;
    this.warnings = load.warnings;
  }

  /**
   * Takes a tensor [P, L, 2, N, D] (or [P, L*2*N*D], which is the same in memory), without copying it.
   * @throws NEOX_BAD_ARGUMENT for sizes that do not fit `data` and metadata that cannot be saved, NEOX_BAD_PREFIX for
   *   NaN or infinite values
   */
  static fromTensor(data: Float32Array, options: PrefixTensorOptions): PrefixWeights {
    if (!types.isFloat32Array(data)) throw badArgument('data', 'a Float32Array', data);
    checkOptions('options', options, ['prefixLength', 'numLayers', 'numHeads', 'headSize', 'metadata']);
    const geometry = {
      prefixLength: checkInteger('options.prefixLength', options.prefixLength, 1),
      numLayers: checkInteger('options.numLayers', options.numLayers, 1),
      numHeads: checkInteger('options.numHeads', options.numHeads, 1),
      headSize: checkInteger('options.headSize', options.headSize, 1),
    };
    const count = geometry.prefixLength * widthOf(geometry);
    if (data.length !== count)
      throw badArgument('data', `${count} elements, for shape [${shapeOf(geometry).join(', ')}],`, data.length);
    checkFinite(data, geometry, 'tensor');
    const metadata = { ...checkMetadata('options.metadata', options.metadata), formatVersion: FORMAT_VERSION };
    return new PrefixWeights(data, geometry, metadata, {
      warnings: [],
      allowFingerprintMismatch: false,
      source: 'tensor',
    });
  }

  /**
   * Loads a prefix of any supported format, recognised by its content: our safetensors, one tensor saved by torch.save
   * (rinna's .checkpoint and .weight, whatever device and precision it was saved from), a PEFT adapter folder (or a
   * file in it), or a task of a FasterTransformer folder of any number of ranks (`DIR/<ranks>-gpu` with the option
   * `task`, or the file of a task in it).
   * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_PREFIX, NEOX_BAD_CHECKPOINT (damaged file), NEOX_BAD_EXPORT (an incomplete
   *   FasterTransformer folder), NEOX_BAD_ARGUMENT (a task that it does not have), NEOX_UNSUPPORTED,
   *   NEOX_PREFIX_MISMATCH (another model)
   */
  static async load(path: string, options: PrefixLoadOptions = {}): Promise<PrefixWeights> {
    checkPath('path', path);
    checkOptions('options', options, PREFIX_LOAD_OPTIONS);
    const config = options.config === undefined ? undefined : checkConfig('options.config', options.config);
    const size = (name: 'prefixLength' | 'numLayers' | 'numHeads'): number | undefined =>
      options[name] === undefined ? undefined : checkInteger(`options.${name}`, options[name], 1);
    const allowFingerprintMismatch = checkBoolean(
      'options.allowFingerprintMismatch',
      options.allowFingerprintMismatch ?? false,
    );
    const hints = {
      config,
      prefixLength: size('prefixLength'),
      numLayers: size('numLayers'),
      numHeads: size('numHeads'),
    };
    const file = await readPrefixFile(path, hints, options.task === undefined ? undefined : checkTaskKey(options.task));
    if (!checkBoolean('options.allowNonFinite', options.allowNonFinite ?? false))
      checkFinite(file.data, file.geometry, path);
    const weights = new PrefixWeights(file.data, file.geometry, file.metadata, {
      warnings: file.warnings,
      allowFingerprintMismatch,
      source: path,
      format: file.format,
    });
    if (config !== undefined) weights.checkShape(config);
    weights.checkBaseModel(fingerprintOf(options.config));
    return weights;
  }

  /** The format of the file that it was loaded from, if it was. */
  get format(): PrefixFormat | 'fastertransformer' | undefined {
    return this.load.format;
  }

  /** Shape of the values, [P, L, 2, N, D]. */
  get shape(): readonly [number, number, 2, number, number] {
    return shapeOf(this);
  }

  /** SHA-256 of the shape and the values, in hexadecimal: equal for equal prefixes, whatever file they came from. */
  get hash(): string {
    this.cachedHash ??= sha256(`[${this.shape.join(', ')}]`, this.data);
    return this.cachedHash;
  }

  /** The fingerprint of the base model that this prefix was trained on, if it remembers one. */
  get baseModelFingerprint(): string | undefined {
    return this.metadata.baseModel?.fingerprint;
  }

  /** The values and their shape [P, L, 2, N, D]; the array is shared, not copied. */
  toTensor(): { readonly data: Float32Array; readonly shape: readonly number[] } {
    return { data: this.data, shape: this.shape };
  }

  /** A copy of one layer's keys or values, [P, N, D]. */
  layer(index: number, part: 'key' | 'value'): Float32Array {
    checkInteger('index', index, 0, this.numLayers - 1);
    const slot = 2 * index + (checkOneOf('part', part, ['key', 'value']) === 'key' ? 0 : 1);
    const size = this.numHeads * this.headSize;
    const result = new Float32Array(this.prefixLength * size);
    for (let p = 0; p < this.prefixLength; p++) {
      const start = (p * 2 * this.numLayers + slot) * size;
      result.set(this.data.subarray(start, start + size), p * size);
    }
    return result;
  }

  /**
   * The same values with other metadata; what is not given is kept.
   * @throws NEOX_BAD_ARGUMENT for an unknown entry, a wrong type, or what JSON cannot hold
   */
  withMetadata(metadata: Omit<PrefixMetadata, 'formatVersion'>): PrefixWeights {
    return new PrefixWeights(this.data, this, { ...this.metadata, ...checkMetadata('metadata', metadata) }, this.load);
  }

  /**
   * Checks that this prefix belongs to a model.
   * @param fingerprint Checkpoint.fingerprint of the model. Defaults to unknown, which is not compared.
   * @throws NEOX_PREFIX_MISMATCH with both shapes, or with both fingerprints; NEOX_BAD_PREFIX for NaN or infinite
   *   values
   */
  checkFits(config: GPTNeoXConfig, fingerprint?: string): void {
    this.checkShape(checkConfig('config', config));
    checkFinite(this.data, this, this.load.source);
    this.checkBaseModel(fingerprint);
  }

  private checkBaseModel(fingerprint: string | undefined): void {
    const own = this.baseModelFingerprint;
    if (own === undefined || fingerprint === undefined || own === fingerprint || this.load.allowFingerprintMismatch)
      return;
    const name = this.metadata.baseModel?.name;
    throw new NeoXPrefixError(
      'NEOX_PREFIX_MISMATCH',
      `${this.title} was trained on another base model: its fingerprint is ${own}${name === undefined ? '' : ` (${name})`}, this model's is ${fingerprint}`,
      {
        hint: 'load the model it was trained on; if this is the same model in another precision, load the prefix with allowFingerprintMismatch: true',
      },
    );
  }

  private checkShape({ numLayers, numHeads, headSize }: GPTNeoXConfig): void {
    if (numLayers === this.numLayers && numHeads === this.numHeads && headSize === this.headSize) return;
    throw new NeoXPrefixError(
      'NEOX_PREFIX_MISMATCH',
      `${this.title} does not fit the model: its shape is [${this.shape.join(', ')}] ` +
        '(positions, layers, 2, heads, head size), ' +
        `the model takes [${this.prefixLength}, ${numLayers}, 2, ${numHeads}, ${headSize}]`,
      { hint: 'use the base model that the prefix was trained on' },
    );
  }

  /**
   * What console.log shows.
   * @internal
   */
  [inspect.custom](): string {
    const { task } = this.metadata;
    return `PrefixWeights(${task === undefined ? '' : `'${task}' `}[${this.shape.join(', ')}], from ${this.load.source})`;
  }

  private get title(): string {
    return this.metadata.task === undefined
      ? `The prefix (${this.load.source})`
      : `The prefix '${this.metadata.task}' (${this.load.source})`;
  }

  /**
   * Writes the prefix, atomically. Only `'safetensors'` and `'peft'` keep the metadata.
   * @throws NEOX_IO when it cannot be written
   */
  async save(path: string, options: PrefixSaveOptions = {}): Promise<void> {
    checkPath('path', path);
    checkOptions('options', options, ['format']);
    const format = checkOneOf('options.format', options.format ?? (await formatOfPath(path)), WRITTEN_FORMATS);
    await PREFIX_FORMATS[format].write?.(path, { data: this.data, geometry: this, metadata: this.metadata });
  }

  /** Norms of each layer, and how many values are not finite. */
  statistics(): PrefixStatistics {
    const size = this.numHeads * this.headSize;
    const squares = new Float64Array(2 * this.numLayers);
    let nanCount = 0;
    let infinityCount = 0;
    this.data.forEach((value, i) => {
      if (Number.isNaN(value)) nanCount++;
      else if (!Number.isFinite(value)) infinityCount++;
      const slot = Math.floor(i / size) % squares.length;
      squares[slot] = (squares[slot] as number) + value * value;
    });
    const norm = (slot: number): number => Math.sqrt(squares[slot] as number);
    const layers = Array.from({ length: this.numLayers }, (_, l) => ({
      keyNorm: norm(2 * l),
      valueNorm: norm(2 * l + 1),
    }));
    return { layers, nanCount, infinityCount };
  }
}

function checkConfig(name: string, given: NonNullable<PrefixLoadOptions['config']>): GPTNeoXConfig {
  const config: unknown = isObject(given) && 'config' in given ? given.config : given;
  const sizes = isObject(config) ? [config['numLayers'], config['numHeads'], config['headSize']] : [undefined];
  if (!sizes.every((size) => Number.isSafeInteger(size) && (size as number) > 0))
    throw badArgument(name, 'a model or its config', given);
  return config as GPTNeoXConfig;
}

/** The base model's fingerprint, where the option `config` is more than a config. */
function fingerprintOf(given: PrefixLoadOptions['config']): string | undefined {
  const fingerprint: unknown =
    isObject(given) && 'config' in given && 'fingerprint' in given ? given.fingerprint : undefined;
  return fingerprint === undefined ? undefined : checkString('options.config.fingerprint', fingerprint);
}

function checkTaskKey(task: unknown): string | number {
  return typeof task === 'number' ? checkInteger('options.task', task, 0) : checkString('options.task', task);
}

function checkFinite(data: Float32Array, { numLayers, numHeads, headSize }: PrefixGeometry, source: string): void {
  // A loop: findIndex calls a function for each of millions of values, ten times as long.
  let at = 0;
  while (at < data.length && Number.isFinite(data[at])) at++;
  if (at === data.length) return;
  const slot = Math.floor(at / (numHeads * headSize));
  const [position, layer, part] = [
    Math.floor(slot / (2 * numLayers)),
    Math.floor(slot / 2) % numLayers,
    slot % 2 === 0 ? 'key' : 'value',
  ];
  throw new NeoXPrefixError(
    'NEOX_BAD_PREFIX',
    `The prefix (${source}) has the value ${data[at]} at position ${position}, layer ${layer}, ${part}`,
    {
      hint: 'the training run diverged; use an earlier prefix, or train with a lower learning rate',
    },
  );
}
