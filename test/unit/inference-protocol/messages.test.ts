import {
  modelConfig,
  modelMetadata,
  modelStatistics,
  repositoryModels,
} from '../../../lib/inference-protocol/descriptions';
import {
  fromGrpcRequest,
  fromGrpcResponse,
  fromGrpcStream,
  type GrpcInferRequest,
  type GrpcInferResponse,
  type GrpcStreamResponse,
  toGrpcRequest,
  toGrpcResponse,
} from '../../../lib/inference-protocol/grpc-messages';
import { grpcServices } from '../../../lib/inference-protocol/grpc-service';
import {
  decodeHttpRequest,
  decodeHttpResponse,
  encodeHttpRequest,
  encodeHttpResponse,
  wantsBinary,
} from '../../../lib/inference-protocol/http-messages';
import type { InferRequestMessage, InferResponseMessage } from '../../../lib/inference-protocol/messages';
import { type Tensor, tensor } from '../../../lib/inference-protocol/tensors';
import { plain, recorded, RECORDED_TENSORS, thrown } from './protocol-helpers';

const REQUEST: InferRequestMessage = {
  model: 'fastertransformer',
  version: '',
  id: '7',
  parameters: {},
  inputs: RECORDED_TENSORS,
  outputs: [],
};
const SOME = ['output_ids', 'sequence_length'].map((name) => ({ name, parameters: {} }));
const RESPONSE: InferResponseMessage = {
  model: 'm',
  version: '1',
  id: '7',
  parameters: { triton_final_response: true },
  outputs: RECORDED_TENSORS,
};

const joined = ({ chunks, jsonLength = 0 }: { chunks: readonly Uint8Array[]; jsonLength: number | undefined }) => {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(jsonLength);
  return Buffer.concat([head, ...chunks]);
};

describe('HTTP', () => {
  it.each([
    ['all', []],
    ['some', SOME],
  ])("sends what NVIDIA's client sends, byte for byte (%s outputs)", (name, outputs) => {
    expect(joined(encodeHttpRequest({ ...REQUEST, outputs })).equals(recorded(`request-${name}.http`))).toBe(true);
  });

  it("reads what NVIDIA's client sends", () => {
    for (const name of ['all', 'some']) {
      const bytes = recorded(`request-${name}.http`);
      const request = decodeHttpRequest(bytes.subarray(4), bytes.readUInt32LE(0), 'm', '1');
      expect(request).toMatchObject({ model: 'm', version: '1', id: '7' });
      expect(plain(request.inputs)).toEqual(plain(RECORDED_TENSORS));
      expect(request.outputs.map((output) => output.name)).toEqual(name === 'all' ? [] : SOME.map((one) => one.name));
      expect(wantsBinary(request)('output_ids')).toBe(true);
      expect(wantsBinary(request)('another')).toBe(name === 'all');
    }
  });

  it('reads JSON alone, flat and nested', () => {
    const inputs = [
      { name: 'a', shape: [2, 1], datatype: 'UINT32', data: [[1], [2]] },
      { name: 'b', shape: [1], datatype: 'BYTES', data: ['今'] },
    ];
    const outputs = [{ name: 'x', parameters: { binary_data: true } }, { name: 'y' }];
    const body = Buffer.from(JSON.stringify({ id: 'i', parameters: { n: 2, on: true, t: 's' }, inputs, outputs }));
    const request = decodeHttpRequest(body, undefined, 'm');
    expect(request.parameters).toEqual({ n: 2, on: true, t: 's' });
    expect(request.inputs.get('a')).toEqual(tensor('UINT32', [[1], [2]]));
    expect([wantsBinary(request)('x'), wantsBinary(request)('y')]).toEqual([true, false]);
  });

  it('answers in binary, in JSON, and in both', () => {
    const outputs = new Map<string, Tensor>([
      ['a', tensor('UINT32', [[1, 2]])],
      ['b', tensor('BYTES', ['今'])],
    ]);
    for (const isBinary of [(): boolean => true, (): boolean => false, (name: string): boolean => name === 'b']) {
      const { chunks, jsonLength } = encodeHttpResponse({ ...RESPONSE, outputs }, isBinary);
      expect(jsonLength === undefined).toBe(!isBinary('b'));
      const back = decodeHttpResponse(Buffer.concat(chunks), jsonLength);
      expect({ ...back, outputs: plain(back.outputs) }).toEqual({ ...RESPONSE, outputs: plain(outputs) });
    }
  });

  const part = (more: object): object => ({ inputs: [{ name: 'a', shape: [1], datatype: 'UINT32', ...more }] });
  it.each<[string | object, number | undefined, string]>([
    ['{', undefined, 'The body is no JSON'],
    ['[1]', undefined, 'Expected a JSON object as the body but received an array of 1'],
    ['\xff', undefined, 'The body is no JSON'],
    [{}, 999, 'Inference-Header-Content-Length is 999, and the body has 2 bytes'],
    [{}, -1, 'expected a length within the body'],
    [{}, NaN, 'Inference-Header-Content-Length is NaN'],
    ['{}abc', 2, 'The body has 3 bytes that belong to no tensor'],
    [{ inputs: 1 }, undefined, 'Expected an array for inputs'],
    [{ inputs: [1] }, undefined, 'Expected an object for tensor 0'],
    [{ inputs: [{}] }, undefined, 'Expected a non-empty string for name of tensor 0'],
    [part({}), undefined, "The tensor 'a' has neither data nor binary_data_size"],
    [part({ datatype: 'INT' }), undefined, 'Expected one of BOOL'],
    [part({ shape: undefined }), undefined, 'Expected the sizes of a shape for shape of a'],
    [part({ data: [1, 2] }), undefined, "The tensor 'a' of shape [1] takes 1 elements and has 2"],
    [part({ data: [1], parameters: { binary_data_size: 4 } }), undefined, 'has both data and binary_data_size'],
    [part({ parameters: { binary_data_size: 4 } }), undefined, 'has a binary_data_size of 4, and 0 bytes are left'],
    [part({ parameters: { binary_data_size: 1.5 } }), undefined, 'has a binary_data_size of 1.5'],
    [part({ parameters: { x: {} } }), undefined, 'Expected a boolean, a number or a string for parameter x of a'],
    [part({ datatype: 'FP16', data: [1] }), undefined, 'takes binary data alone'],
    [{ inputs: [1, 1].map(() => ({ name: 'a', shape: [], datatype: 'BOOL', data: true })) }, undefined, 'given twice'],
    [{ outputs: [{}] }, undefined, 'Expected a non-empty string for outputs[0].name'],
    [{ id: 7 }, undefined, 'Expected a string for id'],
  ])('refuses %j', (body, length, message) => {
    const bytes = typeof body === 'string' ? Buffer.from(body, 'latin1') : Buffer.from(JSON.stringify(body));
    const error = thrown(() => decodeHttpRequest(bytes, length, 'm'));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining(message)]);
  });

  it('takes names that objects have for names', () => {
    const body = '{"inputs":[{"name":"__proto__","shape":[1],"datatype":"BOOL","data":[true]}]}';
    const { inputs } = decodeHttpRequest(Buffer.from(body), undefined, 'm');
    expect([...inputs.keys()]).toEqual(['__proto__']);
  });
});

