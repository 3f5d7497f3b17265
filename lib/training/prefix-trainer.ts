import { badArgument, checkFunction, checkOptions, checkSignal, checkString } from '../arguments';
import { epochOrder } from '../data/order';
import type { Sample } from '../data/sample';
import { TokenizedDataset } from '../data/tokenized-dataset';
import { NeoXPrefixError } from '../errors';
import { checkModel, type NeoXModel } from '../model/neox-model';
import { runNative } from '../native-call';
import { PrefixEncoder } from '../prefix/encoder';
import type { JsonValue, PrefixWeights } from '../prefix/weights';
import type * as Native from '../../types/native';
import { packBatch, prepareRows, type SampleRows } from './batches';
import { evaluateRows, type EvaluationResult } from './evaluate';
import type { TrainingEvent } from './events';
import { learningRateAt, resolveRecipe, type Recipe, type TrainerOptions } from './recipe';
import { RunFolder } from './run-folder';

export interface TrainingData {
  train: readonly Sample[] | TokenizedDataset;
  /** Evaluated after each epoch; decides which prefix is the best. Defaults to none: the last prefix is the best. */
  validation?: readonly Sample[] | TokenizedDataset;
}

export interface TrainOptions {
  /** Stops within a layer; what was saved stays. */
  signal?: AbortSignal;
  /** Called for each event, in order. What it throws stops the run. */
  onEvent?: (event: TrainingEvent) => void;
}

export interface EpochMetrics {
  epoch: number;
  /** Optimizer steps so far. */
  step: number;
  /** Mean over the epoch's target tokens. */
  trainLoss: number;
  validation: EvaluationResult | undefined;
}

export interface TrainingResult {
  /** The prefix of the epoch with the lowest validation loss; the last one when there is no validation data. */
  best: PrefixWeights;
  /** The prefix after the last step. */
  last: PrefixWeights;
  /** The trained encoder, to go on from. */
  encoder: PrefixEncoder;
  bestEpoch: number;
  epochs: EpochMetrics[];
  /** Optimizer steps taken. */
  steps: number;
  seconds: number;
}

/**
 * Trains a prefix for one task over a frozen model, by rinna's recipe unless told otherwise. Only the prefix encoder has gradients; no
 * weight gradient of the base model is ever computed.
 *
 * ```ts
 * const trainer = new PrefixTrainer(model, { name: 'smileface', epochs: 3, learningRate: 5e-3 });
 * const { best } = await trainer.train({ train, validation }, { onEvent: console.log });
 * ```
 */
export class PrefixTrainer {
  readonly recipe: Readonly<Recipe>;
  private readonly options: TrainerOptions;

  /** @throws NEOX_BAD_ARGUMENT */
  constructor(
    readonly model: NeoXModel,
    options: TrainerOptions = {},
  ) {
    checkModel(model);
    this.recipe = resolveRecipe(options);
    this.options = { ...options };
    if (options.outputDir !== undefined) checkString('outputDir', options.outputDir);
    if (options.encoder === undefined) return;
    if (!(options.encoder instanceof PrefixEncoder) || options.encoder.model !== model)
      throw badArgument('encoder', 'a PrefixEncoder of this model', options.encoder);
    for (const name of ['prefixLength', 'inputDim', 'hiddenDim', 'dropout', 'init', 'initText', 'initSteps', 'initLearningRate'] as const) {
      if (options[name] !== undefined) throw badArgument(name, 'nothing beside encoder, which decides it,', options[name]);
    }
  }

  /**
   * Runs the training.
   * @throws NEOX_BAD_ARGUMENT, NEOX_BAD_DATA, NEOX_TOO_LONG, NEOX_IO, NEOX_DISPOSED; the reason of `signal`; what `onEvent` throws
   */
  async train(data: TrainingData, options: TrainOptions = {}): Promise<TrainingResult> {
    checkOptions('options', options, ['signal', 'onEvent']);
    if (data === undefined) throw badArgument('data', 'an object', data);
    checkOptions('data', data, ['train', 'validation']);
    const signal = checkSignal('signal', options.signal);
    const onEvent = options.onEvent === undefined ? undefined : checkFunction('onEvent', options.onEvent);
    signal?.throwIfAborted();
    if (!Array.isArray(data.train) && !(data.train instanceof TokenizedDataset)) throw badArgument('data.train', 'an array of samples', data.train);
    if (data.train.length === 0) throw new NeoXPrefixError('NEOX_BAD_DATA', 'There is no sample to train on');
    const run = await TrainingRun.prepare(this.model, this.recipe, this.options, data, signal, onEvent);
    return run.train();
  }
}

