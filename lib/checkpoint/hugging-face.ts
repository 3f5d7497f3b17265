import { join } from 'node:path';
import { architectureOf, resolveConfig } from '../architecture/architectures';
import { type GPTNeoXConfig } from '../architecture/config';
import { type GenerationConfig, plainGeneration, resolveGeneration } from '../architecture/generation-config';
import { show } from '../base/arguments';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { kindOf, readSmallFile } from '../base/files';
import { get, isObject, type JsonObject, parseJsonObject } from '../formats/json';
import { readSafetensorsHeader } from '../formats/safetensors';
import { DTYPE_BYTES, type TensorEntry } from '../formats/tensor';
import { readStateDict } from '../formats/torch-file';
import { FLOAT_DTYPES } from '../formats/values';
import { type CheckpointFormat } from './checkpoint';
import { checkWrappers } from './wrappers';

const MAX_CONFIG_BYTES = 16 * 1024 * 1024;

const MAX_INDEX_BYTES = 64 * 1024 * 1024;

interface WeightFiles {
  readonly format: CheckpointFormat;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly unsupported: ReadonlyMap<string, string>;
}

/** In the order in which transformers looks. */
const WEIGHT_FILES: readonly { file: string; format: CheckpointFormat }[] = [
  { file: 'model.safetensors', format: 'safetensors' },
  { file: 'model.safetensors.index.json', format: 'safetensors-sharded' },
  { file: 'pytorch_model.bin', format: 'pytorch' },
  { file: 'pytorch_model.bin.index.json', format: 'pytorch-sharded' },
];

/** Reads and resolves DIR/config.json. */
export async function readConfig(
  directory: string,
): Promise<{ rawConfig: JsonObject; config: GPTNeoXConfig; warnings: string[] }> {
  const path = join(directory, 'config.json');
  if ((await kindOf(path)) === undefined) {
    const adapter = (await kindOf(join(directory, 'adapter_config.json'))) !== undefined;
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No config.json in ${directory}`, {
      path,
      hint: adapter
        ? 'this folder holds a PEFT adapter: load it as a prefix, over the base model it was trained on'
        : 'this is no Hugging Face checkpoint folder',
    });
  }
  const rawConfig = parseJsonObject(
    await readSmallFile(path, MAX_CONFIG_BYTES),
    'NEOX_BAD_CONFIG',
    'The configuration',
    path,
  );
  const { config, warnings } = resolveConfig(rawConfig, path);
  return { rawConfig, config, warnings: [...warnings] };
}

/**
 * Reads DIR/generation_config.json, where there is one. As in transformers, one that cannot be read is none, here with
 * a warning.
 */
export async function readGeneration(
  directory: string,
  config: GPTNeoXConfig,
  warnings: string[],
): Promise<GenerationConfig> {
  const path = join(directory, 'generation_config.json');
  if ((await kindOf(path)) === undefined) return plainGeneration(config);
  try {
    const bytes = await readSmallFile(path, MAX_CONFIG_BYTES);
    const json = parseJsonObject(bytes, 'NEOX_BAD_CONFIG', 'The generation configuration', path);
    const found = resolveGeneration(json, config, path);
    warnings.push(...found.warnings);
    return found.generation;
  } catch (error) {
    if (!isNeoXPrefixError(error)) throw error;
    warnings.push(`${error.message.split('\n')[0] ?? ''}; it is ignored`);
    return plainGeneration(config);
  }
}

export async function readWeights(directory: string, warnings: string[]): Promise<WeightFiles> {
  for (const { file, format } of WEIGHT_FILES) {
    const path = join(directory, file);
    if ((await kindOf(path)) === undefined) continue;
    if (format === 'safetensors' || format === 'pytorch') return { format, ...(await readWeightFile(path)) };
    return { format, ...(await readShards(directory, path, warnings)) };
  }
  throw new NeoXPrefixError(
    'NEOX_FILE_NOT_FOUND',
    `No weights in ${directory}; expected one of ${WEIGHT_FILES.map(({ file }) => file).join(', ')}`,
    {
      path: directory,
      hint: 'a clone without Git LFS, or a download of config.json alone, looks like this',
    },
  );
}

async function readWeightFile(path: string): Promise<Omit<WeightFiles, 'format'>> {
  if (path.endsWith('.safetensors')) return readSafetensorsHeader(path);
  return { tensors: await readStateDict(path), unsupported: new Map() };
}

/** Reads the index of a sharded checkpoint and every shard that it names. */
async function readShards(
  directory: string,
  indexPath: string,
  warnings: string[],
): Promise<Omit<WeightFiles, 'format'>> {
  const bad = (problem: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The index ${indexPath} is not usable: ${problem}`, { path: indexPath });
  const index = parseJsonObject(
    await readSmallFile(indexPath, MAX_INDEX_BYTES),
    'NEOX_BAD_CHECKPOINT',
    'The index',
    indexPath,
  );
  const map = get(index, 'weight_map');
  if (!isObject(map)) throw bad('expected an object weight_map');
  const shards = new Map<string, string[]>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || !/^[\w][\w.-]*\.(?:safetensors|bin)$/.test(shard)) {
      throw bad(
        `expected the plain name of a .safetensors or .bin file for ${name.slice(0, 200)}, found ${JSON.stringify(shard).slice(0, 100)}`,
      );
    }
    const names = shards.get(shard);
    if (names === undefined) shards.set(shard, [name]);
    else names.push(name);
  }
  const tensors = new Map<string, TensorEntry>();
  const unsupported = new Map<string, string>();
  for (const [shard, names] of shards) {
    const file = await readWeightFile(join(directory, shard));
    for (const name of names) {
      const entry = file.tensors.get(name);
      const dtype = file.unsupported.get(name);
      if (entry !== undefined) tensors.set(name, entry);
      else if (dtype !== undefined) unsupported.set(name, dtype);
      else throw bad(`${name} should be in ${shard} but is not`);
    }
  }
  checkTotal(index, tensors, unsupported, indexPath, warnings);
  return { tensors, unsupported };
}

