import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NeoXPrefixError } from '../../lib/base/errors';
import type { NeoXModel } from '../../lib/neox-model';
import type { TrainingEvent } from '../../lib/runs/events';
import { native } from '../../lib/addon/addon';
import { PrefixTrainer, type TrainingData } from '../../lib/training/prefix-trainer';
import type { TrainerOptions } from '../../lib/training/recipe';
import type { TrainingResult } from '../../lib/training/training-run';
import { RESUMED_RUN, resumedData } from '../exit/programs/resumed-run';
import { failureOf, loadModel, Random, temporaryFolder, writeRandomModel } from '../helpers';

const folder = temporaryFolder();
let model: NeoXModel;
let path: string;

beforeAll(async () => {
  mkdirSync(folder.join('model'));
  path = await writeRandomModel(folder.join('model'), { max_position_embeddings: 64 }, 5);
  model = await loadModel(path, { threads: 1 });
  await train(folder.join('whole'));
});
afterAll(() => model.dispose());

interface Settings {
  options?: TrainerOptions;
  data?: TrainingData;
  resume?: boolean;
  signal?: AbortSignal;
  onEvent?: (event: TrainingEvent) => void;
}

function train(outputDir: string, { options, data, resume, ...rest }: Settings = {}): Promise<TrainingResult> {
  const trainer = new PrefixTrainer(model, { ...RESUMED_RUN, ...options, outputDir });
  return trainer.train(data ?? resumedData(), { ...(resume === undefined ? {} : { resume }), ...rest });
}

