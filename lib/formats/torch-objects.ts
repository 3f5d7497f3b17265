import { NeoXPrefixError } from '../base/errors';
import { ORDERED_DICT, PickleGlobal, PickleList, PickleObject, PickleTuple, type PickleValue } from './pickle';
import { DTYPE_BYTES, elementCount, type StorageDType, type TensorEntry } from './tensor';
import { contiguousStride } from './values';

const STORAGE_DTYPES: Readonly<Record<string, StorageDType>> = {
  'torch.FloatStorage': 'F32',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.DoubleStorage': 'F64',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
};

const FUNCTIONS = [
  'torch._utils._rebuild_tensor',
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_parameter',
  'torch.Size',
];
const PARAMETER = 'torch.nn.parameter.Parameter';

export function isAllowedGlobal(name: string): boolean {
  return name === ORDERED_DICT || name === PARAMETER || FUNCTIONS.includes(name) || Object.hasOwn(STORAGE_DTYPES, name);
}

/** A run of elements in the file, which any number of tensors may view. */
export class TorchStorage extends PickleObject {
  readonly kind = 'storage';
  private offset: number | undefined;

  constructor(
    readonly path: string,
    readonly key: string,
    readonly dtype: StorageDType,
    /** Number of elements. */
    readonly count: number,
  ) {
    super();
  }

  get byteLength(): number {
    return this.count * DTYPE_BYTES[this.dtype];
  }

  get isPlaced(): boolean {
    return this.offset !== undefined;
  }

  /** Says where the elements start in the file. */
  place(offset: number, byteLength: number): void {
    if (byteLength !== this.byteLength) {
      throw badTensor(
        this.path,
        `the storage ${this.key} has ${byteLength} bytes; its ${this.count} elements of ${this.dtype} take ${this.byteLength}`,
      );
    }
    this.offset = offset;
  }

  get start(): number {
    if (this.offset === undefined) throw badTensor(this.path, `the storage ${this.key} is not in the file`);
    return this.offset;
  }
}

/** A tensor over a storage, or over a part of one. */
export class TorchTensor extends PickleObject {
  readonly kind = 'tensor';

  constructor(
    readonly storage: TorchStorage,
    /** In elements, from the start of the storage. */
    readonly storageOffset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[],
  ) {
    super();
  }

  /** Where the tensor lies in the file. */
  entry(name: string): TensorEntry {
    const { storage, shape, stride } = this;
    const width = DTYPE_BYTES[storage.dtype];
    const base = {
      name,
      file: storage.path,
      dtype: storage.dtype,
      shape,
      offset: storage.start + this.storageOffset * width,
    };
    const byteLength = spanOf(shape, stride) * width;
    const plain = contiguousStride(shape);
    // The step of a dimension of size 1 is never taken, so any value means the same.
    const isPlain = shape.every((size, d) => size <= 1 || stride[d] === plain[d]) || byteLength === 0;
    return isPlain ? { ...base, byteLength } : { ...base, byteLength, stride };
  }
}

/** Elements from the first to the last one that a tensor touches. */
function spanOf(shape: readonly number[], stride: readonly number[]): number {
  if (shape.includes(0)) return 0;
  return shape.reduce((span, size, d) => span + (size - 1) * (stride[d] as number), 1);
}

/** The storages of one file, by key, and the calls that make tensors of them. */
export class StorageTable {
  private readonly storages = new Map<string, TorchStorage>();

  constructor(private readonly path: string) {}

  all(): TorchStorage[] {
    return [...this.storages.values()];
  }

  get(key: string): TorchStorage | undefined {
    return this.storages.get(key);
  }

