// Checks the tools that building the addon needs.
import { Failure, output } from './common.mjs';

/** One message that names everything missing on this machine and the command that brings it. */
export function checkTools() {
  const missing = [];
  const cmake = /version (\d+)\.(\d+)/.exec(output('cmake', ['--version']) ?? '');
  if (cmake === null || Number(cmake[1]) * 1000 + Number(cmake[2]) < 3020) {
    missing.push({
      what: cmake === null ? 'cmake was not found' : `cmake ${cmake[1]}.${cmake[2]} is too old (3.20 is needed)`,
      apt: ['cmake'],
    });
  }
  const compiler =
    process.env.CXX || ['c++', 'g++', 'clang++'].find((name) => output(name, ['--version']) !== undefined);
  const version = compiler === undefined ? undefined : compilerVersion(compiler);
  if (version === undefined) {
    missing.push({
      what: compiler === undefined ? 'no C++ compiler was found' : `the C++ compiler '${compiler}' does not run`,
      apt: ['g++'],
    });
  } else if (version.major < (version.clang ? 14 : 11)) {
    missing.push({
      what: `${compiler} ${version.major} is too old for C++20 (g++ 11 or clang++ 14 is needed; CXX=... chooses one)`,
      apt: ['g++'],
    });
  }
  if (!hasNinja() && output('make', ['--version']) === undefined)
    missing.push({ what: 'neither ninja nor make was found', apt: ['ninja-build'] });
  if (missing.length === 0) return;
  const packages = [...new Set(missing.flatMap((tool) => tool.apt))].join(' ');
  throw new Failure(
    `The addon cannot be built here: ${missing.map((tool) => tool.what).join('; ')}.\n` +
      `Hint: on Debian or Ubuntu run \`apt-get install ${packages}\`; elsewhere install the same with the system's package manager`,
  );
}

export function hasNinja() {
  return output('ninja', ['--version']) !== undefined;
}

function compilerVersion(compiler) {
  const macros = output(compiler, ['-dM', '-E', '-x', 'c++', '/dev/null']) ?? '';
  const read = (name) => new RegExp(`#define ${name} (\\d+)`).exec(macros)?.[1];
  const clang = read('__clang_major__');
  const major = clang ?? read('__GNUC__');
  return major === undefined ? undefined : { clang: clang !== undefined, major: Number(major) };
}
