// XGrammar (https://github.com/mlc-ai/xgrammar) as WebAssembly: which tokens may come next where a text must match a
// grammar.
import type * as Api from '@mlc-ai/web-xgrammar' with { 'resolution-mode': 'import' };
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { compileFunction } from 'node:vm';

export type XGrammarApi = typeof Api;
export type { CompiledGrammar, Grammar, GrammarCompiler, GrammarMatcher } from '@mlc-ai/web-xgrammar' with {
  'resolution-mode': 'import',
};

let factory:
  ((exports: object, module: object, location: object, process: undefined, console: object) => void) | undefined;

/**
 * An instance of XGrammar with memory of its own, which goes with it. What one instance makes is of no use to another.
 *
 * The package (0.1.27) calls itself an ES module, and its file is none, so neither import() nor require() loads it.
 * Here it is run as the script that it is. It gets no `process`: with one it would add a listener to it. It gets a
 * console of its own: an error of XGrammar is an abort of the program, and its reason is only printed.
 */
export class XGrammar {
  readonly api: XGrammarApi;
  private said: string[] = [];

  constructor() {
    factory ??= load();
    const api = {};
    const say = (...words: unknown[]): void => void this.said.push(words.join(' '));
    const location = { href: pathToFileURL(require.resolve('@mlc-ai/web-xgrammar')).href };
    factory(api, {}, location, undefined, { log: say, warn: say, error: say });
    this.api = api as XGrammarApi;
  }

  /** What it has printed since the last call: errors and warnings, without the places in its source. */
  printed(): string[] {
    const { said } = this;
    this.said = [];
    return said
      .filter((line) => line.startsWith('['))
      .map((line) => line.replace(/^\[\w+\] \S+:\d+: /, '').replace(/^Check failed: .*? is (?:false|true): /, ''));
  }
}

function load(): NonNullable<typeof factory> {
  const path = require.resolve('@mlc-ai/web-xgrammar');
  return compileFunction(readFileSync(path, 'utf8'), ['exports', 'module', 'location', 'process', 'console'], {
    filename: path,
  }) as NonNullable<typeof factory>;
}
