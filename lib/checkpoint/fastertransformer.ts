import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { checkFiles, fileProblems, geometryOf, iniInteger, unusable } from '../fastertransformer/folder-checks';

import type { GPTNeoXConfig, HiddenAct } from '../architecture/config';
import { plainGeneration } from '../architecture/generation-config';
import { NO_SCALING } from '../architecture/rope';
import { expectedShapes } from '../architecture/architectures';
import { fileIdentity } from '../base/files';
import { type DenseBiasRule, type FilePlan, planBaseModel, planPrefix } from '../fastertransformer/file-plan';
import { type ExportFolder, openExport } from '../fastertransformer/folder';
import { joinFiles } from '../fastertransformer/joined-tensors';
import type { StorageDType, TensorEntry, TensorPiece } from '../formats/tensor';
import { readTensor } from '../formats/values';
import type { Checkpoint } from './checkpoint';
import { fingerprintOf } from './fingerprint';

const STORAGE: Readonly<Record<ExportFolder['dtype'], StorageDType>> = { float16: 'F16', float32: 'F32' };

/**
 * Of a sum of two numbers of the type that was rounded to it: relative, and where numbers get so small that their steps
 * stay the same.
 */
const ROUNDING: Readonly<Record<ExportFolder['dtype'], readonly [relative: number, absolute: number]>> = {
  float16: [2 ** -10, 2 ** -24],
  float32: [2 ** -23, 2 ** -149],
};

/**
 * Opens a weight folder of NVIDIA FasterTransformer (`DIR/<ranks>-gpu`, or DIR when it holds one) as a checkpoint: the
 * parts of the tensor-parallel ranks are joined and their layouts undone when a tensor is asked for. No weight is read
 * here but a few sampled values and, for a parallel residual, the biases.
 *
 * config.ini does not say the activation, the layer-norm epsilon, the rotary base and the longest sequence; the config
 * has the defaults of GPT-NeoX for them (erf GELU, 1e-5, 10000, 2048). Of a GPT-2 it says all of them but the form of
 * GELU, which is then GPT-2's.
 * @param rule whether the folder's writer divided biases; 'runtime' takes them as FasterTransformer would use them
 * @throws NEOX_BAD_EXPORT, NEOX_FILE_NOT_FOUND
 */
export async function openFastertransformer(dir: string, rule: DenseBiasRule): Promise<Checkpoint> {
  const folder = await openExport(dir);
  const warnings: string[] = [];
  const config = configOf(folder, warnings);
  const files = planFiles(folder, config, rule);
  const tensors = await joinTensors(folder, config, files, warnings);
  for (const { name, prefixLength } of folder.tasks) {
    const problems = await fileProblems(folder, planPrefix(config, name, prefixLength, folder.tensorParallel));
    if (problems.length > 0) warnings.push(`the task '${name}' cannot be used: ${problems[0] ?? ''}`);
  }
  return {
    directory: folder.directory,
    name: folder.directory,
    config,
    generation: plainGeneration(config),
    rawConfig: folder.ini.toObject(),
    tensors,
    format: 'fastertransformer',
    tasks: folder.tasks,
    warnings,
    fingerprint: await fingerprintOf(config, tensors),
  };
}

function configOf(folder: ExportFolder, warnings: string[]): GPTNeoXConfig {
  const { numHeads, headSize, numLayers } = geometryOf(folder);
  const vocabSize = iniInteger(folder, 'vocab_size', 1);
  const intermediateSize = iniInteger(folder, 'inter_size', 1);
  if (intermediateSize % folder.tensorParallel !== 0) {
    throw unusable(folder, `inter_size is ${intermediateSize}, which ${folder.tensorParallel} ranks cannot share`);
  }
  const token = (key: string): number | null => {
    const value = folder.ini.getInteger(folder.section, key);
    if (value !== undefined && Number.isSafeInteger(value) && value >= 0 && value < vocabSize) return value;
    const found = folder.ini.get(folder.section, key);
    const consequence =
      value === undefined || Number.isNaN(value) ? '; FasterTransformer ends its process at that' : '';
    warnings.push(`${folder.configPath}: ${key} is ${found ?? 'missing'}, no token of the vocabulary${consequence}`);
    return null;
  };
  const end = token('end_id');
  const common = {
    vocabSize,
    hiddenSize: numHeads * headSize,
    numLayers,
    numHeads,
    headSize,
    intermediateSize,
    rotaryBase: 10000,
    ropeScaling: NO_SCALING,
    attentionBias: true,
    bosTokenId: token('start_id'),
    eosTokenIds: end === null ? [] : [end],
    padTokenId: null,
    torchDtype: folder.dtype,
  };
  return folder.section === 'gpt' ? gpt2Of(folder, common) : gptNeoxOf(folder, common);
}

