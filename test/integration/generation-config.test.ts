import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { GenerationEngine } from '../../lib/engine/engine';
import type { NeoXModel } from '../../lib/neox-model';
import { EXAMPLE_MODEL, loadModel, temporaryFolder } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';

const folder = temporaryFolder();
let count = 0;

/** The example model with such a generation_config.json. */
function modelWith(content: object | string): string {
  const path = folder.join(String(count++));
  mkdirSync(path);
  cpSync(EXAMPLE_MODEL, path, { recursive: true });
  const text = typeof content === 'string' ? content : JSON.stringify(content);
  writeFileSync(`${path}/generation_config.json`, text);
  return path;
}

const PROMPT = '今日は公園で';
const GREEDY = { temperature: 0, maxNewTokens: 24 } as const;
let plain: NeoXModel;
beforeAll(async () => {
  plain = await loadModel(EXAMPLE_MODEL);
});
afterAll(() => plain.dispose());

test('its end tokens end a text, for models and engines; an option and a request come first', async () => {
  const { tokens } = await plain.generate(PROMPT, GREEDY);
  const end = tokens[3] as number;
  const at = tokens.indexOf(end);
  const path = modelWith({ eos_token_id: [0, end], bos_token_id: 5 });
  await using model = await loadModel(path);
  expect(model.generation).toEqual({ eosTokenIds: [0, end], bosTokenId: 5, padTokenId: 0, defaults: {} });
  expect(await model.generate(PROMPT, GREEDY)).toMatchObject({ tokens: tokens.slice(0, at), finishReason: 'stop' });
  await using engine = new GenerationEngine(model);
  expect((await engine.generate({ ...GREEDY, prompt: PROMPT })).tokens).toEqual(tokens.slice(0, at));
  expect((await model.generate('', GREEDY)).tokens).toEqual((await model.generate([5], GREEDY)).tokens);
  expect((await model.generate(PROMPT, { ...GREEDY, eosTokenIds: [3] })).tokens).toEqual(tokens);
  // What training ends its samples by does not change.
  expect(model.config).toEqual(plain.config);
  await using without = await loadModel(path, { generationConfig: false });
  expect((await without.generate(PROMPT, GREEDY)).tokens).toEqual(tokens);
});

test('with do_sample its options are those that a request leaves open', async () => {
  const path = modelWith({ do_sample: true, temperature: 0.7, top_p: 0.8, repetition_penalty: 1.3, max_new_tokens: 9 });
  await using model = await loadModel(path);
  const own = { temperature: 0.7, topK: 50, topP: 0.8, repetitionPenalty: 1.3, maxNewTokens: 9 };
  expect(model.generation.defaults).toEqual(own);
  const same = await plain.generate(PROMPT, { ...own, seed: 3 });
  expect((await model.generate(PROMPT, { seed: 3 })).tokens).toEqual(same.tokens);
  expect((await model.generate(PROMPT, { seed: 3, topP: undefined } as object)).tokens).toEqual(same.tokens);
  const greedy = await plain.generate(PROMPT, { ...GREEDY, repetitionPenalty: 1.3 });
  expect((await model.generate(PROMPT, GREEDY)).tokens).toEqual(greedy.tokens);
  const search = await plain.generate(PROMPT, { numBeams: 2, repetitionPenalty: 1.3, maxNewTokens: 9 });
  expect((await model.generate(PROMPT, { numBeams: 2 })).tokens).toEqual(search.tokens);
});

test('without do_sample nothing of the draw counts; with an explicit false the default is greedy', async () => {
  await using silent = await loadModel(modelWith({ temperature: 0.1, top_k: 1, no_repeat_ngram_size: 2 }));
  expect(silent.generation.defaults).toEqual({ noRepeatNgramSize: 2 });
  await using greedy = await loadModel(modelWith({ do_sample: false, top_p: 0.1 }));
  expect(greedy.generation.defaults).toEqual({ temperature: 0 });
  const { tokens } = await plain.generate(PROMPT, GREEDY);
  expect((await greedy.generate(PROMPT, { maxNewTokens: 24 })).tokens).toEqual(tokens);
});

test.each<[string, object | string, RegExp]>([
  ['no JSON', '{', /generation_config.json is not usable.*it is ignored$/],
  ['a list', '[]', /it is ignored$/],
  ['an end token outside of the vocabulary', { eos_token_id: 99999 }, /eos_token_id 99999 is ignored$/],
  ['a temperature as text', { do_sample: true, temperature: 'hot' }, /temperature 'hot' is ignored$/],
  ['beams', { num_beams: 4 }, /num_beams 4 is ignored$/],
])('%s is ignored with a warning', async (_name, content, warning) => {
  await using model = await loadModel(modelWith(content));
  expect(model.generation.eosTokenIds).toEqual([3]);
  expect(model.info().warnings).toEqual([expect.stringMatching(warning)]);
});

test('inspect shows it; generate takes it where a flag is not given, and an option goes without', async () => {
  const path = modelWith({ do_sample: true, temperature: 0.7, top_k: 7, eos_token_id: [3, 9] });
  const shown = (await cli(['inspect', path])).stdout;
  expect(shown).toContain('bos 2, eos 3 or 9, pad 0, temperature 0.7, topK 7');
  const [json] = jsonLines((await cli(['inspect', path, '--json'])).stdout);
  expect(json).toMatchObject({ generation: { defaults: { temperature: 0.7, topK: 7 } } });
  const args = ['generate', '--threads', '1', '--seed', '1', '--prompt', PROMPT, '--max-new-tokens', '12', '--json'];
  const tokensOf = async (...more: string[]): Promise<unknown> => {
    const [found] = jsonLines((await cli([...args, ...more])).stdout);
    return (found?.['results'] as { tokens: number[] }[])[0]?.tokens;
  };
  const drawn = { seed: 1, maxNewTokens: 12 };
  const own = await plain.generate(PROMPT, { ...drawn, temperature: 0.7, topK: 7, eosTokenIds: [3, 9] });
  expect(await tokensOf('--model', path)).toEqual(own.tokens);
  const nucleus = await plain.generate(PROMPT, { ...drawn, topP: 0.95, topK: 50 });
  expect(await tokensOf('--model', path, '--no-generation-config')).toEqual(nucleus.tokens);
  expect(await tokensOf('--model', EXAMPLE_MODEL)).toEqual(nucleus.tokens);
});
