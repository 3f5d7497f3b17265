import { isError } from '../base/errors';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { isNeoXPrefixError } from '../base/errors';
import { PACKAGE_ROOT, packageVersion } from '../base/package';
import { formatBytes } from '../base/quantities';
import { loadAddon, type NativeAddon } from './addon';
import { findLibtorch, type Libtorch } from './libtorch';
import { ISOLATED, TOOLS_FOLDER } from './python';

/** One line of the report. */
export interface DoctorCheck {
  name: string;
  /** `optional`: missing, but needed only to build the addon or to fetch libtorch. */
  status: 'ok' | 'missing' | 'optional';
  /** What was found, or what is wrong. */
  found: string;
  /** The way to mend it. */
  fix?: string;
}

/** A GPU, as NVIDIA's driver tells of it. */
export interface Gpu {
  /** The N of `cuda:N`, unless CUDA_VISIBLE_DEVICES says otherwise. */
  index: number;
  name: string;
  /** Version of the driver. */
  driver: string;
  memoryBytes: number;
}

/** What {@link doctor} found. */
export interface DoctorReport {
  /** True when the package works here: nothing in `checks` is `missing`. */
  ok: boolean;
  /** Version of this package. */
  version: string;
  node: string;
  platform: string;
  /** Absent when none was found. */
  libtorch?: Libtorch;
  /** Path of the addon; absent when it does not load. */
  addon?: string;
  /** What libtorch says of this machine; absent when the addon does not load. */
  system?: ReturnType<NativeAddon['systemInfo']>;
  /** The NVIDIA GPUs of this machine, whether this libtorch can use them or not. */
  gpus: Gpu[];
  checks: DoctorCheck[];
}

const APT = 'on Debian or Ubuntu run `apt-get install';

/** Looks at everything the package needs and says what is missing and how to get it. Never throws for what it finds. */
export async function doctor(): Promise<DoctorReport> {
  const version = packageVersion();
  const report: DoctorReport = {
    ok: true,
    version,
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    gpus: await findGpus(),
    checks: [],
  };
  const add = (name: string, status: DoctorCheck['status'], found: string, fix?: string): void =>
    void report.checks.push(
      fix === undefined || status === 'ok' ? { name, status, found } : { name, status, found, fix },
    );

  add('neox-prefix', 'ok', `${version} in ${PACKAGE_ROOT}`);
  add(
    'node',
    nodeIsNew() ? 'ok' : 'missing',
    `${process.versions.node} (${report.platform})`,
    'install Node 20.17 or newer',
  );
  checkLibtorch(report, add);
  checkAddon(report, add);
  await checkTools(report, add);
  report.ok = report.checks.every((check) => check.status !== 'missing');
  return report;
}

/** The report as text, one line a check, with the way to mend it below what is missing. */
export function formatDoctorReport(report: DoctorReport): string {
  const width = Math.max(...report.checks.map((check) => check.name.length));
  const marks = { ok: 'ok  ', missing: 'FAIL', optional: '-   ' };
  const lines = report.checks.flatMap((check) => {
    const indented = (text: string): string => text.replaceAll('\n', `\n${' '.repeat(width + 7)}`);
    const line = `${marks[check.status]} ${check.name.padEnd(width)}  ${indented(check.found)}`;
    return check.fix === undefined ? [line] : [line, `${' '.repeat(width + 7)}fix: ${indented(check.fix)}`];
  });
  return [
    ...lines,
    '',
    report.ok ? 'Everything that is needed is here.' : 'Something that is needed is missing, see above.',
  ].join('\n');
}

type Add = (name: string, status: DoctorCheck['status'], found: string, fix?: string) => void;

function checkLibtorch(report: DoctorReport, add: Add): void {
  try {
    const libtorch = findLibtorch();
    report.libtorch = libtorch;
    const parts = [
      libtorch.version,
      `in ${libtorch.root}`,
      `(${SOURCES[libtorch.source]})`,
      libtorch.cuda ? 'with CUDA' : 'CPU only',
    ];
    const abi = cxxAbi(libtorch.root);
    add(
      'libtorch',
      'ok',
      [...parts, ...(abi === undefined ? [] : [abi])].join(', ').replace(', in', ' in').replace(', (', ' ('),
    );
  } catch (error) {
    addFailure('libtorch', error, add);
  }
}

const SOURCES = {
  NEOX_PREFIX_LIBTORCH: 'from NEOX_PREFIX_LIBTORCH',
  LIBTORCH: 'from LIBTORCH',
  package: "the package's own",
  cache: "from this user's cache",
  python: 'the torch of python3',
} as const;

/**
 * The C++ ABI that a build of libtorch says it has; the addon needs the one of C++11, which all builds since 2.7 have.
 */
