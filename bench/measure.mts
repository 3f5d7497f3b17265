// Runs workloads in rounds: in each round every peer has its turn, so that what else happens on the machine meets all
// of them.
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Child, firstLine } from './child.mts';
import { Random } from './numbers.mts';
import type { Gauge, Peer } from './peers.mts';
import type { Operations, Work } from './protocol.mts';
import { table, tables } from './report.mts';
import { multipliedWeights, parameters, type ModelShape } from './shapes.mts';
import type { Limits, Metric, Stage, Workload } from './workloads.mts';

/** What a peer reached in one metric. */
export interface Result {
  readonly model: string;
  readonly group: string;
  readonly title: string;
  readonly unit: Metric['unit'];
  readonly better: Metric['better'];
  readonly peer: string;
  readonly family: Peer['family'];
  readonly precision: Peer['precision'];
  /** Of each round. */
  readonly values: readonly number[];
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** What the machine's limits allow. */
  readonly limit: number | undefined;
}

/** Whether a peer computes what our float32 does. */
export interface Agreement {
  readonly model: string;
  readonly peer: string;
  /** Prompts behind which the likeliest token is the same. */
  readonly sameTokens: string;
  /** Largest difference of a log probability. */
  readonly difference: number;
  readonly agrees: boolean;
}

export interface Measured {
  results: Result[];
  agreements: Agreement[];
  /** Peers and workloads that failed, and why. */
  failures: string[];
}

export interface Settings {
  rounds: number;
  threads: number;
  quick: boolean;
  /** Bytes of memory that peers may take together. */
  memory: number;
  scratch: string;
  data: string;
  say: (text: string) => void;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low, high] = [sorted[middle - 1] ?? NaN, sorted[middle] ?? NaN];
  return sorted.length % 2 === 1 ? high : (low + high) / 2;
}

/** The best rates that any of the gauges measures in any round. */
export async function measureLimits(gauges: readonly Gauge[], settings: Settings): Promise<Limits> {
  const limits: Limits = { disk: await diskRate(settings.scratch) };
  const children = gauges.map((gauge) => ({ child: new Child(gauge.name, gauge.command), known: gauge.limits }));
  try {
    for (let round = 0; round < settings.rounds; round++) {
      for (const { child, known } of children) {
        for (const what of known) {
          settings.say(`limits: ${what} by ${child.name}`);
          const { seconds, amount } = await child.ask('limit', { what, threads: settings.threads });
          limits[what] = Math.max(limits[what] ?? 0, amount / seconds);
        }
      }
    }
  } finally {
    await Promise.all(children.map(({ child }) => child.end()));
  }
  return limits;
}

/** Bytes a second that are written and waited for. */
async function diskRate(folder: string): Promise<number> {
  const bytes = Buffer.alloc(1 << 26, 1);
  const path = join(folder, 'disk');
  const started = performance.now();
  const file = await open(path, 'w');
  for (let i = 0; i < 4; i++) await file.writeFile(bytes);
  await file.sync();
  await file.close();
  const seconds = (performance.now() - started) / 1000;
  await rm(path);
  return (4 * bytes.length) / seconds;
}

/** What all functions below need of one model. */
interface Run extends Settings {
  readonly shape: ModelShape;
  readonly folder: string;
  readonly limits: Limits;
  readonly measured: Measured;
}

/**
 * Measures one model. The peers run side by side, each with the model loaded, where memory allows, and else one after
 * the other.
 */
export async function measureModel(
  shape: ModelShape,
  folder: string,
  peers: readonly Peer[],
  list: readonly Workload[],
  limits: Limits,
  settings: Settings,
): Promise<Measured> {
  const measured: Measured = { results: [], agreements: [], failures: [] };
  const run: Run = { ...settings, shape, folder, limits, measured };
  const fitting = peers.filter((peer) => {
    const fits = expectedMemory(shape, peer) <= settings.memory;
    if (!fits) measured.failures.push(`${shape.name}, ${peer.name}: left out, it needs more memory than there is`);
    return fits;
  });
  const reference = fitting.find(({ family }) => family === 'neox-prefix');
  if (reference === undefined || list.length === 0) return measured;
  const expected = await fresh(run, reference, async (child, load) => {
    await load();
    return child.ask('check', questions(shape));
  });
  const together = fitting.reduce((sum, peer) => sum + expectedMemory(shape, peer), 0) <= settings.memory;
  if (!together) settings.say(`${shape.name}: the peers do not fit in memory together, so they do not take turns`);
  for (const group of together ? [fitting] : fitting.map((peer) => [peer]))
    await measureGroup(run, group, list, expected);
  return measured;
}

/** The weights as they are computed with, in our case once more for a backward pass, and what libraries take. */
function expectedMemory(shape: ModelShape, peer: Peer): number {
  const { blocks, output } = multipliedWeights(shape);
  return (parameters(shape) + (peer.family === 'neox-prefix' ? blocks + output : 0)) * peer.bytesPerWeight + 1e9;
}

