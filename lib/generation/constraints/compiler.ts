import { NeoXPrefixError } from '../../base/errors';
import type { FormatLimits, LoadedModel } from '../../model/loaded-model';
import { Constraint } from './constraint';
import type { FormatAnswer, FormatThreadData } from './format-protocol';
import { type FormatSource, kindOf } from './format-source';
import { FormatThread } from './format-thread';
import type { OutputFormat } from './output-format';
import { FormatVocabulary } from './vocabulary';

/** Formats that one thread keeps, before a new one takes its place. */
const MOST_FORMATS = 64;

/** A format that takes no longer than this is compiled again beside others: their rows wait for it. */
const QUICK_MS = 20;

/** Formats that take longer stay in a thread of their own each, so many of them. */
const MOST_LARGE = 4;

/** A thread that compiled formats. It goes when it is given up and the last row that uses it has ended. */
class Home {
  formats = 0;
  rows = 0;
  givenUp = false;

  constructor(readonly thread: FormatThread) {}

  leave(): void {
    this.rows--;
    this.close();
  }

  giveUp(): void {
    this.givenUp = true;
    this.close();
  }

  private close(): void {
    if (this.givenUp && this.rows === 0) this.thread.end(new NeoXPrefixError('NEOX_NATIVE', 'The format is gone'));
  }
}

interface Entry {
  readonly compiled: Promise<Home>;
  /** Requests that wait for it. */
  waiting: number;
  done: boolean;
  /** Ends the compilation, when nobody waits any more. */
  readonly abandon: AbortController;
  /** Of a format in a thread of its own. */
  home?: Home;
}

const compilers = new WeakMap<LoadedModel, FormatCompiler>();

/** Threads end with a model that nobody disposed, too. */
const collected = new FinalizationRegistry<FormatCompiler>((compiler) => void compiler.dispose());

/**
 * Makes a row keep to a format. XGrammar works in threads of its own: a format that takes longer or more memory than
 * the model's limits is refused, and neither the event loop nor rows with other formats wait for it.
 * @param signal stops the waiting, and the work where nobody else waits for it
 * @throws NEOX_BAD_ARGUMENT for a format that is wrong, not supported or takes too much; NEOX_UNSUPPORTED where no text
 *   of the vocabulary has it; NEOX_BUSY where as many large formats are at work as there may be; the signal's reason
 */
