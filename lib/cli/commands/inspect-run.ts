import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isNeoXPrefixError } from '../../base/errors';
import { kindOf, listFolder, readSmallFile, sha256File } from '../../base/files';
import { parseJsonObject } from '../../formats/json';
import { finite, type History, historyOf } from '../../report/history';
import { peakMemory, statusOf, throughput } from '../../report/tables';
import { RUN_FILES } from '../../runs/run-files';
import { readEvents } from '../../runs/read-events';
import { holderOf } from '../../runs/run-lock';
import { type ManifestEntry, newestState, readManifest } from '../../training/run-folder';
import { fields, formatBytes, formatNumber, formatSeconds, inline, table } from '../text-columns';
import type { Finding } from './finding';

/** The folder that `train --out` made. */
export async function inspectRun(path: string): Promise<Finding> {
  const recipePath = join(path, RUN_FILES.recipe);
  const recipe = parseJsonObject(await readSmallFile(recipePath, 2 ** 20), 'NEOX_BAD_DATA', 'The recipe', recipePath);
  const history = historyOf(await readEvents(join(path, RUN_FILES.metrics)));
  const holder = await holderOf(join(path, RUN_FILES.lock));
  const files = await listFiles(path, holder !== undefined);
  const resumable = await findState(path);
  const epochs = epochsOf(history);
  const warnings = files.filter(({ state }) => state !== 'ok').map(({ name, state }) => `${join(path, name)} ${state}`);
  return {
    kind: 'run',
    path,
    data: {
      recipe,
      ...progressOf(history),
      process: holder?.pid ?? null,
      host: holder?.host ?? null,
      resumable,
      epochs,
      files,
    },
    text: [
      fields([
        ['training run', path],
        ['task', String(recipe['name'])],
        ['state', holder === undefined ? statusOf(history).text : `at work: process ${holder.pid} on ${holder.host}`],
        ...progressFields(history),
        [
          'resumable',
          'problem' in resumable
            ? `no: ${resumable.problem}`
            : `yes, at step ${resumable.step}, from ${resumable.file}`,
        ],
        ['recipe', inline(recipe)],
      ]),
      table(
        ['epoch', 'step', 'train loss', 'validation loss', 'perplexity', 'time'],
        epochs.map(({ epoch, step, trainLoss, validationLoss, validationPerplexity, seconds, best }) => [
          `${epoch}${best ? ' *' : ''}`,
          String(step),
          shown(trainLoss),
          shown(validationLoss),
          validationPerplexity === undefined ? '' : formatNumber(validationPerplexity ?? NaN),
          formatSeconds(seconds),
        ]),
      ),
      table(
        ['file', 'size', 'as the manifest says'],
        files.map(({ name, bytes, known, state }) => [
          name,
          bytes === null ? '' : formatBytes(bytes),
          holder !== undefined ? '' : state !== 'ok' ? state : known ? 'yes' : '',
        ]),
      ),
    ].join('\n\n'),
    warnings,
  };
}

/** A loss; `null` is what was not finite. */
function shown(loss: number | null | undefined): string {
  return loss === undefined ? '' : (loss ?? NaN).toFixed(4);
}

interface Progress {
  state: string;
  step: number;
  totalSteps: number | null;
  best: { step: number; epoch: number; loss: number | null; perplexity: number | null; accuracy: number | null } | null;
  seconds: number;
  tokensPerSecond: number | null;
  peakMemoryBytes: number | null;
}

function progressOf(history: History): Progress {
  const { best, end, lastStep, seconds } = history;
  return {
    state: end?.reason ?? 'not finished',
    step: lastStep,
    totalSteps: planOf(history)?.totalSteps ?? null,
    best:
      best === undefined
        ? null
        : {
            step: best.step,
            epoch: best.epoch,
            loss: finite(best.loss),
            perplexity: finite(best.perplexity),
            accuracy: finite(best.accuracy),
          },
    seconds,
    tokensPerSecond: throughput(history).perSecond,
    peakMemoryBytes: peakMemory(history),
  };
}

