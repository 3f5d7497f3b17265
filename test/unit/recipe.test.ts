import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { epochOrder, learningRateAt, resolveRecipe, TRAINER_OPTIONS, type Recipe } from '../../lib/training/recipe';
import { ENCODER_OPTIONS } from '../../lib/prefix/encoder';

/** The options of an interface and the default that each one's docstring states, if any. */
function documented(file: string, name: string): Map<string, string | undefined> {
  const path = join(__dirname, '..', '..', 'lib', file);
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022, true);
  const found = source.statements.find(
    (node): node is ts.InterfaceDeclaration => ts.isInterfaceDeclaration(node) && node.name.text === name,
  );
  if (found === undefined) throw new Error(`${file} has no interface ${name}`);
  return new Map(
    found.members.map((member) => {
      const text = ts
        .getJSDocCommentsAndTags(member)
        .map((doc) => doc.getText())
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
function coded(files: readonly string[], option: string): unknown {
  const text = files.map((file) => readFileSync(join(__dirname, '..', '..', 'lib', file), 'utf8')).join();
  const found = new RegExp(`options\\.${option} \\?\\? ([^,);]+)`).exec(text)?.[1];
  return found === undefined ? undefined : literal(found.replaceAll('_', ''));
}

describe('the defaults that docstrings state are those of the code', () => {
  const recipe = resolveRecipe({}) as unknown as Record<string, unknown>;
  const options = documented('training/recipe.ts', 'TrainerOptions');

  test('every option of the recipe has one', () => {
    const without = ['encoder', 'outputDir'];
    expect([...options].filter(([, text]) => text === undefined).map(([name]) => name)).toEqual(without);
    expect([...options.keys(), 'seed'].filter((name) => !without.includes(name)).sort()).toEqual(Object.keys(recipe).sort());
  });

  test.each([...options].filter(([, text]) => text !== undefined))('TrainerOptions.%s', (name, text) => {
    expect(literal(text as string)).toEqual(recipe[name]);
  });

  test.each([
    ['prefix/encoder.ts', 'PrefixEncoderOptions', ['prefix/encoder.ts'], 8],
    ['generation/generate.ts', 'SamplingOptions', ['generation/generate.ts'], 5],
    ['model/forward.ts', 'ForwardOptions', ['model/forward.ts'], 1],
    ['model/neox-model.ts', 'LoadOptions', ['model/neox-model.ts', 'checkpoint/checkpoint.ts'], 4],
    ['training/evaluate.ts', 'EvaluateOptions', ['training/evaluate.ts'], 2],
    ['export/ft-exporter.ts', 'ExportOptions', ['export/ft-exporter.ts'], 5],
    ['prefix/weights.ts', 'PrefixLoadOptions', ['prefix/weights.ts'], 2],
  ])('%s: %s', (file, name, code, least) => {
    const stated = [...documented(file, name)].filter(([, text]) => text !== undefined);
    expect(stated.length).toBeGreaterThanOrEqual(least);
    const expected = stated.map(([option, text]) => [option, literal(text as string)]);
    expect(stated.map(([option]) => [option, coded(code, option)])).toEqual(expected);
  });
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
  });
});

test('every option of an encoder but the signal is one of a trainer', () => {
  expect(ENCODER_OPTIONS.filter((name) => !TRAINER_OPTIONS.includes(name as never))).toEqual(['signal']);
  expect(new Set(TRAINER_OPTIONS).size).toBe(TRAINER_OPTIONS.length);
});

test.each([
  ['name', '', "Expected a non-empty string for name but received '' of type string"],
  ['epochs', 0, 'Expected an integer of at least 1 for epochs but received 0 of type number'],
  ['trainingSteps', 1.5, 'Expected an integer of at least 1 for trainingSteps but received 1.5 of type number'],
  ['batchSize', '4', "Expected an integer of at least 1 for batchSize but received '4' of type string"],
  ['accumulationSteps', -1, 'Expected an integer of at least 1 for accumulationSteps but received -1 of type number'],
  ['learningRate', -1e-4, 'Expected a finite number of at least 0 for learningRate but received -0.0001 of type number'],
  ['warmupSteps', NaN, 'Expected an integer of at least 0 for warmupSteps but received NaN of type number'],
  ['adamBeta1', 1, 'Expected a finite number of at least 0 and at most 0.999999 for adamBeta1 but received 1 of type number'],
  ['adamBeta2', NaN, 'Expected a finite number of at least 0 and at most 0.999999 for adamBeta2 but received NaN of type number'],
  ['adamEpsilon', 0, 'Expected a finite number above 0 for adamEpsilon but received 0 of type number'],
  ['weightDecay', Infinity, 'Expected a finite number of at least 0 for weightDecay but received Infinity of type number'],
  [
    'gradClip',
    null,
    'Expected a value for gradClip but received null of type null\nHint: leave it out, or give undefined, for its default',
  ],
  ['gradClip', -1, 'Expected a finite number of at least 0 for gradClip but received -1 of type number'],
  ['shuffle', 1, 'Expected a boolean for shuffle but received 1 of type number'],
  ['twoRows', 'yes', "Expected a boolean for twoRows but received 'yes' of type string"],
  ['seed', 2 ** 53, 'Expected an integer of at least 0 for seed but received 9007199254740992 of type number'],
])('%s: %p', (option, value, text) => {
  expect((): Recipe => resolveRecipe({ [option]: value })).toThrow(
    expect.objectContaining({ code: 'NEOX_BAD_ARGUMENT', message: text }) as Error,
  );
});

test('the learning rate rises from 0 over the warm-up and falls to 0 at the last step', () => {
  const recipe = { ...resolveRecipe({}), learningRate: 1, warmupSteps: 4, trainingSteps: 12 };
  const rates = Array.from({ length: 14 }, (_, step) => learningRateAt(step, recipe));
  expect(rates).toEqual([0, 0.25, 0.5, 0.75, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]);
  expect(learningRateAt(0, { ...recipe, warmupSteps: 0 })).toBe(1);
});

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
  for (const item of [0, 1, 2]) expect(Math.abs(first.filter((value) => value === item).length - 1000)).toBeLessThan(120);
});
