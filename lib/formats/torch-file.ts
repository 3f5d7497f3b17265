import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { FileReader } from '../base/files';
import { PickleDict, type PickleRules, PickleTruncated, type PickleValue, Unpickler } from './pickle';
import { foreignFormat } from './safetensors';
import type { TensorEntry } from './tensor';
import { StorageTable, TorchTensor, isAllowedGlobal } from './torch-objects';
import { ZipDirectory } from './zip';

const MAX_PICKLE = 64 * 1024 * 1024;
const FIRST_WINDOW = 1024 * 1024;

/** torch/serialization.py: what the files of torch before 1.6 start with. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/** The content of a file written by torch.save. */
export interface TorchFile {
  /** Absolute path. */
  readonly path: string;
  /** FileReader.identity. */
  readonly identity: string;
  readonly format: 'zip' | 'legacy';
  /** What was saved: tensors are TorchTensor; dictionaries, lists and tuples are those of pickle.ts. */
  readonly root: PickleValue;
}

/**
 * Reads a file written by torch.save, of any version, without executing anything and without reading the tensors: they
 * come back as places in the file.
 * @throws NEOX_UNSUPPORTED for a file that holds more than tensors in dictionaries, lists and tuples, naming what was
 *   found; NEOX_BAD_CHECKPOINT for a damaged file
 */
export async function readTorchFile(path: string): Promise<TorchFile> {
  return FileReader.use(path, async (reader) => {
    const start = await reader.read(0, Math.min(reader.size, 32));
    if (start.length >= 4 && start.readUInt32LE(0) === 0x04034b50) return readZipFile(reader);
    if (start[0] === 0x80 && start[1] === 2) return readLegacyFile(reader);
    const foreign = foreignFormat(start);
    throw badFile(
      reader.path,
      `it is ${foreign?.what ?? 'no PyTorch file'}; expected a zip archive or a pickle`,
      foreign?.hint,
    );
  });
}

/** The tensors of a saved state dict, also when it is wrapped as `{"model": ...}` or `{"state_dict": ...}`. */
export async function readStateDict(path: string): Promise<Map<string, TensorEntry>> {
  const file = await readTorchFile(path);
  let root = file.root;
  for (const key of ['model', 'state_dict', 'module']) {
    const inner = root instanceof PickleDict ? root.items.get(key) : undefined;
    if (inner instanceof PickleDict) root = inner;
  }
  if (!(root instanceof PickleDict)) {
    const found = root instanceof TorchTensor ? 'a single tensor' : 'something else';
    throw badFile(file.path, `expected a dictionary of tensors, found ${found}`);
  }
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of root.items) {
    if (value instanceof TorchTensor) tensors.set(String(name), entryOf(value, String(name), file));
  }
  if (tensors.size === 0) throw badFile(file.path, 'it holds no tensors');
  return tensors;
}

/** Where a tensor of a file lies. */
export function entryOf(tensor: TorchTensor, name: string, { identity }: TorchFile): TensorEntry {
  return { ...tensor.entry(name), identity };
}

async function readZipFile(reader: FileReader): Promise<TorchFile> {
  const zip = await ZipDirectory.open(reader);
  const pickles = [...zip.entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  const pickleName = pickles[0];
  if (pickleName === undefined || pickles.length > 1) {
    throw badFile(reader.path, `expected one entry */data.pkl in the archive, found ${pickles.length}`);
  }
  const folder = pickleName.slice(0, -'data.pkl'.length);
  const record = (name: string): ReturnType<typeof zip.entries.get> => zip.entries.get(folder + name);
  if (record('constants.pkl') !== undefined) {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `${reader.path} is a TorchScript program, not a file of tensors`, {
      path: reader.path,
      hint: 'save the state_dict with torch.save, or as safetensors',
    });
  }
  const byteorder = record('byteorder');
  if (byteorder !== undefined && (await zip.read(byteorder, 64)).toString('latin1') !== 'little') {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `${reader.path} was saved on a big-endian machine`, {
      path: reader.path,
    });
  }
  const pickle = await zip.read(zip.entries.get(pickleName) as NonNullable<ReturnType<typeof record>>, MAX_PICKLE);
  const storages = new StorageTable(reader.path);
  const root = finishPickle(new Unpickler(pickle, rulesFor(reader.path, storages)), reader.path);
  for (const storage of storages.all()) {
    const entry = record(`data/${storage.key}`);
    if (entry === undefined) throw badFile(reader.path, `the storage ${storage.key} is not in the archive`);
    storage.place(await zip.dataOffset(entry), entry.size);
  }
  return { path: reader.path, identity: reader.identity, format: 'zip', root };
}

