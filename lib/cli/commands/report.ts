import { basename, join, resolve } from 'node:path';
import { writeFileAtomic } from '../../base/files';
import { renderComparison, renderReport } from '../../report/report';
import { readRun } from '../../report/run';
import type { CommandSpec } from '../command';
import { option } from '../flags';
import { RUN_FILES } from '../../runs/run-files';
import type { Ui } from '../ui';

export interface ReportFlags {
  args: string[];
  output?: string;
  title?: string;
}

const DESCRIPTION = `Makes an HTML page of a training run: curves, numbers, the recipe, and what the model wrote before and after.

The page needs no network and can be sent as it is. A run makes one at its end; here it is made again, or of a run that was interrupted or is still going
on. Of several runs it is one page with their curves over each other.`;

const EXAMPLES = `
Examples:
  $ neox-prefix report runs/smileface
  $ neox-prefix report runs/smileface runs/smileface-2 --title 'Two learning rates' --output rates.html`;

export const command: CommandSpec = {
  name: 'report',
  summary: 'show a training run, or compare several, as an HTML page',
  description: DESCRIPTION,
  arguments: [['<run...>', 'folders of training runs (--out of train)']],
  examples: EXAMPLES,
  options: () => ({
    Options: [
      option('--output <file>', 'where the page goes', {
        default: 'report.html in the folder of the run; for several, comparison.html here',
      }),
      option('--title <text>', 'what stands above it', {
        default: "the task's name; for several, the names of their folders",
      }),
    ],
  }),
  run,
};

export async function run(flags: ReportFlags, ui: Ui): Promise<number> {
  const path = flags.args.length === 1 ? await one(flags.args[0] as string, flags) : await several(flags);
  ui.json({ report: path, runs: flags.args });
  ui.print(path);
  return 0;
}

async function one(folder: string, { output = join(folder, RUN_FILES.report), title }: ReportFlags): Promise<string> {
  await writeFileAtomic(output, renderReport({ ...(await readRun(folder)), title }));
  return output;
}

async function several({ args, output = 'comparison.html', title }: ReportFlags): Promise<string> {
  const names = namesOf(args);
  const runs = [];
  for (const [i, folder] of args.entries()) runs.push({ ...(await readRun(folder)), name: names[i] as string });
  await writeFileAtomic(output, renderComparison({ title: title ?? names.join(', '), runs }));
  return output;
}

/** The last part of each path, or all of it where that is not enough to tell them apart. */
function namesOf(folders: readonly string[]): string[] {
  const short = folders.map((folder) => basename(resolve(folder)));
  return short.map((name, i) => (short.indexOf(name) === short.lastIndexOf(name) ? name : (folders[i] as string)));
}
