import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { get, isObject } from '../formats/json';
import { type Architecture } from './architecture';
import { type GPTNeoXConfig, type ResolvedConfig } from './config';
import { Fields } from './fields';
import { GPT_NEOX } from './gpt-neox';
import { GPT2 } from './gpt2';

/** The kinds of models there are, each in a file of its own. */
const ARCHITECTURES: Readonly<Record<GPTNeoXConfig['architecture'], Architecture>> = {
  gpt_neox: GPT_NEOX,
  gpt2: GPT2,
};

/** The architecture that a configuration is of. */
export function architectureOf({ architecture }: Pick<GPTNeoXConfig, 'architecture'>): Architecture {
  return ARCHITECTURES[architecture];
}

/** The name of every weight of a model, with its shape; linear weights are [out, in]. */
export function expectedShapes(config: GPTNeoXConfig): Map<string, readonly number[]> {
  return new Map([...architectureOf(config).weights(config)].map(([name, { shape }]) => [name, shape]));
}

/** Why a model that looks like one of them is not. */
const LOOK_ALIKES: Readonly<Record<string, string>> = {
  gpt_neox_japanese: 'GPT-NeoX-Japanese (abeja) has other attention biases and another feed-forward layer',
  gpt_neo: 'GPT-Neo has learned positions and local attention',
  gptj: 'GPT-J shares one layer norm between attention and mlp and interleaves its rotary dimensions',
  llama: 'LLaMA has RMS norms and a gated feed-forward layer',
  stablelm: 'StableLM has another attention and feed-forward layer',
  stablelm_alpha: 'StableLM-Alpha v2 has another attention and feed-forward layer',
};

/**
 * Completes and checks the content of a config.json of a supported kind of model, in any of its spellings.
 * @param path named in messages
 * @throws NEOX_UNSUPPORTED for another kind of model, NEOX_BAD_CONFIG for a value that cannot be right
 */
export function resolveConfig(json: unknown, path: string): ResolvedConfig {
  if (!isObject(json))
    throw new NeoXPrefixError('NEOX_BAD_CONFIG', `The configuration ${path} is not usable: expected a JSON object`, {
      path,
    });
  const type = get(json, 'model_type');
  const warnings: string[] = [];
  checkNotQuantized(get(json, 'quantization_config'), path);
  if (typeof type === 'string') {
    const found = Object.values(ARCHITECTURES).find(({ modelTypes }) => modelTypes.includes(type));
    if (found !== undefined) return { config: found.resolve(new Fields(json, path, warnings), type), warnings };
  }
  const expected = Object.values(ARCHITECTURES).map(({ modelTypes }) => show(modelTypes[0]));
  const reason = typeof type === 'string' && Object.hasOwn(LOOK_ALIKES, type) ? `: ${LOOK_ALIKES[type]}` : '';
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `The model of ${path} is of type ${show(type)}, expected ${expected.join(' or ')}${reason}`,
    {
      path,
      hint: 'only GPT-NeoX and GPT-2 models are supported (rinna/japanese-gpt-neox-*, rinna/japanese-gpt2-*, EleutherAI/pythia-*, ...)',
    },
  );
}

function checkNotQuantized(settings: unknown, path: string): void {
  if (!isObject(settings)) return;
  const method = get(settings, 'quant_method');
  // bitsandbytes did not say its name in the beginning.
  const unnamed = get(settings, 'load_in_8bit') === true || get(settings, 'load_in_4bit') === true;
  const name = typeof method === 'string' ? method : unnamed ? 'bitsandbytes' : undefined;
  throw new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `The model of ${path} is quantised${name === undefined ? '' : ` by ${show(name)}`} (quantization_config), which is not supported`,
    {
      path,
      hint: "use the checkpoint that it was made from; dtype: 'int8' loads it in as little memory as 8-bit files",
    },
  );
}