describe('gRPC', () => {
  const method = (name: string): { read: (bytes: Buffer) => unknown; write: (m: object) => Buffer } => {
    const { inference } = grpcServices();
    const { requestSerialize, responseDeserialize } = inference[name]!;
    return { read: responseDeserialize, write: requestSerialize as (m: object) => Buffer };
  };

  it.each([
    ['all', []],
    ['some', SOME],
  ])("sends what NVIDIA's client sends, byte for byte (%s outputs)", (name, outputs) => {
    const { write } = method('ModelInfer');
    const ours = write(toGrpcRequest({ ...REQUEST, outputs }));
    expect(ours.equals(recorded(`request-${name}.grpc`))).toBe(true);
    const { inference } = grpcServices();
    const theirs = inference['ModelInfer']!.requestDeserialize(recorded(`request-${name}.grpc`)) as GrpcInferRequest;
    const request = fromGrpcRequest(theirs);
    expect({ ...request, inputs: plain(request.inputs), outputs: request.outputs.map((one) => one.name) }).toEqual({
      ...REQUEST,
      inputs: plain(RECORDED_TENSORS),
      outputs: outputs.map((one) => one.name),
    });
  });

  it('reads raw and typed contents', () => {
    const { read } = method('ModelInfer');
    const raw = fromGrpcResponse(read(recorded('response-raw.grpc')) as GrpcInferResponse);
    expect(raw).toMatchObject({
      model: 'fastertransformer',
      version: '1',
      parameters: { triton_final_response: true },
    });
    expect(plain(raw.outputs)).toEqual(plain(RECORDED_TENSORS));
    const typed = fromGrpcResponse(read(recorded('response-typed.grpc')) as GrpcInferResponse);
    const known = new Map([...RECORDED_TENSORS].filter(([name]) => name !== 'half'));
    expect(plain(typed.outputs)).toEqual(plain(known));
  });

  it('comes back', () => {
    const { inference } = grpcServices();
    const { responseSerialize, responseDeserialize } = inference['ModelInfer']!;
    const parameters = { a: true, b: 's', c: 7, d: 0.5, e: 2n ** 64n - 1n, f: -(2n ** 62n) };
    const bytes = responseSerialize(toGrpcResponse({ ...RESPONSE, parameters }));
    const back = fromGrpcResponse(responseDeserialize(bytes) as GrpcInferResponse);
    expect({ ...back, outputs: plain(back.outputs) }).toEqual({
      ...RESPONSE,
      parameters,
      outputs: plain(RESPONSE.outputs),
    });
  });

  it('has errors in its streams', () => {
    const { read } = method('ModelStreamInfer');
    const message = read(recorded('stream-error.grpc')) as GrpcStreamResponse;
    expect(fromGrpcStream(message)).toEqual({ error: 'no such model', id: '9' });
    expect(thrown(() => fromGrpcStream({ error_message: '', infer_response: null })).code).toBe('NEOX_BAD_ARGUMENT');
  });

  const message = (more: Partial<GrpcInferRequest>): GrpcInferRequest => ({
    model_name: 'm',
    model_version: '',
    id: '',
    parameters: {},
    inputs: [{ name: 'a', datatype: 'UINT32', shape: ['1'] }],
    outputs: [],
    raw_input_contents: [Buffer.from([1, 0, 0, 0])],
    ...more,
  });
  it.each<[string, Partial<GrpcInferRequest>, string]>([
    ['too few bytes', { raw_input_contents: [Buffer.alloc(3)] }, "The tensor 'a' of shape [1] takes 4 bytes and has 3"],
    [
      'one entry too many',
      { raw_input_contents: [Buffer.alloc(4), Buffer.alloc(4)] },
      'an entry of raw_input_contents',
    ],
    [
      'contents beside raw bytes',
      { inputs: [{ name: 'a', datatype: 'UINT32', shape: [1], contents: { uint_contents: [1] } }] },
      "The tensor 'a' has contents beside raw_input_contents",
    ],
    ['no bytes', { raw_input_contents: [] }, "The tensor 'a' of type UINT32 has no data"],
    ['no name', { inputs: [{ name: '', datatype: 'UINT32', shape: [1] }] }, 'The tensor 0 has no name'],
    ['an unknown type', { inputs: [{ name: 'a', datatype: 'X', shape: [1] }] }, 'Expected one of BOOL'],
    ['a negative size', { inputs: [{ name: 'a', datatype: 'UINT32', shape: ['-1'] }] }, 'an integer of at least 0'],
  ])('refuses %s', (_, more, text) => {
    const error = thrown(() => fromGrpcRequest(message(more)));
    expect([error.code, error.message]).toEqual(['NEOX_BAD_ARGUMENT', expect.stringContaining(text)]);
  });
});

