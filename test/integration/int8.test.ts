/**
 * A base model in int8: how near it is to float32, that it trains with the numbers that it computes with, and what it
 * refuses.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/formats/safetensors';
import { GenerationEngine } from '../../lib/engine/engine';
import { FTExporter } from '../../lib/export/exporter';
import type { LoadOptions } from '../../lib/model/load-options';
import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder } from '../../lib/training/encoder';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { evaluate } from '../../lib/training/evaluate';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import {
  difference,
  GOLDEN_KINDS,
  goldenModelNames,
  goldenPrefix,
  loadGoldenModel,
  relativeDifference,
} from '../golden/fixtures';
import {
  EXAMPLE_MODEL,
  expectRefusal,
  loadModel,
  NATIVE_TRAINER,
  Random,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
} from '../helpers';
import { INT8_PERPLEXITY, INT8_ROWS, TOLERANCES } from '../tolerances';
import { cli } from '../unit/cli/cli-helpers';

const folder = temporaryFolder();
const DATA = join(__dirname, '..', '..', 'examples', 'data', 'diary.jsonl');

/**
 * A copy of a random model whose matrices are integers times a power of two for each output: int8 holds them without
 * loss.
 */
async function writeExactModel(name: string, changes: Record<string, unknown> = {}): Promise<string> {
  const path = folder.join(name);
  mkdirSync(path);
  await writeRandomModel(path, {
    hidden_size: 57,
    num_attention_heads: 3,
    intermediate_size: 150,
    vocab_size: 131,
    ...changes,
  });
  const file = join(path, 'model.safetensors');
  const bytes = readFileSync(file);
  for (const [tensor, { shape, offset }] of (await readSafetensorsHeader(file)).tensors) {
    const [rows = 0, columns = 0] = shape;
    if (shape.length !== 2 || tensor.includes('embed_in')) continue;
    for (let row = 0; row < rows; row++) {
      const values = Array.from({ length: columns }, (_, i) => bytes.readFloatLE(offset + 4 * (row * columns + i)));
      const largest = Math.max(...values.map(Math.abs));
      const scale = 2 ** Math.ceil(Math.log2(largest / 127));
      const integers = values.map((value) => Math.round(value / scale));
      // The scale is that of the largest weight.
      integers[values.findIndex((value) => Math.abs(value) === largest)] = 127;
      integers.forEach((value, i) => bytes.writeFloatLE(value * scale, offset + 4 * (row * columns + i)));
    }
  }
  writeFileSync(file, bytes);
  return path;
}

const exactPaths: Record<string, string> = {};
beforeAll(async () => {
  exactPaths.sequential = await writeExactModel('sequential');
  exactPaths.parallel = await writeExactModel('parallel', {
    use_parallel_residual: true,
    hidden_act: 'gelu_new',
    tie_word_embeddings: false,
  });
});

/** Logits, loss and the gradients of an encoder over rows that are few and many. */
async function compute(
  path: string,
  options: LoadOptions,
): Promise<{ logits: Float32Array; loss: number; gradients: Record<string, Float32Array> }> {
  await using model = await loadModel(path, options);
  const random = new Random(3);
  const rows = [5, 230, 1].map((length) => random.ids(length, model.config.vocabSize));
  const encoder = await PrefixEncoder.create(model, { prefixLength: 7, init: 'random' });
  const { logits } = await model.forward({ inputIds: rows, pastKeyValues: await encoder.prefix() });
  const addon = native();
  const settings = { ...NATIVE_TRAINER, weightDecay: 0 };
  const trainer = await addon.createTrainer(model.native, encoder.native, settings);
  const tokens = Int32Array.from(rows.flat());
  const lengths = Int32Array.from(rows, (row) => row.length);
  const { loss } = await addon.trainerAccumulate(model.native, trainer, {
    tokens,
    targets: tokens.toReversed(),
    lengths,
    lossScale: 1,
  });
  const gradients = (await addon.trainerGradients(model.native, trainer, encoder.native)) as unknown as Record<
    string,
    Float32Array
  >;
  return { logits: logits?.data ?? new Float32Array(), loss: loss / tokens.length, gradients };
}

describe.each(['sequential', 'parallel'])('weights that int8 holds without loss: %s', (name) => {
  // 'forward' has no packed copy for the way back.
  test.each(['auto', 'forward', 'both'] as const)(
    'logits, loss and gradients are those of float32 but for the rounding of rows, pack %s',
    async (pack) => {
      const path = exactPaths[name] as string;
      await using model = await loadModel(path, { dtype: 'int8', pack });
      const { computeDtype } = model.info();
      const tolerance = computeDtype === 'float32' ? INT8_ROWS : TOLERANCES.bfloat16;
      const [actual, expected] = [
        await compute(path, { dtype: 'int8', pack }),
        await compute(path, { dtype: 'float32', backend: 'aten' }),
      ];
      const { max, mean } = difference(actual.logits, expected.logits);
      expect(max).toBeLessThanOrEqual(tolerance.logits);
      expect(mean).toBeLessThanOrEqual(tolerance.logitsMean);
      expect(Math.abs(actual.loss - expected.loss)).toBeLessThanOrEqual(tolerance.loss);
      expect(Object.keys(actual.gradients).length).toBeGreaterThan(3);
      for (const [key, gradient] of Object.entries(expected.gradients)) {
        expect(relativeDifference(actual.gradients[key] as Float32Array, gradient)).toBeLessThanOrEqual(
          tolerance.gradientRelative,
        );
      }
    },
  );
});