type Common = Pick<
  GPTNeoXConfig,
  | 'vocabSize'
  | 'hiddenSize'
  | 'numLayers'
  | 'numHeads'
  | 'headSize'
  | 'intermediateSize'
  | 'rotaryBase'
  | 'ropeScaling'
  | 'attentionBias'
  | 'bosTokenId'
  | 'eosTokenIds'
  | 'padTokenId'
  | 'torchDtype'
>;

function gptNeoxOf(folder: ExportFolder, common: Common): GPTNeoXConfig {
  const { headSize } = common;
  const rotaryDims = iniInteger(folder, 'rotary_embedding', 1, undefined, headSize);
  if (rotaryDims + (rotaryDims % 2) > headSize) {
    throw unusable(
      folder,
      `rotary_embedding is ${rotaryDims}, which leaves no pairs of the ${headSize} dimensions of a head`,
    );
  }
  return {
    ...common,
    architecture: 'gpt_neox',
    learnedPositions: false,
    rotaryDims,
    rotaryPct: rotaryDims / headSize,
    useParallelResidual: iniInteger(folder, 'use_gptj_residual', 0, 1) !== 0,
    hiddenAct: 'gelu',
    layerNormEps: 1e-5,
    tieWordEmbeddings: false,
    maxPositionEmbeddings: 2048,
  };
}

/** Keys of `[gpt]` that make it another model than GPT-2, with the values of GPT-2, which are the defaults. */
const GPT2_VALUES: Readonly<Record<string, RegExp>> = {
  layernorm_type: /^pre_layernorm$/i,
  has_positional_encoding: /^(?:1|true|yes|on)$/i,
  has_pre_decoder_layernorm: /^(?:0|false|no|off)$/i,
  has_post_decoder_layernorm: /^(?:1|true|yes|on)$/i,
  use_attention_linear_bias: /^(?:0|false|no|off)$/i,
  has_adapters: /^(?:0|false|no|off)$/i,
};

/** By activation_type, in lower case. */
const ACTIVATIONS: Readonly<Record<string, HiddenAct>> = { gelu: 'gelu_new', relu: 'relu', silu: 'silu' };

function gpt2Of(folder: ExportFolder, common: Common): GPTNeoXConfig {
  const { ini, section } = folder;
  for (const [key, expected] of Object.entries(GPT2_VALUES)) {
    const value = ini.get(section, key);
    if (value !== undefined && !expected.test(value)) throw unusable(folder, `its ${key} is ${value}: it is no GPT-2`);
  }
  const activation = ini.get(section, 'activation_type') ?? 'Gelu';
  const hiddenAct = ACTIVATIONS[activation.toLowerCase()];
  if (hiddenAct === undefined) throw unusable(folder, `its activation_type is ${activation}: it is no GPT-2`);
  const epsilon = ini.get(section, 'layernorm_eps') ?? '1e-6';
  if (!(Number(epsilon) > 0)) throw unusable(folder, `expected a positive number for layernorm_eps, found ${epsilon}`);
  return {
    ...common,
    architecture: 'gpt2',
    learnedPositions: true,
    rotaryDims: 0,
    rotaryPct: 0,
    useParallelResidual: false,
    hiddenAct,
    layerNormEps: Number(epsilon),
    tieWordEmbeddings: !existsSync(join(folder.directory, 'model.lm_head.weight.bin')),
    maxPositionEmbeddings: iniInteger(folder, 'max_pos_seq_len', 1),
  };
}

/** The files of the base model by the names of the tensors that they hold; of several tensors by all their names. */
function planFiles(folder: ExportFolder, config: GPTNeoXConfig, rule: DenseBiasRule): Map<string, FilePlan[]> {
  const dtype = STORAGE[folder.dtype];
  const named = [...expectedShapes(config)].map(([name, shape]): [string, TensorEntry] => {
    return [name, { name, shape, dtype, file: folder.directory, offset: 0, byteLength: 0 }];
  });
  const files = new Map<string, FilePlan[]>();
  for (const plan of planBaseModel(config, new Map(named), folder.tensorParallel, rule)) {
    const key = plan.sources.map(({ name }) => name).join(' + ');
    const known = files.get(key);
    if (known === undefined) files.set(key, [plan]);
    else known.push(plan);
  }
  return files;
}