describe('descriptions', () => {
  const CONFIG = {
    name: 'fastertransformer',
    platform: '',
    backend: 'fastertransformer',
    maxBatchSize: 1024,
    decoupled: true,
    inputs: [
      { name: 'input_ids', datatype: 'UINT32', dims: [-1], optional: false },
      { name: 'start_id', datatype: 'UINT32', dims: [1], optional: true },
      { name: 'QUERY', datatype: 'BYTES', dims: [-1], optional: false },
    ],
    outputs: [{ name: 'output_ids', datatype: 'UINT32', dims: [-1, -1], optional: false }],
    parameters: { neox_prefix_tasks: 'smile=0,polite=1', model_type: 'GPT-NeoX' },
  };

  it("are read of Triton's messages", () => {
    const { inference } = grpcServices();
    const read = (name: string, file: string): object => inference[name]!.responseDeserialize(recorded(file)) as object;
    expect(modelConfig((read('ModelConfig', 'config.grpc') as { config: unknown }).config)).toEqual(CONFIG);
    expect(modelStatistics(read('ModelStatistics', 'statistics.grpc'))).toEqual([
      {
        name: 'fastertransformer',
        version: '1',
        inferenceCount: 12,
        executionCount: 3,
        lastInference: new Date(1700000000123),
        success: { count: 3, seconds: 4.5 },
        fail: { count: 0, seconds: 0 },
        queue: { count: 0, seconds: 0.001 },
        compute: { count: 0, seconds: 0 },
      },
    ]);
  });

  it('are read of JSON, with numbers as numbers or strings', () => {
    const config = {
      name: 'fastertransformer',
      backend: 'fastertransformer',
      max_batch_size: 1024,
      input: [
        { name: 'input_ids', data_type: 'TYPE_UINT32', dims: ['-1'] },
        { name: 'start_id', data_type: 'TYPE_UINT32', dims: [1], optional: true },
        { name: 'QUERY', data_type: 'TYPE_STRING', dims: [-1] },
      ],
      output: [{ name: 'output_ids', data_type: 'TYPE_UINT32', dims: [-1, -1] }],
      parameters: {
        neox_prefix_tasks: { string_value: 'smile=0,polite=1' },
        model_type: { string_value: 'GPT-NeoX' },
      },
      model_transaction_policy: { decoupled: true },
    };
    expect(modelConfig(config)).toEqual(CONFIG);
    const inputs = [{ name: 'x', datatype: 'FP32', shape: ['-1', 2] }];
    expect(modelMetadata({ name: 'm', versions: ['1'], inputs })).toEqual({
      name: 'm',
      versions: ['1'],
      platform: '',
      inputs: [{ name: 'x', datatype: 'FP32', shape: [-1, 2] }],
      outputs: [],
    });
    expect(repositoryModels([{ name: 'm', state: 'READY' }])).toEqual([
      { name: 'm', version: '', state: 'READY', reason: '' },
    ]);
  });

  it('that are nothing of the kind give nothing', () => {
    for (const value of [undefined, null, 1, [], { input: 1, parameters: [] }])
      expect(modelConfig(value)).toMatchObject({ name: '', inputs: [], parameters: {} });
    expect([modelStatistics(null), repositoryModels({})]).toEqual([[], []]);
  });
});