describe.each(goldenModelNames())('the golden model %s', (name) => {
  const golden = loadGoldenModel(name);
  test.each(GOLDEN_KINDS)('logits are near those of float32: %s', async (kind) => {
    await using model = await loadModel(golden.directory, { dtype: 'int8' });
    const { rows } = golden.reference;
    const { logits } = await model.forward({
      inputIds: rows,
      ...(kind === 'prefix' ? { pastKeyValues: goldenPrefix(model, golden) } : {}),
    });
    const width = Math.max(...rows.map((row) => row.length)) * model.config.vocabSize;
    rows.forEach((row, i) => {
      const actual = logits?.data.slice(i * width, i * width + row.length * model.config.vocabSize) ?? [];
      const { max, mean } = difference(actual, golden.logits('float32', kind, i).data);
      expect(max).toBeLessThanOrEqual(TOLERANCES.int8.logits);
      expect(mean).toBeLessThanOrEqual(TOLERANCES.int8.logitsMean);
      // It is another model than the float32 one.
      expect(max).toBeGreaterThan(1e-5);
    });
  });
});

describe('the demonstration model', () => {
  let float32: NeoXModel;
  let int8: NeoXModel;
  let prefix: PrefixWeights;
  let texts: string[];

  beforeAll(async () => {
    [float32, int8] = [
      await loadModel(EXAMPLE_MODEL, { dtype: 'float32' }),
      await loadModel(EXAMPLE_MODEL, { dtype: 'int8' }),
    ];
    const lines = readFileSync(DATA, 'utf8')
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { text: string }).text);
    texts = lines.slice(100, 180);
    const samples = lines.slice(0, 32).map((completion) => ({ completion }));
    // Trained on the float32 model, used on the other.
    const encoder = await PrefixEncoder.create(float32, { hiddenDim: 64 });
    await new PrefixTrainer(float32, { encoder, epochs: 1, learningRate: 1e-2, batchSize: 8 }).train({
      train: samples,
    });
    prefix = await encoder.prefix();
  });
  afterAll(async () => {
    await float32.dispose();
    await int8.dispose();
  });

  test.each(['plain', 'prefix'])('its perplexity is within one percent: %s', async (kind) => {
    const options = kind === 'prefix' ? { prefix } : {};
    const mean = async (model: NeoXModel): Promise<number> => {
      const results = [];
      for (const text of texts) results.push(await model.perplexity(text, options));
      const tokens = results.reduce((sum, result) => sum + result.tokens, 0);
      expect(tokens).toBeGreaterThan(1000);
      return Math.exp(results.reduce((sum, result) => sum + result.loss * result.tokens, 0) / tokens);
    };
    const ratio = (await mean(int8)) / (await mean(float32));
    expect(Math.abs(ratio - 1)).toBeLessThan(INT8_PERPLEXITY);
    expect(ratio).not.toBe(1);
  });

  test('it evaluates, trains and generates like the float32 model', async () => {
    const samples = texts.slice(0, 8).map((completion) => ({ completion }));
    const losses = [];
    for (const model of [float32, int8]) losses.push((await evaluate(model, samples, { prefix })).loss);
    expect(Math.abs((losses[1] as number) - (losses[0] as number))).toBeLessThan(INT8_PERPLEXITY);
    const curve = async (model: NeoXModel): Promise<number[]> => {
      const seen: number[] = [];
      const encoder = await PrefixEncoder.create(model, { hiddenDim: 32, seed: 4 });
      await new PrefixTrainer(model, { encoder, epochs: 2, batchSize: 4, shuffle: false, learningRate: 1e-2 }).train(
        { train: samples },
        { onEvent: (event) => event.type === 'step' && seen.push(event.loss) },
      );
      return seen;
    };
    const [expected, actual] = [await curve(float32), await curve(int8)];
    expect(actual).toHaveLength(4);
    expect(difference(actual, expected).max).toBeLessThanOrEqual(TOLERANCES.int8.curveLoss);
    const { tokens } = await int8.generate('今日は', { prefix, maxNewTokens: 20, temperature: 0, ignoreEos: true });
    expect(tokens).toHaveLength(20);
  });

  test('it is the same base model, and half the size of bfloat16', async () => {
    expect(int8.fingerprint).toBe(float32.fingerprint);
    expect(int8.dtype).toBe('int8');
    await using fresh = await loadModel(EXAMPLE_MODEL, { dtype: 'int8' }); // a training makes further copies
    const { dtype, computeDtype, backend, weightBytes } = fresh.info();
    const fast = native().systemInfo().kernels === 'avx512_bf16';
    expect({ dtype, computeDtype, backend }).toEqual({
      dtype: 'int8',
      computeDtype: fast ? 'bfloat16' : 'float32',
      backend: 'native',
    });
    await using half = await loadModel(EXAMPLE_MODEL, { dtype: 'bfloat16', backend: 'native' });
    // The embedding stays in the checkpoint's own type, in its mapped file.
    const { vocabSize, hiddenSize } = int8.config;
    const file = await readSafetensorsHeader(join(EXAMPLE_MODEL, 'model.safetensors'));
    const stored = file.tensors.get('gpt_neox.embed_in.weight')?.dtype === 'F32' ? 4 : 2;
    const matrices = weightBytes - stored * vocabSize * hiddenSize;
    expect(matrices / (half.info().weightBytes - 2 * vocabSize * hiddenSize)).toBeCloseTo(0.5, 1);
  });

  test('caches and prefixes take the bytes of the compute dtype', async () => {
    const element = int8.computeDtype === 'float32' ? 4 : 2;
    const { bytes } = await new PrefixStore(int8).add('diary', prefix);
    expect(bytes).toBe(prefix.data.length * (4 + element));
    await using engine = new GenerationEngine(int8);
    expect(engine.stats().kvBytesPerToken).toBe(2 * int8.config.numLayers * int8.config.hiddenSize * element);
    const request = { prompt: '今日は', prefix, maxNewTokens: 5, temperature: 0, ignoreEos: true };
    const [alone, served] = [
      await int8.generate('今日は', { prefix, maxNewTokens: 5, temperature: 0, ignoreEos: true }),
      await engine.generate(request),
    ];
    expect(served.tokens).toEqual(alone.tokens);
  });

  test('exports are made of the checkpoint, not of what it was rounded to', async () => {
    await new FTExporter(int8).export(folder.join('export'), { dtype: 'float32' });
    expect((await new FTExporter(float32).verify(folder.join('export'))).ok).toBe(true);
  });

  test('on the command line', async () => {
    const { code, stdout, stderr } = await cli([
      'generate',
      '--model',
      EXAMPLE_MODEL,
      '--dtype',
      'int8',
      '--max-new-tokens',
      '5',
      '--prompt',
      '今日は',
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining('int8 on cpu (native)') as string });
    expect(stdout.length).toBeGreaterThan(0);
    const refused = await cli([
      'generate',
      '--model',
      EXAMPLE_MODEL,
      '--dtype',
      'int8',
      '--backend',
      'aten',
      '--prompt',
      '今日は',
    ]);
    expect({ code: refused.code, stderr: refused.stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining('hint: leave out --device and --backend, or give --dtype bfloat16') as string,
    });
  });
});

