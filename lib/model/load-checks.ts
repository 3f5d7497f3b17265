// What LoadedModel.load checks and decides before the addon loads.
import type * as Native from '../../types/native';
import type { NativeAddon } from '../addon/addon';
import { runNativeNow } from '../addon/run-native';
import type { GPTNeoXConfig, HiddenAct, RopeScaling } from '../architecture/config';
import { independentPositions, maxPositions } from '../architecture/rope';
import { checkOneOf, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { Checkpoint } from '../checkpoint/checkpoint';
import type { ComputeDType } from './loaded-model';

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

/** The tanh variants differ from each other by rounding only. */
function activationOf(hiddenAct: HiddenAct): Native.ModelConfig['activation'] {
  switch (hiddenAct) {
    case 'gelu_new':
    case 'gelu_fast':
    case 'gelu_pytorch_tanh':
      return 'gelu_tanh';
    default:
      return hiddenAct;
  }
}

export function nativeConfig(config: GPTNeoXConfig): Native.ModelConfig {
  return {
    ...config,
    rotaryScaling: scalingOf(config),
    trainedPositions: independentPositions(config),
    maxPositions: maxPositions(config),
    activation: activationOf(config.hiddenAct),
  };
}

function scalingOf({ ropeScaling, rotaryDims, rotaryBase }: GPTNeoXConfig): Native.RotaryScaling {
  const none = { attentionFactor: 1, originalPositions: 0, low: 0, high: 0 };
  const noFactors = { shortFactors: new Float32Array(), longFactors: new Float32Array() };
  switch (ropeScaling.type) {
    case 'yarn': {
      const [low, high] = yarnRamp(ropeScaling, rotaryDims, rotaryBase);
      return { ...none, ...noFactors, ...ropeScaling, low, high };
    }
    case 'llama3': {
      const { lowFreqFactor: low, highFreqFactor: high } = ropeScaling;
      return { ...none, ...noFactors, ...ropeScaling, low, high };
    }
    case 'longrope': {
      const [shortFactors, longFactors] = [ropeScaling.shortFactor, ropeScaling.longFactor].map((factors) =>
        Float32Array.from(factors),
      ) as [Float32Array, Float32Array];
      return { ...none, ...ropeScaling, shortFactors, longFactors };
    }
    default:
      return { ...none, ...noFactors, ...ropeScaling };
  }
}

/** The dimensions between which yarn goes over from the plain frequencies to the divided ones. */
function yarnRamp(
  { originalPositions, betaFast, betaSlow, truncate }: Extract<RopeScaling, { type: 'yarn' }>,
  dims: number,
  base: number,
): [low: number, high: number] {
  // The dimension whose angle makes so many turns within the original positions.
  const dimensionOf = (turns: number): number =>
    (dims * Math.log(originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const [fast, slow] = [dimensionOf(betaFast), dimensionOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, dims - 1);
  return [low, low === high ? high + 0.001 : high];
}
