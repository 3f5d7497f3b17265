import { PrefixWeights } from '../../../lib/prefix/weights';

const SIZES = { prefixLength: 3, numLayers: 2, numHeads: 2, headSize: 4 };
const numbered = (): Float32Array => Float32Array.from({ length: 96 }, (_, i) => i / 7 - 3);

test('withMetadata adds and keeps', () => {
  const weights = PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata: { task: 'a' } }).withMetadata({
    tokenizerHash: 'x',
  });
  expect(weights.metadata).toEqual({ formatVersion: 1, task: 'a', tokenizerHash: 'x' });
  // The metadata of another prefix is taken whole.
  expect(PrefixWeights.fromTensor(numbered(), SIZES).withMetadata(weights.metadata).metadata).toEqual(weights.metadata);
});

const cyclic: Record<string, unknown> = {};
cyclic['self'] = { cyclic };
const deep = JSON.parse(`${'{"a":'.repeat(40)}1${'}'.repeat(40)}`) as unknown;
test.each<[string, unknown, string]>([
  ['no object', 'smile', "Expected an object for metadata but received 'smile' of type string"],
  ['a misspelled entry', { tsk: 'x' }, "Unknown option 'tsk' in metadata\nHint: did you mean 'task'?"],
  ['a task that is no text', { task: 5 }, 'Expected a string for metadata.task but received 5 of type number'],
  [
    'a hash that is no text',
    { tokenizerHash: {} },
    'Expected a string for metadata.tokenizerHash but received an object of type object',
  ],
  [
    'null',
    { recipe: null },
    'Expected a value for metadata.recipe but received null of type null\nHint: leave it out, or give undefined, for its default',
  ],
  [
    'a base model by its name',
    { baseModel: 'rinna' },
    "Expected an object for metadata.baseModel but received 'rinna' of type string",
  ],
  [
    'a fingerprint that is no text',
    { baseModel: { fingerprint: 7 } },
    'Expected a string for metadata.baseModel.fingerprint but received 7 of type number',
  ],
  [
    'a list of metrics',
    { metrics: [1] },
    'Expected an object for metadata.metrics but received an array of 1 of type array',
  ],
  [
    'a recipe that holds itself',
    { recipe: cyclic },
    /^Expected an object that JSON can hold for metadata.recipe but received an object of type object\nHint: Converting circular structure to JSON$/ as never,
  ],
  [
    'a recipe of 40 levels',
    { recipe: deep },
    'Expected an object that JSON can hold for metadata.recipe but received an object of type object\nHint: expected at most 32 levels of nesting, found more',
  ],
  [
    'a version to come',
    { formatVersion: 2 },
    'Expected an integer between 0 and 1 for metadata.formatVersion but received 2 of type number',
  ],
])('metadata that could not be read back: %s', (_, metadata, message) => {
  const weights = PrefixWeights.fromTensor(numbered(), SIZES);
  const expected = typeof message === 'string' ? message : (expect.stringMatching(message) as string);
  expect(() => weights.withMetadata(metadata as object)).toThrow(
    expect.objectContaining({ code: 'NEOX_BAD_ARGUMENT', message: expected }) as Error,
  );
  expect(() => PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata: metadata as object })).toThrow(
    expect.objectContaining({
      code: 'NEOX_BAD_ARGUMENT',
      message: expect.stringContaining('options.metadata') as string,
    }) as Error,
  );
});

test('metadata are a copy', () => {
  const recipe = { epochs: 1 };
  const weights = PrefixWeights.fromTensor(numbered(), { ...SIZES, metadata: { recipe } });
  recipe.epochs = 2;
  expect(weights.metadata.recipe).toEqual({ epochs: 1 });
});
