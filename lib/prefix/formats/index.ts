import { extname, join, resolve } from 'node:path';
import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { kindOf, listFolder } from '../../base/files';
import { FASTERTRANSFORMER_TASK } from './fastertransformer-task';
import type { GeometryHints } from './geometry';
import { ADAPTER_CONFIG, PEFT_ADAPTER } from './peft';
import { type FoundPrefix, notRecognised, type PrefixFormatEntry, PrefixSource, type TaskKey } from './source';
import { RINNA_FILE, SAFETENSORS_FILE } from './tensor-formats';

/** safetensors: our own file. rinna: one tensor saved by torch.save. peft: an adapter of PEFT. */
export type PrefixFormat = 'safetensors' | 'rinna' | 'peft';

/** Every format; what a path leads to is asked in this order. */
const FORMATS = {
  fastertransformer: FASTERTRANSFORMER_TASK,
  peft: PEFT_ADAPTER,
  rinna: RINNA_FILE,
  safetensors: SAFETENSORS_FILE,
} satisfies Record<PrefixFormat | 'fastertransformer', PrefixFormatEntry>;

/** Formats that a prefix is read from. */
export type PrefixSourceFormat = keyof typeof FORMATS;

export const PREFIX_FORMATS: Readonly<Record<PrefixSourceFormat, PrefixFormatEntry>> = FORMATS;

/** Formats that a prefix alone is written in; as a task of a FasterTransformer folder it is written by the exporter. */
export const WRITTEN_FORMATS: readonly PrefixFormat[] = ['safetensors', 'rinna', 'peft'];

/** All of them. */
export const SOURCE_FORMATS: readonly PrefixSourceFormat[] = [...WRITTEN_FORMATS, 'fastertransformer'];

export interface PrefixFile extends FoundPrefix {
  readonly format: PrefixSourceFormat;
}

/**
 * Reads a prefix of any format, recognised by its content.
 * @param task which one, of a FasterTransformer folder
 */
export async function readPrefixFile(given: string, hints: GeometryHints, task?: TaskKey): Promise<PrefixFile> {
  const path = resolve(given);
  const source = new PrefixSource(path, await kindOf(path));
  for (const [format, { recognise }] of Object.entries(FORMATS) as [PrefixSourceFormat, PrefixFormatEntry][]) {
    if (source.kind === 'folder' && PREFIX_FORMATS[format].kind === 'file') continue;
    const read = await recognise(source);
    if (read === undefined) continue;
    if (task !== undefined && format !== 'fastertransformer')
      throw badArgument('options.task', 'nothing, because only FasterTransformer folders have tasks,', task);
    return { format, ...(await read(hints, task)) };
  }
  if (source.kind !== 'folder') throw notRecognised(await source.tensorFile());
  const names = await adaptersIn(path);
  throw new NeoXPrefixError(
    'NEOX_BAD_PREFIX',
    `The folder ${path} holds no prefix: expected a PEFT adapter with adapter_config.json`,
    names.length === 0
      ? { path }
      : { path, hint: `it holds the adapters ${names.join(', ')}: name one of these folders` },
  );
}

/** Folders in a folder that are adapters, as PEFT saves several; ten at most. */
async function adaptersIn(path: string): Promise<string[]> {
  const names = (await listFolder(path)).slice(0, 1000);
  const kinds = await Promise.all(names.map((name) => kindOf(join(path, name, ADAPTER_CONFIG))));
  return names.filter((_, i) => kinds[i] === 'file').slice(0, 10);
}

/** The format that a path says where a prefix is to be written: by what is there, or by its ending. */
export async function formatOfPath(path: string): Promise<PrefixFormat> {
  if ((await kindOf(path)) === 'folder') return 'peft';
  const ending = extname(path);
  const format = WRITTEN_FORMATS.find((name) => FORMATS[name].endings.includes(ending));
  if (format !== undefined) return format;
  const endings = WRITTEN_FORMATS.flatMap((name) => FORMATS[name].endings).filter((known) => known !== '');
  throw badArgument(
    'path',
    `a name that ends in ${endings.slice(0, -1).join(', ')} or ${endings.at(-1)}, or a folder,`,
    path,
    "or say the format with options.format: 'peft' for a folder of this name",
  );
}
