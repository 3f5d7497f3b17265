import { type TensorEntry } from '../formats/tensor';
import { type GPTNeoXConfig } from './config';
import { type Fields } from './fields';

/** One weight of a model, and what a checkpoint calls it. */
export interface Weight {
  /** Linear weights are [out, in]. */
  readonly shape: readonly number[];
  /** The tensor of the checkpoint that has it, by the name that `canonicalName` gives. */
  readonly source: string;
  /** The shape of that tensor, where it lies otherwise. */
  readonly sourceShape?: readonly number[];
  /** Where the elements of the weight lie in that tensor. */
  readonly view?: (source: TensorEntry) => TensorEntry;
}

/** What one kind of model is: its configuration, and the names and shapes of its weights. */
export interface Architecture {
  /** For people: "GPT-NeoX". */
  readonly title: string;
  /** Values of `model_type` in a config.json that mean it. */
  readonly modelTypes: readonly string[];
  /** The completed and checked configuration. */
  resolve(fields: Fields, modelType: string): GPTNeoXConfig;
  /** True for a tensor that is no weight and can be left out. */
  isBuffer(name: string): boolean;
  /**
   * One name for all that the checkpoints of different times and programs call the same weight. Unknown names come back
   * as they are.
   */
  canonicalName(name: string): string;
  /** Every weight of a model by its canonical name. */
  weights(config: GPTNeoXConfig): Map<string, Weight>;
}
