import { readTasks, writeTasks } from '../../../lib/fastertransformer/task-list';
import { packWords, unpackWords } from '../../../lib/fastertransformer/word-lists';

it('words are ids, and where each of them ends', () => {
  expect(packWords([])).toEqual({ ids: [0], ends: [-1] });
  expect(packWords([[5], [6, 7, 8]])).toEqual({ ids: [5, 6, 7, 8], ends: [1, 4, -1, -1] });
  expect(unpackWords([5, 6, 7, 8], [1, 4, -1, -1])).toEqual([[5], [6, 7, 8]]);
  expect(unpackWords([0], [-1])).toEqual([]);
  // Rows of a batch are padded to one width: ids by 0, ends by -1.
  expect(unpackWords([5, 0, 0], [1, -1, -1])).toEqual([[5]]);
});

it.each([
  [[5], [2]],
  [
    [5, 6],
    [2, 1],
  ],
  [[5], [0]],
])('words %j that end at %j are none', (ids, ends) => expect(unpackWords(ids, ends)).toBeUndefined());

it('a list of tasks takes any name', () => {
  const tasks = [
    { id: 0, name: 'にこにこ' },
    { id: 1, name: 'a=b,c' },
  ];
  expect(writeTasks(tasks)).toBe('にこにこ=0,a%3Db%2Cc=1');
  expect([...readTasks(writeTasks(tasks))]).toEqual([
    ['にこにこ', 0],
    ['a=b,c', 1],
  ]);
  expect(readTasks('').size).toBe(0);
  expect(() => readTasks('smile')).toThrow("expected name=id, found 'smile'");
});