export async function startConstraint(
  model: LoadedModel,
  format: OutputFormat,
  endIds: Int32Array,
  signal?: AbortSignal,
): Promise<Constraint> {
  let compiler = compilers.get(model);
  if (compiler === undefined) {
    compiler = new FormatCompiler(model);
    compilers.set(model, compiler);
    model.addDependent(compiler);
    collected.register(model, compiler);
  }
  const constraint = await compiler.start(format, endIds, signal);
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
  private readonly data: FormatThreadData;
  private readonly limits: FormatLimits;
  /** By the format as JSON, the one that was used last at the end. */
  private readonly entries = new Map<string, Entry>();
  /** Where quick formats are. */
  private home: Home | undefined;
  /** Where formats are tried; ended when one takes too much. */
  private trial: FormatThread | undefined;
  /** The end of the last trial: one at a time. */
  private last: Promise<unknown> = Promise.resolve();
  private matchers = 0;

  constructor({ tokenizer, config, formatLimits }: LoadedModel) {
    this.vocabulary = new FormatVocabulary(tokenizer, config.vocabSize);
    this.limits = formatLimits;
    this.data = { ...this.vocabulary.packed(), memoryBytes: this.limits.bytes };
  }

  async start(format: OutputFormat, endIds: Int32Array, signal: AbortSignal | undefined): Promise<Constraint> {
    signal?.throwIfAborted();
    const key = JSON.stringify(format);
    const entry = this.entries.get(key) ?? this.begin(key, format);
    this.entries.delete(key);
    this.entries.set(key, entry);
    entry.waiting++;
    let home: Home;
    try {
      home = await abortable(entry.compiled, signal);
    } finally {
      entry.waiting--;
      if (entry.waiting === 0 && !entry.done) {
        if (this.entries.get(key) === entry) this.entries.delete(key);
        entry.abandon.abort();
      }
    }
    if (home.thread.ended) {
      // Another format of the thread took too much.
      if (this.entries.get(key) === entry) this.entries.delete(key);
      return this.start(format, endIds, signal);
    }
    const matcher = this.matchers++;
    home.rows++;
    const { thread } = home;
    try {
      await thread.ask({ what: 'start', key, matcher });
    } catch (error) {
      home.leave();
      throw error;
    }
    let tokens: number[] = [];
    const remote = {
      getNextTokenBitmask: async (): Promise<Int32Array> => {
        const taken = tokens;
        tokens = [];
        const asked = thread.ask({ what: 'mask', matcher, tokens: taken });
        const { mask } = await inTime(asked, this.limits, () => thread.end(tooSlow(format, this.limits)));
        return mask as Int32Array;
      },
      acceptToken: (token: number): void => void tokens.push(token),
      dispose: (): void => {
        void thread.ask({ what: 'end', matcher }).catch(() => undefined);
        home.leave();
      },
    };
    return new Constraint(remote, this.vocabulary, endIds, 'jsonSchema' in format);
  }

  /** With the model: what is compiled goes. */
  dispose(): Promise<void> {
    const error = new NeoXPrefixError('NEOX_DISPOSED', 'The model is disposed');
    for (const { home } of this.entries.values()) home?.thread.end(error);
    this.home?.thread.end(error);
    this.trial?.end(error);
    this.entries.clear();
    return Promise.resolve();
  }

  private begin(key: string, format: OutputFormat): Entry {
    const abandon = new AbortController();
    const compiled = this.last.then(() => this.compile(key, format, abandon.signal));
    const entry: Entry = { compiled, waiting: 0, done: false, abandon };
    const forget = (): void => {
      if (this.entries.get(key) === entry) this.entries.delete(key);
    };
    this.last = compiled.then((home) => {
      entry.done = true;
      // What is compiled stays for whoever comes next, also where nobody waits for it now.
      if (home !== this.home) entry.home = home;
    }, forget);
    return entry;
  }

  private async compile(key: string, format: OutputFormat, abandoned: AbortSignal): Promise<Home> {
    if (abandoned.aborted) throw new NeoXPrefixError('NEOX_NATIVE', 'Nobody waits for the format');
    if (this.trial === undefined || this.trial.ended) this.trial = new FormatThread(this.data);
    const { trial } = this;
    const stop = (): void => trial.end(new NeoXPrefixError('NEOX_NATIVE', 'Nobody waits for the format'));
    abandoned.addEventListener('abort', stop, { once: true });
    let answer: FormatAnswer;
    try {
      const asked = trial.ask({ what: 'compile', key, format });
      answer = await inTime(asked, this.limits, () => trial.end(tooSlow(format, this.limits)));
    } finally {
      abandoned.removeEventListener('abort', stop);
    }
    const { milliseconds = 0, source } = answer;
    if (source === undefined || milliseconds > QUICK_MS) return this.keepLarge(trial);
    void trial.ask({ what: 'forget', key }).catch(() => undefined);
    return this.moveIn(key, format, source);
  }

  /** Compiles a quick format where the others are. */
  private async moveIn(key: string, format: OutputFormat, source: FormatSource): Promise<Home> {
    if (this.home === undefined || this.home.thread.ended || this.home.formats === MOST_FORMATS) {
      const old = this.home;
      this.home = new Home(new FormatThread(this.data));
      for (const [known, { home }] of this.entries) {
        if (known !== key && home === undefined) this.entries.delete(known);
      }
      old?.giveUp();
    }
    const { home } = this;
    home.formats++;
    try {
      await home.thread.ask({ what: 'compile', key, format, source });
      return home;
    } catch (error) {
      this.home = undefined;
      home.giveUp();
      throw error;
    }
  }

  /** Leaves a format in the thread that compiled it, where no other row waits for it. */
  private keepLarge(thread: FormatThread): Home {
    this.trial = undefined;
    const large = [...this.entries].flatMap(([key, { home }]) => (home === undefined ? [] : [{ key, home }]));
    for (const { key, home } of large.slice(0, Math.max(0, large.length - MOST_LARGE + 1))) {
      const idle = home.rows === 0 ? { key, home } : large.find((other) => other.home.rows === 0);
      if (idle === undefined) {
        const error = new NeoXPrefixError('NEOX_BUSY', `${MOST_LARGE} large formats are at work already`, {
          hint: 'ask again when one of their texts has ended',
        });
        thread.end(error);
        throw error;
      }
      this.entries.delete(idle.key);
      idle.home.giveUp();
    }
    return new Home(thread);
  }
}

function tooSlow(format: OutputFormat, { seconds }: FormatLimits): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `format.${kindOf(format)} takes more than ${seconds} s to compile`, {
    hint: 'make it smaller: counts within counts multiply; formatSeconds of the model is the limit',
  });
}

async function inTime<T>(work: Promise<T>, { seconds }: FormatLimits, end: () => void): Promise<T> {
  const timer = setTimeout(end, 1000 * seconds);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

/** The result of work that goes on, or the reason of the signal as soon as it is aborted. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
