import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { FTExporter } from '../../../lib/export/exporter';
import { values, writeCheckpoint, type Bits } from './export-helpers';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
  await mkdir(join(root, 'model'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function bits(path: string): Promise<Uint16Array> {
  const bytes = await readFile(path);
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}

function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

/** IEEE 754 binary16 of a number, to nearest even. */
function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | roundHalfEven(size * 2 ** 24);
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) exponent--;
  if (2 ** (exponent + 1) <= size) exponent++;
  return sign | ((exponent + 14) * 1024 + roundHalfEven(size * 2 ** (10 - exponent)));
}

function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** float32 numbers on both sides of every border: ties, subnormal halves, the largest half, what rounds to zero. */
function hardNumbers(count: number): Float32Array {
  const special = [
    0,
    -0,
    65504,
    65519.996,
    -65519.996,
    2 ** -14,
    2 ** -24,
    2 ** -25,
    2 ** -25 * 1.0000001,
    3 * 2 ** -25,
    1e-30,
    1e-42,
    6.1e-5,
  ];
  const random = values(count, 'F32', 5) as Float32Array;
  return Float32Array.from({ length: count }, (_, i) => {
    if (i < special.length) return special[i] as number;
    const scale = 2 ** ((i % 43) - 28);
    // Every other one exactly between two halves.
    return i % 2 === 0
      ? (random[i] as number) * scale
      : (Math.round((random[i] as number) * 1024) + 0.5) * (scale / 1024);
  });
}

it('rounds float32 to float16 to nearest even', async () => {
  const numbers = hardNumbers(16 * 64);
  const model = await writeCheckpoint(join(root, 'model'), {}, 'F32', { 'gpt_neox.embed_in.weight': numbers });
  const report = await new FTExporter(model).export(join(root, 'out'));
  expect(await bits(join(report.directory, 'model.wte.bin'))).toEqual(Uint16Array.from(numbers, toHalf));
  expect(report.warnings).toEqual([]);
});

it.each(['F32', 'BF16'] as const)('says which tensors have values that float16 cannot hold: %s', async (dtype) => {
  const name = 'gpt_neox.layers.1.mlp.dense_h_to_4h.weight';
  const numbers = new Float32Array(96 * 64).fill(0.5);
  numbers.set([65536, -1e30, Infinity, NaN, 65408], 700);
  const asStored = (from: Float32Array): Bits =>
    dtype === 'F32' ? from : Uint16Array.from(new Uint32Array(from.buffer.slice(0)), (word) => word >>> 16);
  const model = await writeCheckpoint(join(root, 'model'), {}, dtype, {
    [name]: asStored(numbers),
    'embed_out.weight': asStored(new Float32Array(1024)),
  });
  const exporter = new FTExporter(model);
  const ours = (warnings: readonly { message: string }[]): unknown[] =>
    warnings.filter(({ message }) => message.includes(name));
  expect(ours((await exporter.export(join(root, 'out'))).warnings)).toEqual([
    {
      code: 'overflow',
      message: `2 values of ${name} (model.layers.1.mlp.dense_h_to_4h.weight.0.bin) are too large for float16 and became infinite`,
    },
    {
      code: 'non-finite',
      message: `2 values of ${name} (model.layers.1.mlp.dense_h_to_4h.weight.0.bin) are infinite or not a number in the source`,
    },
  ]);
  expect(ours((await exporter.export(join(root, 'full'), { dtype: 'float32' })).warnings)).toEqual([
    {
      code: 'non-finite',
      message: `2 values of ${name} (model.layers.1.mlp.dense_h_to_4h.weight.0.bin) are infinite or not a number in the source`,
    },
  ]);
  // A NaN or an infinity that is the same on both sides is no difference.
  expect((await exporter.verify(join(root, 'out'))).ok).toBe(true);
  const one = await writeCheckpoint(join(root, 'model'), {}, dtype, {
    [name]: asStored(new Float32Array(96 * 64).fill(Infinity, 7, 8)),
  });
  expect(ours((await new FTExporter(one).export(join(root, 'one-out'))).warnings)).toMatchObject([
    {
      message: `1 value of ${name} (model.layers.1.mlp.dense_h_to_4h.weight.0.bin) is infinite or not a number in the source`,
    },
  ]);
});

it('divides and sums biases in float16, as numpy does', async () => {
  const model = await writeCheckpoint(join(root, 'model'), { hidden_size: 96, num_attention_heads: 3 });
  const { directory } = await new FTExporter(model).export(join(root, 'out'), { tensorParallel: 3 });
  const shared = (name: string): number[] =>
    [...(model.tensors.get(`gpt_neox.layers.0.${name}`)?.data ?? [])].map((x) => toHalf(fromHalf(toHalf(x)) / 3));
  const attention = shared('attention.dense.bias');
  const mlp = shared('mlp.dense_4h_to_h.bias');
  const file = (name: string): Promise<Uint16Array> => bits(join(directory, `model.layers.0.${name}.bin`));
  expect([...(await file('attention.dense.bias'))]).toEqual(attention);
  expect([...(await file('mlp.dense_4h_to_h.bias'))]).toEqual(mlp);
  expect([...(await file('mlp.attention.bias.sum'))]).toEqual(
    attention.map((a, i) => toHalf(fromHalf(a) + fromHalf(mlp[i] as number))),
  );
});

it('transposes weights that are larger than a piece', async () => {
  const hidden = 64;
  const inter = 66_003; // a file has a little more than 16 MiB
  const model = await writeCheckpoint(join(root, 'model'), { num_hidden_layers: 1, intermediate_size: inter }, 'F16');
  const { directory } = await new FTExporter(model).export(join(root, 'out'), { dtype: 'float32' });
  const source = (name: string): Bits => model.tensors.get(`gpt_neox.layers.0.mlp.${name}.weight`)?.data as Bits;
  const file = async (name: string): Promise<Float32Array> => {
    const bytes = await readFile(join(directory, `model.layers.0.mlp.${name}.weight.0.bin`));
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  };
  const half = Float32Array.from({ length: 65536 }, (_, i) => fromHalf(i));
  /** Elements of a file [columns, rows] that are not those of its source [rows, columns]. */
  const wrong = (actual: Float32Array, original: Bits, rows: number, columns: number): number => {
    let count = Math.abs(actual.length - rows * columns);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) if (actual[c * rows + r] !== half[original[r * columns + c] as number]) count++;
    }
    return count;
  };
  expect(wrong(await file('dense_h_to_4h'), source('dense_h_to_4h'), inter, hidden)).toBe(0);
  expect(wrong(await file('dense_4h_to_h'), source('dense_4h_to_h'), hidden, inter)).toBe(0);
});
