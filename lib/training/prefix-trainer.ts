import type * as Native from '../../types/native';
import { runNative } from '../addon/run-native';
import { badArgument, checkBoolean, checkFunction, checkOptions, checkPath, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { namesOf, without } from '../base/options';
import type { Sample } from '../data/sample';
import type { TokenizedDataset } from '../data/tokenized-dataset';
import { JointWork } from '../distributed/joint-work';
import { checkGroup, type ProcessGroup } from '../distributed/process-group';
import type { Prompt } from '../generation/request';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import type { TrainingEvent } from '../runs/events';
import {
  checkEncoderOptions,
  ENCODER_OPTIONS,
  PrefixEncoder,
  type PrefixEncoderOptions,
  type PrefixEncoderState,
} from './encoder';
import { checkMetrics, type GenerationMetric, generationMetrics } from './generation-metrics';
import { LossScale } from './loss-scale';
import { affordsCopies } from './memory';
import { chooseMicroBatch, type MicroBatch } from './micro-batch';
import { type Progress, startOfRun } from './run-position';
import { CHANGEABLE, type Recipe, resolveRecipe, type TrainerOptions } from './recipe';
import { RowSource } from './row-source';
import { type OpenedRun, RunFolder } from './run-folder';
import { describeDifference, lanesOf, type RunIdentity, type RunState } from './run-state';
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
  /**
   * The ranks that train together, each over a model of its own: the steps are divided among them, and all get the same
   * result, to the last bit that of one process with as many `lanes`. Rank 0 alone has `outputDir` and gets events.
   * Defaults to none: this process is alone.
   */
  group?: ProcessGroup | undefined;
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
  'group',
  'onEvent',
  'resume',
  'overwrite',
  'metrics',
  'samplePrompts',
];

/** How a run begins or goes on. */
interface RunStart {
  identity: RunIdentity;
  recipe: Recipe;
  lanes: number;
  /** On rank 0. */
  folder: RunFolder | undefined;
  /** Where the run was resumed from; its tensors on rank 0. */
  saved: { path: string; progress: Progress; state?: RunState | undefined } | undefined;
}

