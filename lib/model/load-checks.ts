// What LoadedModel.load checks and decides before the addon loads.
import type * as Native from '../../types/native';
import type { NativeAddon } from '../addon/addon';
import { runNativeNow } from '../addon/run-native';
import type { GPTNeoXConfig, HiddenAct } from '../architecture/config';
import { checkOneOf, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Checkpoint } from '../checkpoint/checkpoint';
import type { ComputeDType } from './loaded-model';
import { maxPositions } from './rows';

/** @param system what libtorch says of this machine; stands in for the addon's in tests */
export function checkDevice(
  device: unknown,
  system: () => Pick<ReturnType<NativeAddon['systemInfo']>, 'cudaAvailable' | 'cudaDevices'> = systemInfo,
): string {
  const text = checkString('device', device);
  if (!/^(cpu|cuda(:\d+)?)$/.test(text)) checkOneOf('device', text, ['cpu', 'cuda', 'cuda:0']);
  if (text === 'cpu') return text;
  const { cudaAvailable, cudaDevices } = system();
  if (!cudaAvailable || cudaDevices === 0) {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `The device ${text} is not available: this libtorch sees no CUDA`, {
      hint: "use device: 'cpu', or a CUDA build of libtorch; `neox-prefix doctor` tells what was found",
    });
  }
  const index = Number(text.split(':')[1] ?? 0);
  if (index >= cudaDevices) {
    const there =
      cudaDevices === 1
        ? 'there is one GPU, cuda:0'
        : `there are ${cudaDevices} GPUs, cuda:0 to cuda:${cudaDevices - 1}`;
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `The device ${text} is not available: ${there}`, {
      hint: '`neox-prefix doctor` lists them; CUDA_VISIBLE_DEVICES may hide some',
    });
  }
  return text;
}

const systemInfo = (): ReturnType<NativeAddon['systemInfo']> => runNativeNow((addon) => addon.systemInfo());

/** int8 is a packed form of the native backend: there is nothing that it could fall back to. */
export function checkInt8(device: string, backend: string, pack: string): void {
  const refused =
    device !== 'cpu'
      ? `on ${device}`
      : backend !== 'auto' && backend !== 'native'
        ? `with the ${backend} backend`
        : pack === 'none'
          ? "with pack: 'none'"
          : undefined;
  if (refused === undefined) return;
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `A model in int8 does not run ${refused}: only on the CPU, packed, with the native backend`,
    {
      hint: "leave out device, backend and pack, or use dtype: 'bfloat16'",
    },
  );
}

export function autoDType(checkpoint: Checkpoint, device: string): ComputeDType {
  switch (checkpoint.tensors.get('gpt_neox.layers.0.attention.query_key_value.weight')?.dtype) {
    case 'BF16':
      return 'bfloat16';
    case 'F16':
      return device === 'cpu' ? 'float32' : 'float16';
    default:
      return 'float32';
  }
}

const ACTIVATIONS: Readonly<Record<HiddenAct, Native.ModelConfig['activation']>> = {
  gelu: 'gelu',
  // The tanh variants differ from each other by rounding only.
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
};

export function nativeConfig(config: GPTNeoXConfig): Native.ModelConfig {
  const { type, factor } = config.ropeScaling;
  return {
    ...config,
    rotaryFactor: type === 'linear' ? factor : 1,
    rotaryDynamicFactor: type === 'dynamic' ? factor : 1,
    trainedPositions: config.maxPositionEmbeddings,
    maxPositions: maxPositions(config),
    activation: ACTIVATIONS[config.hiddenAct],
  };
}
