import { NeoXPrefixError } from '../base/errors';

/** Bounds that no checkpoint comes near; they keep a hostile file from filling the memory. */
const MAX_OPERATIONS = 1_000_000;
const MAX_STACK = 100_000;

export class PickleTuple {
  readonly kind = 'tuple';

  constructor(readonly items: readonly PickleValue[]) {}
}

export class PickleList {
  readonly kind = 'list';
  readonly items: PickleValue[] = [];
}

/** A dict or an OrderedDict. */
export class PickleDict {
  readonly kind = 'dict';
  readonly items = new Map<PickleKey, PickleValue>();
}

/** The name of a class or function. Never looked up anywhere, never called. */
export class PickleGlobal {
  readonly kind = 'global';

  constructor(readonly name: string) {}
}

/** What the owner of the unpickler made of a persistent id or of a call; opaque here. */
export abstract class PickleObject {
  abstract readonly kind: string;
}

export type PickleKey = string | number | boolean;
export type PickleValue =
  null | boolean | number | bigint | string | PickleTuple | PickleList | PickleDict | PickleGlobal | PickleObject;

/** What a format allows in its pickles. */
export interface PickleRules {
  /** Named in messages. */
  readonly path: string;
  readonly isAllowed: (global: string) => boolean;
  /** The object that a persistent id stands for. */
  readonly persistent: (id: PickleValue) => PickleObject;
  /** The result of calling an allowed global. */
  readonly call: (global: string, args: readonly PickleValue[]) => PickleValue;
}

/** Thrown when the bytes end before the pickle does, for readers that do not know its length. */
export class PickleTruncated extends Error {}

export const ORDERED_DICT = 'collections.OrderedDict';

const MARK = Symbol('mark');

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// prettier-ignore
const OPCODE_NAMES: Readonly<Record<number, string>> = {
  0x2e: 'STOP', 0x30: 'POP', 0x31: 'POP_MARK', 0x32: 'DUP', 0x46: 'FLOAT', 0x49: 'INT', 0x4c: 'LONG', 0x50: 'PERSID',
  0x53: 'STRING', 0x54: 'BINSTRING', 0x56: 'UNICODE', 0x42: 'BINBYTES', 0x43: 'SHORT_BINBYTES', 0x62: 'BUILD',
  0x64: 'DICT', 0x67: 'GET', 0x69: 'INST', 0x6c: 'LIST', 0x6f: 'OBJ', 0x70: 'PUT', 0x82: 'EXT1', 0x83: 'EXT2',
  0x84: 'EXT4', 0x8b: 'LONG4', 0x8c: 'SHORT_BINUNICODE', 0x8d: 'BINUNICODE8', 0x8e: 'BINBYTES8', 0x8f: 'EMPTY_SET',
  0x90: 'ADDITEMS', 0x91: 'FROZENSET', 0x92: 'NEWOBJ_EX', 0x93: 'STACK_GLOBAL', 0x94: 'MEMOIZE', 0x95: 'FRAME',
  0x96: 'BYTEARRAY8', 0x97: 'NEXT_BUFFER', 0x98: 'READONLY_BUFFER',
};

/**
 * Reads one pickle of protocol 2 without executing anything: the opcodes are those that torch.save emits, a global is a
 * name that must be on a list, and a call is carried out by the rules alone. Everything else is refused by name.
 */
export class Unpickler {
  /** Index of the byte after the last one read. */
  position: number;
  private readonly stack: (PickleValue | typeof MARK)[] = [];
  private readonly memo = new Map<number, PickleValue>();
  private operations = 0;

  constructor(
    private readonly bytes: Buffer,
    private readonly rules: PickleRules,
    start = 0,
  ) {
    this.position = start;
  }

  /** @throws NEOX_BAD_CHECKPOINT for a damaged pickle, NEOX_UNSUPPORTED for one that holds more than data */
  load(): PickleValue {
    for (;;) {
      this.count(1);
      const opcode = this.byte();
      if (opcode === 0x2e) return this.finish();
      this.step(opcode);
      if (this.stack.length > MAX_STACK) throw this.bad(`its stack grows beyond ${MAX_STACK} values`);
    }
  }

  private count(operations: number): void {
    this.operations += operations;
    if (this.operations > MAX_OPERATIONS) throw this.bad(`it has more than ${MAX_OPERATIONS} operations`);
  }

