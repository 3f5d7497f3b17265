// Writes a GPT-NeoX checkpoint as GGUF (version 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), so that
// llama.cpp can run the same weights. The vocabulary is made up: what is measured goes by token ids.
//
//   node scripts/run-typescript.mjs bench/gguf.mts MODEL_FOLDER OUT.gguf F16|BF16|Q8_0
import { existsSync } from 'node:fs';
import { open, readFile, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bytesOf, fromBFloat16, toBFloat16, toFloat16 } from './numbers.mts';
import type { ShapeConfig } from './shapes.mts';

export const GGUF_TYPES = ['F16', 'BF16', 'Q8_0'] as const;
export type GgufType = (typeof GGUF_TYPES)[number];

/** ggml_type and llama_ftype. */
const TENSOR_TYPE = { F32: 0, F16: 1, Q8_0: 8, BF16: 30 } as const;
const FILE_TYPE = { F16: 1, Q8_0: 7, BF16: 32 } as const;
const ALIGNMENT = 32;
/** Values that share a scale in Q8_0. */
const BLOCK = 32;
const CHUNK = 1 << 20; // elements, about

const LAYER_NAMES: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'attention.query_key_value': 'attn_qkv',
  'attention.dense': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.dense_h_to_4h': 'ffn_up',
  'mlp.dense_4h_to_h': 'ffn_down',
};
const OTHER_NAMES: Readonly<Record<string, string>> = {
  'gpt_neox.embed_in.weight': 'token_embd.weight',
  'gpt_neox.final_layer_norm.weight': 'output_norm.weight',
  'gpt_neox.final_layer_norm.bias': 'output_norm.bias',
  'embed_out.weight': 'output.weight',
};

interface Tensor {
  name: string;
  type: keyof typeof TENSOR_TYPE;
  shape: readonly number[];
  bytes: number;
  sourceType: 'F32' | 'BF16';
  /**
   * Where its values stand in the checkpoint: first element and number of elements, in the order in which they are
   * written.
   */
  pieces: readonly (readonly [first: number, count: number])[];
  /** Of the tensor's data in the checkpoint's file. */
  offset: number;
}

/** The file beside a checkpoint. */
export function ggufPath(model: string, type: GgufType): string {
  return join(model, `model.${type}.gguf`);
}

/** The file beside a checkpoint, which is written where it is not there yet. */
export async function provideGguf(model: string, type: GgufType): Promise<string> {
  const path = ggufPath(model, type);
  if (!existsSync(path)) await writeGguf(model, path, type);
  return path;
}

export async function writeGguf(model: string, path: string, type: GgufType): Promise<void> {
  const config = JSON.parse(await readFile(join(model, 'config.json'), 'utf8')) as ShapeConfig & {
    max_position_embeddings: number;
    layer_norm_eps: number;
    rotary_emb_base: number;
  };
  const source = await open(join(model, 'model.safetensors'));
  const unfinished = `${path}.${process.pid}`;
  const out = await open(unfinished, 'wx');
  try {
    const tensors = await listTensors(source, config, type);
    const header = new Header(tensors.length);
    const heads = config.num_attention_heads;
    header.text('general.architecture', 'gptneox');
    header.uint32('general.alignment', ALIGNMENT);
    header.uint32('general.file_type', FILE_TYPE[type]);
    header.uint32('gptneox.context_length', config.max_position_embeddings);
    header.uint32('gptneox.embedding_length', config.hidden_size);
    header.uint32('gptneox.block_count', config.num_hidden_layers);
    header.uint32('gptneox.feed_forward_length', config.intermediate_size);
    header.uint32('gptneox.attention.head_count', heads);
    header.uint32('gptneox.rope.dimension_count', Math.floor((config.hidden_size / heads) * config.rotary_pct));
    header.float32('gptneox.rope.freq_base', config.rotary_emb_base);
    header.float32('gptneox.attention.layer_norm_epsilon', config.layer_norm_eps);
    header.boolean('gptneox.use_parallel_residual', config.use_parallel_residual);
    header.text('tokenizer.ggml.model', 'gpt2');
    header.text('tokenizer.ggml.pre', 'default');
    header.texts(
      'tokenizer.ggml.tokens',
      Array.from({ length: config.vocab_size }, (_, id) => `t${id}`),
    );
    header.texts('tokenizer.ggml.merges', ['t 0']);
    header.uint32('tokenizer.ggml.bos_token_id', config.bos_token_id);
    header.uint32('tokenizer.ggml.eos_token_id', config.eos_token_id);
    header.boolean('tokenizer.ggml.add_bos_token', false);
    let position = 0;
    for (const tensor of tensors) {
      header.tensor(tensor, position);
      position += pad(tensor.bytes);
    }
    await out.writeFile(header.finish());
    for (const tensor of tensors) {
      for await (const values of readValues(source, tensor)) await out.writeFile(encode(values, tensor.type));
      await out.writeFile(new Uint8Array(pad(tensor.bytes) - tensor.bytes));
    }
    await rename(unfinished, path);
  } finally {
    await Promise.all([source.close(), out.close()]);
    await rm(unfinished, { force: true });
  }
}

function pad(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

async function listTensors(source: FileHandle, config: ShapeConfig, type: GgufType): Promise<Tensor[]> {
  const length = Number((await readExactly(source, 0, 8)).readBigUInt64LE(0));
  const header = JSON.parse((await readExactly(source, 8, length)).toString()) as Record<
    string,
    { dtype: 'F32' | 'BF16'; shape: number[]; data_offsets: [number, number] }
  >;
  return Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, { dtype, shape, data_offsets: offsets }]) => {
      const count = shape.reduce((product, size) => product * size, 1);
      // llama.cpp wants norms and biases in float32.
      const tensorType = shape.length === 1 ? 'F32' : type;
      return {
        name: ggufName(name),
        type: tensorType,
        shape,
        bytes: (count / BLOCK) * { F32: 128, F16: 64, BF16: 64, Q8_0: 34 }[tensorType],
        sourceType: dtype,
        pieces: name.includes('query_key_value')
          ? queryKeyValuePieces(count, config.num_attention_heads)
          : [[0, count]],
        offset: 8 + length + offsets[0],
      };
    });
}

