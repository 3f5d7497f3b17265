import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { conversationSample } from '../../../lib/data/conversation';
import { openDataset, readDataset } from '../../../lib/data/dataset';
import { sampleRows, tokenizeSample, type Row, type TokenizedSample } from '../../../lib/data/sample';
import { formatInstruction, type Message, type Template } from '../../../lib/tokenizer/templates';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer';
import { expectRefusal, temporaryFolder, wrong } from '../../helpers';

const folder = temporaryFolder();
const characters = { encode: (text: string): Int32Array => Int32Array.from(text, (c) => c.codePointAt(0) as number) };
const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string): Message => ({ role: 'assistant', content });
const system = (content: string): Message => ({ role: 'system', content });

const TALK = [user('一\n二'), assistant('三'), user('四'), assistant('五\n六')];

let files = 0;
function put(...records: unknown[]): string {
  const path = folder.join(`${files++}.jsonl`);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return path;
}

describe("rinna's template", () => {
  test('writes what formatInstruction writes, in pieces', () => {
    const sample = conversationSample(TALK, 'rinna');
    expect(sample).toEqual({
      prompt: 'ユーザー: 一<NL>二<NL>システム: ',
      completion: '三',
      turns: [{ prompt: '<NL>ユーザー: 四<NL>システム: ', completion: '五<NL>六' }],
    });
    const turns = TALK.map(
      ({ role, content }) => ({ speaker: role === 'user' ? 'user' : 'system', text: content }) as const,
    );
    const [turn] = sample.turns as [{ prompt: string; completion: string }];
    expect(sample.prompt).toBe(formatInstruction(turns.slice(0, 1)));
    expect(`${sample.prompt as string}${sample.completion as string}${turn.prompt}`).toBe(
      formatInstruction(turns.slice(0, 3)),
    );
  });

  test('takes users and assistants in any order; what nothing answers is left out', () => {
    expect(conversationSample([assistant('一'), assistant('二'), user('三')], 'rinna')).toEqual({
      prompt: 'システム: ',
      completion: '一',
      turns: [{ prompt: '<NL>システム: ', completion: '二' }],
    });
    expect(conversationSample([user(''), user('一'), assistant('二')], 'rinna')).toEqual({
      prompt: 'ユーザー: <NL>ユーザー: 一<NL>システム: ',
      completion: '二',
    });
  });
});

test('the plain template has the contents alone', () => {
  expect(conversationSample([system('規則'), ...TALK], 'plain')).toEqual({
    prompt: '規則\n一\n二\n',
    completion: '三',
    turns: [{ prompt: '\n四\n', completion: '五\n六' }],
  });
  expect(conversationSample([assistant('一'), user('二')], 'plain')).toEqual({ completion: '一' });
});

test('a template can be a function, of other roles too', () => {
  const template = jest.fn((messages: readonly Message[]) =>
    messages.flatMap(({ role, content }) => [
      { text: `[${role}]`, learned: false },
      { text: content, learned: role === 'assistant' },
      { text: ';', learned: role === 'assistant' },
    ]),
  );
  const messages = [{ role: 'tool', content: 'x' }, assistant('y'), user('z'), assistant('w')];
  expect(conversationSample(messages, template)).toEqual({
    prompt: '[tool]x;[assistant]',
    completion: 'y;',
    turns: [{ prompt: '[user]z;[assistant]', completion: 'w;' }],
  });
  expect(template).toHaveBeenCalledWith(messages);
});

test('what is wrong with a conversation is said', async () => {
  const sample = (messages: unknown, template: unknown = 'rinna') => () => conversationSample(wrong(messages), wrong(template));
  const returning = (...segments: unknown[]) => sample([user('a')], () => segments);
  for (const [act, text] of [
    [sample('a'), "Expected an array of { role, content } for messages but received 'a' of type string"],
    [sample([1]), 'Expected an object { role, content } for messages[0] but received 1 of type number'],
    [sample([{ role: 1, content: '' }]), 'Expected a string for messages[0].role but received 1 of type number'],
    [sample([user('a'), { role: 'assistant', content: [] }]), 'Expected a string for messages[1].content but received an array of 0 of type array'],
    [sample([system('a')]), "Expected 'user' or 'assistant' (template 'rinna') for messages[0].role but received 'system' of type string\nHint: put what it says in front of the first message of the user"],
    [sample([{ role: 'tool', content: 'a' }], 'plain'), "Expected 'system', 'user' or 'assistant' (template 'plain') for messages[0].role but received 'tool' of type string"],
    [sample([user('a'), assistant('')]), "Expected a text that is not empty for messages[1].content but received '' of type string"],
    [sample([user('a')]), "messages has nothing to learn: no message is the assistant's"],
    [sample([]), "messages has nothing to learn: no message is the assistant's"],
    [sample([user('a<NL>b'), assistant('c')]), "messages[0].content contains marks of the prompt format (<NL>, <s>, </s> or a speaker's name at the start of a line)\nHint: write line breaks as line breaks: they become <NL>"],
    [sample([user('a'), assistant('b\nユーザー: c')]), "messages[1].content contains marks of the prompt format (<NL>, <s>, </s> or a speaker's name at the start of a line)\nHint: write line breaks as line breaks: they become <NL>"],
    [sample([], 'chatml'), "Expected 'rinna', 'plain' or a function for template but received 'chatml' of type string"],
    [sample([user('a')], () => 'a'), "Expected an array of { text, learned } for what template returns but received 'a' of type string"],
    [returning(null), 'Expected an object { text, learned } for segment 0 of template but received null of type null'],
    [returning({ text: 'a', learned: true }, { text: 1 }), 'Expected a string for the text of segment 1 of template but received 1 of type number'],
    [returning({ text: 'a' }), 'Expected a boolean for learned of segment 0 of template but received undefined of type undefined'],
    [returning({ text: '', learned: true }), "messages has nothing to learn: no message is the assistant's"],
  ] as const) await expectRefusal({ name: '', act, text });
}); // prettier-ignore

