// The program of a thread that compiles formats and says which tokens go on with them. XGrammar may take minutes and
// gigabytes for a few characters; here it can be ended, and only its own thread waits.
import { parentPort, workerData } from 'node:worker_threads';
import { isError, isNeoXPrefixError, NeoXPrefixError } from '../../base/errors';
import { byteLevelText } from '../../tokenizer/byte-level-bpe';
import type { FormatAnswer, FormatRequest, FormatThreadData } from './format-protocol';
import { compileSource, type FormatSource, kindOf, parseSource, refusalOf, sourceOf } from './format-source';
import type { OutputFormat } from './output-format';
import { firstUnwritable } from './vocabulary';
import { type CompiledGrammar, type GrammarCompiler, type GrammarMatcher, XGrammar } from './xgrammar';

const PAGE = 65_536;

/** A WebAssembly.Memory, which the types of Node do not have. */
interface Memory {
  readonly buffer: ArrayBuffer;
  grow: (pages: number) => number;
}

interface Workshop {
  instance: XGrammar;
  compiler: GrammarCompiler;
}

const { bytes, ends, memoryBytes } = workerData as FormatThreadData;
const texts = Array.from(ends, (end, id) => bytes.subarray(id === 0 ? 0 : ends[id - 1], end));
let exceeded = false;
let workshop: Workshop | undefined;
/** Where formats are tried first: one that is wrong aborts the instance that reads it. */
let trial: XGrammar | undefined;
const grammars = new Map<string, { grammar: CompiledGrammar; instance: XGrammar }>();
const matchers = new Map<number, GrammarMatcher>();

// resourceLimits of a worker know the heap of JavaScript alone.
const { WebAssembly } = globalThis as unknown as { WebAssembly: { Memory: { prototype: Memory } } };

const { grow } = WebAssembly.Memory.prototype;
WebAssembly.Memory.prototype.grow = function (this: Memory, pages: number): number {
  if (this.buffer.byteLength + pages * PAGE > memoryBytes) {
    exceeded = true;
    throw new RangeError('more memory than a format may take');
  }
  return grow.call(this, pages);
};

async function createWorkshop(): Promise<Workshop> {
  const instance = new XGrammar();
  // Token V, which the model does not have, is the end: which tokens end a text is up to each request.
  const tokens = [...texts.map(byteLevelText), ''];
  const { api } = instance;
  const size = texts.length;
  const info = await api.TokenizerInfo.createTokenizerInfo(tokens, 'byte_level', false, size + 1, [size]);
  return { instance, compiler: await api.GrammarCompiler.createGrammarCompiler(info, false) };
}

/** Lets XGrammar read a format where nothing can be lost. */
async function check(format: OutputFormat, source: FormatSource): Promise<void> {
  trial ??= new XGrammar();
  const instance = trial;
  instance.printed();
  try {
    (await parseSource(instance, source)).dispose();
  } catch (error) {
    trial = undefined;
    throw tooLarge(format) ?? refusalOf(format, instance.printed(), error);
  }
  // Warnings are about what it passes over.
  const warnings = instance.printed();
  if (warnings.length > 0) throw refusalOf(format, warnings, undefined);
}

/** @param known what the format is to XGrammar, of one that was tried before */
async function compile(key: string, format: OutputFormat, known: FormatSource | undefined): Promise<FormatAnswer> {
  const source = known ?? sourceOf(format);
  if (known === undefined) {
    if ('choices' in format) firstUnwritable(format.choices, texts);
    await check(format, source);
  }
  workshop ??= await createWorkshop();
  const { instance, compiler } = workshop;
  const started = performance.now();
  try {
    grammars.set(key, { grammar: await compileSource(compiler, source), instance });
  } catch (error) {
    // Its memory may be in any state.
    workshop = undefined;
    throw tooLarge(format) ?? refusalOf(format, instance.printed(), error);
  }
  return { milliseconds: performance.now() - started, source };
}

function tooLarge(format: OutputFormat): NeoXPrefixError | undefined {
  if (!exceeded) return undefined;
  exceeded = false;
  const limit = `${Math.floor(memoryBytes / 2 ** 20)} MiB`;
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `format.${kindOf(format)} takes more than ${limit} to compile`);
}

async function answer(request: FormatRequest): Promise<FormatAnswer> {
  switch (request.what) {
    case 'compile':
      return compile(request.key, request.format, request.source);
    case 'start': {
      const found = grammars.get(request.key);
      if (found === undefined) throw new Error('the format is not compiled here');
      const { grammar, instance } = found;
      matchers.set(request.matcher, await instance.api.GrammarMatcher.createGrammarMatcher(grammar));
      return {};
    }
    case 'mask': {
      const matcher = matchers.get(request.matcher);
      if (matcher === undefined) throw new Error('the row has ended');
      for (const token of request.tokens) {
        if (matcher.acceptToken(token)) continue;
        throw new NeoXPrefixError('NEOX_NATIVE', `XGrammar refuses token ${token}, which it allowed`);
      }
      return { mask: (await matcher.getNextTokenBitmask()).slice() };
    }
    case 'end':
      matchers.get(request.matcher)?.dispose();
      matchers.delete(request.matcher);
      return {};
    case 'forget':
      grammars.get(request.key)?.grammar.dispose();
      grammars.delete(request.key);
      return {};
  }
}

function failureOf(error: unknown): FormatAnswer {
  if (isNeoXPrefixError(error)) return { error: { code: error.code, message: error.message } };
  const message = isError(error) ? error.message : String(error);
  return { error: { code: 'NEOX_NATIVE', message: `XGrammar failed: ${message}` } };
}

let last: Promise<unknown> = Promise.resolve();
parentPort?.on('message', (request: FormatRequest) => {
  last = last
    .then(() => answer(request))
    .then(
      (answered) => parentPort?.postMessage(answered),
      (error: unknown) => parentPort?.postMessage(failureOf(error)),
    );
});
