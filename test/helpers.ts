/** What the tests of models, training and processes share. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expectedShapes, resolveConfig } from '../lib/architecture/architectures';
import { writeSafetensors } from '../lib/formats/safetensors';
import { NeoXPrefixError } from '../lib/base/errors';
import type { ModelDType, ModelInfo } from '../lib/model/loaded-model';
import { NeoXModel } from '../lib/neox-model';
import type { LoadOptions } from '../lib/model/load-options';
import { native } from '../lib/addon/addon';
import { PrefixWeights } from '../lib/prefix/weights';

export type Backend = ModelInfo['backend'];

/** The backends that run a dtype here, the reference last. */
export function backendsFor(dtype: ModelDType): Backend[] {
  const { backends } = native().systemInfo();
  return (['native', 'onednn', 'aten'] as const).filter((backend) => backends[backend].includes(dtype));
}

/** Those that work on packed weights: faster, and with a result for each row that depends on that row alone. */
export function packedBackendsFor(dtype: ModelDType): Backend[] {
  return backendsFor(dtype).filter((backend) => backend !== 'aten');
}

/** Numbers that are the same in every run: mulberry32 (Tommy Ettinger). */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** In [low, high]. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.integer(0, list.length - 1)] as T;
  }

  /**
   * Uniform with a standard deviation and a mean; what is long repeats itself, at a distance that is no size of a
   * matrix.
   */
  fill(count: number, deviation: number, mean = 0): Float32Array {
    const width = deviation * Math.sqrt(12);
    const values = new Float32Array(count);
    const drawn = Math.min(count, 65_537);
    for (let i = 0; i < drawn; i++) values[i] = mean + width * (this.next() - 0.5);
    for (let i = drawn; i < count; i += drawn) values.copyWithin(i, 0, Math.min(drawn, count - i));
    return values;
  }

  ids(count: number, vocabSize: number): number[] {
    return Array.from({ length: count }, () => this.integer(0, vocabSize - 1));
  }
}

/** A folder that is there for the tests of one file. */
export function temporaryFolder(): { path: string; join: (...parts: string[]) => string } {
  const path = mkdtempSync(join(tmpdir(), 'neox-prefix-'));
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return { path, join: (...parts) => join(path, ...parts) };
}

/** Keys of a config.json; what is not given is that of a tiny sequential model. */
export type ConfigJson = Readonly<Record<string, unknown>>;

export const TINY_CONFIG = {
  model_type: 'gpt_neox',
  vocab_size: 64,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 48,
  hidden_act: 'gelu',
  rotary_pct: 0.5,
  use_parallel_residual: false,
  max_position_embeddings: 256,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

/**
 * Writes a checkpoint of random weights that spread attention and leave nothing at its neutral value. Returns the
 * folder.
 */
export async function writeRandomModel(
  folder: string,
  changes: ConfigJson = {},
  seed = 1,
  dtype: 'F32' | 'BF16' = 'F32',
): Promise<string> {
  const json = { ...TINY_CONFIG, ...changes };
  const { config } = resolveConfig(json, 'config.json');
  const random = new Random(seed);
  const deviation = config.hiddenSize ** -0.5;
  const tensors = [...expectedShapes(config)].map(([name, shape]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const values = name.includes('norm')
      ? random.fill(count, 0.2, name.endsWith('weight') ? 1 : 0)
      : name.endsWith('bias')
        ? random.fill(count, 0.2)
        : random.fill(
            count,
            name.includes('embed_in')
              ? config.tieWordEmbeddings
                ? 2.2 * deviation
                : 1
              : (name.includes('embed_out') ? 2.2 : 1.2) * deviation,
          );
    return { name, dtype, shape, data: dtype === 'F32' ? values : upperHalves(values) };
  });
  await writeFile(join(folder, 'config.json'), JSON.stringify(json));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, {});
  return folder;
}

/** The values as bfloat16, cut off. */
function upperHalves(values: Float32Array): Uint16Array {
  const halves = new Uint16Array(values.buffer);
  const upper = new Uint16Array(values.length);
  for (let i = 0; i < upper.length; i++) upper[i] = halves[2 * i + 1] as number;
  return upper;
}

