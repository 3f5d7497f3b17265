import { basename, dirname } from 'node:path';
import { badArgument, checkInteger, nearest, show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { type ExportTask, openExport } from '../fastertransformer/folder';
import { readTasks, TASKS_PARAMETER } from '../fastertransformer/task-list';
import type { ModelConfig } from '../inference-protocol/descriptions';

/**
 * Which tasks a model on the server has, by name: what an export reports, ids by name, or the path of its config.ini or
 * of the folder with it.
 */
export type TritonTasks = readonly ExportTask[] | Readonly<Record<string, number>> | string;

const MAX_ID = 2 ** 31 - 1;

/** The tasks of a model on the server. */
export class TaskTable {
  private constructor(
    /** Undefined: nobody says which there are. */
    private readonly ids: ReadonlyMap<string, number> | undefined,
    /** Of config.ini, where that was read. */
    readonly startId?: number,
    readonly endId?: number,
  ) {}

  /** @throws NEOX_BAD_ARGUMENT, NEOX_FILE_NOT_FOUND, NEOX_BAD_EXPORT */
  static async of(tasks: TritonTasks | undefined, config: () => Promise<ModelConfig>): Promise<TaskTable> {
    if (tasks === undefined) {
      const told = (await config()).parameters[TASKS_PARAMETER];
      return new TaskTable(told === undefined ? undefined : readTasks(told));
    }
    if (typeof tasks === 'string') {
      const {
        ini,
        section,
        tasks: exported,
      } = await openExport(basename(tasks) === 'config.ini' ? dirname(tasks) : tasks);
      const ids = new Map(exported.map(({ name, id }) => [name, id]));
      return new TaskTable(ids, ini.getInteger(section, 'start_id'), ini.getInteger(section, 'end_id'));
    }
    if (tasks === null || typeof tasks !== 'object')
      throw badArgument('tasks', "an export's tasks, ids by name, or the path of a config.ini", tasks);
    const entries = Array.isArray(tasks)
      ? (tasks as readonly ExportTask[]).map(({ name, id }): [string, number] => [name, id])
      : Object.entries(tasks as Readonly<Record<string, number>>);
    return new TaskTable(new Map(entries.map(([name, id]) => [name, checkInteger(`tasks['${name}']`, id, 0, MAX_ID)])));
  }

  /** Whether the model is known to have any. */
  get hasTasks(): boolean {
    return this.ids !== undefined && this.ids.size > 0;
  }

  /** The id of a task by its name or id. An id that the model does not have fails on the server as "vector::at". */
  idOf(name: string, task: unknown): number {
    const { ids } = this;
    if (typeof task === 'number') {
      const id = checkInteger(name, task, 0, MAX_ID);
      if (ids !== undefined && ![...ids.values()].includes(id)) throw this.unknown(name, task);
      return id;
    }
    if (typeof task !== 'string') throw badArgument(name, "a task's name or id", task);
    const id = ids?.get(task);
    if (id === undefined) throw this.unknown(name, task);
    return id;
  }

  private unknown(name: string, task: string | number): NeoXPrefixError {
    const names = [...(this.ids?.keys() ?? [])];
    const near = typeof task === 'string' ? nearest(task, names) : undefined;
    const hint =
      this.ids === undefined
        ? `the server does not tell its tasks (parameter ${TASKS_PARAMETER}): give the client the option tasks`
        : near !== undefined
          ? `did you mean '${near}'?`
          : names.length > 0
            ? `the model has: ${names.join(', ')}`
            : 'the model has no tasks';
    return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `Unknown task ${show(task)} for ${name}`, { hint });
  }
}