test('an engine serves it, with the cache that it computes in', async () => {
  await using model = await loadModel(exactPaths.parallel as string, { dtype: 'int8' });
  await using engine = new GenerationEngine(model, { maxRows: 3 });
  const { numLayers, hiddenSize } = model.config;
  expect(model.computeDtype).toBe(model.info().computeDtype);
  expect(engine.stats().kvBytesPerToken).toBe(2 * numLayers * hiddenSize * (model.computeDtype === 'float32' ? 4 : 2));
  const prefix = randomPrefix(model, 3);
  const requests = [1, 2, 3, 4].map((seed) => ({
    prompt: [seed, 7, 30],
    seed,
    maxNewTokens: 9,
    ...(seed % 2 === 0 ? { prefix } : {}),
  }));
  const together = await Promise.all(requests.map((request) => engine.generate(request)));
  for (const [i, { prompt, ...options }] of requests.entries()) {
    expect(together[i]?.tokens).toEqual((await model.generate(prompt, options)).tokens);
  }
});

test('a damaged weight is found when its model is used', async () => {
  const path = folder.join('damaged');
  cpSync(exactPaths.sequential as string, path, { recursive: true });
  const file = join(path, 'model.safetensors');
  const bytes = readFileSync(file);
  bytes.writeFloatLE(
    NaN,
    (await readSafetensorsHeader(file)).tensors.get('gpt_neox.layers.0.attention.dense.weight')?.offset ?? 0,
  );
  writeFileSync(file, bytes);
  await using model = await loadModel(path, { dtype: 'int8' });
  await expectRefusal({
    name: 'generate',
    act: () => model.generate([3, 4], { maxNewTokens: 2, prefix: randomPrefix(model, 2) }),
    code: 'NEOX_NOT_FINITE',
    text: /not finite/,
  });
});

test.each([
  ['with the aten backend', { backend: 'aten' }],
  ['with the onednn backend', { backend: 'onednn' }],
  ["with pack: 'none'", { pack: 'none' }],
] as const)('int8 is refused %s', async (how, options) => {
  await expectRefusal({
    name: how,
    act: () => loadModel(EXAMPLE_MODEL, { dtype: 'int8', ...options }),
    code: 'NEOX_UNSUPPORTED',
    text: `A model in int8 does not run ${how}: only on the CPU, packed, with the native backend\nHint: leave out device, backend and pack, or use dtype: 'bfloat16'`,
  });
});
