// Compiled by public-types.test.ts, never run: what the public types promise. Each line that must not compile says so.
import {
  evaluate,
  FTExporter,
  NeoXModel,
  type NeoXPrefixError,
  PrefixEncoder,
  PrefixTrainer,
  type PrefixWeights,
  type Completion,
  type ContinuationScore,
  type DenseBiasRule,
  TokenSampler,
  type EvaluationResult,
  type FindLibtorchOptions,
  type FinishReason,
  type GenerateResult,
  type InstructionOptions,
  type JsonValue,
  type KVCache,
  type Logits,
  type NeoXErrorCode,
  type NeoXErrorDetails,
  type PerplexityResult,
  type PrefixEncoderState,
  type Sample,
  type ScoredToken,
  type StreamPiece,
  type TokenChoice,
  type TrainingEvent,
  type TrainingResult,
  type Usage,
} from '../../lib/index';

/** True for two types that take each other's values; any is nothing's equal. */
type Same<A, B> = 0 extends 1 & A ? false : [A, B] extends [B, A] ? true : false;
/** `expectType<Expected>()(value, true)` compiles when the value's type is the expected one. */
function expectType<Expected>(): <Actual>(value: Actual, same: Same<Actual, Expected>) => boolean {
  return (_value, same) => same;
}

export async function model(path: string): Promise<void> {
  await using loaded = await NeoXModel.load(path, { device: 'cpu', dtype: 'bfloat16', threads: 2 });
  expectType<NeoXModel>()(loaded, true);
  // @ts-expect-error an unknown dtype
  await NeoXModel.load(path, { dtype: 'int4' });
  // @ts-expect-error a misspelled option
  await NeoXModel.load(path, { treads: 2 });
  // @ts-expect-error only load() makes models
  new NeoXModel();
  // @ts-expect-error the configuration is not to be changed
  loaded.config.hiddenSize = 5;

  const forward = await loaded.forward({ inputIds: [[1, 2], Int32Array.of(3)], logits: 'last' });
  expectType<Logits | null>()(forward.logits, true);
  expectType<KVCache>()(forward.pastKeyValues, true);
  const logits = forward.logits as Logits;
  expectType<Float32Array>()(logits.data, true);
  expectType<[number, number, number]>()(logits.shape, true);
  await loaded.forward({ inputIds: [[1]], attentionMask: [Uint8Array.of(1)], pastKeyValues: forward.pastKeyValues });
  // @ts-expect-error rows are needed
  await loaded.forward({});
  // @ts-expect-error one row is no batch
  await loaded.forward({ inputIds: [1, 2] });
}

export async function generation(loaded: NeoXModel, prefix: PrefixWeights): Promise<void> {
  const one = await loaded.generate('text');
  expectType<GenerateResult>()(one, true);
  expectType<GenerateResult>()(await loaded.generate([1, 2, 3], { prefix, temperature: 0, seed: 1 }), true);
  expectType<GenerateResult>()(await loaded.generate(Int32Array.of(1)), true);
  expectType<GenerateResult[]>()(
    await loaded.generate(['a', 'b'], { prefix: [prefix, undefined], seed: [1, 2] }),
    true,
  );
  expectType<GenerateResult[]>()(await loaded.generate([[1], [2, 3]]), true);
  expectType<string>()(one.text, true);
  expectType<number[]>()(one.tokens, true);
  expectType<FinishReason>()(one.finishReason, true);
  expectType<Usage>()(one.usage, true);
  // @ts-expect-error a prefix is no path
  await loaded.generate('text', { prefix: 'smile.safetensors' });
  // @ts-expect-error a number is no prompt
  await loaded.generate(5);
  for await (const piece of loaded.stream('text', { prefix })) expectType<StreamPiece>()(piece, true);
  // @ts-expect-error a stream has one prompt
  loaded.stream(['a', 'b']);
  // @ts-expect-error and one prefix
  loaded.stream('a', { prefix: [prefix] });
}

