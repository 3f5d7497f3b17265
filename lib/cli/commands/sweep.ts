import { InvalidArgumentError, type Option } from 'commander';
import { join } from 'node:path';
import { combinations, firstWithRun, sweep, type SweepGrid, type SweepRunResult } from '../../training/sweep';
import type { CommandSpec } from '../command';
import type { DataFlags } from '../data';
import { UsageError } from '../usage-errors';
import { formatNumber, formatSeconds, plural, table } from '../text-columns';
import { loadModel, type ModelFlags, PREFIX_LENGTH } from '../model';
import { integer, number, option } from '../flags';
import { batchSizeOf, launchRanks, onRank, type RankContext, type RankFlags } from '../ranks';
import type { Ui } from '../ui';
import { EventView } from './train-events';
import { REFUSED, trainerOptions, type TrainingFlags, trainingOptions } from './train-options';
import { RUN_FILES } from '../../runs/run-files';
import { checkTrainingFlags, loadData, runAlready, withTraining } from './train-run';

export interface SweepFlags extends ModelFlags, DataFlags, TrainingFlags, RankFlags {
  maxLrs?: number[];
  prefixSeqLens?: number[];
  prefixHiddenDims?: number[];
  batchSizes?: number[];
  seeds?: number[];
}

const DESCRIPTION = `Trains with every combination of some options' values, one run after the other over one loaded model, and says which is best.

All other options are those of 'train' and hold for every run.`;

const EXAMPLES = `
Examples:
  $ neox-prefix sweep --model models/pythia-410m --data train.jsonl --max-lrs 1e-4,1e-3,1e-2 --prefix-seq-lens 5,10,20 --n-epochs 3 --out sweeps/faq

Each run has a folder of its own in --out, named after its values. With --resume, runs that are done are not repeated and one that was stopped goes on.`;

/** Each option of a list, and the option of the trainer that it is for. */
const LISTS = {
  maxLrs: 'learningRate',
  prefixSeqLens: 'prefixLength',
  prefixHiddenDims: 'hiddenDim',
  batchSizes: 'batchSize',
  seeds: 'seed',
} as const;

const SINGLE: Readonly<Record<keyof typeof LISTS, string>> = {
  maxLrs: 'maxLr',
  prefixSeqLens: 'prefixSeqLen',
  prefixHiddenDims: 'prefixHiddenDim',
  batchSizes: 'batchSize',
  seeds: 'seed',
};

/** Values with commas between them. */
function list(parse: (text: string) => number): (text: string) => number[] {
  return (text) => {
    const values = text.split(',').map(parse);
    if (new Set(values).size !== values.length) throw new InvalidArgumentError('Expected each value once.');
    return values;
  };
}

const sweepOptions = (): Option[] => [
  option('--max-lrs <list>', 'peak learning rates', { parse: list(number(0)), conflicts: [SINGLE.maxLrs] }),
  option('--prefix-seq-lens <list>', 'prefix lengths', {
    parse: list(integer(1)),
    conflicts: [SINGLE.prefixSeqLens, 'checkpointPath'],
  }),
  option('--prefix-hidden-dims <list>', "widths of the encoder's hidden layer", {
    parse: list(integer(1, 65536)),
    conflicts: [SINGLE.prefixHiddenDims, 'checkpointPath'],
  }),
  option('--batch-sizes <list>', 'samples in a batch', {
    parse: list(integer(1)),
    conflicts: [SINGLE.batchSizes, 'batchTokens'],
  }),
  option('--seeds <list>', 'seeds', { parse: list(integer(0)), conflicts: [SINGLE.seeds] }),
];

export const command: CommandSpec = {
  name: 'sweep',
  summary: 'train with several learning rates, lengths, ...',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    'Sweep (values with commas between them)': sweepOptions(),
    // Runs that go on from one encoder would each change it.
    ...trainingOptions(['checkpointPath']),
  }),
  refused: REFUSED,
  run,
};

export async function run(flags: SweepFlags, ui: Ui): Promise<number> {
  return (await launchRanks(flags, ui)) ?? onRank(flags, ui, runSweep);
}

async function runSweep({ group, flags, ui }: RankContext<SweepFlags>): Promise<number> {
  const names = (Object.keys(LISTS) as (keyof typeof LISTS)[]).filter((name) => flags[name] !== undefined);
  if (names.length === 0) {
    const lists = sweepOptions().map(({ long }) => long);
    throw new UsageError(
      `A sweep needs a list of values: one or more of ${lists.join(', ')}`,
      'for example --max-lrs 1e-4,1e-3',
    );
  }
  const grid: SweepGrid = Object.fromEntries(names.map((name) => [LISTS[name], flags[name]]));
  const runs = combinations(grid);
  const count = runs.length;
  if ((group?.rank ?? 0) === 0 && flags.overwrite !== true && flags.resume !== true) {
    const taken = await firstWithRun(runs.map(({ name }) => join(flags.out, name)));
    if (taken !== undefined) throw runAlready(taken);
  }
  await checkTrainingFlags(flags);
  await using model = await loadModel(flags, ui);
  const longest = Math.max(...(flags.prefixSeqLens ?? [flags.prefixSeqLen ?? PREFIX_LENGTH]));
  await using data = await loadData(flags, model, longest, ui);
  let view: { name: string; events: EventView } | undefined;
  let started = 0;
  const result = await withTraining(flags, ui, (options, update) =>
    sweep(model, data, {
      ...options,
      group,
      base: { ...trainerOptions(flags), ...batchSizeOf(flags, group), outputDir: flags.out },
      grid,
      onEvent: ({ name }, event) => {
        if (view?.name !== name) {
          view = { name, events: new EventView(join(flags.out, name), ui, name) };
          ui.note(`run ${++started} of ${count}: ${name}`);
        }
        view.events.show(event, update);
      },
    }),
  );
  const sorted = [...result.runs].sort((a, b) => a.loss - b.loss);
  ui.json({ type: 'sweep', runs: sorted.map((item) => summary(item, flags.out)), best: result.best.name });
  const rows = sorted.map(({ name, loss, result: { steps, bestEpoch, seconds } }) => [
    name,
    loss.toFixed(4),
    formatNumber(Math.exp(loss)),
    String(bestEpoch),
    String(steps),
    formatSeconds(seconds),
  ]);
  ui.print(table(['', 'loss', 'perplexity', 'best epoch', 'steps', 'time'], rows));
  ui.print(`best of ${plural(count, 'run')}: ${join(flags.out, result.best.name, RUN_FILES.best)}`);
  return 0;
}

function summary({ name, values, loss, result }: SweepRunResult, out: string): Record<string, unknown> {
  const { bestEpoch, bestStep, steps, seconds } = result;
  return { name, values, loss, bestEpoch, bestStep, steps, seconds, path: join(out, name, RUN_FILES.best) };
}
