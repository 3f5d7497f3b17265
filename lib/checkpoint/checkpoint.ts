import { join, resolve } from 'node:path';

import { checkOneOf, checkOptions, checkPath, show } from '../arguments';
import { NeoXPrefixError } from '../errors';
import { isExportFolder, type ExportTask } from '../export/export-folder';
import { DENSE_BIAS_RULES, type DenseBiasRule } from '../export/layout';
import { kindOf, readSmallFile } from '../files';
import { resolveConfig, type GPTNeoXConfig } from './config';
import { openFastertransformer } from './fastertransformer';
import { fingerprintOf } from './fingerprint';
import { get, isObject, parseJsonObject, type JsonObject } from './json';
import { canonicalName, expectedShapes, isLegacyBuffer } from './names';
import { readSafetensorsHeader } from './safetensors';
import { DTYPE_BYTES, type TensorEntry } from './tensor';
import { readStateDict } from './torch-file';
import { FLOAT_DTYPES } from './values';

const MAX_CONFIG_BYTES = 16 * 1024 * 1024;
const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** What kind of folder a checkpoint is. */
export type CheckpointFormat = 'safetensors' | 'safetensors-sharded' | 'pytorch' | 'pytorch-sharded' | 'fastertransformer';

/** A checkpoint folder whose files were found complete and of the right shapes; no weight has been read yet. */
export interface Checkpoint {
  /** Absolute path. */
  readonly directory: string;
  readonly config: GPTNeoXConfig;
  /** config.json as it is; of a FasterTransformer folder config.ini, by section. */
  readonly rawConfig: JsonObject;
  /** Every weight of the model under its canonical name; `embed_out.weight` is always there, tied or not. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly format: CheckpointFormat;
  /** The tasks of a FasterTransformer folder, in the order of their ids; empty for others. */
  readonly tasks: readonly ExportTask[];
  /** Things that were settled or left out, worth showing to a person. */
  readonly warnings: readonly string[];
  /** Identity of the base model (see fingerprint.ts), in hexadecimal. */
  readonly fingerprint: string;
}

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

/** How to read a checkpoint. */
export interface CheckpointOptions {
  /**
   * Of a FasterTransformer folder for several GPUs: whether the biases after attention and mlp were divided by their number. `'runtime'`:
   * as FasterTransformer itself will use them, that is with a parallel residual only; `'huggingface_converter'`: always, as NVIDIA's
   * huggingface_gptneox_convert.py does, which gives back the weights that were converted although a server computes with others.
   * Defaults to `'runtime'`.
   */
  denseBias?: DenseBiasRule;
}

/**
 * Opens a checkpoint folder: a Hugging Face one (config.json beside model.safetensors or pytorch_model.bin, whole or in shards),
 * or a weight folder of FasterTransformer (`<ranks>-gpu`, or a folder that holds one). Only headers and a few sampled values are read.
 * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CONFIG, NEOX_UNSUPPORTED (another kind of model), NEOX_BAD_CHECKPOINT (a file that is
 *   damaged, or tensors that are missing or of another shape than config.json says), NEOX_BAD_EXPORT (the same of a
 *   FasterTransformer folder)
 */
export async function openCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions('options', options, ['denseBias']);
  const denseBias = checkOneOf('denseBias', options.denseBias ?? 'runtime', DENSE_BIAS_RULES);
  const directory = resolve(checkPath('dir', dir));
  await checkFolder(directory);
  if ((await kindOf(join(directory, 'config.json'))) === undefined && (await isExportFolder(directory))) {
    return openFastertransformer(directory, denseBias);
  }
  const { rawConfig, config, warnings } = await readConfig(directory);
  const files = await readWeights(directory, warnings);
  const tensors = selectTensors(files, config, directory, warnings);
  const fingerprint = await fingerprintOf(config, tensors);
  return { directory, config, rawConfig, tensors, format: files.format, tasks: [], warnings, fingerprint };
}

