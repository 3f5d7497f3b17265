import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { basename } from 'node:path';
import type { TrainingEvent } from '../../../lib/runs/events';
import { TensorBoardWriter } from '../../../lib/runs/tensorboard';
import { crc32c } from '../../../lib/runs/tfevents';
import { expectRefusal, failureOf, temporaryFolder, wrong } from '../../helpers';

const folder = temporaryFolder();

/** An independent reader: bit by bit, from the definitions of TFRecord and protobuf. */
function crcBitwise(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    for (let bit = 0; bit < 8; bit++) {
      const carry = (crc ^ (byte >> bit)) & 1;
      crc = (crc >>> 1) ^ (carry ? 0x82f63b78 : 0);
    }
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function unmasked(crc: number): number {
  const rotated = (crc - 0xa282ead8) >>> 0;
  return ((rotated << 15) | (rotated >>> 17)) >>> 0;
}

type Field = { field: number; wire: number; varint?: bigint; bytes?: Buffer };

function fieldsOf(data: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++]!;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < data.length) {
    const tag = Number(varint());
    const [field, wire] = [tag >> 3, tag & 7];
    if (wire === 0) fields.push({ field, wire, varint: varint() });
    else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
      fields.push({ field, wire, bytes: data.subarray(at, (at += length)) });
    }
  }
  if (at !== data.length) throw new Error('a field passes the end');
  return fields;
}

interface Parsed {
  wallTime: number;
  step: number;
  fileVersion?: string;
  scalars: Record<string, number>;
  texts: Record<string, string>;
}

function parse(path: string): Parsed[] {
  const file = readFileSync(path);
  const events: Parsed[] = [];
  for (let at = 0; at < file.length;) {
    const length = Number(file.readBigUInt64LE(at));
    const data = file.subarray(at + 12, at + 12 + length);
    if (unmasked(file.readUInt32LE(at + 8)) !== crcBitwise(file.subarray(at, at + 8)))
      throw new Error(`length at ${at}`);
    if (unmasked(file.readUInt32LE(at + 12 + length)) !== crcBitwise(data)) throw new Error(`record at ${at}`);
    at += length + 16;
    const event: Parsed = { wallTime: NaN, step: 0, scalars: {}, texts: {} };
    for (const { field, varint, bytes } of fieldsOf(data)) {
      if (field === 1) event.wallTime = bytes!.readDoubleLE();
      if (field === 2) event.step = Number(varint);
      if (field === 3) event.fileVersion = bytes!.toString();
      if (field === 5) for (const value of fieldsOf(bytes!)) addValue(event, value.bytes!);
    }
    events.push(event);
  }
  return events;
}

function addValue(event: Parsed, data: Buffer): void {
  const fields = fieldsOf(data);
  const of = (number: number, among = fields): Buffer | undefined => among.find(({ field }) => field === number)?.bytes;
  const tag = of(1)!.toString();
  const scalar = of(2);
  if (scalar !== undefined) {
    if (tag in event.scalars) throw new Error(`${tag} twice`);
    event.scalars[tag] = scalar.readFloatLE();
  }
  const tensor = of(8);
  if (tensor === undefined) return;
  const plugin = fieldsOf(of(1, fieldsOf(of(9)!))!);
  expect(of(1, plugin)!.toString()).toBe('text');
  const parts = fieldsOf(tensor);
  expect(parts.find(({ field }) => field === 1)?.varint).toBe(7n);
  // [1]
  expect(fieldsOf(of(2, fieldsOf(of(2, parts)!))!)).toEqual([{ field: 1, wire: 0, varint: 1n }]);
  event.texts[tag] = of(8, parts)!.toString();
}

const f32 = Math.fround;

