import { BYTES, FIXED32, FIXED64, ProtobufReader, VARINT } from '../formats/protobuf';

/**
 * The bytes of TensorBoard's event files: TFRecord frames (tensorflow/core/lib/io/record_writer.h) around Event
 * messages (tensorboard/compat/proto/event.proto, summary.proto, tensor.proto).
 */

/** Lengths (8 bytes) and its checksum (4) stand in front of a record, the record's checksum (4) behind it. */
const FRAME_HEAD = 12;
const FRAME_TAIL = 4;

/** One of an event's values. */
export type SummaryValue = { tag: string; scalar: number } | { tag: string; text: string };

export interface EventRecord {
  /** Seconds since 1970. */
  wallTime: number;
  step?: number;
  fileVersion?: string;
  values?: readonly SummaryValue[];
}

/** An event as it stands in a file. */
export function encodeEvent({ wallTime, step, fileVersion, values }: EventRecord): Buffer {
  return frame(
    message([
      float64(1, wallTime),
      ...(step === undefined ? [] : [varint(2, step)]),
      ...(fileVersion === undefined ? [] : [bytes(3, Buffer.from(fileVersion))]),
      ...(values === undefined ? [] : [bytes(5, message(values.map((value) => bytes(1, encodeValue(value)))))]),
    ]),
  );
}

function encodeValue(value: SummaryValue): Buffer {
  const tag = bytes(1, Buffer.from(value.tag));
  if ('scalar' in value) return message([tag, float32(2, value.scalar)]);
  const DT_STRING = 7;
  const shape = bytes(2, varint(1, 1));
  const tensor = message([varint(1, DT_STRING), bytes(2, shape), bytes(8, Buffer.from(value.text))]);
  const pluginData = bytes(1, Buffer.from('text'));
  return message([tag, bytes(8, tensor), bytes(9, bytes(1, pluginData))]);
}

/**
 * The wall time of the first event of a file, from the file's first bytes; undefined when they hold none that is whole.
 */
export function firstWallTime(start: Buffer): number | undefined {
  if (start.length < FRAME_HEAD) return undefined;
  const length = Number(start.readBigUInt64LE(0));
  if (length > start.length - FRAME_HEAD - FRAME_TAIL) return undefined;
  const data = start.subarray(FRAME_HEAD, FRAME_HEAD + length);
  if (start.readUInt32LE(FRAME_HEAD + length) !== masked(crc32c(data))) return undefined;
  const reader = new ProtobufReader(data);
  return reader.next() && reader.field === 1 && reader.wire === FIXED64 ? data.readDoubleLE(reader.start) : undefined;
}

function frame(data: Buffer): Buffer {
  const framed = Buffer.alloc(FRAME_HEAD + data.length + FRAME_TAIL);
  framed.writeBigUInt64LE(BigInt(data.length), 0);
  framed.writeUInt32LE(masked(crc32c(framed.subarray(0, 8))), 8);
  data.copy(framed, FRAME_HEAD);
  framed.writeUInt32LE(masked(crc32c(data)), FRAME_HEAD + data.length);
  return framed;
}

/** A checksum of data that itself holds checksums would be weak; so they are stored like this. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli; RFC 3720, appendix B.4). */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] as number);
  return ~crc >>> 0;
}

// Fields of a protobuf message.

function message(fields: readonly Buffer[]): Buffer {
  return Buffer.concat(fields);
}

function varint(field: number, value: number): Buffer {
  return Buffer.from([(field << 3) | VARINT, ...varintBytes(value)]);
}

function bytes(field: number, data: Buffer): Buffer {
  return Buffer.concat([Buffer.from([(field << 3) | BYTES, ...varintBytes(data.length)]), data]);
}

function float32(field: number, value: number): Buffer {
  const result = Buffer.from([(field << 3) | FIXED32, 0, 0, 0, 0]);
  result.writeFloatLE(value, 1);
  return result;
}

function float64(field: number, value: number): Buffer {
  const result = Buffer.from([(field << 3) | FIXED64, 0, 0, 0, 0, 0, 0, 0, 0]);
  result.writeDoubleLE(value, 1);
  return result;
}

/** A whole number below 2^53, seven bits a byte, the lowest first. */
function varintBytes(value: number): number[] {
  const result: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) result.push((value % 0x80) | 0x80);
  result.push(value);
  return result;
}
