import { printable } from '../base/printable';
import { type CliIO, OutputLost, type OutputStream } from './io';
import { Progress, type ProgressOptions } from './progress-bar';

export interface UiOptions {
  /** Results as JSON on stdout. */
  json: boolean;
  /** Nothing on stderr but warnings and errors. */
  quiet: boolean;
  debug: boolean;
  /** Milliseconds. Defaults to the process's clock. */
  now?: () => number;
}

/**
 * What a command says. Results go to stdout: as text, or with --json as JSON and nothing else. Everything else goes to
 * stderr.
 */
export class Ui {
  private readonly now: () => number;
  private active: Progress | undefined;

  constructor(
    readonly io: CliIO,
    readonly options: UiOptions,
  ) {
    this.now = options.now ?? ((): number => performance.now());
  }

  get signal(): AbortSignal {
    return this.io.signal;
  }

  get isJson(): boolean {
    return this.options.json;
  }

  /** A result for people: nothing with --json. */
  print(text = ''): void {
    this.write(`${text}\n`);
  }

  /** As {@link print}, without a line break. */
  write(text: string): void {
    if (!this.options.json) this.send(this.io.stdout, text);
  }

  /** A result for programs, on a line of its own: nothing without --json. */
  json(value: unknown): void {
    if (this.options.json) this.send(this.io.stdout, `${JSON.stringify(value)}\n`);
  }

  /** What happens, for people. */
  note(text: string): void {
    if (!this.options.quiet && !(this.signal.reason instanceof OutputLost)) this.send(this.io.stderr, `${text}\n`);
  }

  warn(text: string): void {
    this.send(this.io.stderr, ` ${text}\n`, this.coloured('yellow', 'warning:'));
  }

  /** What went wrong, and what to do about it. */
  error(text: string, hint?: string): void {
    this.send(
      this.io.stderr,
      ` ${text}\n${hint === undefined ? '' : `hint: ${hint}\n`}`,
      this.coloured('red', 'error:'),
    );
  }

  /** Runs an operation with its progress shown. */
  async withProgress<T>(options: ProgressOptions, operation: (update: Progress['update']) => Promise<T>): Promise<T> {
    if (this.options.quiet) return operation(() => undefined);
    const progress = new Progress(this.io.stderr, options, this.now);
    this.active = progress;
    try {
      return await operation((...now) => progress.update(...now));
    } finally {
      progress.stop();
      this.active = undefined;
    }
  }

  /** The one door to the terminal: nothing that comes out of a file or a model steers it. */
  private send(stream: OutputStream, text: string, label = ''): void {
    this.active?.hide();
    stream.write(label + printable(text));
    this.active?.show();
  }

  private coloured(colour: 'red' | 'yellow', text: string): string {
    const plain = this.io.stderr.isTTY !== true || (this.io.env['NO_COLOR'] ?? '') !== '';
    return plain ? text : `\x1b[${colour === 'red' ? 31 : 33}m${text}\x1b[39m`;
  }
}
