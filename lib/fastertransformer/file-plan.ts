import type { GPTNeoXConfig } from '../architecture/config';
import { keyValueWidth } from '../architecture/sizes';
import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import type { TensorEntry } from '../formats/tensor';

/**
 * How the elements of a file follow from their source. Shapes: O and I output and input features of a linear layer, N
 * heads, D head size, T ranks, P prefix length, L layers.
 * - `copy`: as it lies
 * - `output_split`: weight [O, I] -> [I, O/T], bias [O] -> [O/T]
 * - `input_split`: weight [O, I] -> [I/T, O]
 * - `qkv`: weight [N*3*D, I] -> [I, 3, N/T, D], bias [N*3*D] -> [3, N/T, D]
 * - `bias`: the sum of the sources, each divided by `divisor`
 * - `prefix`: [P, L, 2, N, D] -> [L, 2, N/T, P, D]
 * - `zeros`: what the model does not have and FasterTransformer reads
 */
export type Layout = 'copy' | 'output_split' | 'input_split' | 'qkv' | 'bias' | 'prefix' | 'zeros';

/** One file of an export. */
export interface FilePlan {
  /** Name in the export's folder. */
  readonly name: string;
  readonly layout: Layout;
  readonly sources: readonly TensorEntry[];
  readonly rank: number;
  readonly divisor: number;
  /** Elements of the file. */
  readonly elements: number;
}

/** Who divides the biases after attention and mlp by the number of ranks. */
export const DENSE_BIAS_RULES = ['runtime', 'huggingface_converter'] as const;
/**
 * Which program's rule divides the biases after attention and mlp by the number of ranks; {@link
 * ExportOptions.denseBias} has both.
 */
export type DenseBiasRule = (typeof DENSE_BIAS_RULES)[number];

/** Throws when the model cannot be cut into `ranks` equal parts. */
export function checkTensorParallel(config: GPTNeoXConfig, ranks: number): void {
  if (config.numHeads % ranks !== 0)
    throw badArgument('tensorParallel', `a divisor of the model's ${config.numHeads} attention heads`, ranks);
  if (config.intermediateSize % ranks !== 0) {
    throw badArgument('tensorParallel', `a divisor of the model's intermediate size ${config.intermediateSize}`, ranks);
  }
}

/**
 * Every file of the base model, in the order of the checkpoint's layers.
 * @param tensors by their Hugging Face names
 */
export function planBaseModel(
  config: GPTNeoXConfig,
  tensors: ReadonlyMap<string, TensorEntry>,
  ranks: number,
  rule: DenseBiasRule,
): FilePlan[] {
  checkTensorParallel(config, ranks);
  const { hiddenSize: hidden, intermediateSize: inter, vocabSize: vocab } = config;
  const files: FilePlan[] = [];

  const source = (name: string): TensorEntry => {
    const entry = tensors.get(name);
    if (entry === undefined)
      throw new NeoXPrefixError(
        'NEOX_BAD_CHECKPOINT',
        `The checkpoint has no tensor ${name}, which FasterTransformer needs`,
      );
    return entry;
  };
  const copy = (name: string, from: string, elements: number): void => {
    files.push({ name, layout: 'copy', sources: [source(from)], rank: 0, divisor: 1, elements });
  };
  /** One file a rank. Without a source (a model without attention biases) the files hold zeros. */
  const split = (name: string, layout: Layout, from: TensorEntry | undefined, elements: number): void => {
    for (let rank = 0; rank < ranks; rank++) {
      const content = from === undefined ? { layout: 'zeros' as const, sources: [] } : { layout, sources: [from] };
      files.push({ name: `${name}.${rank}.bin`, ...content, rank, divisor: 1, elements: elements / ranks });
    }
  };
  // With a parallel residual every rank adds the bias before the ranks are summed up; else it is added once, after
  // that.
  // NVIDIA's converter of GPT-2 divides nothing.
  const isGpt2 = config.architecture === 'gpt2';
  const divisor = config.useParallelResidual || (rule === 'huggingface_converter' && !isGpt2) ? ranks : 1;
  const bias = (name: string, from: readonly (TensorEntry | undefined)[]): void => {
    const sources = from.filter((entry) => entry !== undefined);
    files.push({ name, layout: sources.length === 0 ? 'zeros' : 'bias', sources, rank: 0, divisor, elements: hidden });
  };

  copy('model.wte.bin', 'gpt_neox.embed_in.weight', vocab * hidden);
  if (config.learnedPositions)
    copy('model.wpe.bin', 'gpt_neox.embed_positions.weight', config.maxPositionEmbeddings * hidden);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const from = `gpt_neox.layers.${layer}`;
    const to = `model.layers.${layer}`;
    const optional = (name: string): TensorEntry | undefined => (config.attentionBias ? source(name) : undefined);
    const qkvBias = optional(`${from}.attention.query_key_value.bias`);
    const denseBias = optional(`${from}.attention.dense.bias`);
    const outputBias = source(`${from}.mlp.dense_4h_to_h.bias`);
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      copy(`${to}.${norm}.weight.bin`, `${from}.${norm}.weight`, hidden);
      copy(`${to}.${norm}.bias.bin`, `${from}.${norm}.bias`, hidden);
    }
    split(
      `${to}.attention.query_key_value.weight`,
      'qkv',
      source(`${from}.attention.query_key_value.weight`),
      3 * hidden * hidden,
    );
    split(`${to}.attention.query_key_value.bias`, 'qkv', qkvBias, 3 * hidden);
    split(`${to}.attention.dense.weight`, 'input_split', source(`${from}.attention.dense.weight`), hidden * hidden);
    bias(`${to}.attention.dense.bias.bin`, [denseBias]);
    split(`${to}.mlp.dense_h_to_4h.weight`, 'output_split', source(`${from}.mlp.dense_h_to_4h.weight`), hidden * inter);
    split(`${to}.mlp.dense_h_to_4h.bias`, 'output_split', source(`${from}.mlp.dense_h_to_4h.bias`), inter);
    split(`${to}.mlp.dense_4h_to_h.weight`, 'input_split', source(`${from}.mlp.dense_4h_to_h.weight`), inter * hidden);
    bias(`${to}.mlp.dense_4h_to_h.bias.bin`, [outputBias]);
    if (config.useParallelResidual) bias(`${to}.mlp.attention.bias.sum.bin`, [denseBias, outputBias]);
  }
  copy('model.final_layernorm.weight.bin', 'gpt_neox.final_layer_norm.weight', hidden);
  copy('model.final_layernorm.bias.bin', 'gpt_neox.final_layer_norm.bias', hidden);
  // Without that file FasterTransformer's GPT takes the embedding; its GPT-NeoX would compute with random numbers.
  if (!(isGpt2 && config.tieWordEmbeddings)) copy('model.lm_head.weight.bin', 'embed_out.weight', vocab * hidden);
  return files;
}

/** The files of one task's prefix, one a rank. A prefix of length 0 has none. */
export function planPrefix(
  config: Pick<GPTNeoXConfig, 'numLayers' | 'hiddenSize'>,
  task: string,
  prefixLength: number,
  ranks: number,
): FilePlan[] {
  if (prefixLength === 0) return [];
  const elements = (keyValueWidth(config) * prefixLength) / ranks;
  return Array.from({ length: ranks }, (_, rank) => {
    return {
      name: `model.prefix_prompt.${task}.weight.${rank}.bin`,
      layout: 'prefix' as const,
      sources: [],
      rank,
      divisor: 1,
      elements,
    };
  });
}
