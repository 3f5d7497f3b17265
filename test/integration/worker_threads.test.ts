import { EXAMPLE_MODEL, runProgram, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
beforeAll(() =>
  writeRandomModel(folder.path, {
    hidden_size: 128,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    intermediate_size: 512,
    max_position_embeddings: 1024,
  }),
);

/** The program's result; it must have ended well. */
async function run(way: string, model = folder.path): Promise<Record<string, unknown>> {
  const { code, signal, stdout, stderr } = await runProgram('workers', [model, way]);
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' });
  return JSON.parse(stdout) as Record<string, unknown>;
}

test('two workers and the main thread load and generate the same', async () => {
  const { tokens, main, codes } = await run('generate');
  expect(main).toHaveLength(12);
  expect(tokens).toEqual([main, main]);
  expect(codes).toEqual([0, 0]);
});

test('texts with a format, in two workers', async () => {
  expect(await run('a format', EXAMPLE_MODEL)).toEqual({ texts: ['はい', 'はい'], codes: [0, 0] });
});

test('workers that are terminated while they train take nothing with them', async () => {
  expect(await run('terminate')).toEqual({ codes: [1, 1, 1], main: 12 });
});

test('so are workers that are terminated while they load', async () => {
  expect(await run('terminate while loading')).toEqual({ codes: [1, 1, 1] });
});

test('and in the middle of a call, of one that throws, too', async () => {
  expect(await run('terminate while it calls')).toEqual({});
});

test('and while an engine of theirs works', async () => {
  expect(await run('terminate while an engine works')).toEqual({ codes: [1, 1, 1] });
});

test('one that is terminated ends at once, although operations wait behind the one that runs', async () => {
  const { code, milliseconds } = await run('terminate while operations wait');
  expect(code).toBe(1);
  // The one that runs would take most of a minute.
  expect(milliseconds).toBeLessThan(3000);
});

test('an error in a worker reaches its parent', async () => {
  expect(await run('throw')).toEqual({ error: 'in the worker', code: 1 });
});

test('a worker that exits while it trains ends with its own code', async () => {
  expect(await run('exit')).toEqual({ code: 5 });
});

test('a process that ends while its workers work', async () => {
  expect(await run('end with workers at work')).toEqual({ ending: true });
});
