import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder } from '../../lib/training/encoder';
import { PrefixWeights } from '../../lib/prefix/weights';
import { backendsFor, loadModel } from '../helpers';
import { FIT_TOLERANCE, TOLERANCES } from '../tolerances';
import {
  difference,
  goldenModelNames,
  loadGoldenModel,
  loadGoldenTraining,
  TRAINING_CASES,
  type GoldenTensors,
} from './fixtures';

const ids = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);

function weightsOf(model: NeoXModel, data: Float32Array): PrefixWeights {
  const { numLayers, numHeads, headSize } = model.config;
  return PrefixWeights.fromTensor(data, {
    prefixLength: data.length / (2 * numLayers * numHeads * headSize),
    numLayers,
    numHeads,
    headSize,
  });
}

describe.each(goldenModelNames())('keys and values of the model %s', (name) => {
  const golden = loadGoldenModel(name);
  const { prefixLength } = golden.reference;

  test.each(backendsFor('float32'))('are those of the reference: %s', async (backend) => {
    await using model = await loadModel(golden.directory, { backend, dtype: 'float32' });
    const { pastKeyValues } = await model.forward({ inputIds: [[9, 8], ids(prefixLength)], logits: 'none' });
    const { data, shape } = await pastKeyValues.read(1);
    expect(shape).toEqual(golden.tokenKeysAndValues.shape);
    expect(difference(data, golden.tokenKeysAndValues.data).max).toBeLessThanOrEqual(TOLERANCES.float32.keysAndValues);
    // Behind a prefix a row's own keys are rotated further; the prefix itself is not part of what is read.
    const behind = await model.forward({ inputIds: [ids(3)], pastKeyValues: weightsOf(model, data), logits: 'none' });
    expect((await behind.pastKeyValues.read()).shape).toEqual([3, ...golden.tokenKeysAndValues.shape.slice(1)]);
    expect(behind.pastKeyValues.prefixLengths).toEqual([prefixLength]);
  });

  test.each(backendsFor('float32'))('taken as a prefix, they stand for their tokens: %s', async (backend) => {
    await using model = await loadModel(golden.directory, { backend, dtype: 'float32' });
    const row = golden.reference.rows[2] as number[];
    const whole = (await model.forward({ inputIds: [[...ids(prefixLength), ...row]] })).logits?.data as Float32Array;
    const pastKeyValues = weightsOf(model, golden.tokenKeysAndValues.data);
    const behind = (await model.forward({ inputIds: [row], pastKeyValues })).logits?.data as Float32Array;
    expect(difference(behind, whole.slice(-behind.length)).max).toBeLessThanOrEqual(TOLERANCES.float32.logits);
  });
});

describe.each(TRAINING_CASES)('the encoder of the model $name in $dtype', ({ name, dtype }) => {
  const { record, tensors, directory } = loadGoldenTraining(name, dtype);
  const { fit } = record;

  async function fitted(
    model: NeoXModel,
    target: Float32Array,
    steps: number,
  ): Promise<{ encoder: PrefixEncoder; error: number }> {
    const encoder = await PrefixEncoder.fromState(model, initialState(tensors));
    const { learningRate, weightDecay } = fit;
    const error = await native().fitEncoder(model.native, encoder.native, { target, steps, learningRate, weightDecay });
    return { encoder, error };
  }

  test.each(backendsFor(dtype))('is fitted to keys and values as in the reference: %s', async (backend) => {
    await using model = await loadModel(directory, { dtype, backend });
    const { pastKeyValues } = await model.forward({ inputIds: [ids(record.prefixLength)], logits: 'none' });
    const target = tensors.get('fit.target');
    expect(difference((await pastKeyValues.read()).data, target.data).max).toBeLessThanOrEqual(
      TOLERANCES[dtype].keysAndValues,
    );

    expect(Math.abs((await fitted(model, target.data, 0)).error - fit.firstLoss)).toBeLessThanOrEqual(
      FIT_TOLERANCE.loss,
    );
    expect(Math.abs((await fitted(model, target.data, fit.steps - 1)).error - fit.lastLoss)).toBeLessThanOrEqual(
      FIT_TOLERANCE.loss,
    );
    const { encoder, error } = await fitted(model, target.data, fit.steps);
    expect(Math.abs(error - fit.finalLoss)).toBeLessThanOrEqual(FIT_TOLERANCE.loss);
    expect(difference((await encoder.prefix()).data, tensors.get('fit.prefix').data).max).toBeLessThanOrEqual(
      FIT_TOLERANCE.prefix,
    );
  });

  test("init 'tokens' is that fit of the ids from 0 on, from torch's initial values", async () => {
    await using model = await loadModel(directory, { dtype });
    const sizes = {
      prefixLength: record.prefixLength,
      inputDim: record.inputDim,
      hiddenDim: record.hiddenDim,
      seed: 5,
    };
    const plain = await PrefixEncoder.create(model, { ...sizes, init: 'random' });
    const { steps, learningRate, weightDecay } = fit;
    const { pastKeyValues } = await model.forward({ inputIds: [ids(record.prefixLength)], logits: 'none' });
    const target = (await pastKeyValues.read()).data;
    const error = await native().fitEncoder(model.native, plain.native, { target, steps, learningRate, weightDecay });
    const made = await PrefixEncoder.create(model, sizes);
    expect(made.initError).toBe(error);
    expect((await made.prefix()).data).toEqual((await plain.prefix()).data);
    expect(plain.initError).toBeUndefined();
  });
});

/** The encoder's parameters that the reference started from. */
function initialState(tensors: GoldenTensors): Record<string, { data: Float32Array; shape: number[] }> {
  return Object.fromEntries(
    [...tensors.under('initial.')].map(([name, { data, shape }]) => [name, { data, shape: [...shape] }]),
  );
}
