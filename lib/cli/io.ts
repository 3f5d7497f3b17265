/** A stream that the command line writes to. */
export interface OutputStream {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
  columns?: number | undefined;
}

/** Everything outside that the commands touch, so that a test can stand in for it. */
export interface CliIO {
  stdin: NodeJS.ReadableStream & { isTTY?: boolean | undefined };
  stdout: OutputStream;
  stderr: OutputStream;
  env: NodeJS.ProcessEnv;
  /** How this program is started, for processes that it starts. Defaults to the built command line. */
  program?: readonly string[];
  /** The arguments of this call. */
  argv?: readonly string[];
  /** Aborts at Ctrl-C, with an {@link Interrupted} as its reason. */
  signal: AbortSignal;
  /** What Ctrl-C does, for a prompt that reads the key itself. */
  interrupt(): void;
}

/** The reason of an abort that the user asked for. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';

  constructor(
    /** 128 plus the number of the signal, as shells count it. */
    readonly exitCode: number,
  ) {
    super('interrupted');
  }
}

/**
 * The reason of an abort because stdout takes no more. Whatever fails after it fails because of it, so nothing more is
 * said.
 */
export class OutputLost extends Error {
  override readonly name = 'OutputLost';

  /** 141, as for a program that SIGPIPE ends, when the reader is gone; 1 for a full disk and the like. */
  readonly exitCode: number;

  constructor(cause: NodeJS.ErrnoException) {
    super(`cannot write the output: ${cause.message.replace(/, write$/, '')}`, { cause });
    this.exitCode = cause.code === 'EPIPE' ? 141 : 1;
  }
}
