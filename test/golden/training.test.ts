import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixEncoder, type PrefixEncoderState } from '../../lib/training/encoder';
import { evaluate } from '../../lib/training/evaluate';
import type { TrainingEvent } from '../../lib/runs/events';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import type { TrainingResult } from '../../lib/training/training-run';
import { backendsFor, loadModel, NATIVE_TRAINER } from '../helpers';
import { TOLERANCES } from '../tolerances';
import {
  difference,
  loadGoldenTraining,
  relativeDifference,
  TRAINING_CASES,
  type GoldenCurve,
  type GoldenSample,
} from './fixtures';

const samplesOf = (golden: readonly GoldenSample[]): { prompt: number[]; completion: number[] }[] =>
  golden.map(({ prompt, completion }) => ({ prompt: [...prompt], completion: [...completion] }));

describe.each(TRAINING_CASES)('training over the model $name in $dtype', ({ name, dtype }) => {
  const { record, tensors, directory } = loadGoldenTraining(name, dtype);
  const tolerance = TOLERANCES[dtype];
  const { recipe } = record;

  describe.each(backendsFor(dtype))('%s', (backend) => {
    let model: NeoXModel;
    let encoder: PrefixEncoder;

    beforeAll(async () => {
      model = await loadModel(directory, { dtype, backend });
    });
    afterAll(() => model.dispose());
    beforeEach(async () => {
      const initial = [...tensors.under('initial.')].map(([key, { data, shape }]) => [
        key,
        { data, shape: [...shape] },
      ]);
      encoder = await PrefixEncoder.fromState(model, Object.fromEntries(initial) as PrefixEncoderState);
    });

    test("the encoder's output", async () => {
      const prefix = await encoder.prefix();
      expect(prefix.shape).toEqual(tensors.get('prefix').shape);
      // Always float32, whatever the model is.
      expect(difference(prefix.data, tensors.get('prefix').data).max).toBeLessThanOrEqual(1e-5);
    });

    test('the loss of the first batch and every gradient of the encoder', async () => {
      const { inputs, targets, loss, tokens } = record.firstBatch;
      const addon = native();
      const trainer = await addon.createTrainer(model.native, encoder.native, NATIVE_TRAINER);
      const sum = await addon.trainerAccumulate(model.native, trainer, {
        tokens: Int32Array.from(inputs.flat()),
        targets: Int32Array.from(targets.flat()),
        lengths: Int32Array.from(inputs, (row) => row.length),
        lossScale: 1,
      });
      expect(sum.tokens).toBe(tokens);
      expect(Math.abs(sum.loss / sum.tokens - loss)).toBeLessThanOrEqual(tolerance.loss);
      const gradients = await addon.trainerGradients(model.native, trainer, encoder.native);
      const expected = tensors.under('gradient.');
      expect(Object.keys(gradients).sort()).toEqual([...expected.keys()].sort());
      const apart = Object.fromEntries(
        [...expected].map(([key, { data }]) => [key, relativeDifference(gradients[key] as Float32Array, data)]),
      );
      expect(Object.entries(apart).filter(([, relative]) => !(relative <= tolerance.gradientRelative))).toEqual([]);
      // What the output's bias gets is the gradient of the prefix, summed over its positions.
      const { data: own, shape } = tensors.get('prefix_gradient');
      const width = own.length / (shape[0] as number);
      const summed = Float32Array.from({ length: width }, (_, k) =>
        own.reduce((total, value, i) => (i % width === k ? total + value : total), 0),
      );
      expect(relativeDifference(gradients['prefix_mlp.2.bias'] as Float32Array, summed)).toBeLessThanOrEqual(
        tolerance.gradientRelative,
      );
    });

    async function run(
      curve: GoldenCurve,
      epochs: number,
    ): Promise<{ result: TrainingResult; events: TrainingEvent[] }> {
      const trainer = new PrefixTrainer(model, {
        encoder,
        shuffle: false,
        epochs,
        batchSize: record.batchSize,
        accumulationSteps: curve.accumulation,
        learningRate: recipe.learningRate,
        warmupSteps: recipe.warmupSteps,
        trainingSteps: recipe.totalSteps,
        adamBeta1: recipe.beta1,
        adamBeta2: recipe.beta2,
        adamEpsilon: recipe.epsilon,
        weightDecay: recipe.weightDecay,
        gradClip: recipe.gradientClip,
      });
      const events: TrainingEvent[] = [];
      const data = { train: samplesOf(record.samples), validation: samplesOf(record.validation) };
      const result = await trainer.train(data, { onEvent: (event) => events.push(event) });
      return { result, events };
    }

    function expectCurve(events: readonly TrainingEvent[], curve: GoldenCurve): void {
      const steps = events.filter((event) => event.type === 'step');
      expect(steps.map(({ step }) => step)).toEqual(curve.losses.map((_, i) => i + 1));
      expect(steps.map(({ tokens }) => tokens)).toEqual(curve.tokens);
      expect(
        difference(
          steps.map(({ learningRate }) => learningRate),
          curve.learningRates,
        ).max,
      ).toBeLessThanOrEqual(1e-12);
      expect(
        difference(
          steps.map(({ loss }) => loss),
          curve.losses,
        ).max,
      ).toBeLessThanOrEqual(tolerance.curveLoss);
      expect(
        difference(
          steps.map(({ gradNorm }) => gradNorm),
          curve.gradientNorms,
        ).max,
      ).toBeLessThanOrEqual(tolerance.gradientNorm);
      const evaluation = events.filter((event) => event.type === 'evaluation').at(-1);
      expect(evaluation?.tokens).toBe(curve.validationAfter.tokens);
      expect(Math.abs((evaluation?.loss as number) - curve.validationAfter.loss)).toBeLessThanOrEqual(
        tolerance.curveLoss,
      );
      expect(evaluation?.perplexity).toBeCloseTo(Math.exp(evaluation?.loss as number), 10);
    }

    test('ten steps with warm-up, decay and clipping, and the encoder after them', async () => {
      const { curve } = record;
      const samples = samplesOf(record.validation);
      const before = await evaluate(model, samples, { prefix: await encoder.prefix() });
      expect(before.tokens).toBe(curve.validationBefore.tokens);
      expect(Math.abs(before.loss - curve.validationBefore.loss)).toBeLessThanOrEqual(tolerance.loss);
      expect(before.perplexity).toBeCloseTo(Math.exp(before.loss), 10);

      const { result, events } = await run(curve, 1);
      expectCurve(events, curve);
      // Clipping acted, or its golden values say nothing.
      expect(Math.max(...curve.gradientNorms)).toBeGreaterThan(recipe.gradientClip);
      const state = await result.encoder.state();
      for (const [key, { data, shape }] of Object.entries(state)) {
        const expected = tensors.get(`curve.${key}`);
        expect(shape).toEqual(expected.shape);
        expect(difference(data, expected.data).max).toBeLessThanOrEqual(tolerance.trainedWeight);
      }
      expect(difference(result.last.data, tensors.get('curve.prefix').data).max).toBeLessThanOrEqual(
        tolerance.trainedWeight,
      );
      const after = await evaluate(model, samples, { prefix: result.last, batchSize: 3 });
      expect(Math.abs(after.loss - curve.validationAfter.loss)).toBeLessThanOrEqual(tolerance.curveLoss);
    });

    test('ten steps of two batches each', async () => {
      const { result, events } = await run(record.accumulated, 2);
      expectCurve(events, record.accumulated);
      expect(result.steps).toBe(10);
      expect(difference(result.last.data, tensors.get('accumulated.prefix').data).max).toBeLessThanOrEqual(
        tolerance.trainedWeight,
      );
    });
  });
});
