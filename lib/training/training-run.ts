import { basename } from 'node:path';
import type * as Native from '../../types/native';
import { runNative } from '../addon/run-native';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { BatchPlan } from '../data/batch-plan';
import type { JointWork } from '../distributed/joint-work';
import type { LoadedModel } from '../model/loaded-model';
import { describeBaseModel, type JsonValue, PrefixWeights } from '../prefix/weights';
import type { EvaluationResult, TrainingEvent } from '../runs/events';
import { packBatch, type SampleRows } from './batches';
import type { PrefixEncoder } from './encoder';
import { evaluateSource } from './evaluate';
import { accumulateLanes, type StepTimes } from './lanes';
import { LossScale } from './loss-scale';
import { meanNorms } from './prefix-norms';
import type { EndReason, EpochMetrics, Progress } from './run-position';
import type { Recipe } from './recipe';
import type { RowSource } from './row-source';
import type { RunFolder } from './run-folder';
import type { RunIdentity } from './run-state';
import { learningRateAt } from './schedule';

export interface TrainingResult {
  /** The prefix with the lowest validation loss; the last one when there is no validation data. */
  best: PrefixWeights;
  /** The prefix after the last step. */
  last: PrefixWeights;
  /** The trained encoder, to go on from. */
  encoder: PrefixEncoder;
  /** The epoch and the optimizer step of `best`. */
  bestEpoch: number;
  bestStep: number;
  /** Validation loss of `best`; undefined without validation data. */
  bestLoss: number | undefined;
  epochs: EpochMetrics[];
  /** Optimizer steps taken. */
  steps: number;
  /** Why the run ended. */
  reason: EndReason;
  /** Of the whole run; what came before a resume is counted. */
  seconds: number;
}

/** What a run consists of, prepared and checked. */
export interface RunParts {
  model: LoadedModel;
  recipe: Recipe;
  /** Undefined where another rank has it. */
  encoder: PrefixEncoder | undefined;
  prefixLength: number;
  trainer: Native.Trainer;
  /** Of several ranks; undefined: this process is alone. */
  joint: JointWork | undefined;
  lanes: number;
  train: RowSource;
  validation: RowSource | undefined;
  identity: RunIdentity;
  folder: RunFolder | undefined;
  /** Where the run was resumed from. */
  saved: { path: string } | undefined;
  /** [P, L, 2, N, D] of the best prefix before. */
  best: Float32Array | undefined;
  progress: Progress;
  predictedMemoryBytes: number;
  /** A user's own figures for a prefix, added to each evaluation. */
  measure: ((prefix: PrefixWeights) => Promise<Record<string, number>>) | undefined;
  /** Texts for people: what the model writes with a prefix or without. Undefined where none are wanted. */
  writeSamples:
    | ((prefix: PrefixWeights | undefined) => Promise<Extract<TrainingEvent, { type: 'samples' }>['samples']>)
    | undefined;
  signal: AbortSignal | undefined;
  onEvent: ((event: TrainingEvent) => void) | undefined;
  /** The trained encoder, on every rank. */
  finalEncoder: () => Promise<PrefixEncoder>;
}

/**
 * One run, from where its progress stands to its end. Everything that decides what the next step does is in `progress`,
 * in the native trainer or in the encoder, and all three are saved together: a run that is resumed does what it would
 * have done.
 */
export class TrainingRun {
  private readonly recipe: Recipe;
  private readonly progress: Progress;
  private readonly lossScale: LossScale;
  private best: PrefixWeights | undefined;
  /** Of the first epoch; with `batchTokens` the others have a few more or less. */
  private readonly stepsPerEpoch: number;
  private readonly startedAt: number;
  /** Mean time of the steps of this process, for the estimate of what is left. */
  private readonly stepTime = { seconds: 0, steps: 0 };
  private savedStep: number;
  /** Whether this process has the encoder and writes. */
  private readonly isOwner: boolean;
  /** Of rank 0 behind the last step, which decides for all whether the time is over. */
  private sharedSeconds: number;
  /** False between the encoder's step and what is told of it: a rank that is lost then is no reason to save. */
  private isWhole = true;