describe('rows of a conversation', () => {
  const ids = { bosId: 1, eosId: 2 };

  test('one row learns every completion and to stop behind it, and nothing else', () => {
    const sample: TokenizedSample = {
      prompt: Int32Array.of(10, 11),
      completion: Int32Array.of(20, 21),
      turns: [
        { prompt: Int32Array.of(12), completion: Int32Array.of(22) },
        { prompt: Int32Array.of(13, 14, 15), completion: Int32Array.of(23, 24) },
      ],
    };
    expect(sampleRows(sample, ids)).toEqual([
      {
        inputs: Int32Array.of(10, 11, 20, 21, 12, 22, 13, 14, 15, 23, 24),
        targets: Int32Array.of(-1, 20, 21, 2, 22, 2, -1, -1, 23, 24, 2),
      },
    ]);
    expect(sampleRows({ ...sample, prompt: new Int32Array(0) }, ids)).toEqual([
      {
        inputs: Int32Array.of(1, 20, 21, 12, 22, 13, 14, 15, 23, 24),
        targets: Int32Array.of(20, 21, 2, 22, 2, -1, -1, 23, 24, 2),
      },
      {
        inputs: Int32Array.of(20, 21, 12, 22, 13, 14, 15, 23, 24),
        targets: Int32Array.of(21, 2, 22, 2, -1, -1, 23, 24, 2),
      },
    ]);
  });

  test('it learns what a sample for each completion, with all before it as the prompt, would learn', () => {
    /** What is learned: behind which ids, which id. */
    const learned = ({ inputs, targets }: Row): string[] =>
      [...targets].flatMap((target, i) => (target < 0 ? [] : [`${inputs.subarray(0, i + 1).join()} -> ${target}`]));
    const talk = [...TALK, user('七'), assistant('八九')];
    const whole = sampleRows(tokenizeSample(conversationSample(talk, 'rinna'), characters), ids);
    const turns = talk.map(
      ({ role, content }) => ({ speaker: role === 'user' ? 'user' : 'system', text: content }) as const,
    );
    const apart = [1, 3, 5].flatMap((i) => {
      const sample = {
        prompt: formatInstruction(turns.slice(0, i)),
        completion: turns[i]!.text.replaceAll('\n', '<NL>'),
      };
      return sampleRows(tokenizeSample(sample, characters), ids);
    });
    expect(whole).toHaveLength(1);
    expect(whole.flatMap(learned)).toEqual(apart.flatMap(learned));
  });

  test('completions with no token in between are one', () => {
    const blank = { encode: (text: string): Int32Array => characters.encode(text.trim()) };
    expect(
      tokenizeSample(conversationSample([assistant('a'), assistant('b'), user('c'), assistant('d')], 'plain'), blank),
    ).toEqual({
      prompt: new Int32Array(0),
      completion: Int32Array.of(97, 98),
      turns: [{ prompt: Int32Array.of(99), completion: Int32Array.of(100) }],
    });
  });

  test('wrong turns of a sample are named', async () => {
    const sample = (turns: unknown) => () => tokenizeSample(wrong({ prompt: 'a', completion: 'b', turns }), characters, 'samples[3]');
    for (const [act, text] of [
      [sample('a'), "Expected an array of { prompt, completion } for samples[3].turns but received 'a' of type string"],
      [sample([null]), 'Expected an object with a prompt and a completion for samples[3].turns[0] but received null of type null'],
      [sample([{ prompt: 'a', answer: 'b' }]), "Unknown option 'answer' in samples[3].turns[0]\nHint: known options: prompt, completion"],
      [sample([{ completion: 'b' }]), 'Expected a string or token ids for samples[3].turns[0].prompt but received undefined of type undefined'],
    ] as const) await expectRefusal({ name: '', act, text });
    await expectRefusal({ name: '', act: sample([{ prompt: 'a', completion: [] }]), code: 'NEOX_BAD_DATA', text: 'samples[3].turns[0].completion has no tokens' });
  }); // prettier-ignore
});

