import { conversationSample } from '../../lib/data/conversation';
import { TokenizedDataset } from '../../lib/data/tokenized-dataset';
import { evaluate } from '../../lib/training/evaluate';
import { formatInstruction } from '../../lib/tokenizer/templates';
import { loadModel, randomPrefix, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();

test('the loss of a conversation is that of a sample for each answer, with all before it as the prompt', async () => {
  await using model = await loadModel(await writeRandomModel(folder.path));
  const tokenizer = { encode: (text: string): Int32Array => Int32Array.from(text, (c) => 3 + ((c.codePointAt(0) as number) % 61)) };
  const talk = [
    { role: 'user', content: '今日は' },
    { role: 'assistant', content: 'はい\n今日は' },
    { role: 'user', content: '天気は?' },
    { role: 'assistant', content: '晴れです' },
    { role: 'assistant', content: '暑いです' },
  ];
  const turns = talk.map(({ role, content }) => ({ speaker: role === 'user' ? 'user' : 'system', text: content }) as const);
  const apart = [1, 3, 4].map((i) => ({
    prompt: formatInstruction(turns.slice(0, i)),
    completion: turns[i]!.text.replaceAll('\n', '<NL>'),
  }));
  const prefix = randomPrefix(model, 3);
  const one = await evaluate(model, await TokenizedDataset.from([conversationSample(talk, 'rinna')], { tokenizer }), { prefix });
  const three = await evaluate(model, await TokenizedDataset.from(apart, { tokenizer }), { prefix });
  expect(one.tokens).toBe(three.tokens);
  expect(one.accuracy).toBe(three.accuracy);
  expect(Math.abs(one.loss - three.loss)).toBeLessThan(1e-5);
});
