import { NeoXPrefixError, isNeoXPrefixError } from '../../base/errors';
import { openCheckpoint } from '../../checkpoint/open';
import { type ConvertOptions, convertPrefix } from '../../export/convert';
import { SOURCE_FORMATS } from '../../prefix/formats/index';
import type { CommandSpec } from '../command';
import { UsageError } from '../usage-errors';
import { given, integer, option } from '../flags';
import type { Ui } from '../ui';

export interface ConvertFlags {
  args: string[];
  format?: NonNullable<ConvertOptions['format']>;
  task?: string;
  name?: string;
  model?: string;
  baseModelName?: string;
  prefixSeqLen?: number;
  allowFingerprintMismatch?: boolean;
  overwrite?: boolean;
}

const DESCRIPTION = `Reads a prefix of any format and writes it in any other: this program's .safetensors, rinna's .checkpoint and .weight, a PEFT adapter folder, or a task of a FasterTransformer folder.

The source is recognised by its content, the target by its name. A FasterTransformer folder must be there already (\`export ft\` makes it) and gets the prefix as one more task.`;

const EXAMPLES = `
Examples:
  $ neox-prefix convert smileface.safetensors smileface-adapter
  $ neox-prefix convert smileface_suffix.task0.weight smileface.safetensors --model models/japanese-gpt-neox-small --name smileface
  $ neox-prefix convert ft/2-gpu smileface.safetensors --task smileface
  $ neox-prefix convert smileface-adapter ft/2-gpu --name smileface`;

/** Of an adapter, for AutoPeftModel. */
export const BASE_MODEL_NAME = 'what the prefix names as its base model: a path or a name on the hub';

export const command: CommandSpec = {
  name: 'convert',
  summary: 'write a prefix in another format',
  description: DESCRIPTION,
  arguments: [
    ['<from>', 'a prefix in any format'],
    ['<to>', 'the file or folder to write'],
  ],
  examples: EXAMPLES,
  options: () => ({
    Options: [
      option('--format <format>', 'the format to write', {
        choices: SOURCE_FORMATS,
        default: 'what the name of <to> says',
      }),
      option('--task <name>', 'which task of a FasterTransformer folder', { default: 'the only one' }),
      option('--name <name>', "the task's name in what is written", { default: 'the one that the source knows' }),
      option(
        '--pretrained-model-dir, --model <dir>',
        'the model that the prefix is for: needed for a file of nothing but numbers, checked for others',
      ),
      option('--base-model-name <name>', BASE_MODEL_NAME, { default: 'the one that the source knows' }),
      option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
      option('--allow-fingerprint-mismatch', 'take a prefix that was trained on another base model of the same shape'),
      option('--overwrite', 'replace what is there'),
    ],
  }),
  run,
};

export async function run(flags: ConvertFlags, ui: Ui): Promise<number> {
  const [from, to] = flags.args as [string, string];
  const { format, task, name, baseModelName, overwrite, allowFingerprintMismatch, prefixSeqLen: prefixLength } = flags;
  const config = flags.model === undefined ? undefined : await openCheckpoint(flags.model);
  const options = given({
    format,
    task,
    name,
    baseModelName,
    overwrite,
    allowFingerprintMismatch,
    prefixLength,
    config,
  });
  const report = await convertPrefix(from, to, options).catch((error: unknown) => {
    throw inItsOptions(error);
  });
  for (const warning of report.warnings) ui.warn(warning);
  ui.json(report);
  const id = report.to.taskId === undefined ? '' : `, task ${report.to.taskId} (${report.task ?? ''})`;
  ui.print(`${to}: prefix [${report.shape.join(', ')}], ${report.from.format} to ${report.to.format}${id}`);
  return 0;
}

/** What the library says of options that have other names here than with the other commands. */
function inItsOptions(error: unknown): unknown {
  if (!isNeoXPrefixError(error)) return error;
  const { code, message, hint, path } = error;
  const what = message.split('\n')[0] ?? '';
  if (code === 'NEOX_BAD_ARGUMENT' && what.includes(' for task but received ')) {
    const [, expected = '', received = ''] = /^Expected (.*) for task but received (.*) of type \w+$/.exec(what) ?? [];
    const asked = received === 'undefined' ? 'none was given' : `${received} was given`;
    return new UsageError(`--task needs ${expected}; ${asked}`, hint);
  }
  const name = /^Expected a name that ends in .* for path but received '(.*)' of type \w+$/.exec(what)?.[1];
  if (name !== undefined && hint?.includes('options.format') === true) {
    const formats =
      'give --format peft for an adapter folder of this name, --format safetensors or --format rinna for a file';
    return new UsageError(`The name ${name} does not say the format to write`, formats);
  }
  if (what.includes(' for options.name '))
    return new UsageError('The source does not know the name of its task', 'give it with --name NAME');
  if (hint?.includes('set `replace: true`') !== true) return error;
  const details = { hint: hint.replace('set `replace: true`', 'give --overwrite to replace it'), cause: error };
  return new NeoXPrefixError(code, what, path === undefined ? details : { ...details, path });
}
