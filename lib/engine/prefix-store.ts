import { resolve } from 'node:path';
import { badArgument, checkInteger, checkOptions, checkPath, checkString, nearest, show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { checkModel, type LoadedModel } from '../model/loaded-model';
import { checkLength } from '../model/rows';
import { PrefixWeights } from '../prefix/weights';
import { type Entry, type HeldPrefix, ResidentPrefixes } from './resident-prefixes';

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
  private readonly resident: ResidentPrefixes;
  private readonly entries = new Map<string, Entry>();
  /** Names whose prefix is being read. */
  private readonly arriving = new Set<string>();
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
    const maxBytes = options.maxBytes === undefined ? Infinity : checkInteger('maxBytes', options.maxBytes, 1);
    // Absolute, as the paths of files: they are read when a prefix has left memory, wherever the process is by then.
    const spillFolder =
      options.spillFolder === undefined ? undefined : resolve(checkPath('spillFolder', options.spillFolder));
    this.resident = new ResidentPrefixes(
      model,
      maxBytes,
      spillFolder,
      (entry) => this.entries.get(entry.name) === entry,
    );
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
   * @throws as `add`; NEOX_UNKNOWN_PREFIX for a name that there is not
   */
  async replace(name: string, source: PrefixWeights | string): Promise<StoredPrefix> {
    this.entry(name);
    return this.put(name, source, () => this.entry(name));
  }

  /**
   * The prefix of a name: the same object for as long as somebody has it, else read from its file. As a request does,
   * this brings it into memory.
   * @throws NEOX_UNKNOWN_PREFIX for a name that there is not; NEOX_BAD_PREFIX when its file is another one now, or what
   *   PrefixWeights.load throws; NEOX_DISPOSED when the store is, or it has left memory and the model is
   */
  async get(name: string): Promise<PrefixWeights> {
    return this.resident.weights(this.entry(name));
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
   * @throws NEOX_UNKNOWN_PREFIX for a name that there is not
   */
  async remove(name: string): Promise<void> {
    const entry = this.entry(name);
    this.entries.delete(name);
    await this.resident.discard(entry);
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
    await this.resident.shrink();
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
    if (old !== undefined) this.resident.drop(old);
    entry.pinned = old?.pinned ?? false;
    this.entries.set(name, entry);
    try {
      await this.resident.admit(entry, entry.values);
      this.checkAlive();
    } catch (error) {
      await this.undo(entry, old, kept);
      throw error;
    }
    if (old !== undefined) await this.resident.discard(old);
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
      load: () => this.resident.load(entry),
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
      this.resident.note(old, kept?.handle, kept?.values);
    }
    for (const other of others) await this.resident.discard(other);
  }

  private async release(): Promise<void> {
    const all = [...this.entries.values()];
    this.entries.clear();
    for (const entry of all) await this.resident.discard(entry);
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
    throw new NeoXPrefixError('NEOX_UNKNOWN_PREFIX', `The store has no prefix ${show(name)}`, {
      hint:
        near === undefined
          ? `it has ${names.length === 0 ? 'none' : names.sort().slice(0, 10).join(', ')}`
          : `did you mean '${near}'?`,
    });
  }

  private checkAlive(): void {
    if (this.disposing !== undefined) throw new NeoXPrefixError('NEOX_DISPOSED', 'This prefix store is disposed');
  }
}

function checkName(name: unknown): void {
  const text = checkString('name', name);
  if (text.length > MAX_NAME || /\p{Cc}/u.test(text)) {
    throw badArgument('name', `a name of at most ${MAX_NAME} characters, none of which is a control character,`, name);
  }
}
