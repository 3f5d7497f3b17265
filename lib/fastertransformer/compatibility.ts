import type { GPTNeoXConfig } from '../architecture/config';
import { NeoXPrefixError } from '../base/errors';

/** Something that FasterTransformer will compute differently from the model, or that the files could not hold. */
export interface ExportWarning {
  readonly code:
    | 'activation'
    | 'attention-bias'
    | 'decoupled'
    | 'end-ids'
    | 'head-size'
    | 'layer-norm-epsilon'
    | 'non-finite'
    | 'overflow'
    | 'rotary-base'
    | 'rotary-dims';
  readonly message: string;
}

/** Activations that are FasterTransformer's tanh GELU up to rounding. */
const TANH_GELU: readonly string[] = ['gelu_new', 'gelu_fast', 'gelu_pytorch_tanh'];

/** `activation_type` of a GPT-2's config.ini; GELU is the default. */
export const ACTIVATION_TYPES: Readonly<Record<string, string>> = { relu: 'Relu', silu: 'Silu' };

/** Head sizes that decoder_masked_multihead_attention.cu is compiled for; with another one its kernel stops. */
const HEAD_SIZES: readonly number[] = [32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256];

/**
 * What FasterTransformer's GPT-NeoX hard-codes and this model does in another way. (Its source, at commit df4a753: tanh
 * GELU in activation_kernels.cu, epsilon 1e-5 and plain rotary frequencies of base 10000 in the decoder.)
 */
export function incompatibilities(config: GPTNeoXConfig): ExportWarning[] {
  const warnings: ExportWarning[] = [];
  // Of a GPT-2, config.ini says the epsilon and some activations.
  const isGpt2 = config.architecture === 'gpt2';
  const warn = (code: ExportWarning['code'], message: string): void => void warnings.push({ code, message });
  if (config.hiddenAct === 'gelu') {
    warn(
      'activation',
      'The model uses the erf form of GELU, FasterTransformer the tanh form: activations differ by up to 5e-4',
    );
  } else if (!TANH_GELU.includes(config.hiddenAct) && !(isGpt2 && Object.hasOwn(ACTIVATION_TYPES, config.hiddenAct))) {
    warn(
      'activation',
      `The model uses the activation ${config.hiddenAct}, FasterTransformer always GELU: its output will be wrong`,
    );
  }
  if (config.layerNormEps !== 1e-5 && !isGpt2) {
    warn(
      'layer-norm-epsilon',
      `The model's layer-norm epsilon is ${config.layerNormEps}, FasterTransformer's is always 1e-5`,
    );
  }
  if (config.rotaryBase !== 10000) {
    warn(
      'rotary-base',
      `The model's rotary base is ${config.rotaryBase}, FasterTransformer's is always 10000: its output will be wrong`,
    );
  }
  if (config.rotaryDims % 2 !== 0) {
    warn(
      'rotary-dims',
      `The model rotates ${config.rotaryDims} dimensions of a head; FasterTransformer needs an even number: its output will be wrong`,
    );
  }
  if (!HEAD_SIZES.includes(config.headSize)) {
    warn(
      'head-size',
      `FasterTransformer has no kernel for heads of size ${config.headSize}; it has ${HEAD_SIZES.join(', ')}`,
    );
  }
  if (!config.attentionBias) {
    warn(
      'attention-bias',
      'The model has no attention biases, which FasterTransformer always adds: zeros are written for them',
    );
  }
  if (config.eosTokenIds.length > 1) {
    warn(
      'end-ids',
      `The model ends at any of the tokens ${config.eosTokenIds.join(', ')}; FasterTransformer knows one, ${config.eosTokenIds[0]} is written`,
    );
  }
  return warnings;
}

/**
 * Refuses what the files have no place for and the runtime cannot compute: stretched rotary frequencies.
 * @throws NEOX_UNSUPPORTED
 */
export function checkExpressible({ ropeScaling }: GPTNeoXConfig): void {
  if (ropeScaling.type === 'default') return;
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `The model scales its rotary positions (${ropeScaling.type}, factor ${ropeScaling.factor}), which FasterTransformer cannot`,
    { hint: 'its output would be wrong; serve this model from here, or export one without rope_scaling' },
  );
}

/** The ids that config.ini must have: without them FasterTransformer's reader ends the server's process. */
export function startAndEndIds(config: GPTNeoXConfig): { start: number; end: number } {
  const start = config.bosTokenId;
  const end = config.eosTokenIds[0];
  if (start !== null && end !== undefined) return { start, end };
  throw new NeoXPrefixError(
    'NEOX_BAD_CONFIG',
    `The model's config.json has no ${start === null ? 'bos_token_id' : 'eos_token_id'}, which FasterTransformer needs`,
    {
      hint: 'add it to config.json; FasterTransformer uses it as the start_id or end_id of requests that name none',
    },
  );
}
