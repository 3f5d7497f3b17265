import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  existsSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import ts from 'typescript';
import * as api from '../../lib';
import { ERROR_CODES } from '../../lib/base/errors';
import type { AnyTable, OptionEntry } from '../../lib/base/options';
import { GENERATE_OPTIONS } from '../../lib/generation/request';
import { PACKAGE_ROOT } from '../../lib/base/package';
import { ENGINE_OPTIONS } from '../../lib/engine/engine-options';
import { LOAD_OPTIONS } from '../../lib/model/load-options';
import { TRAINER_OPTIONS } from '../../lib/training/recipe';
import { runTypeScript } from './run-example';

jest.setTimeout(120_000);

const pages = [
  'README.md',
  'README.ja.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...['docs', 'docs/guides', 'docs/ja', 'examples'].flatMap((folder) =>
    readdirSync(join(PACKAGE_ROOT, folder))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `${folder}/${name}`),
  ),
];

const read = (page: string): string => readFileSync(join(PACKAGE_ROOT, page), 'utf8');

/** The TypeScript of a page, each block with the line it starts at. */
function blocksOf(page: string): { line: number; code: string }[] {
  const text = read(page);
  return Array.from(text.matchAll(/^```ts\n([\s\S]*?)^```$/gm), (match) => ({
    line: text.slice(0, match.index).split('\n').length,
    code: match[1]!,
  }));
}

/**
 * What the blocks use without saying where it is from: the exported names and a few objects that the text speaks of.
 */
function globals(): string {
  const objects = { model: 'NeoXModel', exporter: 'FTExporter', result: 'TrainingResult', engine: 'GenerationEngine' };
  const prefixes = ['smile', 'casual', 'polite', 'friendly'];
  return [
    'export {};',
    'declare global {',
    ...Object.keys(api).map((name) => `  const ${name}: typeof import('neox-prefix').${name};`),
    ...Object.entries(objects).map(([name, type]) => `  const ${name}: import('neox-prefix').${type};`),
    ...prefixes.map((name) => `  const ${name}: import('neox-prefix').PrefixWeights;`),
    '  const folder: string;',
    '}',
  ].join('\n');
}

test('the TypeScript in the documentation compiles against the package', () => {
  // In the package's folder, so that 'neox-prefix' means the package itself.
  const folder = join(PACKAGE_ROOT, 'docs');
  const sources = new Map([[join(folder, 'globals.d.mts'), globals()]]);
  for (const page of pages) {
    for (const { line, code } of blocksOf(page)) {
      sources.set(join(folder, `${page.replaceAll('/', '_')}_${line}.mts`), `export {};\n${code}`);
    }
  }
  expect(sources.size).toBeGreaterThan(10);
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.Node16,
    moduleResolution: ts.ModuleResolutionKind.Node16,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    noEmit: true,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (path) => sources.has(path) || fileExists.call(host, path);
  host.readFile = (path) => sources.get(path) ?? readFile.call(host, path);
  host.getSourceFile = (path, version, ...rest) => {
    const text = sources.get(path);
    return text === undefined
      ? getSourceFile.call(host, path, version, ...rest)
      : ts.createSourceFile(path, text, version);
  };
  const program = ts.createProgram([...sources.keys()], options, host);
  const problems = ts.getPreEmitDiagnostics(program).map((diagnostic) => {
    const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n');
    return `${diagnostic.file?.fileName ?? ''}: ${text}`;
  });
  expect(problems).toEqual([]);
});

test('the screen of API in the README runs as it stands', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'neox-readme-'));
  // Within the package, for its own name to be found; what the program writes goes to its working directory.
  const place = join(PACKAGE_ROOT, 'examples', 'out');
  mkdirSync(place, { recursive: true });
  const program = join(place, `readme-${process.pid}.mts`);
  try {
    symlinkSync(join(PACKAGE_ROOT, 'examples'), join(folder, 'examples'));
    const [block] = blocksOf('README.md');
    writeFileSync(program, block!.code);
    const { code, stdout, stderr } = await runTypeScript(program, [], { cwd: folder });
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(stdout).toMatch(/perplexity: 2\.5/);
    expect(stdout).toMatch(/。 😃/);
    expect(stdout).toContain('[ 1, 3, 2048 ]');
    for (const path of ['smile.safetensors', 'fastertransformer/1-gpu/config.ini'])
      expect(existsSync(join(folder, path))).toBe(true);
  } finally {
    rmSync(program, { force: true });
    rmSync(folder, { recursive: true });
  }
});

