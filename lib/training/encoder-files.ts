import { kindOf } from '../base/files';
import type { TensorEntry } from '../formats/tensor';
import { ENCODER_TENSOR, openTensorFile } from '../prefix/formats/source';

/**
 * The parameters of a prefix encoder under rinna's names, whatever module they are in: of a safetensors file or of one
 * that torch.save wrote (a state dict, or one under the key "model", as the `initial.pt` of rinna's script). Undefined
 * where the path has none.
 */
export async function encoderTensors(path: string): Promise<Map<string, TensorEntry> | undefined> {
  if ((await kindOf(path)) === 'folder') return undefined;
  const tensors = new Map<string, TensorEntry>();
  for (const entry of (await openTensorFile(path)).tensors) {
    const own = ENCODER_TENSOR.exec(entry.name)?.[1];
    if (own !== undefined) tensors.set(own, entry);
  }
  return tensors.size === 0 ? undefined : tensors;
}
