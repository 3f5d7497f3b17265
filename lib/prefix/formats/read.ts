import { resolve } from 'node:path';

import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { FileReader, kindOf } from '../../base/files';
import { PickleDict } from '../../formats/pickle';
import { readSafetensorsHeader } from '../../formats/safetensors';
import { elementCount, type TensorEntry } from '../../formats/tensor';
import { entryOf, readTorchFile } from '../../formats/torch-file';
import { TorchTensor } from '../../formats/torch-objects';
import { readTensor } from '../../formats/values';
import { findTaskFolder, findTaskPrefix, type TaskKey } from './fastertransformer-task';
import { type GeometryHints, type PrefixGeometry, resolveGeometry } from './geometry';
import { FORMAT_VERSION, metadataFromStrings, type PrefixMetadata } from './metadata';
import { ADAPTER_TENSOR, findAdapterFolder, type PeftAdapter, readAdapter } from './peft';

export const PREFIX_TENSOR = 'prefix';

/** safetensors: our own file. rinna: one tensor saved by torch.save. peft: an adapter of PEFT. */
export type PrefixFormat = 'safetensors' | 'rinna' | 'peft';

export interface PrefixFile {
  readonly format: PrefixFormat | 'fastertransformer';
  /** [P, L, 2, N, D] */
  readonly data: Float32Array;
  readonly geometry: PrefixGeometry;
  readonly metadata: PrefixMetadata;
  readonly warnings: readonly string[];
}

interface FoundTensor {
  readonly format: PrefixFormat;
  readonly entry: TensorEntry;
  readonly metadata: PrefixMetadata;
}

const NO_METADATA: PrefixMetadata = { formatVersion: FORMAT_VERSION };

/** More than any prefix: 2048 positions of the largest GPT-NeoX. */
const MAX_ELEMENTS = 2 ** 31 / 2;

/**
 * Reads a prefix of any supported format, recognised by its content.
 * @param task which one, of a FasterTransformer folder
 */
export async function readPrefixFile(given: string, hints: GeometryHints, task?: TaskKey): Promise<PrefixFile> {
  const path = resolve(given);
  const folder = await findAdapterFolder(path);
  const exported = folder === undefined ? await findTaskFolder(path) : undefined;
  if (exported !== undefined) return readTask(exported.folder, task ?? exported.task);
  if (task !== undefined)
    throw badArgument('options.task', 'nothing, because only FasterTransformer folders have tasks,', task);
  if (folder !== undefined) return readAdapterFolder(folder, hints);
  if ((await kindOf(path)) === 'folder') {
    throw new NeoXPrefixError(
      'NEOX_BAD_PREFIX',
      `The folder ${path} holds no prefix: expected a PEFT adapter with adapter_config.json`,
      {
        path,
      },
    );
  }
  const found = await findTensor(path);
  const geometry = resolveGeometry(found.entry.shape, hints, path);
  return {
    format: found.format,
    data: await readValues(found.entry),
    geometry,
    metadata: found.metadata,
    warnings: [],
  };
}

async function readTask(folder: string, key: TaskKey | undefined): Promise<PrefixFile> {
  const { task, entry, geometry } = await findTaskPrefix(folder, key);
  const metadata = { ...NO_METADATA, task: task.name };
  return { format: 'fastertransformer', data: await readValues(entry), geometry, metadata, warnings: [] };
}

async function readAdapterFolder(folder: string, hints: GeometryHints): Promise<PrefixFile> {
  const adapter = await readAdapter(folder);
  const { entry, metadata } = await findTensor(adapter.weightsPath);
  const path = adapter.weightsPath;
  checkStated(adapter, entry.shape, path);
  const isComplete = adapter.hints.numLayers !== undefined && adapter.hints.numHeads !== undefined;
  const geometry = resolveGeometry(entry.shape, isComplete ? adapter.hints : hints, path);
  const { baseModelName } = adapter;
  const isNamed = metadata.baseModel !== undefined || baseModelName === undefined;
  const described = isNamed ? metadata : { ...metadata, baseModel: { name: baseModelName } };
  return { format: 'peft', data: await readValues(entry), geometry, metadata: described, warnings: adapter.warnings };
}