async function checkFolder(directory: string): Promise<void> {
  const kind = await kindOf(directory);
  if (kind === 'folder') return;
  if (kind === undefined) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such checkpoint folder: ${directory}`, {
      path: directory,
      hint: 'models are read from disk only; download the repository first and give its folder',
    });
  }
  throw new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `Expected a checkpoint folder, found a file: ${directory}`, {
    path: directory,
    hint: 'give the folder that holds config.json',
  });
}

/** Reads and resolves DIR/config.json. */
export async function readConfig(directory: string): Promise<{ rawConfig: JsonObject; config: GPTNeoXConfig; warnings: string[] }> {
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
  const rawConfig = parseJsonObject(await readSmallFile(path, MAX_CONFIG_BYTES), 'NEOX_BAD_CONFIG', 'The configuration', path);
  const { config, warnings } = resolveConfig(rawConfig, path);
  return { rawConfig, config, warnings: [...warnings] };
}

async function readWeights(directory: string, warnings: string[]): Promise<WeightFiles> {
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
async function readShards(directory: string, indexPath: string, warnings: string[]): Promise<Omit<WeightFiles, 'format'>> {
  const bad = (problem: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The index ${indexPath} is not usable: ${problem}`, { path: indexPath });
  const index = parseJsonObject(await readSmallFile(indexPath, MAX_INDEX_BYTES), 'NEOX_BAD_CHECKPOINT', 'The index', indexPath);
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

/** A wrong total is harmless (some tools count tied tensors twice), but tells that the index and the shards are of two versions. */
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
  for (const { shape, dtype } of tensors.values()) total += shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
  if (stated !== total) warnings.push(`${path} states a total_size of ${show(stated)} bytes; its shards hold ${total}`);
}

/** Canonical names, legacy buffers left out, every weight there and of its shape. */
function selectTensors(files: WeightFiles, config: GPTNeoXConfig, directory: string, warnings: string[]): Map<string, TensorEntry> {
  const found = new Map<string, TensorEntry>();
  for (const [name, entry] of files.tensors) {
    if (isLegacyBuffer(name)) continue;
    const canonical = canonicalName(name);
    const other = found.get(canonical);
    if (other !== undefined && (other.file !== entry.file || other.offset !== entry.offset)) {
      throw badCheckpoint(directory, `${other.name} and ${name} are both ${canonical}, with different values`);
    }
    found.set(canonical, entry);
  }
  const unsupported = new Map([...files.unsupported].map(([name, dtype]) => [canonicalName(name), dtype]));
  const selected = new Map<string, TensorEntry>();
  const expected = expectedShapes(config);
  for (const [name, shape] of expected) {
    const source = name === 'embed_out.weight' && config.tieWordEmbeddings ? 'gpt_neox.embed_in.weight' : name;
    const entry = checkTensor(name, found.get(source), shape, directory, found, unsupported.get(source));
    selected.set(name, { ...entry, name });
  }
  const unexpected = [...found.keys(), ...unsupported.keys()].filter((name) => !expected.has(name));
  if (unexpected.length > 0) {
    const more = unexpected.length > 5 ? ` and ${unexpected.length - 5} more` : '';
    warnings.push(`tensors that are no part of a GPT-NeoX model are ignored: ${unexpected.slice(0, 5).join(', ')}${more}`);
  }
  return selected;
}

function checkTensor(
  name: string,
  entry: TensorEntry | undefined,
  shape: readonly number[],
  directory: string,
  found: ReadonlyMap<string, TensorEntry>,
  unsupportedDtype: string | undefined,
): TensorEntry {
  const dtype = entry?.dtype ?? unsupportedDtype;
  if (dtype === undefined) throw badCheckpoint(directory, `${name} [${shape.join(', ')}] is missing`, hintForMissing(name, found));
  if (entry === undefined || !FLOAT_DTYPES.includes(entry.dtype)) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `Tensor ${name} in ${directory} is of type ${dtype}; expected ${FLOAT_DTYPES.join(', ')}`,
      { path: directory },
    );
  }
  if (entry.shape.length !== shape.length || entry.shape.some((size, d) => size !== shape[d])) {
    throw badCheckpoint(entry.file, `${entry.name} has shape [${entry.shape.join(', ')}]; config.json asks for [${shape.join(', ')}]`);
  }
  return entry;
}

function hintForMissing(name: string, found: ReadonlyMap<string, TensorEntry>): string | undefined {
  const names = [...found.keys()];
  if (names.some((other) => other.endsWith('.qweight'))) return 'these weights are quantised (GPTQ or AWQ); use the original checkpoint';
  if (names.some((other) => other.includes('.lora_'))) return 'these are LoRA weights; use the base model';
  if (name !== 'embed_out.weight') return undefined;
  if (found.has('score.weight')) return 'this is a sequence classification model (it has score.weight); use the language model';
  return 'the checkpoint was saved without its output head; save it from GPTNeoXForCausalLM';
}

function badCheckpoint(path: string, problem: string, hint?: string): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_BAD_CHECKPOINT',
    `The checkpoint ${path} is not usable: ${problem}`,
    hint === undefined ? { path } : { path, hint },
  );
}
