import { fetchLibtorch, type FetchLibtorchOptions, PYTORCH_INDEX } from '../../addon/fetch-libtorch';
import { defaultDestination, describe, LIBTORCH_VERSION } from '../../addon/libtorch';
import type { CommandSpec } from '../command';
import { given, option } from '../flags';
import type { Ui } from '../ui';

export interface FetchFlags {
  torchVersion?: string;
  cuda?: string;
  from?: string;
  index?: string;
  destination?: string;
  force?: boolean;
}

const DESCRIPTION = `Gets libtorch, the CPU build unless --cuda asks for another. pip downloads the torch wheel where python3 has it, so that its settings apply, and only what
libtorch needs is unpacked from it; where pip has none, it comes from PyTorch's own index. Nothing is installed into Python. --from takes a file, a folder or
an address instead, for a mirror or a machine without a network. A download that broke is gone on with. Does nothing when it is there already.`;

const EXAMPLES = `
Examples:
  $ neox-prefix fetch-libtorch
  $ neox-prefix fetch-libtorch --cuda 13.0
  $ neox-prefix fetch-libtorch --from libtorch-shared-with-deps-2.13.0.zip
  $ neox-prefix fetch-libtorch --destination /opt/libtorch && export NEOX_PREFIX_LIBTORCH=/opt/libtorch`;

export const command: CommandSpec = {
  name: 'fetch-libtorch',
  summary: 'get libtorch',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    Options: [
      option('--torch-version <version>', 'version of libtorch', { default: LIBTORCH_VERSION }),
      option('--cuda <version>', 'a CUDA build for that version of CUDA, such as 13.0 (x86-64)'),
      option('--from <source>', 'a libtorch archive, a torch wheel or a folder: a path, or an http(s) address'),
      option('--index <url>', 'index of wheels that is asked where pip has none', { default: PYTORCH_INDEX }),
      option('--destination <dir>', 'folder to make', { default: "libtorch-VERSION in this user's cache" }),
      option('--force', 'fetch it again although it is there'),
    ],
  }),
  run,
};

/** @param fetch stands in for the library's in tests, which have no network */
export async function run(
  flags: FetchFlags,
  ui: Ui,
  fetch = (options: FetchLibtorchOptions) => fetchLibtorch(options),
): Promise<number> {
  const { torchVersion: version, cuda, from, index, destination, force } = flags;
  const folder = destination ?? defaultDestination(version ?? LIBTORCH_VERSION, cuda);
  const present = force === true ? undefined : describe(folder, 'package');
  const isThere =
    present?.headers === true &&
    (from !== undefined || present.version.split('+')[0] === (version ?? LIBTORCH_VERSION));
  ui.note(isThere ? 'it is there already' : from !== undefined || cuda !== undefined ? `into ${folder}` : 'asking pip');
  const libtorch = await ui.withProgress({ title: 'libtorch', total: 0, unit: 'bytes' }, (update) =>
    fetch({
      ...given({ version, cuda, from, index, destination, force }),
      signal: ui.signal,
      onProgress: ({ phase, done, total }) => update(done, phase, total),
    }),
  );
  ui.json(libtorch);
  ui.print(`libtorch ${libtorch.version} in ${libtorch.root}`);
  return 0;
}
