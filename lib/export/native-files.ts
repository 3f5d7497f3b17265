import type { NativeAddon } from '../addon/addon';
import { runNative } from '../addon/run-native';
import type { FilePlan } from '../fastertransformer/file-plan';
import { BYTES_PER_ELEMENT, type ExportDType } from '../fastertransformer/folder';
import type { PrefixWeights } from '../prefix/weights';

/** Files that are written or compared in one go: those of the base model, or those of one prefix. */
export interface FileJob {
  readonly files: readonly FilePlan[];
  readonly prefix?: PrefixWeights;
}

export interface FileTarget {
  readonly directory: string;
  readonly dtype: ExportDType;
  readonly ranks: number;
  readonly heads: number;
}

export interface WrittenFile {
  readonly name: string;
  /** Names of the tensors that it was made from. */
  readonly sources: readonly string[];
  readonly bytes: number;
  readonly overflowed: number;
  readonly nonFinite: number;
}

type OnFile = (file: string, bytesDone: number) => void;

/** Writes the files of a job, which must not exist yet, and waits until they are on the disk. */
export async function writeFiles(
  target: FileTarget,
  job: FileJob,
  signal: AbortSignal | undefined,
  onFile: OnFile,
): Promise<WrittenFile[]> {
  const counts = await runNative(signal, (addon, cancel) =>
    addon.writeFastertransformer({ ...nativeOptions(target, job, onFile), cancel }),
  );
  const itemBytes = BYTES_PER_ELEMENT[target.dtype];
  return job.files.map((file, index) => {
    const { overflowed, nonFinite } = counts[index] as (typeof counts)[number];
    return {
      name: file.name,
      sources: file.sources.map(({ name }) => name),
      bytes: file.elements * itemBytes,
      overflowed,
      nonFinite,
    };
  });
}

/** Reads the files of a job back and compares them bit by bit with what writeFiles would write. */
export async function compareFiles(
  target: FileTarget,
  job: FileJob,
  signal: AbortSignal | undefined,
  onFile: OnFile,
): Promise<VerifiedFile[]> {
  const results = await runNative(signal, (addon, cancel) =>
    addon.compareFastertransformer({ ...nativeOptions(target, job, onFile), cancel }),
  );
  return job.files.map(({ name }, index) => {
    const { missing, ...result } = results[index] as (typeof results)[number];
    const wrongSize = result.actualBytes !== result.expectedBytes;
    return {
      name,
      status: missing ? 'missing' : wrongSize ? 'wrong-size' : result.differing > 0 ? 'different' : 'equal',
      ...result,
    };
  });
}

type NativeOptions = Parameters<NativeAddon['writeFastertransformer']>[0];

function nativeOptions(
  { directory, dtype, ranks, heads }: FileTarget,
  { files, prefix }: FileJob,
  onFile: OnFile,
): Omit<NativeOptions, 'cancel'> {
  const onProgress: NonNullable<NativeOptions['onProgress']> = ({ file, bytesDone }) => onFile(file, bytesDone);
  return { directory, dtype, ranks, heads, files, prefix: prefix?.toTensor(), onProgress };
}

/** One file of an export, compared. */
export interface VerifiedFile {
  readonly name: string;
  /** `size`: the length is right, and there was nothing to compare the content with. */
  readonly status: 'equal' | 'size' | 'different' | 'wrong-size' | 'missing';
  readonly expectedBytes: number;
  readonly actualBytes: number;
  /** Elements that differ from the source's in the export's element type. */
  readonly differing: number;
  /** Infinity where a number stands against an infinity or NaN. */
  readonly maxAbsDifference: number;
}

/** Where a running export or verification stands. */
export interface ExportProgress {
  /** The file at hand. */
  readonly file: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}
