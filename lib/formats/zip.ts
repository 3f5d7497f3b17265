import { NeoXPrefixError } from '../base/errors';
import type { FileReader } from '../base/files';

/** APPNOTE.TXT, the ZIP file format specification, sections 4.3.7 to 4.3.16 and 4.5.3. */
const LOCAL_HEADER = 0x04034b50;
const CENTRAL_ENTRY = 0x02014b50;
const END_RECORD = 0x06054b50;
const END_RECORD_64 = 0x06064b50;
const END_LOCATOR_64 = 0x07064b50;
const ZIP64_EXTRA = 0x0001;
const END_RECORD_SIZE = 22;
const LOCATOR_SIZE = 20;

const MAX_DIRECTORY = 64 * 1024 * 1024;

export interface ZipEntry {
  readonly name: string;
  /** Bytes of the entry, in the archive and unpacked. */
  readonly size: number;
  readonly unpackedSize: number;
  /** 0: stored as it is. */
  readonly method: number;
  /** Where its local header starts. */
  readonly headerOffset: number;
}

/** An entry in its place: its bytes end before `limit`, where the next entry or the directory starts. */
interface PlacedEntry extends ZipEntry {
  readonly limit: number;
}

/**
 * The entries of an archive. Only those that are stored, not compressed, can be read: they can then be mapped in place.
 */
export class ZipDirectory {
  private constructor(
    private readonly reader: FileReader,
    readonly entries: ReadonlyMap<string, PlacedEntry>,
  ) {}

  /** @throws NEOX_BAD_CHECKPOINT for a damaged archive and for one with repeated or escaping names */
  static async open(reader: FileReader): Promise<ZipDirectory> {
    const { offset, size, count } = await findDirectory(reader);
    if (size > MAX_DIRECTORY)
      throw badZip(reader.path, `its directory takes ${size} bytes, expected at most ${MAX_DIRECTORY}`);
    if (offset + size > reader.size) throw badZip(reader.path, 'its directory reaches beyond the end of the file');
    const entries = parseDirectory(await reader.read(offset, size), count, reader.path);
    return new ZipDirectory(reader, placeEntries(entries, offset, reader.path));
  }

  /**
   * Where the bytes of an entry start in the file; its local header is read and compared with the directory.
   * @throws NEOX_BAD_CHECKPOINT for an entry that is compressed or encrypted, or whose headers disagree
   */
  async dataOffset(entry: PlacedEntry): Promise<number> {
    const bad = (problem: string): NeoXPrefixError =>
      badZip(this.reader.path, `the entry ${shorten(entry.name)} ${problem}`);
    if (entry.method !== 0 || entry.size !== entry.unpackedSize) {
      throw bad(`is compressed (method ${entry.method}); expected stored entries, as torch.save writes them`);
    }
    const header = await this.reader.read(entry.headerOffset, 30);
    if (header.readUInt32LE(0) !== LOCAL_HEADER) throw bad('has a damaged local header');
    const nameLength = header.readUInt16LE(26);
    const offset = entry.headerOffset + 30 + nameLength + header.readUInt16LE(28);
    if (offset + entry.size > entry.limit) throw bad('overlaps what is behind it');
    const name = await this.reader.read(entry.headerOffset + 30, nameLength);
    if (name.toString('utf8') !== entry.name) throw bad('has another name in its local header');
    return offset;
  }

  async read(entry: PlacedEntry, maxBytes: number): Promise<Buffer> {
    if (entry.size > maxBytes)
      throw badZip(
        this.reader.path,
        `the entry ${shorten(entry.name)} takes ${entry.size} bytes, expected at most ${maxBytes}`,
      );
    return this.reader.read(await this.dataOffset(entry), entry.size);
  }
}

/** The end record is the last thing in the file but for a comment; its 64-bit form lies before it. */
async function findDirectory(reader: FileReader): Promise<{ offset: number; size: number; count: number }> {
  const length = Math.min(reader.size, END_RECORD_SIZE + 0xffff);
  const tail = await reader.read(reader.size - length, length);
  let at = tail.length - END_RECORD_SIZE;
  while (
    at >= 0 &&
    !(tail.readUInt32LE(at) === END_RECORD && at + END_RECORD_SIZE + tail.readUInt16LE(at + 20) === tail.length)
  )
    at--;
  if (at < 0) throw badZip(reader.path, 'it has no directory at its end', 'the file is incomplete; fetch it again');
  const count = tail.readUInt16LE(at + 10);
  const size = tail.readUInt32LE(at + 12);
  const offset = tail.readUInt32LE(at + 16);
  const locatorAt = reader.size - length + at - LOCATOR_SIZE;
  if (locatorAt < 0) return { offset, size, count };
  const locator = await reader.read(locatorAt, LOCATOR_SIZE);
  if (locator.readUInt32LE(0) !== END_LOCATOR_64) return { offset, size, count };
  const recordAt = exact(locator.readBigUInt64LE(8), reader.path);
  if (recordAt + 56 > locatorAt) throw badZip(reader.path, 'its 64-bit end record is damaged');
  const record = await reader.read(recordAt, 56);
  if (record.readUInt32LE(0) !== END_RECORD_64) throw badZip(reader.path, 'its 64-bit end record is damaged');
  return {
    count: exact(record.readBigUInt64LE(32), reader.path),
    size: exact(record.readBigUInt64LE(40), reader.path),
    offset: exact(record.readBigUInt64LE(48), reader.path),
  };
}

