import { type Arithmetic } from '../architecture/arithmetic';
import {
  abortSignal,
  boolean,
  callback,
  choice,
  integer,
  number,
  type OptionTable,
  path,
  special,
  text,
} from '../base/options';
import { type CheckpointOptions } from '../checkpoint/checkpoint';
import { DENSE_BIAS_RULES } from '../fastertransformer/file-plan';
import { type ModelDType } from './loaded-model';

/** How to load a model. */
export interface LoadOptions {
  /** `'cpu'`, `'cuda'` or `'cuda:N'`. Defaults to `'cpu'`. */
  device?: string;
  /**
   * The type that the base model is held and computes in. `'auto'`: the checkpoint's own, but float16 becomes float32
   * on a CPU, which has no fast float16 arithmetic and where float32 is exact. `'int8'`: the matrices are held as 8-bit
   * integers with a scale for each output, rounded when the model is loaded, and multiplied with rows that are rounded
   * to 15 bits; everything else is computed in {@link ModelInfo.computeDtype}; on the CPU, with the native backend.
   * Defaults to `'auto'`.
   */
  dtype?: ModelDType | 'auto';
  /** Compute threads. Defaults to libtorch's choice: the number of cores. */
  threads?: number;
  /**
   * Who computes the linear layers: `'native'` (CPU; kernels of this package, for float32, bfloat16 and int8),
   * `'onednn'` (CPU) or `'aten'` (anywhere; slower). Defaults to `'auto'`: the fastest that runs the dtype here.
   */
  backend?: 'auto' | 'aten' | 'onednn' | 'native';
  /**
   * Which packed copies of the weights the native and onednn backends keep. Each costs the memory of the weights.
   * `'auto'`: the one for the forward pass, and once training starts the one for the backward pass, if it takes at most
   * an eighth of the free memory or the backend is onednn (native can do without; a step takes somewhat longer then,
   * for the same result); `'both'`: both, at once; `'forward'`: never the second; `'none'`: none. Defaults to `'auto'`.
   */
  pack?: 'auto' | 'both' | 'forward' | 'none';
  /** Settings of the computation that may differ from the checkpoint's own. Defaults to `'checkpoint'`. */
  arithmetic?: Arithmetic;
  /**
   * A folder whose tokenizer is used, for a model that brings none (a FasterTransformer folder). Defaults to the
   * model's own.
   */
  tokenizer?: string;
  /** See {@link CheckpointOptions.denseBias}. Defaults to `'runtime'`. */
  denseBias?: CheckpointOptions['denseBias'];
  /** Most seconds that a request's format may take to compile. Defaults to `10`. */
  formatSeconds?: number;
  /** Most bytes of memory that the compiling of formats may have, in each of its threads. Defaults to 512 MiB. */
  formatBytes?: number;
  /**
   * Whether generation_config.json counts: its end tokens, and its options of generation for requests that leave them
   * open. Without it config.json says the tokens. Defaults to `true`.
   */
  generationConfig?: boolean;
  /**
   * What prefixes that are trained over the model remember as its name, and PEFT adapters as their
   * `base_model_name_or_path`: a path, or a name on the hub. Defaults to the path that was given.
   */
  baseModelName?: string;
  /** Stops the loading; nothing stays in memory. */
  signal?: AbortSignal;
  /** Called with the share that is ready, in (0, 1]. */
  onProgress?: (share: number) => void;
}

export const LOAD_OPTIONS = {
  device: text({ default: 'cpu', symbol: 'device', help: 'cpu, cuda or cuda:N' }),
  dtype: choice(['auto', 'float32', 'bfloat16', 'float16', 'int8'], {
    ...{ default: 'auto', symbol: 'type' },
    help: "what the base model is held in; auto is the checkpoint's own type, or float32 for float16 on a CPU",
  }),
  threads: integer({ min: 1, max: 1024, otherwise: 'one a core', help: 'compute threads' }),
  backend: choice(['auto', 'aten', 'onednn', 'native'], {
    ...{ default: 'auto', symbol: 'backend' },
    help: 'who computes the linear layers; auto is the fastest that runs the type here',
  }),
  pack: choice(['auto', 'both', 'forward', 'none'], {
    ...{ default: 'auto', symbol: 'copies' },
    help: 'which packed copies of the weights are kept',
  }),
  arithmetic: special<Arithmetic>({
    ...{
      form: { kind: 'choice', choices: ['checkpoint', 'fastertransformer'] },
      symbol: 'kind',
      default: 'checkpoint',
    },
    help: "whose activation, epsilon and rotary base: the checkpoint's, or those built into FasterTransformer",
  }),
  tokenizer: path({
    ...{ symbol: 'dir', otherwise: "the model's" },
    help: 'folder of the tokenizer, for a model that brings none',
  }),
  formatSeconds: number({
    ...{ above: 0, max: 3600, default: 10 },
    help: "seconds that a request's format may take to compile",
  }),
  formatBytes: integer({
    ...{ min: 64 * 2 ** 20, max: 2 ** 32, default: 512 * 2 ** 20 },
    help: 'bytes of memory that compiling formats may have',
  }),
  denseBias: choice(DENSE_BIAS_RULES, {
    ...{ default: 'runtime', symbol: 'rule' },
    help: 'how a FasterTransformer folder for several GPUs is read: which of its biases were divided by their number',
  }),
  generationConfig: boolean({
    default: true,
    help: 'end tokens and options of generation_config.json count, where a request leaves them open',
  }),
  baseModelName: text({
    ...{ symbol: 'name', otherwise: 'the path of the model' },
    help: "what adapters name as their base model: a path or a name on the hub, for PEFT's AutoPeftModel",
  }),
  signal: abortSignal('stops the loading'),
  onProgress: callback<(share: number) => void>('called with the share that is ready'),
} satisfies OptionTable<LoadOptions>;
