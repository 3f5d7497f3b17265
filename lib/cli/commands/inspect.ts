import { basename, join } from 'node:path';
import type { Command } from 'commander';
import { NeoXPrefixError } from '../../errors';
import { openExport } from '../../export/export-folder';
import { kindOf } from '../../files';
import { listFolder } from '../../export/export-folder';
import { Tokenizer } from '../../tokenizer/tokenizer';
import { fields, plural, table } from '../format';
import { addOptions, integer, option, unwrap } from '../options';
import type { Act } from '../program';
import type { Ui } from '../ui';
import { inspectCheckpoint } from './inspect-checkpoint';
import { inspectPrefix } from './inspect-prefix';
import { inspectRun } from './inspect-run';

export interface InspectFlags {
  args: string[];
  model?: string;
  prefixSeqLen?: number;
  tensors?: boolean;
}

/** What was found, for --json and for people. */
export interface Finding {
  kind: 'prefix' | 'encoder' | 'checkpoint' | 'fastertransformer' | 'run' | 'tokenizer';
  path: string;
  /** For --json. */
  data: object;
  text: string;
  warnings?: readonly string[];
}

const DESCRIPTION = `Shows what a file or folder holds: a prefix of any format, an encoder, a checkpoint folder, a tokenizer, a training run or a FasterTransformer export.

Nothing is loaded into a model; of a checkpoint only headers and a few values are read.`;

const EXAMPLES = `
Examples:
  $ neox-prefix inspect runs/smileface/best.safetensors
  $ neox-prefix inspect smileface_suffix.task0.weight --model models/japanese-gpt-neox-small     (rinna's files do not say their layers and heads)
  $ neox-prefix inspect models/japanese-gpt-neox-small --tensors
  $ neox-prefix inspect ft/1-gpu --json`;

export function register(program: Command, act: Act): void {
  const command = program
    .command('inspect')
    .summary('show what a file or folder holds')
    .description(unwrap(DESCRIPTION))
    .argument('<path...>', 'files or folders')
    .addHelpText('after', EXAMPLES);
  addOptions(command, 'Options', [
    option(
      '--pretrained-model-dir, --model <dir>',
      'the model that a prefix is for: needed for a file of nothing but numbers, checked for others',
    ),
    option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
    option('--tensors', 'list the tensors of a checkpoint, or the files of an export'),
  ]);
  command.action(act(run));
}

export async function run(flags: InspectFlags, ui: Ui): Promise<number> {
  for (const [i, path] of flags.args.entries()) {
    const { kind, data, text, warnings = [] } = await inspect(path, flags);
    for (const warning of warnings) ui.warn(warning);
    ui.json({ kind, path, ...data, warnings });
    ui.print(`${i > 0 ? '\n' : ''}${text}`);
  }
  return 0;
}

async function inspect(path: string, flags: InspectFlags): Promise<Finding> {
  const kind = await kindOf(path);
  if (kind === undefined) throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file or folder: ${path}`, { path });
  if (kind === 'folder') return inspectFolder(path, flags);
  const name = basename(path);
  if (name.endsWith('.model') || name === 'tokenizer.json') return inspectTokenizer(path);
  return inspectPrefix(path, flags);
}

async function inspectFolder(path: string, flags: InspectFlags): Promise<Finding> {
  const names = await listFolder(path);
  if (names.includes('adapter_config.json')) return inspectPrefix(path, flags);
  if (names.includes('recipe.json') && names.includes('metrics.jsonl')) return inspectRun(path);
  if (names.includes('config.ini') || names.some((name) => /^\d+-gpu$/.test(name))) return inspectExport(path, flags);
  if (names.includes('config.json')) return inspectCheckpoint(path, flags);
  if (names.some((name) => name.endsWith('.model') || name === 'tokenizer.json')) return inspectTokenizer(path);
  throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `${path} holds nothing that is known here`, {
    path,
    hint: 'known folders: checkpoints (config.json), PEFT adapters (adapter_config.json), exports (<n>-gpu), training runs, tokenizers',
  });
}

async function inspectTokenizer(path: string): Promise<Finding> {
  const tokenizer = await Tokenizer.load(path);
  const { kind, vocabSize, bosId, eosId, padId, unkId, hash } = tokenizer;
  const special = { bosId, eosId, padId, unkId };
  const shown = Object.entries(special).map(([name, id]) => {
    const token = id === undefined ? 'none' : `${id} ${tokenizer.idToToken(id) ?? ''}`.trim();
    return [`${name.replace('Id', '')} token`, token] as const;
  });
  return {
    kind: 'tokenizer',
    path,
    data: { tokenizer: kind, file: tokenizer.path, vocabSize, ...special, hash },
    text: fields([['tokenizer', tokenizer.path], ['kind', kind], ['vocabulary', vocabSize], ...shown, ['sha256', hash]]),
  };
}

async function inspectExport(path: string, flags: InspectFlags): Promise<Finding> {
  const { directory, dtype, tensorParallel, tasks, ini } = await openExport(path);
  const files = (await listFolder(directory)).filter((name) => name.endsWith('.bin'));
  const keys = [
    'model_name',
    'num_layer',
    'head_num',
    'size_per_head',
    'inter_size',
    'vocab_size',
    'rotary_embedding',
    'use_gptj_residual',
    'start_id',
    'end_id',
  ];
  const settings = keys.map((key) => [key, ini.get('gptneox', key)] as const);
  const parts = [
    fields([['FasterTransformer', directory], ['element type', dtype], ['GPUs', tensorParallel], ['files', files.length], ...settings]),
    tasks.length === 0
      ? 'no tasks'
      : table(
          ['task', 'id', 'prefix length'],
          tasks.map(({ id, name, prefixLength }) => [name, String(id), String(prefixLength)]),
        ),
    ...(flags.tensors === true ? [files.map((name) => join(directory, name)).join('\n')] : []),
  ];
  return {
    kind: 'fastertransformer',
    path,
    data: {
      directory,
      dtype,
      tensorParallel,
      config: Object.fromEntries(settings.filter(([, value]) => value !== undefined)),
      tasks,
      files: files.length,
    },
    text: `${parts.join('\n\n')}\n\n(${plural(files.length, 'file')} counted, not read: \`neox-prefix export ft --verify-only\` compares them)`,
  };
}
