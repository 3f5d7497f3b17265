import { basename, join, resolve } from 'node:path';
import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';
import { kindOf, readSmallFile, writeFileAtomic } from '../base/files';
import { type JsonObject, parseJsonObject } from '../formats/json';
import { readSafetensorsHeader } from '../formats/safetensors';
import { metadataFromStrings } from '../prefix/formats/metadata';
import { RUN_FILES } from '../runs/run-files';
import type { TrainingEvent } from '../runs/events';
import { readEvents } from '../runs/read-events';
import { renderReport, type ReportBase, type ReportOptions } from './report';

/** What a report tells besides recipe and events; in the folder of a run it is `about.json`. */
export type ReportAbout = Pick<ReportOptions, 'base' | 'baseline' | 'data'>;

/**
 * What a report of a run's folder shows.
 * @throws NEOX_FILE_NOT_FOUND for a folder without a run; NEOX_IO, NEOX_BAD_DATA
 */
export async function readRun(folder: string): Promise<ReportOptions & { events: TrainingEvent[] }> {
  const metrics = join(folder, RUN_FILES.metrics);
  if ((await kindOf(metrics)) === undefined) {
    throw new NeoXPrefixError(
      'NEOX_FILE_NOT_FOUND',
      `There is no training run in ${folder}: it has no ${RUN_FILES.metrics}`,
      {
        path: metrics,
        hint: 'a run is the folder that `outputDir` of the trainer, or --out of `neox-prefix train`, names',
      },
    );
  }
  const events = await readEvents(metrics);
  const [recipe, about] = [
    await readJson(join(folder, RUN_FILES.recipe)),
    await readJson(join(folder, RUN_FILES.about)),
  ];
  const { base = await readBase(folder), baseline, data } = (about ?? {}) as ReportAbout;
  return { recipe, events, base, baseline, data };
}

async function readJson(path: string): Promise<JsonObject | undefined> {
  if ((await kindOf(path)) === undefined) return undefined;
  return parseJsonObject(await readSmallFile(path, 2 ** 20), 'NEOX_BAD_DATA', 'The file', path);
}

/** The base model as the prefixes of a run remember it. */
async function readBase(folder: string): Promise<ReportBase | undefined> {
  for (const name of [RUN_FILES.best, RUN_FILES.last]) {
    const path = join(folder, name);
    if ((await kindOf(path)) !== 'file') continue;
    try {
      const { metadata } = await readSafetensorsHeader(path);
      const { name: model, numLayers, hiddenSize } = metadataFromStrings(metadata, path).baseModel ?? {};
      if (typeof numLayers === 'number' && typeof hiddenSize === 'number')
        return { name: model === undefined ? undefined : basename(model), layers: numLayers, hidden: hiddenSize };
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
  const path = resolve(folder, RUN_FILES.report);
  await writeFileAtomic(path, renderReport(await readRun(folder)));
  return path;
}
