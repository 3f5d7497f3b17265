import type { Sample } from '../../data/sample';
import { splitDataset } from '../../data/split';
import { NeoXPrefixError } from '../../errors';
import { kindOf } from '../../files';
import type { NeoXModel } from '../../model/neox-model';
import type { TrainingData } from '../../training/prefix-trainer';
import { checkData, readSamples, type DataFlags } from '../data';
import { UsageError } from '../errors';
import { plural } from '../format';
import type { Ui } from '../ui';
import type { TrainingFlags } from './train-options';

/** What `train` and `sweep` have in common: flags that are wrong are found before the model is loaded. */
export async function checkTrainingFlags(flags: TrainingFlags & DataFlags): Promise<void> {
  const kind = await kindOf(flags.out);
  if (kind !== undefined && kind !== 'folder') throw new UsageError(`--out is the folder of the run, and ${flags.out} is a file`);
  if ((flags.init === 'text') !== (flags.initText !== undefined)) throw new UsageError('--init text and --init-text TEXT go together');
  await checkData([...flags.data, ...(flags.validation ?? [])], flags);
  const { checkpointPath: path } = flags;
  if (path !== undefined && (await kindOf(path)) === undefined) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file: ${path}`, { path });
  }
}

/** Training and validation samples: from two files, or split by count as rinna's script does. */
export async function loadData(flags: TrainingFlags & DataFlags, model: NeoXModel, ui: Ui): Promise<TrainingData> {
  const samples = await readSamples(flags.data, flags, model, ui);
  const ownValidation = flags.validation === undefined ? undefined : await readSamples(flags.validation, flags, model, ui);
  // Without --dev-data-size: rinna's 10, or a tenth of few samples.
  const count = flags.devDataSize ?? (ownValidation === undefined ? Math.min(10, Math.floor(samples.length / 10)) : 0);
  const validation = (train: Sample[], dev: Sample[]): TrainingData => ({ train, validation: ownValidation ?? dev });
  if (flags.trainDataSize === undefined && samples.length <= count) {
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `--dev-data-size ${count} leaves nothing to train on: there ${samples.length === 1 ? 'is' : 'are'} only ${plural(samples.length, 'sample')}`,
    );
  }
  const split = splitDataset(samples, { train: flags.trainDataSize ?? samples.length - count, validation: count });
  return validation(split.train, split.validation);
}
