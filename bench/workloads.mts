// What is measured.
import type { Child } from './child.mts';
import type { Group } from './options.mts';
import type { Peer } from './peers.mts';
import { PREFIX_LENGTH, type Limit, type Operation, type Work } from './protocol.mts';
import { multipliedWeights, type ModelShape } from './shapes.mts';

/** Operations or bytes a second; what could not be measured is missing. 'disk': bytes written and waited for. */
export type Limits = Partial<Record<Limit | 'disk', number>>;

export interface Metric {
  readonly title: string;
  readonly unit: 'tokens/s' | 's' | 'ms' | 'GB/s' | 'MB' | '%';
  readonly better: 'higher' | 'lower';
  /** The best that the machine's limits allow this peer. */
  readonly limit?: (limits: Limits, peer: Peer) => number | undefined;
}

/** What a workload needs of the program. */
export interface Stage {
  /** The peer's warm process, with the model loaded. */
  warm(peer: Peer): Child;
  /** Runs an action with a new process of the peer, in which nothing is loaded; `load` loads the model. */
  fresh<T>(peer: Peer, action: (child: Child, load: () => Promise<Work>) => Promise<T>): Promise<T>;
  /** Seconds from the start of the peer's smallest program to its first token. */
  firstToken(peer: Peer): Promise<number>;
  /** The model's folder. */
  readonly model: string;
  /** An empty folder. */
  readonly scratch: string;
  /** The samples of the group epoch. */
  readonly data: string;
}

export interface Workload {
  readonly group: Group;
  readonly metrics: readonly Metric[];
  /** A peer takes part that knows all of these. */
  readonly operations: readonly Operation[];
  /** Rounds at most, where one takes minutes. */
  readonly maxRounds?: number;
  /** Nothing to warm up: each run is a process of its own. */
  readonly cold?: boolean;
  /** A number for each metric. */
  readonly run: (stage: Stage, peer: Peer) => Promise<number[]>;
}

const MB = 1e6;
const rate = ({ amount, seconds }: Work): number => amount / seconds;

/** Products a second in the peer's own type. */
function products(limits: Limits, peer: Peer): number | undefined {
  return peer.products === undefined ? undefined : limits[peer.products];
}

/** The workloads of a model. Only one model goes through all of them. */
export function workloads(
  shape: ModelShape,
  { everything, quick }: { everything: boolean; quick: boolean },
): Workload[] {
  return [
    ...training(shape, quick),
    ...generation(shape, quick),
    ...(everything ? [epoch(), ...processes(quick), ...swaps(quick), exporting(), ...overhead(quick)] : []),
  ];
}

function training(shape: ModelShape, quick: boolean): Workload[] {
  const { blocks, output } = multipliedWeights(shape);
  const args = { rows: 8, length: quick ? 16 : 64, steps: 2 };
  return [
    {
      group: 'train',
      metrics: [
        {
          title: `training, ${args.rows} rows of ${args.length} tokens, prefix of ${PREFIX_LENGTH}`,
          unit: 'tokens/s',
          better: 'higher',
          // Forward, and the gradient of the inputs: weights have none.
          limit: (limits, peer) => over(products(limits, peer), 4 * (blocks + output)),
        },
      ],
      operations: ['train'],
      run: async (stage, peer) => [rate(await stage.warm(peer).ask('train', args))],
    },
  ];
}

function over(amount: number | undefined, divisor: number): number | undefined {
  return amount === undefined ? undefined : amount / divisor;
}

function epoch(): Workload {
  return {
    group: 'epoch',
    metrics: [
      { title: 'an epoch by the recipe, batches of 4 samples, target tokens', unit: 'tokens/s', better: 'higher' },
    ],
    operations: ['epoch'],
    maxRounds: 2,
    run: async (stage, peer) => [rate(await stage.warm(peer).ask('epoch', { file: stage.data }))],
  };
}

function generation(shape: ModelShape, quick: boolean): Workload[] {
  const { blocks, end, output } = multipliedWeights(shape);
  const length = quick ? 32 : 448;
  const decode = (rows: number, tokens: number): Workload => ({
    group: 'decode',
    metrics: [
      {
        title: `decoding, ${rows === 1 ? '1 row' : `${rows} rows with mixed prefixes`}`,
        unit: 'tokens/s',
        better: 'higher',
        // Every weight is read once for each step, and multiplied once for each row.
        limit: (limits, peer) => {
          const reading = over(limits.read, (blocks + output) * peer.bytesPerWeight);
          const multiplying = over(products(limits, peer), 2 * (blocks + output));
          return reading === undefined ? undefined : Math.min(rows * reading, multiplying ?? Infinity);
        },
      },
    ],
    operations: ['decode'],
    run: async (stage, peer) => [rate(await stage.warm(peer).ask('decode', { rows, tokens }))],
  });
  return [
    {
      group: 'prefill',
      metrics: [
        {
          title: `reading a prompt of ${length} tokens`,
          unit: 'tokens/s',
          better: 'higher',
          limit: (limits, peer) => over(products(limits, peer), 2 * (blocks - end + (end + output) / length)),
        },
      ],
      operations: ['prefill'],
      run: async (stage, peer) => [rate(await stage.warm(peer).ask('prefill', { length }))],
    },
    decode(1, quick ? 8 : 64),
    decode(8, quick ? 4 : 32),
    decode(32, quick ? 2 : 16),
  ];
}

