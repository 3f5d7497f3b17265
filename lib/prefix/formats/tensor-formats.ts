import { writeSafetensors } from '../../formats/safetensors';
import { writeTorchTensor } from '../../formats/torch-writer';
import { shapeOf, widthOf } from './geometry';
import { metadataToStrings } from './metadata';
import { onlyTensor, PREFIX_TENSOR, type PrefixFormatEntry, readerOf } from './source';

/** Our own file: one tensor [P, L, 2, N, D], and what the prefix remembers as JSON in the metadata. */
export const SAFETENSORS_FILE: PrefixFormatEntry = {
  title: 'safetensors of neox-prefix',
  endings: ['.safetensors'],
  ...{ kind: 'file', keepsMetadata: true },
  recognise: async (source) => {
    const file = await source.tensorFile();
    return readerOf(file, onlyTensor(file, PREFIX_TENSOR));
  },
  write: (path, { data, geometry, metadata }) =>
    writeSafetensors(
      path,
      [{ name: PREFIX_TENSOR, dtype: 'F32', shape: shapeOf(geometry), data }],
      metadataToStrings(metadata),
    ),
};

/** The .checkpoint and .weight of rinna's prefix-tuning-gpt: one tensor [P, L*2*H] saved by torch.save. */
export const RINNA_FILE: PrefixFormatEntry = {
  title: 'one tensor of torch.save (rinna)',
  endings: ['.checkpoint', '.weight', '.pt'],
  ...{ kind: 'file', keepsMetadata: false },
  recognise: async (source) => {
    const file = await source.tensorFile();
    return readerOf(file, file.isBare ? file.tensors[0] : undefined);
  },
  write: (path, { data, geometry }) =>
    writeTorchTensor(path, { shape: [geometry.prefixLength, widthOf(geometry)], data }),
};
