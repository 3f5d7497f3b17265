import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { native } from '../../../lib/addon/addon';

const path = join(__dirname, '..', '..', '..', 'types', 'native.d.ts');
const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022, true);

const isExported = (node: ts.Statement): boolean =>
  ts.canHaveModifiers(node) && (ts.getModifiers(node) ?? []).some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword);

/** The declared values: what JavaScript can see of a declaration file. */
const declared = source.statements.filter(isExported).flatMap((statement) => {
  if (ts.isFunctionDeclaration(statement)) return [statement.name?.text ?? ''];
  if (ts.isVariableStatement(statement))
    return statement.declarationList.declarations.map(({ name }) => name.getText());
  if (ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement)) return [];
  throw new Error(`not foreseen in ${path}: ${statement.getText()}`);
});

test('types/native.d.ts declares exactly what the addon exports', () => {
  expect(Object.keys(native()).sort()).toEqual([...declared].sort());
});

test('all of it are functions, and each has its own name', () => {
  for (const [name, value] of Object.entries(native())) {
    expect(typeof value).toBe('function');
    expect((value as () => unknown).name).toBe(name);
  }
});

test('what it tells about the system has the declared fields', () => {
  const declaration = source.statements.find(
    (node): node is ts.InterfaceDeclaration => ts.isInterfaceDeclaration(node) && node.name.text === 'SystemInfo',
  );
  const fields = declaration?.members.map(({ name }) => name?.getText()) ?? [];
  expect(Object.keys(native().systemInfo()).sort()).toEqual(fields.sort());
});
