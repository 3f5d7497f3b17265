import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { native } from '../../lib/addon/addon';
import { ACTIVATION_ALIASES, ACTIVATIONS } from '../../lib/architecture/activations';
import type { Logits } from '../../lib/model/forward';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixWeights } from '../../lib/prefix/weights';
import { type Backend, backendsFor, loadModel, NATIVE_TRAINER, temporaryFolder } from '../helpers';
import { TOLERANCES } from '../tolerances';
import { difference, GOLDEN_DIRECTORY, readJson, readTensors, relativeDifference } from './fixtures';

/** What scripts/golden/variants.py writes: one model's weights under other configurations. */
interface Variants {
  readonly row: readonly number[];
  readonly split: number;
  readonly prefixLength: number;
  readonly cases: Readonly<
    Record<string, { config: Record<string, unknown>; greedy: Record<'base' | 'prefix', number[]> }>
  >;
}

const DIRECTORY = join(__dirname, '..', 'fixtures', 'variants');
const SOURCE = join(GOLDEN_DIRECTORY, 'sequential');
const { row, split, prefixLength, cases } = readJson(join(DIRECTORY, 'reference.json')) as Variants;
const golden = readTensors(join(DIRECTORY, 'reference.safetensors'));
const temporary = temporaryFolder();

/** The folder of `sequential` with some keys of its config.json changed; null: left out. */
function variant(name: string): string {
  const config = { ...(readJson(join(SOURCE, 'config.json')) as object), ...cases[name]?.config };
  const kept = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null));
  const folder = temporary.join(name);
  cpSync(SOURCE, folder, { recursive: true, filter: (file) => !file.includes('reference') });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(kept));
  return folder;
}

function last({ data, shape }: Logits): Float32Array {
  return data.subarray(data.length - 3 * shape[2]);
}

function expectClose(actual: Logits | null, name: string): void {
  const { max, mean } = difference(last(actual as Logits), golden.get(name).data);
  const { logits, logitsMean } = TOLERANCES.float32;
  expect([max <= logits || max, mean <= logitsMean || mean]).toEqual([true, true]);
}

const names = Object.keys(cases);
const each = (kinds: readonly string[], backends: readonly Backend[]): [string, Backend][] =>
  kinds.flatMap((name) => backends.map((backend): [string, Backend] => [name, backend]));

describe.each(each(names, backendsFor('float32')))('%s, %s', (name, backend) => {
  let model: NeoXModel;
  let past: Record<'base' | 'prefix', { pastKeyValues?: PrefixWeights }>;

  beforeAll(async () => {
    model = await loadModel(variant(name), { dtype: 'float32', backend });
    const { numLayers, numHeads, headSize } = model.config;
    const shape = { prefixLength, numLayers, numHeads, headSize };
    past = { base: {}, prefix: { pastKeyValues: PrefixWeights.fromTensor(golden.get('prefix').data, shape) } };
  });
  afterAll(() => model.dispose());

  test.each(['base', 'prefix'] as const)("%s: transformers' logits, whole and in two calls", async (kind) => {
    const inputIds = [[...row]];
    expectClose((await model.forward({ inputIds, ...past[kind] })).logits, `${name}.${kind}`);
    const first = await model.forward({ inputIds: [row.slice(0, split)], ...past[kind] });
    const rest = await model.forward({ inputIds: [row.slice(split)], pastKeyValues: first.pastKeyValues });
    expectClose(rest.logits, `${name}.${kind}.split`);
  });

  test("PyTorch's gradient of the prefix", async () => {
    const addon = native();
    const options = { prefixLength, projection: false, inputDim: 1, hiddenDim: 1, dropout: 0, seed: 1 };
    const encoder = await addon.createEncoder(model.native, options);
    await addon.setEncoderState(model.native, encoder, { 'prefix_wte.weight': golden.get('prefix').data });
    const trainer = await addon.createTrainer(model.native, encoder, NATIVE_TRAINER);
    const batch = { tokens: Int32Array.from(row), targets: Int32Array.from([...row.slice(1), -1]) };
    const lengths = Int32Array.of(row.length);
    await addon.trainerAccumulate(model.native, trainer, { ...batch, lengths, lossScale: 1 });
    const { 'prefix_wte.weight': gradient } = await addon.trainerGradients(model.native, trainer, encoder);
    const apart = relativeDifference(gradient as Float32Array, golden.get(`${name}.gradient`).data);
    expect(apart).toBeLessThanOrEqual(TOLERANCES.float32.gradientRelative);
  });

  test("transformers' greedy tokens, from one call to the next", async () => {
    for (const kind of ['base', 'prefix'] as const) {
      const expected = cases[name]?.greedy[kind] as number[];
      const { pastKeyValues: prefix } = past[kind];
      const { tokens } = await model.generate(row.slice(0, split), {
        temperature: 0,
        maxNewTokens: expected.length,
        ignoreEos: true,
        ...(prefix === undefined ? {} : { prefix }),
      });
      expect([...tokens]).toEqual(expected);
    }
  });
});

test('every activation of the table has a case, and every rotary scaling', () => {
  const activations = names.filter((name) => name.startsWith('act-')).map((name) => name.slice(4));
  expect(activations.sort()).toEqual([...ACTIVATIONS, ...Object.keys(ACTIVATION_ALIASES)].sort());
  const types = new Set(names.map((name) => name.split('-')[0]));
  for (const type of ['linear', 'yarn', 'llama3', 'longrope']) expect(types).toContain(type);
});
