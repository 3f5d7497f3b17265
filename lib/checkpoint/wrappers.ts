import { NeoXPrefixError } from '../base/errors';

interface Wrapper {
  /** A tensor's name that only such files have. */
  readonly sign: RegExp;
  readonly what: string;
  readonly hint: string;
}

const ORIGINAL = "use the checkpoint that they were made from; dtype: 'int8' loads it in as little memory";

/** Forms that the weights of a language model are also found in, by what only they have. */
const WRAPPERS: readonly Wrapper[] = [
  {
    sign: /\.(?:base_layer|lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\b/,
    what: 'LoRA weights of PEFT that are not merged into the model',
    hint: 'merge them in Python first: model.merge_and_unload().save_pretrained(DIR), or use the base model',
  },
  {
    sign: /^base_model\.model\./,
    what: 'a model inside its PEFT wrapper',
    hint: 'save the model itself in Python: model.merge_and_unload().save_pretrained(DIR), or use the base model',
  },
  {
    sign: /\.(?:g_idx)$/,
    what: 'weights that are quantised by GPTQ',
    hint: ORIGINAL,
  },
  {
    sign: /\.(?:qweight|qzeros)$/,
    what: 'weights that are quantised (GPTQ or AWQ)',
    hint: ORIGINAL,
  },
  {
    sign: /\.(?:SCB|weight_format|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$/,
    what: 'weights that are quantised by bitsandbytes',
    hint: ORIGINAL,
  },
];

/** Output layers of transformers' other heads. */
const HEADS: Readonly<Record<string, { readonly kind: string; readonly model: string }>> = {
  'score.weight': { kind: 'classification', model: 'ForSequenceClassification' },
  'classifier.weight': { kind: 'classification', model: 'ForTokenClassification' },
  'qa_outputs.weight': { kind: 'question answering', model: 'ForQuestionAnswering' },
};

const LANGUAGE_HEADS: readonly string[] = ['embed_out.weight', 'lm_head.weight'];

/**
 * Refuses by name what holds a language model in a form that cannot be loaded, or another model over the same layers,
 * before it is told as a missing tensor.
 * @throws NEOX_UNSUPPORTED
 */
export function checkWrappers(names: readonly string[], directory: string): void {
  const refuse = (what: string, hint: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_UNSUPPORTED', `The checkpoint ${directory} holds ${what}`, { path: directory, hint });
  for (const { sign, what, hint } of WRAPPERS) {
    const name = names.find((each) => sign.test(each));
    if (name !== undefined) throw refuse(`${what} (it has ${name.slice(0, 200)})`, hint);
  }
  const name = names.find((each) => Object.hasOwn(HEADS, each));
  const head = name === undefined ? undefined : HEADS[name];
  if (head !== undefined && !names.some((each) => LANGUAGE_HEADS.includes(each))) {
    throw refuse(
      `a ${head.kind} head and no language model head (it has ${name}, as ${head.model} models do)`,
      'use the language model that it was made from',
    );
  }
}
