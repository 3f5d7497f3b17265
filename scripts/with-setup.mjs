// Does the set-up and then runs the tests, the demonstration or the benchmark: `npm test`, `npm run demo`,
// `npm run bench`. Further arguments go to them.
//
//   node scripts/with-setup.mjs test|demo|bench [ARGUMENTS]
import { Failure, fromRoot, main, run } from './common.mjs';
import { setup } from './setup.mjs';

await main(async () => {
  const [what, ...args] = process.argv.slice(2);
  const commands = {
    test: [fromRoot('node_modules', 'jest', 'bin', 'jest.js')],
    demo: [fromRoot('scripts', 'run-typescript.mjs'), fromRoot('examples', 'demo.mts')],
    bench: [fromRoot('scripts', 'run-typescript.mjs'), fromRoot('bench', 'main.mts')],
  };
  if (!(what in commands)) throw new Failure(`Unknown command '${what}'.\nHint: test, demo or bench`);
  await setup();
  if (what === 'bench') {
    const limits = [fromRoot('scripts', 'build.mjs'), '--native', '--target', 'neox_limits'];
    if ((await run(process.execPath, limits)) !== 0)
      throw new Failure('What measures the limits of the machine did not compile.');
  }
  return run(process.execPath, [...commands[what], ...args]);
});
