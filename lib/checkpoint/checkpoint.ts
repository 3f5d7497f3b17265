import { type GPTNeoXConfig } from '../architecture/config';
import { type GenerationConfig } from '../architecture/generation-config';
import { type DenseBiasRule } from '../fastertransformer/file-plan';
import { type ExportTask } from '../fastertransformer/folder';
import { type JsonObject } from '../formats/json';
import { type TensorEntry } from '../formats/tensor';

/** What kind of folder a checkpoint is. */
export type CheckpointFormat =
  'safetensors' | 'safetensors-sharded' | 'pytorch' | 'pytorch-sharded' | 'fastertransformer';

/** A checkpoint folder whose files were found complete and of the right shapes; no weight has been read yet. */
export interface Checkpoint {
  /** Absolute path. */
  readonly directory: string;
  /**
   * What it is called: the path as it was given, or the name on the hub for a folder of Hugging Face's cache
   * (`models--OWNER--NAME/snapshots/REVISION`).
   */
  readonly name: string;
  readonly config: GPTNeoXConfig;
  /** How it is generated with: generation_config.json, or config.json alone. */
  readonly generation: GenerationConfig;
  /** config.json as it is; of a FasterTransformer folder config.ini, by section. */
  readonly rawConfig: JsonObject;
  /** Every weight of the model under its canonical name; `embed_out.weight` is always there, tied or not. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly format: CheckpointFormat;
  /** The tasks of a FasterTransformer folder, in the order of their ids; empty for others. */
  readonly tasks: readonly ExportTask[];
  /** Things that were settled or left out, worth showing to a person. */
  readonly warnings: readonly string[];
  /** Identity of the base model (see fingerprint.ts), in hexadecimal. */
  readonly fingerprint: string;
}

/** How to read a checkpoint. */
export interface CheckpointOptions {
  /**
   * Of a FasterTransformer folder for several GPUs: whether the biases after attention and mlp were divided by their
   * number. `'runtime'`: as FasterTransformer itself will use them, that is with a parallel residual only;
   * `'huggingface_converter'`: always, as NVIDIA's huggingface_gptneox_convert.py does, which gives back the weights
   * that were converted although a server computes with others. Defaults to `'runtime'`.
   */
  denseBias?: DenseBiasRule;
}
