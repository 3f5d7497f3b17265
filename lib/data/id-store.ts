import { ScratchFile } from './scratch-file';

/** Numbers in a piece of memory: 1 MiB. */
const PIECE = 2 ** 18;
/** Ranges with less than so many numbers between them are read at once... */
const GAP = 2 ** 13;
/** ... up to so many. */
const READ = 2 ** 20;
const READS_AT_ONCE = 16;

/** Where numbers stand in a store. */
export interface Range {
  first: number;
  count: number;
}

/** Many 32-bit numbers one behind the other: in memory, or from a limit on in a file. Appended to, then read. */
export class IdStore {
  private pieces: Int32Array[] = [];
  private used = PIECE;
  private file: ScratchFile | undefined;

  /** @param limit bytes that are kept in memory; more, and all goes into a file in `folder` */
  constructor(
    private readonly limit: number,
    private readonly folder: string,
  ) {}

  /** Whether the numbers are in a file. */
  get isOnDisk(): boolean {
    return this.file !== undefined;
  }

  /** The next call must wait for the promise, where there is one. */
  append(numbers: Int32Array): Promise<void> | undefined {
    if (numbers.length <= PIECE - this.used) {
      (this.pieces.at(-1) as Int32Array).set(numbers, this.used);
      this.used += numbers.length;
      return undefined;
    }
    return this.appendPieces(numbers);
  }

  /** To be called behind the last `append`. */
  async finish(): Promise<void> {
    const last = this.pieces.pop()?.slice(0, this.used);
    if (last !== undefined) this.pieces.push(last);
    if (this.file !== undefined || this.bytes > this.limit) await this.spill();
  }

  /** Reads ranges; those that are near each other with one access. */
  async read(ranges: readonly Range[]): Promise<Int32Array[]> {
    const { file } = this;
    if (file === undefined) return ranges.map(({ first, count }) => this.copy(first, count));
    const result = new Array<Int32Array>(ranges.length);
    const order = ranges.map((_, i) => i).sort((a, b) => (ranges[a] as Range).first - (ranges[b] as Range).first);
    const groups: (Range & { members: number[] })[] = [];
    for (const i of order) {
      const { first, count } = ranges[i] as Range;
      const group = groups.at(-1);
      const end = group === undefined ? 0 : group.first + group.count;
      if (group !== undefined && first - end <= GAP && first + count - group.first <= READ) {
        group.members.push(i);
        group.count = Math.max(end, first + count) - group.first;
      } else groups.push({ first, count, members: [i] });
    }
    for (let at = 0; at < groups.length; at += READS_AT_ONCE) {
      await Promise.all(
        groups.slice(at, at + READS_AT_ONCE).map(async (group) => {
          const numbers = await file.read(group.first, group.count);
          for (const i of group.members) {
            const { first, count } = ranges[i] as Range;
            result[i] = numbers.subarray(first - group.first, first - group.first + count);
          }
        }),
      );
    }
    return result;
  }

  readSync(first: number, count: number): Int32Array {
    return this.file === undefined ? this.copy(first, count) : this.file.readSync(first, count);
  }

  async close(): Promise<void> {
    const { file } = this;
    this.pieces = [];
    this.file = undefined;
    await file?.close();
  }

  private async appendPieces(numbers: Int32Array): Promise<void> {
    for (let done = 0; done < numbers.length;) {
      if (this.used === PIECE) {
        if (this.file !== undefined || this.bytes >= this.limit) await this.spill();
        this.pieces.push(new Int32Array(PIECE));
        this.used = 0;
      }
      const part = numbers.subarray(done, done + PIECE - this.used);
      (this.pieces.at(-1) as Int32Array).set(part, this.used);
      this.used += part.length;
      done += part.length;
    }
  }

  private get bytes(): number {
    return 4 * this.pieces.reduce((sum, piece) => sum + piece.length, 0);
  }

  private async spill(): Promise<void> {
    this.file ??= await ScratchFile.create(this.folder);
    for (const piece of this.pieces) await this.file.append(piece);
    this.pieces = [];
  }

  private copy(first: number, count: number): Int32Array {
    const result = new Int32Array(count);
    for (let done = 0; done < count;) {
      const at = first + done;
      const part = (this.pieces[Math.floor(at / PIECE)] as Int32Array).subarray(
        at % PIECE,
        (at % PIECE) + count - done,
      );
      result.set(part, done);
      done += part.length;
    }
    return result;
  }
}
