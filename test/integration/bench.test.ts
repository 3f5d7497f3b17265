import { mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/formats/safetensors';
import { readTensor } from '../../lib/formats/values';
import { PACKAGE_ROOT } from '../../lib/base/package';
import { temporaryFolder, writeRandomModel } from '../helpers';
import { runTypeScript, type ExampleRun } from './run-example';

jest.setTimeout(240_000);

const folder = temporaryFolder();
const bench = (name: string, args: readonly string[]): Promise<ExampleRun> =>
  runTypeScript(join(PACKAGE_ROOT, 'bench', name), args);

interface Result {
  group: string;
  title: string;
  peer: string;
  unit: string;
  values: number[];
  median: number;
}
interface Report {
  results: Result[];
  agreements: { peer: string; difference: number; agrees: boolean }[];
  failures: string[];
  missing: string[];
}

/** The benchmark in its smallest form: a tiny model, our own peers in float32, one round. */
async function run(...args: readonly string[]): Promise<{ report: Report; stdout: string }> {
  const out = folder.join(`results${args.length}${args.join('').length}`);
  const quick = ['--quick', '--no-python', '--no-llama', '--threads', '1', '--peers', 'float32'];
  const { code, stdout, stderr } = await bench('main.mts', [
    ...quick,
    '--cache',
    folder.join('cache'),
    '--out',
    out,
    ...args,
  ]);
  const report = readdirSync(out).find((name) => name.endsWith('.json'));
  if (code !== 0 || report === undefined) throw new Error(`${stdout}\n${stderr}`);
  return { report: JSON.parse(readFileSync(join(out, report), 'utf8')) as Report, stdout };
}

test('workloads of warm processes: every peer in each, and a table that compares them', async () => {
  const { report, stdout } = await run('--only', 'train,epoch,prefill,decode,swap,overhead');
  expect(report.failures).toEqual([]);
  const titles = (peer: string): string[] =>
    report.results.filter((result) => result.peer === peer).map(({ title }) => title);
  const ours = titles('neox-prefix float32');
  expect(ours).toHaveLength(13);
  // What has to do with JavaScript is measured for the default alone.
  expect(titles('neox-prefix float32, aten')).toEqual(
    ours.filter((title) => !/stream|generate\(|thread's|timer/.test(title)),
  );
  for (const { title, values, median } of report.results) {
    expect(values).toEqual([median]);
    // The timer may be on time to the resolution of the clock.
    if (!title.includes('timer')) expect(median).toBeGreaterThan(0);
  }
  expect(report.agreements.map(({ peer, agrees }) => ({ peer, agrees }))).toEqual([
    { peer: 'neox-prefix float32', agrees: true },
    { peer: 'neox-prefix float32, aten', agrees: true },
  ]);
  const [own, aten] = report.results.filter(({ group }) => group === 'train');
  const table = stdout.slice(stdout.indexOf('tiny: training'));
  const times = Number(/aten .* ([\d.]+)x/.exec(table)?.[1]);
  expect(times / ((own?.median ?? NaN) / (aten?.median ?? NaN))).toBeCloseTo(1, 1);
  expect(stdout).toContain('llama.cpp: --no-llama');
  expect(report.missing).toContain('llama.cpp: --no-llama');
});

test('workloads of fresh processes: start, memory and export', async () => {
  const { report } = await run('--only', 'start,memory,export', '--peers', 'neox-prefix float32');
  expect(report.failures).toEqual([]);
  const own = report.results;
  expect(own.map(({ group, unit }) => `${group} ${unit}`)).toEqual([
    'start s',
    'memory MB',
    'memory MB',
    'export GB/s',
    'export MB',
  ]);
  // libtorch alone is more than this.
  for (const { group, median } of own) if (group === 'memory') expect(median).toBeGreaterThan(100);
});

test('a command line that is not understood', async () => {
  for (const [args, message] of [
    [['--only', 'speed'], /^error: --only 'speed' is not known; there are limits, train, /],
    [['--rounds', '0'], /^error: Expected a whole number of at least 1 for --rounds, not '0'/],
  ] as const) {
    const { code, stderr } = await bench('main.mts', args);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr).toContain('npm run bench -- --help');
  }
});

// ---- the file that llama.cpp is given ----

interface Gguf {
  metadata: Map<string, unknown>;
  tensors: Map<string, { shape: number[]; type: number; data: Buffer }>;
}

/** A reader of GGUF version 3 by its specification, as far as it is needed here. */
function readGguf(file: Buffer): Gguf {
  let at = 0;
  const take = (bytes: number): number => (at += bytes) - bytes;
  const u32 = (): number => file.readUInt32LE(take(4));
  const u64 = (): number => Number(file.readBigUInt64LE(take(8)));
  const text = (): string => {
    const length = u64();
    return file.toString('utf8', take(length), at);
  };
  const value = (type: number): unknown => {
    switch (type) {
      case 4:
        return u32();
      case 6:
        return file.readFloatLE(take(4));
      case 7:
        return file[take(1)] === 1;
      case 8:
        return text();
      case 9: {
        const inner = u32();
        return Array.from({ length: u64() }, () => value(inner));
      }
      default:
        throw new Error(`A value of type ${type}`);
    }
  };
  expect(file.toString('latin1', 0, take(4) + 4)).toBe('GGUF');
  expect(u32()).toBe(3);
  const [tensorCount, valueCount] = [u64(), u64()];
  const metadata = new Map(
    Array.from({ length: valueCount }, (): [string, unknown] => {
      const key = text();
      return [key, value(u32())];
    }),
  );
  const infos = Array.from({ length: tensorCount }, () => ({
    name: text(),
    shape: Array.from({ length: u32() }, u64).reverse(),
    type: u32(),
    offset: u64(),
  }));
  const start = Math.ceil(at / 32) * 32;
  const tensors = infos.map(
    ({ name, shape, type, offset }, i): [string, { shape: number[]; type: number; data: Buffer }] => {
      expect(offset % 32).toBe(0);
      return [
        name,
        { shape, type, data: file.subarray(start + offset, start + (infos[i + 1]?.offset ?? file.length - start)) },
      ];
    },
  );
  return { metadata, tensors: new Map(tensors) };
}

function float16(bits: number): number {
  const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

/** Values of a tensor, and how far rounding may have moved one of them. */
function decode(data: Buffer, type: number, count: number): { value: number; tolerance: number }[] {
  return Array.from({ length: count }, (_, i) => {
    const block = Math.floor(i / 32) * 34;
    switch (type) {
      case 0:
        return { value: data.readFloatLE(4 * i), tolerance: 0 };
      case 1: {
        const value = float16(data.readUInt16LE(2 * i));
        return { value, tolerance: Math.abs(value) / 2048 + 2 ** -25 };
      }
      case 30: {
        const value = new Float32Array(Uint32Array.of(data.readUInt16LE(2 * i) << 16).buffer)[0] as number;
        return { value, tolerance: Math.abs(value) / 256 };
      }
      case 8: {
        const scale = float16(data.readUInt16LE(block));
        // Half a step, and the rounding of the scale itself, which at 127 steps is some 1/16.
        return { value: scale * data.readInt8(block + 2 + (i % 32)), tolerance: 0.57 * scale };
      }
      default:
        throw new Error(`A tensor of type ${type}`);
    }
  });
}

test.each([
  ['F16', 1],
  ['BF16', 30],
  ['Q8_0', 8],
])('GGUF holds the weights of the checkpoint: %s', async (name, type) => {
  const model = folder.join(name);
  mkdirSync(model);
  // What our own models have in common with others is not asked of the writer: biases, and a width of heads that is a
  // part of a block.
  await writeRandomModel(model, {
    hidden_size: 64,
    num_attention_heads: 4,
    intermediate_size: 96,
    rotary_emb_base: 5000,
    layer_norm_eps: 1e-6,
  });
  const path = folder.join(`${name}.gguf`);
  expect(await bench('gguf.mts', [model, path, name])).toEqual({ code: 0, stdout: '', stderr: '' });
  const { metadata, tensors } = readGguf(readFileSync(path));

  expect(Object.fromEntries(metadata)).toMatchObject({
    'general.architecture': 'gptneox',
    'gptneox.embedding_length': 64,
    'gptneox.block_count': 2,
    'gptneox.feed_forward_length': 96,
    'gptneox.attention.head_count': 4,
    'gptneox.rope.dimension_count': 8,
    'gptneox.rope.freq_base': 5000,
    'gptneox.use_parallel_residual': false,
    'tokenizer.ggml.eos_token_id': 2,
  });
  expect(metadata.get('gptneox.attention.layer_norm_epsilon')).toBeCloseTo(1e-6, 12);
  expect(metadata.get('tokenizer.ggml.tokens')).toHaveLength(64);

  const header = await readSafetensorsHeader(join(model, 'model.safetensors'));
  expect(tensors.size).toBe(header.tensors.size);
  const expectTensor = async (
    ggufName: string,
    sourceName: string,
    place: (row: number) => number = (row) => row,
  ): Promise<void> => {
    const source = header.tensors.get(sourceName)!;
    const expected = await readTensor(source);
    const found = tensors.get(ggufName)!;
    expect(found.shape).toEqual(source.shape);
    expect(found.type).toBe(source.shape.length === 1 ? 0 : type);
    const width = source.shape[1] ?? 1;
    const wrong = decode(found.data, found.type, expected.length).filter(
      ({ value, tolerance }, i) =>
        !(Math.abs(value - expected[place(Math.floor(i / width)) * width + (i % width)]!) <= tolerance),
    );
    expect(wrong).toEqual([]);
  };
  await expectTensor('token_embd.weight', 'gpt_neox.embed_in.weight');
  await expectTensor('output.weight', 'embed_out.weight');
  await expectTensor('output_norm.bias', 'gpt_neox.final_layer_norm.bias');
  await expectTensor('blk.1.attn_norm.weight', 'gpt_neox.layers.1.input_layernorm.weight');
  await expectTensor('blk.1.ffn_norm.weight', 'gpt_neox.layers.1.post_attention_layernorm.weight');
  await expectTensor('blk.0.attn_output.weight', 'gpt_neox.layers.0.attention.dense.weight');
  await expectTensor('blk.1.ffn_up.weight', 'gpt_neox.layers.1.mlp.dense_h_to_4h.weight');
  await expectTensor('blk.1.ffn_down.bias', 'gpt_neox.layers.1.mlp.dense_4h_to_h.bias');
  // llama.cpp has all queries, then all keys, then all values; the checkpoint has them head by head.
  const head = (row: number): number => Math.floor((row % 64) / 16) * 48 + Math.floor(row / 64) * 16 + (row % 16);
  await expectTensor('blk.1.attn_qkv.weight', 'gpt_neox.layers.1.attention.query_key_value.weight', head);
  await expectTensor('blk.1.attn_qkv.bias', 'gpt_neox.layers.1.attention.query_key_value.bias', head);
});