  static async create(parts: RunParts): Promise<TrainingRun> {
    const first = await planOf(parts, 1);
    const { epoch } = parts.progress;
    return new TrainingRun(parts, first, epoch === 1 ? first : await planOf(parts, epoch));
  }

  private constructor(
    private readonly parts: RunParts,
    first: BatchPlan,
    /** Of the present epoch. */
    private plan: BatchPlan,
  ) {
    const { progress, recipe, model, best } = parts;
    this.recipe = recipe;
    this.progress = progress;
    this.isOwner = parts.encoder !== undefined;
    this.sharedSeconds = progress.seconds;
    this.lossScale = LossScale.create(recipe, model.dtype, progress.lossScale);
    this.startedAt = performance.now() - progress.seconds * 1000;
    this.savedStep = progress.step;
    this.stepsPerEpoch = Math.ceil(first.length / recipe.accumulationSteps);
    if (best !== undefined) this.best = this.prefixOf(best);
  }

  async run(): Promise<TrainingResult> {
    try {
      return await this.runToEnd();
    } catch (error) {
      // The last finished step is whole also where another rank is lost.
      const isLost = isNeoXPrefixError(error) && error.code === 'NEOX_PEER_LOST';
      const isWhole = this.isOwner && (this.parts.joint === undefined || this.isWhole);
      if (isWhole && (this.parts.signal?.aborted === true || isLost)) await this.saveAborted();
      throw error;
    }
  }

  private async runToEnd(): Promise<TrainingResult> {
    await this.begin();
    await this.solo(() => this.showBeginning());
    const { progress, recipe } = this;
    for (;;) {
      const epochOver = progress.batch >= this.plan.length && progress.accumulated === 0;
      const limit = this.limitReached(epochOver);
      if (this.evaluationDue(epochOver, limit)) await this.evaluate();
      const isOutOfPatience =
        recipe.earlyStoppingPatience > 0 && (progress.patience?.used ?? 0) >= recipe.earlyStoppingPatience;
      const reason = limit ?? (isOutOfPatience && this.isBetweenSteps() ? 'early-stopping' : undefined);
      if ((epochOver || reason !== undefined) && !progress.closed) await this.solo(() => this.closeEpoch());
      if (reason !== undefined) return this.finish(reason);
      if (epochOver) await this.nextEpoch();
      else {
        progress.closed = false;
        if (
          recipe.saveEverySteps > 0 &&
          progress.step % recipe.saveEverySteps === 0 &&
          this.savedStep !== progress.step
        )
          await this.solo(() => this.save());
        await this.runStep();
      }
    }
  }

  private async begin(): Promise<void> {
    const { progress, recipe, parts } = this;
    const { encoder, train, validation, saved, predictedMemoryBytes, joint, lanes } = parts;
    if (encoder === undefined) return;
    if (saved !== undefined) {
      const { step, epoch, seconds } = progress;
      return this.emit({
        type: 'resume',
        step,
        epoch,
        seconds,
        from: saved.path,
        totalSteps: this.totalSteps(),
        epochs: recipe.epochs,
      });
    }
    await this.emit({
      type: 'start',
      totalSteps: this.totalSteps(),
      stepsPerEpoch: this.stepsPerEpoch,
      epochs: recipe.epochs,
      trainSamples: train.length,
      validationSamples: validation?.length ?? 0,
      trainableParameters: Object.values(await encoder.state()).reduce((sum, { data }) => sum + data.length, 0),
      initError: encoder.initError,
      predictedMemoryBytes,
      microBatchSize: progress.microBatchSize,
      ...(joint === undefined ? {} : { ranks: joint.size, lanes, hosts: joint.group.hosts }),
    });
  }

  private async showBeginning(): Promise<void> {
    if (this.parts.saved !== undefined || !this.isOwner) return;
    await this.saveAbout();
    await this.showPrefix(await this.currentPrefix());
    await this.showSamples(undefined);
  }

  /** What rank 0 does while the others wait for it, however long it takes. All of them note what it comes to. */
  private async solo(work: () => Promise<void>): Promise<void> {
    const { joint } = this.parts;
    if (joint === undefined) return work();
    if (!this.isOwner) await work();
    await joint.share(() => work().then(() => null));
  }