/** What rank 0 tells the others of it. */
type SharedStart = Omit<RunStart, 'folder' | 'saved'> & { path: string; progress: Progress | null };

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
    const group = checkGroup('group', options.group);
    if (group !== undefined && this.recipe.lanes !== 'ranks' && this.recipe.lanes < group.size)
      throw badArgument('lanes', `at least ${group.size}, as many as there are ranks`, this.recipe.lanes);
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
      const settings = { ...options, resume, overwrite };
      if (group === undefined) return await this.prepareAndRun(data, settings, undefined);
      return await JointWork.run(group, signal, (joint) =>
        this.prepareAndRun(data, { ...settings, signal: joint.signal }, joint),
      );
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
    joint: JointWork | undefined,
  ): Promise<TrainingResult> {
    const { signal } = options;
    const open = (): ReturnType<PrefixTrainer['open']> => this.open(data, signal);
    const { train, validation } = await (joint?.each(open) ?? open());
    const identity = this.identity(train, validation);
    const training = { resume: options.resume, metrics: Object.keys(options.metrics ?? {}) };
    const own = { training, ...identity, recipe: { ...this.recipe } };
    await joint?.checkSame(own, describeDifference);
    const opened = await this.openRun(identity, options, joint);
    try {
      return await this.run(train, validation, opened, options, joint);
    } finally {
      await opened.folder?.close();
    }
  }

  /** Reads and checks the data. */
  private async open(
    data: TrainingData,
    signal: AbortSignal | undefined,
  ): Promise<{ train: RowSource; validation: RowSource | undefined }> {
    const { model, recipe } = this;
    const rows = { twoRows: recipe.twoRows, prefixLength: this.prefixLength, signal };
    const train = await RowSource.open(model, data.train, { ...rows, what: 'train' });
    if (train.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to train on');
    const hasValidation = data.validation !== undefined && data.validation.length > 0;
    const validation = hasValidation
      ? await RowSource.open(model, data.validation ?? [], { ...rows, what: 'validation' })
      : undefined;
    return { train, validation };
  }

  /** The run's folder, on rank 0, and what the run goes on from: all but the tensors on every rank. */
  private async openRun(
    fixed: RunIdentity,
    options: { resume: boolean; overwrite: boolean },
    joint: JointWork | undefined,
  ): Promise<RunStart> {
    const { outputDir } = this.options;
    const size = joint?.size ?? 1;
    const decide = (before: RunIdentity | undefined): Omit<RunStart, 'folder' | 'saved'> => {
      const lanes = this.lanes(before, size);
      return { lanes, recipe: { ...this.recipe, lanes }, identity: { ...fixed, ranks: { lanes } } };
    };
    if (joint !== undefined && joint.rank > 0) {
      const start = await joint.share(() => Promise.reject<SharedStart>(new Error('rank 0 shares it')));
      const { progress, path, ...decided } = start;
      return { ...decided, folder: undefined, saved: progress === null ? undefined : { path, progress } };
    }
    let opened: OpenedRun | undefined;
    const start = async (): Promise<SharedStart> => {
      opened = outputDir === undefined ? undefined : await RunFolder.open(outputDir, { ...options, decide });
      const { state, path = '' } = opened?.saved ?? {};
      return { ...decide(state?.identity), progress: state?.progress ?? null, path };
    };
    try {
      const { progress, path, ...decided } = await (joint?.share(start) ?? start());
      const state = opened?.saved?.state;
      return { ...decided, folder: opened?.folder, saved: progress === null ? undefined : { path, progress, state } };
    } catch (error) {
      await opened?.folder.close();
      throw error;
    }
  }

  /** Of a run that goes on, as many as it had. */
  private lanes(before: RunIdentity | undefined, size: number): number {
    const { lanes: given } = this.recipe;
    const lanes = given !== 'ranks' ? given : before === undefined ? size : lanesOf(before);
    if (lanes < size) {
      throw new NeoXPrefixError(
        'NEOX_RESUME_MISMATCH',
        `The run has ${lanes} ${lanes === 1 ? 'lane' : 'lanes'}, and there are ${size} ranks`,
        { hint: `start at most ${lanes} of them: a run goes on with any number of ranks up to that of its lanes` },
      );
    }
    return lanes;
  }

  private async run(
    train: RowSource,
    validation: RowSource | undefined,
    start: RunStart,
    options: TrainOptions,
    joint: JointWork | undefined,
  ): Promise<TrainingResult> {
    const { model } = this;
    const { signal } = options;
    const parts = await this.parts(train, validation, start, joint, options);
    const prompts =
      options.samplePrompts ?? (start.folder === undefined ? [] : await promptsOf(model, validation ?? train));
    const run = await TrainingRun.create({
      ...{ ...parts, identity: start.identity, folder: start.folder },
      measure: validation === undefined ? undefined : generationMetrics(model, validation, options.metrics, signal),
      writeSamples: prompts.length === 0 ? undefined : (prefix) => writeSamples(model, prompts, prefix, signal),
      onEvent: options.onEvent,
      finalEncoder: () => this.finalEncoder(parts.encoder, joint),
    });
    return run.run();
  }

  /** The trained encoder of rank 0, on every rank. */
  private async finalEncoder(own: PrefixEncoder | undefined, joint: JointWork | undefined): Promise<PrefixEncoder> {
    if (joint === undefined) return own as PrefixEncoder;
    const state = await own?.state();
    const shapes = await joint.share(() =>
      Promise.resolve(Object.entries(state ?? {}).map(([name, { shape }]) => ({ name, shape: [...shape] }))),
    );
    const all: PrefixEncoderState = {};
    for (const { name, shape } of shapes) {
      const size = shape.reduce((product, length) => product * length, 1);
      all[name] = { shape, data: await joint.broadcast(state?.[name]?.data ?? new Float32Array(size)) };
    }
    return own ?? this.encoderFrom(all);
  }

  /** The encoder and the optimizer, as they start or as a state has them. */
  private async parts(
    train: RowSource,
    validation: RowSource | undefined,
    { saved, lanes, recipe }: RunStart,
    joint: JointWork | undefined,
    { signal }: TrainOptions,
  ): Promise<Omit<RunParts, 'identity' | 'folder' | 'measure' | 'writeSamples' | 'onEvent' | 'finalEncoder'>> {
    const { model, prefixLength } = this;
    const state = saved?.state;
    // The fit at the start is work of rank 0, which the others wait for.
    const make = (): Promise<PrefixEncoder> => this.encoder(state, signal);
    const encoder = await (joint?.each(() => (joint.rank === 0 ? make() : Promise.resolve(undefined))) ?? make());
    const processes = joint?.group.localSize ?? 1;
    const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon, weightDecay, weightDecayOn: decay } = recipe;
    const copyWeights = affordsCopies(model, processes);
    const settings = {
      beta1,
      beta2,
      epsilon,
      weightDecay,
      decay,
      checkpointing: recipe.gradientCheckpointing,
      copyWeights,
      prefixLength,
      keepLanes: joint !== undefined,
    };
    const create = (): Promise<Native.Trainer> =>
      runNative(signal, (addon, cancel) =>
        addon.createTrainer(model.native, encoder?.native ?? null, { ...settings, cancel }),
      );
    const trainer = await (joint?.each(create) ?? create());
    if (state !== undefined)
      await runNative(signal, (addon) => addon.setTrainerState(model.native, trainer, state.optimizer));
    const memory: MicroBatch = chooseMicroBatch(
      model,
      encoder ?? { prefixLength, projection: false, inputDim: 0, hiddenDim: 0 },
      train,
      recipe,
      saved?.progress.microBatchSize,
      copyWeights,
      processes,
    );
    const choices = (await joint?.sync([memory.samples])) ?? [[memory.samples]];
    const samples = Math.min(...choices.flat());
    const lossScale = LossScale.create(recipe, model.dtype).save();
    const progress = saved?.progress ?? startOfRun(lossScale, samples);
    return {
      model,
      recipe,
      encoder,
      prefixLength,
      joint,
      lanes,
      best: await this.savedBest(saved, joint),
      trainer,
      train,
      validation,
      saved,
      progress,
      predictedMemoryBytes: memory.bytes,
      signal,
    };
  }

  /** The best prefix of the run so far, on every rank. */
  private async savedBest(saved: RunStart['saved'], joint: JointWork | undefined): Promise<Float32Array | undefined> {
    const own = saved?.state?.best;
    if (joint === undefined) return own;
    if (!(await joint.share(() => Promise.resolve(own !== undefined)))) return undefined;
    const { numLayers, hiddenSize } = this.model.config;
    return joint.broadcast(own ?? new Float32Array(this.prefixLength * numLayers * 2 * hiddenSize));
  }

  private async encoder(state: RunState | undefined, signal: AbortSignal | undefined): Promise<PrefixEncoder> {
    const { model, recipe, options } = this;
    if (state === undefined)
      return (
        options.encoder ?? PrefixEncoder.create(model, { ...encoderOptions(options, recipe.seed), ...given(signal) })
      );
    return this.encoderFrom(state.encoder);
  }

  private async encoderFrom(state: PrefixEncoderState): Promise<PrefixEncoder> {
    const { model, recipe, options } = this;
    if (options.encoder === undefined) {
      const dropout = options.dropout === undefined ? {} : { dropout: options.dropout };
      return PrefixEncoder.fromState(model, state, { ...dropout, seed: recipe.seed });
    }
    await options.encoder.setState(state);
    return options.encoder;
  }

  /** What must be the same for a run to be resumed. */
  private identity(train: RowSource, validation: RowSource | undefined): RunIdentity {
    const { model, recipe, options } = this;
    const { dtype, backend } = model.info();
    const apart: readonly string[] = [...CHANGEABLE, 'lanes'];
    const fixed = Object.entries(recipe).filter(([name]) => !apart.includes(name));
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
