/** What is no regular file is refused at once: a named pipe would wait for its writer for ever. */
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { readDataset } from '../../../lib/data/dataset';
import { failureOf, temporaryFolder } from '../../helpers';

const folder = temporaryFolder();

test('named pipes, more of them than Node has threads to read with', async () => {
  const paths = Array.from({ length: 5 }, (_, i) => folder.join(`pipe${i}.jsonl`));
  execFileSync('mkfifo', paths);
  const errors = await Promise.all(paths.map((path) => failureOf(readDataset(path))));
  expect(errors).toEqual(paths.map((path) => expect.objectContaining({ code: 'NEOX_IO', path }) as unknown));
  expect((errors[0] as Error).message).toBe(`Cannot read ${paths[0] ?? ''}: it is not a regular file
Hint: data are read more than once: write what a pipe gives into a file first`);
  await expect(readFile(__filename)).resolves.toBeDefined();
});