  private limitReached(epochOver: boolean): EndReason | undefined {
    const { progress, recipe } = this;
    if (!this.isBetweenSteps()) return undefined;
    if (progress.step >= recipe.trainingSteps) return 'steps';
    if (epochOver && progress.epoch >= recipe.epochs) return 'epochs';
    const seconds = this.parts.joint === undefined ? this.seconds() : this.sharedSeconds;
    return recipe.maxSeconds > 0 && progress.step > 0 && seconds >= recipe.maxSeconds ? 'time' : undefined;
  }

  private isBetweenSteps(): boolean {
    return this.progress.accumulated === 0 && this.progress.sample === 0;
  }

  // ---- steps ----

  /** One optimizer step, or what is left of one. */
  private async runStep(): Promise<void> {
    const { progress, recipe, parts } = this;
    const { model } = parts;
    const started = performance.now();
    let times: StepTimes | undefined;
    if (parts.lanes === 1) await this.accumulateBatches();
    else times = await this.accumulateInLanes();
    const learningRate = learningRateAt(progress.step, recipe, this.totalSteps());
    this.isWhole = false;
    const result = await this.update(learningRate);
    const lossScale = this.lossScale.scale;
    const isGoing = this.lossScale.update(result.applied);
    progress.lossScale = this.lossScale.save();
    progress.accumulated = 0;
    progress.step++;
    if (!Number.isFinite(result.loss) || !isGoing) throw this.diverged(result);
    progress.epochLoss.sum += result.loss * result.tokens;
    progress.epochLoss.tokens += result.tokens;
    const seconds = (performance.now() - started) / 1000;
    this.stepTime.seconds += seconds;
    this.stepTime.steps++;
    await this.emit({
      type: 'step',
      ...{ step: progress.step, epoch: progress.epoch, ...result, learningRate },
      tokensPerSecond: result.tokens / seconds,
      ...{ seconds: this.seconds(), etaSeconds: this.secondsLeft(), memoryBytes: process.memoryUsage.rss() },
      ...(model.dtype === 'float16' ? { lossScale } : {}),
      ...times,
    });
    this.isWhole = true;
  }

  /** What is left of the step's batches, one after the other. A run may stop between any two micro-batches. */
  private async accumulateBatches(): Promise<void> {
    const { progress, recipe, parts } = this;
    while (progress.accumulated < recipe.accumulationSteps && progress.batch < this.plan.length) {
      const samples = this.plan.at(progress.batch);
      while (progress.sample < samples.length) {
        const part = samples.slice(progress.sample, progress.sample + progress.microBatchSize);
        await this.accumulate(await parts.train.rows(part));
        progress.sample += part.length;
      }
      progress.sample = 0;
      progress.batch++;
      progress.accumulated++;
    }
  }

  /** All of the step's batches together. A run that stops in the middle drops the step. */
  private async accumulateInLanes(): Promise<StepTimes | undefined> {
    const { progress, recipe, parts } = this;
    const end = Math.min(this.plan.length, progress.batch + recipe.accumulationSteps);
    const samples = Array.from({ length: end - progress.batch }, (_, i) => [...this.plan.at(progress.batch + i)]);
    const { microBatchSize } = progress;
    try {
      const options = { microBatchSize, lossScale: this.lossScale.scale };
      const times = await accumulateLanes(parts, samples.flat(), options);
      progress.batch = end;
      return times;
    } catch (error) {
      const { model, trainer } = parts;
      await runNative(undefined, (addon) => addon.trainerReset(model.native, trainer)).catch(() => undefined);
      throw error;
    }
  }

  /** The encoder's step, on the rank that has it; the others learn what came of it. */
  private async update(learningRate: number): Promise<Native.StepResult> {
    const { model, trainer, signal, joint } = this.parts;
    const { gradClip } = this.recipe;
    const step = (): Promise<Native.StepResult> =>
      runNative(joint === undefined ? signal : undefined, (addon) =>
        addon.trainerStep(model.native, trainer, { learningRate, gradClip }),
      );
    if (joint === undefined) return step();
    const own = this.isOwner ? await step() : { loss: 0, tokens: 0, gradNorm: 0, applied: false };
    const said = [own.loss, own.tokens, own.gradNorm, own.applied ? 1 : 0, this.seconds()];
    const [loss = 0, tokens = 0, gradNorm = 0, applied, seconds = 0] = (await joint.gather(said))[0] ?? [];
    this.sharedSeconds = seconds;
    return { loss, tokens, gradNorm, applied: applied === 1 };
  }