/** One call of train(): what is fixed, and where it stands. */
class TrainingRun {
  private step = 0;
  private best: { prefix: PrefixWeights; loss: number; epoch: number } | undefined;
  private readonly history: EpochMetrics[] = [];

  private constructor(
    private readonly model: NeoXModel,
    private readonly recipe: Recipe,
    private readonly encoder: PrefixEncoder,
    private readonly trainer: Native.Trainer,
    private readonly train_: readonly SampleRows[],
    private readonly validation: readonly SampleRows[],
    private readonly folder: RunFolder | undefined,
    private readonly signal: AbortSignal | undefined,
    private readonly onEvent: ((event: TrainingEvent) => void) | undefined,
  ) {}

  static async prepare(
    model: NeoXModel,
    recipe: Recipe,
    options: TrainerOptions,
    data: TrainingData,
    signal: AbortSignal | undefined,
    onEvent: ((event: TrainingEvent) => void) | undefined,
  ): Promise<TrainingRun> {
    const prefixLength = options.encoder?.prefixLength ?? options.prefixLength ?? 10;
    const { twoRows } = recipe;
    const train = await prepareRows(model, data.train, { twoRows, prefixLength, what: 'train', signal });
    const validation = await prepareRows(model, data.validation ?? [], { twoRows, prefixLength, what: 'validation', signal });
    const folder = options.outputDir === undefined ? undefined : await RunFolder.create(options.outputDir, recipe);
    const encoder = options.encoder ?? (await PrefixEncoder.create(model, encoderOptions(options, recipe.seed, signal)));
    const optimizer = { beta1: recipe.adamBeta1, beta2: recipe.adamBeta2, epsilon: recipe.adamEpsilon, weightDecay: recipe.weightDecay };
    const trainer = await runNative(signal, (addon, cancel) => addon.createTrainer(model.native, encoder.native, { ...optimizer, cancel }));
    return new TrainingRun(model, recipe, encoder, trainer, train, validation, folder, signal, onEvent);
  }

  async train(): Promise<TrainingResult> {
    const started = performance.now();
    const { recipe, encoder } = this;
    const stepsPerEpoch = Math.ceil(Math.ceil(this.train_.length / recipe.batchSize) / recipe.accumulationSteps);
    await this.emit({
      type: 'start',
      totalSteps: Math.min(recipe.trainingSteps, recipe.epochs * stepsPerEpoch),
      stepsPerEpoch,
      epochs: recipe.epochs,
      trainSamples: this.train_.length,
      validationSamples: this.validation.length,
      trainableParameters: Object.values(await encoder.state()).reduce((sum, { data }) => sum + data.length, 0),
      initError: encoder.initError,
    });
    let last: PrefixWeights | undefined;
    for (let epoch = 1; epoch <= recipe.epochs && this.step < recipe.trainingSteps; epoch++) last = await this.runEpoch(epoch);
    if (last === undefined) throw new NeoXPrefixError('NEOX_NATIVE', 'The training run took no step');
    const { prefix: best, epoch: bestEpoch } = this.best ?? { prefix: last, epoch: this.history.length };
    return { best, last, encoder, bestEpoch, epochs: this.history, steps: this.step, seconds: (performance.now() - started) / 1000 };
  }

