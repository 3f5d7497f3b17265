import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { doctor, formatDoctorReport, type DoctorReport } from '../../../lib/addon/doctor';
import { loadAddon } from '../../../lib/addon/addon';

const status = (report: DoctorReport): Record<string, string> =>
  Object.fromEntries(report.checks.map((check) => [check.name, check.status]));

const environment = { ...process.env };

afterEach(() => {
  process.env = { ...environment };
});

test('reports what this machine has', async () => {
  const report = await doctor();
  expect(status(report)).toMatchObject({
    'neox-prefix': 'ok',
    node: 'ok',
    libtorch: 'ok',
    addon: 'ok',
    backends: 'ok',
    threads: 'ok',
    cuda: 'ok',
  });
  expect(report.ok).toBe(true);
  expect(report.node).toBe(process.versions.node);
  expect(report.addon).toBe(loadAddon().path);
  expect(report.libtorch).toEqual(loadAddon().libtorch);
  const find = (name: string): string => report.checks.find((check) => check.name === name)!.found;
  expect(find('libtorch')).toContain(`${report.libtorch!.version} in ${report.libtorch!.root} (`);
  for (const [name, dtypes] of Object.entries(report.system!.backends))
    expect(find('backends')).toContain(`${name} (${dtypes.join(', ')})`);
  for (const feature of report.system!.cpuFeatures) expect(find('cpu')).toContain(feature);
  expect(find('threads')).toBe(String(report.system!.threads));
  expect(find('cuda')).toMatch(report.system!.cudaAvailable ? /^yes/ : /^no: /);
});

test('a libtorch that is missing is told with the way to mend it, and the report is not ok', async () => {
  process.env['NEOX_PREFIX_LIBTORCH'] = '/nowhere';
  const report = await doctor();
  expect(report.ok).toBe(false);
  expect(report.libtorch).toBeUndefined();
  expect(report.checks.find((check) => check.name === 'libtorch')).toEqual({
    name: 'libtorch',
    status: 'missing',
    found: "NEOX_PREFIX_LIBTORCH is set to '/nowhere', which has no lib/libtorch_cpu.so",
    fix: expect.stringContaining('fetch-libtorch'),
  });
});

test('the GPUs are told as the driver names them, also where this libtorch cannot use them', async () => {
  const bin = mkdtempSync(join(tmpdir(), 'neox-doctor-'));
  const line = '0, NVIDIA H100 80GB HBM3, 570.86.15, 81559\\n1, Tesla T4, 570.86.15, 15360\\n';
  writeFileSync(join(bin, 'nvidia-smi'), `#!/bin/sh\nprintf '${line}'\n`, { mode: 0o755 });
  process.env['PATH'] = `${bin}:${process.env['PATH'] ?? ''}`;
  const report = await doctor();
  rmSync(bin, { recursive: true });
  expect(report.gpus).toEqual([
    { index: 0, name: 'NVIDIA H100 80GB HBM3', driver: '570.86.15', memoryBytes: 81_559 * 2 ** 20 },
    { index: 1, name: 'Tesla T4', driver: '570.86.15', memoryBytes: 15_360 * 2 ** 20 },
  ]);
  expect(formatDoctorReport(report)).toMatch(/^ok {3}gpu 1 .* Tesla T4, 16\.\d GB, driver 570\.86\.15$/m);
  if (!report.libtorch!.cuda) expect(formatDoctorReport(report)).toMatch(/cuda .*CPU build; set NEOX_PREFIX_LIBTORCH/);
});

test('tools that only the build needs are optional while the addon loads', async () => {
  process.env['PATH'] = '/nowhere';
  const report = await doctor();
  expect(status(report)).toMatchObject({
    addon: 'ok',
    cmake: 'optional',
    compiler: 'optional',
    'python3, pip': 'optional',
  });
  expect(report.ok).toBe(true);
  expect(formatDoctorReport(report)).toMatch(
    /^- {4}cmake {9}not found\n {19}fix: on Debian or Ubuntu run `apt-get install cmake`/m,
  );
});

test('the text has a line per check and a verdict', () => {
  const report: DoctorReport = {
    ok: false,
    version: '1.2.3',
    node: '20.17.0',
    platform: 'linux-x64',
    gpus: [],
    checks: [
      { name: 'node', status: 'ok', found: '20.17.0' },
      { name: 'libtorch', status: 'missing', found: 'not found:\n  here', fix: 'fetch it' },
    ],
  };
  expect(formatDoctorReport(report)).toBe(
    [
      'ok   node      20.17.0',
      'FAIL libtorch  not found:',
      '                 here',
      '               fix: fetch it',
      '',
      'Something that is needed is missing, see above.',
    ].join('\n'),
  );
});
