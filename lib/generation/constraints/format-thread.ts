import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { NeoXPrefixError } from '../../base/errors';
import { PACKAGE_ROOT } from '../../base/package';
import type { FormatAnswer, FormatRequest, FormatThreadData } from './format-protocol';

/** Of JavaScript in a thread; XGrammar's own memory has a limit of its own. */
const LIMITS = { maxOldGenerationSizeMb: 512, stackSizeMb: 4 };

interface Waiting {
  resolve: (answer: FormatAnswer) => void;
  reject: (error: unknown) => void;
}

/** A thread with an XGrammar of its own, which ends when it is told to, whatever it does. */
export class FormatThread {
  private readonly worker: Worker;
  private readonly waiting: Waiting[] = [];
  private ending: Error | undefined;

  constructor(data: FormatThreadData) {
    this.worker = new Worker(programPath(), { workerData: data, resourceLimits: LIMITS, execArgv: [] });
    // A program that waits for nothing else may end.
    this.worker.unref();
    this.worker.on('message', (answer: FormatAnswer) => {
      const first = this.waiting.shift();
      if (this.waiting.length === 0) this.worker.unref();
      if (answer.error === undefined) first?.resolve(answer);
      else first?.reject(new NeoXPrefixError(answer.error.code, ...splitHint(answer.error.message)));
    });
    const failed = (why: string): void => this.end(new NeoXPrefixError('NEOX_NATIVE', `XGrammar failed: ${why}`));
    this.worker.on('error', (error) => failed(error.message));
    this.worker.on('exit', () => failed('its thread has ended'));
  }

  get ended(): boolean {
    return this.ending !== undefined;
  }

  /** Requests that are not answered yet. */
  get busy(): boolean {
    return this.waiting.length > 0;
  }

  ask(request: FormatRequest): Promise<FormatAnswer> {
    if (this.ending !== undefined) return Promise.reject(this.ending);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.ref();
      this.worker.postMessage(request);
    });
  }

  /** Ends the thread at once; who waits for it gets the error. */
  end(error: Error): void {
    if (this.ending !== undefined) return;
    this.ending = error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
    void this.worker.terminate();
  }
}

function splitHint(message: string): [string, { hint?: string }] {
  const [text = '', hint] = message.split('\nHint: ');
  return [text, hint === undefined ? {} : { hint }];
}

/** The compiled program; where this file is run as TypeScript, that of the last build. */
function programPath(): string {
  const beside = join(__dirname, 'format-worker.js');
  return existsSync(beside) ? beside : join(PACKAGE_ROOT, 'dist', 'generation', 'constraints', 'format-worker.js');
}
