import type * as Native from '../../types/native';
import { runNative } from '../addon/run-native';
import type { JointWork } from '../distributed/joint-work';
import type { LoadedModel } from '../model/loaded-model';
import { packBatch } from './batches';
import type { RowSource } from './row-source';

/**
 * Deals samples to lanes: the longest first, each to the lane with the fewest tokens so far, of equal ones to the
 * first. Within a lane they stand in their given order. As many lanes as there are samples get some: the first ones.
 * @param tokens of each sample
 * @returns for each lane the numbers of its samples
 */
export function dealToLanes(tokens: readonly number[], lanes: number): number[][] {
  const dealt = Array.from({ length: Math.min(lanes, tokens.length) }, (): number[] => []);
  const load = dealt.map(() => 0);
  const longestFirst = tokens.map((_, i) => i).sort((a, b) => (tokens[b] as number) - (tokens[a] as number) || a - b);
  for (const sample of longestFirst) {
    const lane = load.indexOf(Math.min(...load));
    (dealt[lane] as number[]).push(sample);
    load[lane] = (load[lane] as number) + (tokens[sample] as number);
  }
  return dealt.map((samples) => samples.sort((a, b) => a - b));
}

export interface LanesParts {
  model: LoadedModel;
  trainer: Native.Trainer;
  train: RowSource;
  lanes: number;
  joint: JointWork | undefined;
  signal: AbortSignal | undefined;
}

/** How the ranks got on in a step. */
export interface StepTimes {
  /** Seconds that this rank waited for others. */
  waitSeconds: number;
  /** The rank that computed longest. */
  slowestRank: number;
  /** Resident set of the rank that has the largest, in bytes. */
  memoryBytes: number;
}

/**
 * The gradient of a step in lanes: partial sums over samples that the plan and the number of lanes alone decide on,
 * added up in their order. Rank r of R computes the lanes r, r + R, ..., so that the result has the same bits for any
 * number of ranks up to that of lanes.
 *
 * What travels is not the gradient of the encoder but that of the prefix, which is smaller by the encoder's width over
 * the prefix length: the encoder runs on rank 0, and the batch sees only what comes out of it.
 */
export async function accumulateLanes(
  parts: LanesParts,
  samples: readonly number[],
  { microBatchSize, lossScale }: { microBatchSize: number; lossScale: number },
): Promise<StepTimes | undefined> {
  const { model, trainer, train, joint, signal } = parts;
  const lanes = dealToLanes(
    samples.map((index) => train.dataset.tokensOf(index)),
    parts.lanes,
  );
  const [rank, size] = [joint?.rank ?? 0, joint?.size ?? 1];
  if (joint !== undefined) {
    await runNative(undefined, (addon) => addon.trainerPrefix(model.native, trainer));
    await joint.exchange((addon, group) => addon.sharePrefix(group, trainer));
  }
  const started = performance.now();
  const sums = new Array<{ loss: number; tokens: number }>(Math.ceil(parts.lanes / size)).fill({ loss: 0, tokens: 0 });
  const compute = async (): Promise<void> => {
    for (let lane = rank; lane < lanes.length; lane += size) {
      const own = (lanes[lane] as number[]).map((i) => samples[i] as number);
      const sum = { loss: 0, tokens: 0 };
      for (let first = 0; first < own.length; first += microBatchSize) {
        const rows = await train.rows(own.slice(first, first + microBatchSize));
        const batch = { ...packBatch(rows), lossScale, lane };
        const part = await runNative(signal, (addon, cancel) =>
          addon.trainerAccumulate(model.native, trainer, { ...batch, cancel }),
        );
        sum.loss += part.loss;
        sum.tokens += part.tokens;
      }
      sums[(lane - rank) / size] = sum;
    }
  };
  if (joint === undefined) {
    await compute();
    return undefined;
  }
  // Whoever is stopped goes on to the next exchange, in which all learn of it.
  await compute().catch((error: unknown) => {
    if (!joint.isStopping) throw error;
  });
  const seconds = (performance.now() - started) / 1000;
  const all = await joint.sync([
    ...[seconds, process.memoryUsage.rss()],
    ...sums.flatMap(({ loss, tokens }) => [loss, tokens]),
  ]);
  let [loss, tokens] = [0, 0];
  for (let lane = 0; lane < lanes.length; lane++) {
    const [laneLoss = 0, laneTokens = 0] = (all[lane % size] as number[]).slice(2 + 2 * Math.floor(lane / size));
    loss += laneLoss;
    tokens += laneTokens;
  }
  await joint.exchange((addon, group) => addon.sumLanes(group, trainer, { lanes: lanes.length, loss, tokens }));
  const times = all.map(([time = 0]) => time);
  return {
    waitSeconds: joint.takeWaited(),
    slowestRank: times.indexOf(Math.max(...times)),
    memoryBytes: Math.max(...all.map(([, bytes = 0]) => bytes)),
  };
}
