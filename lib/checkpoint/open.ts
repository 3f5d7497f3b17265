import { join, resolve } from 'node:path';
import { checkOneOf, checkOptions, checkPath } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { kindOf } from '../base/files';
import { DENSE_BIAS_RULES } from '../fastertransformer/file-plan';
import { isExportFolder } from '../fastertransformer/folder';
import { type Checkpoint, type CheckpointOptions } from './checkpoint';
import { openFastertransformer } from './fastertransformer';
import { fingerprintOf } from './fingerprint';
import { readConfig, readGeneration, readWeights, selectTensors } from './hugging-face';

/**
 * Opens a checkpoint folder: a Hugging Face one (config.json beside model.safetensors or pytorch_model.bin, whole or in
 * shards), or a weight folder of FasterTransformer (`<ranks>-gpu`, or a folder that holds one). Only headers and a few
 * sampled values are read.
 * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_CONFIG, NEOX_UNSUPPORTED (another kind of model), NEOX_BAD_CHECKPOINT (a file
 *   that is damaged, or tensors that are missing or of another shape than config.json says), NEOX_BAD_EXPORT (the same
 *   of a FasterTransformer folder)
 */
export async function openCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions('options', options, ['denseBias']);
  const denseBias = checkOneOf('denseBias', options.denseBias ?? 'runtime', DENSE_BIAS_RULES);
  const directory = resolve(checkPath('dir', dir));
  await checkFolder(directory);
  if ((await kindOf(join(directory, 'config.json'))) === undefined && (await isExportFolder(directory))) {
    return { ...(await openFastertransformer(directory, denseBias)), name: dir };
  }
  const { rawConfig, config, warnings } = await readConfig(directory);
  const generation = await readGeneration(directory, config, warnings);
  const files = await readWeights(directory, warnings);
  const tensors = selectTensors(files, config, directory, warnings);
  const fingerprint = await fingerprintOf(config, tensors);
  return {
    directory,
    name: nameOf(dir, directory),
    config,
    generation,
    rawConfig,
    tensors,
    format: files.format,
    tasks: [],
    warnings,
    fingerprint,
  };
}

function nameOf(given: string, directory: string): string {
  const [, owner, name] = /(?:^|[\\/])models--(.+?)--(.+?)[\\/]snapshots[\\/][^\\/]+$/.exec(directory) ?? [];
  return name === undefined ? given : `${owner}/${name}`;
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