/** What the run is to do at most; that may have changed when it was resumed. */
function planOf({ start, resumes }: History): { totalSteps: number; epochs: number } | undefined {
  return resumes.at(-1) ?? start;
}

function progressFields(history: History): [string, string | undefined][] {
  const { step, best, seconds, tokensPerSecond, peakMemoryBytes } = progressOf(history);
  const plan = planOf(history);
  const speed = tokensPerSecond === null ? '' : `, ${tokensPerSecond.toFixed(0)} tokens a second`;
  const memory = peakMemoryBytes === null ? '' : `, ${formatBytes(peakMemoryBytes)} of memory at the peak`;
  const figures =
    best === null
      ? undefined
      : `step ${best.step}, epoch ${best.epoch}: validation loss ${shown(best.loss)}, perplexity ${formatNumber(best.perplexity ?? NaN)}`;
  return [
    ['steps', plan === undefined ? String(step) : `${step} of ${plan.totalSteps}, in ${plan.epochs} epochs`],
    ['best', figures],
    ['time', step === 0 ? undefined : `${formatSeconds(seconds)}${speed}${memory}`],
  ];
}

interface RunFile {
  name: string;
  bytes: number | null;
  /** Whether the manifest has it. */
  known: boolean;
  /** `'ok'`, or what is wrong with it. */
  state: string;
}

/** The files of the run. While it is at work they change from one moment to the next, and are not compared. */
async function listFiles(path: string, isAtWork: boolean): Promise<RunFile[]> {
  const manifest = await readManifest(path);
  const own = (await listFolder(path)).filter((name) =>
    /^(metrics\.jsonl|report\.html|manifest\.json|events\.out\.tfevents\..*)$/.test(name),
  );
  const files: RunFile[] = [];
  for (const name of [...new Set([...manifest.keys(), ...own])].sort()) {
    const place = join(path, name);
    const bytes = (await kindOf(place)) === 'file' ? (await stat(place)).size : null;
    const entry = manifest.get(name);
    const state = entry === undefined || isAtWork ? 'ok' : await compare(place, bytes, entry);
    files.push({ name, bytes, known: entry !== undefined, state });
  }
  return files;
}

async function compare(path: string, bytes: number | null, expected: ManifestEntry): Promise<string> {
  if (bytes === null) return 'is missing';
  if (bytes !== expected.bytes) return `has changed: ${bytes} bytes, expected ${expected.bytes}`;
  return (await sha256File(path)) === expected.sha256 ? 'ok' : 'has changed: its SHA-256 is another one';
}

/** The state that `--resume` would go on from, or why there is none. */
async function findState(path: string): Promise<{ step: number; file: string } | { problem: string }> {
  try {
    const found = await newestState(path, await listFolder(path));
    if (found === undefined) return { problem: 'no state was saved' };
    return { step: found.state.progress.step, file: basename(found.path) };
  } catch (error) {
    if (isNeoXPrefixError(error)) return { problem: error.message.split('\n')[0] ?? '' };
    throw error;
  }
}

interface Epoch {
  epoch: number;
  step: number;
  trainLoss: number | null;
  validationLoss?: number | null;
  validationPerplexity?: number | null;
  seconds: number;
  /** Whether the validation loss was the lowest so far. */
  best: boolean;
}

function epochsOf({ epochs, evaluations }: History): Epoch[] {
  return epochs.map(({ epoch, step, trainLoss, seconds }) => {
    const evaluation = evaluations.find((other) => other.step === step);
    const own =
      evaluation === undefined
        ? {}
        : { validationLoss: finite(evaluation.loss), validationPerplexity: finite(evaluation.perplexity) };
    return { epoch, step, trainLoss: finite(trainLoss), ...own, seconds, best: evaluation?.best ?? false };
  });
}
