import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { maxPositions } from '../architecture/rope';
import { packageVersion } from '../base/package';
import type { EngineStats, GenerationEngine } from '../engine/engine';
import type { RequestTiming } from '../engine/job';
import type { PrefixStore } from '../engine/prefix-store';
import type { LoadedModel } from '../model/loaded-model';
import { HttpError } from './http-error';
import type { Exchange } from './exchange';
import type { Settings } from './server-options';

/** Names that may stand in addresses, metrics and logs as they are. */
const NAME = /^[A-Za-z0-9][\w.:-]{0,127}$/;

/** How a text ended. */
export type Outcome = 'stop' | 'length' | 'client_left' | 'error' | 'refused';

/** What hears of the work that is done. */
export interface Recorder {
  /** Mean seconds of a request so far. */
  readonly meanSeconds: number;
  readonly contentType: string;
  textEnded(model: string, outcome: Outcome): void;
  timed(timing: RequestTiming, tokens: number): void;
  answered(route: string, status: number): void;
  /** What it has heard, as Prometheus reads it. */
  text(): Promise<string>;
}

/** What stands behind all endpoints. */
export class Service {
  readonly model: LoadedModel;
  readonly prefixes: PrefixStore | undefined;
  readonly baseName: string;
  /** Seconds since 1970. */
  readonly created = Math.floor(Date.now() / 1e3);
  /** Equal where equal seeds give equal texts: version, weights, numbers, backend. */
  readonly fingerprint: string;
  draining = false;
  metrics: Recorder | undefined;

  constructor(
    readonly engine: GenerationEngine,
    readonly settings: Settings,
  ) {
    this.model = engine.model;
    this.prefixes = settings.prefixes;
    const { directory, dtype, backend } = this.model.info();
    this.baseName = settings.baseName ?? basename(directory);
    const identity = [packageVersion(), this.model.fingerprint, dtype, backend].join('\n');
    this.fingerprint = `neox_${createHash('sha256').update(identity).digest('hex').slice(0, 16)}`;
  }

  get maxPositions(): number {
    return maxPositions(this.model.config);
  }

  /**
   * The prefix that a model's name stands for; undefined for the base model.
   * @throws HttpError 404
   */
  prefixOf(name: string, exchange?: Exchange): string | undefined {
    if (name === this.baseName) {
      if (exchange !== undefined) exchange.event.model = name;
      return undefined;
    }
    if (this.prefixes?.has(name) !== true)
      throw new HttpError(404, 'model_not_found', `There is no model ${JSON.stringify(name.slice(0, 128))}`, {
        param: 'model',
      });
    if (exchange !== undefined) exchange.event.model = name;
    return name;
  }

  /** Refuses names that could not stand in an address. @throws HttpError */
  checkNewName(name: string): void {
    if (!NAME.test(name) || name === this.baseName) {
      throw new HttpError(
        400,
        'invalid_name',
        "A name has up to 128 letters, digits and _.:- and is not the base model's",
        {
          param: 'name',
        },
      );
    }
  }

  /** Refuses more texts than there is ever room for. @throws HttpError */
  checkRows(rows: number): void {
    const { maxRows, maxQueue } = this.engine.settings;
    if (rows <= maxRows + maxQueue) return;
    const message = `The request is for ${rows} texts, and the server takes at most ${maxRows + maxQueue} at a time`;
    throw new HttpError(400, 'too_many_texts', message, { param: 'n' });
  }

  /** Seconds after which there may be room, from what waits and how long requests took. */
  retryAfter(): number {
    const { running, waiting }: EngineStats = this.engine.stats();
    const seconds = this.metrics?.meanSeconds ?? 1;
    return Math.min(60, Math.max(1, Math.ceil((waiting * seconds) / Math.max(1, running))));
  }
}