  private async runEpoch(epoch: number): Promise<PrefixWeights> {
    const { recipe } = this;
    const started = performance.now();
    const order = recipe.shuffle ? epochOrder(this.train_.length, recipe.seed, epoch) : this.train_.map((_, i) => i);
    const samplesPerStep = recipe.batchSize * recipe.accumulationSteps;
    let [loss, tokens] = [0, 0];
    for (let first = 0; first < order.length && this.step < recipe.trainingSteps; first += samplesPerStep) {
      const result = await this.runStep(
        epoch,
        order.slice(first, first + samplesPerStep).map((i) => this.train_[i] as SampleRows),
      );
      loss += result.loss * result.tokens;
      tokens += result.tokens;
    }
    const trainLoss = loss / tokens;
    const prefix = await this.currentPrefix(epoch, { trainLoss });
    const validation = await this.evaluate(epoch, prefix);
    this.history.push({ epoch, step: this.step, trainLoss, validation });
    await this.save(epoch, prefix);
    const seconds = (performance.now() - started) / 1000;
    await this.emit({ type: 'epoch', step: this.step, epoch, trainLoss, trainPerplexity: Math.exp(trainLoss), seconds });
    return prefix;
  }

  private async runStep(epoch: number, samples: readonly SampleRows[]): Promise<Native.StepResult> {
    const { recipe, model, trainer } = this;
    const started = performance.now();
    for (let first = 0; first < samples.length; first += recipe.batchSize) {
      const batch = packBatch(samples.slice(first, first + recipe.batchSize));
      await runNative(this.signal, (addon, cancel) => addon.trainerAccumulate(model.native, trainer, { ...batch, cancel }));
    }
    const learningRate = learningRateAt(this.step, recipe);
    const result = await runNative(this.signal, (addon) =>
      addon.trainerStep(model.native, trainer, { learningRate, gradClip: recipe.gradClip }),
    );
    if (!Number.isFinite(result.loss) || !Number.isFinite(result.gradNorm)) {
      throw new NeoXPrefixError(
        'NEOX_BAD_PREFIX',
        `The training diverged at step ${this.step + 1}: loss ${result.loss}, gradient norm ${result.gradNorm}`,
        {
          hint: 'use a lower learning rate, a warm-up, or dtype float32 or bfloat16 in place of float16',
        },
      );
    }
    this.step++;
    const tokensPerSecond = result.tokens / ((performance.now() - started) / 1000);
    await this.emit({ type: 'step', step: this.step, epoch, ...result, learningRate, tokensPerSecond });
    return result;
  }

  private async evaluate(epoch: number, prefix: PrefixWeights): Promise<EvaluationResult | undefined> {
    if (this.validation.length === 0) return undefined;
    const result = await evaluateRows(this.model, this.validation, { prefix, batchSize: this.recipe.batchSize, signal: this.signal });
    const best = this.best === undefined || result.loss < this.best.loss;
    if (best) {
      const metrics = { ...prefix.metadata.metrics, validationLoss: result.loss, validationPerplexity: result.perplexity };
      this.best = { prefix: prefix.withMetadata({ metrics }), loss: result.loss, epoch };
    }
    await this.emit({ type: 'evaluation', step: this.step, epoch, best, ...result });
    return result;
  }

  private async save(epoch: number, last: PrefixWeights): Promise<void> {
    if (this.folder === undefined) return;
    if (this.best === undefined || this.best.epoch === epoch) {
      const path = await this.folder.savePrefix('best', this.best?.prefix ?? last);
      await this.emit({ type: 'checkpoint', step: this.step, epoch, kind: 'best', path });
    }
    await this.folder.saveEncoder(this.encoder);
    const path = await this.folder.savePrefix('last', last);
    await this.emit({ type: 'checkpoint', step: this.step, epoch, kind: 'last', path });
  }

  private async currentPrefix(epoch: number, metrics: Record<string, JsonValue>): Promise<PrefixWeights> {
    const { model, recipe } = this;
    const tokenizer = model.hasTokenizer ? { tokenizerHash: model.tokenizer.hash } : {};
    return this.encoder.prefix({ task: recipe.name, ...tokenizer, recipe: { ...recipe }, metrics: { epoch, step: this.step, ...metrics } });
  }

  private async emit(event: TrainingEvent): Promise<void> {
    this.onEvent?.(event);
    await this.folder?.log(event);
  }
}

function encoderOptions(
  options: TrainerOptions,
  seed: number,
  signal: AbortSignal | undefined,
): Parameters<typeof PrefixEncoder.create>[1] {
  const { prefixLength, inputDim, hiddenDim, dropout, init, initText, initSteps, initLearningRate } = options;
  const given = { prefixLength, inputDim, hiddenDim, dropout, init, initText, initSteps, initLearningRate, signal };
  return { seed, ...(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as object) };
}
