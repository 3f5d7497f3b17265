import type { GPTNeoXConfig } from '../architecture/config';
import { FileReader, sha256 } from '../base/files';
import { DTYPE_BYTES, elementCount, type TensorEntry } from '../formats/tensor';
import { pieceOf, storagePosition, toFloat32 } from '../formats/values';

/**
 * Sampled from each tensor: this many runs, evenly spaced from the first element to the last, of this many elements.
 */
const RUNS = 4;
const RUN_LENGTH = 16;

/**
 * A cheap and stable identity of a base model: SHA-256 over what the architecture computes and, for each tensor in the
 * order of its name, its name, shape and 64 of its values as float32. The same weights have the same fingerprint as one
 * safetensors file, in shards, or pickled, under any of the names that are accepted; another precision on disk may
 * change it. Token ids, the length limit and a tied output head (which is the embedding again) do not count.
 */
export async function fingerprintOf(config: GPTNeoXConfig, tensors: ReadonlyMap<string, TensorEntry>): Promise<string> {
  const names = [...tensors.keys()].filter((name) => !(config.tieWordEmbeddings && name === 'embed_out.weight')).sort();
  const entries = names.map((name) => tensors.get(name) as TensorEntry);
  const files = new Map<string, TensorEntry[]>();
  for (const entry of entries) {
    if (entry.join === undefined) files.set(entry.file, [...(files.get(entry.file) ?? []), entry]);
  }
  const samples = new Map<TensorEntry, Float32Array>();
  for (const [file, inFile] of files) {
    const sampleAll = async (reader: FileReader): Promise<void> => {
      for (const entry of inFile) samples.set(entry, await sample(reader, entry));
    };
    await FileReader.use(file, sampleAll, inFile[0]?.identity);
  }
  for (const entry of entries) {
    if (entry.join !== undefined) samples.set(entry, await sampleJoined(entry, entry.join));
  }
  const pieces: (string | Float32Array)[] = [JSON.stringify(architecture(config))];
  for (const [i, entry] of entries.entries()) {
    pieces.push(
      `\n${names[i] ?? ''} [${entry.shape.join(', ')}] `,
      scaled(samples.get(entry) as Float32Array, entry.scale),
    );
  }
  return sha256(...pieces);
}

function scaled(values: Float32Array, scale: number | undefined): Float32Array {
  return scale === undefined ? values : values.map((value) => value * scale);
}

/** The settings that change what the weights compute, in a fixed order. */
function architecture(config: GPTNeoXConfig): unknown[] {
  return [
    ...[
      config.vocabSize,
      config.hiddenSize,
      config.numLayers,
      config.numHeads,
      config.intermediateSize,
      config.rotaryDims,
      config.rotaryBase,
    ],
    ...[
      config.ropeScaling.type,
      config.ropeScaling.factor,
      config.ropeScaling.type === 'dynamic' ? config.maxPositionEmbeddings : 0,
    ],
    ...(config.architecture === 'gpt_neox' ? [] : [config.architecture]),
    ...('originalPositions' in config.ropeScaling ? [config.ropeScaling] : []),
    ...[
      config.useParallelResidual,
      config.hiddenAct,
      config.layerNormEps,
      config.attentionBias,
      config.tieWordEmbeddings,
    ],
  ];
}

/** Elements of the tensor in row-major order, however they lie on disk. */
async function sample(reader: FileReader, entry: TensorEntry): Promise<Float32Array> {
  const runs = await Promise.all(runsOf(entry).map(({ start, length }) => readRun(reader, entry, start, length)));
  const values = new Float32Array(runs.reduce((total, run) => total + run.length, 0));
  let position = 0;
  for (const run of runs) {
    values.set(run, position);
    position += run.length;
  }
  return values;
}

/** The same of a tensor that lies in pieces. */
async function sampleJoined(entry: TensorEntry, join: NonNullable<TensorEntry['join']>): Promise<Float32Array> {
  const indices = runsOf(entry).flatMap(({ start, length }) => Array.from({ length }, (_, i) => start + i));
  const values = new Float32Array(indices.length);
  if (join.pieces.length === 0) return values;
  const places = indices.map((index, to) => ({ ...pieceOf(join, index), to }));
  const width = DTYPE_BYTES[entry.dtype];
  for (const piece of join.pieces) {
    const inPiece = places.filter((place) => place.piece === piece);
    if (inPiece.length === 0) continue;
    const samplePiece = async (reader: FileReader): Promise<void> => {
      for (const { index, to } of inPiece) {
        const element = await reader.read(piece.offset + storagePosition(piece, index) * width, width);
        values[to] = toFloat32(entry, element)[0] as number;
      }
    };
    await FileReader.use(piece.file, samplePiece, piece.identity);
  }
  return values;
}

function runsOf(entry: TensorEntry): { start: number; length: number }[] {
  const count = elementCount(entry.name, entry.shape, entry.file);
  const length = Math.min(count, RUN_LENGTH);
  const starts = count <= RUNS * RUN_LENGTH ? stepsOf(count, length) : evenly(count - length);
  return starts.map((start) => ({ start, length: Math.min(length, count - start) }));
}

function stepsOf(count: number, length: number): number[] {
  const starts: number[] = [];
  for (let start = 0; start < count; start += length) starts.push(start);
  return starts;
}

function evenly(last: number): number[] {
  return Array.from({ length: RUNS }, (_, run) => Math.floor((last * run) / (RUNS - 1)));
}

async function readRun(reader: FileReader, entry: TensorEntry, start: number, length: number): Promise<Float32Array> {
  const width = DTYPE_BYTES[entry.dtype];
  if (entry.stride === undefined)
    return toFloat32(entry, await reader.read(entry.offset + start * width, length * width));
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const element = await reader.read(entry.offset + storagePosition(entry, start + i) * width, width);
    values[i] = toFloat32(entry, element)[0] as number;
  }
  return values;
}
