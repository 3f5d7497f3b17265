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
import { resolveRecipe, TRAINER_OPTIONS } from '../../lib/training/recipe';
import { runTypeScript } from './run-example';

jest.setTimeout(120_000);

const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...['docs', 'docs/guides', 'examples'].flatMap((folder) =>
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

/** The rows of the tables of a page whose first cell is code, as cells without backticks. */
function tableRows(page: string): string[][] {
  return read(page)
    .split('\n')
    .filter((line) => /^\| `/.test(line))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}
const plain = (cell: string | undefined): string => (cell ?? '').replaceAll('`', '');

test('docs/errors.md lists every error code and no other', () => {
  expect(tableRows('docs/errors.md').map(([code]) => plain(code))).toEqual([...ERROR_CODES]);
});

/** Rows whose second cell is code too: an option and its default. */
function defaultsOf(page: string): Map<string, string> {
  return new Map(
    tableRows(page)
      .filter(([, value]) => value?.startsWith('`') === true)
      .map(([name, value]) => [plain(name), plain(value)]),
  );
}

test('the table of the recipe has the defaults of the code', () => {
  const recipe: Record<string, unknown> = { ...resolveRecipe({}) };
  const encoder = readFileSync(join(PACKAGE_ROOT, 'lib', 'training', 'encoder.ts'), 'utf8');
  const documented = defaultsOf('docs/guides/training.md');
  for (const [name, value] of documented) {
    const expected =
      recipe[name] ?? new RegExp(`options\\.${name} \\?\\? ([^,)]+)`).exec(encoder)?.[1]?.replaceAll("'", '');
    expect(`${name} ${value.replaceAll("'", '')}`).toBe(`${name} ${asWritten(expected)}`);
  }
  // What has no default value: a text that goes with an init, an encoder, a folder.
  const missing = TRAINER_OPTIONS.filter((name) => !documented.has(name));
  expect(missing.sort()).toEqual(['encoder', 'initText', 'outputDir']);
});

/** Numbers in JavaScript's own form. */
function asWritten(value: unknown): string {
  const number = Number(value);
  return typeof value !== 'boolean' && Number.isFinite(number) ? String(number) : String(value);
}

/** The tables of options, where the guides show them, and the interfaces that document them in docs/api.md. */
const TABLES: [page: string, table: AnyTable, interfaces: string[]][] = [
  ['docs/guides/sampling.md', GENERATE_OPTIONS, ['SamplingOptions', 'BeamOptions', 'GenerateOptions']],
];

/** A default as the documents write it. */
const written = ({ default: value, otherwise }: OptionEntry<unknown>): string =>
  value === undefined ? otherwise : typeof value === 'string' ? `\`'${value}'\`` : `\`${asWritten(value)}\``;

test.each(TABLES)('%s has the table of options of the code', (page, table) => {
  const rows = tableRows(page).map(([name, value, what]) => [
    plain(name),
    value,
    what?.replace(/\[(.+?)\]\(.+?\)/g, '$1'),
  ]);
  const entries = Object.entries(table);
  expect(rows).toEqual(entries.map(([name, entry]) => [name, written(entry), entry.help]));
});

test.each(TABLES)('the comments of the options of %s say the defaults of the code', (_, table, interfaces) => {
  const api = read('docs/api.md');
  const documented = interfaces.flatMap((name) => {
    const section = api.split(/^### /m).find((part) => part.startsWith(`${name}\n`)) ?? '';
    return [...section.matchAll(/^\| `(\w+)\??` \|.*\| (.*) \|$/gm)].map(([, option = '', text = '']) => [
      option,
      text,
    ]);
  });
  const entries = Object.entries(table);
  expect(documented.map(([name]) => name).sort()).toEqual(entries.map(([name]) => name).sort());
  for (const [name = '', text = ''] of documented) {
    const entry = entries.find(([other]) => other === name)?.[1] as OptionEntry<unknown>;
    const said = /Defaults to ([^.`]*(?:`[^`]*`)?)/.exec(text)?.[1];
    if (entry.default !== undefined) expect(`${name} ${said}`).toBe(`${name} ${written(entry)}`);
    else expect(`${name} ${said}`).not.toContain(`${name} \``);
  }
});
