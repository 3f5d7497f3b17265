// `node -r test/typescript.cjs PROGRAM.ts`: runs TypeScript sources, for tests that need a process of their own. Types are checked by
// `npm run lint`; here they are only stripped.
const { readFileSync } = require('node:fs');
const { extensions } = require('node:module');
const ts = require('typescript');

const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true };

(extensions ?? require.extensions)['.ts'] = (module, fileName) => {
  module._compile(ts.transpileModule(readFileSync(fileName, 'utf8'), { fileName, compilerOptions }).outputText, fileName);
};
