// Checks types, style and format of TypeScript and C++; --fix rewrites what can be rewritten.
//
//   node scripts/lint.mjs [--fix]
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, fromRoot, main, output, require, root, run } from './common.mjs';

function filesIn(folder, pattern) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesIn(path, pattern) : pattern.test(entry.name) ? [path] : [];
  });
}

await main(async () => {
  const fix = process.argv.includes('--fix');
  if (!existsSync(fromRoot('node_modules', 'eslint')))
    throw new Failure('The npm packages are not installed.\nHint: run `npm run setup`');
  const node = (path, ...args) => [process.execPath, join(root, 'node_modules', path), ...args];
  const checks = {
    prettier: node('prettier/bin/prettier.cjs', '--log-level', 'warn', fix ? '--write' : '--check', '.'),
    tsc: [process.execPath, require.resolve('typescript/bin/tsc'), '-p', fromRoot('test', 'tsconfig.json')],
    eslint: node('eslint/bin/eslint.js', '--max-warnings', '0', ...(fix ? ['--fix'] : []), '.'),
  };
  if (output('clang-format', ['--version']) === undefined) {
    console.log(
      'lint: clang-format is not here, so the format of the C++ is not checked (Debian, Ubuntu: apt-get install clang-format)',
    );
  } else {
    const sources = filesIn(fromRoot('native'), /\.(cc|c|h)$/);
    checks['clang-format'] = ['clang-format', ...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...sources];
  }
  const failed = [];
  for (const [name, [command, ...args]] of Object.entries(checks)) {
    const started = performance.now();
    const ok = (await run(command, args)) === 0;
    console.log(`lint: ${name} ${ok ? 'ok' : 'FAILED'} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
    if (!ok) failed.push(name);
  }
  if (failed.length > 0)
    throw new Failure(
      `${failed.join(', ')} failed.${fix ? '' : '\nHint: `npm run format` mends what is only a matter of form'}`,
    );
});
