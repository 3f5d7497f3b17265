import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type * as Native from '../../types/native';
import { NeoXPrefixError } from '../base/errors';
import { makeFolder } from '../base/files';
import { COMPUTE_BYTES } from '../formats/tensor';
import type { LoadedModel } from '../model/loaded-model';
import { PrefixWeights } from '../prefix/weights';

/** A prefix as it was when somebody asked for it: what becomes of its name later does not change it. */
export interface HeldPrefix {
  readonly prefixLength: number;
  /** The form that attention reads. */
  load(): Promise<Native.Prefix>;
}

/** A prefix of a store, in memory or not. */
export interface Entry extends HeldPrefix {
  readonly name: string;
  readonly hash: string;
  /** How many numbers it is. */
  readonly size: number;
  readonly path: string | undefined;
  pinned: boolean;
  /** The form that attention reads, if it is in memory. */
  handle: Native.Prefix | undefined;
  /** Its values, for as long as it is in memory and no file has them. */
  values: PrefixWeights | undefined;
  /** What the two take. */
  bytes: number;
  /** Its values, for as long as somebody else has them. */
  given: WeakRef<PrefixWeights> | undefined;
  reading: Promise<PrefixWeights> | undefined;
  /** Its file in the spill folder, once that is written. */
  spilled: string | undefined;
}

/**
 * Which prefixes of a store are in memory. What was used least recently leaves it when there is more than `maxBytes`,
 * to be read again from its file; values that no file has are written to the spill folder first.
 */
export class ResidentPrefixes {
  /** What is in memory, least recently used first. */
  private readonly resident = new Set<Entry>();
  private bytes = 0;
  /** The end of the last shrinking: one at a time. */
  private shrinking: Promise<void> = Promise.resolve();

  /** @param isNamed whether a name of the store means the prefix; what none means is not kept */
  constructor(
    private readonly model: LoadedModel,
    private readonly maxBytes: number,
    private readonly spillFolder: string | undefined,
    private readonly isNamed: (entry: Entry) => boolean,
  ) {}

  /**
   * Brings a new prefix into memory, and others out of it where there is no room.
   * @throws NEOX_OUT_OF_MEMORY when it does not fit and nothing can leave
   */
  async admit(entry: Entry, values: PrefixWeights | undefined): Promise<void> {
    this.note(entry, entry.handle, values);
    await this.shrink();
    // It may have left memory again; where it could not, and nothing else could, there is no room for it.
    if (this.bytes <= this.maxBytes || !this.resident.has(entry)) return;
    const { name, bytes } = entry;
    const left = Math.max(0, this.maxBytes - this.bytes + bytes);
    throw new NeoXPrefixError(
      'NEOX_OUT_OF_MEMORY',
      `The prefix '${name}' takes ${bytes} bytes, and the store has ${left} of ${this.maxBytes} left`,
      { hint: 'raise maxBytes, unpin some, or give the store a spillFolder' },
    );
  }

  /** The form that attention reads. */
  async load(entry: Entry): Promise<Native.Prefix> {
    if (entry.handle === undefined) return this.model.prefixHandle(await this.weights(entry));
    this.touch(entry);
    return entry.handle;
  }

  /** The values of a prefix, which is in memory then; the model knows the form of them. */
  weights(entry: Entry): Promise<PrefixWeights> {
    const known = entry.values ?? entry.given?.deref();
    if (known !== undefined && entry.handle !== undefined) {
      this.touch(entry);
      return Promise.resolve(known);
    }
    entry.reading ??= this.read(entry, known).finally(() => (entry.reading = undefined));
    return entry.reading;
  }

  private async read(entry: Entry, known: PrefixWeights | undefined): Promise<PrefixWeights> {
    const weights = known ?? (await this.readFile(entry));
    // One form for all objects that have the same values.
    if (entry.handle !== undefined) this.model.adoptPrefixHandle(weights, entry.handle);
    const handle = await this.model.prefixHandle(weights);
    if (this.isNamed(entry)) {
      this.note(entry, handle);
      this.touch(entry);
      // Who asked for a prefix has it, wherever others can be written.
      await this.shrink().catch(() => undefined);
    }
    return weights;
  }

