// `node -r ./fuzz/instrument.cjs PROGRAM.ts`: runs TypeScript with its branches counted, for coverage-guided fuzzing.
// Every function, branch, case, loop body and operand behind && || ?? of lib/ and of the tokenizers package gets a
// place in `neoxCoverage`, where the number of passes is counted (up to 255).
const { readFileSync } = require('node:fs');
const { join, sep } = require('node:path');
const ts = require('typescript');

const PLACES = 1 << 15;
const counts = new Uint8Array(PLACES);
globalThis.neoxCoverage = counts;
let places = 0;
globalThis.neoxPass = (place) => {
  if (counts[place] < 255) counts[place]++;
  return true;
};

const factory = ts.factory;

function pass() {
  const place = places++ % PLACES;
  return factory.createCallExpression(factory.createIdentifier('neoxPass'), undefined, [
    factory.createNumericLiteral(place),
  ]);
}

function counted(block) {
  return factory.updateBlock(block, [factory.createExpressionStatement(pass()), ...block.statements]);
}

/** The value of an expression, counted when it is computed. */
function countedValue(expression) {
  return factory.createParenthesizedExpression(
    factory.createComma(pass(), factory.createParenthesizedExpression(expression)),
  );
}

function asBlock(statement) {
  return counted(ts.isBlock(statement) ? statement : factory.createBlock([statement]));
}

const LOGICAL = [ts.SyntaxKind.AmpersandAmpersandToken, ts.SyntaxKind.BarBarToken, ts.SyntaxKind.QuestionQuestionToken];

function instrument(context) {
  const visit = (node) => {
    const done = ts.visitEachChild(node, visit, context);
    if (ts.isFunctionDeclaration(done) && done.body) {
      const { modifiers, asteriskToken, name, typeParameters, parameters, type, body } = done;
      return factory.updateFunctionDeclaration(
        done,
        modifiers,
        asteriskToken,
        name,
        typeParameters,
        parameters,
        type,
        prefixed(body),
      );
    }
    if (ts.isMethodDeclaration(done) && done.body) {
      const { modifiers, asteriskToken, name, questionToken, typeParameters, parameters, type, body } = done;
      return factory.updateMethodDeclaration(
        done,
        modifiers,
        asteriskToken,
        name,
        questionToken,
        typeParameters,
        parameters,
        type,
        prefixed(body),
      );
    }
    if (ts.isIfStatement(done)) {
      const otherwise =
        done.elseStatement === undefined ? counted(factory.createBlock([])) : asBlock(done.elseStatement);
      return factory.updateIfStatement(done, done.expression, asBlock(done.thenStatement), otherwise);
    }
    if (ts.isForStatement(done)) {
      return factory.updateForStatement(
        done,
        done.initializer,
        done.condition,
        done.incrementor,
        asBlock(done.statement),
      );
    }
    if (ts.isForOfStatement(done)) {
      return factory.updateForOfStatement(
        done,
        done.awaitModifier,
        done.initializer,
        done.expression,
        asBlock(done.statement),
      );
    }
    if (ts.isWhileStatement(done)) return factory.updateWhileStatement(done, done.expression, asBlock(done.statement));
    if (ts.isCaseClause(done)) {
      return factory.updateCaseClause(done, done.expression, [
        factory.createExpressionStatement(pass()),
        ...done.statements,
      ]);
    }
    if (ts.isConditionalExpression(done)) {
      const { condition, questionToken, whenTrue, colonToken, whenFalse } = done;
      return factory.updateConditionalExpression(
        done,
        condition,
        questionToken,
        countedValue(whenTrue),
        colonToken,
        countedValue(whenFalse),
      );
    }
    if (ts.isBinaryExpression(done) && LOGICAL.includes(done.operatorToken.kind)) {
      return factory.updateBinaryExpression(done, done.left, done.operatorToken, countedValue(done.right));
    }
    return done;
  };
  return (file) => ts.visitNode(file, visit);
}

/** Directives such as 'use strict' must stay first. */
function prefixed(body) {
  const first = body.statements[0];
  if (first !== undefined && ts.isExpressionStatement(first) && ts.isStringLiteral(first.expression)) return body;
  return counted(body);
}

const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true };
const library = join(__dirname, '..', 'lib') + sep;
const tokenizers = join('@huggingface', 'tokenizers');

function load(fileName, source, isCounted) {
  const transformers = isCounted ? { before: [instrument] } : {};
  return ts.transpileModule(source, { fileName, compilerOptions, transformers }).outputText;
}

require.extensions['.ts'] = (module, fileName) => {
  module._compile(load(fileName, readFileSync(fileName, 'utf8'), fileName.startsWith(library)), fileName);
};
require.extensions['.cjs'] = (module, fileName) => {
  const source = readFileSync(fileName, 'utf8');
  module._compile(fileName.includes(tokenizers) ? load(fileName, source, true) : source, fileName);
};
