// Builds the addon with a second minor version of libtorch and runs the golden tests on it: what compiles with one
// version alone, or computes otherwise, is seen here.
//
//   node scripts/other-libtorch.mjs [VERSION...]
//
// Takes the first of the versions that pip has. Defaults to one of each other minor version, the newest first. None of
// them to be had is told and no failure: an index need not have more than the one that all else runs with.
import { join } from 'node:path';
import { Failure, fromRoot, main, require, run } from './common.mjs';

const VERSIONS = ['2.14.1', '2.14.0', '2.12.1', '2.12.0', '2.11.0'];

async function fetchFirst(versions) {
  const { fetchLibtorch } = require(fromRoot('dist', 'addon', 'fetch-libtorch.js'));
  for (const version of versions) {
    try {
      return await fetchLibtorch({ version, destination: fromRoot(`.libtorch-${version}`) });
    } catch (error) {
      if (!/pip could not download/.test(error.message)) throw error;
    }
  }
  return undefined;
}

await main(async () => {
  const versions = process.argv.length > 2 ? process.argv.slice(2) : VERSIONS;
  const libtorch = await fetchFirst(versions);
  if (libtorch === undefined) {
    console.log(`other libtorch: pip has none of ${versions.join(', ')}, so only one version was tested`);
    return 0;
  }
  const build = [fromRoot('scripts', 'build.mjs'), '--native', '--libtorch', libtorch.root];
  if ((await run(process.execPath, build)) !== 0)
    throw new Failure(`The addon does not build with ${libtorch.version}.`);
  const minor = libtorch.version.split('.').slice(0, 2).join('.');
  const env = {
    ...process.env,
    NEOX_PREFIX_LIBTORCH: libtorch.root,
    NEOX_PREFIX_ADDON_DIR: fromRoot('build', `libtorch-${minor}`, 'Release'),
  };
  const tests = [join('test', 'golden', 'model'), join('test', 'golden', 'training.test')];
  const jest = [fromRoot('node_modules', 'jest', 'bin', 'jest.js'), '--silent', '--reporters=default', ...tests];
  const status = await run(process.execPath, jest, { env });
  console.log(`other libtorch: ${libtorch.version} ${status === 0 ? 'builds and agrees' : 'does not agree'}`);
  return status;
});
