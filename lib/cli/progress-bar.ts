import { SingleBar } from 'cli-progress';
import { displayWidth, formatBytes, formatSeconds, plural } from './text-columns';
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

/** Terminals narrower than this have a shorter bar, or none: what the line says matters more. */
const WIDE = 100;
const NARROW = 60;

/** The progress of one long operation: a bar on a terminal, a plain line now and then elsewhere. */
export class Progress {
  private readonly started: number;
  private lineAt: number;
  private lineDone = 0;
  private total: number;
  private done = 0;
  /** What there is to say, the most important first. */
  private parts: readonly string[] = [];
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

  /**
   * @param details what else there is to say (the loss, for example), the most important first: a narrow terminal does
   *   not show the last
   * @param secondsLeft until the end. Defaults to an estimate by the time so far
   */
  update(done: number, details: string | readonly string[] = '', total = this.total, secondsLeft?: number): void {
    this.done = done;
    this.total = total;
    const seconds = (this.now() - this.started) / 1000;
    this.parts = this.describe(seconds, secondsLeft, typeof details === 'string' ? [details] : details);
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

  private get share(): number | undefined {
    return this.total > 0 ? Math.min(1, this.done / this.total) : undefined;
  }

  private describe(seconds: number, secondsLeft: number | undefined, details: readonly string[]): string[] {
    const { unit, rate = true } = this.options;
    const { share } = this;
    const show = (value: number): string => (unit === 'bytes' ? formatBytes(value) : String(value));
    const amount =
      unit === 'share'
        ? ''
        : share === undefined
          ? show(this.done)
          : `${show(this.done)} of ${unit === 'bytes' ? show(this.total) : plural(this.total, unit.slice(0, -1))}`;
    const speed = this.done / Math.max(seconds, 1e-3);
    const shownSpeed =
      unit === 'bytes' ? `${formatBytes(speed)}/s` : `${speed >= 10 ? speed.toFixed(0) : speed.toFixed(1)} ${unit}/s`;
    const left = secondsLeft ?? (share === undefined || share === 0 ? NaN : (seconds / share) * (1 - share));
    return [
      share === undefined ? '' : `${Math.floor(share * 100)}%`,
      amount,
      !Number.isFinite(left) || share === 1 ? '' : `ETA ${formatSeconds(left)}`,
      rate && unit !== 'share' ? shownSpeed : '',
      ...details,
    ].filter((part) => part !== '');
  }

  private draw(seconds: number): void {
    if (this.bar !== undefined) {
      this.bar.update(this.done);
      return;
    }
    if (seconds < BAR_AFTER_SECONDS) return;
    this.hidden = false;
    this.bar = new SingleBar({
      // Made when it is drawn, for the terminal as wide as it is then; 0 is what a terminal says that does not know.
      format: () =>
        this.text(this.stream.columns === undefined || this.stream.columns === 0 ? 80 : this.stream.columns),
      stream: this.stream as NodeJS.WritableStream,
      // Lines are cut to the width of the terminal instead; the terminal's modes stay as they are.
      linewrap: true,
      clearOnComplete: true,
      // Ctrl-C belongs to the program.
      gracefulExit: false,
    });
    this.bar.start(1, this.done);
  }

  /** Title, bar, and as much as fits: a line that is too long would leave its rest on the screen. */
  private text(columns: number): string {
    const size = columns >= WIDE ? 16 : columns >= NARROW ? 8 : 0;
    const full = Math.round((this.share ?? 0) * size);
    let text = [this.options.title, '█'.repeat(full) + '░'.repeat(size - full)].filter((part) => part !== '').join(' ');
    for (const [i, part] of this.parts.entries()) {
      const longer = `${text}${i === 0 ? ' ' : ' | '}${part}`;
      // The last column stays free: some terminals break the line there.
      if (displayWidth(longer) >= columns) break;
      text = longer;
    }
    while (text !== '' && displayWidth(text) >= columns) text = Array.from(text).slice(0, -1).join('');
    return text;
  }

  private line(): void {
    const { title, lineSeconds = 10, lineUnits = Infinity } = this.options;
    const now = this.now();
    if (this.done - this.lineDone < lineUnits && now - this.lineAt < lineSeconds * 1000) return;
    this.lineAt = now;
    this.lineDone = this.done;
    this.stream.write(`${title}: ${this.parts.join(' | ')}\n`);
  }
}
