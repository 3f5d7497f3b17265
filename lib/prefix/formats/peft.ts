import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { show } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import { kindOf, makeFolder, readSmallFile, removeEmptyFolders, writeFileAtomic } from '../../base/files';
import { get, type JsonObject, parseJsonObject } from '../../formats/json';
import { writeSafetensors } from '../../formats/safetensors';
import { type GeometryHints, resolveGeometry, widthOf } from './geometry';
import { metadataToStrings } from './metadata';
import {
  ADAPTER_TENSOR,
  anyTensor,
  type FoundPrefix,
  onlyTensor,
  openTensorFile,
  type PrefixContent,
  type PrefixFormatEntry,
  readerOf,
  readValues,
} from './source';

export const ADAPTER_CONFIG = 'adapter_config.json';

/** What PEFT writes for prefix tuning, up to 0.21; other keys are ignored with a warning. */
const KNOWN_KEYS = [
  ...[
    'auto_mapping',
    'base_model_name_or_path',
    'encoder_hidden_size',
    'inference_mode',
    'init_weights',
    'modules_to_save',
    'num_attention_heads',
  ],
  ...[
    'num_layers',
    'num_transformer_submodules',
    'num_virtual_tokens',
    'peft_type',
    'peft_version',
    'prefix_projection',
    'revision',
    'task_type',
  ],
  ...['token_dim'],
];

/**
 * An adapter folder of PEFT (peft/tuners/prefix_tuning): where its weights are and what its configuration says of them.
 */
interface PeftAdapter {
  readonly weightsPath: string;
  readonly hints: GeometryHints;
  /** N*D: the width of the model. */
  readonly tokenDim: number | undefined;
  readonly baseModelName: string | undefined;
  readonly warnings: readonly string[];
}

/** An adapter folder of PEFT, or a file with the one tensor of an adapter: [P, L*2*N*D] named prompt_embeddings. */
export const PEFT_ADAPTER: PrefixFormatEntry = {
  title: 'PEFT adapter',
  endings: [''],
  ...{ kind: 'folder', keepsMetadata: true },
  recognise: async (source) => {
    const folder = await findAdapterFolder(source.path);
    if (folder !== undefined) return (hints) => readAdapter(folder, hints);
    if (source.kind === 'folder') return undefined;
    const file = await source.tensorFile();
    return readerOf(file, onlyTensor(file, ADAPTER_TENSOR));
  },
  write: writeAdapter,
};

