import { mkdirSync } from 'node:fs';
import { inspect } from 'node:util';
import * as api from '../../lib/index';
import type { NeoXModel, PrefixWeights } from '../../lib/index';
import {
  expectRefusal,
  loadModel,
  randomPrefix,
  temporaryFolder,
  writeRandomModel,
  wrong,
  type Refusal,
} from '../helpers';

const folder = temporaryFolder();
let model: NeoXModel;
let prefix: PrefixWeights;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  model = await loadModel(await writeRandomModel(folder.join('model')));
  prefix = randomPrefix(model, 4);
});
afterAll(() => model.dispose());

const NUL = 'a\0b';
const shownNul = (name: string): string =>
  `Expected a path without NUL characters for ${name} but received 'a\\u0000b' of type string`;
const REFUSALS: Refusal[] = [
  { name: 'a NUL in the path of a model', act: () => api.NeoXModel.load(NUL), text: shownNul('directory') },
  { name: 'a NUL in the path of a checkpoint', act: () => api.openCheckpoint(NUL), text: shownNul('dir') },
  { name: 'a NUL in the path of a prefix', act: () => api.PrefixWeights.load(NUL), text: shownNul('path') },
  { name: 'a NUL in a path to save to', act: () => prefix.save(NUL), text: shownNul('path') },
  { name: 'a NUL in the path of an encoder', act: () => api.PrefixEncoder.load(model, NUL), text: shownNul('path') },
  { name: 'a NUL in the path of a tokenizer', act: () => api.Tokenizer.load(NUL), text: shownNul('dirOrFile') },
  { name: 'a NUL in the path of data', act: () => api.readDataset(['x.txt', NUL]), text: shownNul('paths[1]') },
  { name: 'a NUL in the path of an export', act: () => new api.FTExporter(model).export(NUL), text: shownNul('dir') },
  {
    name: 'a NUL in the path of a verification',
    act: () => new api.FTExporter(model).verify(NUL),
    text: shownNul('dir'),
  },
  {
    name: 'a NUL in the path of a repository',
    act: () => api.exportTritonRepository(model, NUL),
    text: shownNul('dir'),
  },
  { name: 'a NUL in the path of a conversion', act: () => api.convertPrefix('a', NUL), text: shownNul('to') },
  {
    name: 'splitDataset: no samples',
    act: () => api.splitDataset(wrong(null), { train: 1, validation: 1 }),
    text: 'Expected an array for samples but received null of type null',
  },
  {
    name: 'splitDataset: no counts',
    act: () => api.splitDataset([], wrong(undefined)),
    text: 'Expected an integer of at least 1 for train but received undefined of type undefined',
  },
  {
    name: 'splitDataset: a misspelled count',
    act: () => api.splitDataset([], wrong({ train: 1, valid: 1 })),
    text: "Unknown option 'valid' in counts\nHint: known options: train, validation",
  },
  {
    name: 'parseInstructionAnswer: no text',
    act: () => api.parseInstructionAnswer(wrong(null)),
    text: 'Expected a string for text but received null of type null',
  },
  {
    name: 'fromState: no state',
    act: () => api.PrefixEncoder.fromState(model, wrong(null)),
    text: 'Expected an object of tensors by name for state but received null of type null',
  },
  {
    name: 'fromState: a tensor that is none',
    act: () => api.PrefixEncoder.fromState(model, wrong({ 'prefix_wte.weight': null })),
    text: "Expected an object with data and shape for state['prefix_wte.weight'] but received null of type null",
  },
  {
    name: 'fromState: data of another kind',
    act: () => api.PrefixEncoder.fromState(model, wrong({ 'prefix_wte.weight': { data: [1], shape: [1, 1] } })),
    text: "Expected a Float32Array for state['prefix_wte.weight'].data but received an array of 1 of type array",
  },
  {
    name: 'fromState: no shape',
    act: () => api.PrefixEncoder.fromState(model, wrong({ 'prefix_wte.weight': { data: new Float32Array(1) } })),
    text: "Expected an array of sizes for state['prefix_wte.weight'].shape but received undefined of type undefined",
  },
  {
    name: 'checkFits: no config',
    act: () => prefix.checkFits(wrong(null)),
    text: 'Expected a model or its config for config but received null of type null',
  },
  {
    name: 'tasks in a Map',
    act: () => new api.FTExporter(model).export(folder.join('export'), wrong({ tasks: new Map([['smile', prefix]]) })),
    text: 'Expected a plain object of prefixes by task name for tasks but received a Map of type object\nHint: use Object.fromEntries(tasks)',
  },
];

test.each(REFUSALS)('$name', expectRefusal);

test('console.log shows one line of each object, without its insides', async () => {
  const { pastKeyValues } = await model.forward({ inputIds: [[1, 2], [3]], pastKeyValues: [prefix, undefined] });
  using encoder = await api.PrefixEncoder.create(model, { init: 'zero' });
  expect(inspect([model, pastKeyValues, prefix, prefix.withMetadata({ task: 'smile' }), encoder], { breakLength: 1 }))
    .toBe(`[
  NeoXModel(${folder.join('model')}: 2 layers of 32, float32 on cpu),
  KVCache(prefix+tokens of 2 rows: 4+2, 0+1),
  PrefixWeights([4, 2, 2, 2, 16], from tensor),
  PrefixWeights('smile' [4, 2, 2, 2, 16], from tensor),
  PrefixEncoder(prefixLength 10, inputDim 10, hiddenDim 10)
]`);
  pastKeyValues.dispose();
  encoder.dispose();
  expect([pastKeyValues, encoder].map((item) => inspect(item))).toEqual([
    'KVCache(prefix+tokens of 2 rows: 4+2, 0+1; disposed)',
    'PrefixEncoder(prefixLength 10, inputDim 10, hiddenDim 10, disposed)',
  ]);
});
