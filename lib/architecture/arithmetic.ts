import { badArgument, checkNumber, checkOneOf, checkOptions } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { ACTIVATIONS, type HiddenAct } from './activations';
import { type GPTNeoXConfig } from './config';
import { NO_SCALING } from './rope';

/** Settings that no weight depends on; what is not given stays as the checkpoint says. */
export interface ArithmeticOverrides {
  /** Activation of the MLPs. */
  hiddenAct?: HiddenAct;
  /** Epsilon of all layer norms. */
  layerNormEps?: number;
  /** Base of the rotary frequencies. Also drops a scaling of the rotary positions. */
  rotaryBase?: number;
}

/**
 * Which activation, layer-norm epsilon and rotary frequencies a model computes with. `'checkpoint'`: those of its
 * configuration. `'fastertransformer'`: those that NVIDIA FasterTransformer's GPT-NeoX has built in, whatever the model
 * was trained with (tanh GELU, 1e-5, base 10000 without scaling), so that it gives what a server with an export of the
 * model gives.
 */
export type Arithmetic = 'checkpoint' | 'fastertransformer' | ArithmeticOverrides;

/**
 * FasterTransformer at commit df4a753: activation_kernels.cu, GptNeoXDecoder.cc,
 * decoder_masked_multihead_attention_utils.h.
 */
const FASTERTRANSFORMER = { hiddenAct: 'gelu_pytorch_tanh', layerNormEps: 1e-5, rotaryBase: 10000 } as const;

/**
 * @throws NEOX_BAD_ARGUMENT, NEOX_UNSUPPORTED for a model that FasterTransformer cannot compute
 */
export function withArithmetic(config: GPTNeoXConfig, arithmetic: Arithmetic): GPTNeoXConfig {
  if (arithmetic === 'checkpoint') return config;
  if (arithmetic !== 'fastertransformer' && (typeof arithmetic !== 'object' || arithmetic === null)) {
    throw badArgument('arithmetic', "'checkpoint', 'fastertransformer' or an object", arithmetic);
  }
  if (config.learnedPositions && (arithmetic === 'fastertransformer' || arithmetic.rotaryBase !== undefined)) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `A GPT-2 has no rotary positions to compute with ${arithmetic === 'fastertransformer' ? "arithmetic: 'fastertransformer'" : 'another rotaryBase'}`,
    );
  }
  if (arithmetic === 'fastertransformer') {
    if (config.rotaryDims % 2 !== 0) {
      throw new NeoXPrefixError(
        'NEOX_UNSUPPORTED',
        `FasterTransformer cannot compute this model: it rotates ${config.rotaryDims} dimensions of a head, an odd number`,
      );
    }
    return apply(config, FASTERTRANSFORMER);
  }
  checkOptions('arithmetic', arithmetic, ['hiddenAct', 'layerNormEps', 'rotaryBase']);
  const { hiddenAct, layerNormEps, rotaryBase } = arithmetic;
  return apply(config, {
    ...(hiddenAct === undefined ? {} : { hiddenAct: checkOneOf('arithmetic.hiddenAct', hiddenAct, ACTIVATIONS) }),
    ...(layerNormEps === undefined
      ? {}
      : { layerNormEps: checkNumber('arithmetic.layerNormEps', layerNormEps, 0, 1, true) }),
    ...(rotaryBase === undefined
      ? {}
      : { rotaryBase: checkNumber('arithmetic.rotaryBase', rotaryBase, 1, Infinity, true) }),
  });
}

function apply(config: GPTNeoXConfig, overrides: ArithmeticOverrides): GPTNeoXConfig {
  return {
    ...config,
    ...overrides,
    ...(overrides.rotaryBase === undefined ? {} : { ropeScaling: NO_SCALING }),
  };
}
