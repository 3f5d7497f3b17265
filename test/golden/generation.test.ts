import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NeoXModel } from '../../lib/neox-model';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { backendsFor, loadModel, temporaryFolder } from '../helpers';
import { GOLDEN_KINDS, goldenModelNames, goldenPrefix, loadGoldenModel } from './fixtures';

const GREEDY = { temperature: 0, ignoreEos: true } as const;

describe.each(goldenModelNames())('greedy tokens of the model %s', (name) => {
  const golden = loadGoldenModel(name);
  const { rows, newTokens, greedy, prefixLength } = golden.reference;

  describe.each(backendsFor('float32'))('%s', (backend) => {
    let model: NeoXModel;
    let prefix: PrefixWeights;
    beforeAll(async () => {
      model = await loadModel(golden.directory, { dtype: 'float32', backend });
      prefix = goldenPrefix(model, golden);
    });
    afterAll(() => model.dispose());

    const requests = rows.flatMap((row, i) =>
      GOLDEN_KINDS.map((kind) => ({ kind, row, tokens: greedy[kind][i] as number[] })),
    );

    test('each row alone, in a batch of mixed prefixes, and streamed', async () => {
      const options = { ...GREEDY, maxNewTokens: newTokens };
      const batch = await model.generate(
        requests.map(({ row }) => row),
        { ...options, prefix: requests.map(({ kind }) => (kind === 'prefix' ? prefix : undefined)) },
      );
      for (const [k, { kind, row, tokens }] of requests.entries()) {
        const own = { ...options, prefix: kind === 'prefix' ? prefix : undefined };
        const alone = await model.generate(Int32Array.from(row), own);
        expect(alone).toEqual({
          text: '',
          tokens,
          finishReason: 'length',
          usage: {
            promptTokens: row.length,
            prefixTokens: kind === 'prefix' ? prefixLength : 0,
            completionTokens: tokens.length,
          },
        });
        expect(batch[k]).toEqual(alone);
        const streamed: number[] = [];
        for await (const piece of model.stream([...row], own))
          if (piece.token !== undefined) streamed.push(piece.token);
        expect(streamed).toEqual(tokens);
      }
    });

    test('drawing from the single best token is greedy', async () => {
      const { row, kind, tokens } = requests.at(-1) as (typeof requests)[number];
      const options = {
        ignoreEos: true,
        maxNewTokens: newTokens,
        prefix: kind === 'prefix' ? prefix : undefined,
        seed: 3,
      };
      expect((await model.generate([...row], { ...options, topK: 1 })).tokens).toEqual(tokens);
      expect((await model.generate([...row], { ...options, topP: 1e-6 })).tokens).toEqual(tokens);
    });
  });
});

describe('the end of a generation', () => {
  const folder = temporaryFolder();
  const golden = loadGoldenModel('sequential');
  const row = golden.reference.rows[1] as number[];
  const tokens = golden.reference.greedy.base[1] as number[];
  // The model with other end tokens; the one that comes first ends the text.
  const end = tokens[7] as number;
  const before = tokens.slice(0, tokens.indexOf(end));
  let model: NeoXModel;

  beforeAll(async () => {
    const config = JSON.parse(readFileSync(join(golden.directory, 'config.json'), 'utf8')) as object;
    writeFileSync(folder.join('config.json'), JSON.stringify({ ...config, eos_token_id: [126, end] }));
    copyFileSync(join(golden.directory, 'model.safetensors'), folder.join('model.safetensors'));
    model = await loadModel(folder.path);
  });
  afterAll(() => model.dispose());

  test('is at an end token, which is no part of the result', async () => {
    const result = await model.generate(row, { temperature: 0 });
    expect(result).toMatchObject({ tokens: before, finishReason: 'stop', usage: { completionTokens: before.length } });
    const pieces = [];
    for await (const piece of model.stream(row, { temperature: 0 })) pieces.push(piece);
    expect(pieces.map(({ token }) => token)).toEqual([...before, undefined]);
    expect(pieces.at(-1)).toEqual({
      text: '',
      finishReason: 'stop',
      usage: { promptTokens: row.length, prefixTokens: 0, completionTokens: before.length },
    });
  });

  test('of one row leaves the others in the batch as they are', async () => {
    const other = golden.reference.rows[3] as number[];
    const alone = await model.generate(other, { temperature: 0, maxNewTokens: 20 });
    const [first, second] = await model.generate([row, other], { temperature: 0, maxNewTokens: 20 });
    expect(first).toMatchObject({ tokens: before, finishReason: 'stop' });
    expect(second).toEqual(alone);
  });

  test('is at maxNewTokens, which may be 0', async () => {
    const one = await model.generate(row, { temperature: 0, maxNewTokens: before.length });
    expect(one).toMatchObject({ tokens: before, finishReason: 'length' });
    expect(await model.generate([row, row], { maxNewTokens: 0 })).toMatchObject([
      { tokens: [] },
      { tokens: [], finishReason: 'length' },
    ]);
  });

  test('comes after the start token for a prompt without tokens', async () => {
    const empty = await model.generate(new Int32Array(0), { temperature: 0, maxNewTokens: 5 });
    expect(empty).toEqual(
      await model.generate([model.config.bosTokenId as number], { temperature: 0, maxNewTokens: 5 }),
    );
  });
});
