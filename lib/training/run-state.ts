import type { TrainerState } from '../../types/native';
import { NeoXPrefixError } from '../base/errors';
import { sha256 } from '../base/files';
import { get, isObject, parseJsonObject } from '../formats/json';
import { readSafetensorsHeader, type TensorToWrite, writeSafetensors } from '../formats/safetensors';
import { readTensor } from '../formats/values';
import type { PrefixEncoderState } from './encoder';
import type { Progress } from './run-position';

/** What makes two runs the same one: plain data, compared field by field by {@link describeDifference}. */
export type RunIdentity = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** All that a run needs to go on as if it had never stopped. */
export interface RunState {
  identity: RunIdentity;
  progress: Progress;
  /** Bytes of metrics.jsonl that belong to the steps so far. */
  metricsBytes: number;
  encoder: PrefixEncoderState;
  optimizer: TrainerState;
  /** [P, L, 2, N, D] of the best prefix so far; undefined before the first evaluation. */
  best: Float32Array | undefined;
}

const FORMAT_VERSION = 1;
const KEY = 'neox_prefix.training_state';

/** Writes a state as one safetensors file, atomically. Its metadata carry a SHA-256 over all that is in it. */
export async function writeRunState(path: string, state: RunState): Promise<void> {
  const { encoder, optimizer, best } = state;
  const flat = (name: string, data: Float32Array): TensorToWrite => ({
    name,
    dtype: 'F32',
    shape: [data.length],
    data,
  });
  const tensors: TensorToWrite[] = [
    ...Object.entries(encoder).map(([name, { data, shape }]) => ({
      name: `encoder.${name}`,
      dtype: 'F32' as const,
      shape,
      data,
    })),
    flat('adamw.mean', optimizer.mean),
    flat('adamw.square', optimizer.square),
    ...(optimizer.gradient === null ? [] : [flat('gradient', optimizer.gradient)]),
    ...(best === undefined ? [] : [flat('best', best)]),
  ];
  const { steps, loss, tokens } = optimizer;
  const json = JSON.stringify({
    formatVersion: FORMAT_VERSION,
    ...{
      identity: state.identity,
      progress: state.progress,
      metricsBytes: state.metricsBytes,
      optimizer: { steps, loss, tokens },
    },
  });
  await writeSafetensors(path, tensors, { [KEY]: json, 'neox_prefix.sha256': digest(json, tensors) });
}

/**
 * Reads and checks a state.
 * @throws NEOX_BAD_CHECKPOINT for a file that is damaged or none of these, NEOX_UNSUPPORTED for one of a later version
 */
export async function readRunState(path: string): Promise<RunState> {
  const header = await readSafetensorsHeader(path);
  const bad = (problem: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The training state ${path} is not usable: ${problem}`, { path });
  const json = header.metadata.get(KEY);
  if (json === undefined) throw bad(`expected ${KEY} in its metadata`);
  const parsed = parseJsonObject(Buffer.from(json), 'NEOX_BAD_CHECKPOINT', 'The training state', path);
  const version = get(parsed, 'formatVersion');
  if (version !== FORMAT_VERSION) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The training state ${path} has format ${String(version)}, expected ${FORMAT_VERSION}`,
      {
        path,
        hint: 'resume with the version of neox-prefix that wrote it',
      },
    );
  }
  const tensors = new Map<string, { data: Float32Array; shape: number[] }>();
  for (const [name, entry] of header.tensors)
    tensors.set(name, { data: await readTensor(entry), shape: [...entry.shape] });
  const inOrder = [...tensors].map(([name, { data }]) => ({ name, data }));
  if (digest(json, inOrder) !== header.metadata.get('neox_prefix.sha256'))
    throw bad('its content does not have the SHA-256 that it states');
  // From here on the content is what writeRunState wrote.
  const { identity, progress, metricsBytes, optimizer } = parsed as unknown as RunState;
  const tensor = (name: string): Float32Array | undefined => tensors.get(name)?.data;
  const [mean, square] = [tensor('adamw.mean'), tensor('adamw.square')];
  if (mean === undefined || square === undefined || !isObject(optimizer)) throw bad('it has no optimizer');
  const encoder = [...tensors]
    .filter(([name]) => name.startsWith('encoder.'))
    .map(([name, value]) => [name.slice(8), value] as const);
  return {
    ...{ identity, progress, metricsBytes, encoder: Object.fromEntries(encoder) },
    optimizer: { ...optimizer, mean, square, gradient: tensor('gradient') ?? null },
    best: tensor('best'),
  };
}

function digest(json: string, tensors: readonly { name: string; data: NodeJS.ArrayBufferView }[]): string {
  const sorted = [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));
  return sha256(json, ...sorted.flatMap(({ name, data }) => [name, data]));
}

/** Of a run; states from before there were lanes know none. */
export function lanesOf({ ranks }: RunIdentity): number {
  return typeof ranks?.['lanes'] === 'number' ? ranks['lanes'] : 1;
}

/**
 * Compares what a run was with what it is asked to be.
 * @returns undefined where they are the same, otherwise the first difference in words
 */
export function describeDifference(before: RunIdentity, now: RunIdentity): string | undefined {
  for (const group of new Set([...Object.keys(before), ...Object.keys(now)])) {
    const [old, given] = [before[group] ?? {}, now[group] ?? {}];
    for (const name of new Set([...Object.keys(old), ...Object.keys(given)])) {
      const [was, is] = [JSON.stringify(old[name]), JSON.stringify(given[name])];
      if (was !== is) return `${group}: ${name} was ${was ?? 'not given'} and is ${is ?? 'not given'}`;
    }
  }
  return undefined;
}
