import { isError } from '../../base/errors';
import { show } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import type { LoadedModel } from '../../model/loaded-model';
import { byteLevelText } from '../../tokenizer/byte-level-bpe';
import { Constraint } from './constraint';
import type { OutputFormat } from './output-format';
import { xgrammarSchema } from './json-schema';
import { xgrammarRegex } from './regex';
import { FormatVocabulary } from './vocabulary';
import { type CompiledGrammar, type Grammar, type GrammarCompiler, XGrammar, type XGrammarApi } from './xgrammar';

/** Formats that one instance compiles, before a new one takes its place. */
const MOST_FORMATS = 64;

/** What XGrammar is given for a format. */
type Source = { schema: string } | { pattern: string } | { grammar: string };

/**
 * An instance that compiles formats for a vocabulary. It goes, with all that it compiled, when the last row that uses
 * it has ended.
 */
interface Workshop {
  instance: XGrammar;
  compiler: GrammarCompiler;
  formats: number;
}

interface CompiledFormat {
  grammar: CompiledGrammar;
  /** Of the instance that compiled it. */
  api: XGrammarApi;
}

const compilers = new WeakMap<LoadedModel, FormatCompiler>();

/**
 * Makes a row keep to a format.
 * @throws NEOX_BAD_ARGUMENT for a format that is wrong or not supported; NEOX_UNSUPPORTED where no text of the
 *   vocabulary has it
 */
export async function startConstraint(
  model: LoadedModel,
  format: OutputFormat,
  endIds: Int32Array,
): Promise<Constraint> {
  let compiler = compilers.get(model);
  if (compiler === undefined) {
    compiler = new FormatCompiler(model);
    compilers.set(model, compiler);
  }
  const constraint = await compiler.start(format, endIds);
  try {
    await constraint.findMask();
    return constraint;
  } catch (error) {
    constraint.dispose();
    throw error;
  }
}

class FormatCompiler {
  private readonly vocabulary: FormatVocabulary;
  private workshop: Workshop | undefined;
  /** What the workshop has compiled or will, by the format as JSON. */
  private compiled = new Map<string, Promise<CompiledFormat>>();
  /** Where formats are tried first: one that is wrong aborts the instance that reads it. */
  private trial: XGrammar | undefined;
  /** The end of the last compilation: one at a time, so that what is printed belongs to it. */
  private last: Promise<unknown> = Promise.resolve();

  constructor({ tokenizer, config }: LoadedModel) {
    this.vocabulary = new FormatVocabulary(tokenizer, config.vocabSize);
  }

  async start(format: OutputFormat, endIds: Int32Array): Promise<Constraint> {
    const key = JSON.stringify(format);
    let compiled = this.compiled.get(key);
    if (compiled === undefined) {
      compiled = this.last.then(() => this.compile(format, key));
      this.last = compiled.catch(() => this.compiled.delete(key));
      this.compiled.set(key, compiled);
    }
    const { api, grammar } = await compiled;
    return new Constraint(
      await api.GrammarMatcher.createGrammarMatcher(grammar),
      this.vocabulary,
      endIds,
      'jsonSchema' in format,
    );
  }

  private async compile(format: OutputFormat, key: string): Promise<CompiledFormat> {
    if ('choices' in format) this.checkWritable(format.choices);
    const source = sourceOf(format);
    await this.check(source, Object.keys(format)[0] as string);
    if (this.workshop === undefined || this.workshop.formats === MOST_FORMATS) {
      this.workshop = await this.createWorkshop();
      const own = this.compiled.get(key);
      this.compiled = new Map(own && [[key, own]]);
    }
    const { workshop } = this;
    workshop.formats++;
    try {
      return { api: workshop.instance.api, grammar: await compileSource(workshop.compiler, source) };
    } catch (error) {
      // Its memory may be in any state.
      this.workshop = undefined;
      throw refusal(Object.keys(format)[0] as string, workshop.instance.printed(), error);
    }
  }

  private async createWorkshop(): Promise<Workshop> {
    const instance = new XGrammar();
    // Token V, which the model does not have, is the end: which tokens end a text is up to each request.
    const { texts, size } = this.vocabulary;
    const tokens = [...texts.map(byteLevelText), ''];
    const info = await instance.api.TokenizerInfo.createTokenizerInfo(tokens, 'byte_level', false, tokens.length, [
      size,
    ]);
    return { instance, compiler: await instance.api.GrammarCompiler.createGrammarCompiler(info, false), formats: 0 };
  }

  private checkWritable(choices: readonly string[]): void {
    const at = choices.findIndex((choice) => !this.vocabulary.canWrite(choice));
    if (at < 0) return;
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The vocabulary of the tokenizer has no tokens for format.choices[${at}], ${show(choices[at])}`,
    );
  }

  /** Lets XGrammar read a format where nothing can be lost. */
  private async check(source: Source, kind: string): Promise<void> {
    this.trial ??= new XGrammar();
    const { trial } = this;
    trial.printed();
    try {
      (await parse(trial, source)).dispose();
    } catch (error) {
      this.trial = undefined;
      throw refusal(kind, trial.printed(), error);
    }
    // Warnings are about what it passes over.
    const warnings = trial.printed();
    if (warnings.length > 0) throw refusal(kind, warnings, undefined);
  }
}

/** One line; other properties and items than those of the schema are not allowed. */
const JSON_STYLE = [false, -1, undefined, true] as const;

function parse({ api: { Grammar } }: XGrammar, source: Source): Promise<Grammar> {
  if ('schema' in source) return Grammar.fromJSONSchema(source.schema, ...JSON_STYLE);
  return 'grammar' in source
    ? Grammar.fromEBNF(source.grammar)
    : Grammar.fromStructuralTag({ type: 'regex', pattern: source.pattern });
}

function compileSource(compiler: GrammarCompiler, source: Source): Promise<CompiledGrammar> {
  if ('schema' in source) return compiler.compileJSONSchema(source.schema, ...JSON_STYLE);
  return 'grammar' in source
    ? compiler.compileGrammar(source.grammar)
    : compiler.compileStructuralTag({ type: 'regex', pattern: source.pattern });
}

function sourceOf(format: OutputFormat): Source {
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

function refusal(kind: string, printed: readonly string[], error: unknown): NeoXPrefixError {
  const reason = printed[0] ?? (isError(error) ? error.message : 'it cannot be compiled');
  return new NeoXPrefixError(
    'NEOX_BAD_ARGUMENT',
    `XGrammar refuses format.${kind}: ${reason}`,
    error === undefined ? {} : { cause: error },
  );
}
