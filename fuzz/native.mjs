// Builds native/test/fuzz/tensors.cc with AddressSanitizer and UndefinedBehaviorSanitizer and runs it:
//
//   node fuzz/native.mjs [SECONDS] [SEED]
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, require, run } from '../scripts/common.mjs';

await main(async () => {
  const { findLibtorch } = require(fromRoot('dist', 'libtorch.js'));
  const { root } = findLibtorch();
  const folder = fromRoot('build', 'fuzz');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, 'fuzz_tensors');
  const checkpoint = fromRoot('native', 'core', 'checkpoint');
  const sources = readdirSync(checkpoint).filter((name) => name.endsWith('.cc'));
  const command = [
    ...[
      '-std=c++20',
      '-O1',
      '-g',
      '-fno-omit-frame-pointer',
      '-fsanitize=address,undefined',
      '-fno-sanitize-recover=undefined',
    ],
    ...['-fopenmp', '-D_GLIBCXX_USE_CXX11_ABI=1', '-I', fromRoot('native')],
    ...['-isystem', join(root, 'include'), '-isystem', join(root, 'include', 'torch', 'csrc', 'api', 'include')],
    ...[fromRoot('native', 'test', 'fuzz', 'tensors.cc'), ...sources.map((name) => join(checkpoint, name))],
    ...['-L', join(root, 'lib'), '-ltorch_cpu', '-lc10', `-Wl,-rpath,${join(root, 'lib')}`, '-o', program],
  ];
  if ((await run(process.env.CXX ?? 'g++', command)) !== 0)
    throw new Failure('The fuzz target did not compile; the messages are above.');
  // libtorch keeps memory until the process ends.
  return run(program, process.argv.slice(2), { env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' } });
});
