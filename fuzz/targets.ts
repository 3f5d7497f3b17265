import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Checkpoint } from '../lib/checkpoint/checkpoint';
import { openCheckpoint } from '../lib/checkpoint/open';
import { readSafetensorsHeader } from '../lib/formats/safetensors';
import { DTYPE_BYTES, type TensorEntry, type TensorPiece } from '../lib/formats/tensor';
import { readStateDict } from '../lib/formats/torch-file';
import { FLOAT_DTYPES, readTensor } from '../lib/formats/values';
import { isNeoXPrefixError, type NeoXPrefixError } from '../lib/base/errors';
import { NeoXModel } from '../lib/neox-model';
import { PrefixWeights } from '../lib/prefix/weights';
import { Tokenizer } from '../lib/tokenizer/tokenizer';

const FIXTURES = join(__dirname, '..', 'test', 'fixtures');

/** Files by their path in the folder that is opened. */
export type Files = Readonly<Record<string, Buffer>>;

export const FORMATS = ['safetensors', 'torch', 'spiece', 'tokenizer', 'config', 'adapter', 'ini'] as const;
export type Format = (typeof FORMATS)[number];

/** What a user does with files of one format, and good files to start from. */
export interface Target {
  readonly format: Format;
  /** Names of the files that are tampered with, in the folder. */
  readonly names: readonly string[];
  /** Folders that can be opened; each holds at least one of `names`. */
  readonly seeds: () => Files[];
  /**
   * Ways to open a folder, and to use all of it that is accepted. An error that is not a NeoXPrefixError is a fault of
   * the library.
   * @param deep also hands what was accepted to native code
   */
  readonly steps: (folder: string, deep: boolean) => readonly (() => Promise<unknown>)[];
}

function fixture(...parts: string[]): Buffer {
  return readFileSync(join(FIXTURES, ...parts));
}

const inFiles = (name: string): Buffer => fixture('files', name);

/** Breaks the promise of the reader: not an error of the library's own class, so it counts as a crash. */
class BrokenPromise extends Error {}

function checkPlace(piece: TensorPiece, width: number): void {
  const { size } = statSync(piece.file);
  const numbers = [piece.offset, piece.byteLength, ...piece.shape, ...(piece.stride ?? [])];
  const span = piece.shape.includes(0)
    ? 0
    : piece.shape.reduce((sum, n, d) => sum + (n - 1) * (strideOf(piece)[d] as number), 1);
  const isInside = piece.offset + piece.byteLength <= size && span * width <= piece.byteLength;
  if (!numbers.every((n) => Number.isSafeInteger(n) && n >= 0) || !isInside) {
    throw new BrokenPromise(`a tensor outside of its file of ${size} bytes: ${JSON.stringify(piece)}`);
  }
}

function strideOf({ shape, stride }: TensorPiece): readonly number[] {
  if (stride !== undefined) return stride;
  const plain = shape.map(() => 1);
  for (let d = shape.length - 2; d >= 0; d--) plain[d] = (plain[d + 1] as number) * (shape[d + 1] as number);
  return plain;
}

async function checkTensors(tensors: Iterable<TensorEntry>): Promise<void> {
  for (const entry of tensors) {
    for (const piece of entry.join?.pieces ?? [entry]) checkPlace(piece, DTYPE_BYTES[entry.dtype]);
    if (!FLOAT_DTYPES.includes(entry.dtype)) continue;
    const count = entry.shape.reduce((product, n) => product * n, 1);
    const values = await readTensor(entry);
    if (values.length !== count) throw new BrokenPromise(`${values.length} values of a tensor of ${count}`);
  }
}

async function useCheckpoint(folder: string, deep: boolean): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(folder);
  await checkTensors(checkpoint.tensors.values());
  if (deep) {
    await using model = await NeoXModel.load(folder, { threads: 1, backend: 'aten' });
    await model.forward({ inputIds: [[1, 0]], logits: 'last' });
  }
  return checkpoint;
}

export interface Answer {
  /** How many ways of opening succeeded. */
  readonly accepted: number;
  /** The first of the errors that others ended in. */
  readonly refusal: NeoXPrefixError | undefined;
}

/** Opens a folder in all ways of its format. What it throws is a fault of the library. */
export async function openFolder(target: Target, folder: string, deep: boolean): Promise<Answer> {
  let refusal: NeoXPrefixError | undefined;
  let accepted = 0;
  for (const step of target.steps(folder, deep)) {
    try {
      await step();
      accepted++;
    } catch (error) {
      if (!isNeoXPrefixError(error)) throw error;
      refusal ??= error;
    }
  }
  return { accepted, refusal };
}

