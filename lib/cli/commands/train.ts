import { PrefixEncoder } from '../../training/encoder';
import { PrefixTrainer } from '../../training/prefix-trainer';
import { hasRun, hasRunWithoutState } from '../../training/run-folder';
import type { TrainingResult } from '../../training/training-run';
import type { CommandSpec } from '../command';
import type { DataFlags } from '../data';
import { formatNumber, formatSeconds, plural, shellWord } from '../text-columns';
import { loadModel, type ModelFlags, PREFIX_LENGTH } from '../model';
import { given } from '../flags';
import { batchSizeOf, launchRanks, onRank, type RankContext, type RankFlags } from '../ranks';
import type { Ui } from '../ui';
import { EventView } from './train-events';
import { REFUSED, sayWhatDeepSpeedMeans, trainerOptions, type TrainingFlags, trainingOptions } from './train-options';
import { RUN_FILES } from '../../runs/run-files';
import { checkTrainingFlags, loadData, runAlready, withTraining } from './train-run';

export interface TrainFlags extends ModelFlags, DataFlags, TrainingFlags, RankFlags {}

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

  On two processes of this host, or on four of torchrun: the result is the same to the last bit for any number of them up to --lanes
  $ neox-prefix train --model models/pythia-410m --data train.jsonl --out runs/two --lanes 8 --nproc 2
  $ torchrun --nproc-per-node 4 --no-python neox-prefix train --model models/pythia-410m --data train.jsonl --out runs/four --lanes 8

  A long run, as a line that may be repeated until it is done: whatever stops it, it goes on where it was
  $ neox-prefix train --model models/pythia-410m --data train.jsonl.gz --save-every-n-steps 500 --resume --out runs/long

The folder of --out gets, after each epoch: best.safetensors and last.safetensors (prefixes), encoder.safetensors (to start another run from) and
the state to resume from; besides recipe.json, metrics.jsonl, TensorBoard events, and at the end report.html. Ctrl-C saves the state and stops; a second
Ctrl-C stops at once.`;

export const command: CommandSpec = {
  name: 'train',
  summary: 'train a prefix for a task',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    ...trainingOptions(),
  }),
  refused: REFUSED,
  run,
};

export async function run(flags: TrainFlags, ui: Ui): Promise<number> {
  return (await launchRanks(flags, ui)) ?? onRank(flags, ui, train);
}

async function train({ group, flags, ui }: RankContext<TrainFlags>): Promise<number> {
  const isFirst = (group?.rank ?? 0) === 0;
  if (isFirst && flags.overwrite !== true && flags.resume !== true && (await hasRun(flags.out))) {
    throw runAlready(flags.out);
  }
  await checkTrainingFlags(flags);
  sayWhatDeepSpeedMeans(flags, ui);
  await using model = await loadModel(flags, ui);
  const { checkpointPath, prefixDropout: dropout, seed } = flags;
  const encoder =
    checkpointPath === undefined
      ? undefined
      : await PrefixEncoder.load(model, checkpointPath, given({ dropout, seed }));
  await using data = await loadData(flags, model, encoder?.prefixLength ?? flags.prefixSeqLen ?? PREFIX_LENGTH, ui);
  const trainer = new PrefixTrainer(model, {
    ...{ ...trainerOptions(flags), ...batchSizeOf(flags, group), ...given({ encoder }), outputDir: flags.out },
  });
  const events = new EventView(flags.out, ui);
  let result: TrainingResult;
  try {
    result = await withTraining(flags, ui, (options, update) =>
      trainer.train(data, { ...options, group, onEvent: (event) => events.show(event, update) }),
    );
  } catch (error) {
    if (ui.signal.aborted && isFirst) await reportInterrupted(flags.out, events, ui);
    throw error;
  }
  report(flags, result, events, ui);
  return 0;
}

async function reportInterrupted(out: string, events: EventView, ui: Ui): Promise<void> {
  const { savedStep } = events;
  if (savedStep === undefined) {
    if (await hasRunWithoutState(out))
      ui.note(
        `${out} has the beginning of the run, and no state yet: with --resume the same command begins anew, with --overwrite too`,
      );
    return;
  }
  ui.json({ type: 'interrupted', step: savedStep });
  ui.note(`saved at step ${savedStep}; the same command with --resume goes on from there`);
}

function report(flags: TrainFlags, result: TrainingResult, events: EventView, ui: Ui): void {
  const { bestEpoch, bestStep, epochs, steps, seconds, reason } = result;
  const validation = epochs.find(({ step }) => step === bestStep)?.validation;
  const perplexity = result.bestLoss === undefined ? undefined : Math.exp(result.bestLoss);
  ui.json({
    type: 'result',
    ...{
      bestEpoch,
      bestStep,
      steps,
      seconds,
      reason,
      bestLoss: result.bestLoss ?? null,
      validation: validation ?? null,
    },
    ...{ best: events.file(RUN_FILES.best), last: events.file(RUN_FILES.last) },
  });
  const reached = perplexity === undefined ? '' : `, validation perplexity ${formatNumber(perplexity)}`;
  const why = {
    time: ' (the time was over)',
    'early-stopping': ' (no better evaluation came)',
    epochs: '',
    steps: '',
    aborted: '',
  }[reason];
  ui.print(
    `${plural(steps, 'step')} in ${formatSeconds(seconds)}${why}; best epoch ${bestEpoch}, step ${bestStep}${reached}`,
  );
  ui.print(`prefix: ${events.file(RUN_FILES.best)}`);
  ui.print(`report: ${events.file(RUN_FILES.report)}`);
  ui.note(
    `try it: neox-prefix generate --model ${shellWord(flags.model)} --prefix ${events.path(RUN_FILES.best)} --compare`,
  );
}