async function readAdapter(folder: string, hints: GeometryHints): Promise<FoundPrefix> {
  const adapter = await readAdapterConfig(folder);
  const path = adapter.weightsPath;
  const file = await openTensorFile(path);
  const entry = anyTensor(file);
  checkStated(adapter, entry.shape, path);
  const isComplete = adapter.hints.numLayers !== undefined && adapter.hints.numHeads !== undefined;
  const geometry = resolveGeometry(entry.shape, isComplete ? adapter.hints : hints, path);
  const { baseModelName } = adapter;
  const { metadata } = file;
  const isNamed = metadata.baseModel !== undefined || baseModelName === undefined;
  const described = isNamed ? metadata : { ...metadata, baseModel: { name: baseModelName } };
  return { data: await readValues(entry), geometry, metadata: described, warnings: adapter.warnings };
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

/** The adapter folder that a path means (the folder itself or a file in it), or undefined when there is none. */
async function findAdapterFolder(path: string): Promise<string | undefined> {
  const isFolder = (await kindOf(path)) === 'folder';
  const isPart = [ADAPTER_CONFIG, 'adapter_model.safetensors', 'adapter_model.bin'].includes(basename(path));
  const folder = isFolder ? path : isPart ? dirname(path) : undefined;
  return folder !== undefined && (await kindOf(join(folder, ADAPTER_CONFIG))) === 'file' ? folder : undefined;
}

/** Reads adapter_config.json and finds the weights beside it. */
async function readAdapterConfig(folder: string): Promise<PeftAdapter> {
  const path = join(folder, ADAPTER_CONFIG);
  const config = parseJsonObject(
    await readSmallFile(path, 1024 * 1024),
    'NEOX_BAD_PREFIX',
    'The adapter configuration',
    path,
  );
  const type = get(config, 'peft_type');
  if (type !== 'PREFIX_TUNING') {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The adapter ${folder} is of type ${show(type)}; expected 'PREFIX_TUNING'`,
      {
        path,
        hint: 'only prefix tuning is supported; LoRA, prompt tuning and others are not',
      },
    );
  }
  const submodules = optionalSize(config, 'num_transformer_submodules', path) ?? 1;
  if (submodules !== 1) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The adapter ${folder} is for a model of ${submodules} submodules; GPT-NeoX has 1`,
      {
        path,
      },
    );
  }
  const warnings = Object.keys(config)
    .filter((key) => !KNOWN_KEYS.includes(key))
    .map((key) => `${path}: the key ${key} is not known and has no effect`);
  const taskType = get(config, 'task_type') ?? 'CAUSAL_LM';
  if (taskType !== 'CAUSAL_LM')
    warnings.push(`${path}: task_type is ${show(taskType)}; the prefix is used for text generation`);
  const name = get(config, 'base_model_name_or_path');
  return {
    weightsPath: await findWeights(folder),
    hints: {
      prefixLength: optionalSize(config, 'num_virtual_tokens', path),
      numLayers: optionalSize(config, 'num_layers', path),
      numHeads: optionalSize(config, 'num_attention_heads', path),
    },
    tokenDim: optionalSize(config, 'token_dim', path),
    baseModelName: typeof name === 'string' && name !== '' ? name : undefined,
    warnings,
  };
}

async function findWeights(folder: string): Promise<string> {
  for (const name of ['adapter_model.safetensors', 'adapter_model.bin']) {
    const path = join(folder, name);
    if ((await kindOf(path)) === 'file') return path;
  }
  throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No adapter_model.safetensors or adapter_model.bin in ${folder}`, {
    path: folder,
  });
}

function optionalSize(config: JsonObject, key: string, path: string): number | undefined {
  const value = get(config, key) ?? undefined;
  if (value === undefined) return undefined;
  if (!Number.isSafeInteger(value) || (value as number) < 1) {
    throw new NeoXPrefixError(
      'NEOX_BAD_PREFIX',
      `Expected a positive integer for ${key} in ${path} but found ${show(value)}`,
      { path },
    );
  }
  return value as number;
}

/**
 * Writes an adapter folder that PeftModel.from_pretrained reads: the keys that every PEFT version knows, and one tensor
 * [P, L*2*N*D]. The configuration comes last, so that a folder without it is unfinished. After an error a new folder is
 * gone again.
 */
async function writeAdapter(folder: string, { data, geometry, metadata }: PrefixContent): Promise<void> {
  const made = await makeFolder(folder);
  const shape = [geometry.prefixLength, widthOf(geometry)];
  const tensor = { name: ADAPTER_TENSOR, dtype: 'F32', shape, data } as const;
  const config = {
    base_model_name_or_path: metadata.baseModel?.name ?? null,
    encoder_hidden_size: null,
    inference_mode: true,
    num_attention_heads: geometry.numHeads,
    num_layers: geometry.numLayers,
    num_transformer_submodules: 1,
    num_virtual_tokens: geometry.prefixLength,
    peft_type: 'PREFIX_TUNING',
    prefix_projection: false,
    task_type: 'CAUSAL_LM',
    token_dim: geometry.numHeads * geometry.headSize,
  };
  const weightsPath = join(folder, 'adapter_model.safetensors');
  try {
    await writeSafetensors(weightsPath, [tensor], metadataToStrings(metadata));
    await writeFileAtomic(join(folder, ADAPTER_CONFIG), `${JSON.stringify(config, null, 2)}\n`);
  } catch (error) {
    if (made !== undefined) {
      await rm(weightsPath, { force: true }).catch(() => undefined);
      await removeEmptyFolders(folder, made);
    }
    throw error;
  }
}