/** What a process costs. */
function processes(quick: boolean): Workload[] {
  const peak = (title: string, operation: 'train' | 'decode', work: (child: Child) => Promise<unknown>): Workload => ({
    group: 'memory',
    metrics: [{ title: `most memory of a process that ${title}`, unit: 'MB', better: 'lower' }],
    operations: ['load', operation],
    cold: true,
    maxRounds: 2,
    run: (stage, peer) =>
      stage.fresh(peer, async (child, load) => {
        await load();
        await work(child);
        return [(child.memory()?.peak ?? NaN) / MB];
      }),
  });
  return [
    {
      group: 'start',
      metrics: [{ title: 'from the start of a process to the first token', unit: 's', better: 'lower' }],
      operations: ['load', 'decode'],
      cold: true,
      run: async (stage, peer) => [await stage.firstToken(peer)],
    },
    peak('generates in 8 rows', 'decode', (child) => child.ask('decode', { rows: 8, tokens: quick ? 2 : 16 })),
    peak('trains', 'train', (child) => child.ask('train', { rows: 8, length: quick ? 16 : 64, steps: 1 })),
  ];
}

function swaps(quick: boolean): Workload[] {
  const titles = {
    same: 'a request of one token under the prefix of the last one',
    swap: 'a request of one token under another prefix',
    disk: 'a request of one token under a prefix that is still a file',
  } as const;
  return (['same', 'swap', 'disk'] as const).map((prefix) => ({
    group: 'swap',
    metrics: [{ title: titles[prefix], unit: 'ms', better: 'lower' }],
    operations: ['requests'],
    run: async (stage, peer) => [
      1000 / rate(await stage.warm(peer).ask('requests', { prefix, count: quick ? 4 : 20 })),
    ],
  }));
}

function exporting(): Workload {
  return {
    group: 'export',
    metrics: [
      {
        title: 'export to FasterTransformer in float16, written',
        unit: 'GB/s',
        better: 'higher',
        limit: ({ disk }) => over(disk, 1e9),
      },
      { title: 'export to FasterTransformer, most memory beside the files', unit: 'MB', better: 'lower' },
    ],
    operations: ['export'],
    cold: true,
    run: (stage, peer) =>
      stage.fresh(peer, async (child) => {
        // Opening the checkpoint and loading the addon belong to the process, not to the export.
        const { model, scratch } = stage;
        await child.ask('export', { model, scratch });
        const before = child.memory()?.anonymous ?? NaN;
        let peak = before;
        const timer = setInterval(() => (peak = Math.max(peak, child.memory()?.anonymous ?? NaN)), 5);
        try {
          return [rate(await child.ask('export', { model, scratch })) / 1e9, (peak - before) / MB];
        } finally {
          clearInterval(timer);
        }
      }),
  };
}

/** What JavaScript costs while C++ works. */
function overhead(quick: boolean): Workload[] {
  const tokens = quick ? 50 : 1000;
  return [
    {
      group: 'overhead',
      metrics: [
        { title: `${tokens} tokens from one call of generate()`, unit: 's', better: 'lower' },
        { title: `${tokens} tokens one by one from stream()`, unit: 's', better: 'lower' },
        { title: "the JavaScript thread's share of that time", unit: '%', better: 'lower' },
      ],
      operations: ['stream'],
      maxRounds: 3,
      run: async (stage, peer) => {
        const child = stage.warm(peer);
        const whole = await child.ask('decode', { rows: 1, tokens });
        const pieces = await child.ask('stream', { tokens });
        return [whole.seconds, pieces.seconds, (100 * pieces.jsSeconds) / pieces.seconds];
      },
    },
    {
      group: 'overhead',
      metrics: [{ title: 'worst lateness of a timer of 50 ms during training', unit: 'ms', better: 'lower' }],
      operations: ['lateness'],
      run: async (stage, peer) => [
        1000 * (await stage.warm(peer).ask('lateness', { rows: 8, length: quick ? 16 : 64, steps: 4 })).seconds,
      ],
    },
  ];
}
