import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../lib/base/package';

const RELEASE = join(PACKAGE_ROOT, 'build', 'Release');
const OBJECTS = join(PACKAGE_ROOT, 'build', 'cmake', 'CMakeFiles');

function dynamicEntries(name: string, tag: string): string[] {
  const text = execFileSync('readelf', ['-d', join(RELEASE, name)], { encoding: 'utf8' });
  return [...text.matchAll(/\((\w+)\) .*\[(.*)\]/g)].filter((match) => match[1] === tag).map((match) => match[2]!);
}

test('the addon names libtorch without a path, and nothing of CUDA or OpenMP', () => {
  expect(dynamicEntries('neox_prefix.node', 'NEEDED')).toEqual(
    expect.arrayContaining(['libtorch_cpu.so', 'libc10.so']),
  );
  expect(dynamicEntries('neox_prefix.node', 'NEEDED').filter((name) => /cuda|gomp|libtorch\.so/.test(name))).toEqual(
    [],
  );
  expect([...dynamicEntries('neox_prefix.node', 'RPATH'), ...dynamicEntries('neox_prefix.node', 'RUNPATH')]).toEqual(
    [],
  );
});

test("exchanges between ranks are libtorch's own: nothing is linked for them, nothing of Gloo is called", () => {
  const needed = dynamicEntries('neox_prefix.node', 'NEEDED');
  expect(needed.filter((name) => /gloo|uv|mpi|nccl/.test(name))).toEqual([]);
  const text = execFileSync('nm', ['-D', '--undefined-only', '-C', join(RELEASE, 'neox_prefix.node')], {
    encoding: 'utf8',
  });
  expect(text).toMatch(/ U c10d::ProcessGroupGloo::/);
  expect(text).not.toMatch(/ U gloo::/);
});

test('the preload addon needs the C library alone', () => {
  expect(
    dynamicEntries('neox_preload.node', 'NEEDED').filter((name) => !/^(libc|libdl|ld-linux.*)\.so/.test(name)),
  ).toEqual([]);
});

test('the addon shows nothing but its entry points', () => {
  const text = execFileSync('nm', ['-D', '--defined-only', '-C', join(RELEASE, 'neox_prefix.node')], {
    encoding: 'utf8',
  });
  const strong = text
    .split('\n')
    .filter((line) => / [TDB] /.test(line))
    .map((line) => line.split(' ').slice(2).join(' '));
  expect(
    strong.filter(
      (name) =>
        !/^(napi_register_module_v1|node_api_module_get_api_version_v1|_init|_fini|_edata|_end|__bss_start|)$/.test(
          name,
        ),
    ),
  ).toEqual([]);
});

test('the kernels of each instruction set share no function with other code, which the linker would merge', () => {
  const sets = readdirSync(OBJECTS).filter((name) => name.startsWith('neox_kernels_'));
  expect(sets).toContain('neox_kernels_portable.dir');
  for (const set of sets) {
    const folder = join(OBJECTS, set, 'native', 'core', 'kernels');
    const objects = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.o')) : [];
    expect(objects).not.toEqual([]);
    for (const object of objects) {
      const text = execFileSync('nm', ['-C', join(folder, object)], { encoding: 'utf8' });
      expect(text.split('\n').filter((line) => / [WVu] /.test(line))).toEqual([]);
    }
  }
});
