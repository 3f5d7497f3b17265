import { join, resolve } from 'node:path';
import { isObject, parseJsonObject, type JsonObject } from '../checkpoint/json';
import { readSafetensorsHeader } from '../checkpoint/safetensors';
import { readLines } from '../data/lines';
import { badLine } from '../data/problems';
import { isNeoXPrefixError, NeoXPrefixError } from '../errors';
import { kindOf, readSmallFile, writeFileAtomic } from '../files';
import { metadataFromStrings } from '../prefix/formats/metadata';
import type { TrainingEvent } from '../training/events';
import { renderReport, type ReportBase, type ReportOptions } from './report';

/** What a report tells besides recipe and events; in the folder of a run it is `about.json`. */
export type ReportAbout = Pick<ReportOptions, 'base' | 'baseline' | 'data'>;

/** `value`: a number, or `null`, which stands for NaN and infinity. */
type Kind = 'number' | 'value' | 'values' | 'string' | 'boolean' | 'samples' | 'object';

/** Fields of each event; those with a question mark may be missing. */
const FIELDS: { readonly [Type in TrainingEvent['type']]: Readonly<Record<string, Kind>> } = {
  start: {
    ...{ totalSteps: 'number', stepsPerEpoch: 'number', epochs: 'number', trainSamples: 'number', validationSamples: 'number' },
    ...{ trainableParameters: 'number', predictedMemoryBytes: 'number', microBatchSize: 'number', 'initError?': 'value' },
  },
  resume: { step: 'number', epoch: 'number', seconds: 'number', from: 'string', totalSteps: 'number', epochs: 'number' },
  step: {
    ...{ step: 'number', epoch: 'number', loss: 'value', tokens: 'number', learningRate: 'value', gradNorm: 'value' },
    ...{ tokensPerSecond: 'value', seconds: 'number', etaSeconds: 'value', memoryBytes: 'number', applied: 'boolean' },
    'lossScale?': 'value',
  },
  evaluation: {
    ...{ step: 'number', epoch: 'number', best: 'boolean', loss: 'value', perplexity: 'value', accuracy: 'value', tokens: 'number' },
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
      return Array.isArray(value) && value.every((item) => isObject(item) && SAMPLE.every((name) => typeof item[name] === 'string'));
    case 'object':
      return isObject(value);
    default:
      return typeof value === kind;
  }
}

const SAMPLE = ['prompt', 'text', 'finishReason'];

/**
 * The events of a `metrics.jsonl`. A last line that was cut off by the end of the process is left out; events of a kind that is not known, of a
 * later version say, are passed over.
 * @throws NEOX_FILE_NOT_FOUND, NEOX_IO, NEOX_BAD_DATA naming the line
 */
export async function* readEvents(path: string): AsyncGenerator<TrainingEvent> {
  let cut: NeoXPrefixError | undefined;
  for await (const { number, text } of readLines(path)) {
    if (cut !== undefined) throw cut;
    if (text.trim() === '') continue;
    let event: unknown;
    try {
      event = JSON.parse(text);
    } catch (error) {
      cut = badLine(path, number, 'it is no event of a training run', error);
      continue;
    }
    if (!isObject(event) || typeof event['type'] !== 'string') throw badLine(path, number, 'it is no event of a training run');
    const { type } = event;
    const fields = Object.hasOwn(FIELDS, type) ? FIELDS[type as TrainingEvent['type']] : undefined;
    if (fields === undefined) continue;
    for (const [field, kind] of Object.entries(fields)) {
      const name = field.replace('?', '');
      if (name !== field && event[name] === undefined) continue;
      if (!isKind(event[name], kind)) throw badLine(path, number, `the event '${type}' has no usable ${name}`);
    }
    yield event as unknown as TrainingEvent;
  }
}

/**
 * What a report of a run's folder shows.
 * @throws NEOX_FILE_NOT_FOUND for a folder without a run; NEOX_IO, NEOX_BAD_DATA
 */
export async function readRun(folder: string): Promise<ReportOptions & { events: TrainingEvent[] }> {
  const metrics = join(folder, 'metrics.jsonl');
  if ((await kindOf(metrics)) === undefined) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `There is no training run in ${folder}: it has no metrics.jsonl`, {
      path: metrics,
      hint: 'a run is the folder that `outputDir` of the trainer, or --out of `neox-prefix train`, names',
    });
  }
  const events: TrainingEvent[] = [];
  for await (const event of readEvents(metrics)) events.push(event);
  const [recipe, about] = [await readJson(join(folder, 'recipe.json')), await readJson(join(folder, 'about.json'))];
  const { base = await readBase(folder), baseline, data } = (about ?? {}) as ReportAbout;
  return { recipe, events, base, baseline, data };
}

async function readJson(path: string): Promise<JsonObject | undefined> {
  if ((await kindOf(path)) === undefined) return undefined;
  return parseJsonObject(await readSmallFile(path, 2 ** 20), 'NEOX_BAD_DATA', 'The file', path);
}

/** The base model as the prefixes of a run remember it. */
async function readBase(folder: string): Promise<ReportBase | undefined> {
  for (const name of ['best.safetensors', 'last.safetensors']) {
    const path = join(folder, name);
    if ((await kindOf(path)) !== 'file') continue;
    try {
      const { metadata } = await readSafetensorsHeader(path);
      const { name: model, numLayers, hiddenSize } = metadataFromStrings(metadata, path).baseModel ?? {};
      if (typeof numLayers === 'number' && typeof hiddenSize === 'number') return { name: model, layers: numLayers, hidden: hiddenSize };
    } catch (error) {
      // A report is read above all when something went wrong.
      if (!isNeoXPrefixError(error)) throw error;
    }
  }
  return undefined;
}

/**
 * Writes `report.html` of a run's folder.
 * @returns the path of the report
 * @throws as {@link readRun}
 */
export async function writeReport(folder: string): Promise<string> {
  const path = resolve(folder, 'report.html');
  await writeFileAtomic(path, renderReport(await readRun(folder)));
  return path;
}
