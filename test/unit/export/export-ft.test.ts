import { mkdir, mkdtemp, open, readFile, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { FTExporter, type ExportOptions } from '../../../lib/export/exporter';
import type { ExportProgress } from '../../../lib/export/native-files';
import type { PrefixWeights } from '../../../lib/prefix/weights';
import { wholeNumberPrefix, writeCheckpoint, type SmallCheckpoint } from './export-helpers';

let root: string;
let out: string;
let model: SmallCheckpoint;
let exporter: FTExporter;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
  out = join(root, 'out');
  await mkdir(join(root, 'model'));
  model = await writeCheckpoint(join(root, 'model'));
  exporter = new FTExporter(model);
});
afterEach(() => rm(root, { recursive: true, force: true }));

const prefix = (length: number, seed?: number): PrefixWeights => wholeNumberPrefix(model.checkpoint, length, seed);

async function floats(path: string): Promise<Float32Array> {
  const bytes = await readFile(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

async function snapshot(folder: string): Promise<Map<string, string>> {
  const entries = await Promise.all(
    (await readdir(folder)).map(async (name) => {
      const { mtimeNs, ino } = await stat(join(folder, name), { bigint: true });
      return [name, `${ino} ${mtimeNs} ${(await readFile(join(folder, name))).toString('base64')}`] as const;
    }),
  );
  return new Map(entries);
}

/** The rank's part of a prefix [P, L, 2, N, D] as [L, 2, N/T, P, D], element by element. */
function expectedPrefix(
  { data, prefixLength, numLayers, numHeads, headSize }: PrefixWeights,
  rank: number,
  ranks: number,
): number[] {
  const heads = numHeads / ranks;
  const result: number[] = [];
  for (let l = 0; l < numLayers; l++) {
    for (let part = 0; part < 2; part++) {
      for (let n = rank * heads; n < (rank + 1) * heads; n++) {
        for (let p = 0; p < prefixLength; p++) {
          for (let d = 0; d < headSize; d++)
            result.push(data[(((p * numLayers + l) * 2 + part) * numHeads + n) * headSize + d] as number);
        }
      }
    }
  }
  return result;
}

describe('export', () => {
  it('writes the base model, the tasks and config.ini', async () => {
    const report = await exporter.export(out, {
      dtype: 'float32',
      tasks: { smile: prefix(5), casual: prefix(3, 9) },
      modelName: 'tiny',
    });
    expect(report).toMatchObject({ directory: join(out, '1-gpu'), dtype: 'float32', tensorParallel: 1, warnings: [] });
    expect(report.tasks).toEqual([
      { id: 0, name: 'smile', prefixLength: 5 },
      { id: 1, name: 'casual', prefixLength: 3 },
    ]);
    expect(await readFile(join(out, '1-gpu', 'config.ini'), 'utf8')).toBe(
      '[gptneox]\nmodel_name = tiny\nhead_num = 2\nsize_per_head = 32\ninter_size = 96\nnum_layer = 2\nrotary_embedding = 8\nvocab_size = 16\n' +
        'start_id = 1\nend_id = 2\nuse_gptj_residual = 1\nweight_data_type = fp32\nnum_tasks = 2\nprompt_learning_type = 2\n\n' +
        '[task_0]\ntask_name = smile\nprompt_length = 5\n\n[task_1]\ntask_name = casual\nprompt_length = 3\n\n',
    );
    expect(await readdir(out)).toEqual(['1-gpu']);
    expect((await readdir(report.directory)).sort()).toEqual(
      ['config.ini', ...report.files.map(({ name }) => name)].sort(),
    );
    let bytes = 0;
    for (const file of report.files) {
      expect((await stat(join(report.directory, file.name))).size).toBe(file.bytes);
      bytes += file.bytes;
    }
    expect(report.bytes).toBe(bytes);
  });

  it.each([1, 2])('cuts a prefix into [L, 2, N/T, P, D] for %i GPUs', async (ranks) => {
    const smile = prefix(5);
    const { directory } = await exporter.export(out, { dtype: 'float32', tensorParallel: ranks, tasks: { smile } });
    for (let rank = 0; rank < ranks; rank++) {
      const actual = await floats(join(directory, `model.prefix_prompt.smile.weight.${rank}.bin`));
      expect([...actual]).toEqual(expectedPrefix(smile, rank, ranks));
    }
  });

  it('writes float16 by default', async () => {
    const { directory, dtype } = await exporter.export(out, { tasks: { smile: prefix(2) } });
    expect(dtype).toBe('float16');
    expect(await readFile(join(directory, 'config.ini'), 'utf8')).toContain('weight_data_type = fp16\n');
    expect((await stat(join(directory, 'model.prefix_prompt.smile.weight.0.bin'))).size).toBe(2 * 2 * 2 * 64 * 2);
  });

  it('takes any source precision', async () => {
    const half = join(root, 'half');
    await mkdir(half);
    const { checkpoint, tensors } = await writeCheckpoint(half, {}, 'BF16');
    const { directory } = await new FTExporter({ checkpoint }).export(out, { dtype: 'float32' });
    const bits = tensors.get('gpt_neox.embed_in.weight')?.data as Uint16Array;
    const expected = new Float32Array(Uint32Array.from(bits, (bit) => bit << 16).buffer);
    expect(await floats(join(directory, 'model.wte.bin'))).toEqual(expected);
  });

  it('writes the embedding as the output head of a tied model', async () => {
    const tied = join(root, 'tied');
    await mkdir(tied);
    const { checkpoint } = await writeCheckpoint(tied, { tie_word_embeddings: true });
    const { directory } = await new FTExporter({ checkpoint }).export(out);
    expect(await readFile(join(directory, 'model.lm_head.weight.bin'))).toEqual(
      await readFile(join(directory, 'model.wte.bin')),
    );
  });

  it('writes zeros for the biases that a model does not have, and says so', async () => {
    const other = join(root, 'no-bias');
    await mkdir(other);
    const { checkpoint, tensors } = await writeCheckpoint(other, { attention_bias: false });
    const report = await new FTExporter({ checkpoint }).export(out, { dtype: 'float32' });
    expect(report.warnings.map(({ code }) => code)).toEqual(['attention-bias']);
    const file = (name: string): Promise<Float32Array> => floats(join(report.directory, `model.layers.1.${name}.bin`));
    expect(await file('attention.query_key_value.bias.0')).toEqual(new Float32Array(192));
    expect(await file('attention.dense.bias')).toEqual(new Float32Array(64));
    expect(await file('mlp.attention.bias.sum')).toEqual(tensors.get('gpt_neox.layers.1.mlp.dense_4h_to_h.bias')?.data);
  });

  it('keeps what is there unless it may replace it', async () => {
    const first = await exporter.export(out, { tasks: { smile: prefix(2) } });
    const before = await snapshot(first.directory);
    await expect(exporter.export(out)).rejects.toMatchObject({
      code: 'NEOX_BAD_EXPORT',
      path: first.directory,
      message: expect.stringContaining(`There is an export already: ${first.directory}`) as string,
    });
    expect(await snapshot(first.directory)).toEqual(before);
    const second = await exporter.export(out, { overwrite: true });
    expect((await readdir(second.directory)).filter((name) => name.includes('prefix'))).toEqual([]);
    expect(await readdir(out)).toEqual(['1-gpu']);
  });

  it('never replaces a folder that is no export', async () => {
    await mkdir(join(out, '1-gpu'), { recursive: true });
    await writeFile(join(out, '1-gpu', 'thesis.txt'), 'x');
    await expect(exporter.export(out, { overwrite: true })).rejects.toMatchObject({ code: 'NEOX_BAD_EXPORT' });
    await expect(exporter.export(out, { overwrite: true })).rejects.toThrow(
      `Something else is there already: ${join(out, '1-gpu')}`,
    );
    expect(await readFile(join(out, '1-gpu', 'thesis.txt'), 'utf8')).toBe('x');
  });

  it.each<[object, string]>([
    [{ dtype: 'bfloat16' }, "Expected one of 'float16', 'float32' for dtype but received 'bfloat16' of type string"],
    [{ tensorParallel: 0 }, 'Expected an integer of at least 1 for tensorParallel but received 0 of type number'],
    [
      { tensorParallel: 4 },
      "Expected a divisor of the model's 2 attention heads for tensorParallel but received 4 of type number",
    ],
    [{ modelName: 'a;b' }, "Expected a name without ';' and '%', which config.ini cannot hold for modelName"],
    [
      { denseBias: 'none' },
      "Expected one of 'runtime', 'huggingface_converter' for denseBias but received 'none' of type string",
    ],
    [{ overwrite: 1 }, 'Expected a boolean for overwrite but received 1 of type number'],
    [{ signal: {} }, 'Expected an AbortSignal for signal but received an object of type object'],
    [{ onProgress: true }, 'Expected a function for onProgress but received true of type boolean'],
    [
      { tasks: [] },
      'Expected a plain object of prefixes by task name for tasks but received an array of 0 of type array',
    ],
    [
      { tasks: { a: new Float32Array(3) } },
      "Expected a PrefixWeights for tasks['a'] but received a Float32Array of type object",
    ],
    [{ tasks: { '../a': 1 } }, 'for task name but received'],
    [{ tensorparallel: 2 }, "Unknown option 'tensorparallel' in options\nHint: did you mean 'tensorParallel'?"],
  ])('refuses %j', async (options, message) => {
    await expect(exporter.export(out, options as ExportOptions)).rejects.toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: expect.stringContaining(message) as string,
    });
    expect(await readdir(root)).toEqual(['model']);
  });

  it('refuses a prefix of another model', async () => {
    await mkdir(join(root, 'other'));
    const other = await writeCheckpoint(join(root, 'other'), { num_hidden_layers: 1 });
    await expect(
      exporter.export(out, { tasks: { other: wholeNumberPrefix(other.checkpoint, 2) } }),
    ).rejects.toMatchObject({
      code: 'NEOX_PREFIX_MISMATCH',
    });
    expect(() => new FTExporter(undefined as never)).toThrow(
      'Expected a NeoXModel for model but received undefined of type undefined',
    );
  });

  it('leaves nothing behind when the checkpoint cannot be read', async () => {
    await truncate(join(root, 'model', 'model.safetensors'), 4096);
    await expect(exporter.export(out)).rejects.toMatchObject({ name: 'NeoXPrefixError', code: 'NEOX_IO' });
    expect(await readdir(root)).toEqual(['model']);
  });

  it('tells its progress up to the end', async () => {
    const seen: number[] = [];
    const report = await exporter.export(out, {
      tasks: { smile: prefix(2) },
      onProgress: ({ bytesDone, bytesTotal }) => {
        expect(bytesTotal).toBeGreaterThan(0);
        seen.push(bytesDone / bytesTotal);
      },
    });
    expect(seen.length).toBeGreaterThan(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(1);
    expect(report.bytes).toBeGreaterThan(0);
  });

  it('stops at an abort and leaves nothing behind', async () => {
    const reason = new Error('enough');
    await expect(exporter.export(out, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    await expect(
      exporter.export(out, { signal: controller.signal, onProgress: () => controller.abort(reason) }),
    ).rejects.toBe(reason);
    const late = new AbortController();
    const onProgress = ({ bytesDone, bytesTotal }: ExportProgress): void =>
      bytesDone === bytesTotal ? late.abort(reason) : undefined;
    await expect(exporter.export(out, { signal: late.signal, onProgress })).rejects.toBe(reason);
    expect(await readdir(root)).toEqual(['model']);
  });

  it('stops when the progress function throws', async () => {
    const error = new Error('no');
    const onProgress = (): void => {
      throw error;
    };
    await expect(exporter.export(out, { onProgress })).rejects.toBe(error);
    expect(await readdir(root)).toEqual(['model']);
  });
});

describe('addTasks', () => {
  it('adds prefixes in the type and for the number of GPUs of the export, and touches nothing else', async () => {
    const { directory } = await exporter.export(out, {
      dtype: 'float32',
      tensorParallel: 2,
      tasks: { smile: prefix(2) },
    });
    const before = await snapshot(directory);
    const casual = prefix(4, 3);
    const report = await exporter.addTasks(out, { casual });
    expect(report).toMatchObject({ directory, dtype: 'float32', tensorParallel: 2, warnings: [] });
    expect(report.tasks.map(({ id, name }) => [id, name])).toEqual([
      [0, 'smile'],
      [1, 'casual'],
    ]);
    expect(report.files.map(({ name }) => name)).toEqual([
      'model.prefix_prompt.casual.weight.0.bin',
      'model.prefix_prompt.casual.weight.1.bin',
    ]);
    const after = await snapshot(directory);
    for (const [name, content] of before) if (name !== 'config.ini') expect(after.get(name)).toBe(content);
    expect([...after.keys()].sort()).toEqual([...before.keys(), ...report.files.map(({ name }) => name)].sort());
    expect([...(await floats(join(directory, 'model.prefix_prompt.casual.weight.1.bin')))]).toEqual(
      expectedPrefix(casual, 1, 2),
    );
    const whole = join(root, 'whole');
    await exporter.export(whole, { dtype: 'float32', tensorParallel: 2, tasks: { smile: prefix(2), casual } });
    expect(await readFile(join(directory, 'config.ini'), 'utf8')).toBe(
      await readFile(join(whole, '2-gpu', 'config.ini'), 'utf8'),
    );
  });

  it('makes an export without tasks one with tasks', async () => {
    await exporter.export(out);
    await exporter.addTasks(join(out, '1-gpu'), { smile: prefix(2) });
    expect(await readFile(join(out, '1-gpu', 'config.ini'), 'utf8')).toContain(
      'weight_data_type = fp16\nnum_tasks = 1\nprompt_learning_type = 2\n\n[task_0]\ntask_name = smile\nprompt_length = 2\n\n',
    );
  });

  it('replaces a task only when told to, and keeps its id', async () => {
    const { directory } = await exporter.export(out, { tasks: { smile: prefix(2), casual: prefix(2) } });
    const before = await snapshot(directory);
    await expect(exporter.addTasks(out, { new: prefix(1), smile: prefix(3) })).rejects.toMatchObject({
      code: 'NEOX_BAD_ARGUMENT',
      message: expect.stringContaining(`The export ${directory} already has a task 'smile'`) as string,
    });
    expect(await snapshot(directory)).toEqual(before);
    const { tasks } = await exporter.addTasks(out, { smile: prefix(3), new: prefix(1) }, { replace: true });
    expect(tasks).toEqual([
      { id: 0, name: 'smile', prefixLength: 3 },
      { id: 1, name: 'casual', prefixLength: 2 },
      { id: 2, name: 'new', prefixLength: 1 },
    ]);
    expect((await exporter.verify(out, { tasks: { smile: prefix(3), casual: prefix(2), new: prefix(1) } })).ok).toBe(
      true,
    );
  });

  it('refuses exports of other models, and folders that are none', async () => {
    const { directory } = await exporter.export(out);
    await mkdir(join(root, 'other'));
    const other = await writeCheckpoint(join(root, 'other'), { num_hidden_layers: 1 });
    const before = await snapshot(directory);
    await expect(new FTExporter(other).addTasks(out, { a: wholeNumberPrefix(other.checkpoint, 1) })).rejects.toThrow(
      `The export ${directory} is not of this model: num_layer is 2, expected 1`,
    );
    await expect(exporter.addTasks(root, { a: prefix(1) })).rejects.toThrow(
      `Expected one <ranks>-gpu folder in ${root}, found no <ranks>-gpu folder`,
    );
    await expect(exporter.addTasks(out, { a: prefix(1) }, { tensorParallel: 2 })).rejects.toThrow(
      `Expected a folder 2-gpu in ${out}, found 1-gpu`,
    );
    await expect(exporter.addTasks(join(root, 'nowhere'), { a: prefix(1) })).rejects.toMatchObject({
      code: 'NEOX_FILE_NOT_FOUND',
    });
    await expect(exporter.addTasks(out, {})).rejects.toThrow('Expected at least one task for tasks');
    expect(await snapshot(directory)).toEqual(before);
  });

  it('leaves the export as it was when it is stopped', async () => {
    const { directory } = await exporter.export(out);
    const before = await snapshot(directory);
    const controller = new AbortController();
    const run = exporter.addTasks(
      out,
      { a: prefix(1), b: prefix(2) },
      { signal: controller.signal, onProgress: () => controller.abort() },
    );
    await expect(run).rejects.toMatchObject({ name: 'AbortError' });
    expect(await snapshot(directory)).toEqual(before);
  });
});

describe('verify', () => {
  const change = async (path: string, at: number): Promise<void> => {
    const file = await open(path, 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.from([(buffer[0] as number) ^ 1]), 0, 1, at);
    await file.close();
  };

  it('finds an export equal to its source', async () => {
    const tasks = { smile: prefix(2), casual: prefix(3) };
    const written = await exporter.export(out, { tasks, tensorParallel: 2 });
    const seen: number[] = [];
    const report = await exporter.verify(out, {
      tasks: { smile: tasks.smile },
      onProgress: ({ bytesDone, bytesTotal }) => seen.push(bytesDone / bytesTotal),
    });
    expect(report).toMatchObject({
      ok: true,
      directory: written.directory,
      dtype: 'float16',
      tensorParallel: 2,
      problems: [],
      unexpected: [],
    });
    expect(report.files.map(({ name }) => name).sort()).toEqual(written.files.map(({ name }) => name).sort());
    for (const { name, status, differing, maxAbsDifference } of report.files) {
      expect([name, status, differing, maxAbsDifference]).toEqual([
        name,
        name.includes('casual') ? 'size' : 'equal',
        0,
        0,
      ]);
    }
    expect(seen.at(-1)).toBe(1);
  });

  it('names the files that differ, are too short or missing', async () => {
    const smile = prefix(2);
    const { directory } = await exporter.export(out, { dtype: 'float32', tasks: { smile } });
    const path = (name: string): string => join(directory, name);
    await change(path('model.layers.1.attention.query_key_value.weight.0.bin'), 4 * 100);
    await truncate(path('model.wte.bin'), 100);
    await rm(path('model.layers.0.mlp.attention.bias.sum.bin'));
    await change(path('model.prefix_prompt.smile.weight.0.bin'), 3);
    await writeFile(path('notes.txt'), '');
    const report = await exporter.verify(out, { tasks: { smile } });
    expect(report).toMatchObject({ ok: false, problems: [], unexpected: ['notes.txt'] });
    const wrong = report.files.filter(({ status }) => status !== 'equal');
    expect(
      wrong.map(({ name, status, differing, expectedBytes, actualBytes }) => ({
        name,
        status,
        differing,
        expectedBytes,
        actualBytes,
      })),
    ).toEqual([
      { name: 'model.wte.bin', status: 'wrong-size', differing: 0, expectedBytes: 4096, actualBytes: 100 },
      {
        name: 'model.layers.0.mlp.attention.bias.sum.bin',
        status: 'missing',
        differing: 0,
        expectedBytes: 256,
        actualBytes: 0,
      },
      {
        name: 'model.layers.1.attention.query_key_value.weight.0.bin',
        status: 'different',
        differing: 1,
        expectedBytes: 49152,
        actualBytes: 49152,
      },
      {
        name: 'model.prefix_prompt.smile.weight.0.bin',
        status: 'different',
        differing: 1,
        expectedBytes: 2048,
        actualBytes: 2048,
      },
    ]);
    expect(wrong[2]?.maxAbsDifference).toBeGreaterThan(0);
    expect(wrong[2]?.maxAbsDifference).toBeLessThan(1e-6);
  });

  it('compares config.ini with the model and the tasks', async () => {
    const { directory } = await exporter.export(out, { tasks: { smile: prefix(2) } });
    const ini = join(directory, 'config.ini');
    const text = await readFile(ini, 'utf8');
    await writeFile(
      ini,
      text.replace('rotary_embedding = 8', 'rotary_embedding = 32').replace('use_gptj_residual = 1\n', ''),
    );
    const report = await exporter.verify(out, { tasks: { smile: prefix(3), casual: prefix(1) } });
    expect(report.ok).toBe(false);
    expect(report.problems).toEqual([
      'config.ini: rotary_embedding is 32, expected 8',
      'config.ini: use_gptj_residual is missing, expected 1',
      "config.ini: prompt_length of the task 'smile' is 2, expected 3",
      "config.ini: there is no task 'casual'",
    ]);
  });

  it.each([
    ['weight_data_type = bf16', 'expected fp16 or fp32 for weight_data_type, found bf16'],
    [
      'weight_data_type = fp16\nnum_tasks = 1\nprompt_learning_type = 2',
      'num_tasks is 1 but [task_0] has no task_name',
    ],
    ['weight_data_type = fp16\nnum_tasks = x', "expected a whole number for num_tasks of [gptneox], found 'x'"],
    [
      'weight_data_type = fp16\nnum_tasks = 1\nprompt_learning_type = 3',
      'expected prompt_learning_type 2 (prefix prompts), found 3',
    ],
    [
      'weight_data_type = fp16\nnum_tasks = 1\nprompt_learning_type = 2\n[task_0]\ntask_name = ../x',
      "the task name '../x' cannot be a part of a file name",
    ],
  ])('refuses a config.ini with %j', async (lines, message) => {
    const { directory } = await exporter.export(out);
    await writeFile(join(directory, 'config.ini'), `[gptneox]\n${lines}\n`);
    await expect(exporter.verify(out)).rejects.toMatchObject({
      code: 'NEOX_BAD_EXPORT',
      message: expect.stringContaining(message) as string,
    });
  });

  it('knows the two rules for biases apart', async () => {
    await mkdir(join(root, 'sequential'));
    const sequential = new FTExporter(
      await writeCheckpoint(join(root, 'sequential'), { use_parallel_residual: false }),
    );
    await sequential.export(out, { tensorParallel: 2, denseBias: 'huggingface_converter' });
    expect((await sequential.verify(out, { denseBias: 'huggingface_converter' })).ok).toBe(true);
    const { files } = await sequential.verify(out);
    expect(
      files.filter(({ status }) => status === 'different').map(({ name }) => name.replace(/^model.layers.\d./, '')),
    ).toEqual([
      'attention.dense.bias.bin',
      'mlp.dense_4h_to_h.bias.bin',
      'attention.dense.bias.bin',
      'mlp.dense_4h_to_h.bias.bin',
    ]);
  });

  it('can be aborted', async () => {
    await exporter.export(out);
    const controller = new AbortController();
    await expect(
      exporter.verify(out, { signal: controller.signal, onProgress: () => controller.abort() }),
    ).rejects.toMatchObject({
      name: 'AbortError',
    });
    await expect(exporter.verify(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
  });
});
