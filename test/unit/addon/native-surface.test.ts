import { readdirSync, readFileSync } from 'node:fs';
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

/** Keys of the objects that go through the border: those that the addon reads, and those that it writes. */
interface Keys {
  read: Set<string>;
  written: Set<string>;
}

/** By the declarations: what stands in parameters is read, what stands in results is written; in callbacks reversed. */
function declaredKeys(): Keys {
  const keys: Keys = { read: new Set(), written: new Set() };
  const seen = new Set<string>();
  const interfaces = new Map(source.statements.filter(ts.isInterfaceDeclaration).map((node) => [node.name.text, node]));
  const members = (list: ts.NodeArray<ts.TypeElement>, side: keyof Keys): void => {
    for (const member of list) {
      if (!ts.isPropertySignature(member) || member.type === undefined) continue;
      keys[side].add(member.name.getText());
      visit(member.type, side);
    }
  };
  const visit = (node: ts.Node, side: keyof Keys): void => {
    if (ts.isTypeLiteralNode(node)) {
      members(node.members, side);
      return;
    }
    if (ts.isFunctionTypeNode(node)) {
      const other = side === 'read' ? 'written' : 'read';
      node.parameters.forEach(({ type }) => type && visit(type, other));
      return;
    }
    const name = ts.isTypeReferenceNode(node)
      ? node.typeName
      : ts.isExpressionWithTypeArguments(node) && node.expression;
    const found = name === false ? undefined : interfaces.get(name.getText());
    if (found !== undefined && !seen.has(`${side} ${found.name.text}`)) {
      seen.add(`${side} ${found.name.text}`);
      found.heritageClauses?.forEach(({ types }) => types.forEach((type) => visit(type, side)));
      members(found.members, side);
    }
    ts.forEachChild(node, (child) => visit(child, side));
  };
  for (const statement of source.statements.filter(ts.isFunctionDeclaration)) {
    statement.parameters.forEach(({ type }) => type && visit(type, 'read'));
    if (statement.type !== undefined) visit(statement.type, 'written');
  }
  return keys;
}

/** By the binding: get_int(o, "key") and its kin read, result.Set("key", ...) writes. Errors are no part of it. */
function boundKeys(): Keys {
  const folder = join(__dirname, '..', '..', '..', 'native', 'binding');
  const files = readdirSync(folder).filter((name) => name.endsWith('.cc') && name !== 'errors.cc');
  const text = files.map((name) => readFileSync(join(folder, name), 'utf8')).join('\n');
  const all = (pattern: RegExp): string[] => Array.from(text.matchAll(pattern), ([, key = '']) => key);
  // The last one: a trainer's state is read by a function of its own.
  const read = [...all(/\b(?:get_\w+|has_value)\([\w.()]+, "(\w+)"\)/g), ...all(/(?:\.Get|\btensor)\("(\w+)"\)/g)];
  return { read: new Set(read), written: new Set(all(/\b(?!exports\b)\w+\.Set\("(\w+)",/g)) };
}

test('the addon reads and writes the keys that types/native.d.ts declares', () => {
  const [expected, actual] = [declaredKeys(), boundKeys()];
  expect(expected.read.size).toBeGreaterThan(80);
  expect([...actual.read].sort()).toEqual([...expected.read].sort());
  expect([...actual.written].sort()).toEqual([...expected.written].sort());
});