function cxxAbi(root: string): string | undefined {
  try {
    const text = readFileSync(join(root, 'share', 'cmake', 'Torch', 'TorchConfig.cmake'), 'utf8');
    const value = /_GLIBCXX_USE_CXX11_ABI=(\d)/.exec(text)?.[1];
    return value === undefined ? undefined : value === '1' ? 'C++11 ABI' : 'pre-C++11 ABI';
  } catch {
    return undefined;
  }
}

function checkAddon(report: DoctorReport, add: Add): void {
  try {
    const { addon, path } = loadAddon();
    const system = addon.systemInfo();
    report.addon = path;
    report.system = system;
    add('addon', 'ok', path);
    const backends = Object.entries(system.backends).map(([name, dtypes]) => `${name} (${dtypes.join(', ')})`);
    add('backends', 'ok', backends.join('; '));
    add('threads', 'ok', String(system.threads));
    const features = system.cpuFeatures.length === 0 ? 'no known vector extensions' : system.cpuFeatures.join(', ');
    add('cpu', 'ok', `${features}; libtorch uses ${system.cpuCapability}, our kernels ${system.kernels}`);
    add('cuda', 'ok', system.cudaAvailable ? `yes, devices: ${system.cudaDevices}` : cudaReason(report));
    for (const { index, name, driver, memoryBytes } of report.gpus)
      add(`gpu ${index}`, 'ok', `${name}, ${formatBytes(memoryBytes)}, driver ${driver}`);
  } catch (error) {
    addFailure('addon', error, add);
  }
}

function cudaReason({ libtorch, gpus }: DoctorReport): string {
  if (libtorch?.cuda === true) {
    return gpus.length === 0
      ? 'no: libtorch has it, but there is no NVIDIA driver'
      : `no: libtorch has it, but it does not open the driver (${gpus[0]?.driver ?? ''} is here); is it too old for this libtorch?`;
  }
  return gpus.length === 0
    ? 'no: this libtorch is a CPU build'
    : 'no: this libtorch is a CPU build; set NEOX_PREFIX_LIBTORCH to a CUDA build to use the GPUs';
}

/** What NVIDIA's own program says, which comes with the driver; it needs no CUDA libraries. */
async function findGpus(): Promise<Gpu[]> {
  const query = ['--query-gpu=index,name,driver_version,memory.total', '--format=csv,noheader,nounits'];
  const text = await output('nvidia-smi', query);
  return (text ?? '').split('\n').flatMap((line) => {
    const [index, name, driver, mebibytes] = line.split(',').map((field) => field.trim());
    if (name === undefined || driver === undefined || !/^\d+$/.test(mebibytes ?? '')) return [];
    return [{ index: Number(index), name, driver, memoryBytes: Number(mebibytes) * 2 ** 20 }];
  });
}

function addFailure(name: string, error: unknown, add: Add): void {
  const hint = isNeoXPrefixError(error) ? error.hint : undefined;
  const text = isError(error) ? error.message : String(error);
  add(name, 'missing', hint === undefined ? text : text.replace(`\nHint: ${hint}`, ''), hint);
}

/** Tools of the build, which an installed package with a prebuilt addon does without. */
async function checkTools(report: DoctorReport, add: Add): Promise<void> {
  const absent = report.addon === undefined ? 'missing' : 'optional';
  const [cmake, compiler, python] = await Promise.all([
    firstLine('cmake', ['--version']),
    firstLine(compilerCommand(), ['--version']),
    firstLine('python3', [ISOLATED, '-m', 'pip', '--version']),
  ]);
  const found = (text: string | undefined): [DoctorCheck['status'], string] =>
    text === undefined ? [absent, 'not found'] : ['ok', text];
  add('cmake', ...found(cmake), `${APT} cmake\` (needed to build the addon)`);
  add('compiler', ...found(compiler), `${APT} g++\` (needed to build the addon)`);
  // Without pip, libtorch comes from PyTorch's own index.
  const pip: DoctorCheck['status'] = python === undefined ? 'optional' : 'ok';
  add(
    'python3, pip',
    pip,
    python ?? 'not found',
    `${APT} python3 python3-pip\` (to get libtorch from an index of pip's)`,
  );
}

/** CXX may be a path from the current folder, where it is not started. */
function compilerCommand(): string {
  const command = process.env['CXX'] ?? 'c++';
  return command.includes('/') ? resolve(command) : command;
}

async function firstLine(command: string, args: string[]): Promise<string | undefined> {
  return (await output(command, args))?.split('\n')[0]?.trim();
}

async function output(command: string, args: string[]): Promise<string | undefined> {
  try {
    const options = { timeout: 20_000, env: process.env, cwd: TOOLS_FOLDER };
    return (await promisify(execFile)(command, args, options)).stdout;
  } catch {
    return undefined;
  }
}

function nodeIsNew(): boolean {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return major > 20 || (major === 20 && minor >= 17);
}