describe('files of conversations', () => {
  test('are read with a template, into memory or as ids', async () => {
    const path = put(
      { messages: TALK, id: 7 },
      { prompt: 'a', completion: 'b' },
      { messages: [user('q'), assistant('a')] },
    );
    // prettier-ignore
    const expected = [conversationSample(TALK, 'rinna'), { prompt: 'a', completion: 'b' }, conversationSample([user('q'), assistant('a')], 'rinna')];
    expect(await readDataset(path, { template: 'rinna' })).toEqual(expected);
    await using dataset = await openDataset(path, { template: 'rinna', tokenizer: characters });
    expect(await dataset.get([0, 1, 2])).toEqual(expected.map((sample) => tokenizeSample(sample, characters)));
    expect(dataset.statistics.conversations).toBe(1);
    const own: Template = (messages) =>
      messages.map(({ role, content }) => ({ text: content, learned: role === 'assistant' }));
    expect(await readDataset(path, { template: own })).toEqual([
      { prompt: '一\n二', completion: '三', turns: [{ prompt: '四', completion: '五\n六' }] },
      { prompt: 'a', completion: 'b' },
      { prompt: 'q', completion: 'a' },
    ]);
  });

  test('the tokenizer decides the template where it has a token for <NL>, and else it must be given', async () => {
    const path = put({ text: 'a' }, { messages: TALK });
    const withToken = { ...characters, tokenToId: (token: string) => (token === '<NL>' ? 5 : undefined) };
    expect((await readDataset(path, { tokenizer: withToken }))[1]).toEqual(conversationSample(TALK, 'rinna'));
    const tokenizer = await Tokenizer.load(join(__dirname, '..', '..', 'fixtures', 'tokenizer', 'byte-level'));
    for (const options of [{}, { tokenizer: characters }, { tokenizer }]) {
      await expectRefusal({
        name: '',
        act: () => readDataset(path, options),
        text:
          `${path}:2 has {"messages"}, and nothing says how the model's conversations are written\n` +
          "Hint: give template: 'rinna' (rinna's instruction models), 'plain' (the contents, one below the other), or a function",
      });
    }
  });

  test('a template that is missing is told with all other problems, once', async () => {
    const path = put(
      { text: '' },
      { messages: TALK },
      { messages: TALK },
      { messages: [user('a')] },
      {},
      { text: 'too long' },
    );
    await expectRefusal({
      name: '',
      act: () => openDataset(path, { tokenizer: characters, maxTokens: 4 }),
      code: 'NEOX_BAD_DATA',
      text: [
        'The data has 5 problems:',
        `  ${path}:1: its text is empty`,
        `  ${path}:2 has {"messages"}, and nothing says how the model's conversations are written`,
        `  ${path}:4: messages has nothing to learn: no message is the assistant's`,
        `  ${path}:5: it has neither "text" nor "completion" nor "messages"`,
        `  ${path}:6: it takes 9 positions, and 4 is the most`,
        "Hint: give template: 'rinna' (rinna's instruction models), 'plain' (the contents, one below the other), or a function; " +
          "give overLong: 'truncate' or 'drop', or shorten the text",
      ].join('\n'),
    });
  });

  test('bad ones are told by file and line', async () => {
    const path = put(
      { messages: 'a' },
      { messages: TALK, text: 'a' },
      { messages: [user('a')] },
      { messages: [{ role: 'robot', content: 'a' }] },
      { messages: [user('a'), assistant('<s>')] },
      { messages: [user('a'), assistant(' ')] },
    );
    const trimming = { encode: (text: string): Int32Array => characters.encode(text.trim()) };
    await expectRefusal({
      name: '',
      act: () => openDataset(path, { template: 'rinna', tokenizer: trimming }),
      code: 'NEOX_BAD_DATA',
      text: [
        'The data has 6 problems:',
        `${path}:1: "messages" is a string, not a list`,
        `${path}:2: it has "messages" beside "text", "prompt" or "completion"; one form or the other`,
        `${path}:3: messages has nothing to learn: no message is the assistant's`,
        `${path}:4: Expected 'user' or 'assistant' (template 'rinna') for messages[0].role but received 'robot' of type string`,
        `${path}:5: messages[1].content contains marks of the prompt format (<NL>, <s>, </s> or a speaker's name at the start of a line)`,
        `${path}:6: sample.completion has no tokens\nHint: write line breaks as line breaks: they become <NL>`,
      ].join('\n  '),
    });
    const packing = put({ text: 'a' }, { messages: TALK });
    await expect(readDataset(packing, { packing: 'lines', tokenizer: characters })).rejects.toThrow(
      `${packing}:2: packing needs {"text"}, and this line has another form`,
    );
  });
});
