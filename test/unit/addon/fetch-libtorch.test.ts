import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fetchLibtorch, type FetchProgress } from '../../../lib/addon/fetch-libtorch';

const WHEEL = 'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl';

let folder: string;
let destination: string;
let python: string;
const path = process.env['PATH'];

beforeAll(() => {
  python = execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8' }).trim();
});

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'neox-fetch-'));
  destination = join(folder, 'package', '.libtorch');
});

afterEach(() => {
  process.env['PATH'] = path;
  rmSync(folder, { recursive: true });
});

/**
 * A wheel with a few small files; `damage` is Python run on the dict `records` and the list `extra` before it is
 * written.
 */
function makeWheel(damage = ''): void {
  const program = `
import base64, hashlib, sys, zipfile
files = {'torch/lib/libtorch_cpu.so': b'cpu' * 1000, 'torch/lib/libc10.so': b'c10', 'torch/include/ATen/core/Tensor.h': b'// tensor',
         'torch/share/cmake/Torch/TorchConfig.cmake': b'', 'torch/nn/module.py': b'no'}
records = {n: 'sha256=' + base64.urlsafe_b64encode(hashlib.sha256(b).digest()).rstrip(b'=').decode() for n, b in files.items()}
extra = []
${damage}
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:
    for n, b in list(files.items()) + extra: z.writestr(n, b)
    z.writestr('torch-2.13.0+cpu.dist-info/RECORD', ''.join(f'{n},{h},{len(files.get(n, b""))}\\n' for n, h in records.items()))
`;
  execFileSync(python, ['-c', program, join(folder, WHEEL)]);
}

/**
 * Puts a python3 first in PATH whose pip does as the shell lines say; all else goes to the real one. Calls are logged.
 */
function fakePip(download: string, pipVersion = 'echo pip'): void {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  const script = `#!/bin/bash
echo "$*" >> '${folder}/calls'
case "$*" in
  *'sys.executable'*) echo '${bin}/python3';;
  '-I -m pip --version') ${pipVersion};;
  '-I -m pip download'*) while [ "$1" != --dest ]; do shift; done; dest=$2; ${download};;
  *) exec '${python}' "$@";;
esac
`;
  writeFileSync(join(bin, 'python3'), script);
  chmodSync(join(bin, 'python3'), 0o755);
  process.env['PATH'] = `${bin}:${path ?? ''}`;
}

const COPY = `mkdir -p "$dest"; cp '${WHEEL}' "$dest"`;
const copy = (): string => COPY.replace(`'${WHEEL}'`, `'${join(folder, WHEEL)}'`);
const downloads = (): string[] =>
  readFileSync(join(folder, 'calls'), 'utf8')
    .split('\n')
    .filter((line) => line.includes('pip download'));

test('unpacks lib, include and share/cmake and nothing else, and does nothing the second time', async () => {
  makeWheel();
  fakePip(copy());
  const phases: FetchProgress[] = [];
  const found = await fetchLibtorch({ destination, onProgress: (progress) => phases.push(progress) });
  expect(found).toEqual({ root: destination, source: 'package', version: '2.13.0+cpu', headers: true, cuda: false });
  expect(readdirSync(destination).sort()).toEqual(['build-version', 'include', 'lib', 'share']);
  expect(readFileSync(join(destination, 'lib', 'libtorch_cpu.so'), 'utf8')).toBe('cpu'.repeat(1000));
  expect(readdirSync(join(folder, 'package'))).toEqual(['.libtorch']);
  expect(phases.at(-1)).toEqual({ phase: 'unpack', done: 3012, total: 3012 });
  expect(downloads()).toHaveLength(1);

  await fetchLibtorch({ destination });
  expect(downloads()).toHaveLength(1);
  await fetchLibtorch({ destination, force: true });
  expect(downloads()).toHaveLength(2);
});

test('asks for the CPU build first, then for any build, each with this Python and with a common one', async () => {
  makeWheel();
  const refuse = "echo 'ERROR: No matching distribution found for torch' >&2; exit 1";
  fakePip(`if [ $(grep -c 'pip download' '${folder}/calls') = 4 ]; then ${copy()}; else ${refuse}; fi`);
  await fetchLibtorch({ destination });
  const calls = downloads();
  expect(calls.map((line) => line.split(' ').at(-1))).toEqual([
    'torch==2.13.0+cpu',
    'torch==2.13.0+cpu',
    'torch==2.13.0',
    'torch==2.13.0',
  ]);
  expect(
    calls.map((line) => line.includes('--python-version 3.12 --implementation cp --platform manylinux_2_28_')),
  ).toEqual([false, true, false, true]);
});

