import { NeoXPrefixError } from '../base/errors';

/** The parameter of config.pbtxt that tells clients the tasks' ids. */
export const TASKS_PARAMETER = 'neox_prefix_tasks';

/** `smile=0,polite=1`. A task's name has no `%`, so that the marks of the list can be written as escapes. */
export function writeTasks(tasks: readonly { readonly id: number; readonly name: string }[]): string {
  const escaped = (name: string): string => name.replaceAll('=', '%3D').replaceAll(',', '%2C');
  return tasks.map(({ id, name }) => `${escaped(name)}=${id}`).join();
}

/** @throws NEOX_BAD_EXPORT for a list of another form */
export function readTasks(list: string): Map<string, number> {
  const tasks = new Map<string, number>();
  for (const item of list === '' ? [] : list.split(',')) {
    const [, name, id] = /^([^=]+)=(\d{1,9})$/.exec(item.trim()) ?? [];
    if (name === undefined) {
      throw new NeoXPrefixError(
        'NEOX_BAD_EXPORT',
        `The parameter ${TASKS_PARAMETER} is not usable: expected name=id, found '${item}'`,
      );
    }
    tasks.set(name.replaceAll('%2C', ',').replaceAll('%3D', '='), Number(id));
  }
  return tasks;
}
