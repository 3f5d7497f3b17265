// Who is measured, and who is not and why.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ggufPath } from './gguf.mts';
import type { Options } from './options.mts';
import { LIMITS, type Limit, type Operation } from './protocol.mts';

const here = import.meta.dirname;
const root = join(here, '..');
const runTypeScript = [process.execPath, join(root, 'scripts', 'run-typescript.mjs')];

export type Family = 'neox-prefix' | 'PEFT' | 'rinna' | 'llama.cpp';

export interface Peer {
  readonly name: string;
  readonly family: Family;
  /** What it computes in: float32 is compared with float32, all others with our bfloat16. */
  readonly precision: 'float32' | 'half';
  /** What it multiplies; undefined: nothing is known of it. */
  readonly products?: 'float32' | 'bfloat16' | 'int8';
  readonly command: readonly string[];
  /** A program of its own that prints one token as soon as it has it. */
  readonly firstToken?: (model: string, threads: number) => readonly string[];
  readonly operations: readonly Operation[];
  /** Memory of a weight, as it is read for each token. */
  readonly bytesPerWeight: number;
  /** How far a log probability may lie from our float32, and the peer still count as computing the same. */
  readonly tolerance: number;
  /** Measured on the large model too. */
  readonly large: boolean;
}

/** Measures the machine rather than a model. */
export interface Gauge {
  readonly name: string;
  readonly command: readonly string[];
  readonly limits: readonly Limit[];
}

export interface Roster {
  peers: Peer[];
  limits: Gauge[];
  /** Peers that are not there, and why. */
  missing: string[];
}

const INFERENCE: readonly Operation[] = ['load', 'check', 'prefill', 'decode'];
const OWN: readonly Operation[] = [...INFERENCE, 'train', 'epoch', 'requests'];

function neox(dtype: 'float32' | 'bfloat16' | 'int8', backend: 'auto' | 'aten'): Peer {
  const isDefault = backend === 'auto';
  return {
    name: `neox-prefix ${dtype}${isDefault ? '' : `, ${backend}`}`,
    family: 'neox-prefix',
    precision: dtype === 'float32' ? 'float32' : 'half',
    products: dtype,
    command: [...runTypeScript, join(here, 'peers', 'neox.mts'), dtype, backend],
    firstToken: (model, threads) => [
      process.execPath,
      join(here, 'first-token', 'neox.mjs'),
      model,
      dtype,
      backend,
      String(threads),
    ],
    operations:
      dtype === 'int8' ? [...INFERENCE, 'train', 'epoch'] : isDefault ? [...OWN, 'export', 'stream', 'lateness'] : OWN,
    bytesPerWeight: { float32: 4, bfloat16: 2, int8: 1 }[dtype],
    tolerance: { float32: 1e-3, bfloat16: 0.3, int8: 0.5 }[dtype],
    large: dtype !== 'float32' && isDefault,
  };
}

function python(
  path: string,
  kind: 'peft' | 'rinna',
  dtype: 'float32' | 'bfloat16',
  attention: 'eager' | 'sdpa',
): Peer {
  return {
    name: kind === 'peft' ? `transformers + PEFT ${dtype}, ${attention}` : `rinna's recipe ${dtype}`,
    family: kind === 'peft' ? 'PEFT' : 'rinna',
    precision: dtype === 'float32' ? 'float32' : 'half',
    products: dtype,
    command: [path, join(here, 'peers', 'reference.py'), kind, dtype, attention],
    ...(kind === 'rinna'
      ? { operations: ['load', 'check', 'train', 'epoch'] }
      : {
          firstToken: (model, threads) => [
            path,
            join(here, 'first-token', 'reference.py'),
            model,
            dtype,
            attention,
            String(threads),
          ],
          operations: OWN,
        }),
    bytesPerWeight: dtype === 'float32' ? 4 : 2,
    tolerance: dtype === 'float32' ? 1e-3 : 0.3,
    large: dtype === 'bfloat16' && attention === 'sdpa',
  };
}

function llama(type: 'F16' | 'Q8_0'): Peer {
  return {
    name: `llama.cpp ${type}`,
    family: 'llama.cpp',
    precision: 'half',
    command: [...runTypeScript, join(here, 'peers', 'llama.mts'), type],
    firstToken: (model, threads) => [
      process.execPath,
      join(here, 'first-token', 'llama.mjs'),
      ggufPath(model, type),
      String(threads),
    ],
    operations: INFERENCE,
    bytesPerWeight: type === 'F16' ? 2 : 34 / 32,
    // llama.cpp's GELU is the tanh form, from a table in float16.
    tolerance: type === 'F16' ? 0.1 : 0.5,
    large: true,
  };
}

export function findPeers(options: Options): Roster {
  const roster: Roster = {
    peers: [
      neox('float32', 'auto'),
      neox('float32', 'aten'),
      neox('bfloat16', 'auto'),
      neox('bfloat16', 'aten'),
      neox('int8', 'auto'),
    ],
    limits: [],
    missing: [],
  };
  const limits = join(root, 'build', 'cmake', 'neox_limits');
  if (existsSync(limits)) roster.limits.push({ name: 'libtorch and our kernels', command: [limits], limits: LIMITS });
  else
    roster.missing.push(
      'the limits by libtorch and our kernels: run `node scripts/build.mjs --native --target neox_limits`',
    );

  const path = options.python;
  const why = path === undefined ? '--no-python' : whyNoPython(path);
  if (path === undefined || why !== undefined) {
    roster.missing.push(`transformers + PEFT and rinna's recipe: ${why ?? ''}`);
  } else {
    roster.limits.push({
      name: 'torch in Python',
      command: [path, join(here, 'peers', 'reference.py'), 'peft', 'float32', 'eager'],
      // It has no products with int8 weights to compare.
      limits: LIMITS.filter((what) => what !== 'int8'),
    });
    roster.peers.push(
      python(path, 'peft', 'float32', 'eager'),
      python(path, 'peft', 'float32', 'sdpa'),
      python(path, 'peft', 'bfloat16', 'eager'),
      python(path, 'peft', 'bfloat16', 'sdpa'),
      python(path, 'rinna', 'float32', 'eager'),
    );
  }

  if (!options.llama) roster.missing.push('llama.cpp: --no-llama');
  else if (!existsSync(join(here, 'node_modules', 'node-llama-cpp')))
    roster.missing.push('llama.cpp: run `npm install --prefix bench --omit=optional --ignore-scripts`');
  else roster.peers.push(llama('F16'), llama('Q8_0'));
  const { peers } = options;
  if (peers !== undefined) {
    const names = roster.peers.map(({ name }) => name);
    // A whole name means that peer alone, also where it is the beginning of another one.
    roster.peers = roster.peers.filter(({ name }) =>
      peers.some((part) => (names.includes(part) ? name === part : name.includes(part))),
    );
  }
  return roster;
}

function whyNoPython(path: string): string | undefined {
  const { status, error, stderr } = spawnSync(path, ['-c', 'import torch, transformers, peft'], {
    encoding: 'utf8',
    timeout: 120_000,
  });
  if (error !== undefined) return `${path} could not be run (${error.message}); --python PATH names another one`;
  return status === 0
    ? undefined
    : `${path}: ${stderr.trim().split('\n').at(-1) ?? ''}; --python PATH names another one`;
}
