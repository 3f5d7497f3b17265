import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { Sample } from '../../data/sample';
import { splitDataset } from '../../data/split';
import { NeoXPrefixError } from '../../errors';
import { kindOf } from '../../files';
import type { NeoXModel } from '../../model/neox-model';
import { PrefixEncoder } from '../../prefix/encoder';
import type { TrainingEvent } from '../../training/events';
import { PrefixTrainer, type TrainingData, type TrainingResult } from '../../training/prefix-trainer';
import { checkData, dataOptions, readSamples, type DataFlags } from '../data';
import { UsageError } from '../errors';
import { formatCount, formatNumber, formatSeconds, plural, shellWord } from '../format';
import { loadModel, modelOptions, type ModelFlags } from '../model';
import { addOptions, given, refuseOptions, unwrap } from '../options';
import type { Act } from '../program';
import type { Progress } from '../progress';
import type { Ui } from '../ui';
import { REFUSED, RUN_FILES, prefixOptions, runOptions, splitOptions, trainingOptions, type TrainingFlags } from './train-options';

export interface TrainFlags extends ModelFlags, DataFlags, TrainingFlags {}

const DESCRIPTION = `Trains a prefix for one task over a frozen GPT-NeoX model (prefix tuning, Li & Liang 2021).

The model's own weights never change; what is trained is a few key and value vectors that every layer attends to in front of the text. The result is
a file of a few MB that 'generate' and 'export' take. The defaults are the recipe of rinna's prefix-tuning-gpt, and its option names work here.`;

const EXAMPLES = `
Examples:
  The recipe of rinna's example: learn to end every sentence with 😃
  $ neox-prefix train --model models/japanese-gpt-neox-small --data texts.jsonl --packing lines --suffix ' 😃' \\
      --train-data-size 1000 --dev-data-size 10 --save-name smileface --out runs/smileface

  A task of questions and answers, {"prompt": ..., "completion": ...} a line, with a validation file of its own
  $ neox-prefix train --model models/pythia-410m --data train.jsonl --validation valid.jsonl --dtype bfloat16 \\
      --prefix-seq-len 20 --prefix-hidden-dim 256 --max-lr 1e-3 --n-epochs 5 --save-name answers --out runs/answers

  Going on from an earlier run
  $ neox-prefix train --model models/pythia-410m --data more.jsonl --checkpoint-path runs/answers/encoder.safetensors --out runs/answers-2

The folder of --out gets, after each epoch: best.safetensors and last.safetensors (prefixes), encoder.safetensors (to go on from), metrics.jsonl and
recipe.json. Ctrl-C stops within moments; what was written stays, and an epoch that was begun is saved as interrupted.safetensors.`;

export function register(program: Command, act: Act): void {
  const command = program
    .command('train')
    .summary('train a prefix for a task')
    .description(unwrap(DESCRIPTION))
    .addHelpText('after', EXAMPLES);
  addOptions(command, 'Model', modelOptions());
  addOptions(command, 'Data', [...dataOptions(), ...splitOptions()]);
  addOptions(command, 'Result', runOptions());
  addOptions(command, 'Prefix', prefixOptions());
  addOptions(command, 'Training', trainingOptions());
  refuseOptions(command, REFUSED);
  command.action(act(run));
}

export async function run(flags: TrainFlags, ui: Ui): Promise<number> {
  await checkFlags(flags);
  await using model = await loadModel(flags, ui);
  const data = await loadData(flags, model, ui);
  const trainer = await prepareTrainer(flags, model, ui);
  const events = new EventView(flags, ui);
  let result: TrainingResult;
  try {
    result = await ui.withProgress(
      { title: 'training', total: 0, unit: 'steps', rate: false, lineUnits: flags.logEveryNSteps ?? 100, lineSeconds: 30 },
      (update) =>
        trainer.run(data, (event) => {
          // Not before: until then everything that is wrong with the new run has been found.
          if (event.type === 'start') removeOldRun(flags.out);
          events.show(event, update);
        }),
    );
  } catch (error) {
    if (ui.signal.aborted) await keepInterrupted(flags, trainer.encoder, events, ui);
    throw error;
  }
  report(flags, result, events, ui);
  return 0;
}

