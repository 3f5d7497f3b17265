import type { TrainingEvent } from '../runs/events';

export type EventOf<Type extends TrainingEvent['type']> = Extract<TrainingEvent, { type: Type }>;

/** A number of an event; null for what was not finite. */
export type Value = number | null;

/** The steps of a run, a column for each of their numbers. */
export interface StepColumns {
  step: number[];
  seconds: number[];
  loss: Value[];
  /** Target tokens. */
  tokens: Value[];
  learningRate: Value[];
  gradNorm: Value[];
  tokensPerSecond: Value[];
  memoryBytes: Value[];
  /** Empty unless the model is float16. */
  lossScale: Value[];
}

/** The events of a run, sorted. */
export interface History {
  start: EventOf<'start'> | undefined;
  end: EventOf<'end'> | undefined;
  steps: StepColumns;
  /** Steps that were not applied. */
  skipped: number;
  resumes: EventOf<'resume'>[];
  evaluations: EventOf<'evaluation'>[];
  epochs: EventOf<'epoch'>[];
  prefixes: EventOf<'prefix'>[];
  samples: EventOf<'samples'>[];
  checkpoints: EventOf<'checkpoint'>[];
  best: EventOf<'evaluation'> | undefined;
  lastStep: number;
  /** Seconds that the run took, as far as it is known. */
  seconds: number;
}

/** JSON has `null` for what is not finite; events that come straight from a trainer have the number itself. */
export function finite(value: number | null | undefined): Value {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

/** Sorts the events of a run. What was done again after a resume counts once, as it was done last. */
export function historyOf(events: Iterable<TrainingEvent>): History {
  const columns: StepColumns = {
    ...{
      step: [],
      seconds: [],
      loss: [],
      tokens: [],
      learningRate: [],
      gradNorm: [],
      tokensPerSecond: [],
      memoryBytes: [],
      lossScale: [],
    },
  };
  const applied: boolean[] = [];
  const lists = {
    ...{
      resume: [] as EventOf<'resume'>[],
      evaluation: [] as EventOf<'evaluation'>[],
      epoch: [] as EventOf<'epoch'>[],
    },
    ...{
      prefix: [] as EventOf<'prefix'>[],
      samples: [] as EventOf<'samples'>[],
      checkpoint: [] as EventOf<'checkpoint'>[],
    },
  };
  let start: EventOf<'start'> | undefined;
  let end: EventOf<'end'> | undefined;
  let seconds = 0;

  /** Forgets what lies behind a step. */
  const goBack = (step: number): void => {
    while ((columns.step.at(-1) ?? -1) > step) {
      for (const column of [...(Object.values(columns) as unknown[][]), applied]) column.pop();
    }
    for (const list of Object.values(lists) as { step: number }[][])
      while ((list.at(-1)?.step ?? -1) > step) list.pop();
  };

  for (const event of events) {
    if ('seconds' in event) seconds = finite(event.seconds) ?? seconds;
    switch (event.type) {
      case 'start':
        start ??= event;
        break;
      case 'step':
        goBack(event.step - 1);
        columns.step.push(event.step);
        columns.seconds.push(seconds);
        columns.loss.push(finite(event.loss));
        columns.tokens.push(finite(event.tokens));
        columns.learningRate.push(finite(event.learningRate));
        columns.gradNorm.push(finite(event.gradNorm));
        columns.tokensPerSecond.push(finite(event.tokensPerSecond));
        columns.memoryBytes.push(finite(event.memoryBytes));
        columns.lossScale.push(finite(event.lossScale));
        applied.push(event.applied);
        break;
      case 'end':
        end = event;
        break;
      case 'resume':
        goBack(event.step);
        end = undefined;
        lists.resume.push(event);
        break;
      case 'evaluation':
        lists.evaluation.push(event);
        break;
      case 'epoch':
        lists.epoch.push(event);
        break;
      case 'prefix':
        lists.prefix.push(event);
        break;
      case 'samples':
        lists.samples.push(event);
        break;
      case 'checkpoint':
        lists.checkpoint.push(event);
        break;
    }
  }
  if (columns.lossScale.every((value) => value === null)) columns.lossScale = [];
  const { evaluation: evaluations } = lists;
  return {
    start,
    end,
    steps: columns,
    skipped: applied.filter((done) => !done).length,
    resumes: lists.resume,
    evaluations,
    epochs: lists.epoch,
    prefixes: lists.prefix,
    samples: lists.samples,
    checkpoints: lists.checkpoint,
    best: evaluations.find(({ step }) => step === end?.bestStep) ?? evaluations.findLast(({ best }) => best),
    lastStep: Math.max(0, columns.step.at(-1) ?? 0, evaluations.at(-1)?.step ?? 0, end?.step ?? 0),
    seconds,
  };
}