/**
 * Full-width and half-width forms, a composed kana, a run that invites quadratic work, emoji, a lone surrogate, NUL.
 */
const SAMPLE = `今日は、ＡＢＣ　ｶﾞ ガ ${'a'.repeat(500)} 😃👨‍👩‍👧\ud800\0\n<s></s><unk>[UNK]<|endoftext|>`;

async function useTokenizer(folder: string): Promise<void> {
  const tokenizer = await Tokenizer.load(folder);
  for (const addSpecialTokens of [false, true]) {
    const ids = tokenizer.encode(SAMPLE, { addSpecialTokens });
    for (const id of ids)
      if (id < 0 || id >= tokenizer.vocabSize) throw new BrokenPromise(`id ${id} of ${tokenizer.vocabSize}`);
    tokenizer.decode(ids);
  }
  const decoder = tokenizer.createDecoder({ skipSpecialTokens: true });
  for (let id = 0; id < Math.min(tokenizer.vocabSize, 300); id++) decoder.push(id);
  decoder.end();
  tokenizer.encode('');
  tokenizer.tokenToId('</s>');
}

function checkpointSeed(name: string, weights: string): Files {
  return { 'config.json': inFiles(join(name, 'config.json')), [weights]: inFiles(join(name, weights)) };
}

/** A sequential model of one layer for one GPU, and a task. */
function fastertransformerSeed(): Files {
  const sizes: Readonly<Record<string, number>> = {
    wte: 20,
    'lm_head.weight': 20,
    'final_layernorm.weight': 2,
    'final_layernorm.bias': 2,
    'layers.0.input_layernorm.weight': 2,
    'layers.0.input_layernorm.bias': 2,
    'layers.0.post_attention_layernorm.weight': 2,
    'layers.0.post_attention_layernorm.bias': 2,
    'layers.0.attention.query_key_value.weight.0': 12,
    'layers.0.attention.query_key_value.bias.0': 6,
    'layers.0.attention.dense.weight.0': 4,
    'layers.0.attention.dense.bias': 2,
    'layers.0.mlp.dense_h_to_4h.weight.0': 6,
    'layers.0.mlp.dense_h_to_4h.bias.0': 3,
    'layers.0.mlp.dense_4h_to_h.weight.0': 6,
    'layers.0.mlp.dense_4h_to_h.bias': 2,
    'prefix_prompt.smile.weight.0': 12,
  };
  const ini = [
    ...[
      '[gptneox]',
      'model_name = tiny',
      'head_num = 1',
      'size_per_head = 2',
      'inter_size = 3',
      'num_layer = 1',
      'rotary_embedding = 2',
    ],
    ...[
      'vocab_size = 10',
      'start_id = 1',
      'end_id = 2',
      'use_gptj_residual = 0',
      'weight_data_type = fp32',
      'num_tasks = 1',
    ],
    ...['prompt_learning_type = 2', '', '[task_0]', 'task_name = smile', 'prompt_length = 3', ''],
  ];
  const weights = Object.entries(sizes).map(([name, count]) => [
    `1-gpu/model.${name}.bin`,
    Buffer.alloc(4 * count, 0x3c),
  ]);
  return { '1-gpu/config.ini': Buffer.from(ini.join('\n')), ...(Object.fromEntries(weights) as Files) };
}

