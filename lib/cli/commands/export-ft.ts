import type { Option } from 'commander';
import type { Checkpoint } from '../../checkpoint/checkpoint';
import { openCheckpoint } from '../../checkpoint/open';
import { type ExportReport, FTExporter } from '../../export/exporter';
import type { VerifiedFile } from '../../export/native-files';
import type { VerifyReport } from '../../export/verify';
import type { DenseBiasRule } from '../../fastertransformer/file-plan';
import type { ExportDType } from '../../fastertransformer/folder';
import { PrefixWeights } from '../../prefix/weights';
import type { CommandSpec } from '../command';
import { UsageError } from '../usage-errors';
import { formatBytes, plural } from '../text-columns';
import { MODEL_DIR } from '../model';
import { collectTasks, given, integer, type NamedFile, option } from '../flags';
import type { Ui } from '../ui';

export interface ExportFtFlags {
  model: string;
  task?: NamedFile[];
  out: string;
  dtype?: ExportDType;
  tensorParallel?: number;
  modelName?: string;
  denseBias?: DenseBiasRule;
  overwrite?: boolean;
  append?: boolean;
  replace?: boolean;
  verify?: boolean;
  verifyOnly?: boolean;
  prefixSeqLen?: number;
  allowFingerprintMismatch?: boolean;
}

const DESCRIPTION = `Writes a GPT-NeoX model and any number of prefixes as the weight folder of NVIDIA FasterTransformer, which Triton's fastertransformer backend serves.

The base model is written once; each task adds its prefix. A request chooses its task by id: the tasks count from 0 in the order in which they are given.`;

const EXAMPLES = `
Examples:
  $ neox-prefix export ft --model DIR --task NAME=FILE [--task ...] --out DIR --dtype float16 --tensor-parallel 2 --model-name gptneox
  $ neox-prefix export ft --model models/japanese-gpt-neox-small --task smileface=smileface.safetensors --out ft --verify
  Another task, later, without writing the model again
  $ neox-prefix export ft --model models/japanese-gpt-neox-small --task casual=casual.safetensors --out ft --append

DIR/<tensor-parallel>-gpu is what Triton's model_checkpoint_path names.`;

/** The options that loadTasks() reads. */
export function taskOptions(): Option[] {
  return [
    option<NamedFile[]>('--task <name=file>', 'a prefix under the name of its task; may be repeated', {
      parse: collectTasks,
    }),
    option('--prefix-seq-len <n>', 'prefix length, for files whose shape does not show it', { parse: integer(1) }),
    option('--allow-fingerprint-mismatch', 'take prefixes that were trained on another base model of the same shape'),
  ];
}

export const command: CommandSpec = {
  name: 'ft',
  summary: 'for FasterTransformer and Triton',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    What: [MODEL_DIR(), ...taskOptions()],
    'Where to': [
      option('--out <dir>', 'folder that gets <tensor-parallel>-gpu/', { required: true }),
      option('--overwrite', 'replace an export that is there'),
      option('--append', 'add the tasks to an export that is there', {
        conflicts: ['overwrite', 'dtype', 'modelName', 'denseBias'],
      }),
      option('--replace', 'with --append: tasks of the same name are replaced and keep their ids'),
    ],
    How: [
      option('--dtype <type>', 'element type of the files', { choices: ['float16', 'float32'], default: 'float16' }),
      option('--tensor-parallel <n>', 'GPUs that share each layer', { parse: integer(1), default: 1 }),
      option('--model-name <name>', 'model_name in config.ini (default: gptneox, or gpt for a GPT-2)'),
      option(
        '--dense-bias <rule>',
        "whether the biases behind attention and mlp are divided by --tensor-parallel: as the runtime needs it, or always, as NVIDIA's script does",
        {
          choices: ['runtime', 'huggingface_converter'],
          default: 'runtime',
        },
      ),
      option('--verify', 'then read all files again and compare them with the model and the prefixes'),
      option('--verify-only', 'write nothing, only compare', {
        conflicts: ['overwrite', 'append', 'dtype', 'modelName'],
      }),
    ],
  }),
  run,
};

export async function run(flags: ExportFtFlags, ui: Ui): Promise<number> {
  if (flags.replace === true && flags.append !== true) throw new UsageError('--replace has no effect without --append');
  if (flags.append === true && (flags.task ?? []).length === 0)
    throw new UsageError('--append adds tasks, and no --task is given');
  const checkpoint = await openCheckpoint(flags.model);
  for (const warning of checkpoint.warnings) ui.warn(warning);
  const exporter = new FTExporter({ checkpoint });
  const tasks = await loadTasks(flags, checkpoint, ui);
  const report = flags.verifyOnly === true ? undefined : await write(exporter, flags, tasks, ui);
  for (const { message } of report?.warnings ?? []) ui.warn(message);
  if (report !== undefined) printReport(report, ui);
  const verified =
    flags.verify === true || flags.verifyOnly === true ? await verify(exporter, flags, tasks, report, ui) : undefined;
  ui.json(given({ ...report, verify: verified }));
  return verified?.ok === false ? 1 : 0;
}

