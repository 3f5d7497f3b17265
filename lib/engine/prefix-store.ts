import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type * as Native from '../../types/native';
import { badArgument, checkInteger, checkOptions, checkPath, checkString, nearest } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { makeFolder } from '../base/files';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import { PrefixWeights } from '../prefix/weights';

/** How much a {@link PrefixStore} keeps in memory, and where the rest goes. */
export interface PrefixStoreOptions {
  /**
   * Most bytes of prefixes in memory. What was used least recently leaves it, to be read again when it is asked for. A
   * prefix counts the form that attention reads, in the model's `computeDtype`; one that was added as PrefixWeights
   * counts its float32 values too, until they are in the spill folder. Defaults to no limit.
   */
  maxBytes?: number;
  /**
   * A folder for the values of prefixes that were added as PrefixWeights, which is made when memory is short. Without
   * one these stay in memory. Those that were added as a file are read from that file again. `dispose` deletes what is
   * in it. Defaults to none.
   */
  spillFolder?: string;
}

/** What a store knows of a prefix. */
export interface StoredPrefix {
  /** What requests call it. */
  readonly name: string;
  /** Its identity: SHA-256 of its shape and values. The same name has another one after `replace`. */
  readonly hash: string;
  /** Fingerprint of the base model that the store is for. */
  readonly baseModelFingerprint: string;
  /** P, in tokens. */
  readonly prefixLength: number;
  /** Of memory that it takes now, as {@link PrefixStoreOptions.maxBytes} counts them; 0 when it has left memory. */
  readonly bytes: number;
  /** Whether it is in memory now, in the form that attention reads. */
  readonly inMemory: boolean;
  /** Whether it stays there whatever else is asked for. */
  readonly pinned: boolean;
  /** The file that it was added as, absolute. */
  readonly path?: string;
}

/** A prefix as it was when somebody asked for it: what becomes of its name later does not change it. */
export interface HeldPrefix {
  readonly prefixLength: number;
  /** The form that attention reads. */
  load(): Promise<Native.Prefix>;
}

interface Entry extends HeldPrefix {
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

const MAX_NAME = 256;

/**
 * Prefixes of one base model by name, for requests that name theirs: more of them than memory has room for, exchanged
 * while requests run.
 *
 * ```ts
 * const prefixes = new PrefixStore(model, { maxBytes: 64e6, spillFolder: 'spill' });
 * await prefixes.add('smile', 'smile.safetensors');
 * const engine = new GenerationEngine(model, { prefixes });
 * await engine.generate({ prompt: '今日は', prefix: 'smile' });
 * ```
 *
 * A request keeps the prefix that its name meant when it was made. Whatever a store gives out is the prefix that was
 * added, by its hash, or an error; never another one and never none.
 *
 * In memory is the form that attention reads; the float32 values besides only for as long as no file has them.
 */
export class PrefixStore {
  private readonly maxBytes: number;
  private readonly spillFolder: string | undefined;
  private readonly entries = new Map<string, Entry>();
  /** Names whose prefix is being read. */
  private readonly arriving = new Set<string>();
  /** What is in memory, least recently used first. */
  private readonly resident = new Set<Entry>();
  private bytes = 0;
  /** The end of the last shrinking: one at a time. */
  private shrinking: Promise<void> = Promise.resolve();
  /**
   * The end of the last exchange: one at a time. A name that two gave another prefix, neither of which fits, has to
   * have its old one again.
   */
  private putting: Promise<unknown> = Promise.resolve();
  private disposing: Promise<void> | undefined;

  /** @throws NEOX_BAD_ARGUMENT */
  constructor(
    private readonly model: LoadedModel,
    options: PrefixStoreOptions = {},
  ) {
    checkModel(model);
    checkOptions('options', options, ['maxBytes', 'spillFolder']);
    this.maxBytes = options.maxBytes === undefined ? Infinity : checkInteger('maxBytes', options.maxBytes, 1);
    // Absolute, as the paths of files: they are read when a prefix has left memory, wherever the process is by then.
    this.spillFolder =
      options.spillFolder === undefined ? undefined : resolve(checkPath('spillFolder', options.spillFolder));
  }

  /**
   * Adds a prefix, or the file of one, under a name that is free.
   * @throws NEOX_BAD_ARGUMENT for a name that is taken; what PrefixWeights.load throws; NEOX_PREFIX_MISMATCH;
   *   NEOX_TOO_LONG where the model has no position left for text; NEOX_OUT_OF_MEMORY when it does not fit and nothing
   *   can leave; NEOX_DISPOSED when the store or the model is
   */
  async add(name: string, source: PrefixWeights | string): Promise<StoredPrefix> {
    this.checkAlive();
    checkName(name);
    if (this.entries.has(name) || this.arriving.has(name)) {
      throw badArgument('name', 'a name that is free', name, 'replace() gives a name another prefix');
    }
    this.arriving.add(name);
    try {
      return await this.put(name, source);
    } finally {
      this.arriving.delete(name);
    }
  }

