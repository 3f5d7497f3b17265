import { type GPTNeoXConfig } from '../architecture/config';
import { NeoXPrefixError } from '../base/errors';
import { fileSize } from '../base/files';
import { type FilePlan } from './file-plan';
import { BYTES_PER_ELEMENT, type ExportFolder } from './folder';

/** Far above any model; what they guard is the memory of a process that is given a damaged file. */
const MAX_SIZE = 2 ** 24;

const MAX_LAYERS = 1000;

const MAX_LAYER_PARTS = 10_000;

const FILES_AT_A_TIME = 1024;

/** What the hint of every missing or wrong file says. */
const RANDOM_NUMBERS =
  'FasterTransformer itself would print a warning and compute with random numbers in its place; export the model again';

/** The sizes that config.ini states, checked. */
export function geometryOf(folder: ExportFolder): Pick<GPTNeoXConfig, 'numHeads' | 'headSize' | 'numLayers'> {
  const numHeads = iniInteger(folder, 'head_num', 1);
  const headSize = iniInteger(folder, 'size_per_head', 1);
  if (numHeads * headSize > MAX_SIZE)
    throw unusable(folder, `head_num ${numHeads} of size_per_head ${headSize} is too large`);
  if (numHeads % folder.tensorParallel !== 0) {
    throw unusable(folder, `head_num is ${numHeads}, which ${folder.tensorParallel} ranks cannot share`);
  }
  const numLayers = iniInteger(folder, 'num_layer', 1, undefined, MAX_LAYERS);
  if (numLayers * folder.tensorParallel > MAX_LAYER_PARTS) {
    throw unusable(folder, `${numLayers} layers for ${folder.tensorParallel} ranks are too many files`);
  }
  return { numHeads, headSize, numLayers };
}

export function iniInteger(folder: ExportFolder, key: string, min: number, fallback?: number, max = MAX_SIZE): number {
  const value = folder.ini.getInteger(folder.section, key) ?? fallback;
  if (value !== undefined && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  const found = folder.ini.get(folder.section, key) ?? 'nothing';
  throw unusable(
    folder,
    `expected a whole number from ${min} to ${max} for ${key} of [${folder.section}] in config.ini, found ${found}`,
  );
}

/** @throws NEOX_BAD_EXPORT when a file is missing, too short or too long */
export async function checkFiles(folder: ExportFolder, plans: readonly FilePlan[]): Promise<void> {
  // Some at a time, so that a config.ini that promises a million files does not open them all.
  for (let start = 0; start < plans.length; start += FILES_AT_A_TIME) {
    const [first, ...others] = await fileProblems(folder, plans.slice(start, start + FILES_AT_A_TIME));
    if (first === undefined) continue;
    const more = others.length === 0 ? '' : ` (and ${others.length} more files)`;
    throw unusable(folder, `${first}${more}`, RANDOM_NUMBERS);
  }
}

export async function fileProblems({ directory, dtype }: ExportFolder, plans: readonly FilePlan[]): Promise<string[]> {
  const sizes = await Promise.all(plans.map(({ name }) => fileSize(directory, name)));
  return plans.flatMap(({ name, elements }, i) => {
    const expected = elements * BYTES_PER_ELEMENT[dtype];
    const actual = sizes[i];
    if (actual === expected) return [];
    return [actual === undefined ? `${name} is missing` : `${name} has ${actual} bytes, expected ${expected}`];
  });
}

export function unusable({ directory }: ExportFolder, problem: string, hint?: string): NeoXPrefixError {
  const message = `The export ${directory} is not usable: ${problem}`;
  return new NeoXPrefixError(
    'NEOX_BAD_EXPORT',
    message,
    hint === undefined ? { path: directory } : { path: directory, hint },
  );
}