/** Loads the prefixes that --task names. */
export async function loadTasks(
  flags: Pick<ExportFtFlags, 'task' | 'prefixSeqLen' | 'allowFingerprintMismatch'>,
  checkpoint: Checkpoint,
  ui: Ui,
): Promise<Record<string, PrefixWeights>> {
  const { prefixSeqLen: prefixLength, allowFingerprintMismatch } = flags;
  const names = (flags.task ?? []).map(({ name }) => name);
  const number = names.findIndex((name) => /^\d+$/.test(name));
  if (number > 0)
    ui.warn(`the task '${names[number] ?? ''}' is a number, which puts it before the others: see the task ids below`);
  const tasks: Record<string, PrefixWeights> = {};
  for (const { name, path } of flags.task ?? []) {
    const prefix = await PrefixWeights.load(path, {
      config: checkpoint,
      ...given({ prefixLength, allowFingerprintMismatch }),
    });
    for (const warning of prefix.warnings) ui.warn(warning);
    tasks[name] = prefix;
  }
  return tasks;
}

function write(
  exporter: FTExporter,
  flags: ExportFtFlags,
  tasks: Record<string, PrefixWeights>,
  ui: Ui,
): Promise<ExportReport> {
  const { dtype, tensorParallel, modelName, denseBias, overwrite, replace } = flags;
  return ui.withProgress({ title: 'exporting', total: 0, unit: 'bytes' }, (update) => {
    const run = {
      signal: ui.signal,
      onProgress: (progress: Bytes): void => update(progress.bytesDone, '', progress.bytesTotal),
    };
    return flags.append === true
      ? exporter.addTasks(flags.out, tasks, { ...given({ tensorParallel, replace }), ...run })
      : exporter.export(flags.out, {
          ...given({ dtype, tensorParallel, modelName, denseBias, overwrite }),
          tasks,
          ...run,
        });
  });
}

interface Bytes {
  bytesDone: number;
  bytesTotal: number;
}

async function verify(
  exporter: FTExporter,
  flags: ExportFtFlags,
  tasks: Record<string, PrefixWeights>,
  report: ExportReport | undefined,
  ui: Ui,
): Promise<VerifyReport> {
  const { denseBias } = flags;
  const tensorParallel = report?.tensorParallel ?? flags.tensorParallel;
  const result = await ui.withProgress({ title: 'verifying', total: 0, unit: 'bytes' }, (update) =>
    exporter.verify(flags.out, {
      ...given({ denseBias, tensorParallel }),
      tasks,
      signal: ui.signal,
      onProgress: ({ bytesDone, bytesTotal }) => update(bytesDone, '', bytesTotal),
    }),
  );
  const equal = result.files.filter(({ status }) => status === 'equal').length;
  const sized = result.files.filter(({ status }) => status === 'size').length;
  const rest = sized === 0 ? '' : `; ${plural(sized, 'file')} of tasks that were not given: size right`;
  ui.print(
    `${result.ok ? 'verified' : 'differs:'} ${result.directory}: ${equal} of ${plural(result.files.length, 'file')} equal to their source${rest}`,
  );
  for (const problem of result.problems) ui.print(`  ${problem}`);
  for (const file of result.files)
    if (file.status !== 'equal' && file.status !== 'size') ui.print(`  ${file.name}: ${faultOf(file)}`);
  if (result.unexpected.length > 0)
    ui.warn(`files that belong to no part of the export: ${result.unexpected.join(', ')}`);
  return result;
}

function faultOf({ status, actualBytes, expectedBytes, differing, maxAbsDifference }: VerifiedFile): string {
  if (status === 'missing') return 'missing';
  if (status === 'wrong-size') return `${actualBytes} bytes, expected ${expectedBytes}`;
  return `differs in ${plural(differing, 'element')}, by up to ${maxAbsDifference}`;
}

function printReport(report: ExportReport, ui: Ui): void {
  const parts = report.tensorParallel === 1 ? '1 GPU' : `${report.tensorParallel} GPUs`;
  ui.print(
    `${report.directory}: ${plural(report.files.length, 'file')}, ${formatBytes(report.bytes)}, ${report.dtype}, for ${parts}`,
  );
  for (const { id, name, prefixLength } of report.tasks)
    ui.print(`  task ${id}  ${name}  (prefix length ${prefixLength})`);
}
