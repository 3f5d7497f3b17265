import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { PACKAGE_ROOT } from '../../lib/base/package';

/** A project that depends on the packed package, which npm installs with all that it depends on, scripts allowed. */
let project: string;

function run(command: string, ...args: string[]): string {
  // A run of npm that began the tests must not say where to work.
  const own = Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle)_/.test(name));
  const quiet = { npm_config_loglevel: 'error', npm_config_audit: 'false', npm_config_fund: 'false' };
  const env = { ...Object.fromEntries(own), ...quiet };
  return execFileSync(command, args, { cwd: project, encoding: 'utf8', env, stdio: 'pipe' }).trim();
}

beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'neox-project-'));
  const [archive] = JSON.parse(
    run('npm', 'pack', PACKAGE_ROOT, '--json', '--ignore-scripts', '--pack-destination', project),
  ) as [{ filename: string }];
  const manifest = { name: 'project', private: true, dependencies: { 'neox-prefix': `file:${archive.filename}` } };
  writeFileSync(join(project, 'package.json'), JSON.stringify(manifest));
});
afterAll(() => rmSync(project, { recursive: true, force: true }));

const version = (): string => run(process.execPath, '-p', "require('neox-prefix/package.json').version");
const names = (): string => run(process.execPath, '-p', "typeof require('neox-prefix').NeoXModel.load");

// A package with a binding.gyp has npm run node-gyp in `npm ci` and `npm rebuild`, whatever "gypfile" says.
test('npm install, npm ci and npm rebuild install it and build nothing', () => {
  run('npm', 'install', '--prefer-offline');
  expect(names()).toBe('function');
  run('npm', 'ci', '--prefer-offline');
  run('npm', 'rebuild');
  expect([version(), names()]).toEqual([
    (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string }).version,
    'function',
  ]);
}, 300_000);

test('it works under Jest as Jest is', () => {
  // Where the addon of this checkout and its libtorch are.
  for (const name of ['build', '.libtorch']) {
    const target = join(PACKAGE_ROOT, name);
    symlinkSync(target, join(project, 'node_modules', 'neox-prefix', name));
  }
  mkdirSync(join(project, 'test'));
  writeFileSync(join(project, 'test', 'stock.test.js'), STOCK_TEST);
  writeFileSync(join(project, 'jest.config.js'), 'module.exports = {};');
  const jest = join(dirname(require.resolve('jest/package.json', { paths: [PACKAGE_ROOT] })), 'bin', 'jest.js');
  const json = run(process.execPath, jest, '--json', '--silent', '--forceExit');
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(json.slice(json.indexOf('{'))) as {
    numPassedTests: number;
    numFailedTests: number;
    testResults: { message: string }[];
  };
  expect(testResults.map(({ message }) => message).join('')).toBe('');
  expect([numPassedTests, numFailedTests]).toEqual([6, 0]);
}, 120_000);

const STOCK_TEST = `
const { mkdtempSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { GenerationEngine, NeoXModel, NeoXPrefixError, PrefixTrainer, PrefixWeights, Tokenizer } = require('neox-prefix');

const MODEL = ${JSON.stringify(join(PACKAGE_ROOT, 'examples', 'models', 'tiny-ja-neox'))};
const folder = mkdtempSync(join(tmpdir(), 'neox-stock-'));
let model;
beforeAll(async () => { model = await NeoXModel.load(MODEL, { threads: 1 }); });
afterAll(() => model.dispose());

const prefix = () => {
  const { numLayers, numHeads, headSize } = model.config;
  const data = new Float32Array(2 * numLayers * 2 * numHeads * headSize).fill(0.1);
  return PrefixWeights.fromTensor(data, { prefixLength: 2, numLayers, numHeads, headSize });
};

test('errors of files and of the addon have a code', async () => {
  await expect(NeoXModel.load(join(folder, 'nothing'))).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
  await expect(PrefixWeights.load(join(folder, 'nothing'))).rejects.toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
  await expect(model.generate([99999])).rejects.toThrow(NeoXPrefixError);
});
test('generates, streams and serves from text and ids', async () => {
  const ids = model.tokenizer.encode('今日は');
  const options = { maxNewTokens: 4, seed: 1, prefix: prefix(), logitBias: new Map([[5, 1]]) };
  const { text, tokens } = await model.generate(ids, options);
  expect((await model.generate(Array.from(ids), options)).text).toBe(text);
  const pieces = [];
  for await (const piece of model.stream(ids, options)) pieces.push(piece.text);
  expect(pieces.join('')).toBe(text);
  await using_(new GenerationEngine(model), async (engine) => {
    expect((await engine.generate({ prompt: ids, ...options })).tokens).toEqual(tokens);
  });
  expect((await model.generate('答え: ', { format: { choices: ['はい', 'いいえ'] } })).text).toMatch(/はい|いいえ/);
});
test('samples from logits', async () => {
  const { logits } = await model.forward({ inputIds: [Int32Array.of(5, 6)], logits: 'last' });
  expect(model.createSampler({ temperature: 0 }).next(logits.data.subarray(-model.config.vocabSize))).toBeDefined();
  expect(model.createSampler({ temperature: 0 }).next(new Float32Array(model.config.vocabSize).fill(1))).toBeDefined();
});
test('writes and reads a prefix', async () => {
  const path = join(folder, 'prefix.safetensors');
  await prefix().save(path);
  expect((await PrefixWeights.load(path, { config: model.config })).prefixLength).toBe(2);
  expect((await Tokenizer.load(MODEL)).decode(Int32Array.of(5, 6))).not.toBe('');
});
test('trains on ids', async () => {
  const sample = { prompt: Int32Array.of(5), completion: [6, 7, 8] };
  const options = { prefixLength: 2, hiddenDim: 8, initSteps: 1, epochs: 1, outputDir: join(folder, 'run'), name: 'x' };
  const { best } = await new PrefixTrainer(model, options).train({ train: [sample, sample], validation: [sample] });
  expect(best.prefixLength).toBe(2);
});
test('scores and embeds', async () => {
  const [{ logprob }] = await model.score(Int32Array.of(5), [Int32Array.of(6)]);
  expect(logprob).toBeLessThan(0);
  expect(await model.embed([Int32Array.of(5)])).toHaveLength(1);
});
async function using_(resource, use) {
  try { await use(resource); } finally { await resource.dispose(); }
}
`;
