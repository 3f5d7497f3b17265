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

const run = (way: string): ReturnType<typeof runProgram> => runProgram('work', [folder.path, way]);

test.each([
  'exit while training',
  'exit while generating',
  'exit while an engine works',
  'exit with a queue',
  'exit while loading',
  'exit while disposing',
])('the process ends at once and with its own code: %s', async (way) => {
  const { code, signal, stdout, stderr } = await run(way);
  expect({ code, signal, stderr, stdout }).toEqual({ code: 7, signal: null, stderr: '', stdout: 'loaded\n' });
});

test.each(['throw while training', 'reject while generating'])(
  'an error that nobody catches ends the process as Node does it: %s',
  async (way) => {
    const { code, signal, stderr } = await run(way);
    expect({ code, signal }).toEqual({ code: 1, signal: null });
    expect(stderr).toContain('Error: nobody catches this');
    expect(stderr).not.toMatch(/terminate called|Segmentation|FATAL ERROR|pure virtual|mutex/);
  },
);

test('a process ends by itself when all is done, without a dispose', async () => {
  const { code, signal, stdout, stderr } = await run('end without dispose');
  expect({ code, signal, stderr, stdout }).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    stdout: 'loaded\n4 tokens\nend\n',
  });
});

test('what is in flight keeps the process alive until its result is there', async () => {
  const { code, signal, stdout, stderr } = await run('wait for the result');
  expect({ code, signal, stderr, stdout }).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    stdout: 'loaded\n30 tokens\ndisposed\nend\n',
  });
});

test('a stream that is left unread does not keep the process for ever', async () => {
  const { code, signal, stdout, stderr } = await run('leave a stream unread');
  expect({ code, signal, stderr, stdout }).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    stdout: 'loaded\none piece\nend\n',
  });
});

test('an engine keeps the process alive while it works, and its unread streams do not', async () => {
  const waited = await run('wait for an engine');
  expect(waited).toMatchObject({
    code: 0,
    signal: null,
    stderr: '',
    stdout: 'loaded\nend\ngenerated\ngenerated\ndrained\n',
  });
  const left = await run("leave an engine's stream unread");
  expect(left).toMatchObject({ code: 0, signal: null, stderr: '', stdout: 'loaded\none piece\nend\n' });
});

test('so do texts with a format, whose library leaves nothing behind that would', async () => {
  const ended = await runProgram('work', [EXAMPLE_MODEL, 'wait for texts with a format']);
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: 'loaded\nend\nはい\nはい\n' });
});