/**
 * A wrong total is harmless (some tools count tied tensors twice), but tells that the index and the shards are of two
 * versions.
 */
function checkTotal(
  index: JsonObject,
  tensors: ReadonlyMap<string, TensorEntry>,
  unsupported: ReadonlyMap<string, string>,
  path: string,
  warnings: string[],
): void {
  const metadata = get(index, 'metadata');
  const stated = isObject(metadata) ? get(metadata, 'total_size') : undefined;
  if (stated === undefined || unsupported.size > 0) return;
  let total = 0;
  for (const { shape, dtype } of tensors.values())
    total += shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
  if (stated !== total) warnings.push(`${path} states a total_size of ${show(stated)} bytes; its shards hold ${total}`);
}

/** Canonical names, buffers left out, every weight there and of its shape. */
export function selectTensors(
  files: WeightFiles,
  config: GPTNeoXConfig,
  directory: string,
  warnings: string[],
): Map<string, TensorEntry> {
  const architecture = architectureOf(config);
  checkWrappers([...files.tensors.keys(), ...files.unsupported.keys()], directory);
  const found = new Map<string, TensorEntry>();
  for (const [name, entry] of files.tensors) {
    if (architecture.isBuffer(name)) continue;
    const canonical = architecture.canonicalName(name);
    const other = found.get(canonical);
    if (other !== undefined && (other.file !== entry.file || other.offset !== entry.offset)) {
      throw badCheckpoint(directory, `${other.name} and ${name} are both ${canonical}, with different values`);
    }
    found.set(canonical, entry);
  }
  const unsupported = new Map([...files.unsupported].map(([name, dtype]) => [architecture.canonicalName(name), dtype]));
  const selected = new Map<string, TensorEntry>();
  const used = new Set<string>();
  const expected = architecture.weights(config);
  for (const [name, { shape, source, sourceShape, view }] of expected) {
    const entry = checkTensor(source, found.get(source), sourceShape ?? shape, directory, unsupported.get(source));
    selected.set(name, { ...(view === undefined ? entry : view(entry)), name });
    used.add(source);
  }
  const unexpected = [...found.keys(), ...unsupported.keys()].filter((name) => !used.has(name) && !expected.has(name));
  if (unexpected.length > 0) {
    const more = unexpected.length > 5 ? ` and ${unexpected.length - 5} more` : '';
    warnings.push(
      `tensors that are no part of a ${architecture.title} model are ignored: ${unexpected.slice(0, 5).join(', ')}${more}`,
    );
  }
  return selected;
}

function checkTensor(
  name: string,
  entry: TensorEntry | undefined,
  shape: readonly number[],
  directory: string,
  unsupportedDtype: string | undefined,
): TensorEntry {
  const dtype = entry?.dtype ?? unsupportedDtype;
  if (dtype === undefined)
    throw badCheckpoint(directory, `${name} [${shape.join(', ')}] is missing`, hintForMissing(name));
  if (entry === undefined || !FLOAT_DTYPES.includes(entry.dtype)) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `Tensor ${name} in ${directory} is of type ${dtype}; expected ${FLOAT_DTYPES.join(', ')}`,
      { path: directory },
    );
  }
  if (entry.shape.length !== shape.length || entry.shape.some((size, d) => size !== shape[d])) {
    throw badCheckpoint(
      entry.file,
      `${entry.name} has shape [${entry.shape.join(', ')}]; config.json asks for [${shape.join(', ')}]`,
    );
  }
  return entry;
}

function hintForMissing(name: string): string | undefined {
  if (name === 'lm_head.weight')
    return 'the checkpoint was saved without its output head; save it from GPT2LMHeadModel';
  return name === 'embed_out.weight'
    ? 'the checkpoint was saved without its output head; save it from GPTNeoXForCausalLM'
    : undefined;
}

function badCheckpoint(path: string, problem: string, hint?: string): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_BAD_CHECKPOINT',
    `The checkpoint ${path} is not usable: ${problem}`,
    hint === undefined ? { path } : { path, hint },
  );
}