/** The base model that comes with the repository: 2,048 tokens, with a tokenizer. */
export const EXAMPLE_MODEL = join(__dirname, '..', 'examples', 'models', 'tiny-ja-neox');

/** Logits, nearly normal: those of scripts/golden/generation.py. */
export function drawLogits(seed: number, vocabulary: number, deviation: number): Float32Array {
  const random = new Random(seed);
  const next = (): number => random.next() + random.next() + random.next() + random.next() - 2;
  return Float32Array.from({ length: vocabulary }, () => deviation * 3 ** 0.5 * next());
}

/** One compute thread, and the given dtype, unless told otherwise. */
export function loadModel(folder: string, options: LoadOptions = {}): Promise<NeoXModel> {
  return NeoXModel.load(folder, { threads: 1, ...options });
}

export function randomPrefix(model: NeoXModel, prefixLength: number, seed = 1): PrefixWeights {
  const { numLayers, numHeads, headSize } = model.config;
  const data = new Random(seed).fill(prefixLength * numLayers * 2 * numHeads * headSize, 1);
  return PrefixWeights.fromTensor(data, { prefixLength, numLayers, numHeads, headSize });
}

/** The error that a promise rejects with, or that a function throws; it is a failure when there is none. */
export async function failureOf(action: Promise<unknown> | (() => unknown)): Promise<unknown> {
  try {
    await (typeof action === 'function' ? action() : action);
  } catch (error) {
    return error;
  }
  throw new Error('Expected an error, and there was none');
}

/** What an untyped program may pass. */
export const wrong = (value: unknown): never => value as never;

/** A call that is refused. */
export interface Refusal {
  name: string;
  act: () => unknown;
  /** Defaults to NEOX_BAD_ARGUMENT. */
  code?: string;
  /** The whole text, hint included, or a pattern of it. */
  text: string | RegExp | (() => string);
}

export async function expectRefusal({ act, code = 'NEOX_BAD_ARGUMENT', text }: Refusal): Promise<void> {
  const error = await failureOf(act);
  expect(error).toBeInstanceOf(NeoXPrefixError);
  const { code: actual, message } = error as NeoXPrefixError;
  const expected =
    text instanceof RegExp ? (expect.stringMatching(text) as string) : typeof text === 'string' ? text : text();
  expect({ code: actual, text: message }).toEqual({ code, text: expected });
}

/** How the event loop fared while an operation ran. */
export interface Liveness<T> {
  result: T;
  milliseconds: number;
  /** Timers that fired meanwhile. */
  turns: number;
  /** Longest time between two of them, the start and the end counted as such. */
  longestGap: number;
}

/** Runs an operation beside a timer that wants a turn every two milliseconds. */
export async function watchEventLoop<T>(operation: () => Promise<T>): Promise<Liveness<T>> {
  const started = performance.now();
  let last = started;
  let turns = 0;
  let longestGap = 0;
  const tick = (): void => {
    const now = performance.now();
    longestGap = Math.max(longestGap, now - last);
    last = now;
  };
  const timer = setInterval(() => {
    turns++;
    tick();
  }, 2);
  try {
    const result = await operation();
    tick();
    return { result, milliseconds: performance.now() - started, turns, longestGap };
  } finally {
    clearInterval(timer);
  }
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  milliseconds: number;
}

/** What a trainer of the addon is created with, as rinna's recipe has it. */
export const NATIVE_TRAINER = {
  beta1: 0.9,
  beta2: 0.99,
  epsilon: 1e-8,
  weightDecay: 0.01,
  decay: 'weights',
  checkpointing: false,
  copyWeights: true,
} as const;

/** Runs a TypeScript program of test/exit/programs in a process of its own. */
export function runProgram(name: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const program = [join(__dirname, 'exit', 'programs', `${name}.ts`), ...args];
  const started = performance.now();
  const child = spawn(process.execPath, ['-r', join(__dirname, 'typescript.cjs'), ...program], {
    env: { ...process.env, ...env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code, signal, stdout, stderr, milliseconds: performance.now() - started }),
    );
  });
}