function ggufName(name: string): string {
  const layer = /^gpt_neox\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  const known = layer === null ? OTHER_NAMES[name] : LAYER_NAMES[layer[2] ?? ''];
  if (known === undefined) throw new Error(`No name in GGUF for ${name}`);
  return layer === null ? known : `blk.${layer[1] ?? ''}.${known}.${layer[3] ?? ''}`;
}

/** The rows of the fused projection are [N, 3, D] in a checkpoint and [3, N, D] in GGUF. */
function queryKeyValuePieces(count: number, heads: number): [number, number][] {
  const size = count / (3 * heads);
  return [0, 1, 2].flatMap((part) =>
    Array.from({ length: heads }, (_, head): [number, number] => [(head * 3 + part) * size, size]),
  );
}

async function* readValues(source: FileHandle, { sourceType, pieces, offset }: Tensor): AsyncGenerator<Float32Array> {
  const bytes = sourceType === 'F32' ? 4 : 2;
  for (const [first, count] of pieces) {
    for (let done = 0; done < count; done += CHUNK) {
      const data = await readExactly(source, offset + (first + done) * bytes, Math.min(CHUNK, count - done) * bytes);
      yield sourceType === 'F32'
        ? new Float32Array(data.buffer, data.byteOffset, data.length / 4)
        : fromBFloat16(new Uint16Array(data.buffer, data.byteOffset, data.length / 2));
    }
  }
}

async function readExactly(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.from(new ArrayBuffer(length));
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) throw new Error('The checkpoint is shorter than its header says');
    done += bytesRead;
  }
  return buffer;
}

function encode(values: Float32Array, type: keyof typeof TENSOR_TYPE): Uint8Array {
  switch (type) {
    case 'F32':
      return bytesOf(values);
    case 'F16':
      return bytesOf(Uint16Array.from(values, toFloat16));
    case 'BF16':
      return bytesOf(toBFloat16(values));
    case 'Q8_0':
      return quantize(values);
  }
}

/** Blocks of 32 values: a float16 scale, then 32 signed bytes (ggml's quantize_row_q8_0_ref). */
function quantize(values: Float32Array): Uint8Array {
  const out = new DataView(new ArrayBuffer((values.length / BLOCK) * (BLOCK + 2)));
  for (let block = 0, to = 0; block < values.length; block += BLOCK, to += BLOCK + 2) {
    let largest = 0;
    for (let i = block; i < block + BLOCK; i++) largest = Math.max(largest, Math.abs(values[i] as number));
    const inverse = largest === 0 ? 0 : 127 / largest;
    out.setUint16(to, toFloat16(largest / 127), true);
    for (let i = 0; i < BLOCK; i++) out.setInt8(to + 2 + i, Math.round((values[block + i] as number) * inverse));
  }
  return new Uint8Array(out.buffer);
}

/** gguf_metadata_value_type */
const VALUE = { uint32: 4, float32: 6, boolean: 7, text: 8, array: 9 } as const;

class Header {
  private readonly parts: Buffer[] = [];
  private entries = 0;

  constructor(private readonly tensors: number) {}

  uint32(key: string, value: number): void {
    this.key(key, VALUE.uint32);
    this.push32(value);
  }

  float32(key: string, value: number): void {
    this.key(key, VALUE.float32);
    const bytes = Buffer.alloc(4);
    bytes.writeFloatLE(value);
    this.parts.push(bytes);
  }

  boolean(key: string, value: boolean): void {
    this.key(key, VALUE.boolean);
    this.parts.push(Buffer.of(value ? 1 : 0));
  }

  text(key: string, value: string): void {
    this.key(key, VALUE.text);
    this.pushText(value);
  }

  texts(key: string, values: readonly string[]): void {
    this.key(key, VALUE.array);
    this.push32(VALUE.text);
    this.push64(values.length);
    for (const value of values) this.pushText(value);
  }

  /** Behind all metadata. */
  tensor({ name, type, shape }: Tensor, position: number): void {
    this.pushText(name);
    this.push32(shape.length);
    for (const size of [...shape].reverse()) this.push64(size);
    this.push32(TENSOR_TYPE[type]);
    this.push64(position);
  }

  finish(): Buffer {
    const start = Buffer.alloc(24);
    start.write('GGUF');
    start.writeUInt32LE(3, 4);
    start.writeBigUInt64LE(BigInt(this.tensors), 8);
    start.writeBigUInt64LE(BigInt(this.entries), 16);
    const all = Buffer.concat([start, ...this.parts]);
    return Buffer.concat([all], pad(all.length));
  }

  private key(key: string, type: number): void {
    this.entries++;
    this.pushText(key);
    this.push32(type);
  }

  private pushText(text: string): void {
    const bytes = Buffer.from(text);
    this.push64(bytes.length);
    this.parts.push(bytes);
  }

  private push32(value: number): void {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    this.parts.push(bytes);
  }

  private push64(value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    this.parts.push(bytes);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [model, path, type] = process.argv.slice(2);
  const known = GGUF_TYPES.find((name) => name === type);
  if (model === undefined || path === undefined || known === undefined) {
    throw new Error(`Usage: gguf.mts MODEL_FOLDER OUT.gguf ${GGUF_TYPES.join('|')}`);
  }
  await writeGguf(model, path, known);
}