async function checkFlags(flags: TrainFlags): Promise<void> {
  const kind = await kindOf(flags.out);
  if (kind !== undefined && kind !== 'folder') throw new UsageError(`--out is the folder of the run, and ${flags.out} is a file`);
  if (RUN_FILES.some((name) => existsSync(join(flags.out, name))) && flags.overwrite !== true) {
    throw new UsageError(`There is a training run already in ${flags.out}`, 'choose another --out, or give --overwrite to replace it');
  }
  if ((flags.init === 'text') !== (flags.initText !== undefined)) throw new UsageError('--init text and --init-text TEXT go together');
  await checkData([...flags.data, ...(flags.validation ?? [])], flags);
  const { checkpointPath: path } = flags;
  if (path !== undefined && (await kindOf(path)) === undefined) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file: ${path}`, { path });
  }
}

/** Removes what an earlier run left in its folder and the new one may not replace; recipe.json and metrics.jsonl are new already. */
function removeOldRun(folder: string): void {
  const isTemporary = (name: string): boolean =>
    RUN_FILES.some((file) => name.startsWith(`.${file}.`)) && /\.\d+-[0-9a-f]{12}\.tmp$/.test(name);
  for (const name of readdirSync(folder)) if (RUN_FILES.includes(name) || isTemporary(name)) rmSync(join(folder, name), { force: true });
}

/** Training and validation samples: from two files, or split by count as rinna's script does. */
async function loadData(flags: TrainFlags, model: NeoXModel, ui: Ui): Promise<TrainingData> {
  const samples = await readSamples(flags.data, flags, model, ui);
  const ownValidation = flags.validation === undefined ? undefined : await readSamples(flags.validation, flags, model, ui);
  // Without --dev-data-size: rinna's 10, or a tenth of few samples.
  const count = flags.devDataSize ?? (ownValidation === undefined ? Math.min(10, Math.floor(samples.length / 10)) : 0);
  const validation = (train: Sample[], dev: Sample[]): TrainingData => ({ train, validation: ownValidation ?? dev });
  if (flags.trainDataSize === undefined && samples.length <= count) {
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `--dev-data-size ${count} leaves nothing to train on: there ${samples.length === 1 ? 'is' : 'are'} only ${plural(samples.length, 'sample')}`,
    );
  }
  const split = splitDataset(samples, { train: flags.trainDataSize ?? samples.length - count, validation: count });
  return validation(split.train, split.validation);
}

interface PreparedTrainer {
  encoder: PrefixEncoder;
  run: (data: TrainingData, onEvent: (event: TrainingEvent) => void) => Promise<TrainingResult>;
}

/** Makes the encoder apart from the trainer, so that it can be saved when the run is interrupted. */
async function prepareTrainer(flags: TrainFlags, model: NeoXModel, ui: Ui): Promise<PreparedTrainer> {
  const { seed, prefixDropout: dropout } = flags;
  const options = {
    ...{ name: flags.saveName, epochs: flags.nEpochs, trainingSteps: flags.nTrainingSteps, batchSize: flags.batchSize },
    ...{ accumulationSteps: flags.nAccumSteps, learningRate: flags.maxLr, warmupSteps: flags.nWarmupSteps, seed, gradClip: flags.gradClip },
    ...{ adamBeta1: flags.adamBeta1, adamBeta2: flags.adamBeta2, adamEpsilon: flags.adamEps, weightDecay: flags.weightDecay },
    ...{ shuffle: flags.shuffle, twoRows: flags.twoRows, outputDir: flags.out },
  };
  const { init, initText, initSteps, initLr: initLearningRate } = flags;
  const sizes = { prefixLength: flags.prefixSeqLen, inputDim: flags.prefixInputDim, hiddenDim: flags.prefixHiddenDim };
  const encoder =
    flags.checkpointPath === undefined
      ? await PrefixEncoder.create(model, {
          ...given({ ...sizes, dropout, seed, init, initText, initSteps, initLearningRate }),
          signal: ui.signal,
        })
      : await PrefixEncoder.load(model, flags.checkpointPath, given({ dropout, seed }));
  const trainer = new PrefixTrainer(model, { ...given(options), encoder });
  return { encoder, run: (data, onEvent) => trainer.train(data, { signal: ui.signal, onEvent }) };
}

/** Shows the events of a run, and remembers what a summary needs. */
class EventView {
  step = 0;
  /** Steps at the end of the last epoch that was saved. */
  savedStep = 0;
  epoch = 0;
  private loss: number | undefined;
  private epochs = 0;
  private totalSteps = 0;
  private validation: Extract<TrainingEvent, { type: 'evaluation' }> | undefined;

  constructor(
    private readonly flags: TrainFlags,
    private readonly ui: Ui,
  ) {}

  show(event: TrainingEvent, update: Progress['update']): void {
    const { ui } = this;
    ui.json(event);
    switch (event.type) {
      case 'start': {
        this.epochs = event.epochs;
        this.totalSteps = event.totalSteps;
        const samples = `${plural(event.trainSamples, 'sample')} train, ${event.validationSamples} validate`;
        const fit = event.initError === undefined ? '' : `; initial fit: mean squared error ${formatNumber(event.initError)}`;
        ui.note(`${samples}; ${formatCount(event.trainableParameters)} trainable parameters${fit}`);
        break;
      }
      case 'step': {
        this.step = event.step;
        this.epoch = event.epoch;
        // A single step's loss jumps too much to be read.
        this.loss = this.loss === undefined ? event.loss : 0.9 * this.loss + 0.1 * event.loss;
        const speed = `${formatNumber(Math.round(event.tokensPerSecond))} tok/s`;
        const detail = `epoch ${event.epoch}/${this.epochs} | loss ${this.loss.toFixed(4)} | lr ${formatNumber(event.learningRate)} | ${speed}`;
        update(event.step, detail, this.totalSteps);
        break;
      }
      case 'evaluation':
        this.validation = event;
        break;
      case 'checkpoint':
        if (event.kind === 'last') this.savedStep = event.step;
        break;
      case 'epoch': {
        const { validation } = this;
        const shown =
          validation?.epoch !== event.epoch
            ? ''
            : ` | validation loss ${validation.loss.toFixed(4)}, perplexity ${formatNumber(validation.perplexity)}${validation.best ? ' (best)' : ''}`;
        ui.note(
          `epoch ${event.epoch}/${this.epochs} | step ${event.step} | train loss ${event.trainLoss.toFixed(4)}${shown} | ${formatSeconds(event.seconds)}`,
        );
      }
    }
  }

  file(name: string): string {
    return join(this.flags.out, name);
  }

  /** As {@link file}, to be pasted. */
  path(name: string): string {
    return shellWord(this.file(name));
  }
}

async function keepInterrupted(flags: TrainFlags, encoder: PrefixEncoder, events: EventView, ui: Ui): Promise<void> {
  if (events.savedStep > 0)
    ui.note(`kept: ${events.file('best.safetensors')} and ${events.file('last.safetensors')} (step ${events.savedStep})`);
  if (events.step <= events.savedStep) {
    if (events.savedStep === 0) ui.note('nothing was kept: the run had taken no step');
    return;
  }
  const prefix = await encoder.prefix({
    task: flags.saveName ?? 'task',
    metrics: { epoch: events.epoch, step: events.step, interrupted: true },
  });
  await prefix.save(events.file('interrupted.safetensors'));
  await encoder.save(events.file('interrupted-encoder.safetensors'));
  ui.json({ type: 'interrupted', step: events.step, epoch: events.epoch, path: events.file('interrupted.safetensors') });
  ui.note(`kept: ${events.file('interrupted.safetensors')} (step ${events.step}, in the middle of epoch ${events.epoch})`);
  ui.note(`go on with --checkpoint-path ${events.path('interrupted-encoder.safetensors')} and another --out`);
}

function report(flags: TrainFlags, result: TrainingResult, events: EventView, ui: Ui): void {
  const { bestEpoch, epochs, steps, seconds } = result;
  const validation = epochs[bestEpoch - 1]?.validation;
  ui.json({
    type: 'result',
    bestEpoch,
    steps,
    seconds,
    validation: validation ?? null,
    best: events.file('best.safetensors'),
    last: events.file('last.safetensors'),
  });
  const reached = validation === undefined ? '' : `, validation perplexity ${formatNumber(validation.perplexity)}`;
  ui.print(`${plural(steps, 'step')} in ${formatSeconds(seconds)}; best epoch ${bestEpoch}${reached}`);
  ui.print(`prefix: ${events.file('best.safetensors')}`);
  ui.note(`try it: neox-prefix generate --model ${shellWord(flags.model)} --prefix ${events.path('best.safetensors')} --compare`);
}
