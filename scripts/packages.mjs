// Makes what is published, as tarballs in packages/: neox-prefix itself, and for each platform of prebuilds/ a package
// with its addons, which npm installs by `os`, `cpu` and `libc` as an optional dependency. So an installation runs no
// script, and brings one platform's addons and no other's.
//
//   node scripts/packages.mjs            after `npm run build` and `npm run prebuilds`
//
// package.json of the repository does not name the platform packages: a lock file could not hold them before they are
// published.
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, output } from './common.mjs';

const packages = fromRoot('packages');
const manifest = JSON.parse(readFileSync(fromRoot('package.json'), 'utf8'));

/** Packs a folder and returns what npm says of it. */
function pack(folder) {
  const json = output('npm', ['pack', folder, '--json', '--ignore-scripts', '--pack-destination', packages]);
  if (json === undefined) throw new Failure(`\`npm pack ${folder}\` failed.`);
  return JSON.parse(json)[0];
}

function writePackage(folder, contents) {
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(contents, null, 2)}\n`);
}

function platformPackage(platform) {
  const [os, cpu] = platform.split('-');
  const name = `neox-prefix-${platform}`;
  const folder = join(packages, name);
  cpSync(fromRoot('prebuilds', platform), folder, { recursive: true });
  cpSync(fromRoot('LICENSE'), join(folder, 'LICENSE'));
  const { version, license, engines, repository, homepage, bugs } = manifest;
  const description = `The addons of neox-prefix for ${os} on ${cpu} with glibc`;
  writeFileSync(
    join(folder, 'README.md'),
    `# ${name}\n\n${description}. [neox-prefix](${homepage}) depends on it; nothing else needs it.\n`,
  );
  writePackage(folder, {
    ...{ name, version, description, license, homepage, repository, bugs, engines },
    ...{ os: [os], cpu: [cpu], libc: ['glibc'], preferUnplugged: true, files: ['*.node'] },
  });
  return name;
}

await main(() => {
  rmSync(packages, { recursive: true, force: true });
  mkdirSync(packages, { recursive: true });
  const platforms = readdirSync(fromRoot('prebuilds'));
  if (platforms.length === 0) throw new Failure('prebuilds/ is empty.\nHint: run `npm run prebuilds`');
  const names = platforms.map(platformPackage);

  // What npm would pack of the repository, with the platform packages as dependencies.
  const folder = join(packages, 'neox-prefix');
  const listed = JSON.parse(output('npm', ['pack', '--dry-run', '--json', '--ignore-scripts']))[0].files;
  for (const { path } of listed) cpSync(fromRoot(path), join(folder, path));
  const published = { ...manifest };
  for (const key of ['scripts', 'devDependencies', 'overrides']) delete published[key];
  writePackage(folder, {
    ...published,
    files: published.files.filter((path) => path !== 'prebuilds'),
    optionalDependencies: Object.fromEntries(names.map((name) => [name, manifest.version])),
  });
  rmSync(join(folder, 'prebuilds'), { recursive: true, force: true });

  for (const name of [...names, 'neox-prefix']) {
    const { filename, size, entryCount } = pack(join(packages, name));
    console.log(`packages/${filename}  ${(size / 1e6).toFixed(1)} MB, ${entryCount} files`);
  }
});