export const TARGETS: Readonly<Record<Format, Target>> = {
  safetensors: {
    format: 'safetensors',
    names: ['model.safetensors', 'model.safetensors.index.json'],
    seeds: () => [
      checkpointSeed('checkpoint', 'model.safetensors'),
      { 'config.json': inFiles('checkpoint/config.json'), 'model.safetensors': inFiles('mixed.safetensors') },
      {
        'config.json': inFiles('checkpoint/config.json'),
        'model.safetensors': inFiles('peft/adapter_model.safetensors'),
      },
      {
        ...checkpointSeed('checkpoint-sharded', 'model.safetensors.index.json'),
        'model-00001-of-00002.safetensors': inFiles('checkpoint-sharded/model-00001-of-00002.safetensors'),
        'model-00002-of-00002.safetensors': inFiles('checkpoint-sharded/model-00002-of-00002.safetensors'),
      },
    ],
    steps: (folder, deep) => {
      const path = join(folder, 'model.safetensors');
      const direct = async (): Promise<void> => checkTensors((await readSafetensorsHeader(path)).tensors.values());
      const hints = { numLayers: 2, numHeads: 2 };
      return [
        () => useCheckpoint(folder, deep),
        ...(hasFile(path) ? [direct, () => PrefixWeights.load(path, hints)] : []),
      ];
    },
  },
  torch: {
    format: 'torch',
    names: ['pytorch_model.bin'],
    seeds: () => {
      const files = ['dtypes', 'views', 'wrapped', 'state_dict', 'parameter', 'integers'].flatMap((name) => [
        `${name}.bin`,
        `${name}.legacy.bin`,
      ]);
      const others = [
        'prefix.checkpoint',
        'prefix.4d.checkpoint',
        'prefix.half.checkpoint',
        'prefix.legacy.weight',
        'peft-bin/adapter_model.bin',
      ];
      const config = inFiles('checkpoint/config.json');
      return [
        checkpointSeed('checkpoint-pickled', 'pytorch_model.bin'),
        checkpointSeed('checkpoint-old-rinna', 'pytorch_model.bin'),
        ...[...files, ...others].map((name) => ({ 'config.json': config, 'pytorch_model.bin': inFiles(name) })),
      ];
    },
    steps: (folder, deep) => {
      const path = join(folder, 'pytorch_model.bin');
      const direct = async (): Promise<void> => checkTensors((await readStateDict(path)).values());
      return [() => useCheckpoint(folder, deep), direct, () => PrefixWeights.load(path, { numLayers: 2, numHeads: 2 })];
    },
  },
  spiece: {
    format: 'spiece',
    names: ['spiece.model'],
    seeds: () =>
      ['dummy-prefix', 'byte-fallback'].map((name) => ({ 'spiece.model': fixture('tokenizer', name, 'spiece.model') })),
    steps: (folder) => [() => useTokenizer(folder)],
  },
  tokenizer: {
    format: 'tokenizer',
    names: ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'],
    seeds: () => {
      const small = fixture('tokenizer', 'byte-level', 'tokenizer.json');
      const spiece = fixture('tokenizer', 'dummy-prefix', 'spiece.model');
      const config = fixture('tokenizer', 'dummy-prefix', 'tokenizer_config.json');
      return [
        {
          'tokenizer.json': small,
          'tokenizer_config.json': fixture('tokenizer', 'byte-level', 'tokenizer_config.json'),
        },
        {
          'spiece.model': spiece,
          'tokenizer_config.json': config,
          'special_tokens_map.json': Buffer.from(
            '{"eos_token":"</s>","pad_token":{"content":"[PAD]","lstrip":true,"rstrip":false}}',
          ),
          'added_tokens.json': Buffer.from('{"<extra>":600,"[PAD]":601}'),
        },
      ];
    },
    steps: (folder) => [() => useTokenizer(folder)],
  },
  config: {
    format: 'config',
    names: ['config.json'],
    seeds: () => [
      checkpointSeed('checkpoint', 'model.safetensors'),
      checkpointSeed('checkpoint-old-rinna', 'pytorch_model.bin'),
      {
        ...checkpointSeed('checkpoint', 'model.safetensors'),
        'config.json': fixture('golden', 'rope-dynamic', 'config.json'),
      },
      {
        ...checkpointSeed('checkpoint', 'model.safetensors'),
        'config.json': fixture('golden', 'old-config', 'config.json'),
      },
    ],
    steps: (folder, deep) => [() => useCheckpoint(folder, deep)],
  },
  adapter: {
    format: 'adapter',
    names: ['adapter_config.json', 'adapter_model.safetensors'],
    seeds: () => [
      {
        'adapter_config.json': inFiles('peft/adapter_config.json'),
        'adapter_model.safetensors': inFiles('peft/adapter_model.safetensors'),
      },
      {
        'adapter_config.json': inFiles('peft-bin/adapter_config.json'),
        'adapter_model.bin': inFiles('peft-bin/adapter_model.bin'),
      },
    ],
    steps: (folder) => [() => usePrefix(folder)],
  },
  ini: {
    format: 'ini',
    names: ['1-gpu/config.ini'],
    seeds: () => [fastertransformerSeed()],
    steps: (folder, deep) => [
      () => useCheckpoint(folder, deep),
      () => usePrefix(folder),
      () => PrefixWeights.load(folder, { task: 0 }),
    ],
  },
};

async function usePrefix(folder: string): Promise<void> {
  const prefix = await PrefixWeights.load(folder);
  const count = prefix.shape.reduce((product, n) => product * n, 1);
  if (prefix.data.length !== count) throw new BrokenPromise(`${prefix.data.length} values of a prefix of ${count}`);
  prefix.statistics();
}

function hasFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

/** Writes files into a folder, which must exist. */
export function writeFiles(folder: string, files: Files): void {
  for (const [name, bytes] of Object.entries(files)) {
    const at = name.lastIndexOf('/');
    if (at > 0) mkdirSync(join(folder, name.slice(0, at)), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
}