  private finish(): PickleValue {
    const value = this.pop();
    if (this.stack.length > 0) throw this.bad('values are left on its stack at the end');
    return value;
  }

  private step(opcode: number): void {
    switch (opcode) {
      case 0x80: // PROTO
        this.protocol(this.byte());
        break;
      case 0x63: // GLOBAL
        this.global();
        break;
      case 0x28: // MARK
        this.stack.push(MARK);
        break;
      case 0x71: // BINPUT
        this.put(this.byte());
        break;
      case 0x72: // LONG_BINPUT
        this.put(this.take(4).readUInt32LE(0));
        break;
      case 0x68: // BINGET
        this.get(this.byte());
        break;
      case 0x6a: // LONG_BINGET
        this.get(this.take(4).readUInt32LE(0));
        break;
      case 0x29: // EMPTY_TUPLE
        this.push(new PickleTuple([]));
        break;
      case 0x74: // TUPLE
        this.push(new PickleTuple(this.popMarked()));
        break;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        this.push(new PickleTuple(this.popMany(opcode - 0x84)));
        break;
      case 0x5d: // EMPTY_LIST
        this.push(new PickleList());
        break;
      case 0x61: // APPEND
        this.append([this.pop()]);
        break;
      case 0x65: // APPENDS
        this.append(this.popMarked());
        break;
      case 0x7d: // EMPTY_DICT
        this.push(new PickleDict());
        break;
      case 0x73: // SETITEM
        this.setItems(this.popMany(2));
        break;
      case 0x75: // SETITEMS
        this.setItems(this.popMarked());
        break;
      case 0x4e: // NONE
        this.push(null);
        break;
      case 0x88: // NEWTRUE
        this.push(true);
        break;
      case 0x89: // NEWFALSE
        this.push(false);
        break;
      case 0x4a: // BININT
        this.push(this.take(4).readInt32LE(0));
        break;
      case 0x4b: // BININT1
        this.push(this.byte());
        break;
      case 0x4d: // BININT2
        this.push(this.take(2).readUInt16LE(0));
        break;
      case 0x8a: // LONG1
        this.push(this.long());
        break;
      case 0x47: // BINFLOAT
        this.push(this.take(8).readDoubleBE(0));
        break;
      case 0x58: // BINUNICODE
        this.push(this.text(this.take(this.take(4).readUInt32LE(0))));
        break;
      case 0x55: // SHORT_BINSTRING: text of Python 2
        this.push(this.text(this.take(this.byte())));
        break;
      case 0x51: // BINPERSID
        this.push(this.rules.persistent(this.pop()));
        break;
      case 0x52: // REDUCE
      case 0x81: // NEWOBJ
        this.call();
        break;
      case 0x62: // BUILD
        this.build();
        break;
      default:
        throw this.unsupported(`the opcode ${OPCODE_NAMES[opcode] ?? `0x${opcode.toString(16)}`}`);
    }
  }

  private protocol(version: number): void {
    if (version !== 2) throw this.unsupported(`pickle protocol ${version}; expected 2, as torch.save writes`);
  }

  private global(): void {
    const name = `${this.line()}.${this.line()}`;
    if (!this.rules.isAllowed(name)) throw this.unsupported(`the global ${name}`);
    this.push(new PickleGlobal(name));
  }

  private call(): void {
    const args = this.pop();
    const callee = this.pop();
    if (!(callee instanceof PickleGlobal) || !(args instanceof PickleTuple))
      throw this.bad('it calls something that is no function');
    this.push(callee.name === ORDERED_DICT ? new PickleDict() : this.rules.call(callee.name, args.items));
    if (callee.name === ORDERED_DICT) this.fillFrom(args.items[0]);
  }

  /** Python 2 made an OrderedDict from a list of pairs. */
  private fillFrom(pairs: PickleValue | undefined): void {
    if (pairs === undefined) return;
    if (!(pairs instanceof PickleList)) throw this.bad('an OrderedDict is made of something else than pairs');
    this.count(pairs.items.length);
    for (const pair of pairs.items) {
      const isPair = (pair instanceof PickleTuple || pair instanceof PickleList) && pair.items.length === 2;
      if (!isPair) throw this.bad('an OrderedDict is made of something else than pairs');
      this.setItems(pair.items);
    }
  }

