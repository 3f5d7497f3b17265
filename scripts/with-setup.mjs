// Does the set-up and then runs the tests or the demonstration: `npm test`, `npm run demo`. Further arguments go to them.
//
//   node scripts/with-setup.mjs test|demo [ARGUMENTS]
import { Failure, fromRoot, main, run } from './common.mjs';
import { setup } from './setup.mjs';

await main(async () => {
  const [what, ...args] = process.argv.slice(2);
  const commands = {
    test: [fromRoot('node_modules', 'jest', 'bin', 'jest.js')],
    demo: [fromRoot('scripts', 'run-typescript.mjs'), fromRoot('examples', 'demo.mts')],
  };
  if (!(what in commands)) throw new Failure(`Unknown command '${what}'.\nHint: test or demo`);
  await setup();
  return run(process.execPath, [...commands[what], ...args]);
});
