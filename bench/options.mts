// The command line of the benchmark.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { SHAPES, type ShapeName } from './shapes.mts';

export const GROUPS = [
  'limits',
  'train',
  'epoch',
  'prefill',
  'decode',
  'start',
  'swap',
  'export',
  'memory',
  'overhead',
] as const;
export type Group = (typeof GROUPS)[number];

export const HELP = `npm run bench -- [OPTIONS]

Measures neox-prefix, its peers and the limits of the machine, in turns.

  --quick          a tiny model, one round: shows that everything works, and says nothing about speed
  --large          also the shape of rinna's 3.6b models in bfloat16 (7 GB on the disk for each of three formats)
  --model NAME     only this model, one of ${Object.keys(SHAPES).join(', ')}; may be repeated
  --only GROUPS    only these groups of workloads, separated by commas: ${GROUPS.join(', ')}
  --peers NAMES    only these peers, by their names or parts of them, separated by commas, for example PEFT,llama
  --rounds N       rounds of each workload (default 5; 1 with --quick)
  --threads N      compute threads of every peer (default: one for each processor)
  --data FILE      JSON Lines with {"text"} for the group epoch (default examples/data/diary.jsonl)
  --samples N      samples of it at most (default 200)
  --python PATH    a Python with torch, transformers and peft (default python3)
  --no-python      without the peers in Python
  --no-llama       without llama.cpp
  --cache DIR      where models are kept (default bench/.cache)
  --out DIR        where results go (default bench/results)
  --plot FILE      draws the results of the JSON file FILE again, and measures nothing
  --help
`;

export interface Options {
  quick: boolean;
  models: ShapeName[];
  groups: ReadonlySet<Group>;
  /** Parts of names; undefined: all. */
  peers: string[] | undefined;
  rounds: number;
  threads: number;
  data: string | undefined;
  samples: number;
  python: string | undefined;
  llama: boolean;
  cache: string | undefined;
  out: string | undefined;
  plot: string | undefined;
  help: boolean;
}

/** A command line that is not understood. */
export class UsageError extends Error {}

export function parseOptions(args: string[]): Options {
  let values;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        quick: { type: 'boolean', default: false },
        large: { type: 'boolean', default: false },
        model: { type: 'string', multiple: true },
        only: { type: 'string' },
        peers: { type: 'string' },
        rounds: { type: 'string' },
        threads: { type: 'string' },
        data: { type: 'string' },
        samples: { type: 'string' },
        python: { type: 'string' },
        'no-python': { type: 'boolean', default: false },
        'no-llama': { type: 'boolean', default: false },
        cache: { type: 'string' },
        out: { type: 'string' },
        plot: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const models: ShapeName[] = values.quick ? ['tiny'] : ['rinna-small', 'pythia-410m'];
  if (values.large) models.push('rinna-3.6b');
  return {
    quick: values.quick,
    models:
      values.model === undefined
        ? models
        : values.model.map((name) => oneOf('--model', name, Object.keys(SHAPES) as ShapeName[])),
    groups: new Set(
      values.only === undefined ? GROUPS : values.only.split(',').map((name) => oneOf('--only', name.trim(), GROUPS)),
    ),
    peers: values.peers?.split(',').map((name) => name.trim()),
    rounds: count('--rounds', values.rounds, values.quick ? 1 : 5),
    threads: count('--threads', values.threads, availableParallelism()),
    data: values.data,
    samples: count('--samples', values.samples, values.quick ? 8 : 200),
    python: values['no-python'] ? undefined : (values.python ?? 'python3'),
    llama: !values['no-llama'],
    cache: values.cache,
    out: values.out,
    plot: values.plot,
    help: values.help,
  };
}

function oneOf<T extends string>(option: string, value: string, known: readonly T[]): T {
  const found = known.find((name) => name === value);
  if (found === undefined) throw new UsageError(`${option} '${value}' is not known; there are ${known.join(', ')}`);
  return found;
}

function count(option: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`Expected a whole number of at least 1 for ${option}, not '${text ?? ''}'`);
  return value;
}
