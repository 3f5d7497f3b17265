// Copies the built addons to prebuilds/PLATFORM-ARCH/ under the names that node-gyp-build reads. One binary serves
// every Node version (Node-API) and every place of libtorch; its name says the C library and the minor version of
// libtorch that it fits.
//
//   node scripts/prebuilds.mjs
//
// Takes build/Release and every build/libtorch-MINOR/Release, which `node scripts/build.mjs --native --libtorch DIR`
// makes.
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, output } from './common.mjs';

/** What libtorch's own wheels need, and so every machine that can load one has: manylinux_2_28. */
const NEWEST = { GLIBC: [2, 28], GLIBCXX: [3, 4, 25], CXXABI: [1, 3, 11] };

/** The versions of system libraries that an addon asks for and that an old system lacks. */
export function tooNew(path) {
  // The names of versions stand in the table of strings as they are.
  const names = new Set(readFileSync(path, 'latin1').match(/\b(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+/g));
  return [...names].filter((name) => {
    const [library, version] = name.split('_');
    const numbers = version.split('.').map(Number);
    const newest = NEWEST[library];
    const differs = numbers.findIndex((number, i) => number !== (newest[i] ?? 0));
    return differs >= 0 && numbers[differs] > (newest[differs] ?? 0);
  });
}

await main(() => {
  const folder = fromRoot('prebuilds', `${process.platform}-${process.arch}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const minors = readdirSync(fromRoot('build')).filter((name) => /^libtorch-\d+\.\d+$/.test(name));
  for (const release of ['Release', ...minors.map((name) => join(name, 'Release'))]) {
    const record = fromRoot('build', release, 'libtorch-version');
    if (!existsSync(record)) {
      throw new Failure(`build/${release} holds no finished addon.\nHint: run \`npm run build\`, or delete its folder`);
    }
    const [major, minor] = readFileSync(record, 'utf8').split('.');
    for (const [name, target] of [
      ['neox_prefix', `neox_prefix.libtorch-${major}_${minor}.napi.glibc.node`],
      ['neox_preload', 'neox_preload.napi.glibc.node'],
    ]) {
      const path = join(folder, target);
      copyFileSync(fromRoot('build', release, `${name}.node`), path);
      output('strip', ['--strip-unneeded', path]);
      const newer = tooNew(path);
      if (newer.length > 0)
        throw new Failure(`${path} needs ${newer.join(', ')}, newer than manylinux_2_28.\nHint: see native/compat`);
      console.log(path);
    }
  }
});
