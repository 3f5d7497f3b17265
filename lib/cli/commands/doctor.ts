import { doctor, formatDoctorReport } from '../../addon/doctor';
import type { CommandSpec } from '../command';
import type { Ui } from '../ui';

const DESCRIPTION = `Shows what this program found on this machine (Node, libtorch, the addon, backends, threads, CPU, CUDA, build tools) and, for what is missing, how
to get it. The exit code is 1 when something that is needed is missing.`;

export const command: CommandSpec = {
  name: 'doctor',
  summary: 'show what was found here, and how to get what is missing',
  description: DESCRIPTION,
  examples: '\nExamples:\n  $ neox-prefix doctor\n  $ neox-prefix doctor --json',
  run,
};

export async function run(_flags: object, ui: Ui): Promise<number> {
  const report = await doctor();
  ui.json(report);
  ui.print(formatDoctorReport(report));
  return report.ok ? 0 : 1;
}