const PREFIXES = ['best.safetensors', 'last.safetensors', 'encoder.safetensors'];
const bytesOf = (run: string): Buffer[] => PREFIXES.map((name) => readFileSync(join(run, name)));
const lines = (run: string): TrainingEvent[] =>
  readFileSync(join(run, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as TrainingEvent);
/** What a run did, without times and memory. */
const steps = (run: string): unknown[] =>
  lines(run)
    .filter(({ type }) => ['step', 'evaluation', 'epoch'].includes(type))
    .map((event) => ({ ...event, seconds: 0, etaSeconds: 0, memoryBytes: 0, tokensPerSecond: 0 }));
const states = (run: string): string[] => readdirSync(run).filter((name) => name.startsWith('state-'));

/** Stops a run after so many turns of the event loop's timers, which fall anywhere in a step. */
async function stopAfter(turns: number, run: string): Promise<boolean> {
  const controller = new AbortController();
  let count = 0;
  const timer = setInterval(() => ++count >= turns && controller.abort('stop'), 0);
  try {
    await train(run, { resume: true, signal: controller.signal });
    return true;
  } catch (error) {
    expect(error).toBe('stop');
    return false;
  } finally {
    clearInterval(timer);
  }
}

test('a run that is stopped again and again, at any moment, ends in the bytes of one that is not', async () => {
  const run = folder.join('stopped');
  const random = new Random(9);
  let stops = 0;
  // Later and later, so that it ends also on a busy machine, where the first milliseconds go by before the first step.
  while (!(await stopAfter(random.integer(1, 12 + 3 * stops), run))) stops++;
  expect(stops).toBeGreaterThan(3);
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
  expect(steps(run)).toEqual(steps(folder.join('whole')));
});

// A step is two batches, and each of them two micro-batches.
test.each([
  { call: 'trainerAccumulate', times: 1, hasGradient: true },
  { call: 'trainerAccumulate', times: 2, hasGradient: true },
  { call: 'trainerAccumulate', times: 3, hasGradient: true },
  { call: 'trainerAccumulate', times: 4, hasGradient: true },
  { call: 'trainerStep', times: 1, hasGradient: false },
] as const)('a run is stopped behind $call, $times of it, and goes on there', async ({ call, times, hasGradient }) => {
  const run = folder.join(`${call}-${times}`);
  const controller = new AbortController();
  const original = native()[call] as (...args: unknown[]) => Promise<unknown>;
  let count = 0;
  const spy = jest.spyOn(native(), call).mockImplementation((async (...args: unknown[]) => {
    const result = await original(...args);
    if (++count === times) controller.abort('stop');
    return result;
  }) as never);
  expect(await failureOf(train(run, { signal: controller.signal }))).toBe('stop');
  spy.mockRestore();
  const text = readFileSync(join(run, states(run).sort().at(-1) as string), 'latin1');
  expect(/"gradient":\{/.test(text)).toBe(hasGradient);
  await train(run, { resume: true });
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
});

test('the result of a resumed run is that of the whole one', async () => {
  const run = folder.join('result');
  const controller = new AbortController();
  const onEvent = ({ type, step }: { type: string; step?: number }): void => {
    if (type === 'step' && step === 4) controller.abort('stop');
  };
  expect(await failureOf(train(run, { signal: controller.signal, onEvent }))).toBe('stop');
  const { best, last, epochs, bestEpoch, bestStep, bestLoss, reason } = await train(run, { resume: true });
  const whole = await train(folder.join('again'));
  expect({ best: best.hash, last: last.hash }).toEqual({ best: whole.best.hash, last: whole.last.hash });
  expect({ epochs, bestEpoch, bestStep, bestLoss, reason }).toEqual({
    ...{ epochs: whole.epochs, bestEpoch: whole.bestEpoch, bestStep: whole.bestStep },
    ...{ bestLoss: whole.bestLoss, reason: whole.reason },
  });
});

test('a run that is done gives its result once more, and goes on when it may have more epochs', async () => {
  const run = folder.join('done');
  const options = { decaySteps: 'trainingSteps' as const, epochs: 2 };
  const first = await train(run, { options });
  const events: string[] = [];
  const again = await train(run, { options, resume: true, onEvent: ({ type }) => events.push(type) });
  expect(events).not.toContain('step');
  expect([again.best.hash, again.last.hash, again.steps]).toEqual([first.best.hash, first.last.hash, first.steps]);
  const more = await train(run, { options: { ...options, epochs: 3 }, resume: true });
  const straight = await train(folder.join('straight'), { options: { ...options, epochs: 3 } });
  expect([more.best.hash, more.last.hash, more.steps]).toEqual([
    straight.best.hash,
    straight.last.hash,
    straight.steps,
  ]);
});

function child(run: string, shell = ''): { killed: (afterLines: number) => Promise<number | null> } {
  const program = join(__dirname, '..', 'exit', 'programs', 'train.ts');
  const args = [process.execPath, '-r', join(__dirname, '..', 'typescript.cjs'), program, path, run];
  const process_ = spawn('bash', ['-c', `${shell}exec "$@"`, 'bash', ...args], {
    stdio: ['ignore', 'pipe', shell === '' ? 'inherit' : 'ignore'],
  });
  return {
    killed: (afterLines) =>
      new Promise((resolve, reject) => {
        let seen = 0;
        process_.stdout.on('data', (chunk: Buffer) => {
          seen += chunk.toString().split('\n').length - 1;
          if (seen >= afterLines) process_.kill('SIGKILL');
        });
        process_.on('error', reject).on('close', (code) => resolve(code));
      }),
  };
}

test('kill -9, and again: the same bytes', async () => {
  const run = folder.join('killed');
  const random = new Random(4);
  let kills = 0;
  for (const most of [3, 9, 9, 9, Infinity, Infinity]) {
    const code = await child(run).killed(most === Infinity ? Infinity : random.integer(1, most));
    if (code === 0) break;
    kills++;
  }
  expect(kills).toBeGreaterThanOrEqual(3);
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
  expect(steps(run)).toEqual(steps(folder.join('whole')));
  expect(existsSync(join(run, 'run.lock'))).toBe(false);
  expect(readdirSync(run).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});

test('a disk that is full when a state is saved: an error, and all that was saved before is there', async () => {
  const run = folder.join('full');
  await child(run).killed(12);
  const before = states(run).map((name) => readFileSync(join(run, name)));
  expect(before.length).toBeGreaterThan(0);
  const largest = Math.max(...before.map(({ length }) => length));
  // No file may grow beyond half a state; the signal that says so is ignored, as it is where a disk is full.
  expect(await child(run, `trap '' XFSZ; ulimit -f ${Math.floor(largest / 2048)}; `).killed(Infinity)).toBe(1);
  expect(states(run).map((name) => readFileSync(join(run, name)))).toEqual(expect.arrayContaining(before));
  expect(readdirSync(run).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  expect(await child(run).killed(Infinity)).toBe(0);
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
});

describe('what cannot go on', () => {
  const stopped = folder.join('refused');
  beforeAll(() => cpSync(folder.join('whole'), stopped, { recursive: true }));
  const data = resumedData();
  test.each<[string, Settings, string]>([
    ['another recipe', { options: { learningRate: 1e-3 } }, 'recipe: learningRate was 0.05 and is 0.001'],
    ['another encoder', { options: { hiddenDim: 7 } }, 'encoder: hiddenDim was 6 and is 7'],
    ['epochs that the schedule depends on', { options: { epochs: 9 } }, 'recipe: epochs was 3 and is 9'],
    ['fewer samples', { data: { ...data, train: data.train.slice(1) } }, 'data: train was "'],
    ['no validation', { data: { train: data.train } }, 'data: validation was "'],
  ])('%s', async (_, settings, text) => {
    const before = readdirSync(stopped).map((name) => [name, readFileSync(join(stopped, name)).toString('base64')]);
    const error = await failureOf(train(stopped, { ...settings, resume: true }));
    expect(error).toMatchObject({ code: 'NEOX_RESUME_MISMATCH', path: stopped });
    expect((error as Error).message).toContain(`The run cannot go on as it is another one: ${text}`);
    expect(readdirSync(stopped).map((name) => [name, readFileSync(join(stopped, name)).toString('base64')])).toEqual(
      before,
    );
  });

  test('another model', async () => {
    mkdirSync(folder.join('other'));
    const other = await loadModel(await writeRandomModel(folder.join('other'), { max_position_embeddings: 64 }, 6));
    const error = await failureOf(
      new PrefixTrainer(other, { ...RESUMED_RUN, outputDir: stopped }).train(data, { resume: true }),
    );
    expect((error as Error).message).toContain('model: fingerprint was "');
    await other.dispose();
  });
});

test('a folder that has a run is neither replaced nor resumed unless that is said', async () => {
  const run = folder.join('guarded');
  cpSync(folder.join('whole'), run, { recursive: true });
  writeFileSync(join(run, 'notes.txt'), 'mine');
  expect(await failureOf(train(run))).toMatchObject({
    code: 'NEOX_BAD_ARGUMENT',
    hint: expect.stringContaining('resume: true') as string,
  });
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
  const trainer = new PrefixTrainer(model, { ...RESUMED_RUN, epochs: 1, outputDir: run });
  const { steps: taken } = await trainer.train(resumedData(), { overwrite: true });
  expect(lines(run).filter(({ type }) => type === 'step')).toHaveLength(taken);
  expect(readFileSync(join(run, 'notes.txt'), 'utf8')).toBe('mine');
});

test('a state that is damaged is passed over for the one before; where there is no other, that is an error', async () => {
  const run = folder.join('damaged');
  cpSync(folder.join('whole'), run, { recursive: true });
  const [older, newer] = states(run).sort() as [string, string];
  truncateSync(join(run, newer), 1000);
  const events: TrainingEvent[] = [];
  const { last } = await train(run, { resume: true, onEvent: (event) => events.push(event) });
  expect(events[0]).toMatchObject({ type: 'resume', from: join(run, older) });
  expect(events.some(({ type }) => type === 'step')).toBe(true);
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
  expect(last.prefixLength).toBe(4);
  for (const name of states(run)) {
    const bytes = readFileSync(join(run, name));
    bytes[bytes.length - 3] = (bytes[bytes.length - 3] as number) ^ 1;
    writeFileSync(join(run, name), bytes);
  }
  const error = await failureOf(train(run, { resume: true }));
  const hint = 'put back a copy of a state, or set `overwrite: true` to begin the run anew';
  expect(error).toMatchObject({ code: 'NEOX_BAD_CHECKPOINT', path: run, hint });
  const [left, ...others] = states(run) as [string, ...string[]];
  const why = (name: string): string =>
    `The training state ${join(run, name)} is not usable: its content does not have the SHA-256 that it states`;
  expect((error as Error).message).toContain(
    `None of the 2 states of the run in ${run} is whole. The training state ${run}/state-0000`,
  );
  for (const name of others) rmSync(join(run, name));
  const only = await failureOf(train(run, { resume: true }));
  expect((only as Error).message).toContain(`The only state of the run in ${run} is not whole. ${why(left)}`);
});

test('so many states are kept, and the manifest has every file with its size and SHA-256', async () => {
  const run = folder.join('kept');
  await train(run, { options: { keepStates: 3 } });
  expect(states(run)).toHaveLength(3);
  const { files } = JSON.parse(readFileSync(join(run, 'manifest.json'), 'utf8')) as {
    files: Record<string, { bytes: number; sha256: string }>;
  };
  expect(Object.keys(files).sort()).toEqual(expect.arrayContaining([...PREFIXES, ...states(run), 'recipe.json']));
  for (const [name, { bytes, sha256 }] of Object.entries(files)) {
    const content = readFileSync(join(run, name));
    expect([name, content.length, createHash('sha256').update(content).digest('hex')]).toEqual([name, bytes, sha256]);
  }
});

test('two runs do not share a folder', async () => {
  const run = folder.join('shared');
  // Two that begin at once may get the folder in either order, so the second waits until the first has it.
  let first: Promise<TrainingResult> | undefined;
  await new Promise<void>((resolve, reject) => {
    first = train(run, { onEvent: ({ type }) => type === 'start' && resolve() });
    first.catch(reject);
  });
  const error = await failureOf(train(run, { resume: true }));
  expect(error).toMatchObject({
    code: 'NEOX_BUSY',
    message: expect.stringContaining(`process ${process.pid}`) as string,
  });
  await first;
  expect(readdirSync(run).filter((name) => name.includes('lock'))).toEqual([]);
  expect(bytesOf(run)).toEqual(bytesOf(folder.join('whole')));
  // What a killed process leaves: a lock of a process that is not there any more.
  writeFileSync(join(run, 'run.lock'), JSON.stringify({ pid: process.pid, process: 'a boot ago:1:1' }));
  await train(run, { resume: true });
});

test('a run folder that cannot be made is an error before the first step', async () => {
  writeFileSync(folder.join('file'), '');
  const error = await failureOf(train(folder.join('file', 'run')));
  expect(error).toBeInstanceOf(NeoXPrefixError);
  expect(error).toMatchObject({ code: 'NEOX_IO' });
  rmSync(folder.join('file'));
});