async function joinTensors(
  folder: ExportFolder,
  config: GPTNeoXConfig,
  files: ReadonlyMap<string, readonly FilePlan[]>,
  warnings: string[],
): Promise<Map<string, TensorEntry>> {
  const dtype = STORAGE[folder.dtype];
  const biases = config.useParallelResidual
    ? await residualBiases(folder, config, files, warnings)
    : new Map<string, TensorEntry>();
  const tensors = new Map<string, TensorEntry>();
  const needed: FilePlan[] = [];
  for (const [name, shape] of expectedShapes(config)) {
    // A tied head has no file of its own.
    const plans = files.get(name) ?? files.get('gpt_neox.embed_in.weight') ?? [];
    const bias = biases.get(name);
    if (bias === undefined) needed.push(...plans);
    tensors.set(
      name,
      bias ?? joinFiles({ name, shape, files: plans.map((plan) => withPath(folder, plan)) }, config, dtype),
    );
  }
  await checkFiles(folder, needed);
  return withIdentities(tensors);
}

/** The same tensors of the files as they are now: these have no headers that were read before. */
async function withIdentities(tensors: ReadonlyMap<string, TensorEntry>): Promise<Map<string, TensorEntry>> {
  const known = new Map<string, string>();
  const pinned = async <T extends TensorPiece>(piece: T): Promise<T> => {
    const identity = known.get(piece.file) ?? (await fileIdentity(piece.file));
    known.set(piece.file, identity);
    return { ...piece, identity };
  };
  const result = new Map<string, TensorEntry>();
  for (const [name, entry] of tensors) {
    const { join } = entry;
    if (join === undefined) result.set(name, await pinned(entry));
    else result.set(name, { ...entry, join: { ...join, pieces: await Promise.all(join.pieces.map(pinned)) } });
  }
  return result;
}

/**
 * With a parallel residual FasterTransformer reads one file in place of the biases behind attention and mlp: their sum.
 * Converters write the two beside it. Where they make up that sum, they are taken; where not, the mlp's bias is the sum
 * and attention has none, which computes the same.
 */
async function residualBiases(
  folder: ExportFolder,
  config: GPTNeoXConfig,
  files: ReadonlyMap<string, readonly FilePlan[]>,
  warnings: string[],
): Promise<Map<string, TensorEntry>> {
  const dtype = STORAGE[folder.dtype];
  const shape = [config.hiddenSize];
  const tensors = new Map<string, TensorEntry>();
  const entry = (name: string, plan: FilePlan): TensorEntry =>
    joinFiles({ name, shape, files: [withPath(folder, plan)] }, config, dtype);
  let without = 0;
  for (let layer = 0; layer < config.numLayers; layer++) {
    const names = ['attention.dense.bias', 'mlp.dense_4h_to_h.bias'].map((part) => `gpt_neox.layers.${layer}.${part}`);
    const [attention, mlp] = names as [string, string];
    const sum = (files.get(names.join(' + ')) as FilePlan[])[0] as FilePlan;
    await checkFiles(folder, [sum]);
    const parts = names.map((name) => (files.get(name) as FilePlan[])[0] as FilePlan);
    const sumOf = entry(mlp, sum);
    if ((await fileProblems(folder, parts)).length === 0) {
      const [first, second] = parts.map((plan, i) => entry(names[i] as string, plan)) as [TensorEntry, TensorEntry];
      if (await isSum(first, second, sumOf, folder.dtype)) {
        tensors.set(attention, first).set(mlp, second);
        continue;
      }
    }
    without++;
    tensors.set(attention, { ...sumOf, name: attention, join: { axis: 0, pieces: [] } }).set(mlp, sumOf);
  }
  if (without > 0) {
    warnings.push(
      `${folder.directory}: in ${without} of ${config.numLayers} layers the biases behind attention and mlp are known by their sum only, which is taken for the mlp's`,
    );
  }
  return tensors;
}

async function isSum(a: TensorEntry, b: TensorEntry, sum: TensorEntry, dtype: ExportFolder['dtype']): Promise<boolean> {
  const [first, second, expected] = await Promise.all([readTensor(a), readTensor(b), readTensor(sum)]);
  const [relative, absolute] = ROUNDING[dtype];
  const scale = sum.scale ?? 1;
  return expected.every((value, i) => {
    const [x, y] = [first[i] as number, second[i] as number];
    return Math.abs(x + y - value) <= relative * Math.max(Math.abs(x), Math.abs(y), Math.abs(value)) + absolute * scale;
  });
}

function withPath(folder: ExportFolder, plan: FilePlan): FilePlan & { path: string } {
  return { ...plan, path: join(folder.directory, plan.name) };
}
