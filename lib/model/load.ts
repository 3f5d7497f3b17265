import { native } from '../addon/addon';
import { runNative } from '../addon/run-native';
import { withArithmetic } from '../architecture/arithmetic';
import { checkFunction, checkInteger, checkOneOf, checkOptions, checkPath, checkSignal } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { openCheckpoint } from '../checkpoint/open';
import { Tokenizer } from '../tokenizer/tokenizer';
import { autoDType, checkDevice, checkInt8, nativeConfig } from './load-checks';
import { LOAD_OPTIONS, type LoadOptions } from './load-options';
import { type ModelParts } from './loaded-model';

/** All that a model is made of, checked and loaded. */

export async function loadParts(directory: string, options: LoadOptions = {}): Promise<ModelParts> {
  checkPath('directory', directory);
  checkOptions('options', options, LOAD_OPTIONS);
  const signal = checkSignal('signal', options.signal);
  const device = checkDevice(options.device ?? 'cpu');
  const wanted = checkOneOf('dtype', options.dtype ?? 'auto', ['auto', 'float32', 'bfloat16', 'float16', 'int8']);
  const threads = options.threads === undefined ? 0 : checkInteger('threads', options.threads, 1, 1024);
  const backend = checkOneOf('backend', options.backend ?? 'auto', ['auto', 'aten', 'onednn', 'native']);
  const pack = checkOneOf('pack', options.pack ?? 'auto', ['auto', 'both', 'forward', 'none']);
  const onProgress = options.onProgress === undefined ? undefined : checkFunction('onProgress', options.onProgress);
  if (wanted === 'int8') checkInt8(device, backend, pack);
  signal?.throwIfAborted();

  const { denseBias } = options;
  const checkpoint = await openCheckpoint(directory, denseBias === undefined ? {} : { denseBias });
  const config = withArithmetic(checkpoint.config, options.arithmetic ?? 'checkpoint');
  // A model can be used with token ids alone, so a tokenizer that is missing or broken is an error only for those who
  // ask for text.
  const tokenizer = await Tokenizer.load(checkPath('tokenizer', options.tokenizer ?? directory)).catch(
    (error: unknown) => {
      if (error instanceof NeoXPrefixError) return error;
      throw error;
    },
  );
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
  return [handle, checkpoint, tokenizer, native().modelInfo(handle), config];
}