/** The sizes that an adapter_config.json states must be those of the tensor [P, L*2*N*D], as far as it tells them. */
function checkStated({ hints, tokenDim }: PeftAdapter, shape: readonly number[], path: string): void {
  const { prefixLength, numLayers, numHeads } = hints;
  const [length = 0] = shape;
  const width = shape.slice(1).reduce((product, size) => product * size, 1);
  const bad = (stated: string): NeoXPrefixError =>
    new NeoXPrefixError(
      'NEOX_BAD_PREFIX',
      `The prefix ${path} of shape [${shape.join(', ')}] is not usable: its adapter_config.json states ${stated}`,
      { path },
    );
  if (prefixLength !== undefined && prefixLength !== length) throw bad(`num_virtual_tokens ${prefixLength}`);
  if (numLayers !== undefined && width % (2 * numLayers) !== 0) throw bad(`num_layers ${numLayers}`);
  if (tokenDim !== undefined && width % (2 * tokenDim) !== 0) throw bad(`token_dim ${tokenDim}`);
  if (numLayers !== undefined && tokenDim !== undefined && width !== 2 * numLayers * tokenDim)
    throw bad(`num_layers ${numLayers} and token_dim ${tokenDim}, ${2 * numLayers * tokenDim} values a position`);
  const size = tokenDim ?? (numLayers === undefined ? width / 2 : width / (2 * numLayers));
  if (numHeads !== undefined && size % numHeads !== 0)
    throw bad(`num_attention_heads ${numHeads}, which does not divide ${size}`);
}

/** The one tensor of a file that is a prefix. */
async function findTensor(path: string): Promise<FoundTensor> {
  if (await isTorchFile(path)) return findInTorchFile(path);
  const header = await readSafetensorsHeader(path);
  const metadata = metadataFromStrings(header.metadata, path);
  return { ...pickTensor([...header.tensors.values()], path), metadata };
}

async function isTorchFile(path: string): Promise<boolean> {
  return FileReader.use(path, async (reader) => {
    const start = (await reader.read(0, Math.min(reader.size, 4))).toString('latin1');
    return start === 'PK\x03\x04' || start === '\x80\x02\x8a\x0a';
  });
}

async function findInTorchFile(path: string): Promise<FoundTensor> {
  const file = await readTorchFile(path);
  const { root } = file;
  if (root instanceof TorchTensor)
    return { format: 'rinna', entry: entryOf(root, PREFIX_TENSOR, file), metadata: NO_METADATA };
  if (!(root instanceof PickleDict)) throw noPrefix(path, 'it holds no tensor');
  const entries: TensorEntry[] = [];
  for (const [name, value] of root.items)
    if (value instanceof TorchTensor) entries.push(entryOf(value, String(name), file));
  return { ...pickTensor(entries, path), metadata: NO_METADATA };
}

function pickTensor(entries: readonly TensorEntry[], path: string): Pick<FoundTensor, 'format' | 'entry'> {
  const names = entries.map(({ name }) => name);
  const entry = entries.find(({ name }) => name === PREFIX_TENSOR || name === ADAPTER_TENSOR);
  if (entry !== undefined && entries.length === 1)
    return { format: entry.name === PREFIX_TENSOR ? 'safetensors' : 'peft', entry };
  if (names.some((name) => name.startsWith('prefix_wte.') || name.startsWith('prefix_mlp.'))) {
    throw noPrefix(path, 'it holds a prefix encoder', 'load it with PrefixEncoder.load; its prefix() is one');
  }
  const listed = names.slice(0, 5).join(', ') + (names.length > 5 ? `, ... (${names.length})` : '');
  throw noPrefix(
    path,
    `expected one tensor '${PREFIX_TENSOR}' or '${ADAPTER_TENSOR}', found ${listed === '' ? 'none' : listed}`,
  );
}

async function readValues(entry: TensorEntry): Promise<Float32Array> {
  const count = elementCount(entry.name, entry.shape, entry.file);
  if (count > MAX_ELEMENTS) throw noPrefix(entry.file, `it has ${count} elements, expected at most ${MAX_ELEMENTS}`);
  return readTensor(entry);
}

function noPrefix(path: string, problem: string, hint?: string): NeoXPrefixError {
  const message = `The file ${path} is no prefix: ${problem}`;
  return new NeoXPrefixError('NEOX_BAD_PREFIX', message, hint === undefined ? { path } : { path, hint });
}
