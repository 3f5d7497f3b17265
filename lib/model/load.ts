import { runNative, runNativeNow } from '../addon/run-native';
import { withArithmetic } from '../architecture/arithmetic';
import { plainGeneration } from '../architecture/generation-config';
import { checkPath } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { completeOptions } from '../base/options';
import { openCheckpoint } from '../checkpoint/open';
import { Tokenizer } from '../tokenizer/tokenizer';
import { autoDType, checkDevice, checkInt8, nativeConfig } from './load-checks';
import { LOAD_OPTIONS, type LoadOptions } from './load-options';
import { type ModelParts } from './loaded-model';

/** All that a model is made of, checked and loaded. */

export async function loadParts(directory: string, options: LoadOptions = {}): Promise<ModelParts> {
  checkPath('directory', directory);
  const given = completeOptions(LOAD_OPTIONS, options);
  const { dtype: wanted, threads = 0, backend, pack, denseBias, signal, onProgress } = given;
  const device = checkDevice(given.device);
  if (wanted === 'int8') checkInt8(device, backend, pack);
  signal?.throwIfAborted();

  const opened = await openCheckpoint(directory, { denseBias });
  const checkpoint = given.baseModelName === undefined ? opened : { ...opened, name: given.baseModelName };
  const config = withArithmetic(checkpoint.config, given.arithmetic);
  // A model can be used with token ids alone, so a tokenizer that is missing or broken is an error only for those who
  // ask for text.
  const tokenizer = await Tokenizer.load(given.tokenizer ?? directory).catch((error: unknown) => {
    if (error instanceof NeoXPrefixError) return error;
    throw error;
  });
  const dtype = wanted === 'auto' ? autoDType(checkpoint, device) : wanted;
  const tensors = Array.from(checkpoint.tensors, ([name, entry]) => ({ ...entry, name }));
  const handle = await runNative(signal, (addon, cancel) =>
    addon.loadModel({
      config: nativeConfig(config),
      tensors,
      dtype,
      device,
      backend,
      pack,
      threads,
      cancel,
      onProgress,
    }),
  );
  const limits = { seconds: given.formatSeconds, bytes: given.formatBytes };
  const generation = given.generationConfig ? checkpoint.generation : plainGeneration(config);
  const info = runNativeNow((addon) => addon.modelInfo(handle));
  return [handle, checkpoint, tokenizer, info, config, limits, generation];
}
