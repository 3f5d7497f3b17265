import { renameSync } from 'node:fs';
import { relative } from 'node:path';
import type { NeoXModel } from '../../lib/neox-model';
import { PrefixStore } from '../../lib/engine/prefix-store';
import { PrefixWeights } from '../../lib/prefix/weights';
import { expectRefusal, failureOf, loadModel, randomPrefix, temporaryFolder, wrong, type Refusal } from '../helpers';
import { alone, answerOf, forgetValues, GenerationEngine, writeModel } from './engine-helpers';

const folder = temporaryFolder();
let model: NeoXModel;
const prefix = (seed: number, length = 4): PrefixWeights => randomPrefix(model, length, seed);
/**
 * Of a prefix of four positions (4 positions, 2 layers, keys and values, 32 wide): the form that attention reads, in
 * float32.
 */
const FORM = 4 * 2 * 2 * 32 * 4;
/** The same and the values besides, which have as many bytes here. */
const BYTES = 2 * FORM;

beforeAll(async () => {
  model = await loadModel(await writeModel(folder.join('model')));
});
afterAll(() => model.dispose());

let count = 0;
const newFolder = (): string => folder.join(`spill-${count++}`);

async function saved(weights: PrefixWeights): Promise<string> {
  const path = folder.join(`prefix-${count++}.safetensors`);
  await weights.save(path);
  return path;
}