function step(number: number, more: Partial<Extract<TrainingEvent, { type: 'step' }>> = {}): TrainingEvent {
  const numbers = { loss: 2 / number, tokens: 100, learningRate: 1e-3, gradNorm: 0.5, tokensPerSecond: 4000.5 };
  const state = { seconds: 10 * number, etaSeconds: 5, memoryBytes: 3_000_000_001, applied: true };
  return { type: 'step', step: number, epoch: 1, ...numbers, ...state, ...more };
}

const EVENTS: TrainingEvent[] = [
  {
    ...{ type: 'start', totalSteps: 3, stepsPerEpoch: 3, epochs: 1, trainSamples: 12, validationSamples: 2 },
    ...{ trainableParameters: 1000, initError: undefined, predictedMemoryBytes: 1e9, microBatchSize: 4 },
  },
  { type: 'prefix', step: 0, epoch: 0, keyNorms: [1.5, 2.5], valueNorms: [0.25, 0.125] },
  step(1),
  step(2, { lossScale: 65536, gradNorm: Infinity, applied: false }),
  step(300),
  {
    ...{
      type: 'evaluation',
      step: 300,
      epoch: 1,
      best: true,
      loss: 1.25,
      perplexity: Math.exp(1.25),
      accuracy: 0.75,
      tokens: 50,
    },
    ...{ seconds: 3002.5, metrics: { smileys: 0.9, loss: 99 } },
  },
  { type: 'checkpoint', step: 300, epoch: 1, kind: 'best', path: 'best.safetensors' },
  { type: 'end', reason: 'steps', step: 300, epoch: 1, seconds: 3003, bestStep: 300 },
];

async function written(name: string, options = {}): Promise<TensorBoardWriter> {
  const writer = await TensorBoardWriter.create(folder.join(name), options);
  for (const event of EVENTS) writer.event(event);
  await writer.close();
  return writer;
}

