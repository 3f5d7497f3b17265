/** Wire types of the protobuf encoding that occur in a SentencePiece model. */
export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
export const FIXED32 = 5;

const scratchBytes = new Uint8Array(4);
const scratch = new DataView(scratchBytes.buffer);

/** Says what is wrong with the bytes; the caller turns it into an error that names the file. */
export class ProtobufError extends Error {}

/**
 * A forward reader over one protobuf message: `next()` steps to a field, then one of the `...Value()` methods reads
 * its value. Every read is checked against the end of the message, so hostile bytes give a
 * `ProtobufError` and never a read outside. Groups (deprecated) are refused.
 */
export class ProtobufReader {
  /** Field number of the current field. */
  field = 0;
  /** Wire type of the current field. */
  wire = 0;
  /** The last varint as a signed 32-bit integer, as protobuf reads an `int32`, `bool` or `enum`. */
  private int32 = 0;
  /** Where the value of the current field lies in `bytes`, unless it is a varint: [start, end). */
  start = 0;
  end = 0;

  constructor(
    readonly bytes: Uint8Array,
    private position = 0,
    private limit = bytes.length,
  ) {}

  /** Steps to the next field; false at the end of the message. */
  next(): boolean {
    if (this.position >= this.limit) return false;
    const tag = this.varint();
    this.field = tag >>> 3;
    this.wire = tag & 7;
    if (tag > 0xffffffff || this.field === 0)
      throw new ProtobufError(`the field number before byte ${this.position} is out of range`);
    switch (this.wire) {
      case VARINT:
        this.varint();
        return true;
      case FIXED64:
        return this.take(8);
      case FIXED32:
        return this.take(4);
      case BYTES:
        return this.take(this.varint());
      default:
        throw new ProtobufError(`wire type ${this.wire} at byte ${this.position} is not supported`);
    }
  }

  /**
   * A reader over the current length-delimited field; `reuse` is a reader of the same bytes to set on it, where there
   * are many.
   */
  message(reuse?: ProtobufReader): ProtobufReader {
    this.expect(BYTES);
    if (reuse === undefined) return new ProtobufReader(this.bytes, this.start, this.end);
    reuse.position = this.start;
    reuse.limit = this.end;
    return reuse;
  }

  /** The current length-delimited field, a view of the file's bytes. */
  bytesValue(): Uint8Array {
    this.expect(BYTES);
    return this.bytes.subarray(this.start, this.end);
  }

  floatValue(): number {
    this.expect(FIXED32);
    for (let i = 0; i < 4; i++) scratchBytes[i] = this.bytes[this.start + i] as number;
    return scratch.getFloat32(0, true);
  }

  int32Value(): number {
    this.expect(VARINT);
    return this.int32;
  }

  boolValue(): boolean {
    this.expect(VARINT);
    return this.int32 !== 0;
  }

  /** Refuses the current field unless it has this wire type. */
  expect(wire: number): void {
    if (this.wire !== wire) throw new ProtobufError(`field ${this.field} has wire type ${this.wire}, expected ${wire}`);
  }

  private take(length: number): true {
    if (length > this.limit - this.position) {
      throw new ProtobufError(
        `field ${this.field} at byte ${this.position} needs ${length} bytes but only ${this.limit - this.position} are left`,
      );
    }
    this.start = this.position;
    this.end = this.position += length;
    return true;
  }

  /** Reads a varint; returns it as a number (exact below 2^53, enough to refuse what is larger) and sets `int32`. */
  private varint(): number {
    const first = this.bytes[this.position] as number;
    if (first < 0x80 && this.position < this.limit) {
      this.position++;
      this.int32 = first;
      return first;
    }
    let value = 0;
    let low = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.position < this.limit ? this.bytes[this.position++] : undefined;
      if (byte === undefined) throw new ProtobufError(`the message ends inside a number at byte ${this.position}`);
      value += (byte & 0x7f) * 2 ** shift;
      if (shift < 32) low |= (byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.int32 = low;
        return value;
      }
    }
    throw new ProtobufError(`a number at byte ${this.position} is longer than 10 bytes`);
  }
}