  /** The only state that torch.save sets is `_metadata` of a state dict: versions of modules, of no use here. */
  private build(): void {
    this.pop();
    if (!(this.peek() instanceof PickleDict)) throw this.unsupported('state set on something else than a dictionary');
  }

  private append(values: readonly PickleValue[]): void {
    const list = this.peek();
    if (!(list instanceof PickleList)) throw this.bad('it appends to something that is no list');
    for (const value of values) list.items.push(value);
  }

  private setItems(flat: readonly PickleValue[]): void {
    const dict = this.peek();
    if (!(dict instanceof PickleDict)) throw this.bad('it sets items of something that is no dictionary');
    if (flat.length % 2 !== 0) throw this.bad('it sets a key without a value');
    for (let i = 0; i < flat.length; i += 2) {
      const key = flat[i];
      const isKey =
        typeof key === 'string' || typeof key === 'boolean' || (typeof key === 'number' && Number.isInteger(key));
      if (!isKey) throw this.unsupported('a dictionary key that is no text or number');
      if (typeof key === 'number' && Math.abs(key) > MAX_OPERATIONS)
        throw this.unsupported(`the dictionary key ${key}`);
      dict.items.set(key, flat[i + 1] as PickleValue);
    }
  }

  private push(value: PickleValue): void {
    this.stack.push(value);
  }

  private pop(): PickleValue {
    const value = this.stack.pop();
    if (value === undefined || value === MARK) throw this.bad('it takes a value from an empty stack');
    return value;
  }

  private peek(): PickleValue {
    const value = this.pop();
    this.stack.push(value);
    return value;
  }

  private popMany(count: number): PickleValue[] {
    return Array.from({ length: count }, () => this.pop()).reverse();
  }

  private popMarked(): PickleValue[] {
    const mark = this.stack.lastIndexOf(MARK);
    if (mark < 0) throw this.bad('it uses a mark that is not set');
    return this.stack.splice(mark).slice(1) as PickleValue[];
  }

  private put(index: number): void {
    // Numbers without a bound could be chosen to collide in the map.
    if (index > MAX_OPERATIONS) throw this.bad(`it sets memo ${index}`);
    this.memo.set(index, this.peek());
  }

  private get(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) throw this.bad(`it uses memo ${index}, which is not set`);
    this.push(value);
  }

  private byte(): number {
    return this.take(1)[0] as number;
  }

  private take(length: number): Buffer {
    const end = this.position + length;
    if (end > this.bytes.length) throw new PickleTruncated();
    const taken = this.bytes.subarray(this.position, end);
    this.position = end;
    return taken;
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.position);
    if (end < 0 && this.bytes.length - this.position <= 256) throw new PickleTruncated();
    if (end < 0 || end - this.position > 256) throw this.bad('the name of a global is longer than 256 bytes');
    const text = this.bytes.toString('latin1', this.position, end);
    this.position = end + 1;
    return text;
  }

  /** The longest that torch.save writes is its magic number, of 10 bytes. */
  private long(): number | bigint {
    const length = this.byte();
    if (length > 16) throw this.bad(`it has a whole number of ${length} bytes`);
    return longOf(this.take(length));
  }

  private text(bytes: Buffer): string {
    try {
      return UTF8.decode(bytes);
    } catch {
      throw this.bad('a text in it is not UTF-8');
    }
  }

  private bad(problem: string): NeoXPrefixError {
    const { path } = this.rules;
    return new NeoXPrefixError('NEOX_BAD_CHECKPOINT', `The pickle in ${path} is not usable: ${problem}`, { path });
  }

  private unsupported(what: string): NeoXPrefixError {
    const { path } = this.rules;
    return new NeoXPrefixError('NEOX_UNSUPPORTED', `The pickle in ${path} holds more than tensors: ${what}`, {
      path,
      hint: 'only tensors in dictionaries, lists and tuples are read, and nothing is executed; save the state_dict alone, or as safetensors',
    });
  }
}

/** Little-endian two's complement; a number where it fits exactly. */
function longOf(bytes: Buffer): number | bigint {
  const digits = Buffer.from(bytes).reverse().toString('hex');
  const value = BigInt.asIntN(8 * bytes.length, BigInt(`0x0${digits}`));
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}
