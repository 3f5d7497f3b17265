import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { loadAddon } from '../../addon/addon';
import { NeoXPrefixError } from '../../base/errors';
import { PACKAGE_ROOT } from '../../base/package';
import type { CommandSpec } from '../command';
import type { Ui } from '../ui';

const DESCRIPTION = `Builds the addon from the source that comes with the package, for the libtorch that is found here. Needed only where no prebuilt addon fits: it takes cmake,
a C++20 compiler and a libtorch with headers, says which of them is missing, and needs some minutes and 2 GB of memory for each of its jobs.`;

export const command: CommandSpec = {
  name: 'build',
  summary: 'build the addon where no prebuilt one fits',
  description: DESCRIPTION,
  examples: '\nExamples:\n  $ neox-prefix build',
  run,
};

/** @param build stands in for the build in tests: resolves with its exit status */
export async function run(
  _flags: object,
  ui: Ui,
  build: (signal: AbortSignal) => Promise<number> = runBuild,
): Promise<number> {
  const status = await build(ui.signal);
  ui.signal.throwIfAborted();
  if (status !== 0) {
    throw new NeoXPrefixError('NEOX_NATIVE_NOT_FOUND', 'The addon could not be built: the reason is above', {
      hint: '`neox-prefix doctor` shows which tools were found',
    });
  }
  const { path, libtorch } = loadAddon();
  ui.json({ addon: path, libtorch });
  ui.print(`${path}\nbuilt for libtorch ${libtorch.version} in ${libtorch.root}`);
  return 0;
}

/** What the build prints is for people: it goes to stderr, beside which stdout stays the command's own. */
function runBuild(signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const script = join(PACKAGE_ROOT, 'scripts', 'build.mjs');
    const child = spawn(process.execPath, [script, '--native'], { stdio: ['ignore', 2, 2] });
    signal.addEventListener('abort', () => child.kill('SIGINT'), { once: true });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}