  /**
   * Gives a name another prefix. Requests that were made before keep the one they have; the old one serves until the
   * new one is read.
   * @throws as `add`; NEOX_BAD_ARGUMENT for a name that there is not
   */
  async replace(name: string, source: PrefixWeights | string): Promise<StoredPrefix> {
    this.entry(name);
    return this.put(name, source, () => this.entry(name));
  }

  /**
   * The prefix of a name: the same object for as long as somebody has it, else read from its file. As a request does,
   * this brings it into memory.
   * @throws NEOX_BAD_ARGUMENT for a name that there is not; NEOX_BAD_PREFIX when its file is another one now, or what
   *   PrefixWeights.load throws; NEOX_DISPOSED when the store is, or it has left memory and the model is
   */
  async get(name: string): Promise<PrefixWeights> {
    return this.weights(this.entry(name));
  }

  /** Whether there is a prefix of this name. */
  has(name: string): boolean {
    return this.entries.has(name);
  }

  /** All prefixes, in the order of their names. */
  list(): StoredPrefix[] {
    return [...this.entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1)).map((entry) => this.describe(entry));
  }

  /**
   * Takes a prefix out. Requests that were made before keep it.
   * @throws NEOX_BAD_ARGUMENT for a name that there is not
   */
  async remove(name: string): Promise<void> {
    const entry = this.entry(name);
    this.entries.delete(name);
    await this.discard(entry);
  }

  /**
   * Reads a prefix, if it has left memory, and keeps it there whatever else comes, `maxBytes` too: others leave for it.
   * @throws as `get`; it is not pinned then
   */
  async pin(name: string): Promise<void> {
    const entry = this.entry(name);
    const before = entry.pinned;
    entry.pinned = true;
    try {
      await entry.load();
    } catch (error) {
      entry.pinned = before;
      throw error;
    }
  }

  /** Lets a prefix leave memory again. */
  async unpin(name: string): Promise<void> {
    this.entry(name).pinned = false;
    await this.shrink();
  }

  /**
   * Forgets all prefixes and deletes the files of the spill folder that are this store's. Repeated calls give the same
   * promise.
   */
  dispose(): Promise<void> {
    this.disposing ??= this.release();
    return this.disposing;
  }

  /** {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * The prefix that a name means now.
   * @internal
   */
  hold(name: string): HeldPrefix {
    return this.entry(name);
  }

  /**
   * Whether the prefixes are for this model.
   * @internal
   */
  serves(model: LoadedModel): boolean {
    return model === this.model;
  }

  private async put(
    name: string,
    source: PrefixWeights | string,
    check: () => void = () => undefined,
  ): Promise<StoredPrefix> {
    const entry = await this.take(name, source);
    const done = this.putting.then(() => this.exchange(entry, check));
    this.putting = done.catch(() => undefined);
    return done;
  }

  private async exchange(entry: Entry, check: () => void): Promise<StoredPrefix> {
    const { name } = entry;
    this.checkAlive();
    check();
    // From here on the name means the new one; should it not fit, the old one again.
    const old = this.entries.get(name);
    const kept = old && { handle: old.handle, values: old.values };
    if (old !== undefined) this.drop(old);
    entry.pinned = old?.pinned ?? false;
    this.entries.set(name, entry);
    try {
      this.note(entry, entry.handle, entry.values);
      await this.shrink();
      // It may have left memory again; where it could not, and nothing else could, there is no room for it.
      if (this.bytes > this.maxBytes && this.resident.has(entry)) throw this.fullError(entry);
      this.checkAlive();
    } catch (error) {
      await this.undo(entry, old, kept);
      throw error;
    }
    if (old !== undefined) await this.discard(old);
    return this.describe(entry);
  }