  private async readFile(entry: Entry): Promise<PrefixWeights> {
    const path = fileOf(entry) ?? '';
    // It was found to fit when it was added, and must be what it was then.
    const weights = await PrefixWeights.load(path, { config: this.model, allowFingerprintMismatch: true });
    if (weights.hash !== entry.hash) {
      throw new NeoXPrefixError(
        'NEOX_BAD_PREFIX',
        `${path} is not the prefix '${entry.name}' any more: its values have changed`,
        {
          path,
          hint: 'replace() takes the file as it is now',
        },
      );
    }
    entry.given = new WeakRef(weights);
    return weights;
  }

  /** Notes what of a prefix is in memory from now on, and counts it. Values that a file has are not kept. */
  note(entry: Entry, handle: Native.Prefix | undefined, values?: PrefixWeights): void {
    this.bytes -= entry.bytes;
    entry.handle = handle;
    entry.values = fileOf(entry) === undefined ? values : undefined;
    const perNumber = COMPUTE_BYTES[this.model.computeDtype];
    entry.bytes = entry.size * ((handle === undefined ? 0 : perNumber) + (entry.values === undefined ? 0 : 4));
    this.bytes += entry.bytes;
    if (handle === undefined) this.resident.delete(entry);
    else this.resident.add(entry);
  }

  /** Notes that a prefix that is in memory was used now. */
  private touch(entry: Entry): void {
    if (this.resident.delete(entry)) this.resident.add(entry);
  }

  /** Takes a prefix out of memory. */
  drop(entry: Entry): void {
    this.note(entry, undefined);
  }

  /** Takes prefixes out of memory until `maxBytes` is kept, if that can be. */
  shrink(): Promise<void> {
    this.shrinking = this.shrinking.then(() => this.shrinkNow());
    const done = this.shrinking;
    // What failed is told to whoever asked; the next one tries again.
    this.shrinking = done.catch(() => undefined);
    return done;
  }

  private async shrinkNow(): Promise<void> {
    const writing = this.spillValues();
    await writing.catch(() => undefined);
    for (const entry of this.resident) {
      if (this.bytes <= this.maxBytes) return;
      if (!entry.pinned && entry.values === undefined) this.drop(entry);
    }
    // That the folder cannot be written matters where there is no room without it.
    if (this.bytes > this.maxBytes) await writing;
  }

  /** Those of pinned prefixes and of prefixes that come meanwhile too: requests need none. */
  private async spillValues(): Promise<void> {
    for (const entry of this.resident) {
      if (this.bytes <= this.maxBytes || this.spillFolder === undefined) return;
      if (entry.values !== undefined) await this.spill(entry, entry.values, this.spillFolder);
    }
  }

  private async spill(entry: Entry, values: PrefixWeights, folder: string): Promise<void> {
    // A name of its own: nobody else deletes the file.
    const path = join(folder, `${entry.hash.slice(0, 32)}-${randomBytes(4).toString('hex')}.safetensors`);
    await makeFolder(folder);
    await values.save(path);
    entry.spilled = path;
    // It may have been taken out meanwhile: what is in memory of it now stays.
    this.note(entry, entry.handle);
  }

  /** Forgets a prefix that no name means any more, and its file, behind whoever reads that. */
  async discard(entry: Entry): Promise<void> {
    this.drop(entry);
    await this.shrinking;
    await entry.reading?.catch(() => undefined);
    if (entry.spilled !== undefined) await rm(entry.spilled, { force: true });
  }
}

/** The file that has its values, if one has them. */
function fileOf({ path, spilled }: Entry): string | undefined {
  return path ?? spilled;
}
