import { NeoXPrefixError } from '../../base/errors';
import { kindOf } from '../../base/files';
import { splitDataset } from '../../data/split';
import type { TokenizedDataset } from '../../data/tokenized-dataset';
import type { NeoXModel } from '../../neox-model';
import type { TrainingData, TrainOptions } from '../../training/prefix-trainer';
import { checkData, type DataFlags, readSamples } from '../data';
import { UsageError } from '../usage-errors';
import { plural } from '../text-columns';
import { given } from '../flags';
import type { Progress } from '../progress-bar';
import type { Ui } from '../ui';
import type { TrainingFlags } from './train-options';

/** What `train` and `sweep` have in common: flags that are wrong are found before the model is loaded. */
export async function checkTrainingFlags(flags: TrainingFlags & DataFlags): Promise<void> {
  const kind = await kindOf(flags.out);
  if (kind !== undefined && kind !== 'folder')
    throw new UsageError(`--out is the folder of the run, and ${flags.out} is a file`);
  if ((flags.init === 'text') !== (flags.initText !== undefined))
    throw new UsageError('--init text and --init-text TEXT go together');
  await checkData([...flags.data, ...(flags.validation ?? [])], flags);
  const { checkpointPath: path } = flags;
  if (path !== undefined && (await kindOf(path)) === undefined) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `No such file: ${path}`, { path });
  }
}

export function runAlready(folder: string): UsageError {
  return new UsageError(
    `There is a training run already in ${folder}`,
    'give --resume to go on with it, --overwrite to replace it, or choose another --out',
  );
}

/** Samples that are read, to be closed in the end. */
export interface LoadedData extends TrainingData, AsyncDisposable {}

/**
 * Training and validation samples: from two files, or split by count as rinna's script does.
 * @param prefixLength of the longest prefix that is to be trained
 */
export async function loadData(
  flags: TrainingFlags & DataFlags,
  model: NeoXModel,
  prefixLength: number,
  ui: Ui,
): Promise<LoadedData> {
  const samples = await readSamples(flags.data, flags, model, prefixLength, ui);
  let ownValidation: TokenizedDataset | undefined;
  const close = async (): Promise<void> => {
    await samples.close();
    await ownValidation?.close();
  };
  try {
    if (flags.validation !== undefined)
      ownValidation = await readSamples(flags.validation, flags, model, prefixLength, ui);
    // Without --dev-data-size: rinna's 10, or a tenth of few samples.
    const count =
      flags.devDataSize ?? (ownValidation === undefined ? Math.min(10, Math.floor(samples.length / 10)) : 0);
    if (flags.trainDataSize === undefined && samples.length <= count) {
      throw new NeoXPrefixError(
        'NEOX_BAD_DATA',
        `--dev-data-size ${count} leaves nothing to train on: there ${samples.length === 1 ? 'is' : 'are'} only ${plural(samples.length, 'sample')}`,
      );
    }
    const { train, validation } = splitDataset(samples, {
      train: flags.trainDataSize ?? samples.length - count,
      validation: count,
    });
    return { train, validation: ownValidation ?? validation, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** How a training is called: with its flags, and with progress shown as long as `work` takes. */
export function withTraining<T>(
  flags: TrainingFlags,
  ui: Ui,
  work: (
    options: Pick<TrainOptions, 'resume' | 'overwrite' | 'samplePrompts' | 'signal'>,
    update: Progress['update'],
  ) => Promise<T>,
): Promise<T> {
  const { resume, overwrite, logEveryNSteps: lineUnits } = flags;
  const samplePrompts = flags.samples === false ? [] : flags.samplePrompt;
  return ui.withProgress(
    { title: 'training', total: 0, unit: 'steps', rate: false, ...given({ lineUnits }) },
    (update) => work({ ...given({ resume, overwrite, samplePrompts }), signal: ui.signal }, update),
  );
}
