import { NeoXPrefixError } from '../../base/errors';
import { FileReader } from '../../base/files';
import { PickleDict } from '../../formats/pickle';
import { readSafetensorsHeader } from '../../formats/safetensors';
import { elementCount, type TensorEntry } from '../../formats/tensor';
import { entryOf, readTorchFile } from '../../formats/torch-file';
import { TorchTensor } from '../../formats/torch-objects';
import { readTensor } from '../../formats/values';
import { type GeometryHints, type PrefixGeometry, resolveGeometry } from './geometry';
import { FORMAT_VERSION, metadataFromStrings, type PrefixMetadata } from './metadata';

/** A task of a FasterTransformer folder: by its name, or by the id that requests send. */
export type TaskKey = string | number;

/** The values of a prefix, their sizes and what they remember. */
export interface PrefixContent {
  /** [P, L, 2, N, D] */
  readonly data: Float32Array;
  readonly geometry: PrefixGeometry;
  readonly metadata: PrefixMetadata;
}

/** What a file of a prefix holds. */
export interface FoundPrefix extends PrefixContent {
  readonly warnings: readonly string[];
}

/** Reads a prefix that was recognised. @param task which one, where there can be several */
export type PrefixReader = (hints: GeometryHints, task?: TaskKey) => Promise<FoundPrefix>;

/** A file format of prefixes. The table of them is in index.ts. */
export interface PrefixFormatEntry {
  /** What a person is told that a file is. */
  readonly title: string;
  /** Endings of the names that mean this format where a prefix is written; '': a name without one. */
  readonly endings: readonly string[];
  /** What stands on the disk. */
  readonly kind: 'file' | 'folder';
  /** Whether the task, the base model and the recipe are in it. */
  readonly keepsMetadata: boolean;
  /** What reads the prefix if the source is of this format, and else undefined. */
  readonly recognise: (source: PrefixSource) => Promise<PrefixReader | undefined>;
  /** Writes a prefix, atomically; a format without it is written by the exporter. */
  readonly write?: (path: string, prefix: PrefixContent) => Promise<void>;
}

/** A file with tensors. */
export interface TensorFile {
  readonly path: string;
  readonly tensors: readonly TensorEntry[];
  /** Whether it is one tensor and nothing else, without a name. */
  readonly isBare: boolean;
  readonly metadata: PrefixMetadata;
}

export const NO_METADATA: PrefixMetadata = { formatVersion: FORMAT_VERSION };

/** More than any prefix: 2048 positions of the largest GPT-NeoX. */
const MAX_ELEMENTS = 2 ** 31 / 2;

/** What a path leads to, for the formats to recognise. */
export class PrefixSource {
  private opened: Promise<TensorFile> | undefined;

  constructor(
    /** Absolute. */
    readonly path: string,
    readonly kind: 'file' | 'folder' | 'other' | undefined,
  ) {}

  /** Its tensors, for a file; read once. @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CHECKPOINT for a damaged file */
  tensorFile(): Promise<TensorFile> {
    this.opened ??= openTensorFile(this.path);
    return this.opened;
  }
}

/** Reads the names and shapes of a file's tensors: safetensors, or what torch.save wrote. */
export async function openTensorFile(path: string): Promise<TensorFile> {
  if (!(await isTorchFile(path))) {
    const header = await readSafetensorsHeader(path);
    const metadata = metadataFromStrings(header.metadata, path);
    return { path, tensors: [...header.tensors.values()], isBare: false, metadata };
  }
  const file = await readTorchFile(path);
  const wrapped = file.root instanceof PickleDict ? file.root.items.get('model') : undefined;
  const root = wrapped instanceof PickleDict ? wrapped : file.root;
  if (root instanceof TorchTensor)
    return { path, tensors: [entryOf(root, 'prefix', file)], isBare: true, metadata: NO_METADATA };
  if (!(root instanceof PickleDict)) throw noPrefix(path, 'it holds no tensor');
  const tensors: TensorEntry[] = [];
  for (const [name, value] of root.items)
    if (value instanceof TorchTensor) tensors.push(entryOf(value, String(name), file));
  return { path, tensors, isBare: false, metadata: NO_METADATA };
}

async function isTorchFile(path: string): Promise<boolean> {
  return FileReader.use(path, async (reader) => {
    const start = (await reader.read(0, Math.min(reader.size, 4))).toString('latin1');
    return start === 'PK\x03\x04' || start === '\x80\x02\x8a\x0a';
  });
}

/** Names of the tensor in our own file and in an adapter of PEFT. */
export const PREFIX_TENSOR = 'prefix';
export const ADAPTER_TENSOR = 'prompt_embeddings';

/** The parameters of an encoder under rinna's names, in whatever module. */
export const ENCODER_TENSOR = /(?:^|\.)(prefix_(?:wte|mlp)\..+)$/;

/** The only tensor of a file, if it has this name. */
export function onlyTensor({ tensors, isBare }: TensorFile, name: string): TensorEntry | undefined {
  return !isBare && tensors.length === 1 && tensors[0]?.name === name ? tensors[0] : undefined;
}

/** The one tensor of a file, whichever program has written it. @throws NEOX_BAD_PREFIX */
export function anyTensor(file: TensorFile): TensorEntry {
  const entry = file.isBare ? file.tensors[0] : (onlyTensor(file, PREFIX_TENSOR) ?? onlyTensor(file, ADAPTER_TENSOR));
  if (entry === undefined) throw notRecognised(file);
  return entry;
}

/** Reads a tensor whose shape, or the hints, say what it is for. */
export function readerOf({ path, metadata }: TensorFile, entry: TensorEntry | undefined): PrefixReader | undefined {
  if (entry === undefined) return undefined;
  return async (hints) => {
    const geometry = resolveGeometry(entry.shape, hints, path);
    return { data: await readValues(entry), geometry, metadata, warnings: [] };
  };
}

/** Of a file with tensors that are no prefix. */
export function notRecognised({ path, tensors }: TensorFile): NeoXPrefixError {
  const names = tensors.map(({ name }) => name);
  if (names.some((name) => ENCODER_TENSOR.test(name))) {
    return noPrefix(path, 'it holds a prefix encoder', 'load it with PrefixEncoder.load; its prefix() is one');
  }
  const listed = names.slice(0, 5).join(', ') + (names.length > 5 ? `, ... (${names.length})` : '');
  const found = listed === '' ? 'none' : listed;
  return noPrefix(path, `expected one tensor '${PREFIX_TENSOR}' or '${ADAPTER_TENSOR}', found ${found}`);
}

/** The values of a tensor that is a prefix. */
export async function readValues(entry: TensorEntry): Promise<Float32Array> {
  const count = elementCount(entry.name, entry.shape, entry.file);
  if (count > MAX_ELEMENTS) throw noPrefix(entry.file, `it has ${count} elements, expected at most ${MAX_ELEMENTS}`);
  return readTensor(entry);
}

function noPrefix(path: string, problem: string, hint?: string): NeoXPrefixError {
  const message = `The file ${path} is no prefix: ${problem}`;
  return new NeoXPrefixError('NEOX_BAD_PREFIX', message, hint === undefined ? { path } : { path, hint });
}
