import {
  checkTensor,
  fromElements,
  jsonElements,
  type NestedElements,
  type Tensor,
  tensor,
  tensorBytes,
  type TensorDatatype,
  tensorFromBytes,
} from '../../../lib/inference-protocol/tensors';
import { thrown } from './protocol-helpers';

describe('tensor', () => {
  it('takes its shape from the nesting', () => {
    expect(
      tensor('UINT32', [
        [1, 2, 3],
        [4, 5, 4294967295],
      ]),
    ).toEqual({
      datatype: 'UINT32',
      shape: [2, 3],
      data: Uint32Array.of(1, 2, 3, 4, 5, 4294967295),
    });
    expect(tensor('FP32', 2)).toEqual({ datatype: 'FP32', shape: [], data: Float32Array.of(2) });
    expect(tensor('INT32', [[], []])).toEqual({ datatype: 'INT32', shape: [2, 0], data: new Int32Array(0) });
    expect(tensor('BYTES', [['今'], ['']]).data.map((item) => Buffer.from(item).toString())).toEqual(['今', '']);
    expect(tensor('BOOL', [true, false, 1]).data).toEqual(Uint8Array.of(1, 0, 1));
    expect(tensor('UINT64', [2n ** 64n - 1n, 5]).data).toEqual(BigUint64Array.of(2n ** 64n - 1n, 5n));
  });

  it.each<[TensorDatatype, NestedElements, string]>([
    ['UINT32', [[1, 2], [3]], 'Expected an array of 2, as the shape has it for values at depth 1'],
    ['UINT32', [1, [2]], 'for values[1] but received an array of 1'],
    ['UINT32', [-1], 'Expected a number of type UINT32 for values[0] but received -1 of type number'],
    ['UINT32', [2 ** 32], 'a number of type UINT32 for values[0]'],
    ['INT8', [128], 'a number of type INT8'],
    ['INT64', [2n ** 63n], 'a number of type INT64'],
    ['UINT64', [2 ** 53], 'Expected an integer of less than 2^53, or a bigint, for values[0]'],
    ['INT32', [1.5], 'an integer'],
    ['FP32', ['1'], "Expected a number for values[0] but received '1' of type string"],
    ['BOOL', [2], 'a boolean'],
    ['BYTES', [1], 'a string or a Uint8Array'],
    ['UINT33' as 'UINT32', [1], 'Expected one of BOOL, UINT8'],
  ])('%s of %j is refused', (datatype, values, message) => {
    const error = thrown(() => tensor(datatype, values));
    expect(error.code).toBe('NEOX_BAD_ARGUMENT');
    expect(error.message).toContain(message);
  });

  it('is checked when it comes from elsewhere', () => {
    const good: Tensor = { datatype: 'UINT32', data: Uint32Array.of(1), shape: [1, 1] };
    expect(checkTensor('x', good)).toBe(good);
    const refusals: [unknown, string][] = [
      [undefined, 'Expected a tensor for x'],
      [{ ...good, datatype: 'int' }, 'for x.datatype'],
      [{ ...good, data: [1] }, 'Expected a Uint32Array, which UINT32 needs, for x.data but received an array of 1'],
      [{ ...good, shape: [2] }, "The tensor 'x' of shape [2] takes 2 elements and has 1"],
      [{ ...good, shape: [2 ** 40, 2 ** 40] }, 'a shape of less than 2^53 elements for x.shape'],
      [{ ...good, shape: [-1] }, 'an integer of at least 0 for x.shape[0]'],
      [{ datatype: 'BYTES', data: ['a'], shape: [1] }, 'an array of Uint8Array'],
    ];
    for (const [value, message] of refusals) expect(thrown(() => checkTensor('x', value)).message).toContain(message);
  });
});

