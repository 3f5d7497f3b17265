import type { Command } from 'commander';
import { doctor, formatDoctorReport } from '../../addon/doctor';
import type { Act } from '../command';
import { unwrap } from '../flags';
import type { Ui } from '../ui';

const DESCRIPTION = `Shows what this program found on this machine (Node, libtorch, the addon, backends, threads, CPU, CUDA, build tools) and, for what is missing, how
to get it. The exit code is 1 when something that is needed is missing.`;

export function register(program: Command, act: Act): void {
  program
    .command('doctor')
    .summary('show what was found here, and how to get what is missing')
    .description(unwrap(DESCRIPTION))
    .addHelpText('after', '\nExamples:\n  $ neox-prefix doctor\n  $ neox-prefix doctor --json')
    .action(act(run));
}

export async function run(_flags: object, ui: Ui): Promise<number> {
  const report = await doctor();
  ui.json(report);
  ui.print(formatDoctorReport(report));
  return report.ok ? 0 : 1;
}
