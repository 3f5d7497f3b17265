// Copies the built addons to prebuilds/PLATFORM-ARCH/ under the names that node-gyp-build looks for. One binary serves
// every Node version (Node-API) and every place of libtorch, so it needs only the C library in its name.
//
//   node scripts/prebuilds.mjs
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, output } from './common.mjs';

await main(() => {
  const folder = fromRoot('prebuilds', `${process.platform}-${process.arch}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const name of ['neox_prefix', 'neox_preload']) {
    const built = fromRoot('build', 'Release', `${name}.node`);
    if (!existsSync(built)) throw new Failure(`${built} is not built.\nHint: run \`npm run build\``);
    const target = join(folder, `${name}.napi.glibc.node`);
    copyFileSync(built, target);
    output('strip', ['--strip-unneeded', target]);
    console.log(target);
  }
});
