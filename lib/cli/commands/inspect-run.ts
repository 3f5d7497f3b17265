import { join } from 'node:path';
import { parseJsonObject } from '../../checkpoint/json';
import { readLines } from '../../data/lines';
import { badLine } from '../../data/problems';
import { kindOf, readSmallFile } from '../../files';
import type { TrainingEvent } from '../../training/events';
import { fields, formatNumber, formatSeconds, inline, table } from '../format';
import type { Finding } from './inspect';
const RUN_FILES = ['best.safetensors', 'last.safetensors', 'encoder.safetensors'];

/** The folder that `train --out` made. */
export async function inspectRun(path: string): Promise<Finding> {
  const recipePath = join(path, 'recipe.json');
  const recipe = parseJsonObject(await readSmallFile(recipePath, 2 ** 20), 'NEOX_BAD_DATA', 'The recipe', recipePath);
  const epochs = await readEpochs(join(path, 'metrics.jsonl'));
  const files: string[] = [];
  for (const name of RUN_FILES) if ((await kindOf(join(path, name))) === 'file') files.push(name);
  const rows = epochs.map(({ epoch, step, trainLoss, validationLoss, validationPerplexity, seconds, best }) => [
    `${epoch}${best ? ' *' : ''}`,
    String(step),
    trainLoss.toFixed(4),
    validationLoss?.toFixed(4) ?? '',
    validationPerplexity === undefined ? '' : formatNumber(validationPerplexity),
    formatSeconds(seconds),
  ]);
  return {
    kind: 'run',
    path,
    data: { recipe, epochs, files },
    text: `${fields([
      ['training run', path],
      ['task', String(recipe['name'])],
      ['recipe', inline(recipe)],
      ['files', files.join(', ') || 'none'],
    ])}\n\n${table(['epoch', 'step', 'train loss', 'validation loss', 'perplexity', 'time'], rows)}`,
  };
}

interface Epoch {
  epoch: number;
  step: number;
  trainLoss: number;
  validationLoss?: number;
  validationPerplexity?: number;
  seconds: number;
  /** Whether the validation loss was the lowest so far. */
  best: boolean;
}

async function readEpochs(path: string): Promise<Epoch[]> {
  const epochs: Epoch[] = [];
  let evaluation: Extract<TrainingEvent, { type: 'evaluation' }> | undefined;
  for await (const { number, text } of readLines(path)) {
    const event = parseEvent(text, path, number);
    if (event.type === 'evaluation') evaluation = event;
    if (event.type !== 'epoch') continue;
    const { epoch, step, trainLoss, seconds } = event;
    const own = evaluation?.epoch === epoch ? { validationLoss: evaluation.loss, validationPerplexity: evaluation.perplexity } : {};
    epochs.push({ epoch, step, trainLoss, ...own, seconds, best: evaluation?.epoch === epoch && evaluation.best });
  }
  return epochs;
}

function parseEvent(text: string, path: string, number: number): TrainingEvent {
  try {
    return JSON.parse(text) as TrainingEvent;
  } catch (error) {
    throw badLine(path, number, 'it is no event of a training run', error);
  }
}
