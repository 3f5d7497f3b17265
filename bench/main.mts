// Measures the package against its peers and the limits of the machine; docs/performance.md says what and how.
//
//   npm run bench -- --help
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, freemem, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { doctor, readDataset, Tokenizer } from '../dist/index.mjs';
import { measureLimits, measureModel, type Measured, type Settings } from './measure.mts';
import { HELP, parseOptions, UsageError, type Options } from './options.mts';
import { findPeers } from './peers.mts';
import { canPlot, plot } from './plot.mts';
import { describe, type Report } from './report.mts';
import { SHAPES } from './shapes.mts';
import { provideModel } from './weights.mts';
import { workloads, type Limits } from './workloads.mts';

const here = import.meta.dirname;
const root = join(here, '..');

/**
 * Samples of the data by the recipe, as token ids. Which ids they are matters to nobody, so any tokenizer of a small
 * vocabulary will do.
 */
async function writeSamples({ data, samples }: Options, path: string): Promise<void> {
  const tokenizer = await Tokenizer.load(join(root, 'examples', 'models', 'tiny-ja-neox'));
  const file = data ?? join(root, 'examples', 'data', 'diary.jsonl');
  const read = await readDataset(file, {
    packing: 'lines',
    suffix: ' 😃',
    maxLength: 64,
    keepRemainder: true,
    tokenizer,
  });
  const ids = read.slice(0, samples).map(({ completion }) => Array.from(completion as Int32Array));
  await writeFile(path, JSON.stringify(ids));
}

async function machine(options: Options): Promise<Report['machine']> {
  const { system } = await doctor();
  return {
    processor: cpus()[0]?.model ?? 'unknown',
    processors: cpus().length,
    threads: options.threads,
    memory: `${(totalmem() / 1e9).toFixed(0)} GB`,
    kernel: release(),
    node: process.versions.node,
    ...(system === undefined ? {} : { libtorch: system.torchVersion, kernels: system.kernels }),
  };
}

async function measure(options: Options): Promise<Report> {
  const cache = options.cache ?? join(here, '.cache');
  const scratch = join(cache, `scratch-${process.pid}`);
  await mkdir(scratch, { recursive: true });
  try {
    const { peers, limits: gauges, missing } = findPeers(options);
    const data = join(scratch, 'samples.json');
    if (options.groups.has('epoch')) await writeSamples(options, data);
    const started = performance.now();
    const settings: Settings = {
      rounds: options.rounds,
      threads: options.threads,
      quick: options.quick,
      memory: 0.85 * freemem(),
      scratch,
      data,
      say: (text) => console.error(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${text}`),
    };
    const limits: Limits = options.groups.has('limits') ? await measureLimits(gauges, settings) : {};
    const all: Measured = { results: [], agreements: [], failures: [] };
    for (const [i, name] of options.models.entries()) {
      const shape = SHAPES[name];
      settings.say(`${name}: writing the model, where it is not there yet`);
      const folder = await provideModel(cache, shape);
      const list = workloads(shape, { everything: i === 0, quick: options.quick }).filter(({ group }) =>
        options.groups.has(group),
      );
      const taking = peers.filter(({ large }) => large || name !== 'rinna-3.6b');
      const measured = await measureModel(shape, folder, taking, list, limits, settings);
      all.results.push(...measured.results);
      all.agreements.push(...measured.agreements);
      all.failures.push(...measured.failures);
    }
    const { rounds, threads, quick } = options;
    return {
      date: new Date().toISOString(),
      machine: await machine(options),
      rounds,
      threads,
      quick,
      limits,
      missing,
      ...all,
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function drawn(report: Report, path: string): Promise<string> {
  await writeFile(path, await plot(report));
  return path;
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const out = options.out ?? join(here, 'results');
  await mkdir(out, { recursive: true });
  const install = 'run `npm install --prefix bench --omit=optional --ignore-scripts`';
  if (options.plot !== undefined) {
    if (!canPlot) throw new UsageError(`--plot needs the library that draws: ${install}`);
    const report = JSON.parse(await readFile(options.plot, 'utf8')) as Report;
    console.log(await drawn(report, options.plot.replace(/\.json$/, '') + '.svg'));
    return 0;
  }
  const report = await measure(options);
  console.log(describe(report));
  const path = join(out, report.date.replace(/[:.]/g, '-'));
  await writeFile(`${path}.json`, `${JSON.stringify(report, undefined, 1)}\n`);
  console.log(`\nwritten: ${path}.json`);
  if (canPlot) console.log(`written: ${await drawn(report, `${path}.svg`)}`);
  else console.log(`not drawn: for the plot, ${install}`);
  return report.failures.length > 0 || report.agreements.some(({ agrees }) => !agrees) ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(`error: ${error.message}\nHint: npm run bench -- --help`);
  process.exitCode = 1;
}