  /**
   * A prefix that no name means yet and nothing counts. Of a file's values nothing is left when this returns but the
   * form of them.
   */
  private async take(name: string, source: PrefixWeights | string): Promise<Entry> {
    const path = typeof source === 'string' ? resolve(checkPath('source', source)) : undefined;
    if (typeof source !== 'string' && !(source instanceof PrefixWeights))
      throw badArgument('source', 'PrefixWeights or a path', source);
    const own = typeof source === 'string' ? undefined : source;
    const weights = own ?? (await PrefixWeights.load(path as string, { config: this.model }));
    checkLength(`The prefix '${name}' with a token of text`, weights.prefixLength + 1, this.model.config);
    const entry: Entry = {
      name,
      handle: await this.model.prefixHandle(weights),
      hash: weights.hash,
      prefixLength: weights.prefixLength,
      size: weights.data.length,
      path,
      pinned: false,
      values: own,
      bytes: 0,
      given: own && new WeakRef(own),
      reading: undefined,
      spilled: undefined,
      load: () => this.load(entry),
    };
    return entry;
  }

  private async undo(
    entry: Entry,
    old: Entry | undefined,
    kept: Pick<Entry, 'handle' | 'values'> | undefined,
  ): Promise<void> {
    const others = [entry];
    if (this.entries.get(entry.name) !== entry) {
      // The name means something else by now, or nothing.
      if (old !== undefined) others.push(old);
    } else if (old === undefined) {
      this.entries.delete(entry.name);
    } else {
      this.entries.set(entry.name, old);
      this.note(old, kept?.handle, kept?.values);
    }
    for (const other of others) await this.discard(other);
  }

  private fullError({ name, bytes }: Entry): NeoXPrefixError {
    const left = Math.max(0, this.maxBytes - this.bytes + bytes);
    return new NeoXPrefixError(
      'NEOX_OUT_OF_MEMORY',
      `The prefix '${name}' takes ${bytes} bytes, and the store has ${left} of ${this.maxBytes} left`,
      { hint: 'raise maxBytes, unpin some, or give the store a spillFolder' },
    );
  }

  private async load(entry: Entry): Promise<Native.Prefix> {
    if (entry.handle === undefined) return this.model.prefixHandle(await this.weights(entry));
    this.touch(entry);
    return entry.handle;
  }

  /** The values of a prefix, which is in memory then; the model knows the form of them. */
  private weights(entry: Entry): Promise<PrefixWeights> {
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
    if (this.entries.get(entry.name) === entry) {
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
  private note(entry: Entry, handle: Native.Prefix | undefined, values?: PrefixWeights): void {
    this.bytes -= entry.bytes;
    entry.handle = handle;
    entry.values = fileOf(entry) === undefined ? values : undefined;
    const perNumber = this.model.computeDtype === 'float32' ? 4 : 2;
    entry.bytes = entry.size * ((handle === undefined ? 0 : perNumber) + (entry.values === undefined ? 0 : 4));
    this.bytes += entry.bytes;
    if (handle === undefined) this.resident.delete(entry);
    else this.resident.add(entry);
  }

  /** Notes that a prefix that is in memory was used now. */
  private touch(entry: Entry): void {
    if (this.resident.delete(entry)) this.resident.add(entry);
  }

  private drop(entry: Entry): void {
    this.note(entry, undefined);
  }

  private shrink(): Promise<void> {
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
  private async discard(entry: Entry): Promise<void> {
    this.drop(entry);
    await this.shrinking;
    await entry.reading?.catch(() => undefined);
    if (entry.spilled !== undefined) await rm(entry.spilled, { force: true });
  }

  private async release(): Promise<void> {
    const all = [...this.entries.values()];
    this.entries.clear();
    for (const entry of all) await this.discard(entry);
  }

  private describe({ name, hash, prefixLength, bytes, path, pinned, handle }: Entry): StoredPrefix {
    const known = {
      name,
      hash,
      baseModelFingerprint: this.model.fingerprint,
      prefixLength,
      bytes,
      inMemory: handle !== undefined,
      pinned,
    };
    return path === undefined ? known : { ...known, path };
  }

  private entry(name: string): Entry {
    this.checkAlive();
    const entry = this.entries.get(checkString('name', name));
    if (entry !== undefined) return entry;
    const names = [...this.entries.keys()];
    const near = nearest(name, names);
    throw badArgument(
      'name',
      'the name of a prefix of the store',
      name,
      near === undefined
        ? `it has ${names.length === 0 ? 'none' : names.sort().slice(0, 10).join(', ')}`
        : `did you mean '${near}'?`,
    );
  }

  private checkAlive(): void {
    if (this.disposing !== undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This prefix store is disposed');
  }
}

/** The file that has its values, if one has them. */
function fileOf({ path, spilled }: Entry): string | undefined {
  return path ?? spilled;
}

function checkName(name: unknown): void {
  const text = checkString('name', name);
  if (text.length > MAX_NAME || /\p{Cc}/u.test(text)) {
    throw badArgument('name', `a name of at most ${MAX_NAME} characters, none of which is a control character,`, name);
  }
}
