import { runNative } from '../addon/run-native';
import { badArgument, checkBoolean, checkFunction, checkOptions, checkPath, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { namesOf, without } from '../base/options';
import type { Sample } from '../data/sample';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import type { Prompt } from '../generation/request';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import type { TrainingEvent } from '../runs/events';
import { checkEncoderOptions, ENCODER_OPTIONS, PrefixEncoder, type PrefixEncoderOptions } from './encoder';
import { checkMetrics, type GenerationMetric, generationMetrics } from './generation-metrics';
import { LossScale } from './loss-scale';
import { affordsCopies } from './memory';
import { chooseMicroBatch, type MicroBatch } from './micro-batch';
import { startOfRun } from './run-position';
import { CHANGEABLE, type Recipe, resolveRecipe, type TrainerOptions } from './recipe';
import { RowSource } from './row-source';
import { type OpenedRun, RunFolder } from './run-folder';
import type { RunIdentity, RunState } from './run-state';
import { checkPrompts, promptsOf, writeSamples } from './example-texts';
import { type RunParts, type TrainingResult, TrainingRun } from './training-run';

export interface TrainingData {
  /** Samples to train on, in memory, or opened with {@link openDataset}. */
  train: readonly Sample[] | TokenizedDataset;
  /**
   * Evaluated during and after the training; decides which prefix is the best. Defaults to none: the last prefix is the
   * best.
   */
  validation?: readonly Sample[] | TokenizedDataset;
}

export interface TrainOptions {
  /** Stops within a layer. With `outputDir` the state is saved first, and `resume` goes on from there. */
  signal?: AbortSignal;
  /** Called for each event, in order. What it throws stops the run. */
  onEvent?: (event: TrainingEvent) => void;
  /**
   * Go on from the newest state in `outputDir` that is whole, as if the run had never stopped: the result is the same
   * to the last bit. Where no state was saved, the run begins; where none of those saved is whole, that is an error. Of
   * the options only those of when to stop and to save may have changed. Defaults to `false`.
   */
  resume?: boolean;
  /** Replace a run that is in `outputDir` already. Defaults to `false`: that is an error. */
  overwrite?: boolean;
  /** Figures of what the model writes with the prefix, at each evaluation; see {@link evaluate}. Defaults to none. */
  metrics?: Readonly<Record<string, GenerationMetric>>;
  /**
   * Prompts that the model continues before and after the training, for the report; [] for none. Defaults to the
   * beginnings of three validation samples when there is an `outputDir`.
   */
  samplePrompts?: readonly Prompt[];
}

const TRAIN_OPTIONS: readonly (keyof TrainOptions)[] = [
  'signal',
  'onEvent',
  'resume',
  'overwrite',
  'metrics',
  'samplePrompts',
];

/** Encoders that a run is changing; two at once would mix their updates. */
const inTraining = new WeakSet<PrefixEncoder>();

/**
 * Trains a prefix for one task over a frozen model, by rinna's recipe unless told otherwise. Only the prefix encoder
 * has gradients; no weight gradient of the base model is ever computed.
 *
 * ```ts
 * const trainer = new PrefixTrainer(model, { name: 'smileface', epochs: 3, learningRate: 5e-3, outputDir:
 * 'runs/smileface' }); const { best } = await trainer.train({ train, validation }, { onEvent: console.log, resume: true
 * });
 * ```
 */
export class PrefixTrainer {
  /** Every option of the training decided; those of the encoder are apart. */
  readonly recipe: Readonly<Recipe>;
  private readonly options: TrainerOptions;

  /** @throws NEOX_BAD_ARGUMENT */
  constructor(
    /** The base model. */
    readonly model: LoadedModel,
    options: TrainerOptions = {},
  ) {
    checkModel(model);
    this.recipe = resolveRecipe(options);
    this.options = { ...options };
    if (options.outputDir !== undefined) checkPath('outputDir', options.outputDir);
    if (options.encoder === undefined) {
      checkEncoderOptions(model, encoderOptions(options, this.recipe.seed));
      return;
    }
    if (!(options.encoder instanceof PrefixEncoder) || options.encoder.model !== model)
      throw badArgument('encoder', 'a PrefixEncoder of this model', options.encoder);
    for (const name of namesOf(ENCODER_OPTIONS)) {
      if (name === 'seed' || name === 'signal') continue;
      if (options[name] !== undefined)
        throw badArgument(name, 'nothing beside encoder, which decides it,', options[name]);
    }
  }

  /**
   * Runs the training.
   * @throws NEOX_BAD_ARGUMENT, NEOX_BAD_DATA, NEOX_TOO_LONG, NEOX_IO, NEOX_DISPOSED; NEOX_BUSY while another run trains
   *   the same encoder or writes into the same folder; NEOX_RESUME_MISMATCH; NEOX_NOT_FINITE for a training that
   *   diverges; the reason of `signal`; what `onEvent` throws
   */
  async train(data: TrainingData, options: TrainOptions = {}): Promise<TrainingResult> {
    checkOptions('options', options, TRAIN_OPTIONS);
    if (data === undefined) throw badArgument('data', 'an object', data);
    checkOptions('data', data, ['train', 'validation']);
    const signal = checkSignal('signal', options.signal);
    if (options.onEvent !== undefined) checkFunction('onEvent', options.onEvent);
    const resume = checkBoolean('resume', options.resume ?? false);
    const overwrite = checkBoolean('overwrite', options.overwrite ?? false);
    if ((resume || overwrite) && this.options.outputDir === undefined)
      throw badArgument(resume ? 'resume' : 'overwrite', 'an outputDir with it', true);
    if (resume && overwrite) throw badArgument('overwrite', 'nothing beside resume', overwrite);
    checkMetrics(options.metrics);
    this.checkSamplePrompts(options.samplePrompts);
    const { encoder } = this.options;
    if (encoder !== undefined && inTraining.has(encoder)) {
      throw new NeoXPrefixError('NEOX_BUSY', 'Another training run is changing this encoder', {
        hint: 'wait for it, or give each run an encoder of its own',
      });
    }
    signal?.throwIfAborted();
    if (encoder !== undefined) inTraining.add(encoder);
    try {
      return await this.prepareAndRun(data, { ...options, resume, overwrite });
    } finally {
      if (encoder !== undefined) inTraining.delete(encoder);
    }
  }

  /**
   * Checks that the model can continue the prompts behind the prefix that is to be trained.
   * @internal
   */
  checkSamplePrompts(prompts: TrainOptions['samplePrompts']): void {
    if (prompts !== undefined) checkPrompts('samplePrompts', prompts, this.model, this.prefixLength);
  }

  private get prefixLength(): number {
    return this.options.encoder?.prefixLength ?? this.options.prefixLength ?? 10;
  }

  private async prepareAndRun(
    data: TrainingData,
    options: TrainOptions & { resume: boolean; overwrite: boolean },
  ): Promise<TrainingResult> {
    const { model, recipe } = this;
    const { signal } = options;
    const { outputDir } = this.options;
    const rows = { twoRows: recipe.twoRows, prefixLength: this.prefixLength, signal };
    const train = await RowSource.open(model, data.train, { ...rows, what: 'train' });
    if (train.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to train on');
    const hasValidation = data.validation !== undefined && data.validation.length > 0;
    const validation = hasValidation
      ? await RowSource.open(model, data.validation ?? [], { ...rows, what: 'validation' })
      : undefined;
    const identity = this.identity(train, validation);
    const opened =
      outputDir === undefined ? undefined : await RunFolder.open(outputDir, recipe, { ...options, identity });
    try {
      const parts = await this.parts(train, validation, opened?.saved, options);
      const prompts =
        options.samplePrompts ?? (opened === undefined ? [] : await promptsOf(model, validation ?? train));
      const run = await TrainingRun.create({
        ...{ ...parts, identity, folder: opened?.folder },
        measure: validation === undefined ? undefined : generationMetrics(model, validation, options.metrics, signal),
        writeSamples: prompts.length === 0 ? undefined : (prefix) => writeSamples(model, prompts, prefix, signal),
        onEvent: options.onEvent,
      });
      return await run.run();
    } finally {
      await opened?.folder.close();
    }
  }

  /** The encoder and the optimizer, as they start or as a state has them. */
  private async parts(
    train: RowSource,
    validation: RowSource | undefined,
    saved: OpenedRun['saved'],
    { signal }: TrainOptions,
  ): Promise<Omit<RunParts, 'identity' | 'folder' | 'measure' | 'writeSamples' | 'onEvent'>> {
    const { model, recipe } = this;
    const state = saved?.state;
    const encoder = await this.encoder(state, signal);
    const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon, weightDecay, weightDecayOn: decay } = recipe;
    const copyWeights = affordsCopies(model);
    const settings = {
      beta1,
      beta2,
      epsilon,
      weightDecay,
      decay,
      checkpointing: recipe.gradientCheckpointing,
      copyWeights,
    };
    const trainer = await runNative(signal, (addon, cancel) =>
      addon.createTrainer(model.native, encoder.native, { ...settings, cancel }),
    );
    if (state !== undefined)
      await runNative(signal, (addon) => addon.setTrainerState(model.native, trainer, state.optimizer));
    const memory: MicroBatch = chooseMicroBatch(
      model,
      encoder,
      train,
      recipe,
      state?.progress.microBatchSize,
      copyWeights,
    );
    const lossScale = LossScale.create(recipe, model.dtype).save();
    const progress = state?.progress ?? startOfRun(lossScale, memory.samples);
    return {
      model,
      recipe,
      encoder,
      trainer,
      train,
      validation,
      saved,
      progress,
      predictedMemoryBytes: memory.bytes,
      signal,
    };
  }

  private async encoder(state: RunState | undefined, signal: AbortSignal | undefined): Promise<PrefixEncoder> {
    const { model, recipe, options } = this;
    if (state === undefined)
      return (
        options.encoder ?? PrefixEncoder.create(model, { ...encoderOptions(options, recipe.seed), ...given(signal) })
      );
    if (options.encoder === undefined) {
      const dropout = options.dropout === undefined ? {} : { dropout: options.dropout };
      return PrefixEncoder.fromState(model, state.encoder, { ...dropout, seed: recipe.seed });
    }
    await options.encoder.setState(state.encoder);
    return options.encoder;
  }

  /** What must be the same for a run to be resumed. */
  private identity(train: RowSource, validation: RowSource | undefined): RunIdentity {
    const { model, recipe, options } = this;
    const { dtype, backend } = model.info();
    const fixed = Object.entries(recipe).filter(([name]) => !(CHANGEABLE as readonly string[]).includes(name));
    // Some schedules reach into the future: how many steps there will be decides what the next one does.
    if (recipe.decaySteps === 'run') fixed.push(['epochs', recipe.epochs]);
    const { encoder } = options;
    return {
      model: { fingerprint: model.fingerprint, dtype, backend },
      data: { train: train.dataset.hash, validation: validation?.dataset.hash ?? null },
      recipe: Object.fromEntries(fixed),
      encoder:
        encoder === undefined
          ? { ...checkEncoderOptions(model, encoderOptions(options, recipe.seed)) }
          : {
              prefixLength: encoder.prefixLength,
              inputDim: encoder.inputDim,
              hiddenDim: encoder.hiddenDim,
              given: true,
            },
    };
  }
}

function given(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

function encoderOptions(options: TrainerOptions, seed: number): PrefixEncoderOptions {
  const values = namesOf(without(ENCODER_OPTIONS, 'signal', 'seed')).map((name) => [name, options[name]] as const);
  return { seed, ...(Object.fromEntries(values.filter(([, value]) => value !== undefined)) as object) };
}
