import type { Command } from 'commander';
import { join } from 'node:path';
import { fetchLibtorch, type FetchLibtorchOptions } from '../../addon/fetch-libtorch';
import { describe, LIBTORCH_VERSION } from '../../addon/libtorch';
import { PACKAGE_ROOT } from '../../base/package';
import type { Act } from '../command';
import { addOptions, given, option, unwrap } from '../flags';
import type { Ui } from '../ui';

export interface FetchFlags {
  torchVersion?: string;
  destination?: string;
  force?: boolean;
}

const DESCRIPTION = `Gets libtorch: pip downloads the torch wheel (the CPU build where there is one), and only what libtorch needs is unpacked from it. Nothing is installed
into Python, and no other package is fetched. Does nothing when it is there already.`;

const EXAMPLES = `
Examples:
  $ neox-prefix fetch-libtorch
  $ neox-prefix fetch-libtorch --destination /opt/libtorch && export NEOX_PREFIX_LIBTORCH=/opt/libtorch`;

export function register(program: Command, act: Act): void {
  const command = program
    .command('fetch-libtorch')
    .summary('get libtorch')
    .description(unwrap(DESCRIPTION))
    .addHelpText('after', EXAMPLES);
  addOptions(command, 'Options', [
    option('--torch-version <version>', 'version of libtorch', { default: LIBTORCH_VERSION }),
    option('--destination <dir>', 'folder to make', { default: '.libtorch in the package' }),
    option('--force', 'fetch it again although it is there'),
  ]);
  command.action(act(run));
}

/** @param fetch stands in for the library's in tests, which have no network */
export async function run(
  flags: FetchFlags,
  ui: Ui,
  fetch = (options: FetchLibtorchOptions) => fetchLibtorch(options),
): Promise<number> {
  const { torchVersion: version, destination, force } = flags;
  const present = force === true ? undefined : describe(destination ?? join(PACKAGE_ROOT, '.libtorch'), 'package');
  const isThere = present?.headers === true && present.version.split('+')[0] === (version ?? LIBTORCH_VERSION);
  ui.note(isThere ? 'it is there already' : 'asking pip');
  const libtorch = await ui.withProgress({ title: 'libtorch', total: 0, unit: 'bytes' }, (update) =>
    fetch({
      ...given({ version, destination, force }),
      signal: ui.signal,
      onProgress: ({ phase, done, total }) => update(done, phase, total),
    }),
  );
  ui.json(libtorch);
  ui.print(`libtorch ${libtorch.version} in ${libtorch.root}`);
  return 0;
}