test('CRC-32C of the vectors of RFC 3720, B.4', () => {
  const vectors: [Uint8Array, number][] = [
    [new Uint8Array(32), 0x8a9136aa],
    [new Uint8Array(32).fill(0xff), 0x62a8ab43],
    [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    [Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    [Buffer.from('123456789'), 0xe3069283],
    [new Uint8Array(0), 0],
  ];
  for (const [data, crc] of vectors) {
    expect(crc32c(data)).toBe(crc);
    expect(crcBitwise(data)).toBe(crc);
  }
});

test('the events of a run give scalars under their names, with steps and wall times', async () => {
  const { path } = await written('run', {
    startTime: 1_700_000_000,
    recipe: { name: 'a|b <c>', learningRate: 1e-8, epochs: 3 },
  });
  expect(basename(path)).toMatch(new RegExp(`^events\\.out\\.tfevents\\.\\d{10}\\.[\\w.-]+\\.${process.pid}\\.\\d+$`));
  const [version, recipe, prefix, first, overflowed, last, evaluation, ...more] = parse(path);
  expect(more).toEqual([]);
  expect(version).toEqual({ wallTime: 1_700_000_000, step: 0, fileVersion: 'brain.Event:2', scalars: {}, texts: {} });
  expect(recipe!.texts).toEqual({
    'hparams/recipe':
      '| option | value |\n| --- | --- |\n| name | a\\|b &lt;c\\> |\n| learningRate | 1e\\-8 |\n| epochs | 3 |',
  });
  expect(prefix).toMatchObject({ step: 0, wallTime: 1_700_000_000 });
  expect(prefix!.scalars).toEqual({
    ...{ 'prefix/key_norm/layer_0': 1.5, 'prefix/key_norm/layer_1': 2.5 },
    ...{ 'prefix/value_norm/layer_0': 0.25, 'prefix/value_norm/layer_1': 0.125 },
  });
  expect(first).toEqual({
    ...{ wallTime: 1_700_000_010, step: 1, texts: {} },
    scalars: {
      ...{
        'train/loss': 2,
        'train/perplexity': f32(Math.exp(2)),
        'train/learning_rate': f32(1e-3),
        'train/grad_norm': 0.5,
      },
      ...{ 'train/tokens_per_second': 4000.5, 'train/memory_bytes': f32(3_000_000_001) },
    },
  });
  expect(overflowed!.scalars).toMatchObject({ 'train/loss_scale': 65536, 'train/grad_norm': NaN });
  expect(last).toMatchObject({ step: 300, wallTime: 1_700_003_000 });
  expect(evaluation).toEqual({
    ...{ wallTime: 1_700_003_002.5, step: 300, texts: {} },
    // The metric of the user's that takes a name of ours does not hide ours.
    scalars: {
      ...{
        'validation/loss': 1.25,
        'validation/perplexity': f32(Math.exp(1.25)),
        'validation/accuracy': 0.75,
        'validation/smileys': f32(0.9),
      },
    },
  });
});

test('numbers of any size are written as they are', async () => {
  const writer = await TensorBoardWriter.create(folder.join('large'));
  const steps = [0, 1, 127, 128, 16_383, 16_384, 2 ** 31, 2 ** 32 + 5, Number.MAX_SAFE_INTEGER];
  for (const number of steps)
    writer.event({ type: 'prefix', step: number, epoch: 1, keyNorms: [number], valueNorms: [] });
  await writer.close();
  const events = parse(writer.path).slice(1);
  expect(events.map((event) => event.step)).toEqual(steps);
  expect(events.map(({ scalars }) => scalars['prefix/key_norm/layer_0'])).toEqual(steps.map(f32));
});

test('what is buffered is written by flush, in order, and more than a buffer without it', async () => {
  const writer = await TensorBoardWriter.create(folder.join('flush'));
  for (let i = 1; i <= 5000; i++) writer.event(step(i));
  await new Promise((done) => setTimeout(done, 100));
  const early = parse(writer.path).length;
  expect(early).toBeGreaterThan(1000);
  expect(early).toBeLessThan(5001);
  await writer.flush();
  expect(
    parse(writer.path)
      .slice(1)
      .map((event) => event.step),
  ).toEqual(Array.from({ length: 5000 }, (_, i) => i + 1));
  await writer.close();
});

test('a failure to write shows at the next call', async () => {
  const writer = await TensorBoardWriter.create(folder.join('lost'));
  await (writer as unknown as { handle: FileHandle }).handle.close();
  writer.event(step(1));
  const expected = { code: 'NEOX_IO', message: expect.stringContaining(`Cannot write ${writer.path}: EBADF`) };
  expect(await failureOf(writer.flush())).toMatchObject(expected);
  expect(await failureOf(() => writer.event(step(2)))).toMatchObject(expected);
  expect(await failureOf(writer.close())).toMatchObject(expected);
});

describe('rebuild', () => {
  test('leaves one file, equal to one written at once, goes on with it and keeps the start time', async () => {
    const { path } = await written('resumed', { startTime: 1_600_000_000.25, recipe: { seed: 1 } });
    writeFileSync(folder.join('resumed', '.rebuild.0123456789ab.tmp'), 'left by a rebuild that did not end');
    writeFileSync(folder.join('resumed', 'notes.txt'), 'mine');
    // As they come out of metrics.jsonl.
    const kept = EVENTS.slice(0, 5).map((event) => JSON.parse(JSON.stringify(event)) as TrainingEvent);
    const writer = await TensorBoardWriter.rebuild(folder.join('resumed'), kept, { recipe: { seed: 1 } });
    expect(readdirSync(folder.join('resumed')).sort()).toEqual([basename(writer.path), 'notes.txt']);
    for (const event of EVENTS.slice(5)) writer.event(event);
    await writer.close();
    const whole = await written('whole', { startTime: 1_600_000_000.25, recipe: { seed: 1 } });
    expect(readFileSync(writer.path).equals(readFileSync(whole.path))).toBe(true);
    expect(writer.path).not.toBe(path);
  });

  test('takes events as they are read, and a start time of its own', async () => {
    async function* events(): AsyncGenerator<TrainingEvent> {
      for (const event of EVENTS) yield await Promise.resolve(event);
    }
    const writer = await TensorBoardWriter.rebuild(folder.join('new'), events(), { startTime: 5 });
    await writer.close();
    expect(parse(writer.path).map((event) => event.wallTime)).toEqual([5, 5, 15, 25, 3005, 3007.5]);
  });

  test('keeps the old file when the events end in an error, and leaves nothing else', async () => {
    const { path } = await written('broken');
    function* events(): Generator<TrainingEvent> {
      yield EVENTS[0]!;
      throw new Error('no more');
    }
    await expect(TensorBoardWriter.rebuild(folder.join('broken'), events())).rejects.toThrow('no more');
    expect(readdirSync(folder.join('broken'))).toEqual([basename(path)]);
  });

  test('a damaged old file does not keep it from working', async () => {
    mkdirSync(folder.join('damaged'));
    const names = ['1', '2', '3', '4'].map((n) => `events.out.tfevents.${n}.host.1.0`);
    const good = readFileSync((await written('good', { startTime: 77 })).path);
    const flipped = Buffer.from(good);
    flipped[14] = flipped[14]! ^ 1;
    for (const [i, data] of [Buffer.alloc(0), Buffer.alloc(40, 0xff), flipped, good].entries())
      writeFileSync(folder.join('damaged', names[i]!), data);
    const writer = await TensorBoardWriter.rebuild(folder.join('damaged'), []);
    await writer.close();
    expect(parse(writer.path).map((event) => event.wallTime)).toEqual([77]);
    expect(readdirSync(folder.join('damaged'))).toEqual([basename(writer.path)]);
  });
});

describe('what is refused', () => {
  test.each([
    [
      'a folder that is no string',
      () => TensorBoardWriter.create(wrong(3)),
      'Expected a non-empty string for folder but received 3 of type number',
    ],
    [
      'an unknown option',
      () => TensorBoardWriter.create('x', wrong({ starttime: 1 })),
      "Unknown option 'starttime' in options\nHint: did you mean 'startTime'?",
    ],
    [
      'a start time that is none',
      () => TensorBoardWriter.rebuild('x', [], { startTime: -1 }),
      'Expected a finite number of at least 0 for startTime but received -1 of type number',
    ],
    [
      'a recipe that is no object',
      () => TensorBoardWriter.create('x', { recipe: wrong('fast') }),
      "Expected an object for recipe but received 'fast' of type string",
    ],
  ])('%s', async (name, act, text) => expectRefusal({ name, act, text }));

  test('an event that is none, and one after the end', async () => {
    const writer = await TensorBoardWriter.create(folder.join('closed'));
    await expectRefusal({
      name: 'no event',
      act: () => writer.event(wrong(1)),
      text: 'Expected a training event for event but received 1 of type number\nHint: it is no event of a training run',
    });
    await expectRefusal({
      name: 'an event without its numbers',
      act: () => writer.event(wrong({ type: 'prefix', step: 1, epoch: 1, keyNorms: [1] })),
      text: "Expected a training event for event but received an object of type object\nHint: the event 'prefix' has no usable valueNorms",
    });
    await writer.close();
    await writer.close();
    await expectRefusal({
      name: 'closed',
      code: 'NEOX_DISPOSED',
      act: () => writer.event(step(1)),
      text: `The event file ${writer.path} is closed`,
    });
  });

  test('a folder that cannot be written', async () => {
    writeFileSync(folder.join('file'), '');
    expect(await failureOf(TensorBoardWriter.create(folder.join('file', 'x')))).toMatchObject({
      code: 'NEOX_IO',
      message: expect.stringContaining(`Cannot write ${folder.join('file', 'x')}: ENOTDIR`),
    });
  });
});