function questions(shape: ModelShape): Operations['check'][0] {
  const random = new Random(1);
  const { vocab_size: vocabulary } = shape.config;
  return {
    prompts: [3, 8, 16, 24].map((length) => random.ids(length, vocabulary)),
    probes: random.ids(32, vocabulary),
  };
}

async function measureGroup(
  run: Run,
  peers: readonly Peer[],
  list: readonly Workload[],
  expected: Operations['check'][1],
): Promise<void> {
  const { measured, shape } = run;
  const children = new Map<Peer, Child>();
  const attempt = async (peer: Peer, what: string, action: () => Promise<void>): Promise<void> => {
    run.say(`${shape.name}: ${what}, ${peer.name}`);
    try {
      await action();
    } catch (error) {
      measured.failures.push(`${shape.name}, ${what}: ${(error as Error).message}`);
    }
  };
  try {
    for (const peer of peers) {
      if (!list.some(({ operations }) => takesPart(peer, operations))) continue;
      await attempt(peer, 'loading', async () => {
        const child = new Child(peer.name, peer.command);
        children.set(peer, child);
        await child.ask('load', { model: run.folder, threads: run.threads, scratch: await newFolder(run) });
        measured.agreements.push(agreement(shape, peer, await child.ask('check', questions(shape)), expected));
      });
    }
    // A peer that computes something else would be quick for nothing.
    const ready = peers.filter((peer) =>
      measured.agreements.some((a) => a.model === shape.name && a.peer === peer.name && a.agrees),
    );
    const stage: Stage = {
      warm: (peer) => children.get(peer) as Child,
      fresh: (peer, action) => fresh(run, peer, action),
      firstToken: (peer) => firstLine(peer.firstToken?.(run.folder, run.threads) ?? []),
      model: run.folder,
      scratch: await newFolder(run),
      data: run.data,
    };
    for (const workload of list) {
      const taking = ready.filter((peer) => takesPart(peer, workload.operations));
      const values = new Map<Peer, number[][]>();
      const what = workload.metrics[0]?.title ?? '';
      const turn = (peer: Peer, round: number): Promise<void> =>
        attempt(peer, `${what}${round < 0 ? ' (warming up)' : ''}`, async () => {
          const numbers = await workload.run(stage, peer);
          if (round >= 0) values.set(peer, [...(values.get(peer) ?? []), numbers]);
        });
      const first = run.quick || workload.cold === true || workload.maxRounds !== undefined ? 0 : -1;
      for (let round = first; round < Math.min(run.rounds, workload.maxRounds ?? Infinity); round++) {
        // Back and forth, so that nobody always follows the same one.
        for (const peer of round % 2 === 0 ? taking : [...taking].reverse()) await turn(peer, round);
      }
      const results = [...values].flatMap(([peer, rounds]) => summarize(run, workload, peer, rounds));
      measured.results.push(...results);
      // At once, so that a run that is stopped in its middle was not for nothing.
      for (const rows of tables(results)) run.say(table(rows));
    }
  } finally {
    await Promise.all([...children.values()].map((child) => child.end()));
  }
}

function takesPart(peer: Peer, operations: readonly string[]): boolean {
  return operations.every((operation) => (peer.operations as readonly string[]).includes(operation));
}

async function fresh<T>(
  run: Run,
  peer: Peer,
  action: (child: Child, load: () => Promise<Work>) => Promise<T>,
): Promise<T> {
  const scratch = await newFolder(run);
  const child = new Child(peer.name, peer.command);
  try {
    return await action(child, () => child.ask('load', { model: run.folder, threads: run.threads, scratch }));
  } finally {
    await child.end();
  }
}

async function newFolder({ scratch }: Settings): Promise<string> {
  await mkdir(scratch, { recursive: true });
  return mkdtemp(join(scratch, 'peer-'));
}

function agreement(
  shape: ModelShape,
  peer: Peer,
  found: Operations['check'][1],
  expected: Operations['check'][1],
): Agreement {
  const same = found.tokens.filter((token, i) => token === expected.tokens[i]).length;
  const differences = found.logProbabilities.flatMap((row, i) =>
    row.map((value, k) => Math.abs(value - (expected.logProbabilities[i]?.[k] ?? NaN))),
  );
  const difference = differences.reduce((a, b) => Math.max(a, b), 0);
  const sameTokens = `${same} of ${expected.tokens.length}`;
  // Not `>`: a NaN agrees with nothing.
  return { model: shape.name, peer: peer.name, sameTokens, difference, agrees: difference <= peer.tolerance };
}

function summarize(run: Run, { group, metrics }: Workload, peer: Peer, rounds: readonly number[][]): Result[] {
  return metrics.map(({ title, unit, better, limit }, i) => {
    const values = rounds.map((numbers) => numbers[i] ?? NaN);
    return {
      model: run.shape.name,
      group,
      title,
      unit,
      better,
      peer: peer.name,
      family: peer.family,
      precision: peer.precision,
      values,
      median: median(values),
      min: Math.min(...values),
      max: Math.max(...values),
      limit: limit?.(run.limits, peer),
    };
  });
}
