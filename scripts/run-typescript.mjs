// Runs a TypeScript program (an example) as an ES module; types are checked by `npm run lint`.
//
//   node scripts/run-typescript.mjs FILE.mts [ARGUMENTS]
import { register } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Failure, main } from './common.mjs';

await main(async () => {
  const file = process.argv[2];
  if (file === undefined) throw new Failure('Which program?\nHint: node scripts/run-typescript.mjs FILE.mts');
  register('./typescript-hooks.mjs', import.meta.url);
  process.setSourceMapsEnabled(true);
  process.argv.splice(1, 2, resolve(file));
  await import(pathToFileURL(process.argv[1]).href);
  return process.exitCode;
});