describe('names', () => {
  test('lead to the prefix that was added, by object or by file, until it is removed', async () => {
    const store = new PrefixStore(model);
    const path = await saved(prefix(2));
    const first = await store.add('b', prefix(1));
    await store.add('a', path);
    expect(first).toEqual({
      name: 'b',
      hash: prefix(1).hash,
      baseModelFingerprint: model.fingerprint,
      prefixLength: 4,
      bytes: BYTES,
      inMemory: true,
      pinned: false,
    });
    expect(store.list()).toEqual([{ ...first, name: 'a', hash: prefix(2).hash, bytes: FORM, path }, first]);
    expect((await store.get('a')).hash).toBe(prefix(2).hash);
    expect(store.has('b')).toBe(true);
    await store.remove('b');
    expect(store.has('b')).toBe(false);
    await store.add('b', prefix(3));
    expect((await store.get('b')).hash).toBe(prefix(3).hash);
  });

  test('are replaced at once, and whoever held the old one has it still', async () => {
    const store = new PrefixStore(model);
    await store.add('a', prefix(1));
    const held = store.get('a');
    const replaced = await store.replace('a', await saved(prefix(2, 6)));
    expect(replaced).toMatchObject({ name: 'a', hash: prefix(2, 6).hash, prefixLength: 6 });
    expect((await held).hash).toBe(prefix(1).hash);
    expect((await store.get('a')).hash).toBe(prefix(2, 6).hash);
    // A replacement that cannot be read changes nothing.
    expect(await failureOf(store.replace('a', folder.join('missing')))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
    expect((await store.get('a')).hash).toBe(prefix(2, 6).hash);
  });

  const none = (): PrefixStore => new PrefixStore(model);
  const some = async (): Promise<PrefixStore> => {
    const store = none();
    await store.add('smile', prefix(1));
    await store.add('polite', prefix(2));
    return store;
  };
  const refusals: Refusal[] = [
    {
      name: 'a name that is not there, near one that is',
      act: async () => (await some()).get('smlie'),
      code: 'NEOX_UNKNOWN_PREFIX',
      text: "The store has no prefix 'smlie'\nHint: did you mean 'smile'?",
    },
    {
      name: 'a name that is not there',
      act: async () => (await some()).remove('something else'),
      code: 'NEOX_UNKNOWN_PREFIX',
      text: "The store has no prefix 'something else'\nHint: it has polite, smile",
    },
    {
      name: 'any name of an empty store',
      act: () => none().replace('a', prefix(1)),
      code: 'NEOX_UNKNOWN_PREFIX',
      text: "The store has no prefix 'a'\nHint: it has none",
    },
    {
      name: 'a name that is taken',
      act: async () => (await some()).add('smile', prefix(3)),
      text: "Expected a name that is free for name but received 'smile' of type string\nHint: replace() gives a name another prefix",
    },
    {
      name: 'a name that is being added',
      act: () => {
        const store = none();
        void store.add('a', prefix(1));
        return store.add('a', prefix(2));
      },
      text: "Expected a name that is free for name but received 'a' of type string\nHint: replace() gives a name another prefix",
    },
    {
      name: 'a name with a control character',
      act: () => none().add('a\n', prefix(1)),
      text: "Expected a name of at most 256 characters, none of which is a control character, for name but received 'a\n' of type string",
    },
    {
      name: 'something else than a prefix',
      act: () => none().add('a', wrong(1)),
      text: 'Expected PrefixWeights or a path for source but received 1 of type number',
    },
    {
      name: 'a prefix of another shape',
      act: () => {
        const geometry = { prefixLength: 1, numLayers: 1, numHeads: 1, headSize: 2 };
        return none().add('a', PrefixWeights.fromTensor(new Float32Array(4), geometry));
      },
      code: 'NEOX_PREFIX_MISMATCH',
      text:
        'The prefix (tensor) does not fit the model: its shape is [1, 1, 2, 1, 2] (positions, layers, 2, heads, head size), the model takes [1, 2, 2, 2, 16]\n' +
        'Hint: use the base model that the prefix was trained on',
    },
    {
      name: 'a prefix that leaves no position for text',
      act: () => none().add('long', prefix(1, 256)),
      code: 'NEOX_TOO_LONG',
      text:
        "The prefix 'long' with a token of text needs 257 positions, prefix included, and the model has 256\n" +
        'Hint: shorten the text, or use a shorter prefix',
    },
    {
      name: 'an unknown option',
      act: () => new PrefixStore(model, wrong({ maxByte: 1 })),
      text: "Unknown option 'maxByte' in options\nHint: did you mean 'maxBytes'?",
    },
  ];
  test.each(refusals)('$name is refused', expectRefusal);
});

test('after dispose a store gives nothing', async () => {
  const store = new PrefixStore(model);
  await store.add('a', prefix(1));
  const late = store.add('b', prefix(2));
  const first = store.dispose();
  expect(store.dispose()).toBe(first);
  await first;
  const refused = { code: 'NEOX_DISPOSED', message: 'This prefix store is disposed' };
  expect(await failureOf(late)).toMatchObject(refused);
  for (const use of [
    () => store.get('a'),
    () => store.add('c', prefix(1)),
    () => store.remove('a'),
    () => store.pin('a'),
  ])
    expect(await failureOf(use)).toMatchObject(refused);
  await using scoped = new PrefixStore(model);
  expect(scoped.list()).toEqual([]);
});

describe('an engine', () => {
  const greedy = { prompt: [5, 6, 7, 8, 9, 10], temperature: 0, maxNewTokens: 12 } as const;

  test('takes prefixes by name, also those that have left memory', async () => {
    const prefixes = new PrefixStore(model, { maxBytes: 2 * FORM, spillFolder: newFolder() });
    const weights = Array.from({ length: 6 }, (_, i) => prefix(20 + i));
    // Copies, which nobody else has, half of them from files.
    for (let i = 0; i < 6; i++)
      await prefixes.add(`task ${i}`, i % 2 === 0 ? prefix(20 + i) : await saved(prefix(20 + i)));
    await forgetValues();
    await using engine = new GenerationEngine(model, { prefixes });
    const requests = Array.from({ length: 60 }, (_, i) => i % 6);
    const results = await Promise.all(requests.map((i) => engine.generate({ ...greedy, prefix: `task ${i}` })));
    for (const [k, result] of results.entries())
      expect(answerOf(result)).toEqual(await alone(model, { ...greedy, prefix: weights[requests[k] as number] }));
    expect(results[0]?.usage.prefixTokens).toBe(4);
  });

  test('is never without the prefix that was named', async () => {
    const prefixes = new PrefixStore(model);
    await prefixes.add('smile', prefix(1));
    await using engine = new GenerationEngine(model, { prefixes });
    await expectRefusal({
      name: '',
      act: () => engine.stream({ ...greedy, prefix: 'smiel' }),
      code: 'NEOX_UNKNOWN_PREFIX',
      text: "The store has no prefix 'smiel'\nHint: did you mean 'smile'?",
    });
    await using without = new GenerationEngine(model);
    await expectRefusal({
      name: '',
      act: () => without.generate({ ...greedy, prefix: 'smile' }),
      text: "Expected PrefixWeights for prefix but received 'smile' of type string\nHint: names are those of the engine's option prefixes, a PrefixStore",
    });
    await expectRefusal({
      name: '',
      act: () => new GenerationEngine(model, { prefixes: wrong({}) }),
      text: 'Expected a PrefixStore of the same model for prefixes but received an object of type object',
    });
    await expectRefusal({
      name: '',
      act: () => engine.generate({ prompt: Array(255).fill(1), prefix: 'smile' }),
      code: 'NEOX_TOO_LONG',
      text: 'Prompt 0 needs 259 positions, prefix included, and the model has 256\nHint: shorten the text, or use a shorter prefix',
    });
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0 });
  });

  test('fails a request whose prefix cannot be read, and only it', async () => {
    const prefixes = new PrefixStore(model, { maxBytes: FORM });
    const path = await saved(prefix(1));
    await prefixes.add('gone', path);
    await prefixes.add('there', await saved(prefix(2)));
    renameSync(path, folder.join('moved'));
    await using engine = new GenerationEngine(model, { prefixes });
    const stream = engine.stream({ ...greedy, prefix: 'gone' });
    const good = engine.generate({ ...greedy, prefix: 'there' });
    expect(await failureOf(stream.next())).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND', path });
    expect(answerOf(await good)).toEqual(await alone(model, { ...greedy, prefix: prefix(2) }));
    expect(engine.stats()).toMatchObject({ failed: 1, completed: 1, running: 0, waiting: 0 });
  });

  test('a pin that fails leaves the prefix as it was, and a path means the same wherever the process is', async () => {
    const path = await saved(prefix(1));
    const store = new PrefixStore(model, { maxBytes: FORM });
    await store.add('a', relative(process.cwd(), path));
    await store.add('b', await saved(prefix(2)));
    expect(store.list()).toMatchObject([{ name: 'a', path, inMemory: false }, { name: 'b' }]);
    renameSync(path, `${path}.away`);
    expect(await failureOf(store.pin('a'))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND' });
    expect(store.list()[0]).toMatchObject({ pinned: false });
    renameSync(`${path}.away`, path);
    const before = process.cwd();
    process.chdir(folder.path);
    try {
      expect((await store.get('a')).hash).toBe(prefix(1).hash);
    } finally {
      process.chdir(before);
    }
    await store.dispose();
  });

  test('two replacements at once that both find no room leave the old one', async () => {
    // Pinned prefixes stay; their values are written meanwhile, so that one replacement is under way when the other
    // comes.
    const store = new PrefixStore(model, { maxBytes: BYTES, spillFolder: newFolder() });
    await store.add('a', prefix(1));
    await store.pin('a');
    const failures = await Promise.all([2, 3].map((seed) => failureOf(store.replace('a', prefix(seed, 40)))));
    expect(failures.map((error) => (error as { code?: string }).code)).toEqual([
      'NEOX_OUT_OF_MEMORY',
      'NEOX_OUT_OF_MEMORY',
    ]);
    expect((await store.get('a')).hash).toBe(prefix(1).hash);
    expect(store.list()).toMatchObject([{ name: 'a', hash: prefix(1).hash, inMemory: true, pinned: true }]);
    await store.dispose();
  });

  test('replaced and removed under load: a request keeps the prefix that its name meant', async () => {
    const prefixes = new PrefixStore(model, { maxBytes: FORM, spillFolder: newFolder() });
    const seeds = [1, 2, 3] as const;
    const paths = await Promise.all(seeds.map((seed) => saved(prefix(seed))));
    const expected = await Promise.all(seeds.map((seed) => alone(model, { ...greedy, prefix: prefix(seed) })));
    expect(new Set(expected.map(({ tokens }) => String(tokens))).size).toBe(3);
    await using engine = new GenerationEngine(model, { maxRows: 3, prefixes });
    await prefixes.add('task', prefix(seeds[0]));
    await prefixes.add('other', prefix(4));
    const works: Promise<void>[] = [];
    let version = 0;
    for (let round = 0; round < 12; round++) {
      const meant = expected[version];
      for (let i = 0; i < 6; i++)
        works.push(
          engine.generate({ ...greedy, prefix: 'task' }).then((result) => expect(answerOf(result)).toEqual(meant)),
        );
      version = (version + 1) % 3;
      const source = round % 2 === 0 ? paths[version]! : prefix(seeds[version]!);
      if (round % 4 === 3) {
        await prefixes.remove('task');
        expect(await failureOf(engine.generate({ ...greedy, prefix: 'task' }))).toMatchObject({
          code: 'NEOX_UNKNOWN_PREFIX',
        });
        await prefixes.add('task', source);
      } else {
        await prefixes.replace('task', source);
      }
    }
    await Promise.all(works);
    expect(engine.stats().completed).toBe(72);
  });
});