/**
 * Five pickles (magic number, version, machine, the object, the keys of its storages), then the storages one by one.
 */
async function readLegacyFile(reader: FileReader): Promise<TorchFile> {
  const { root, keys, storages, end } = await readLegacyPickles(reader);
  let position = end;
  for (const key of keys) {
    const storage = storages.get(key);
    if (storage === undefined) throw badFile(reader.path, `the storage ${key.slice(0, 100)} belongs to no tensor`);
    if (position + 8 > reader.size) throw endsEarly(reader.path, storage.key);
    const count = (await reader.read(position, 8)).readBigInt64LE(0);
    if (count !== BigInt(storage.count))
      throw badFile(reader.path, `the storage ${storage.key} has ${count} elements, expected ${storage.count}`);
    if (position + 8 + storage.byteLength > reader.size) throw endsEarly(reader.path, storage.key);
    storage.place(position + 8, storage.byteLength);
    position += 8 + storage.byteLength;
  }
  for (const storage of storages.all()) {
    if (!storage.isPlaced) throw badFile(reader.path, `the storage ${storage.key} is not in the file`);
  }
  return { path: reader.path, identity: reader.identity, format: 'legacy', root };
}

interface LegacyPickles {
  readonly root: PickleValue;
  readonly keys: readonly string[];
  readonly storages: StorageTable;
  /** Where the storages start. */
  readonly end: number;
}

/** The file does not say how long its pickles are: a window is read, and a larger one when they do not fit. */
async function readLegacyPickles(reader: FileReader): Promise<LegacyPickles> {
  for (let window = FIRST_WINDOW; ; window *= 4) {
    const bytes = await reader.read(0, Math.min(window, MAX_PICKLE, reader.size));
    try {
      return parseLegacyPickles(bytes, reader.path);
    } catch (error) {
      if (!(error instanceof PickleTruncated)) throw error;
      if (window >= Math.min(MAX_PICKLE, reader.size)) throw truncated(reader.path, error);
    }
  }
}

function parseLegacyPickles(bytes: Buffer, path: string): LegacyPickles {
  const storages = new StorageTable(path);
  let position = 0;
  const next = (): PickleValue => {
    const unpickler = new Unpickler(bytes, rulesFor(path, storages), position);
    const value = unpickler.load();
    position = unpickler.position;
    return value;
  };
  if (next() !== LEGACY_MAGIC) throw badFile(path, 'it is a Python pickle that torch.save did not write');
  const version = next();
  if (version !== LEGACY_PROTOCOL)
    throw badFile(path, `expected version ${LEGACY_PROTOCOL} of the format, found ${show(version)}`);
  const machine = next();
  if (machine instanceof PickleDict && machine.items.get('little_endian') === false) {
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `${path} was saved on a big-endian machine`, { path });
  }
  const root = next();
  return { root, keys: storages.keysOf(next()), storages, end: position };
}

function rulesFor(path: string, storages: StorageTable): PickleRules {
  return {
    path,
    isAllowed: isAllowedGlobal,
    persistent: (id) => storages.resolve(id),
    call: (name, args) => storages.call(name, args),
  };
}

function finishPickle(unpickler: Unpickler, path: string): PickleValue {
  try {
    return unpickler.load();
  } catch (error) {
    throw error instanceof PickleTruncated ? truncated(path, error) : error;
  }
}

function truncated(path: string, cause: unknown): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The pickle in ${path} is not usable: it ends in the middle`, {
    path,
    cause,
    hint: 'the file is incomplete; fetch it again',
  });
}

function endsEarly(path: string, key: string): NeoXPrefixError {
  return badFile(
    path,
    `the storage ${key} reaches beyond the end of the file`,
    'the file is incomplete; fetch it again',
  );
}

function badFile(path: string, problem: string, hint?: string): NeoXPrefixError {
  const message = `The PyTorch file ${path} is not usable: ${problem}`;
  return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', message, hint === undefined ? { path } : { path, hint });
}