test('a failed download tells what pip said, once, and leaves nothing', async () => {
  fakePip("echo 'ERROR: Could not reach the index' >&2; exit 1");
  await expect(fetchLibtorch({ destination })).rejects.toMatchObject({
    code: 'NEOX_LIBTORCH_NOT_FOUND',
    message: expect.stringMatching(
      /pip could not download torch 2\.13\.0:\n {2}ERROR: Could not reach the index\nHint: /,
    ),
  });
  expect(downloads()).toHaveLength(1);
  expect(readdirSync(join(folder, 'package'))).toEqual([]);
});

test.each([
  [
    'a file that is not what RECORD says',
    "records['torch/lib/libc10.so'] = 'sha256=AAAA'",
    /libc10\.so does not have the checksum that RECORD gives/,
  ],
  [
    'a file that RECORD does not know',
    "del records['torch/lib/libc10.so']",
    /RECORD has no checksum for torch\/lib\/libc10\.so/,
  ],
  ['a name that leaves the folder', "extra.append(('torch/lib/../../../evil', b'x'))", /unsafe name in the archive/],
  ['no libtorch_cpu.so', "del files['torch/lib/libtorch_cpu.so']", /it is not a torch for Linux/],
])('a wheel with %s is refused and leaves nothing', async (_, damage, message) => {
  makeWheel(damage);
  fakePip(copy());
  await expect(fetchLibtorch({ destination })).rejects.toMatchObject({
    code: 'NEOX_LIBTORCH_NOT_FOUND',
    message: expect.stringMatching(message),
  });
  expect(readdirSync(join(folder, 'package'))).toEqual([]);
  expect(existsSync(join(folder, 'evil'))).toBe(false);
});

test('a wheel that was cut short is refused', async () => {
  makeWheel();
  writeFileSync(join(folder, WHEEL), readFileSync(join(folder, WHEEL)).subarray(0, 700));
  fakePip(copy());
  await expect(fetchLibtorch({ destination })).rejects.toMatchObject({
    code: 'NEOX_LIBTORCH_NOT_FOUND',
    message: expect.stringMatching(/could not be unpacked: File is not a zip file/),
  });
});

test('aborting stops pip, rejects with the reason and leaves nothing', async () => {
  fakePip('exec sleep 30');
  const controller = new AbortController();
  const reason = new Error('enough');
  const started = Date.now();
  const fetching = fetchLibtorch({ destination, signal: controller.signal });
  const aborting = setInterval(() => {
    if (existsSync(join(folder, 'calls')) && downloads().length === 1) controller.abort(reason);
  }, 20);
  await expect(fetching).rejects.toBe(reason);
  clearInterval(aborting);
  expect(Date.now() - started).toBeLessThan(20_000);
  expect(readdirSync(join(folder, 'package'))).toEqual([]);
});

test('no python3 and no pip are told apart, each with what to install', async () => {
  fakePip('exit 1', 'exit 1');
  await expect(fetchLibtorch({ destination })).rejects.toThrow(/has no pip.*\nHint: .*apt-get install python3-pip/);
  process.env['PATH'] = join(folder, 'empty');
  await expect(fetchLibtorch({ destination })).rejects.toThrow(
    /^python3, whose pip downloads libtorch, was not found\nHint: .*apt-get install python3 python3-pip/,
  );
});

test('what a killed process left is cleared away; a folder that is something else is not touched', async () => {
  makeWheel();
  fakePip(copy());
  mkdirSync(`${destination}.partial-999999999-xyz`, { recursive: true });
  await fetchLibtorch({ destination });
  expect(readdirSync(join(folder, 'package'))).toEqual(['.libtorch']);

  const other = join(folder, 'photos');
  mkdirSync(other);
  writeFileSync(join(other, 'cat.png'), '');
  await expect(fetchLibtorch({ destination: other })).rejects.toThrow(/photos holds something that is not libtorch/);
  expect(readdirSync(other)).toEqual(['cat.png']);
});

test('bad options are refused by name', async () => {
  await expect(fetchLibtorch({ dest: 'x' } as never)).rejects.toThrow("Unknown option 'dest' in fetchLibtorch options");
  await expect(fetchLibtorch({ version: '2.13; rm' })).rejects.toMatchObject({ code: 'NEOX_BAD_ARGUMENT' });
});
