import { types } from 'node:util';
import { maxPositions } from '../architecture/rope';
import { inspect } from 'node:util';
import type * as Native from '../../types/native';
import { runNative } from '../addon/run-native';
import { keyValueWidth } from '../architecture/sizes';
import { badArgument, checkInteger, checkOptions, checkPath, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import {
  abortSignal,
  boolean,
  choice,
  completed,
  integer,
  namesOf,
  number,
  type OptionTable,
  text,
  without,
} from '../base/options';
import { isObject } from '../formats/json';
import { writeSafetensors } from '../formats/safetensors';
import { readTensor } from '../formats/values';
import { forward } from '../model/forward';
import type { KVCache } from '../model/kv-cache';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import { describeBaseModel, type PrefixMetadata, PrefixWeights } from '../prefix/weights';
import { encoderTensors } from './encoder-files';

/** Names of {@link PrefixInit}. */
export const PREFIX_INITS = ['tokens', 'text', 'random', 'zero'] as const;
/** How an encoder starts; {@link PrefixEncoderOptions.init} says what each means. */
export type PrefixInit = (typeof PREFIX_INITS)[number];

/** Sizes of an encoder, and how it starts. */
export interface PrefixEncoderOptions {
  /** P: positions of the prefix. Defaults to `10`. */
  prefixLength?: number;
  /**
   * Whether an MLP makes the prefix from an embedding while it is trained (Li & Liang 2021, rinna's recipe). Without,
   * the prefix itself is what is trained, as with PEFT's `prefix_projection=False`; then there are no `inputDim`,
   * `hiddenDim`, `initSteps` and `initLearningRate`. Defaults to `true`.
   */
  projection?: boolean;
  /** Width of the embedding. Defaults to `10`. */
  inputDim?: number;
  /** Width of the hidden layer. Defaults to `10`. */
  hiddenDim?: number;
  /** Dropout on the output while training, in [0, 1). Defaults to `0`. */
  dropout?: number;
  /**
   * `'tokens'`: fitted to the model's own keys and values of the token ids 0 to P-1, as rinna's script does. `'text'`:
   * fitted to those of `initText`. Both are exactly those keys and values without projection. `'random'`: torch's
   * initial values. `'zero'`: gives zero keys and values; a zero key still takes part in the softmax, so that is not
   * "no prefix". Defaults to `'tokens'`.
   */
  init?: PrefixInit;
  /** The text of `init: 'text'`, which needs it; repeated when it has fewer than P tokens. Defaults to none. */
  initText?: string;
  /** Steps of the fit. Defaults to `200`. */
  initSteps?: number;
  /** Learning rate of the fit. Defaults to `1e-4`. */
  initLearningRate?: number;
  /** Seed of the initial values and of dropout. Defaults to `42`. */
  seed?: number;
  /** Stops the fit; the promise rejects with the signal's reason. Defaults to none. */
  signal?: AbortSignal;
}

const WIDTH = { min: 1, max: 65536, default: 10 };

export const ENCODER_OPTIONS = {
  prefixLength: integer({ min: 1, default: 10, help: 'prefix length P: positions in front of the text' }),
  projection: boolean({
    default: true,
    help: 'an MLP makes the prefix while it is trained; false: the prefix itself is trained',
  }),
  inputDim: integer({ ...WIDTH, help: "width of the encoder's embedding" }),
  hiddenDim: integer({ ...WIDTH, help: 'width of its hidden layer; a larger one learns more' }),
  dropout: number({ min: 0, max: 0.99, default: 0, symbol: 'p', help: 'dropout on its output' }),
  init: choice(PREFIX_INITS, {
    ...{ default: 'tokens', symbol: 'how' },
    help:
      "how it starts: fitted to the model's own keys and values of the first token ids (rinna's) or of a text, " +
      'random, or zero',
  }),
  initText: text({ help: 'the text that it is fitted to, for example what the task is' }),
  initSteps: integer({ min: 0, default: 200, help: 'steps of the initial fit' }),
  initLearningRate: number({ min: 0, default: 1e-4, symbol: 'rate', help: 'learning rate of the initial fit' }),
  seed: integer({
    min: 0,
    default: 42,
    help: 'seed of the initial values, of dropout and of the order of the samples',
  }),
  signal: abortSignal('stops the fit'),
} satisfies OptionTable<PrefixEncoderOptions>;

/** Options of the MLP, which an encoder without projection does not have. */
export const PROJECTION_OPTIONS = ['inputDim', 'hiddenDim', 'initSteps', 'initLearningRate'] as const;

/**
 * Parameters of the encoder under rinna's names, float32, with their shapes; `prefix_wte.weight` [P, L*2*H] alone
 * without projection.
 */
export type PrefixEncoderState = Record<string, { data: Float32Array; shape: number[] }>;

interface Sizes {
  prefixLength: number;
  projection: boolean;
  inputDim: number;
  hiddenDim: number;
}

/**
 * The trainable form of a prefix, always float32: Embedding(P, inputDim) -> Linear(inputDim, hiddenDim) -> tanh ->
 * Linear(hiddenDim, L*2*H) (Li & Liang 2021; rinnakk/prefix-tuning-gpt), or, without projection, Embedding(P, L*2*H),
 * which is the prefix. It is needed only to train: what a model uses is its output, {@link PrefixWeights}.
 */
export class PrefixEncoder implements Sizes {
  /** P */
  readonly prefixLength: number;
  /** Whether it has an MLP. */
  readonly projection: boolean;
  /** Width of the embedding; L*2*H without projection. */
  readonly inputDim: number;
  /** Width of the hidden layer; 0 without projection. */
  readonly hiddenDim: number;
  private handle: Native.Encoder | undefined;

  private constructor(
    /** The model that it is for. */
    readonly model: LoadedModel,
    handle: Native.Encoder,
    sizes: Sizes,
    /**
     * Mean squared error of the fit, 0 where the keys and values were taken as they are; undefined where there were
     * none.
     */
    readonly initError: number | undefined,
  ) {
    this.handle = handle;
    this.prefixLength = sizes.prefixLength;
    this.projection = sizes.projection;
    this.inputDim = sizes.inputDim;
    this.hiddenDim = sizes.hiddenDim;
  }

  /**
   * Makes an encoder for a model and initialises it.
   * @throws NEOX_BAD_ARGUMENT, NEOX_TOO_LONG, NEOX_DISPOSED; the tokenizer's error for `init: 'text'`; the reason of
   *   `signal`
   */
  static async create(model: LoadedModel, options: PrefixEncoderOptions = {}): Promise<PrefixEncoder> {
    checkModel(model);
    const signal = checkSignal('signal', checkOptions('options', options, namesOf(ENCODER_OPTIONS))['signal']);
    const {
      init,
      initSteps: steps,
      initLearningRate: learningRate,
      dropout,
      seed,
      ...sizes
    } = checkEncoderOptions(model, options);

    const handle = await runNative(signal, (addon) => addon.createEncoder(model.native, { ...sizes, dropout, seed }));
    if (init === 'zero') await zeroOutput(model, handle, sizes.projection);
    if (init === 'random' || init === 'zero') return new PrefixEncoder(model, handle, sizes, undefined);
    const ids =
      init === 'tokens'
        ? firstIds(sizes.prefixLength, model)
        : textIds(model, sizes.initText as string, sizes.prefixLength);
    checkLength('The initialisation', ids.length, model.config);
    const { pastKeyValues } = await model.track(
      forward(model, { inputIds: [ids], logits: 'none', ...(signal === undefined ? {} : { signal }) }),
    );
    using cache: KVCache = pastKeyValues;
    const target = (await cache.read()).data; // [P, L, 2, N, D]
    if (!sizes.projection) {
      await runNative(signal, (addon) => addon.setEncoderState(model.native, handle, { 'prefix_wte.weight': target }));
      return new PrefixEncoder(model, handle, sizes, 0);
    }
    const error = await runNative(signal, (addon, cancel) =>
      addon.fitEncoder(model.native, handle, { target, steps, learningRate, weightDecay: 0.01, cancel }),
    );
    return new PrefixEncoder(model, handle, sizes, error);
  }

  /**
   * An encoder with given parameters, for example one saved by {@link save} or trained elsewhere under rinna's names.
   * @throws NEOX_BAD_ARGUMENT; NEOX_PREFIX_MISMATCH for tensors of another model
   */
  static async fromState(
    model: LoadedModel,
    state: PrefixEncoderState,
    options: { dropout?: number; seed?: number } = {},
  ): Promise<PrefixEncoder> {
    checkModel(model);
    checkOptions('options', options, ['dropout', 'seed']);
    checkState(state);
    const embedding = state['prefix_wte.weight']?.shape;
    const hidden = state['prefix_mlp.0.weight']?.shape;
    const projection = Object.keys(state).some((name) => name.startsWith('prefix_mlp'));
    if (embedding?.length !== 2 || (projection && hidden?.length !== 2)) {
      throw badArgument(
        'state',
        `tensors ${PROJECTION_TENSORS.join(', ')}, or the first alone,`,
        Object.keys(state).join(', '),
      );
    }
    const sizes: Sizes = {
      prefixLength: embedding[0] as number,
      projection,
      inputDim: projection ? (embedding[1] as number) : outputDim(model),
      hiddenDim: hidden?.[0] ?? 0,
    };
    const values: Native.EncoderState = {};
    for (const [name, shape] of Object.entries(shapesOf(model, sizes))) {
      const tensor = state[name];
      if (
        tensor === undefined ||
        tensor.shape.join() !== shape.join() ||
        tensor.data.length !== shape.reduce((a, b) => a * b, 1)
      ) {
        throw new NeoXPrefixError(
          'NEOX_PREFIX_MISMATCH',
          `The encoder tensor ${name} has shape [${tensor?.shape.join(', ') ?? 'none'}], the model takes [${shape.join(', ')}]`,
        );
      }
      values[name] = tensor.data;
    }
    const { prefixLength, inputDim, hiddenDim } = sizes;
    const widths = projection ? { inputDim, hiddenDim } : {};
    const encoder = await PrefixEncoder.create(model, {
      prefixLength,
      projection,
      ...widths,
      ...options,
      init: 'random',
    });
    await runNative(undefined, (addon) => addon.setEncoderState(model.native, encoder.native, values));
    return encoder;
  }

  /**
   * Loads what {@link save} wrote, or the encoder of rinna's script (`initial.pt`: a state dict that torch.save wrote,
   * also under the key "model"). A prefix in any format that {@link PrefixWeights.load} reads, whose encoder is not
   * there any more, can be trained on as it is: it becomes an encoder without projection.
   * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CHECKPOINT (damaged file), NEOX_BAD_PREFIX (neither of them in it),
   *   NEOX_PREFIX_MISMATCH, NEOX_IO
   */
  static async load(
    model: LoadedModel,
    path: string,
    options: { dropout?: number; seed?: number } = {},
  ): Promise<PrefixEncoder> {
    checkModel(model);
    const tensors = await encoderTensors(checkPath('path', path));
    if (tensors === undefined) {
      const { data, shape } = await PrefixWeights.load(path, { config: model });
      return PrefixEncoder.fromState(model, stateOf(data, shape[0]), options);
    }
    const state: PrefixEncoderState = {};
    for (const [name, entry] of tensors) state[name] = { data: await readTensor(entry), shape: [...entry.shape] };
    return PrefixEncoder.fromState(model, state, options);
  }

  /** @internal Replaces the parameters by those of an encoder of the same sizes. */
  async setState(state: PrefixEncoderState): Promise<void> {
    const values = Object.fromEntries(Object.entries(state).map(([name, { data }]) => [name, data]));
    await runNative(undefined, (addon) => addon.setEncoderState(this.model.native, this.native, values));
  }

  /** A copy of the parameters, float32. */
  async state(): Promise<PrefixEncoderState> {
    const values = await runNative(undefined, (addon) => addon.encoderState(this.model.native, this.native));
    const shapes = shapesOf(this.model, this);
    return Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [name, { data: values[name] as Float32Array, shape }]),
    );
  }

  /**
   * Writes the parameters as safetensors under rinna's names, atomically.
   * @throws NEOX_DISPOSED, NEOX_IO
   */
  async save(path: string): Promise<void> {
    const state = await this.state();
    const tensors = Object.entries(state).map(([name, { data, shape }]) => ({
      name,
      dtype: 'F32' as const,
      shape,
      data,
    }));
    await writeSafetensors(checkPath('path', path), tensors, { format: 'pt', kind: 'neox-prefix encoder' });
  }

  /**
   * The prefix that the encoder gives now. It remembers the base model.
   * @param metadata what else it shall remember. Defaults to nothing.
   * @throws NEOX_DISPOSED, NEOX_BAD_ARGUMENT, NEOX_BAD_PREFIX for NaN or infinite values
   */
  async prefix(metadata: Omit<PrefixMetadata, 'formatVersion' | 'baseModel'> = {}): Promise<PrefixWeights> {
    const { model } = this;
    const data = await runNative(undefined, (addon) => addon.encoderOutput(model.native, this.native));
    const { numLayers, numHeads, headSize } = model.config;
    return PrefixWeights.fromTensor(data, {
      prefixLength: this.prefixLength,
      numLayers,
      numHeads,
      headSize,
      metadata: {
        ...metadata,
        baseModel: describeBaseModel(model.config, model.fingerprint, model.checkpoint.name),
      },
    });
  }

  /** Lets go of the memory; it is freed when nothing in flight uses it. */
  dispose(): void {
    this.handle = undefined;
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * What console.log shows.
   * @internal
   */
  [inspect.custom](): string {
    const { prefixLength, inputDim, hiddenDim } = this;
    const state = this.handle === undefined ? ', disposed' : '';
    return `PrefixEncoder(prefixLength ${prefixLength}, inputDim ${inputDim}, hiddenDim ${hiddenDim}${state})`;
  }

  /** @internal */
  get native(): Native.Encoder {
    if (this.handle === undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This prefix encoder is disposed');
    return this.handle;
  }
}

/** Rinna's names, in the order of the addon's flat buffers. */
const PROJECTION_TENSORS = [
  'prefix_wte.weight',
  'prefix_mlp.0.weight',
  'prefix_mlp.0.bias',
  'prefix_mlp.2.weight',
  'prefix_mlp.2.bias',
] as const;

function outputDim({ config }: LoadedModel): number {
  return keyValueWidth(config);
}

/** What an encoder is made with: every option decided. */
export interface ResolvedEncoderOptions extends Sizes {
  dropout: number;
  seed: number;
  init: PrefixInit;
  initText: string | undefined;
  initSteps: number;
  initLearningRate: number;
}

/** Checks and completes the options of an encoder for a model. */
export function checkEncoderOptions(model: LoadedModel, options: PrefixEncoderOptions): ResolvedEncoderOptions {
  checkOptions('options', options, namesOf(ENCODER_OPTIONS));
  const settings = completed(without(ENCODER_OPTIONS, 'signal'), options);
  const { projection, init, initText } = settings;
  for (const name of PROJECTION_OPTIONS) {
    if (!projection && options[name] !== undefined)
      throw badArgument(name, 'nothing beside projection: false', options[name]);
  }
  if ((init === 'text') !== (initText !== undefined))
    throw badArgument('initText', "a text exactly when init is 'text',", initText);
  checkInteger('prefixLength', settings.prefixLength, 1, maxPositions(model.config) - 1);
  return projection ? settings : { ...settings, inputDim: outputDim(model), hiddenDim: 0 };
}

function shapesOf(
  model: LoadedModel,
  { prefixLength, projection, inputDim, hiddenDim }: Sizes,
): Record<string, number[]> {
  if (!projection) return { 'prefix_wte.weight': [prefixLength, inputDim] };
  const output = outputDim(model);
  const shapes = [[prefixLength, inputDim], [hiddenDim, inputDim], [hiddenDim], [output, hiddenDim], [output]];
  return Object.fromEntries(PROJECTION_TENSORS.map((name, i) => [name, shapes[i] as number[]]));
}

async function zeroOutput(model: LoadedModel, encoder: Native.Encoder, projection: boolean): Promise<void> {
  await runNative(undefined, async (addon) => {
    const state = await addon.encoderState(model.native, encoder);
    for (const name of projection ? ['prefix_mlp.2.weight', 'prefix_mlp.2.bias'] : ['prefix_wte.weight'])
      state[name]?.fill(0);
    await addon.setEncoderState(model.native, encoder, state);
  });
}

/** The parameters of an encoder that is its prefix. */
function stateOf(data: Float32Array, prefixLength: number): PrefixEncoderState {
  return { 'prefix_wte.weight': { data, shape: [prefixLength, data.length / prefixLength] } };
}

function checkState(state: unknown): asserts state is PrefixEncoderState {
  if (!isObject(state)) throw badArgument('state', 'an object of tensors by name', state);
  for (const [name, tensor] of Object.entries(state)) {
    if (!isObject(tensor)) throw badArgument(`state['${name}']`, 'an object with data and shape', tensor);
    const { data, shape } = tensor;
    if (!types.isFloat32Array(data)) throw badArgument(`state['${name}'].data`, 'a Float32Array', data);
    if (!Array.isArray(shape)) throw badArgument(`state['${name}'].shape`, 'an array of sizes', shape);
  }
}

function firstIds(count: number, model: LoadedModel): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => i % model.config.vocabSize);
}

function textIds(model: LoadedModel, text: string, count: number): Int32Array {
  const ids = model.tokenizer.encode(text);
  if (ids.length === 0) throw badArgument('initText', 'a text with at least one token', text);
  return Int32Array.from({ length: count }, (_, i) => ids[i % ids.length] as number);
}
