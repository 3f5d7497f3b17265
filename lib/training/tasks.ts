import { types } from 'node:util';
import { badArgument, checkFunction, checkOneOf, checkOptions } from '../base/arguments';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import type { TrainingEvent } from '../runs/events';
import { PrefixTrainer, type TrainingData, type TrainOptions } from './prefix-trainer';
import type { TrainerOptions } from './recipe';
import type { TrainingResult } from './training-run';

/** A task to train: its data, and how. */
export interface TrainingTask {
  data: TrainingData;
  /** Options of the trainer. `name` defaults to the task's name. */
  options?: TrainerOptions;
}

export interface TrainTasksOptions extends Omit<TrainOptions, 'onEvent'> {
  /**
   * `'sequential'`: one task after the other. `'interleaved'`: all at a time, their steps taking turns on the model, so
   * that all tasks get on together and a task that is done leaves its turns to the others. A task's result is the same
   * either way. With a `group` only `'sequential'`. Defaults to `'sequential'`.
   */
  order?: 'sequential' | 'interleaved';
  /** Called for each event of each task. What it throws stops all tasks. */
  onEvent?: (task: string, event: TrainingEvent) => void;
}

/**
 * Trains several tasks over one loaded model. Each has an encoder, an optimizer, a seed and a folder of its own; they
 * share nothing but the frozen model.
 *
 * @returns the results by task
 * @throws as {@link PrefixTrainer.train}; the first task that fails stops the others
 */
export async function trainTasks<Name extends string>(
  model: LoadedModel,
  tasks: Readonly<Record<Name, TrainingTask>>,
  options: TrainTasksOptions = {},
): Promise<Record<Name, TrainingResult>> {
  checkModel(model);
  checkOptions('options', options, [
    ...['signal', 'group', 'onEvent', 'resume', 'overwrite', 'metrics', 'samplePrompts', 'order'],
  ]);
  const { order: givenOrder, onEvent, signal: outer, ...shared } = options;
  const order = checkOneOf('order', givenOrder ?? 'sequential', ['sequential', 'interleaved']);
  if (order === 'interleaved' && shared.group !== undefined) {
    const hint = 'the exchanges of tasks that take turns would come in another order on each rank';
    throw badArgument('order', "'sequential' with a group", order, hint);
  }
  if (onEvent !== undefined) checkFunction('onEvent', onEvent);
  if (tasks === null || typeof tasks !== 'object' || Array.isArray(tasks) || types.isMap(tasks))
    throw badArgument('tasks', 'an object of tasks by name', tasks);
  const names = Object.keys(tasks) as Name[];
  if (names.length === 0) throw badArgument('tasks', 'at least one task', tasks);
  // All are checked before the first one starts.
  const trainers = names.map((name) => {
    checkOptions(`tasks.${name}`, tasks[name], ['data', 'options']);
    return new PrefixTrainer(model, { name, ...tasks[name].options });
  });
  checkFolders(names, tasks);
  for (const trainer of trainers) trainer.checkSamplePrompts(shared.samplePrompts);

  const failed = new AbortController();
  const signal = outer === undefined ? failed.signal : AbortSignal.any([outer, failed.signal]);
  const results: Partial<Record<Name, TrainingResult>> = {};
  const train = async (name: Name, i: number): Promise<void> => {
    const listener = onEvent === undefined ? {} : { onEvent: (event: TrainingEvent): void => onEvent(name, event) };
    try {
      results[name] = await (trainers[i] as PrefixTrainer).train(tasks[name].data, { ...shared, ...listener, signal });
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  if (order === 'sequential') {
    for (const [i, name] of names.entries()) await train(name, i);
  } else {
    // The model's queue takes one operation of each task in turn. All are waited for: a task that is stopped still
    // saves its state.
    const settled = await Promise.allSettled(names.map(train));
    outer?.throwIfAborted();
    if (settled.some(({ status }) => status === 'rejected')) throw failed.signal.reason;
  }
  return Object.fromEntries(names.map((name) => [name, results[name]])) as Record<Name, TrainingResult>;
}

function checkFolders(names: readonly string[], tasks: Readonly<Record<string, TrainingTask>>): void {
  const folders = new Map<string, string>();
  for (const name of names) {
    const folder = tasks[name]?.options?.outputDir;
    if (folder === undefined) continue;
    const other = folders.get(folder);
    if (other !== undefined)
      throw badArgument(`tasks.${name}.options.outputDir`, `another folder than that of task '${other}'`, folder);
    folders.set(folder, name);
  }
}
