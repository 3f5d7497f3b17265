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
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fetchLibtorch, type FetchProgress } from '../../../lib/addon/fetch-libtorch';

const WHEEL = 'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl';

/** A port that nobody listens at. */
const NOWHERE = 'http://127.0.0.1:9';

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

test('a failed download tells what pip and the index said, once, and leaves nothing', async () => {
  fakePip("echo 'ERROR: Could not reach the index' >&2; exit 1");
  await expect(fetchLibtorch({ destination, index: `${NOWHERE}/` })).rejects.toMatchObject({
    code: 'NEOX_LIBTORCH_NOT_FOUND',
    message: expect.stringMatching(
      /^torch 2\.13\.0 could not be downloaded:\n {2}pip: ERROR: Could not reach the index\n {2}http:.*127.*\nHint: .*--from FILE/,
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
  ['a name that leaves the folder', "extra.append(('torch/lib/../../../evil', b'x'))", /invalid relative path/],
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
    message: expect.stringMatching(/could not be unpacked: .*[Ee]nd of central directory/),
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

test('no python3 and no pip are told apart', async () => {
  fakePip('exit 1', 'exit 1');
  const fetching = (): Promise<unknown> => fetchLibtorch({ destination, index: NOWHERE });
  await expect(fetching()).rejects.toThrow(/pip: python3 \(.*\) has no pip\n/);
  process.env['PATH'] = join(folder, 'empty');
  await expect(fetching()).rejects.toThrow(/pip: there is no python3, whose pip would download it\n/);
});

describe('without python3', () => {
  let server: Server;
  let address: string;
  /** Serves a request; the tests change it. */
  let serve: (request: IncomingMessage, response: ServerResponse) => void;
  let requests: string[];

  beforeEach(async () => {
    makeWheel();
    process.env['PATH'] = join(folder, 'empty');
    requests = [];
    server = createServer((request, response) => {
      requests.push(`${request.url ?? ''} ${request.headers.range ?? ''}`.trim());
      serve(request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });

  afterEach(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  const wheel = (): Buffer => readFileSync(join(folder, WHEEL));
  const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const NAME = `torch-2.13.0%2Bcpu-cp313-cp313-manylinux_2_28_${machine}.whl`;

  /** An index of the sort of PEP 503, with the wheel behind one of its links. */
  function index(hash: string): (request: IncomingMessage, response: ServerResponse) => void {
    const names = [
      'torch-2.13.0%2Bcpu-cp313-cp313-win_amd64.whl',
      'torch-2.12.0%2Bcpu-cp313-cp313-manylinux_2_28_x86_64.whl',
    ];
    const links = [...names, `${NAME}#sha256=${hash}`].map((name) => `<a href="/files/${name}">${name}</a><br/>`);
    return (request, response) => {
      if (request.url === '/whl/cpu/torch/') response.end(`<html><body>${links.join('\n')}</body></html>`);
      else if (request.url === `/files/${NAME}`) response.end(wheel());
      else response.writeHead(404).end();
    };
  }

  test('the wheel comes from the index, for this processor, and is checked against the sum there', async () => {
    serve = index(sha256(wheel()));
    const phases: FetchProgress[] = [];
    const onProgress = (progress: FetchProgress): void => void phases.push(progress);
    const found = await fetchLibtorch({ destination, index: `${address}/whl`, onProgress });
    expect(found).toMatchObject({ root: destination, version: '2.13.0+cpu', headers: true });
    expect(requests).toEqual(['/whl/cpu/torch/', `/files/${NAME}`]);
    expect(readdirSync(join(folder, 'package'))).toEqual(['.libtorch']);
    expect(phases[0]).toEqual({ phase: 'download', done: wheel().length, total: wheel().length });
    await fetchLibtorch({ destination, index: `${address}/whl` });
    expect(requests).toHaveLength(2);
  });

  test('a file with another sum is refused and not kept', async () => {
    serve = index('0'.repeat(64));
    await expect(fetchLibtorch({ destination, index: `${address}/whl` })).rejects.toMatchObject({
      code: 'NEOX_LIBTORCH_NOT_FOUND',
      message: expect.stringMatching(/\.whl has SHA-256 [0-9a-f]{64}, and 0{64} is expected\nHint: /),
    });
    expect(readdirSync(`${destination}.download`)).toEqual([]);
    expect(existsSync(destination)).toBe(false);
  });

  test('an index without it is told, both pages', async () => {
    serve = (_, response) => void response.writeHead(404).end();
    await expect(fetchLibtorch({ destination, index: `${address}/whl` })).rejects.toThrow(
      `  ${address}/whl/cpu/torch/ answers 404; ${address}/whl/torch/ answers 404\n`,
    );
  });

  test('a broken download is gone on with, also by a later call, and begun anew when the file is another', async () => {
    const bytes = wheel();
    let limit = 500;
    serve = (request, response) => {
      const first = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      const isSame = request.headers['if-range'] === '"one"';
      const from = isSame ? first : 0;
      response.writeHead(from > 0 ? 206 : 200, { etag: '"one"', 'content-length': bytes.length - from });
      const piece = bytes.subarray(from, from + limit);
      // Long enough for what was sent to come to the disk on a busy machine.
      response.write(piece, () => {
        if (from + limit >= bytes.length) response.end();
        else setTimeout(() => request.socket.destroy(), 100);
      });
    };
    const from = `${address}/${WHEEL}#sha256=${sha256(bytes)}`;
    // Fewer bytes each time than it takes: five attempts are not enough.
    limit = Math.ceil(bytes.length / 8);
    await expect(fetchLibtorch({ destination, from })).rejects.toThrow(/could not be downloaded/);
    const begun = requests.length;
    expect(begun).toBe(5);
    limit = bytes.length;
    expect(await fetchLibtorch({ destination, from })).toMatchObject({ version: '2.13.0+cpu' });
    // The last piece may not have come to the disk before the connection broke.
    expect(requests.slice(begun).join()).toMatch(/ bytes=[1-9]\d+-$/);

    mkdirSync(`${destination}.download`);
    writeFileSync(join(`${destination}.download`, `${WHEEL}.part`), 'of an older file');
    writeFileSync(join(`${destination}.download`, `${WHEEL}.part.etag`), '"zero"');
    expect(await fetchLibtorch({ destination, from, force: true })).toMatchObject({ version: '2.13.0+cpu' });
  });

  test('a proxy is asked when the environment names one', async () => {
    serve = index(sha256(wheel()));
    process.env['HTTP_PROXY'] = address;
    try {
      // undici asks a proxy for a tunnel, whatever is behind it.
      const tunnels: string[] = [];
      server.on('connect', (request, socket) => {
        tunnels.push(request.url ?? '');
        socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      });
      await expect(fetchLibtorch({ destination, index: 'http://mirror.invalid/whl' })).rejects.toThrow(/could not be/);
      expect(tunnels[0]).toBe('mirror.invalid:80');
    } finally {
      delete process.env['HTTP_PROXY'];
    }
  });

  test('an archive of libtorch with CUDA', async () => {
    const archive = join(folder, 'libtorch.zip');
    execFileSync(python, [
      '-c',
      `import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as z:
    for n in ['lib/libtorch_cpu.so', 'lib/libtorch_cuda.so', 'include/ATen/core/Tensor.h', 'bin/protoc']:
        z.writestr('libtorch/' + n, n)
    z.writestr('libtorch/build-version', '2.13.0+cu130\\n')`,
      archive,
    ]);
    serve = (_, response) => void response.end(readFileSync(archive));
    if (process.arch !== 'x64') return;
    const found = await fetchLibtorch({ destination, cuda: '13.0', index: `${address}/whl` });
    expect(found).toMatchObject({ version: '2.13.0+cu130', cuda: true });
    expect(requests).toEqual(['/libtorch/cu130/libtorch-shared-with-deps-2.13.0%2Bcu130.zip']);
    expect(readdirSync(destination).sort()).toEqual(['build-version', 'include', 'lib']);

    // What was unpacked is a folder that can be given again, as is the archive.
    const second = join(folder, 'second');
    expect(await fetchLibtorch({ destination: second, from: destination })).toMatchObject({ version: '2.13.0+cu130' });
    expect(await fetchLibtorch({ destination: second, from: archive, force: true })).toMatchObject({ cuda: true });
    await expect(fetchLibtorch({ destination: join(folder, 'third'), from: folder })).rejects.toThrow(
      /has no lib\/libtorch_cpu\.so\nHint: /,
    );
  });

  test('an archive whose bytes were changed is refused', async () => {
    const archive = join(folder, 'libtorch.zip');
    const program = `import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as z:
    z.writestr('libtorch/lib/libtorch_cpu.so', 'secret-of-the-library')
    z.writestr('libtorch/build-version', '2.13.0')`;
    execFileSync(python, ['-c', program, archive]);
    writeFileSync(archive, readFileSync(archive, 'latin1').replace('secret', 'sEcret'), 'latin1');
    await expect(fetchLibtorch({ destination, from: archive })).rejects.toThrow(
      /libtorch\.zip could not be unpacked: libtorch\/lib\/libtorch_cpu\.so does not have the checksum that the archive gives/,
    );
  });
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
  await expect(fetchLibtorch({ version: '2.13; rm' })).rejects.toThrow(
    "Expected three numbers such as 2.13.0 for version but received '2.13; rm' of type string",
  );
  await expect(fetchLibtorch({ cuda: 'cu130' })).rejects.toThrow("Expected two numbers such as '13.0' for cuda");
  await expect(fetchLibtorch({ from: 'http://x/y.whl#sha256=12', destination })).rejects.toThrow(
    /Expected nothing or sha256= and 64 hexadecimal digits behind # for from/,
  );
  await expect(fetchLibtorch({ from: join(folder, 'none.zip'), destination })).rejects.toThrow(
    /There is no .*none\.zip/,
  );
});
