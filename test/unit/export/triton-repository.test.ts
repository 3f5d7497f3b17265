import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Checkpoint } from '../../../lib/checkpoint/checkpoint';
import { readTasks } from '../../../lib/fastertransformer/task-list';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { FTExporter } from '../../../lib/export/exporter';
import { exportTritonRepository, type TritonOptions } from '../../../lib/export/triton-repository';
import { PrefixWeights } from '../../../lib/prefix/weights';
import { cli } from '../cli/cli-helpers';
import { wholeNumberPrefix, writeCheckpoint } from './export-helpers';
import { failure } from '../base/files-helpers';

type Field = string | number | boolean | { symbol: string } | Message;
type Message = Record<string, Field[]>;

/** Reads protobuf's text form: `field: value`, `field { ... }`, lists in brackets, commas between list elements. */
function parseText(text: string): Message {
  const tokens = [
    ...text.replace(/#.*$/gm, '').matchAll(/"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[A-Za-z_]\w*|[{}[\]:,]|\S/g),
  ].map(([token]) => token);
  let at = 0;
  const take = (expected?: string): string => {
    const token = tokens[at++];
    if (token === undefined || (expected !== undefined && token !== expected))
      throw new Error(`expected ${expected ?? 'more'}, found ${token ?? 'the end'}`);
    return token;
  };
  const value = (): Field => {
    if (tokens[at] === '{') {
      take('{');
      const message = body('}');
      take('}');
      return message;
    }
    const token = take();
    if (token.startsWith('"'))
      return token
        .slice(1, -1)
        .replace(/\\(?:([0-7]{3})|(.))/g, (_, octal?: string, c?: string) =>
          octal === undefined ? c! : String.fromCharCode(parseInt(octal, 8)),
        );
    if (/^-?\d/.test(token)) return Number(token);
    if (token === 'true' || token === 'false') return token === 'true';
    if (/^[A-Z]/.test(token)) return { symbol: token };
    throw new Error(`unexpected ${token}`);
  };
  const body = (end: string | undefined): Message => {
    const message: Message = {};
    while (tokens[at] !== end) {
      const field = take();
      if (!/^[a-z_]+$/.test(field)) throw new Error(`unexpected ${field}`);
      const list = (message[field] ??= []);
      if (tokens[at] === ':') take(':');
      else if (tokens[at] !== '{' && tokens[at] !== '[') throw new Error(`no value for ${field}`);
      if (tokens[at] !== '[') {
        list.push(value());
        continue;
      }
      take('[');
      while (tokens[at] !== ']') {
        list.push(value());
        if (tokens[at] !== ']') take(',');
      }
      take(']');
    }
    return message;
  };
  return body(undefined);
}

const one = (message: Message, field: string): Field => {
  expect(message[field]).toHaveLength(1);
  return message[field]![0]!;
};

interface Tensor {
  type: string;
  dims: number[];
  reshaped: boolean;
  optional: boolean;
}

function tensors(message: Message, field: string): Record<string, Tensor> {
  return Object.fromEntries(
    (message[field] as Message[]).map((tensor): [string, Tensor] => {
      const { name, data_type, dims, reshape, optional, ...others } = tensor;
      expect(others).toEqual({});
      if (reshape !== undefined) expect(reshape).toEqual([{ shape: [] }]);
      const type = (data_type![0] as { symbol: string }).symbol;
      return [
        name![0] as string,
        { type, dims: dims as number[], reshaped: reshape !== undefined, optional: optional?.[0] === true },
      ];
    }),
  );
}

function parameters(message: Message): Record<string, string> {
  return Object.fromEntries(
    (message['parameters'] as Message[]).map((entry): [string, string] => [
      one(entry, 'key') as string,
      one(one(entry, 'value') as Message, 'string_value') as string,
    ]),
  );
}

let folder: string;
let checkpoint: Checkpoint;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
  const model = join(folder, 'model');
  await mkdir(model);
  ({ checkpoint } = await writeCheckpoint(model));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const repository = (): string => join(folder, 'repository');
const write = (options: TritonOptions = {}): ReturnType<typeof exportTritonRepository> =>
  exportTritonRepository({ checkpoint }, repository(), options);
const configOf = async (path: string): Promise<Message> => parseText(await readFile(path, 'utf8'));

it('writes a model that the backend can load', async () => {
  const tasks = { smile: wholeNumberPrefix(checkpoint, 3), polite: wholeNumberPrefix(checkpoint, 2, 1) };
  const report = await write({ tensorParallel: 2, pipelineParallel: 2, tasks });
  const directory = join(repository(), 'fastertransformer');
  const weights = join(directory, '1', '2-gpu');
  expect(report).toMatchObject({
    directory,
    modelName: 'fastertransformer',
    configPath: join(directory, 'config.pbtxt'),
    checkpointPath: weights,
    gpus: 4,
    tasks: [
      { id: 0, name: 'smile', prefixLength: 3 },
      { id: 1, name: 'polite', prefixLength: 2 },
    ],
    weights: { directory: weights, dtype: 'float16', tensorParallel: 2 },
    warnings: [],
  });
  expect(await readdir(repository())).toEqual(['fastertransformer']);
  expect((await readdir(directory)).sort()).toEqual(['1', 'config.pbtxt']);
  expect(await new FTExporter({ checkpoint }).verify(weights, { tasks })).toMatchObject({ ok: true, unexpected: [] });
  expect((await PrefixWeights.load(weights, { task: 1 })).hash).toBe(tasks.polite.hash);
  expect((await openCheckpoint(join(directory, '1'))).tasks).toHaveLength(2);
});

describe('config.pbtxt', () => {
  it('has the settings of the backend', async () => {
    const { configPath, checkpointPath } = await write();
    const { input, output, parameters: parameterList, ...rest } = await configOf(configPath);
    expect(rest).toEqual({
      name: ['fastertransformer'],
      backend: ['fastertransformer'],
      default_model_filename: ['1-gpu'],
      max_batch_size: [1024],
      model_transaction_policy: [{ decoupled: [false] }],
      instance_group: [{ count: [1], kind: [{ symbol: 'KIND_CPU' }] }],
    });
    expect(parameters({ parameters: parameterList! })).toEqual({
      tensor_para_size: '1',
      pipeline_para_size: '1',
      data_type: 'fp16',
      model_type: 'GPT-NeoX',
      model_checkpoint_path: checkpointPath,
      enable_custom_all_reduce: '0',
    });
    expect([input, output].map((list) => list?.length)).toEqual([20, 4]);
  });

  it('has every input and output of the backend', async () => {
    const config = await configOf((await write()).configPath);
    const scalar = (type: string): Tensor => ({ type, dims: [1], reshaped: true, optional: true });
    const words = { type: 'TYPE_INT32', dims: [2, -1], reshaped: false, optional: true };
    expect(tensors(config, 'input')).toEqual({
      input_ids: { type: 'TYPE_UINT32', dims: [-1], reshaped: false, optional: false },
      input_lengths: { ...scalar('TYPE_UINT32'), optional: false },
      request_output_len: { type: 'TYPE_UINT32', dims: [-1], reshaped: false, optional: false },
      start_id: scalar('TYPE_UINT32'),
      end_id: scalar('TYPE_UINT32'),
      runtime_top_k: scalar('TYPE_UINT32'),
      runtime_top_p: scalar('TYPE_FP32'),
      beam_search_diversity_rate: scalar('TYPE_FP32'),
      temperature: scalar('TYPE_FP32'),
      len_penalty: scalar('TYPE_FP32'),
      repetition_penalty: scalar('TYPE_FP32'),
      random_seed: scalar('TYPE_UINT64'),
      is_return_log_probs: scalar('TYPE_BOOL'),
      beam_width: scalar('TYPE_UINT32'),
      bad_words_list: words,
      stop_words_list: words,
      prompt_learning_task_name_ids: scalar('TYPE_UINT32'),
      top_p_decay: scalar('TYPE_FP32'),
      top_p_min: scalar('TYPE_FP32'),
      top_p_reset_ids: scalar('TYPE_UINT32'),
    });
    const output = (type: string, dims: number[]): Tensor => ({ type, dims, reshaped: false, optional: false });
    expect(tensors(config, 'output')).toEqual({
      output_ids: output('TYPE_UINT32', [-1, -1]),
      sequence_length: output('TYPE_UINT32', [-1]),
      cum_log_probs: output('TYPE_FP32', [-1]),
      output_log_probs: output('TYPE_FP32', [-1, -1]),
    });
  });

  it('has what was asked for', async () => {
    const options = {
      modelName: 'neox-small',
      dtype: 'float32',
      computeDType: 'float16',
      maxBatchSize: 8,
      decoupled: true,
      serverPath: '/mo"de\\ls',
    } as const;
    const report = await write(options);
    const config = await configOf(report.configPath);
    expect(report.directory).toBe(join(repository(), 'neox-small'));
    expect(config).toMatchObject({
      name: ['neox-small'],
      max_batch_size: [8],
      model_transaction_policy: [{ decoupled: [true] }],
    });
    expect(parameters(config)).toMatchObject({
      data_type: 'fp16',
      model_checkpoint_path: '/mo"de\\ls/neox-small/1/1-gpu',
    });
    expect(report.checkpointPath).toBe('/mo"de\\ls/neox-small/1/1-gpu');
    expect(report.warnings.map(({ code }) => code)).toEqual(['decoupled']);
    expect(await readFile(join(report.weights.directory, 'config.ini'), 'utf8')).toContain('model_name = neox-small\n');
    expect((await openCheckpoint(report.weights.directory)).config.torchDtype).toBe('float32');
  });

  it('tells clients the tasks, also those that are added', async () => {
    const told = async (path: string): Promise<Map<string, number>> =>
      readTasks(parameters(await configOf(path))['neox_prefix_tasks'] ?? '');
    const report = await write({
      tasks: { smile: wholeNumberPrefix(checkpoint, 3), 'a,b=c': wholeNumberPrefix(checkpoint, 2) },
    });
    expect(await readFile(report.configPath, 'utf8')).toContain('string_value: "smile=0,a%2Cb%3Dc=1"');
    expect([...(await told(report.configPath))]).toEqual([
      ['smile', 0],
      ['a,b=c', 1],
    ]);
    const exporter = new FTExporter({ checkpoint });
    await exporter.addTasks(join(report.directory, '1'), { polite: wholeNumberPrefix(checkpoint, 1) });
    await exporter.addTasks(join(report.directory, '1', '1-gpu'), { last: wholeNumberPrefix(checkpoint, 1) });
    expect([...(await told(report.configPath)).keys()]).toEqual(['smile', 'a,b=c', 'polite', 'last']);
    const { configPath } = await write({ modelName: 'bare' });
    expect(await readFile(configPath, 'utf8')).not.toContain('neox_prefix_tasks');
    await exporter.addTasks(join(repository(), 'bare', '1'), { first: wholeNumberPrefix(checkpoint, 1) });
    expect([...(await told(configPath))]).toEqual([['first', 0]]);
  });

  it('of somebody else is not touched by tasks that are added', async () => {
    const { directory, configPath } = await write();
    await writeFile(configPath, 'name: "mine"\n');
    await new FTExporter({ checkpoint }).addTasks(join(directory, '1'), { a: wholeNumberPrefix(checkpoint, 1) });
    expect(await readFile(configPath, 'utf8')).toBe('name: "mine"\n');
  });

  it("computes in the files' type unless told otherwise", async () => {
    expect(parameters(await configOf((await write({ dtype: 'float32' })).configPath))['data_type']).toBe('fp32');
  });
});

describe('an existing folder', () => {
  it('is kept unless it may be replaced', async () => {
    const { directory, configPath } = await write();
    const before = await readFile(configPath);
    const error = await failure(write({ maxBatchSize: 2 }));
    expect([error.code, error.message]).toEqual([
      'NEOX_BAD_EXPORT',
      `There is a model already: ${directory}\nHint: ${error.hint ?? ''}`,
    ]);
    expect(await readFile(configPath)).toEqual(before);
    await write({ maxBatchSize: 2, tensorParallel: 2, overwrite: true });
    expect(await configOf(configPath)).toMatchObject({ max_batch_size: [2] });
    expect(await readdir(join(directory, '1'))).toEqual(['2-gpu']);
    expect(await readdir(repository())).toEqual(['fastertransformer']);
  });

  it('of something else is never replaced', async () => {
    await mkdir(join(repository(), 'fastertransformer'), { recursive: true });
    await writeFile(join(repository(), 'fastertransformer', 'notes.txt'), 'mine');
    const error = await failure(write({ overwrite: true }));
    expect([error.code, error.message]).toEqual([
      'NEOX_BAD_EXPORT',
      expect.stringContaining('Something else is there already'),
    ]);
    expect(await readdir(join(repository(), 'fastertransformer'))).toEqual(['notes.txt']);
  });

  it('of another model stays beside it', async () => {
    await write({ modelName: 'a' });
    await write({ modelName: 'b' });
    expect((await readdir(repository())).sort()).toEqual(['a', 'b']);
  });
});

describe('nothing stays behind', () => {
  it('after an error', async () => {
    const error = await failure(write({ tasks: { 'a/b': wholeNumberPrefix(checkpoint, 1) } }));
    expect(error.code).toBe('NEOX_BAD_ARGUMENT');
    expect(await readdir(folder)).toEqual(['model']);
  });

  it('after an abort', async () => {
    const controller = new AbortController();
    const stop = new Error('stop');
    const work = write({ signal: controller.signal, onProgress: () => controller.abort(stop) });
    await expect(work).rejects.toBe(stop);
    expect(await readdir(folder)).toEqual(['model']);
  });
});

it.each<[TritonOptions, string]>([
  [{ pipelineParallel: 3 }, "Expected a divisor of the model's 2 layers for pipelineParallel but received 3"],
  [{ tensorParallel: 3 }, "Expected a divisor of the model's 2 attention heads for tensorParallel but received 3"],
  [{ modelName: 'a/b' }, 'for modelName'],
  [{ modelName: '..' }, 'for modelName'],
  [{ maxBatchSize: 0 }, 'for maxBatchSize'],
  [{ decoupled: 1 as unknown as boolean }, 'for decoupled'],
  [{ computeDType: 'bfloat16' as 'float16' }, 'for computeDType'],
  [{ serverPath: '/a\nb' }, 'for serverPath'],
  [{ tensorparallel: 2 } as TritonOptions, "Unknown option 'tensorparallel' in options"],
])('%j is refused', async (options, message) => {
  const error = await failure(write(options));
  expect(error.code).toBe('NEOX_BAD_ARGUMENT');
  expect(error.message).toContain(message);
  expect(await readdir(folder)).toEqual(['model']);
});

describe('neox-prefix export triton', () => {
  it('does the same', async () => {
    const prefix = join(folder, 'smile.safetensors');
    await wholeNumberPrefix(checkpoint, 3).save(prefix);
    const { code, stdout, stderr } = await cli([
      ...[
        'export',
        'triton',
        '--model',
        checkpoint.directory,
        '--task',
        `smile=${prefix}`,
        '--out',
        repository(),
        '--server-path',
        '/models',
      ],
      ...[
        '--model-name',
        'neox',
        '--tensor-parallel',
        '2',
        '--pipeline-parallel',
        '2',
        '--compute-dtype',
        'float32',
        '--max-batch-size',
        '4',
        '--quiet',
      ],
    ]);
    expect([code, stderr]).toEqual([0, '']);
    const config = await configOf(join(repository(), 'neox', 'config.pbtxt'));
    expect(config).toMatchObject({ name: ['neox'], max_batch_size: [4] });
    const expected = {
      tensor_para_size: '2',
      pipeline_para_size: '2',
      data_type: 'fp32',
      model_checkpoint_path: '/models/neox/1/2-gpu',
    };
    expect(parameters(config)).toMatchObject(expected);
    expect(stdout).toContain('for 4 GPUs; the server reads /models/neox/1/2-gpu\n  task 0  smile  (prefix length 3)\n');
  });

  it('speaks of its own options', async () => {
    await write();
    const { code, stderr } = await cli(['export', 'triton', '--model', checkpoint.directory, '--out', repository()]);
    expect(code).toBe(1);
    expect(stderr).toContain('give --overwrite');
  });
});
