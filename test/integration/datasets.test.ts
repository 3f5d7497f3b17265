import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { conversationSample } from '../../lib/data/conversation';
import { openDataset, readDataset } from '../../lib/data/dataset';
import { splitDataset } from '../../lib/data/split';
import { TokenizedDataset } from '../../lib/data/tokenized-dataset';
import { PrefixTrainer } from '../../lib/training/prefix-trainer';
import { evaluate } from '../../lib/training/evaluate';
import { formatInstruction } from '../../lib/tokenizer/templates';
import { loadModel, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
const tokenizer = {
  encode: (text: string): Int32Array => Int32Array.from(text, (c) => 3 + ((c.codePointAt(0) as number) % 61)),
};

test('the loss of a conversation is that of a sample for each answer, with all before it as the prompt', async () => {
  await using model = await loadModel(await writeRandomModel(folder.path));
  const talk = [
    { role: 'user', content: '今日は' },
    { role: 'assistant', content: 'はい\n今日は' },
    { role: 'user', content: '天気は?' },
    { role: 'assistant', content: '晴れです' },
    { role: 'assistant', content: '暑いです' },
  ];
  const turns = talk.map(
    ({ role, content }) => ({ speaker: role === 'user' ? 'user' : 'system', text: content }) as const,
  );
  const apart = [1, 3, 4].map((i) => ({
    prompt: formatInstruction(turns.slice(0, i)),
    completion: turns[i]!.text.replaceAll('\n', '<NL>'),
  }));
  const prefix = randomPrefix(model, 3);
  const one = await evaluate(model, await TokenizedDataset.from([conversationSample(talk, 'rinna')], { tokenizer }), {
    prefix,
  });
  const three = await evaluate(model, await TokenizedDataset.from(apart, { tokenizer }), { prefix });
  expect(one.tokens).toBe(three.tokens);
  expect(one.accuracy).toBe(three.accuracy);
  expect(Math.abs(one.loss - three.loss)).toBeLessThan(1e-5);
});

test('samples in memory, as a dataset and from a file on disk train the same prefix', async () => {
  await using model = await loadModel(await writeRandomModel(folder.path));
  const lines = Array.from({ length: 20 }, (_, i) => ({
    prompt: [3 + (i % 7)],
    completion: Array.from({ length: 1 + (i % 9) }, (_, j) => 5 + ((i * j) % 50)),
  }));
  const path = folder.join('ids.jsonl.gz');
  writeFileSync(path, gzipSync(lines.map((line) => JSON.stringify(line)).join('\n')));
  await using onDisk = await openDataset(path, { inMemoryLimit: 0, cacheDir: folder.path });
  expect(onDisk.isOnDisk).toBe(true);
  const samples = await readDataset(path);
  const counts = { train: 15, validation: 5 };
  const hashes: string[] = [];
  for (const data of [
    splitDataset(samples, counts),
    splitDataset(await TokenizedDataset.from(samples), counts),
    splitDataset(onDisk, counts),
  ]) {
    const options = {
      prefixLength: 2,
      epochs: 2,
      learningRate: 1e-2,
      init: 'random',
      batchTokens: 40,
      bucketing: true,
    } as const;
    const { best } = await new PrefixTrainer(model, options).train(data);
    hashes.push(best.hash);
  }
  expect(new Set(hashes).size).toBe(1);
});
