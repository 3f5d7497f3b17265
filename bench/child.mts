// A peer at work: its process, and the questions to it.
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Answer, Operation, Operations, Question } from './protocol.mts';

/** Of what a peer writes to stderr, kept for the message of an error. */
const MAX_NOTES = 4000;

interface Waiting {
  resolve: (answer: unknown) => void;
  reject: (error: Error) => void;
}

export class Child {
  private readonly process: ChildProcess;
  private readonly waiting = new Map<number, Waiting>();
  private readonly ended: Promise<void>;
  private lastId = 0;
  private notes = '';

  constructor(
    readonly name: string,
    [command = '', ...args]: readonly string[],
    env: NodeJS.ProcessEnv = {},
  ) {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    this.process = child;
    this.ended = new Promise((resolve) => {
      const fail = (why: string): void => {
        const notes = this.notes.trim();
        const error = new Error(`${this.name} ${why}${notes === '' ? '' : `; it said: ${notes}`}`);
        for (const { reject } of this.waiting.values()) reject(error);
        this.waiting.clear();
        resolve();
      };
      child.on('error', ({ message }) => fail(`could not be started: ${message}`));
      child.on('close', (code, signal) => fail(`ended (${signal ?? `status ${code ?? '?'}`})`));
    });
    // Written to a child that is gone: 'close' tells why.
    child.stdin.on('error', () => undefined);
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.notes = (this.notes + text).slice(-MAX_NOTES)));
    createInterface(child.stdout).on('line', (line) => this.hear(line));
  }

  ask<O extends Operation>(operation: O, args: Operations[O][0]): Promise<Operations[O][1]> {
    const question: Question = { id: ++this.lastId, operation, args };
    return new Promise((resolve, reject) => {
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        reject(new Error(`${this.name} is not running any more`));
        return;
      }
      this.waiting.set(question.id, { resolve: resolve as Waiting['resolve'], reject });
      this.process.stdin?.write(`${JSON.stringify(question)}\n`);
    });
  }

  /**
   * Resident memory: the highest so far, and what of the present is not a view of a file. undefined where the system
   * does not say.
   */
  memory(): { peak: number; anonymous: number } | undefined {
    try {
      const status = readFileSync(`/proc/${this.process.pid ?? 0}/status`, 'utf8');
      const bytes = (name: string): number =>
        1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
      const memory = { peak: bytes('VmHWM'), anonymous: bytes('RssAnon') };
      return Number.isFinite(memory.peak + memory.anonymous) ? memory : undefined;
    } catch {
      return undefined;
    }
  }

  /** Ends the process and waits for it. */
  async end(): Promise<void> {
    this.process.stdin?.end();
    const timer = setTimeout(() => this.process.kill('SIGKILL'), 10_000);
    await this.ended;
    clearTimeout(timer);
  }

  private hear(line: string): void {
    let answer: Answer;
    try {
      answer = JSON.parse(line) as Answer;
    } catch {
      this.notes = `${this.notes}${line}\n`.slice(-MAX_NOTES);
      return;
    }
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if ('error' in answer) waiting?.reject(new Error(`${this.name}: ${answer.error}`));
    else waiting?.resolve(answer.answer);
  }
}

/** Seconds from the start of a program to its first line. */
export function firstLine([command = '', ...args]: readonly string[]): Promise<number> {
  const started = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let seconds: number | undefined;
  let notes = '';
  child.stdout.once('data', () => (seconds = (performance.now() - started) / 1000));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (notes = (notes + text).slice(-MAX_NOTES)));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0 && seconds !== undefined) resolve(seconds);
      else
        reject(new Error(`${[command, ...args].join(' ')} ended with status ${code ?? '?'}; it said: ${notes.trim()}`));
    });
  });
}
