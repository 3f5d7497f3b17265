import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { epochOrder } from '../../../lib/data/order';
import { LossScale } from '../../../lib/training/loss-scale';
import { resolveRecipe, TRAINER_OPTIONS, type Recipe } from '../../../lib/training/recipe';
import { learningRateAt } from '../../../lib/training/schedule';
import { ENCODER_OPTIONS } from '../../../lib/training/encoder';

/** The options of an interface and the default that each one's docstring states, if any. */
function documented(file: string, name: string): Map<string, string | undefined> {
  const path = join(__dirname, '..', '..', '..', 'lib', file);
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022, true);
  const found = source.statements.find(
    (node): node is ts.InterfaceDeclaration => ts.isInterfaceDeclaration(node) && node.name.text === name,
  );
  if (found === undefined) throw new Error(`${file} has no interface ${name}`);
  return new Map(
    found.members.map((member) => {
      const text = ts
        .getJSDocCommentsAndTags(member)
        .map((doc) => doc.getText().replace(/\n\s*\*\s*/g, ' '))
        .join(' ');
      return [member.name?.getText() ?? '', /Defaults to `([^`]*)`/.exec(text)?.[1]];
    }),
  );
}

/** A literal of a docstring: a number, a string in quotes, a boolean. */
function literal(text: string): unknown {
  if (/^'.*'$/.test(text)) return text.slice(1, -1);
  if (text === 'true' || text === 'false') return text === 'true';
  return Number(text);
}

/** The default in the code: the `?? value` or `= value` behind `options.name`. */
function coded(file: string, option: string): unknown {
  const text = readFileSync(join(__dirname, '..', '..', '..', 'lib', file), 'utf8');
  const found = new RegExp(`options\\.${option} \\?\\? ([^,);]+)`).exec(text)?.[1];
  return found === undefined ? undefined : literal(found.replaceAll('_', ''));
}

/** Of options in a table, test/integration/documentation.test.ts compares the comments. */
test.each([
  ['model/forward.ts', 'ForwardOptions', 1],
  ['training/evaluate.ts', 'SharedOptions', 2],
  ['export/exporter.ts', 'ExportOptions', 4],
  ['prefix/weights.ts', 'PrefixLoadOptions', 2],
])('the defaults that docstrings state are those of the code: %s: %s', (file, name, least) => {
  const stated = [...documented(file, name)].filter(([, text]) => text !== undefined);
  expect(stated.length).toBeGreaterThanOrEqual(least);
  const expected = stated.map(([option, text]) => [option, literal(text as string)]);
  expect(stated.map(([option]) => [option, coded(file, option)])).toEqual(expected);
});

test("the defaults are those of rinna's script", () => {
  expect(resolveRecipe({})).toEqual({
    name: 'task',
    epochs: 50,
    trainingSteps: 50_000,
    batchSize: 4,
    accumulationSteps: 1,
    learningRate: 1e-4,
    warmupSteps: 0,
    adamBeta1: 0.9,
    adamBeta2: 0.99,
    adamEpsilon: 1e-8,
    weightDecay: 0.01,
    gradClip: 1,
    shuffle: true,
    twoRows: true,
    seed: 42,
    // What the script does not have, and what leaves it as it is.
    ...{
      maxSeconds: 0,
      batchTokens: 0,
      lanes: 'ranks',
      microBatchSize: 0,
      gradientCheckpointing: false,
      bucketing: false,
    },
    ...{
      schedule: 'linear',
      warmupRatio: 0,
      minLearningRate: 0,
      decaySteps: 'trainingSteps',
      weightDecayOn: 'weights',
      lossScale: 0,
    },
    ...{ evaluateEverySteps: 0, evaluateEveryEpochs: 1, earlyStoppingPatience: 0, earlyStoppingThreshold: 0 },
    ...{ saveEverySteps: 0, keepStates: 2 },
  });
});

test('every option of an encoder but the signal is one of a trainer', () => {
  expect(Object.keys(ENCODER_OPTIONS).filter((name) => !(name in TRAINER_OPTIONS))).toEqual(['signal']);
});

test.each([
  ['name', '', "Expected a non-empty string for name but received '' of type string"],
  ['epochs', 0, 'Expected an integer of at least 1 for epochs but received 0 of type number'],
  ['trainingSteps', 1.5, 'Expected an integer of at least 1 for trainingSteps but received 1.5 of type number'],
  ['batchSize', '4', "Expected an integer of at least 1 for batchSize but received '4' of type string"],
  ['accumulationSteps', -1, 'Expected an integer of at least 1 for accumulationSteps but received -1 of type number'],
  [
    'learningRate',
    -1e-4,
    'Expected a finite number of at least 0 for learningRate but received -0.0001 of type number',
  ],
  ['warmupSteps', NaN, 'Expected an integer of at least 0 for warmupSteps but received NaN of type number'],
  [
    'adamBeta1',
    1,
    'Expected a finite number of at least 0 and at most 0.999999 for adamBeta1 but received 1 of type number',
  ],
  [
    'adamBeta2',
    NaN,
    'Expected a finite number of at least 0 and at most 0.999999 for adamBeta2 but received NaN of type number',
  ],
  ['adamEpsilon', 0, 'Expected a finite number above 0 for adamEpsilon but received 0 of type number'],
  [
    'weightDecay',
    Infinity,
    'Expected a finite number of at least 0 for weightDecay but received Infinity of type number',
  ],
  [
    'gradClip',
    null,
    'Expected a value for gradClip but received null of type null\nHint: leave it out, or give undefined, for its default',
  ],
  ['gradClip', -1, 'Expected a finite number of at least 0 for gradClip but received -1 of type number'],
  ['shuffle', 1, 'Expected a boolean for shuffle but received 1 of type number'],
  ['twoRows', 'yes', "Expected a boolean for twoRows but received 'yes' of type string"],
  ['maxSeconds', -1, 'Expected a finite number of at least 0 for maxSeconds but received -1 of type number'],
  [
    'microBatchSize',
    'all',
    "Expected an integer of at least 0, or 'auto', for microBatchSize but received 'all' of type string",
  ],
  [
    'schedule',
    'step',
    "Expected one of 'linear', 'cosine', 'constant' for schedule but received 'step' of type string",
  ],
  [
    'warmupRatio',
    1.1,
    'Expected a finite number of at least 0 and at most 1 for warmupRatio but received 1.1 of type number',
  ],
  [
    'minLearningRate',
    1e-3,
    'Expected at most learningRate (0.0001) for minLearningRate but received 0.001 of type number',
  ],
  [
    'decaySteps',
    'all',
    "Expected a number of steps, 'trainingSteps' or 'run' for decaySteps but received 'all' of type string",
  ],
  ['decaySteps', 0, 'Expected an integer of at least 1 for decaySteps but received 0 of type number'],
  ['weightDecayOn', 'bias', "Expected one of 'weights', 'all' for weightDecayOn but received 'bias' of type string"],
  ['keepStates', 0, 'Expected an integer of at least 1 for keepStates but received 0 of type number'],
  ['seed', 2 ** 53, 'Expected an integer of at least 0 for seed but received 9007199254740992 of type number'],
])('%s: %p', (option, value, text) => {
  expect((): Recipe => resolveRecipe({ [option]: value })).toThrow(
    expect.objectContaining({ code: 'NEOX_BAD_ARGUMENT', message: text }) as Error,
  );
});

test('options that do not go together', () => {
  const text = (options: object): string => {
    try {
      resolveRecipe(options);
    } catch (error) {
      return (error as Error).message;
    }
    return 'nothing';
  };
  expect(text({ warmupSteps: 5, warmupRatio: 0.1 })).toBe(
    'Expected nothing beside warmupSteps for warmupRatio but received 0.1 of type number',
  );
  expect(text({ batchSize: 4, batchTokens: 64 })).toBe(
    'Expected nothing beside batchSize for batchTokens but received 64 of type number',
  );
  expect(resolveRecipe({ batchSize: 2, batchTokens: 0 })).toMatchObject({ batchSize: 2, batchTokens: 0 });
  expect(text({ bucketing: true, shuffle: false })).toBe(
    'Expected false without shuffle for bucketing but received true of type boolean',
  );
});

describe('the learning rate', () => {
  const recipe = { ...resolveRecipe({}), learningRate: 1, warmupSteps: 4, trainingSteps: 12 };
  const rates = (changes: Partial<Recipe>, runSteps = 12): number[] =>
    Array.from({ length: 14 }, (_, step) => learningRateAt(step, { ...recipe, ...changes }, runSteps));

  test('linear: up from 0 over the warm-up, down to 0 at the last step', () => {
    expect(rates({})).toEqual([0, 0.25, 0.5, 0.75, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]);
    expect(learningRateAt(0, { ...recipe, warmupSteps: 0 }, 12)).toBe(1);
  });
  test('cosine', () => {
    const cosine = rates({ schedule: 'cosine' });
    expect(cosine.slice(0, 5)).toEqual([0, 0.25, 0.5, 0.75, 1]);
    // transformers: 0.5 * (1 + cos(pi * progress))
    for (let step = 4; step <= 12; step++)
      expect(cosine[step]).toBeCloseTo(0.5 * (1 + Math.cos((Math.PI * (step - 4)) / 8)), 14);
    expect(cosine[13]).toBe(0);
  });
  test('constant', () =>
    expect(rates({ schedule: 'constant' })).toEqual([0, 0.25, 0.5, 0.75, ...Array.from({ length: 10 }, () => 1)]));
  test('a minimum is where it ends, and not where it starts', () => {
    const least = rates({ minLearningRate: 0.2 });
    expect(least.slice(0, 5)).toEqual([0, 0.25, 0.5, 0.75, 1]);
    expect(least[8]).toBeCloseTo(0.6, 14);
    expect(least.slice(12)).toEqual([0.2, 0.2]);
    expect(rates({ minLearningRate: 0.2, schedule: 'cosine' })[12]).toBe(0.2);
  });
  test('it ends with trainingSteps, with the run, or where it is told', () => {
    expect(rates({ trainingSteps: 1000 })[12]).toBeGreaterThan(0.9);
    expect(rates({ trainingSteps: 1000, decaySteps: 'run' })).toEqual(rates({}));
    expect(rates({ trainingSteps: 1000, decaySteps: 12 }, 500)).toEqual(rates({}));
  });
  test('a warm-up that is a share', () => {
    expect(rates({ warmupSteps: 0, warmupRatio: 1 / 3 })).toEqual(rates({}));
    expect(rates({ warmupSteps: 0, warmupRatio: 1 }).at(-1)).toBe(0);
  });
});

describe('the scale of the loss', () => {
  test('is 1 where it is not needed', () => {
    const scale = LossScale.create(recipeOf({}), 'bfloat16');
    for (let i = 0; i < 5000; i++) expect(scale.update(true)).toBe(true);
    expect(scale.scale).toBe(1);
    expect(scale.update(false)).toBe(false);
  });
  test('in float16 halves at an overflow, and doubles after 2,000 steps without', () => {
    const scale = LossScale.create(recipeOf({}), 'float16');
    expect(scale.scale).toBe(65_536);
    expect(scale.update(false)).toBe(true);
    expect(scale.scale).toBe(32_768);
    for (let i = 0; i < 1999; i++) scale.update(true);
    expect(scale.scale).toBe(32_768);
    // What is saved goes on where it was.
    const resumed = LossScale.create(recipeOf({}), 'float16', scale.save());
    resumed.update(true);
    expect(resumed.scale).toBe(65_536);
  });
  test('a gradient that overflows at any scale is an end', () => {
    const scale = LossScale.create(recipeOf({}), 'float16');
    let halved = 0;
    while (scale.update(false)) halved++;
    expect(halved).toBe(30);
  });
  test('stays where it was set', () => {
    const scale = LossScale.create(recipeOf({ lossScale: 128 }), 'float16');
    scale.update(true);
    expect([scale.scale, scale.update(false), scale.scale]).toEqual([128, false, 128]);
  });
});

const recipeOf = (options: object): Recipe => resolveRecipe(options);

test('an epoch has an order of its own, which seed and epoch decide', () => {
  const order = epochOrder(50, 42, 1);
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  expect(epochOrder(50, 42, 1)).toEqual(order);
  expect(epochOrder(50, 42, 2)).not.toEqual(order);
  expect(epochOrder(50, 43, 1)).not.toEqual(order);
  expect(epochOrder(50, 42 + 2 ** 32, 1)).not.toEqual(order);
  expect(epochOrder(0, 1, 1)).toEqual([]);
  // Each place gets each sample about as often.
  const first = Array.from({ length: 3000 }, (_, epoch) => epochOrder(3, 7, epoch)[0]);
  for (const item of [0, 1, 2])
    expect(Math.abs(first.filter((value) => value === item).length - 1000)).toBeLessThan(120);
});
