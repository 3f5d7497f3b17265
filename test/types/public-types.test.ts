import { dirname, join } from 'node:path';
import ts from 'typescript';

const root = join(__dirname, '..', '..');

function optionsOf(file: string): ts.CompilerOptions {
  const path = join(root, file);
  const { config } = ts.readConfigFile(path, (name) => ts.sys.readFile(name)) as { config: unknown };
  return ts.parseJsonConfigFileContent(config, ts.sys, dirname(path)).options;
}

const options = {
  ...optionsOf('tsconfig.json'),
  rootDir: root,
  noEmit: true,
  declaration: false,
  noUnusedLocals: false,
};
const program = ts.createProgram([join(__dirname, 'public-types.ts')], options);

test('the public types are as documented', () => {
  const diagnostics = ts.getPreEmitDiagnostics(program, program.getSourceFile(join(__dirname, 'public-types.ts')));
  const text = diagnostics.map(({ file, start, messageText }) => {
    const line = file === undefined ? 0 : file.getLineAndCharacterOfPosition(start ?? 0).line + 1;
    return `line ${line}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
  expect(text).toEqual([]);
});

test('nothing public is of type any', () => {
  const checker = program.getTypeChecker();
  const index = program.getSourceFile(join(root, 'lib', 'index.ts')) as ts.SourceFile;
  const found: string[] = [];
  const seen = new Set<ts.Type>();

  function visit(type: ts.Type, path: string): void {
    if (type.flags & ts.TypeFlags.Any) {
      found.push(path);
      return;
    }
    if (seen.has(type) || path.split('.').length > 8) return;
    seen.add(type);
    if (type.isUnionOrIntersection()) for (const part of type.types) visit(part, path);
    for (const argument of checker.getTypeArguments(type as ts.TypeReference)) visit(argument, `${path}<>`);
    for (const signature of [...type.getCallSignatures(), ...type.getConstructSignatures()]) {
      for (const parameter of signature.parameters)
        visit(checker.getTypeOfSymbol(parameter), `${path}(${parameter.name})`);
      visit(signature.getReturnType(), `${path}()`);
    }
    for (const property of type.getProperties()) {
      // What comes from elsewhere (Array, Promise, AbortSignal) is not ours to type.
      const ours =
        property.declarations?.some((node) => node.getSourceFile().fileName.startsWith(join(root, 'lib'))) ?? false;
      if (ours) visit(checker.getTypeOfSymbol(property), `${path}.${property.name}`);
    }
  }

  const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(index) as ts.Symbol);
  expect(exported.length).toBeGreaterThan(30);
  for (const symbol of exported) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    if (target.flags & ts.SymbolFlags.Value) visit(checker.getTypeOfSymbol(target), symbol.name);
    if (target.flags & ts.SymbolFlags.Type) visit(checker.getDeclaredTypeOfSymbol(target), symbol.name);
  }
  expect(found).toEqual([]);
});
