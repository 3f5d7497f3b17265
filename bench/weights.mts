// Writes checkpoints of random weights, tensor by tensor, so that no model has to fit in memory.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { bytesOf, Random, toBFloat16 } from './numbers.mts';
import { configJson, tensorShapes, type ModelShape } from './shapes.mts';

/** Raised when the weights of a shape would come out differently. */
const VERSION = 1;
const CHUNK = 1 << 20; // elements

/** The folder of a shape's checkpoint, which is written where it is not there yet. */
export async function provideModel(cache: string, shape: ModelShape): Promise<string> {
  const identity = createHash('sha256')
    .update(JSON.stringify([VERSION, configJson(shape)]))
    .digest('hex')
    .slice(0, 8);
  const folder = join(cache, `${shape.name}-${identity}`);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.${process.pid}`;
  await mkdir(unfinished, { recursive: true });
  try {
    await writeFile(join(unfinished, 'config.json'), JSON.stringify(configJson(shape), undefined, 2));
    await writeWeights(join(unfinished, 'model.safetensors'), shape);
    await rename(unfinished, folder);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return folder;
}

async function writeWeights(path: string, shape: ModelShape): Promise<void> {
  const tensors = tensorShapes(shape);
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let position = 0;
  for (const [name, sizes] of tensors) {
    const end = position + sizes.reduce((product, size) => product * size, shape.dtype === 'F32' ? 4 : 2);
    header[name] = { dtype: shape.dtype, shape: sizes, data_offsets: [position, end] };
    position = end;
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = await open(path, 'wx');
  try {
    await file.writeFile(length);
    await file.writeFile(json);
    for (const [i, [name, sizes]] of tensors.entries()) await writeTensor(file, shape, name, sizes, new Random(i));
  } finally {
    await file.close();
  }
}

/** Weights that spread attention and logits as trained ones do, so that the likeliest token is a clear one. */
async function writeTensor(
  file: FileHandle,
  shape: ModelShape,
  name: string,
  sizes: readonly number[],
  random: Random,
): Promise<void> {
  const unit = shape.config.hidden_size ** -0.5;
  const isNorm = name.includes('norm');
  const deviation =
    isNorm || name.endsWith('bias')
      ? 0.2
      : name.includes('embed_in')
        ? 1
        : name.includes('embed_out')
          ? 2.2 * unit
          : 1.2 * unit;
  const mean = isNorm && name.endsWith('weight') ? 1 : 0;
  const count = sizes.reduce((product, size) => product * size, 1);
  for (let done = 0; done < count; done += CHUNK) {
    const values = new Float32Array(Math.min(CHUNK, count - done));
    random.fill(values, deviation, mean);
    await file.writeFile(bytesOf(shape.dtype === 'F32' ? values : toBFloat16(values)));
  }
}