describe('bytes', () => {
  const all: Tensor[] = [
    tensor('BOOL', [[true, false]]),
    tensor('UINT8', [255]),
    tensor('UINT16', [1, 65535]),
    tensor('UINT32', [[1], [4294967295]]),
    tensor('UINT64', [18446744073709551615n]),
    tensor('INT8', [-1]),
    tensor('INT16', [-300]),
    tensor('INT32', [-70000]),
    tensor('INT64', [-9007199254740993n]),
    tensor('FP16', [0x3c00]),
    tensor('BF16', [0x3f80]),
    tensor('FP32', [0.1, NaN, -Infinity]),
    tensor('FP64', [0.1]),
    tensor('BYTES', ['今日は', '', new Uint8Array([0xff, 0])]),
    tensor('INT32', []),
  ];

  const texts = (data: Tensor['data']): unknown[] =>
    Array.from<unknown, string>(data, (item) => (item instanceof Uint8Array ? Array.from(item).join() : String(item)));
  it.each(all)('$datatype comes back, from any place of a buffer', (one) => {
    const bytes = tensorBytes(one);
    const shifted = Buffer.alloc(bytes.length + 8, 7);
    shifted.set(bytes, 3);
    const back = tensorFromBytes('x', one.datatype, one.shape, shifted.subarray(3, 3 + bytes.length));
    expect(back.data.constructor).toBe(one.data.constructor);
    shifted.fill(0);
    expect({ ...back, data: texts(back.data) }).toEqual({ ...one, data: texts(one.data) });
  });

  it('are little-endian, texts behind their length', () => {
    expect(Array.from(tensorBytes(tensor('UINT32', [258])))).toEqual([2, 1, 0, 0]);
    expect(Array.from(tensorBytes(tensor('BYTES', ['ab', 'c'])))).toEqual([2, 0, 0, 0, 97, 98, 1, 0, 0, 0, 99]);
  });

  it.each<[TensorDatatype, number[], number[], string]>([
    ['UINT32', [2], [0, 0, 0, 0], "The tensor 'x' of shape [2] takes 8 bytes and has 4"],
    ['UINT32', [1], [0, 0, 0, 0, 0], 'takes 4 bytes and has 5'],
    ['BYTES', [1], [5, 0, 0, 0, 97], 'takes 1 elements with their lengths and has 5 bytes that are not that'],
    ['BYTES', [1], [1, 0, 0, 0, 97, 0], '6 bytes that are not that'],
    ['BYTES', [2], [1, 0, 0, 0, 97], 'takes 2 elements'],
    ['BYTES', [2 ** 50], [], 'takes 1125899906842624 elements'],
    ['FP32', [2 ** 30, 2 ** 30], [], 'a shape of less than 2^53 elements for the shape of x'],
  ])('%s %j of other size are refused', (datatype, shape, bytes, message) => {
    const error = thrown(() => tensorFromBytes('x', datatype, shape, Uint8Array.from(bytes)));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining(message)]);
  });
});

describe('elements of JSON', () => {
  it('may be flat or nested', () => {
    for (const data of [
      [1, 2, 3, 4],
      [
        [1, 2],
        [3, 4],
      ],
    ])
      expect(fromElements('x', 'INT32', [2, 2], data).data).toEqual(Int32Array.of(1, 2, 3, 4));
    expect(jsonElements('x', tensor('BOOL', [[true], [false]]))).toEqual([true, false]);
    expect(jsonElements('x', tensor('UINT64', [5n]))).toEqual([5]);
    expect(jsonElements('x', tensor('BYTES', ['今']))).toEqual(['今']);
  });

  it.each<[Tensor, string]>([
    [tensor('FP32', [Infinity]), "The tensor 'x' of type FP32 has no JSON: Infinity"],
    [tensor('UINT64', [2n ** 63n]), 'has no JSON: 9223372036854775808n'],
    [tensor('FP16', [1]), 'numbers of 16 bits'],
    [tensor('BYTES', [new Uint8Array([0xff])]), 'bytes that are not UTF-8'],
  ])('cannot be all values', (one, message) => {
    const error = thrown(() => jsonElements('x', one));
    expect(error.message).toContain(message);
    expect(error.hint).toBe('send it, or ask for it, as binary data');
  });

  it('of another number than the shape are refused', () => {
    expect(thrown(() => fromElements('x', 'INT32', [3], [1, 2])).message).toBe(
      "The tensor 'x' of shape [3] takes 3 elements and has 2",
    );
    let deep: unknown = 1;
    for (let i = 0; i < 1e5; i++) deep = [deep];
    expect(thrown(() => fromElements('x', 'INT32', [1], deep)).code).toBe('NEOX_BAD_ARGUMENT');
  });
});