  private async accumulate(samples: readonly SampleRows[]): Promise<void> {
    const { model, trainer, signal } = this.parts;
    const batch = { ...packBatch(samples), lossScale: this.lossScale.scale };
    await runNative(signal, (addon, cancel) => addon.trainerAccumulate(model.native, trainer, { ...batch, cancel }));
  }

  private diverged({ loss, gradNorm }: Native.StepResult): NeoXPrefixError {
    return new NeoXPrefixError(
      'NEOX_NOT_FINITE',
      `The training diverged at step ${this.progress.step}: loss ${loss}, gradient norm ${gradNorm}`,
      { hint: 'use a lower learning rate, a warm-up, or dtype float32 or bfloat16 in place of float16' },
    );
  }

  private async nextEpoch(): Promise<void> {
    const { progress } = this;
    progress.epoch++;
    progress.batch = 0;
    progress.epochLoss = { sum: 0, tokens: 0 };
    progress.closed = false;
    this.plan = await planOf(this.parts, progress.epoch);
  }

  // ---- between steps ----

  private evaluationDue(epochOver: boolean, limit: EndReason | undefined): boolean {
    const { progress, recipe, parts } = this;
    if (parts.validation === undefined || progress.step === 0 || !this.isBetweenSteps()) return false;
    if (progress.evaluation?.step === progress.step) return false;
    const { evaluateEverySteps, evaluateEveryEpochs } = recipe;
    return (
      limit !== undefined ||
      (evaluateEverySteps > 0 && progress.step % evaluateEverySteps === 0) ||
      (epochOver && evaluateEveryEpochs > 0 && progress.epoch % evaluateEveryEpochs === 0)
    );
  }

  private async evaluate(): Promise<void> {
    const { progress, recipe, parts } = this;
    const { step, epoch } = progress;
    const prefix = await this.sharedPrefix();
    const { signal, measure, model, joint } = parts;
    const [loss] = await evaluateSource(model, parts.validation as RowSource, [prefix], {
      batchSize: recipe.batchSize,
      signal,
      joint,
    });
    const metrics =
      measure === undefined ? {} : { metrics: await (joint?.share(() => measure(prefix)) ?? measure(prefix)) };
    const result = { ...(loss as EvaluationResult), ...metrics };
    const isBest = progress.best === undefined || result.loss < progress.best.result.loss;
    if (isBest) progress.best = { step, epoch, trainLoss: this.trainLoss(), result };
    if (isBest) this.best = this.prefixOf(prefix.data);
    const { loss: toBeat, used } = progress.patience ?? { loss: Infinity, used: 0 };
    const isBetter = result.loss < toBeat - recipe.earlyStoppingThreshold;
    progress.patience = isBetter ? { loss: result.loss, used: 0 } : { loss: toBeat, used: used + 1 };
    progress.evaluation = { step, ...result };
    await this.emit({ type: 'evaluation', step, epoch, best: isBest, ...result, seconds: this.seconds() });
    await this.showPrefix(prefix);
    if (isBest) await this.solo(() => this.saveBest());
  }

  private async closeEpoch(): Promise<void> {
    const { progress } = this;
    const { step, epoch } = progress;
    const trainLoss = this.trainLoss();
    const evaluation = progress.evaluation?.step === step ? progress.evaluation : undefined;
    const validation = evaluation === undefined ? undefined : withoutStep(evaluation);
    // A run that was stopped in the middle of an epoch, and then given more time, comes here twice.
    progress.history = [
      ...progress.history.filter((other) => other.epoch !== epoch),
      { epoch, step, trainLoss, validation },
    ];
    progress.closed = true;
    await this.emit({
      type: 'epoch',
      step,
      epoch,
      trainLoss,
      trainPerplexity: Math.exp(trainLoss),
      seconds: this.seconds(),
    });
    if (this.parts.validation === undefined) {
      this.best = undefined;
      if (this.isOwner) await this.saveBest(await this.currentPrefix());
    }
    await this.save();
  }

