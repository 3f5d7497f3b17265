// Does all set-up of a fresh clone and skips what is there: npm packages, TypeScript, libtorch, addon.
//
//   node scripts/setup.mjs
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, require, run } from './common.mjs';
import { checkTools } from './tools.mjs';

export async function setup() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 17)) {
    throw new Failure(
      `Node ${process.versions.node} is too old (20.17 is needed).\nHint: install a newer one, for example with nvm: \`nvm install 22\``,
    );
  }
  checkTools();
  await step('npm packages', installPackages);
  await step('TypeScript', () => build('--typescript'));
  await step('libtorch', provideLibtorch);
  await step('addon', () => build('--native'));
}

async function step(name, body) {
  const started = performance.now();
  const note = (await body()) ?? '';
  console.log(`setup: ${name} ready ${note}(${((performance.now() - started) / 1000).toFixed(1)} s)`);
}

async function installPackages() {
  const installed = statSync(fromRoot('node_modules', '.package-lock.json'), { throwIfNoEntry: false });
  if (installed !== undefined && installed.mtimeMs >= statSync(fromRoot('package-lock.json')).mtimeMs) return;
  const npm = process.env.npm_execpath === undefined ? ['npm'] : [process.execPath, process.env.npm_execpath];
  const args = [...npm.slice(1), 'ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  // npm run hands its own settings down in the environment; `npm ci` reads only those of the user.
  if ((await run(npm[0], args)) !== 0) throw new Failure('`npm ci --ignore-scripts` failed; its message is above.');
}

async function build(half) {
  if ((await run(process.execPath, [fromRoot('scripts', 'build.mjs'), half])) !== 0) process.exit(1);
}

/** The version that all tests run with; another one only where that is not to be had. */
async function provideLibtorch() {
  const { findLibtorch, LIBTORCH_VERSION, minorOf } = require(fromRoot('dist', 'addon', 'libtorch.js'));
  try {
    return describe(findLibtorch({ minors: [minorOf(LIBTORCH_VERSION)] }));
  } catch (error) {
    // A variable that points to nothing is the user's to mend.
    if (error.code !== 'NEOX_LIBTORCH_NOT_FOUND' || error.path !== undefined) throw error;
  }
  try {
    return describe(await fetchTested());
  } catch (error) {
    try {
      return describe(findLibtorch());
    } catch {
      throw error;
    }
  }
}

async function fetchTested() {
  const { fetchLibtorch } = require(fromRoot('dist', 'addon', 'fetch-libtorch.js'));
  const controller = new AbortController();
  const interrupt = () => controller.abort(new Failure('Interrupted.'));
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    return await fetchLibtorch({ signal: controller.signal, onProgress: progressLine() });
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

function describe(libtorch) {
  return `(${libtorch.version}, ${libtorch.root}) `;
}

/** A moving line on a terminal, a line per phase elsewhere. */
function progressLine() {
  let phase = '';
  return (progress) => {
    const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
    if (process.stdout.isTTY) {
      const end = progress.done === progress.total ? '\n' : '';
      process.stdout.write(
        `\rlibtorch: ${progress.phase} ${megabytes(progress.done)} of ${progress.total ? megabytes(progress.total) : '?'} MB${end}`,
      );
    } else if (progress.phase !== phase) {
      console.log(`libtorch: ${progress.phase}`);
    }
    phase = progress.phase;
  };
}

if (process.argv[1] === join(import.meta.dirname ?? fromRoot('scripts'), 'setup.mjs')) await main(setup);
