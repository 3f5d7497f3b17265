import { isError, NeoXPrefixError } from '../../base/errors';
import { xgrammarSchema } from './json-schema';
import type { OutputFormat } from './output-format';
import { xgrammarRegex } from './regex';
import type { CompiledGrammar, Grammar, GrammarCompiler, XGrammar } from './xgrammar';

/** What XGrammar is given for a format. */
export type FormatSource = { schema: string } | { pattern: string } | { grammar: string };

/** One line; other properties and items than those of the schema are not allowed. */
const JSON_STYLE = [false, -1, undefined, true] as const;

/** @throws NEOX_BAD_ARGUMENT for what XGrammar does not keep to */
export function sourceOf(format: OutputFormat): FormatSource {
  if ('regex' in format) return { pattern: xgrammarRegex(format.regex, 'format.regex') };
  if ('choices' in format) return { grammar: `root ::= ${format.choices.map(ebnfString).join(' | ')}` };
  return { schema: JSON.stringify(xgrammarSchema(format.jsonSchema, 'format.jsonSchema')) };
}

function ebnfString(text: string): string {
  const escaped = Array.from(
    text,
    (character) => `\\U${(character.codePointAt(0) as number).toString(16).padStart(8, '0')}`,
  );
  return `"${escaped.join('')}"`;
}

export function parseSource({ api: { Grammar } }: XGrammar, source: FormatSource): Promise<Grammar> {
  if ('schema' in source) return Grammar.fromJSONSchema(source.schema, ...JSON_STYLE);
  return 'grammar' in source
    ? Grammar.fromEBNF(source.grammar)
    : Grammar.fromStructuralTag({ type: 'regex', pattern: source.pattern });
}

export function compileSource(compiler: GrammarCompiler, source: FormatSource): Promise<CompiledGrammar> {
  if ('schema' in source) return compiler.compileJSONSchema(source.schema, ...JSON_STYLE);
  return 'grammar' in source
    ? compiler.compileGrammar(source.grammar)
    : compiler.compileStructuralTag({ type: 'regex', pattern: source.pattern });
}

export function refusalOf(format: OutputFormat, printed: readonly string[], error: unknown): NeoXPrefixError {
  const reason = printed[0] ?? (isError(error) ? error.message : 'it cannot be compiled');
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `XGrammar refuses format.${kindOf(format)}: ${reason}`);
}

export function kindOf(format: OutputFormat): string {
  return Object.keys(format)[0] ?? '';
}