  private async finish(reason: EndReason): Promise<TrainingResult> {
    const { progress, parts } = this;
    const { step, epoch, history } = progress;
    const last = await this.sharedPrefix();
    const best = this.best ?? last;
    const bestStep = progress.best?.step ?? step;
    await this.solo(async () => {
      if (!this.isOwner) return;
      await this.showSamples(best);
      await this.emit({ type: 'end', reason, step, epoch, seconds: this.seconds(), bestStep });
      await parts.folder?.saveReport();
    });
    const encoder = await parts.finalEncoder();
    return {
      ...{
        best,
        last,
        encoder,
        bestEpoch: progress.best?.epoch ?? epoch,
        bestStep,
        bestLoss: progress.best?.result.loss,
      },
      ...{ epochs: history, steps: step, reason, seconds: this.seconds() },
    };
  }

  // ---- what is saved ----

  /** The last prefix, the encoder and the state. */
  private async save(): Promise<void> {
    const { progress, recipe, parts } = this;
    const { folder, encoder, model, trainer, identity } = parts;
    const { step, epoch } = progress;
    this.savedStep = step;
    if (folder === undefined || encoder === undefined) return;
    await folder.saveEncoder(encoder);
    await this.emit({
      type: 'checkpoint',
      step,
      epoch,
      kind: 'last',
      path: await folder.savePrefix('last', await this.currentPrefix()),
    });
    progress.seconds = this.seconds();
    const optimizer = await runNative(undefined, (addon) => addon.trainerState(model.native, trainer));
    const state = { identity, progress, encoder: await encoder.state(), optimizer, best: this.best?.data };
    await this.emit({
      type: 'checkpoint',
      step,
      epoch,
      kind: 'state',
      path: await folder.saveState(state, recipe.keepStates),
    });
    this.savedStep = step;
  }

  private async saveBest(prefix = this.best): Promise<void> {
    const { folder } = this.parts;
    if (folder === undefined || prefix === undefined) return;
    const { step, epoch } = this.progress;
    await this.emit({ type: 'checkpoint', step, epoch, kind: 'best', path: await folder.savePrefix('best', prefix) });
  }

  /** For the report: the base model, how it does without a prefix, the data. */
  private async saveAbout(): Promise<void> {
    const { folder, model, train, validation, signal } = this.parts;
    if (folder === undefined) return;
    const { numLayers: layers, hiddenSize: hidden } = model.config;
    const base = { name: basename(model.checkpoint.directory), layers, hidden, parameters: model.info().parameters };
    const data = {
      train: aboutData(train),
      ...(validation === undefined ? {} : { validation: aboutData(validation) }),
    };
    // Parts of one dataset have the statistics of the whole.
    const whole = train.length === train.dataset.statistics.samples ? {} : { all: train.dataset.statistics };
    const [baseline] =
      validation === undefined
        ? []
        : await evaluateSource(model, validation, [undefined], { batchSize: this.recipe.batchSize, signal });
    await folder.saveAbout({ base, baseline, data: { ...data, ...whole } });
  }

  /**
   * What a run that is stopped keeps. The reason to stop stays the error that the caller gets, unless this fails as
   * well.
   */
  private async saveAborted(): Promise<void> {
    const { folder } = this.parts;
    const { step, epoch, best } = this.progress;
    if (folder === undefined) return;
    await this.save();
    await this.emit({
      type: 'end',
      reason: 'aborted',
      step,
      epoch,
      seconds: this.seconds(),
      bestStep: best?.step ?? step,
    });
    await folder.saveReport();
  }

  // ---- figures ----

  private async currentPrefix(): Promise<PrefixWeights> {
    const prefix = await (this.parts.encoder as PrefixEncoder).prefix();
    const { step, epoch, epochLoss, evaluation } = this.progress;
    const trainLoss = epochLoss.tokens > 0 ? { trainLoss: this.trainLoss() } : {};
    const validation = evaluation?.step === step ? validationMetrics(evaluation) : {};
    return prefix.withMetadata(this.metadata({ epoch, step, ...trainLoss, ...validation }));
  }

