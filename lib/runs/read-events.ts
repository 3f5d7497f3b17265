import { Readable } from 'node:stream';
import { readSmallFile } from '../base/files';
import { badLine } from '../formats/bad-line';
import { isObject } from '../formats/json';
import { readLines } from '../formats/lines';
import type { TrainingEvent } from './events';

/** `value`: a number, or `null`, which stands for NaN and infinity. */
type Kind = 'number' | 'value' | 'values' | 'string' | 'boolean' | 'samples' | 'object';

/** Fields of each event; those with a question mark may be missing. */
const FIELDS: { readonly [Type in TrainingEvent['type']]: Readonly<Record<string, Kind>> } = {
  start: {
    ...{
      totalSteps: 'number',
      stepsPerEpoch: 'number',
      epochs: 'number',
      trainSamples: 'number',
      validationSamples: 'number',
    },
    ...{
      trainableParameters: 'number',
      predictedMemoryBytes: 'number',
      microBatchSize: 'number',
      'initError?': 'value',
    },
  },
  resume: {
    step: 'number',
    epoch: 'number',
    seconds: 'number',
    from: 'string',
    totalSteps: 'number',
    epochs: 'number',
  },
  step: {
    ...{ step: 'number', epoch: 'number', loss: 'value', tokens: 'number', learningRate: 'value', gradNorm: 'value' },
    ...{ tokensPerSecond: 'value', seconds: 'number', etaSeconds: 'value', memoryBytes: 'number', applied: 'boolean' },
    'lossScale?': 'value',
  },
  evaluation: {
    ...{
      step: 'number',
      epoch: 'number',
      best: 'boolean',
      loss: 'value',
      perplexity: 'value',
      accuracy: 'value',
      tokens: 'number',
    },
    ...{ seconds: 'number', 'metrics?': 'object' },
  },
  prefix: { step: 'number', epoch: 'number', keyNorms: 'values', valueNorms: 'values' },
  samples: { step: 'number', epoch: 'number', samples: 'samples' },
  checkpoint: { step: 'number', epoch: 'number', kind: 'string', path: 'string' },
  epoch: { step: 'number', epoch: 'number', trainLoss: 'value', trainPerplexity: 'value', seconds: 'number' },
  end: { reason: 'string', step: 'number', epoch: 'number', seconds: 'number', bestStep: 'number' },
};

function isKind(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case 'value':
      return typeof value === 'number' || value === null;
    case 'values':
      return Array.isArray(value) && value.every((item) => isKind(item, 'value'));
    case 'samples':
      return (
        Array.isArray(value) &&
        value.every((item) => isObject(item) && SAMPLE.every((name) => typeof item[name] === 'string'))
      );
    case 'object':
      return isObject(value);
    default:
      return typeof value === kind;
  }
}

const SAMPLE = ['prompt', 'text', 'finishReason'];

/**
 * What is wrong with an event; undefined for one that can be used, and for one of a kind that is not known, of a later
 * version say.
 */
export function problemOf(event: unknown): string | undefined {
  if (!isObject(event) || typeof event['type'] !== 'string') return 'it is no event of a training run';
  const { type } = event;
  if (!isKnown(type)) return undefined;
  for (const [field, kind] of Object.entries(FIELDS[type])) {
    const name = field.replace('?', '');
    if (name !== field && event[name] === undefined) continue;
    if (!isKind(event[name], kind)) return `the event '${type}' has no usable ${name}`;
  }
  return undefined;
}

function isKnown(type: string): type is TrainingEvent['type'] {
  return Object.hasOwn(FIELDS, type);
}

/**
 * The events of a `metrics.jsonl`. A last line that was cut off when the process ended is left out, and so are events
 * of a kind that is not known.
 * @throws NEOX_FILE_NOT_FOUND, NEOX_IO; NEOX_BAD_DATA naming the line
 */
export async function readEvents(path: string): Promise<TrainingEvent[]> {
  const bytes = await readSmallFile(path, 2 ** 30);
  const events: TrainingEvent[] = [];
  const add = (line: number, event: unknown): void => {
    const problem = problemOf(event);
    if (problem !== undefined) throw badLine(path, line, problem);
    if (isKnown((event as TrainingEvent).type)) events.push(event as TrainingEvent);
  };
  const end = bytes.lastIndexOf(0x0a) + 1;
  let count = 0;
  for await (const { number, text } of readLines({ name: path, bytes: Readable.from([bytes.subarray(0, end)]) })) {
    count = number;
    if (text.trim() === '') continue;
    try {
      add(number, JSON.parse(text));
    } catch (error) {
      throw error instanceof SyntaxError ? badLine(path, number, 'it is no event of a training run', error) : error;
    }
  }
  const last = parsedOrNothing(bytes.subarray(end));
  if (last !== undefined) add(count + 1, last);
  return events;
}

/** The value of a line that may have been cut off. */
function parsedOrNothing(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}