function parseDirectory(bytes: Buffer, count: number, path: string): Map<string, ZipEntry> {
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  while (at < bytes.length) {
    if (at + 46 > bytes.length || bytes.readUInt32LE(at) !== CENTRAL_ENTRY)
      throw badZip(path, 'its directory is damaged');
    const nameEnd = at + 46 + bytes.readUInt16LE(at + 28);
    const extraEnd = nameEnd + bytes.readUInt16LE(at + 30);
    const next = extraEnd + bytes.readUInt16LE(at + 32);
    if (next > bytes.length) throw badZip(path, 'its directory is damaged');
    const name = bytes.toString('utf8', at + 46, nameEnd);
    const sizes = readSizes(bytes, at, bytes.subarray(nameEnd, extraEnd), path);
    checkEntry(name, bytes.readUInt16LE(at + 8), path);
    if (entries.has(name)) throw badZip(path, `the entry ${shorten(name)} is given twice`);
    entries.set(name, { name, method: bytes.readUInt16LE(at + 10), ...sizes });
    at = next;
  }
  if (entries.size !== count) throw badZip(path, `its directory states ${count} entries and has ${entries.size}`);
  return entries;
}

/**
 * Sizes of 4 GiB and more are in an extra field, which holds only those of the three that do not fit, in this order.
 */
function readSizes(
  bytes: Buffer,
  at: number,
  extra: Buffer,
  path: string,
): Pick<ZipEntry, 'size' | 'unpackedSize' | 'headerOffset'> {
  let wide: Buffer = Buffer.alloc(0);
  for (let e = 0; e + 4 <= extra.length; e += 4 + extra.readUInt16LE(e + 2)) {
    if (extra.readUInt16LE(e) === ZIP64_EXTRA) wide = extra.subarray(e + 4, e + 4 + extra.readUInt16LE(e + 2));
  }
  let used = 0;
  const widen = (value: number): number => {
    if (value !== 0xffffffff) return value;
    if (used + 8 > wide.length) throw badZip(path, 'its directory is damaged');
    used += 8;
    return exact(wide.readBigUInt64LE(used - 8), path);
  };
  const unpackedSize = widen(bytes.readUInt32LE(at + 24));
  const size = widen(bytes.readUInt32LE(at + 20));
  return { size, unpackedSize, headerOffset: widen(bytes.readUInt32LE(at + 42)) };
}

function checkEntry(name: string, flags: number, path: string): void {
  const bad = (problem: string): NeoXPrefixError => badZip(path, `the entry ${shorten(name)} ${problem}`);
  if (
    name === '' ||
    name.startsWith('/') ||
    name.includes('\\') ||
    name.includes('\0') ||
    name.split('/').includes('..')
  ) {
    throw bad('has a name that leads outside of the archive');
  }
  if ((flags & 1) !== 0) throw bad('is encrypted');
}

/** Checks that no entry shares bytes with another one or with the directory. */
function placeEntries(
  entries: ReadonlyMap<string, ZipEntry>,
  directoryOffset: number,
  path: string,
): Map<string, PlacedEntry> {
  const placed = new Map<string, PlacedEntry>();
  const sorted = [...entries.values()].sort((a, b) => a.headerOffset - b.headerOffset);
  let end = 0;
  for (const [i, entry] of sorted.entries()) {
    if (entry.headerOffset < end) throw badZip(path, `the entry ${shorten(entry.name)} overlaps another one`);
    end = entry.headerOffset + 30 + Buffer.byteLength(entry.name) + entry.size;
    placed.set(entry.name, {
      ...entry,
      limit: Math.min(sorted[i + 1]?.headerOffset ?? directoryOffset, directoryOffset),
    });
  }
  if (end > directoryOffset)
    throw badZip(path, 'its entries reach into its directory', 'the file is incomplete; fetch it again');
  return placed;
}

function exact(value: bigint, path: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER) / 2n) throw badZip(path, `a size or offset of ${value} bytes`);
  return Number(value);
}

function shorten(name: string): string {
  return JSON.stringify(name.slice(0, 100));
}

function badZip(path: string, problem: string, hint?: string): NeoXPrefixError {
  const message = `The archive ${path} is not usable: ${problem}`;
  return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', message, hint === undefined ? { path } : { path, hint });
}