  /** ('storage', type, key, location, number of elements[, view]); the location (a GPU, perhaps) does not matter. */
  resolve(id: PickleValue): TorchStorage {
    const items = id instanceof PickleTuple ? id.items : [];
    const [tag, type, key, location, count, view] = items;
    if (items.length < 5 || items.length > 6 || tag !== 'storage' || typeof location !== 'string') {
      throw unsupported(this.path, 'a persistent id that is no storage');
    }
    const dtype =
      type instanceof PickleGlobal && Object.hasOwn(STORAGE_DTYPES, type.name) ? STORAGE_DTYPES[type.name] : undefined;
    if (dtype === undefined) throw unsupported(this.path, 'a storage without a known type');
    if (typeof key !== 'string' || key.length > 100) throw badTensor(this.path, 'a storage without a key');
    if (!isSize(count) || !Number.isSafeInteger(count * DTYPE_BYTES[dtype]))
      throw badTensor(this.path, `the storage ${key} has a bad number of elements`);
    if (view !== undefined && view !== null)
      throw unsupported(this.path, 'a view of a storage, as torch before 0.4 saved it');
    const known = this.storages.get(key);
    if (known !== undefined && (known.dtype !== dtype || known.count !== count))
      throw badTensor(this.path, `the storage ${key} is described in two ways`);
    const storage = known ?? new TorchStorage(this.path, key, dtype, count);
    this.storages.set(key, storage);
    return storage;
  }

  /** The list of storage keys that ends the pickles of a legacy file. */
  keysOf(value: PickleValue): string[] {
    if (!(value instanceof PickleList)) throw badTensor(this.path, 'expected a list of storage keys');
    const keys = value.items.map((key) => {
      if (typeof key !== 'string') throw badTensor(this.path, 'expected a list of storage keys');
      return key;
    });
    if (new Set(keys).size !== keys.length) throw badTensor(this.path, 'a storage key is given twice');
    return keys;
  }

  /** Carries out a call of an allowed global. */
  call(name: string, args: readonly PickleValue[]): PickleValue {
    switch (name) {
      case 'torch.Size': {
        const sizes = args[0];
        if (args.length !== 1 || !(sizes instanceof PickleTuple))
          throw badTensor(this.path, 'a torch.Size without sizes');
        return sizes;
      }
      case 'torch._utils._rebuild_tensor': // (storage, offset, size, stride)
      case 'torch._utils._rebuild_tensor_v2': // ... , requires_grad, hooks[, metadata])
        return this.rebuild(args);
      case 'torch._utils._rebuild_parameter': // (data, requires_grad, hooks)
      case PARAMETER: {
        const data = args[0];
        if (!(data instanceof TorchTensor)) throw badTensor(this.path, 'a Parameter without a tensor');
        return data;
      }
      default:
        throw unsupported(this.path, `a call of ${name}`);
    }
  }

  private rebuild(args: readonly PickleValue[]): TorchTensor {
    const [storage, offset, size, step] = args;
    if (args.length < 4 || args.length > 7 || !(storage instanceof TorchStorage))
      throw badTensor(this.path, 'a tensor without a storage');
    const shape = sizesOf(size);
    const stride = sizesOf(step);
    if (!isSize(offset) || shape === undefined || stride === undefined || shape.length !== stride.length) {
      throw badTensor(this.path, `a tensor over storage ${storage.key} has a bad offset, size or stride`);
    }
    const elements = elementCount(`over storage ${storage.key}`, shape, this.path);
    const span = spanOf(shape, stride);
    if (!Number.isSafeInteger(span) || offset + span > storage.count) {
      throw badTensor(
        this.path,
        `a tensor of shape [${shape.join(', ')}] and stride [${stride.join(', ')}] at ${offset} reaches beyond storage ${storage.key} of ${storage.count} elements`,
      );
    }
    if (elements > span)
      throw unsupported(
        this.path,
        `an expanded tensor of shape [${shape.join(', ')}] and stride [${stride.join(', ')}]`,
      );
    return new TorchTensor(storage, offset, shape, stride);
  }
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function sizesOf(value: PickleValue | undefined): number[] | undefined {
  if (!(value instanceof PickleTuple) || value.items.length > 64) return undefined;
  const sizes = value.items.filter(isSize);
  return sizes.length === value.items.length ? sizes : undefined;
}

function badTensor(path: string, problem: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The PyTorch file ${path} is not usable: ${problem}`, { path });
}

function unsupported(path: string, what: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_UNSUPPORTED', `The PyTorch file ${path} holds ${what}, which is not supported`, {
    path,
    hint: 'save the tensors again with a current torch, or as safetensors',
  });
}