  /** The best prefix from its values. */
  private prefixOf(data: Float32Array): PrefixWeights {
    const { best } = this.progress;
    const { prefixLength, model } = this.parts;
    const { numLayers, numHeads, headSize } = model.config;
    const metrics: Record<string, JsonValue> =
      best === undefined
        ? {}
        : { epoch: best.epoch, step: best.step, trainLoss: best.trainLoss, ...validationMetrics(best.result) };
    const geometry = { prefixLength, numLayers, numHeads, headSize };
    return PrefixWeights.fromTensor(data, {
      ...geometry,
      metadata: {
        baseModel: describeBaseModel(model.config, model.fingerprint, model.checkpoint.name),
        ...this.metadata(metrics),
      },
    });
  }

  /** The present prefix on every rank. */
  private async sharedPrefix(): Promise<PrefixWeights> {
    const { joint, prefixLength, model } = this.parts;
    if (joint === undefined) return this.currentPrefix();
    const { numLayers, hiddenSize } = model.config;
    const own = this.isOwner ? await this.currentPrefix() : undefined;
    const data = await joint.broadcast(own?.data ?? new Float32Array(prefixLength * numLayers * 2 * hiddenSize));
    return own ?? this.prefixOf(data);
  }

  private metadata(metrics: Record<string, JsonValue>): {
    task: string;
    recipe: Record<string, JsonValue>;
    metrics: typeof metrics;
  } {
    const { model, recipe } = this.parts;
    const tokenizer = model.hasTokenizer ? { tokenizerHash: model.tokenizer.hash } : {};
    return { task: recipe.name, ...tokenizer, recipe: { ...recipe }, metrics };
  }

  private trainLoss(): number {
    const { sum, tokens } = this.progress.epochLoss;
    return sum / tokens;
  }

  private seconds(): number {
    return (performance.now() - this.startedAt) / 1000;
  }

  /** Steps that the run takes at most. */
  private totalSteps(): number {
    return Math.min(this.recipe.trainingSteps, this.recipe.epochs * this.stepsPerEpoch);
  }

  private secondsLeft(): number {
    const { recipe, progress, stepTime } = this;
    const bySteps = (Math.max(0, this.totalSteps() - progress.step) * stepTime.seconds) / stepTime.steps;
    return recipe.maxSeconds > 0 ? Math.min(bySteps, Math.max(0, recipe.maxSeconds - this.seconds())) : bySteps;
  }

  private async showPrefix(prefix: PrefixWeights): Promise<void> {
    if (!this.isOwner) return;
    const { step, epoch } = this.progress;
    await this.emit({ type: 'prefix', step, epoch, ...meanNorms(prefix) });
  }

  private async showSamples(prefix: PrefixWeights | undefined): Promise<void> {
    const samples = await this.parts.writeSamples?.(prefix);
    const { step, epoch } = this.progress;
    if (samples !== undefined)
      await this.emit({ type: 'samples', step: prefix === undefined ? 0 : step, epoch, samples });
  }

  private async emit(event: TrainingEvent): Promise<void> {
    if (!this.isOwner) return;
    this.parts.onEvent?.(event);
    await this.parts.folder?.log(event);
  }
}

function aboutData({ dataset, length }: RowSource): object {
  return dataset.statistics.samples === length ? dataset.statistics : { samples: length };
}

function validationMetrics({ loss, perplexity }: EvaluationResult): Record<string, JsonValue> {
  return { validationLoss: loss, validationPerplexity: perplexity };
}

function withoutStep({ loss, perplexity, accuracy, tokens, metrics }: EvaluationResult): EvaluationResult {
  return { loss, perplexity, accuracy, tokens, ...(metrics === undefined ? {} : { metrics }) };
}

/** The batches of an epoch. */
async function planOf({ recipe, train, signal }: RunParts, epoch: number): Promise<BatchPlan> {
  const { seed, batchSize, batchTokens } = recipe;
  const order = !recipe.shuffle ? 'sequential' : recipe.bucketing ? 'bucketed' : 'shuffled';
  const size = batchTokens > 0 ? { batchTokens } : { batchSize };
  const plan = new BatchPlan({
    length: train.length,
    tokensOf: (index) => train.dataset.tokensOf(index),
    seed,
    epoch,
    order,
    ...size,
  });
  await plan.prepare(signal);
  return plan;
}