test('every link to a file leads to one', () => {
  const broken: string[] = [];
  for (const page of pages) {
    for (const [, target] of read(page).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(target!)) continue;
      if (!existsSync(resolve(PACKAGE_ROOT, dirname(page), target!))) broken.push(`${page}: ${target!}`);
    }
  }
  expect(broken).toEqual([]);
});

/** The rows of the tables of a page whose first cell is code, as cells; one list for each table. */
function tablesOf(page: string): string[][][] {
  const cellsOf = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  return read(page)
    .split(/\n(?!\|)/)
    .map((block) =>
      block
        .split('\n')
        .filter((line) => line.startsWith('| `'))
        .map(cellsOf),
    )
    .filter((rows) => rows.length > 0);
}
const plain = (cell: string | undefined): string => (cell ?? '').replaceAll('`', '');

test('docs/errors.md lists every error code and no other', () => {
  expect(tablesOf('docs/errors.md').flatMap((rows) => rows.map(([code]) => plain(code)))).toEqual([...ERROR_CODES]);
});

/** Numbers in JavaScript's own form. */
function asWritten(value: unknown): string {
  const number = Number(value);
  return typeof value !== 'boolean' && Number.isFinite(number) ? String(number) : String(value);
}

/** The tables of options, where the guides show them, and the interfaces that document them in docs/api.md. */
const TABLES: [page: string | undefined, table: AnyTable, interfaces: string[]][] = [
  ['docs/guides/sampling.md', GENERATE_OPTIONS, ['SamplingOptions', 'BeamOptions', 'GenerateOptions']],
  ['docs/guides/training.md', TRAINER_OPTIONS, ['PrefixEncoderOptions', 'TrainerOptions']],
  ['docs/guides/serving.md', ENGINE_OPTIONS, ['EngineOptions']],
  [undefined, LOAD_OPTIONS, ['LoadOptions']],
];

/** A default as the documents write it. */
function written({ default: value, otherwise }: OptionEntry<unknown>): string {
  if (value === undefined) return otherwise;
  if (typeof value === 'string') return `\`'${value}'\``;
  const mebibytes = Number(value) / 2 ** 20;
  return mebibytes >= 1 && Number.isInteger(mebibytes) ? `${mebibytes} MiB` : `\`${asWritten(value)}\``;
}

test.each(TABLES.filter(([page]) => page !== undefined))('%s has the table of options of the code', (page, table) => {
  const entries = Object.entries(table);
  const shown = tablesOf(page ?? '').find(([first]) => plain(first?.[0]) === entries[0]?.[0]) ?? [];
  const withoutLinks = (text: string | undefined): string => (text ?? '').replace(/\[(.+?)\]\(.+?\)/g, '$1');
  expect(shown.map(([name, value, what]) => [plain(name), value, withoutLinks(what)])).toEqual(
    entries.map(([name, entry]) => [name, written(entry), entry.help]),
  );
});

test.each(TABLES)('the comments say the defaults of the code (%s)', (_, table, interfaces) => {
  const sections = read('docs/api.md').split(/^### /m);
  const documented = interfaces.flatMap((name) => {
    const section = sections.find((part) => part.startsWith(`${name}\n`)) ?? '';
    return [...section.matchAll(/^\| `(\w+)\??` \|.*\| (.*) \|$/gm)].map(([, option = '', text = '']) => ({
      option,
      text,
    }));
  });
  expect(Object.keys(table).filter((name) => !documented.some(({ option }) => option === name))).toEqual([]);
  for (const { option, text } of documented) {
    const entry = table[option];
    if (entry === undefined) continue; // the signal of an encoder's fit
    const said = /Defaults to ([^.`]*(?:`[^`]*`)?)/.exec(text)?.[1] ?? '';
    const value = /^`-?[\d.e-]+`$/.test(said) ? `\`${asWritten(plain(said))}\`` : said;
    if (entry.default === undefined) expect(`${option} ${value}`).not.toContain(`${option} \``);
    else expect(`${option} ${value}`).toBe(`${option} ${written(entry)}`);
  }
});