export async function training(loaded: NeoXModel): Promise<void> {
  const trainer = new PrefixTrainer(loaded, { name: 'smile', prefixLength: 10, epochs: 2, learningRate: 1e-3 });
  const samples: Sample[] = [{ completion: 'a' }, { prompt: [1], completion: Int32Array.of(2) }];
  const result = await trainer.train(
    { train: samples },
    { onEvent: (event) => expectType<TrainingEvent>()(event, true) },
  );
  expectType<TrainingResult>()(result, true);
  expectType<PrefixWeights>()(result.best, true);
  expectType<PrefixEncoder>()(result.encoder, true);
  // @ts-expect-error a sample needs a completion
  await trainer.train({ train: [{ prompt: 'a' }] });
  // @ts-expect-error a misspelled option
  new PrefixTrainer(loaded, { learningrate: 1 });
  const encoder = await PrefixEncoder.create(loaded, { init: 'text', initText: 'a' });
  expectType<PrefixEncoderState>()(await encoder.state(), true);
  expectType<EvaluationResult>()(await evaluate(loaded, samples, { prefix: result.best }), true);
  const report = await new FTExporter(loaded).export('out', { dtype: 'float16', tasks: { smile: result.best } });
  expectType<string>()(report.directory, true);
}

export function startOf(event: Extract<TrainingEvent, { type: 'start' }>): void {
  // @ts-expect-error a start has no loss
  expectType<number>()(event.loss, true);
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
      return event.totalSteps;
    case 'resume':
      return event.from.length;
    case 'prefix':
      return event.keyNorms.length;
    case 'samples':
      return event.samples.length;
    case 'end':
      return event.bestStep;
  }
}

export function errors(error: NeoXPrefixError): void {
  expectType<NeoXErrorCode>()(error.code, true);
  // @ts-expect-error no such code
  if (error.code === 'NEOX_OOPS') throw error;
}

/** Types of options and results that a program may want to name. */
export interface Named {
  denseBias: DenseBiasRule;
  details: NeoXErrorDetails;
  instruction: InstructionOptions;
  search: FindLibtorchOptions;
  recipe: Record<string, JsonValue>;
}
export const NAMED: Named = {
  denseBias: 'runtime',
  details: { hint: 'x', path: 'y' },
  instruction: { marks: 'escape' },
  search: { packageRoot: '.' },
  recipe: { epochs: 1 },
};

export async function scoring(loaded: NeoXModel, prefix: PrefixWeights): Promise<void> {
  const { completions, logprobs, promptLogprobs } = await loaded.generate('a', {
    n: 2,
    logprobs: 1,
    promptLogprobs: 0,
    stop: ['b'],
  });
  expectType<Completion[] | undefined>()(completions, true);
  expectType<ScoredToken[] | undefined>()(logprobs, true);
  expectType<(ScoredToken | null)[] | undefined>()(promptLogprobs, true);
  await loaded.generate('a', {
    numBeams: 2,
    earlyStopping: 'never',
    logitBias: new Map([[1, -Infinity]]),
    badWords: ['c', [4, 5]],
  });
  // @ts-expect-error no such way to stop
  await loaded.generate('a', { numBeams: 2, earlyStopping: 'soon' });
  // @ts-expect-error a stream has one text
  loaded.stream('a', { n: 2 });
  expectType<ContinuationScore[]>()(await loaded.score('a', ['b', [1, 2]], { prefix }), true);
  expectType<PerplexityResult>()(await loaded.perplexity([1, 2], { window: 8, stride: 4 }), true);
  expectType<Float32Array[]>()(await loaded.embed(['a'], { prefix: [prefix], pooling: 'mean', layer: -2 }), true);
  const sampler = loaded.createSampler({ topP: 0.9 }, [1, 2]);
  expectType<TokenChoice>()(sampler.next(new Float32Array(5)), true);
  // @ts-expect-error only createSampler() makes them
  new TokenSampler();
  const cache = (await loaded.forward({ inputIds: [[1]], hiddenStates: -1 })).pastKeyValues;
  expectType<KVCache>()(cache.fork([0, 0]).truncate([1, 0]), true);
  expectType<readonly (PrefixWeights | undefined)[]>()(cache.prefixes, true);
}
