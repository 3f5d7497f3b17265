import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import type { NeoXModel } from '../../lib/neox-model';
import { native } from '../../lib/addon/addon';
import { PrefixStore } from '../../lib/engine/prefix-store';
import type { PrefixWeights } from '../../lib/prefix/weights';
import { expectRefusal, failureOf, loadModel, randomPrefix, temporaryFolder } from '../helpers';
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

const inMemory = (store: PrefixStore): string[] =>
  store
    .list()
    .filter((entry) => entry.inMemory)
    .map(({ name }) => name);

describe('memory', () => {
  test('has what was used last; the rest comes back from the spill folder as it was', async () => {
    const spillFolder = newFolder();
    const store = new PrefixStore(model, { maxBytes: 2 * FORM, spillFolder });
    const named = (): PrefixWeights => prefix(1).withMetadata({ task: 'first' });
    await store.add('a', named());
    // Nothing is written before it is needed.
    expect(existsSync(spillFolder)).toBe(false);
    await store.add('b', prefix(2));
    expect(inMemory(store)).toEqual(['a', 'b']);
    await store.add('c', prefix(3));
    expect(inMemory(store)).toEqual(['b', 'c']);
    await forgetValues();
    const back = await store.get('a');
    expect(back.data).toEqual(named().data);
    expect(back.metadata.task).toBe('first');
    expect(inMemory(store)).toEqual(['a', 'c']);
    await store.get('c');
    await store.get('b');
    expect(inMemory(store)).toEqual(['b', 'c']);
    for (const [name, seed] of [
      ['a', 1],
      ['b', 2],
      ['c', 3],
    ] as const) {
      await forgetValues();
      expect((await store.get(name)).hash).toBe(prefix(seed).hash);
    }
    expect(readdirSync(spillFolder)).toHaveLength(3);
    await store.remove('b');
    expect(readdirSync(spillFolder)).toHaveLength(2);
    await store.dispose();
    expect(readdirSync(spillFolder)).toEqual([]);
  });

  test('without a spill folder, files are read again, and objects stay', async () => {
    const store = new PrefixStore(model, { maxBytes: 2 * BYTES });
    await store.add('object', prefix(1));
    await store.add('file', await saved(prefix(2)));
    await store.add('other file', await saved(prefix(3)));
    await store.add('third file', await saved(prefix(8)));
    expect(inMemory(store)).toEqual(['object', 'other file', 'third file']);
    await store.add('another object', prefix(4));
    expect(inMemory(store)).toEqual(['another object', 'object']);
    expect((await store.get('file')).hash).toBe(prefix(2).hash);
    await expectRefusal({
      name: 'full',
      act: () => store.add('one more', prefix(5)),
      code: 'NEOX_OUT_OF_MEMORY',
      text: `The prefix 'one more' takes ${BYTES} bytes, and the store has 0 of ${2 * BYTES} left\nHint: raise maxBytes, unpin some, or give the store a spillFolder`,
    });
    expect(store.has('one more')).toBe(false);
    await store.replace('object', prefix(6));
    const larger = prefix(7, 8);
    expect(await failureOf(store.replace('object', larger))).toMatchObject({ code: 'NEOX_OUT_OF_MEMORY' });
    expect((await store.get('object')).hash).toBe(prefix(6).hash);
    expect(store.list().map(({ name }) => name)).toEqual([
      'another object',
      'file',
      'object',
      'other file',
      'third file',
    ]);
  });

  test('keeps what is pinned', async () => {
    const store = new PrefixStore(model, { maxBytes: 2 * FORM, spillFolder: newFolder() });
    for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) await store.add(name, prefix(i));
    await store.pin('a');
    await store.pin('b');
    expect(inMemory(store)).toEqual(['a', 'b']);
    // Given out, and not kept.
    expect((await store.get('c')).hash).toBe(prefix(2).hash);
    expect(inMemory(store)).toEqual(['a', 'b']);
    expect(store.list().map(({ pinned }) => pinned)).toEqual([true, true, false, false]);
    await store.replace('a', prefix(9));
    expect(store.list()[0]).toMatchObject({ pinned: true, inMemory: true, hash: prefix(9).hash });
    await store.unpin('b');
    await store.get('c');
    expect(inMemory(store)).toEqual(['a', 'c']);
  });

  test('asked for by many at once, a prefix is read once', async () => {
    const store = new PrefixStore(model, { maxBytes: FORM });
    await store.add('a', await saved(prefix(1)));
    await store.add('b', await saved(prefix(2)));
    expect(inMemory(store)).toEqual(['b']);
    const many = await Promise.all(Array.from({ length: 5 }, () => store.get('a')));
    expect(new Set(many).size).toBe(1);
  });

  test('a prefix that was removed or replaced while it is read reaches who asked before', async () => {
    const spillFolder = newFolder();
    const store = new PrefixStore(model, { maxBytes: 2 * FORM, spillFolder });
    for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) await store.add(name, prefix(i + 1));
    expect(inMemory(store)).toEqual(['c', 'd']);
    await forgetValues();
    const removed = store.get('a');
    const replaced = store.get('b');
    await Promise.all([store.remove('a'), store.replace('b', prefix(5))]);
    expect((await removed).hash).toBe(prefix(1).hash);
    expect((await replaced).hash).toBe(prefix(2).hash);
    // They have no room in the store any more.
    expect(inMemory(store)).toEqual(['b', 'd']);
    expect((await store.get('b')).hash).toBe(prefix(5).hash);
    await store.dispose();
    expect(readdirSync(spillFolder)).toEqual([]);
  });

  test('a file that is another prefix now, damaged or gone is an error and never that other prefix', async () => {
    const store = new PrefixStore(model, { maxBytes: BYTES });
    const path = await saved(prefix(1));
    await store.add('a', path);
    await store.add('b', await saved(prefix(2)));
    await store.add('c', await saved(prefix(3)));
    renameSync(await saved(prefix(7)), path);
    await expectRefusal({
      name: 'another',
      act: () => store.get('a'),
      code: 'NEOX_BAD_PREFIX',
      text: `${path} is not the prefix 'a' any more: its values have changed\nHint: replace() takes the file as it is now`,
    });
    writeFileSync(path, 'no prefix');
    expect(await failureOf(store.get('a'))).toMatchObject({ name: 'NeoXPrefixError', path });
    renameSync(path, folder.join('gone'));
    expect(await failureOf(store.get('a'))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND', path });
    expect((await store.get('b')).hash).toBe(prefix(2).hash);
    await store.replace('a', prefix(8));
    expect((await store.get('a')).hash).toBe(prefix(8).hash);
  });

  test('a spill folder that cannot be written', async () => {
    const spillFolder = folder.join('a-file');
    writeFileSync(spillFolder, '');
    const store = new PrefixStore(model, { maxBytes: BYTES, spillFolder });
    await store.add('a', prefix(1));
    expect(await failureOf(store.add('b', prefix(2)))).toMatchObject({ code: 'NEOX_IO' });
    expect(store.list()).toMatchObject([{ name: 'a', bytes: BYTES, inMemory: true }]);
    await forgetValues();
    expect((await store.get('a')).hash).toBe(prefix(1).hash);
  });

  test('is kept within its bound also when the spill folder cannot be written', async () => {
    const spillFolder = folder.join('another-file');
    writeFileSync(spillFolder, '');
    const store = new PrefixStore(model, { maxBytes: 3 * FORM, spillFolder });
    for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) await store.add(name, await saved(prefix(i)));
    await store.remove('b');
    await store.remove('c');
    await store.add('object', prefix(5));
    const held = (): [string, number][] => store.list().map(({ name, bytes }) => [name, bytes]);
    expect(held()).toEqual([
      ['a', 0],
      ['d', FORM],
      ['object', BYTES],
    ]);
    // There is room without it.
    expect((await store.get('a')).hash).toBe(prefix(0).hash);
    expect(held()).toEqual([
      ['a', FORM],
      ['d', 0],
      ['object', BYTES],
    ]);
  });

  test('counts the form that attention reads, and the values until a file has them', async () => {
    const store = new PrefixStore(model, { maxBytes: 3 * FORM, spillFolder: newFolder() });
    const held = (): number[] => store.list().map(({ bytes }) => bytes);
    await store.add('a', prefix(1));
    expect(held()).toEqual([BYTES]);
    await store.add('b', await saved(prefix(2)));
    expect(held()).toEqual([BYTES, FORM]);
    // Makes room by the values of a, for those of c none.
    await store.add('c', await saved(prefix(3)));
    expect(held()).toEqual([FORM, FORM, FORM]);
    await store.add('d', await saved(prefix(4)));
    expect(held()).toEqual([0, FORM, FORM, FORM]);
    expect(inMemory(store)).toEqual(['b', 'c', 'd']);
    await store.get('a');
    expect(held()).toEqual([FORM, 0, FORM, FORM]);
    // Twice as long, and its values are in the spill folder at once.
    await store.replace('c', prefix(5, 8));
    expect(held()).toEqual([FORM, 0, 2 * FORM, 0]);
    // What was counted for those that are gone is free again.
    await store.remove('c');
    await store.add('e', prefix(6));
    expect(held()).toEqual([FORM, 0, 0, BYTES]);
  });

  test('gives a prefix out as the same object for as long as somebody has it, and never makes a second form of it', async () => {
    const store = new PrefixStore(model, { maxBytes: FORM, spillFolder: newFolder() });
    const path = await saved(prefix(1));
    const { hash } = await store.add('file', path);
    const form = await store.hold('file').load();
    const got = await store.get('file');
    expect(got.data).toEqual(prefix(1).data);
    expect(got.hash).toBe(hash);
    expect(await store.get('file')).toBe(got);
    expect(await model.prefixHandle(got)).toBe(form);
    const own = prefix(2);
    await store.add('object', own);
    expect(store.list()).toMatchObject([
      { name: 'file', inMemory: false },
      { name: 'object', bytes: FORM },
    ]);
    await forgetValues();
    // The object that was added; and what left memory, with the form that the object has.
    expect(await store.get('object')).toBe(own);
    renameSync(path, folder.join('elsewhere'));
    expect(await store.hold('file').load()).toBe(form);
    expect(await store.get('file')).toBe(got);
    expect(inMemory(store)).toEqual(['file']);
  });

  test('has only the form of what is in a file: its values are read when they are asked for', async () => {
    const store = new PrefixStore(model);
    const path = await saved(prefix(1));
    await store.add('a', path);
    await forgetValues();
    renameSync(path, folder.join('taken-away'));
    await using engine = new GenerationEngine(model, { prefixes: store });
    const request = { prompt: [5, 6, 7], temperature: 0, maxNewTokens: 8 } as const;
    expect(answerOf(await engine.generate({ ...request, prefix: 'a' }))).toEqual(
      await alone(model, { ...request, prefix: prefix(1) }),
    );
    await store.pin('a');
    expect(await failureOf(store.get('a'))).toMatchObject({ code: 'NEOX_FILE_NOT_FOUND', path });
    expect(store.list()).toMatchObject([{ bytes: FORM, inMemory: true, pinned: true }]);
  });

  test('has no float32 values of many prefixes that are in files', async () => {
    const half = await loadModel(folder.join('model'), { dtype: 'bfloat16' });
    const count = 16;
    const numbers = 200 * 2 * 2 * 32;
    const paths: string[] = [];
    for (let i = 0; i < count; i++) paths.push(await saved(prefix(i, 200)));
    const bytesOf = (store: PrefixStore): number => store.list().reduce((sum, { bytes }) => sum + bytes, 0);
    const arrays = async (): Promise<number> => {
      await forgetValues();
      return process.memoryUsage().arrayBuffers;
    };
    const before = await arrays();
    const all = new PrefixStore(half);
    for (const [i, path] of paths.entries()) await all.add(`task ${i}`, path);
    // Added at once, and written to the spill folder.
    const written = new PrefixStore(half, { maxBytes: count * numbers * 2, spillFolder: newFolder() });
    await Promise.all(paths.map((_, i) => written.add(`task ${i}`, prefix(i, 200))));
    // What leaves memory and comes back for requests and for `get`.
    const few = new PrefixStore(half, { maxBytes: 8 * numbers * 2 });
    for (const [i, path] of paths.entries()) await few.add(`task ${i}`, path);
    await using engine = new GenerationEngine(half, { prefixes: few });
    await Promise.all(paths.map((_, i) => engine.generate({ prompt: [5, 6], maxNewTokens: 2, prefix: `task ${i}` })));
    for (let i = 0; i < count; i += 2) await few.get(`task ${i}`);

    expect([all, written, few].map(bytesOf)).toEqual([count, count, 8].map((held) => held * numbers * 2));
    expect(inMemory(written)).toHaveLength(count);
    // Less than those of one prefix.
    expect((await arrays()) - before).toBeLessThan(numbers * 4);
    const got = await all.get('task 7');
    expect(got.data).toEqual(prefix(7, 200).data);
    expect((await arrays()) - before).toBeGreaterThanOrEqual(numbers * 4);
    await half.dispose();
  });

  test('a form that cannot be made is an error, of which nothing stays', async () => {
    const store = new PrefixStore(model, { maxBytes: FORM });
    await store.add('a', await saved(prefix(1)));
    await store.add('b', await saved(prefix(2)));
    const list = store.list();
    const failing = jest
      .spyOn(native(), 'createPrefix')
      .mockImplementation(() => Promise.reject(new Error('no memory')));
    try {
      for (const use of [
        () => store.add('c', prefix(3)),
        async () => store.replace('b', await saved(prefix(3))),
        () => store.get('a'),
        () => store.hold('a').load(),
      ])
        expect(await failureOf(use)).toMatchObject({ message: 'no memory' });
    } finally {
      failing.mockRestore();
    }
    expect(store.list()).toEqual(list);
    expect((await store.get('a')).hash).toBe(prefix(1).hash);
    expect(inMemory(store)).toEqual(['a']);
  });

  test('of a model that is disposed takes in nothing more', async () => {
    const own = await loadModel(folder.join('model'));
    const store = new PrefixStore(own, { maxBytes: FORM });
    await store.add('a', await saved(prefix(1)));
    await store.add('b', await saved(prefix(2)));
    await own.dispose();
    for (const use of [() => store.add('c', prefix(3)), () => store.get('a'), () => store.hold('a').load()])
      expect(await failureOf(use)).toMatchObject({ code: 'NEOX_DISPOSED' });
    expect((await store.get('b')).hash).toBe(prefix(2).hash);
    expect(store.list()).toMatchObject([
      { name: 'a', bytes: 0 },
      { name: 'b', bytes: FORM },
    ]);
    await store.dispose();
  });
});
