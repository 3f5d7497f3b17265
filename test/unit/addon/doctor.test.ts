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
