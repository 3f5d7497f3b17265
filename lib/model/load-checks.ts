// What LoadedModel.load checks and decides before the addon loads.
import type * as Native from '../../types/native';
import { runNativeNow } from '../addon/run-native';
import type { GPTNeoXConfig, HiddenAct } from '../architecture/config';
import { checkOneOf, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Checkpoint } from '../checkpoint/checkpoint';
import type { ComputeDType } from './loaded-model';
import { maxPositions } from './rows';

export function checkDevice(device: unknown): string {
  const text = checkString('device', device);
  if (!/^(cpu|cuda(:\d+)?)$/.test(text)) checkOneOf('device', text, ['cpu', 'cuda', 'cuda:0']);
  if (text !== 'cpu' && !runNativeNow((addon) => addon.systemInfo()).cudaAvailable) {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `The device ${text} is not available: this libtorch sees no CUDA`, {
      hint: "use device: 'cpu', or a CUDA build of libtorch; `neox-prefix doctor` tells what was found",
    });
  }
  return text;
}

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
