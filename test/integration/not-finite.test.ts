import { copyFileSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/formats/safetensors';
import { GenerationEngine } from '../../lib/engine/engine';
import type { NeoXPrefixError } from '../../lib/base/errors';
import { PrefixWeights } from '../../lib/prefix/weights';
import { evaluate } from '../../lib/training/evaluate';
import type { NeoXModel } from '../../lib/neox-model';
import { expectRefusal, loadModel, temporaryFolder, writeRandomModel } from '../helpers';

const HINT =
  '\nHint: look at the prefix with `neox-prefix inspect`; float16 overflows early: try dtype float32 or bfloat16; else the weights are damaged';

const folder = temporaryFolder();
let model: NeoXModel;
let huge: PrefixWeights;

beforeAll(async () => {
  model = await loadModel(await writeRandomModel(folder.path));
  const { numLayers, numHeads, headSize } = model.config;
  const data = new Float32Array(2 * numLayers * 2 * numHeads * headSize).fill(1e38);
  huge = PrefixWeights.fromTensor(data, { prefixLength: 2, numLayers, numHeads, headSize });
});

afterAll(() => model.dispose());

/** The model with one value of a tensor replaced. */
async function damagedModel(tensor: string, index: number, value: number): Promise<NeoXModel> {
  const copy = mkdtempSync(folder.join('damaged-'));
  for (const name of ['config.json', 'model.safetensors']) copyFileSync(folder.join(name), join(copy, name));
  const path = join(copy, 'model.safetensors');
  const { offset } = (await readSafetensorsHeader(path)).tensors.get(tensor)!;
  const bytes = readFileSync(path);
  bytes.writeFloatLE(value, offset + 4 * index);
  writeFileSync(path, bytes);
  return loadModel(copy);
}

test('a prefix whose values overflow: no token is drawn, and the row is named', async () => {
  const text = `The model gives logits that are not finite for row 1${HINT}`;
  const options = { maxNewTokens: 3, prefix: [undefined, huge], ignoreEos: true };
  await expectRefusal({
    name: 'generate',
    act: () =>
      model.generate(
        [
          [3, 4],
          [3, 4],
        ],
        options,
      ),
    code: 'NEOX_NOT_FINITE',
    text,
  });
  const pieces: unknown[] = [];
  await expectRefusal({
    name: 'stream',
    act: async () => {
      for await (const piece of model.stream([3], { prefix: huge })) pieces.push(piece);
    },
    code: 'NEOX_NOT_FINITE',
    text: text.replace('row 1', 'row 0'),
  });
  expect(pieces).toEqual([]);
  // The model itself is as good as before.
  expect(await model.generate([3, 4], { maxNewTokens: 3, ignoreEos: true })).toMatchObject({
    usage: { completionTokens: 3 },
  });
});

test('in an engine the row fails by itself', async () => {
  await using engine = new GenerationEngine(model);
  const request = { prompt: [3, 4], maxNewTokens: 20, ignoreEos: true, seed: 1 };
  const good = engine.generate(request);
  await expectRefusal({
    name: 'engine',
    act: () => engine.generate({ ...request, prefix: huge }),
    code: 'NEOX_NOT_FINITE',
    text: `The model gives logits that are not finite${HINT}`,
  });
  expect((await good).tokens).toEqual(
    (await model.generate([3, 4], { maxNewTokens: 20, ignoreEos: true, seed: 1 })).tokens,
  );
  expect(engine.stats()).toMatchObject({ failed: 1, completed: 1, running: 0, kvReservedTokens: 0 });
});

test.each(['embed_out.weight', 'gpt_neox.final_layer_norm.bias'])('a NaN in %s', async (tensor) => {
  await using damaged = await damagedModel(tensor, 0, NaN);
  await expectRefusal({
    name: 'generate',
    act: () => damaged.generate([5], { temperature: 0, maxNewTokens: 1 }),
    code: 'NEOX_NOT_FINITE',
    text: `The model gives logits that are not finite for row 0${HINT}`,
  });
  // forward() shows what the model gives.
  const { logits } = await damaged.forward({ inputIds: [[5]] });
  expect(logits!.data[0]).toBeNaN();
});

test('of infinite logits +inf is refused; a token with -inf just never comes', async () => {
  const { logits } = await model.forward({ inputIds: [[5]] });
  const best = logits!.data.indexOf(Math.max(...logits!.data));
  // One sign of the weight gives the best token +inf, the other -inf: which one, the hidden state decides.
  const outcomes: unknown[] = [];
  for (const value of [Infinity, -Infinity]) {
    await using damaged = await damagedModel('embed_out.weight', best * model.config.hiddenSize, value);
    const shown = (await damaged.forward({ inputIds: [[5]] })).logits!.data[best];
    const outcome = await damaged.generate([5], { temperature: 0, maxNewTokens: 1, ignoreEos: true }).then(
      ({ tokens }) => tokens[0] !== best,
      (error: unknown) => (error as NeoXPrefixError).code,
    );
    outcomes.push([shown, outcome]);
  }
  expect(outcomes.sort()).toEqual([
    [-Infinity, true],
    [Infinity, 'NEOX_NOT_FINITE'],
  ]);
});

test('evaluation names the samples whose loss is not finite', async () => {
  const samples = [[3], [4], [5], [6, 9], [7]].map((completion) => ({ completion }));
  // Only the fourth sample has a token of the damaged row.
  await using damaged = await damagedModel('gpt_neox.embed_in.weight', 9 * model.config.hiddenSize, NaN);
  const progress: number[] = [];
  await expectRefusal({
    name: 'damaged weights',
    act: () => evaluate(damaged, samples, { batchSize: 2, onProgress: (done) => progress.push(done.samples) }),
    code: 'NEOX_NOT_FINITE',
    text: `The loss of samples 2 to 3 is NaN${HINT}`,
  });
  expect(progress).toEqual([2]);
  await expectRefusal({
    name: 'a prefix',
    act: () => evaluate(model, samples, { prefix: huge }),
    code: 'NEOX_NOT_FINITE',
    text: `The loss of samples 0 to 4 is NaN${HINT}`,
  });
});
