// `node -r test/typescript.cjs PROGRAM.ts`: runs TypeScript sources, for tests that need processes of their own. Types
// are checked by `npm run lint`; here they are only stripped, and what comes of it is kept for the next process.
const { createHash } = require('node:crypto');
const { mkdirSync, readFileSync, renameSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { threadId } = require('node:worker_threads');

const cache = join(__dirname, '..', 'node_modules', '.cache', 'neox-prefix-tests');
mkdirSync(cache, { recursive: true });

require.extensions['.ts'] = (module, fileName) => {
  const source = readFileSync(fileName, 'utf8');
  const kept = join(cache, `${createHash('sha256').update(source).digest('hex')}.js`);
  let code;
  try {
    code = readFileSync(kept, 'utf8');
  } catch {
    const ts = require('typescript');
    const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true };
    code = ts.transpileModule(source, { fileName, compilerOptions }).outputText;
    const written = `${kept}.${process.pid}.${threadId}`;
    writeFileSync(written, code);
    renameSync(written, kept);
  }
  module._compile(code, fileName);
};
