import { type HiddenAct } from './activations';
import { type TorchDType } from './fields';
import { type RopeScaling } from './rope';

export type { HiddenAct } from './activations';
export type { RopeScaling } from './rope';

/** Everything about a model that is not a weight, with every default filled in. */
export interface GPTNeoXConfig {
  /** The kind of model: GPT-NeoX or GPT-2. */
  readonly architecture: 'gpt_neox' | 'gpt2';
  /** V: rows of the embedding. */
  readonly vocabSize: number;
  /** H: the width of the residual stream. */
  readonly hiddenSize: number;
  /** L */
  readonly numLayers: number;
  /** N */
  readonly numHeads: number;
  /** D: hiddenSize / numHeads. */
  readonly headSize: number;
  /** Width of the hidden layer of the MLPs. */
  readonly intermediateSize: number;
  /** A learned vector for each position is added to the embedding (GPT-2), and no dimension rotates. */
  readonly learnedPositions: boolean;
  /**
   * How many of a head's first dimensions rotate: int(headSize * rotaryPct). When odd, n dimensions give (n + 1) / 2
   * frequencies base^(-2k/n) and n + 1 rotated dimensions, as transformers does it.
   */
  readonly rotaryDims: number;
  /** Share of a head's dimensions that rotate. */
  readonly rotaryPct: number;
  /** Base of the rotary frequencies. */
  readonly rotaryBase: number;
  /** How the rotary frequencies are stretched for long rows. */
  readonly ropeScaling: RopeScaling;
  /** x + attention(x) + mlp(x) when true; attention first, then the mlp on its result, when false. */
  readonly useParallelResidual: boolean;
  readonly hiddenAct: HiddenAct;
  readonly layerNormEps: number;
  /** Whether the linear layers of attention have biases. */
  readonly attentionBias: boolean;
  /** Whether the output projection is the embedding. */
  readonly tieWordEmbeddings: boolean;
  /**
   * Positions that the model was trained for, a prefix included. With a rotary scaling a row may have more: its factor
   * times as many as the model had before it was stretched.
   */
  readonly maxPositionEmbeddings: number;
  /** What an empty prompt starts from; null: there is none. */
  readonly bosTokenId: number | null;
  /** Generation ends at any of these; may be empty. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** The type that the weights are said to have; the files decide. Null when not said. */
  readonly torchDtype: TorchDType;
}

export interface ResolvedConfig {
  readonly config: GPTNeoXConfig;
  /** Conflicts that were settled, and how. */
  readonly warnings: readonly string[];
}
