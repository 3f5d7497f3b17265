import { join } from 'node:path';
import { badArgument, checkFunction, checkOptions } from '../base/arguments';
import { kindOf } from '../base/files';
import { namesOf, without } from '../base/options';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import type { TrainingEvent } from '../runs/events';
import { PrefixTrainer, type TrainingData, type TrainOptions } from './prefix-trainer';
import { TRAINER_OPTIONS, type TrainerOptions } from './recipe';
import { hasRun, hasRunAlready } from './run-folder';
import type { TrainingResult } from './training-run';

/** The options that take several values, each with its values. */
export type SweepGrid = { readonly [K in keyof TrainerOptions]?: readonly NonNullable<TrainerOptions[K]>[] };

export interface SweepOptions extends Omit<TrainOptions, 'onEvent'> {
  /**
   * What all runs have in common. `outputDir` is the folder that gets a folder for each run. Defaults to rinna's
   * recipe.
   */
  base?: TrainerOptions;
  /** Each combination is a run, for example `{ learningRate: [1e-4, 1e-3], prefixLength: [5, 10, 20] }`: six runs. */
  grid: SweepGrid;
  /** Called for each event of each run. What it throws stops the sweep. */
  onEvent?: (run: SweepRun, event: TrainingEvent) => void;
}

/** A combination of the grid. */
export interface SweepRun {
  /** For example `'learningRate=0.001,prefixLength=10'`; the name of its folder. */
  name: string;
  /** The values that this run has from the grid. */
  values: TrainerOptions;
}

export interface SweepRunResult extends SweepRun {
  /** Validation loss of its best prefix; the last training loss when there is no validation data. */
  loss: number;
  result: TrainingResult;
}

export interface SweepResult {
  /** In the order in which they ran. */
  runs: SweepRunResult[];
  /** The run with the lowest loss. */
  best: SweepRunResult;
}

/**
 * Trains with every combination of some options' values, over one loaded model, one run after the other. With
 * `resume: true` and an `outputDir`, runs that are done are read and not repeated.
 *
 * @throws as {@link PrefixTrainer.train}
 */
export async function sweep(model: LoadedModel, data: TrainingData, options: SweepOptions): Promise<SweepResult> {
  checkModel(model);
  checkOptions('options', options, [
    'base',
    'grid',
    'onEvent',
    'signal',
    'group',
    'resume',
    'overwrite',
    'metrics',
    'samplePrompts',
  ]);
  const { base = {}, grid, onEvent, ...shared } = options;
  if (onEvent !== undefined) checkFunction('onEvent', onEvent);
  const runs = combinations(grid);
  const { outputDir, ...common } = base;
  // All are checked before the first one starts.
  const folderOf = (name: string): string => join(outputDir ?? '', name);
  const trainers = runs.map(({ name, values }) => {
    const folder = outputDir === undefined ? {} : { outputDir: folderOf(name) };
    return new PrefixTrainer(model, { ...common, ...values, ...folder });
  });
  for (const trainer of trainers) trainer.checkSamplePrompts(shared.samplePrompts);
  if (outputDir !== undefined && (await kindOf(outputDir)) === 'file')
    throw badArgument('base.outputDir', 'a folder', outputDir);
  // The folders are rank 0's, which may have begun with them.
  const isNew = shared.resume !== true && shared.overwrite !== true && (shared.group?.rank ?? 0) === 0;
  const taken =
    outputDir === undefined || !isNew ? undefined : await firstWithRun(runs.map(({ name }) => folderOf(name)));
  if (taken !== undefined) throw hasRunAlready(taken);
  const results: SweepRunResult[] = [];
  for (const [i, run] of runs.entries()) {
    const listener = onEvent === undefined ? {} : { onEvent: (event: TrainingEvent): void => onEvent(run, event) };
    const result = await (trainers[i] as PrefixTrainer).train(data, { ...shared, ...listener });
    const loss = result.bestLoss ?? result.epochs.at(-1)?.trainLoss ?? NaN;
    results.push({ ...run, loss, result });
  }
  return { runs: results, best: results.reduce((best, run) => (run.loss < best.loss ? run : best)) };
}

/** The first folder that has files of a training run, if one has. */
export async function firstWithRun(folders: readonly string[]): Promise<string | undefined> {
  for (const folder of folders) if (await hasRun(folder)) return folder;
  return undefined;
}

/** The runs of a grid, the last option varying fastest. */
export function combinations(grid: unknown): SweepRun[] {
  const given = Object.entries(checkOptions('grid', grid, namesOf(without(TRAINER_OPTIONS, 'outputDir', 'encoder'))));
  if (grid === undefined || given.length === 0) throw badArgument('grid', 'at least one option with its values', grid);
  let runs: [string, unknown][][] = [[]];
  for (const [name, values] of given) {
    if (!Array.isArray(values) || values.length === 0)
      throw badArgument(`grid.${name}`, 'a non-empty array of values', values);
    if (new Set(values).size !== values.length) throw badArgument(`grid.${name}`, 'each value once', values.join(', '));
    runs = runs.flatMap((run) => values.map((value: unknown): [string, unknown][] => [...run, [name, value]]));
  }
  const named = runs.map((run) => ({
    name: run
      .map(
        ([name, value]) =>
          `${name}=${String(value)
            .replace(/[^\w.+-]/g, '_')
            .slice(0, 40)}`,
      )
      .join(','),
    values: Object.fromEntries(run),
  }));
  // Long texts (initText) may begin alike.
  const isUnique = (name: string): boolean => named.filter((other) => other.name === name).length === 1;
  return named.map((run, i) => (isUnique(run.name) ? run : { ...run, name: `${run.name}-${i + 1}` }));
}
