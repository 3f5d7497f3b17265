import { SingleBar } from 'cli-progress';
import { formatBytes, formatSeconds, plural } from './format';
import type { OutputStream } from './io';

export interface ProgressOptions {
  title: string;
  /** 0 while it is not known. */
  total: number;
  /** `'share'` shows only the percentage. */
  unit: 'bytes' | 'share' | 'steps' | 'samples';
  /** Whether to show how many units a second are done. Defaults to `true`. */
  rate?: boolean;
  /** Without a terminal: a line after so many units. Defaults to none. */
  lineUnits?: number;
  /** Without a terminal: a line after so many seconds. Defaults to `10`. */
  lineSeconds?: number;
}

/** A bar is not worth its flicker for work that ends sooner. */
const BAR_AFTER_SECONDS = 0.3;

/** The progress of one long operation: a bar on a terminal, a plain line now and then elsewhere. */
export class Progress {
  private readonly started: number;
  private lineAt: number;
  private lineDone = 0;
  private total: number;
  private done = 0;
  private text = '';
  private bar: SingleBar | undefined;
  private hidden = false;

  constructor(
    private readonly stream: OutputStream,
    private readonly options: ProgressOptions,
    private readonly now: () => number,
  ) {
    this.started = now();
    this.lineAt = this.started;
    this.total = options.total;
  }

  /** @param detail what else there is to say, for example the loss */
  update(done: number, detail = '', total = this.total): void {
    this.done = done;
    this.total = total;
    const seconds = (this.now() - this.started) / 1000;
    this.text = this.describe(seconds, detail);
    if (this.stream.isTTY === true) this.draw(seconds);
    else this.line();
  }

  /** Takes the bar off the screen until {@link show}, so that something else can be written. */
  hide(): void {
    this.bar?.stop();
    this.hidden = this.bar !== undefined;
    this.bar = undefined;
  }

  show(): void {
    if (this.hidden) this.draw(Infinity);
  }

  stop(): void {
    this.hide();
    this.hidden = false;
  }

  private describe(seconds: number, detail: string): string {
    const { unit, rate = true } = this.options;
    const show = (value: number): string => (unit === 'bytes' ? formatBytes(value) : String(value));
    const share = this.total > 0 ? Math.min(1, this.done / this.total) : undefined;
    const amount =
      unit === 'share'
        ? ''
        : share === undefined
          ? show(this.done)
          : `${show(this.done)} of ${unit === 'bytes' ? show(this.total) : plural(this.total, unit.slice(0, -1))}`;
    const speed = this.done / Math.max(seconds, 1e-3);
    const shownSpeed = unit === 'bytes' ? `${formatBytes(speed)}/s` : `${speed >= 10 ? speed.toFixed(0) : speed.toFixed(1)} ${unit}/s`;
    const left = share === undefined || share === 0 ? undefined : (seconds / share) * (1 - share);
    return [
      share === undefined ? '' : `${Math.floor(share * 100)}%`,
      amount,
      left === undefined || share === 1 ? '' : `ETA ${formatSeconds(left)}`,
      rate && unit !== 'share' ? shownSpeed : '',
      detail,
    ]
      .filter((part) => part !== '')
      .join(' | ');
  }

  private draw(seconds: number): void {
    const payload = { title: this.options.title, text: this.text };
    const total = this.total > 0 ? this.total : 1;
    const value = this.total > 0 ? this.done : 0;
    if (this.bar !== undefined) {
      this.bar.setTotal(total);
      this.bar.update(value, payload);
      return;
    }
    if (seconds < BAR_AFTER_SECONDS) return;
    this.hidden = false;
    this.bar = new SingleBar({
      format: '{title} {bar} {text}',
      barCompleteChar: '█',
      barIncompleteChar: '░',
      barsize: 16,
      stream: this.stream as NodeJS.WritableStream,
      // Lines are cut to the width of the terminal instead; the terminal's modes stay as they are.
      linewrap: true,
      clearOnComplete: true,
      // Ctrl-C belongs to the program.
      gracefulExit: false,
    });
    this.bar.start(total, value, payload);
  }

  private line(): void {
    const { title, lineSeconds = 10, lineUnits = Infinity } = this.options;
    const now = this.now();
    if (this.done - this.lineDone < lineUnits && now - this.lineAt < lineSeconds * 1000) return;
    this.lineAt = now;
    this.lineDone = this.done;
    this.stream.write(`${title}: ${this.text}\n`);
  }
}
