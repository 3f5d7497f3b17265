import { basename } from 'node:path';
import { NeoXPrefixError } from '../../base/errors';
import { FileReader, kindOf, listFolder } from '../../base/files';
import { foreignFormat } from '../../formats/safetensors';
import { Tokenizer } from '../../tokenizer/tokenizer';
import type { CommandSpec } from '../command';
import { reportError } from '../usage-errors';
import { fields } from '../text-columns';
import { integer, option } from '../flags';
import type { Ui } from '../ui';
import { type Finding, type InspectFlags } from './finding';
import { inspectCheckpoint } from './inspect-checkpoint';
import { inspectExport, inspectTriton, inspectTritonRepository, tritonModels } from './inspect-export';
import { inspectPrefix } from './inspect-prefix';
import { RUN_FILES } from '../../runs/run-files';
import { inspectRun } from './inspect-run';

const DESCRIPTION = `Shows what a file or folder holds: a prefix of any format, an encoder, a checkpoint folder, a tokenizer, a training run, a FasterTransformer export, a Triton model or a repository of them.

Nothing is loaded into a model; of a checkpoint only headers and a few values are read.`;

const EXAMPLES = `
Examples:
  $ neox-prefix inspect runs/smileface/best.safetensors
  $ neox-prefix inspect smileface_suffix.task0.weight --model models/japanese-gpt-neox-small     (rinna's files do not say their layers and heads)
  $ neox-prefix inspect models/japanese-gpt-neox-small --tensors
  $ neox-prefix inspect ft/1-gpu --json`;

export const command: CommandSpec = {
  name: 'inspect',
  summary: 'show what a file or folder holds',
  description: DESCRIPTION,
  arguments: [['<path...>', 'files or folders']],
  examples: EXAMPLES,
  options: () => ({
    Options: [
      option(
        '--pretrained-model-dir, --model <dir>',
        'the model that a prefix is for: needed for a file of nothing but numbers, checked for others',
      ),
      option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
      option('--tensors', 'list the tensors of a checkpoint, or the files of an export'),
    ],
  }),
  run,
};

export async function run(flags: InspectFlags, ui: Ui): Promise<number> {
  let status = 0;
  let shown = 0;
  for (const path of flags.args) {
    try {
      ui.signal.throwIfAborted();
      const { kind, data, text, warnings = [] } = await inspect(path, flags);
      for (const warning of warnings) ui.warn(warning);
      ui.json({ kind, path, ...data, warnings });
      ui.print(`${shown++ > 0 ? '\n' : ''}${text}`);
    } catch (error) {
      if (ui.signal.aborted) throw error;
      status = reportError(error, ui);
    }
  }
  return status;
}

async function inspect(path: string, flags: InspectFlags): Promise<Finding> {
  const kind = await kindOf(path);
  if (kind === undefined) throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file or folder: ${path}`, { path });
  if (kind === 'folder') return inspectFolder(path, flags);
  const name = basename(path);
  if (name.endsWith('.model') || name === 'tokenizer.json') return inspectTokenizer(path);
  if (await isUnknown(path)) throw unknown(path);
  return inspectPrefix(path, flags);
}

/** The header of a safetensors file has less than this; what no format begins with reads as a larger number. */
const MAX_HEADER = 100_000_000n;

async function isUnknown(path: string): Promise<boolean> {
  if (/^model\.prefix_prompt\..*\.bin$/.test(basename(path))) return false;
  const start = await FileReader.use(path, (reader) => reader.read(0, Math.min(reader.size, 32)));
  if (start.length < 8) return !path.endsWith('.safetensors');
  return foreignFormat(start) === undefined && start.readBigUInt64LE(0) > MAX_HEADER;
}

function unknown(path: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `${path} holds nothing that is known here`, {
    path,
    hint:
      'known files: prefixes, encoders and tokenizers; known folders: checkpoints (config.json), ' +
      'PEFT adapters (adapter_config.json), ' +
      'exports (<n>-gpu), Triton models (config.pbtxt) and repositories, training runs, tokenizers',
  });
}

async function inspectFolder(path: string, flags: InspectFlags): Promise<Finding> {
  const names = await listFolder(path);
  if (names.includes('adapter_config.json')) return inspectPrefix(path, flags);
  if (names.includes(RUN_FILES.recipe) && names.includes(RUN_FILES.metrics)) return inspectRun(path);
  if (names.includes('config.pbtxt')) return inspectTriton(path);
  if (names.includes('config.ini') || names.some((name) => /^\d+-gpu$/.test(name))) return inspectExport(path, flags);
  if (names.includes('config.json')) return inspectCheckpoint(path, flags);
  if (names.some((name) => name.endsWith('.model') || name === 'tokenizer.json')) return inspectTokenizer(path);
  const models = await tritonModels(path);
  if (models.length > 0) return inspectTritonRepository(path, models);
  throw unknown(path);
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
    text: fields([
      ['tokenizer', tokenizer.path],
      ['kind', kind],
      ['vocabulary', vocabSize],
      ...shown,
      ['sha256', hash],
    ]),
  };
}
