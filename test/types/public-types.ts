// Compiled by public-types.test.ts, never run: what the public types promise. Each line that must not compile says so.
import {
  evaluate,
  FTExporter,
  NeoXModel,
  NeoXPrefixError,
  PrefixEncoder,
  PrefixTrainer,
  PrefixWeights,
  type EvaluationResult,
  type FinishReason,
  type GenerateResult,
  type KVCache,
  type Logits,
  type NeoXErrorCode,
  type PrefixEncoderState,
  type Sample,
  type StreamPiece,
  type TrainingEvent,
  type TrainingResult,
  type Usage,
} from '../../lib/index';

/** True for the same type only; `any` is the same as nothing but itself. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function check<A, B>(_same: Same<A, B>): void {
  // The types are all there is.
}

export async function model(path: string): Promise<void> {
  await using loaded = await NeoXModel.load(path, { device: 'cpu', dtype: 'bfloat16', threads: 2 });
  check<typeof loaded, NeoXModel>(true);
  // @ts-expect-error an unknown dtype
  await NeoXModel.load(path, { dtype: 'int8' });
  // @ts-expect-error a misspelled option
  await NeoXModel.load(path, { treads: 2 });
  // @ts-expect-error only load() makes models
  new NeoXModel();
  // @ts-expect-error the configuration is not to be changed
  loaded.config.hiddenSize = 5;

  const forward = await loaded.forward({ inputIds: [[1, 2], Int32Array.of(3)], logits: 'last' });
  check<typeof forward.logits, Logits | null>(true);
  check<typeof forward.pastKeyValues, KVCache>(true);
  check<Logits['data'], Float32Array>(true);
  check<Logits['shape'], [number, number, number]>(true);
  await loaded.forward({ inputIds: [[1]], attentionMask: [Uint8Array.of(1)], pastKeyValues: forward.pastKeyValues });
  // @ts-expect-error rows are needed
  await loaded.forward({});
  // @ts-expect-error one row is no batch
  await loaded.forward({ inputIds: [1, 2] });
}

export async function generation(loaded: NeoXModel, prefix: PrefixWeights): Promise<void> {
  const one = await loaded.generate('text');
  check<typeof one, GenerateResult>(true);
  const ids = await loaded.generate([1, 2, 3], { prefix, temperature: 0, seed: 1 });
  check<typeof ids, GenerateResult>(true);
  const typed = await loaded.generate(Int32Array.of(1));
  check<typeof typed, GenerateResult>(true);
  const texts = await loaded.generate(['a', 'b'], { prefix: [prefix, undefined], seed: [1, 2] });
  check<typeof texts, GenerateResult[]>(true);
  const rows = await loaded.generate([[1], [2, 3]]);
  check<typeof rows, GenerateResult[]>(true);
  check<typeof one.text, string>(true);
  check<typeof one.tokens, number[]>(true);
  check<typeof one.finishReason, FinishReason>(true);
  check<typeof one.usage, Usage>(true);
  // @ts-expect-error a prefix is no path
  await loaded.generate('text', { prefix: 'smile.safetensors' });
  // @ts-expect-error a number is no prompt
  await loaded.generate(5);
  for await (const piece of loaded.stream('text', { prefix })) check<typeof piece, StreamPiece>(true);
  // @ts-expect-error a stream has one prompt
  loaded.stream(['a', 'b']);
  // @ts-expect-error and one prefix
  loaded.stream('a', { prefix: [prefix] });
}

export async function training(loaded: NeoXModel): Promise<void> {
  const trainer = new PrefixTrainer(loaded, { name: 'smile', prefixLength: 10, epochs: 2, learningRate: 1e-3 });
  const samples: Sample[] = [{ completion: 'a' }, { prompt: [1], completion: Int32Array.of(2) }];
  const result = await trainer.train({ train: samples }, { onEvent: (event) => check<typeof event, TrainingEvent>(true) });
  check<typeof result, TrainingResult>(true);
  check<typeof result.best, PrefixWeights>(true);
  check<typeof result.encoder, PrefixEncoder>(true);
  // @ts-expect-error a sample needs a completion
  await trainer.train({ train: [{ prompt: 'a' }] });
  // @ts-expect-error a misspelled option
  new PrefixTrainer(loaded, { learningrate: 1 });
  const encoder = await PrefixEncoder.create(loaded, { init: 'text', initText: 'a' });
  const state = await encoder.state();
  check<typeof state, PrefixEncoderState>(true);
  const evaluation = await evaluate(loaded, samples, { prefix: result.best });
  check<typeof evaluation, EvaluationResult>(true);
  const report = await new FTExporter(loaded).export('out', { dtype: 'float16', tasks: { smile: result.best } });
  check<typeof report.directory, string>(true);
}

export function events(event: TrainingEvent): number {
  // The type tells which fields there are.
  switch (event.type) {
    case 'step':
      return event.gradNorm;
    case 'evaluation':
      return event.perplexity;
    case 'epoch':
      return event.trainLoss;
    case 'checkpoint':
      return event.path.length;
    case 'start':
      // @ts-expect-error a start has no loss
      return event.loss;
  }
}

export function errors(error: NeoXPrefixError): void {
  check<typeof error.code, NeoXErrorCode>(true);
  // @ts-expect-error no such code
  if (error.code === 'NEOX_OOPS') throw error;
}
