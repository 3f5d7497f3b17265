import { join } from 'node:path';
import type { TrainingEvent } from '../../runs/events';
import { formatBytes, formatCount, formatNumber, formatSeconds, plural, shellWord } from '../text-columns';
import type { Progress } from '../progress-bar';
import type { Ui } from '../ui';

/** Shows the events of a run, and remembers what a summary needs. */
export class EventView {
  /** The last state that was saved: its optimizer step. */
  savedStep: number | undefined;
  private loss: number | undefined;
  private epochs = 0;
  private totalSteps = 0;
  /** Steps whose float16 gradient overflowed. */
  private skipped = 0;

  /**
   * @param folder of the run
   * @param run its name, where there are several
   */
  constructor(
    private readonly folder: string,
    private readonly ui: Ui,
    private readonly run?: string,
  ) {}

  show(event: TrainingEvent, update: Progress['update']): void {
    const { ui } = this;
    ui.json(this.run === undefined ? event : { run: this.run, ...event });
    switch (event.type) {
      case 'start': {
        this.epochs = event.epochs;
        this.totalSteps = event.totalSteps;
        const samples = `${plural(event.trainSamples, 'sample')} train, ${event.validationSamples} validate`;
        const fit =
          event.initError === undefined ? '' : `; initial fit: mean squared error ${formatNumber(event.initError)}`;
        ui.note(`${samples}; ${formatCount(event.trainableParameters)} trainable parameters${fit}`);
        ui.note(`memory: about ${formatBytes(event.predictedMemoryBytes)} at the peak, the process included`);
        break;
      }
      case 'resume':
        this.epochs = event.epochs;
        this.totalSteps = event.totalSteps;
        this.savedStep = event.step;
        ui.note(`resumed at step ${event.step}, epoch ${event.epoch}, after ${formatSeconds(event.seconds)}`);
        break;
      case 'step': {
        // A single step's loss jumps too much to be read.
        if (Number.isFinite(event.loss))
          this.loss = this.loss === undefined ? event.loss : 0.9 * this.loss + 0.1 * event.loss;
        if (!event.applied) this.skipped++;
        const loss =
          this.loss === undefined ? [] : [`loss ${this.loss.toFixed(4)}`, `ppl ${formatNumber(Math.exp(this.loss))}`];
        const details = [
          ...loss,
          `epoch ${event.epoch}/${this.epochs}`,
          `${formatNumber(Math.round(event.tokensPerSecond))} tok/s`,
          `lr ${formatNumber(event.learningRate)}`,
          formatBytes(event.memoryBytes),
          ...(this.skipped === 0 ? [] : [`${this.skipped} skipped`]),
        ];
        update(event.step, details, this.totalSteps, event.etaSeconds);
        break;
      }
      case 'evaluation':
        ui.note(`step ${event.step} | ${evaluationText(event)}`);
        break;
      case 'checkpoint':
        if (event.kind === 'state') this.savedStep = event.step;
        break;
      case 'epoch': {
        ui.note(
          `epoch ${event.epoch}/${this.epochs} | step ${event.step} | train loss ${event.trainLoss.toFixed(4)}, perplexity ${formatNumber(event.trainPerplexity)} | ${formatSeconds(event.seconds)}`,
        );
      }
    }
  }

  file(name: string): string {
    return join(this.folder, name);
  }

  /** As {@link file}, to be pasted. */
  path(name: string): string {
    return shellWord(this.file(name));
  }
}

function evaluationText({
  loss,
  perplexity,
  accuracy,
  best,
  metrics,
}: Extract<TrainingEvent, { type: 'evaluation' }>): string {
  const own = Object.entries(metrics ?? {}).map(([name, value]) => `, ${name} ${formatNumber(value)}`);
  const figures = `validation loss ${loss.toFixed(4)}, perplexity ${formatNumber(perplexity)}, accuracy ${(accuracy * 100).toFixed(1)}%`;
  return `${figures}${own.join('')}${best ? ' (best)' : ''}`;
}
