import { runNativeNow } from '../addon/run-native';
import { readFileSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';
import { join } from 'node:path';
import { keyValueWidth } from '../architecture/sizes';
import { COMPUTE_BYTES } from '../formats/tensor';
import type { LoadedModel } from '../model/loaded-model';

/** What training takes of the memory of the model's device, in bytes. */
export interface TrainingMemory {
  /** All copies of the base model's weights, those included that training makes when it starts. */
  weights: number;
  /** What the forward pass keeps of a micro-batch for the backward pass. */
  activations: number;
  /** The encoder, its gradient and its optimizer. */
  encoder: number;
  /** What is there for a while only: at most this much at a time. */
  workspace: number;
  total: number;
}

export interface TrainingShape {
  /** Tokens of a micro-batch, all rows together. */
  tokens: number;
  /** Tokens of its longest row. */
  longestRow: number;
  prefixLength: number;
  projection: boolean;
  inputDim: number;
  hiddenDim: number;
  checkpointing: boolean;
  /** See {@link affordsCopies}. */
  copyWeights: boolean;
}

/**
 * Rows of logits that the loss works on at a time, and queries that attention does: `kChunk` and `kQueryTile` of the
 * native code.
 */
const LOSS_CHUNK = 128;
const QUERY_TILE = 48;

/**
 * Predicts the memory of a training from the sizes of its tensors. Not in it: the process itself (Node and libtorch,
 * some 200 MB), and copies of the encoder's state while it is saved.
 */
export function predictTrainingMemory(model: LoadedModel, shape: TrainingShape): TrainingMemory {
  const { computeDtype, backend, rowBytes, weightBytes, backwardBytes, leastBackwardBytes } = runNativeNow((addon) =>
    addon.modelInfo(model.native),
  );
  const { hiddenSize, numLayers, numHeads, headSize, intermediateSize, vocabSize, useParallelResidual } = model.config;
  const { tokens, longestRow, prefixLength, projection, inputDim, hiddenDim, checkpointing, copyWeights } = shape;
  const element = COMPUTE_BYTES[computeDtype];
  const hidden = tokens * hiddenSize * element; // [M, H]
  const wide = tokens * intermediateSize * element; // [M, I]
  const rows = Math.max(1, Math.ceil(tokens / Math.max(1, longestRow)));
  const usesKernels = backend !== 'aten';

  // Of a block: input, query/key/value, what the MLP reads (another tensor in sequential blocks), what its activation
  // reads; and the statistics of two layer norms.
  const block = (useParallelResidual ? 4 : 5) * hidden + wide + 16 * tokens;
  const kept = checkpointing ? hidden : block;
  const activations = numLayers * kept + hidden;

  // The largest of the moments of a step, above the activations (native/core/model/gpt_neox_training.cc).
  const again = checkpointing ? block - hidden : 0; // a block that runs a second time
  const logits =
    Math.min(LOSS_CHUNK, tokens) * vocabSize * (usesKernels ? element : element + (element === 4 ? 8 : 12));
  const scores = usesKernels ? 0 : numHeads * longestRow * (prefixLength + longestRow) * 4; // [N, T, S]
  const parts = rows * 2 * hiddenSize * prefixLength * 4; // each row's share in the gradient of the prefix
  const copied = rowBytes / element; // times what comes into a product
  const moments = [
    4 * hidden + (2 + copied) * wide + hidden - kept, // the last block's activation and its product, on the way there
    5 * hidden - kept + 2 * scores, // attention on the way there
    3 * hidden + (1 + copied) * logits,
    5 * hidden, // the loss's gradient, scattered to the positions with targets
    again + 2 * wide,
    again + (1 + copied) * wide + 2 * hidden,
    again + (5 + 3 * copied) * hidden, // the product behind attention's gradient
    again + 6 * hidden + parts + 3 * scores, // attention on the way back
  ];
  const dim = Math.ceil(headSize / 16) * 16;
  const keys = prefixLength + longestRow;
  const threads = Math.min(availableParallelism(), rows * numHeads);
  const scratch = usesKernels ? threads * 4 * (5 * keys * dim + 2 * QUERY_TILE * (dim + keys)) : 0;
  const workspace = Math.max(0, ...moments) + scratch;

  const output = keyValueWidth({ numLayers, hiddenSize });
  const parameters = projection
    ? prefixLength * inputDim + (inputDim + 1) * hiddenDim + (hiddenDim + 1) * output
    : prefixLength * output;
  // Parameters, two moments, gradient, one temporary; the prefix and its gradient in some forms.
  const encoder = 5 * 4 * parameters + 6 * 4 * prefixLength * output;

  const weights = weightBytes + (copyWeights ? backwardBytes : leastBackwardBytes);
  return { weights, activations, encoder, workspace, total: weights + activations + encoder + workspace };
}

/** Largest share of the free memory that second copies of the weights may take. */
const COPIES_SHARE = 1 / 8;

/**
 * Whether a training may keep second copies of the weights for the gradients. They save a few percent of the time; a
 * large model would take twice its memory for them.
 * @param processes that share the free memory of this host
 */
export function affordsCopies(model: LoadedModel, processes = 1): boolean {
  const { backwardBytes } = runNativeNow((addon) => addon.modelInfo(model.native));
  return backwardBytes <= (availableMemory() * COPIES_SHARE) / processes;
}

/**
 * Bytes that this process may still take without anything having to go: of the machine, and of the control groups that
 * it is in.
 */
export function availableMemory(): number {
  return availableMemoryBelow('/');
}

/** @internal The same with the system's files in a folder. */
export function availableMemoryBelow(root: string): number {
  const read = (...path: string[]): string | undefined => {
    try {
      return readFileSync(join(root, ...path), 'utf8');
    } catch {
      return undefined;
    }
  };
  const meminfo = /^MemAvailable:\s+(\d+) kB$/m.exec(read('proc/meminfo') ?? '');
  const machine = meminfo === null ? freemem() : Number(meminfo[1]) * 1024;
  const groups = (read('proc/self/cgroup') ?? '').split('\n').flatMap((line) => {
    const [, controllers = '', path = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === '' && line.startsWith('0:')) return left(read, 'sys/fs/cgroup', path, V2);
    return controllers.split(',').includes('memory') ? left(read, 'sys/fs/cgroup/memory', path, V1) : [];
  });
  return Math.max(0, Math.min(machine, ...groups));
}

interface GroupFiles {
  limit: string;
  usage: string;
  /** What memory.stat calls file pages that can go at once. */
  reclaimable: RegExp;
}

const V2: GroupFiles = { limit: 'memory.max', usage: 'memory.current', reclaimable: /^inactive_file (\d+)$/m };
const V1: GroupFiles = {
  limit: 'memory.limit_in_bytes',
  usage: 'memory.usage_in_bytes',
  reclaimable: /^total_inactive_file (\d+)$/m,
};

/**
 * What is left below the limit of a control group and of each that it is in. In a container the first folders are often
 * not to be seen.
 */
function left(
  read: (...path: string[]) => string | undefined,
  mount: string,
  path: string,
  files: GroupFiles,
): number[] {
  const names = path.split('/').filter((name) => name !== '');
  return Array.from({ length: names.length + 1 }, (_, i) => names.slice(0, i)).flatMap((parents) => {
    const limit = Number(read(mount, ...parents, files.limit) ?? NaN); // 'max': none
    const usage = Number(read(mount, ...parents, files.usage) ?? NaN);
    if (!Number.isFinite(limit) || !Number.isFinite(usage)) return [];
    const reclaimable = Number(files.reclaimable.exec(read(mount, ...parents, 'memory.stat') ?? '')?.[1] ?? 0);
    return [limit - (usage - reclaimable)];
  });
}
