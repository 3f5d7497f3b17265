// Requests and responses over gRPC. The interfaces are the messages of proto/inference.proto as the loader gives them
// (field names as they are, 64-bit numbers as strings, enums by name, every field there); a test compares them.
import { NeoXPrefixError } from '../base/errors';
import type {
  InferParameters,
  InferParameterValue,
  InferRequestMessage,
  InferResponseMessage,
  StreamedResponse,
} from './messages';
import { checkDatatype, fromElements, type Tensor, tensorBytes, type TensorDatatype, tensorFromBytes } from './tensors';

/** A 64-bit number: a string when it is read, anything exact when it is written. */
type Long = string | number;

export interface GrpcParameter {
  readonly parameter_choice?: string;
  readonly bool_param?: boolean;
  readonly int64_param?: Long;
  readonly string_param?: string;
  readonly double_param?: number;
  readonly uint64_param?: Long;
}

export interface GrpcContents {
  readonly bool_contents?: readonly boolean[];
  readonly int_contents?: readonly number[];
  readonly int64_contents?: readonly Long[];
  readonly uint_contents?: readonly number[];
  readonly uint64_contents?: readonly Long[];
  readonly fp32_contents?: readonly number[];
  readonly fp64_contents?: readonly number[];
  readonly bytes_contents?: readonly Uint8Array[];
}

export interface GrpcTensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly Long[];
  readonly parameters?: Readonly<Record<string, GrpcParameter>>;
  readonly contents?: GrpcContents | null;
}

export interface GrpcInferRequest {
  readonly model_name: string;
  readonly model_version: string;
  readonly id: string;
  readonly parameters: Readonly<Record<string, GrpcParameter>>;
  readonly inputs: readonly GrpcTensor[];
  readonly outputs: readonly { readonly name: string; readonly parameters?: Readonly<Record<string, GrpcParameter>> }[];
  readonly raw_input_contents: readonly Uint8Array[];
}

export interface GrpcInferResponse {
  readonly model_name: string;
  readonly model_version: string;
  readonly id: string;
  readonly parameters: Readonly<Record<string, GrpcParameter>>;
  readonly outputs: readonly GrpcTensor[];
  readonly raw_output_contents: readonly Uint8Array[];
}

export interface GrpcStreamResponse {
  readonly error_message: string;
  readonly infer_response: GrpcInferResponse | null;
}

/** The field of `contents` with the elements of each type; FP16 and BF16 go as raw bytes alone. */
const CONTENTS: Readonly<Partial<Record<TensorDatatype, keyof GrpcContents>>> = {
  BOOL: 'bool_contents',
  INT8: 'int_contents',
  INT16: 'int_contents',
  INT32: 'int_contents',
  INT64: 'int64_contents',
  UINT8: 'uint_contents',
  UINT16: 'uint_contents',
  UINT32: 'uint_contents',
  UINT64: 'uint64_contents',
  FP32: 'fp32_contents',
  FP64: 'fp64_contents',
  BYTES: 'bytes_contents',
};

/** What is empty is left out: protobufjs would write it. */
export function toGrpcRequest(request: InferRequestMessage): Partial<GrpcInferRequest> {
  return {
    model_name: request.model,
    ...(request.version !== '' && { model_version: request.version }),
    ...(request.id !== '' && { id: request.id }),
    parameters: toGrpcParameters(request.parameters),
    inputs: describeTensors(request.inputs),
    outputs: request.outputs.map(({ name, parameters }) => ({ name, parameters: toGrpcParameters(parameters) })),
    raw_input_contents: rawContents(request.inputs),
  };
}

/** @throws NEOX_BAD_ARGUMENT for what is no request */
export function fromGrpcRequest(message: GrpcInferRequest): InferRequestMessage {
  return {
    model: message.model_name,
    version: message.model_version,
    id: message.id,
    parameters: fromGrpcParameters(message.parameters),
    inputs: readTensors(message.inputs, message.raw_input_contents, 'raw_input_contents'),
    outputs: message.outputs.map(({ name, parameters }) => ({ name, parameters: fromGrpcParameters(parameters) })),
  };
}

/** With an entry of raw bytes for each output, empty ones too: Triton's own Python client reads nothing else. */
export function toGrpcResponse(response: InferResponseMessage): GrpcInferResponse {
  return {
    model_name: response.model,
    model_version: response.version,
    id: response.id,
    parameters: toGrpcParameters(response.parameters),
    outputs: describeTensors(response.outputs),
    raw_output_contents: rawContents(response.outputs),
  };
}

/** @throws NEOX_BAD_ARGUMENT for what is no response */
export function fromGrpcResponse(message: GrpcInferResponse): InferResponseMessage {
  return {
    model: message.model_name,
    version: message.model_version,
    id: message.id,
    parameters: fromGrpcParameters(message.parameters),
    outputs: readTensors(message.outputs, message.raw_output_contents, 'raw_output_contents'),
  };
}

/** @throws NEOX_BAD_ARGUMENT for what is no response */
export function fromGrpcStream({
  error_message: error,
  infer_response: response,
}: GrpcStreamResponse): StreamedResponse {
  if (error !== '') return { error, id: response?.id ?? '' };
  if (response !== null) return { response: fromGrpcResponse(response) };
  throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', 'Expected a response or an error in a message of the stream');
}

function describeTensors(tensors: ReadonlyMap<string, Tensor>): GrpcTensor[] {
  return [...tensors].map(([name, { datatype, shape }]) => ({ name, datatype, shape }));
}

function rawContents(tensors: ReadonlyMap<string, Tensor>): Uint8Array[] {
  // protobufjs copies what is not a Buffer number by number.
  return [...tensors.values()].map((tensor) => {
    const bytes = tensorBytes(tensor);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  });
}

function readTensors(
  list: readonly GrpcTensor[],
  raw: readonly Uint8Array[],
  field: string,
): ReadonlyMap<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const bad = (message: string): NeoXPrefixError => new NeoXPrefixError('NEOX_BAD_ARGUMENT', message);
  if (raw.length > 0 && raw.length !== list.length)
    throw bad(`Expected an entry of ${field} for each of ${list.length} tensors but received ${raw.length}`);
  for (const [i, { name, datatype, shape: sizes, contents }] of list.entries()) {
    if (name === '') throw bad(`The tensor ${i} has no name`);
    if (tensors.has(name)) throw bad(`The tensor '${name}' is given twice`);
    const type = checkDatatype(`datatype of ${name}`, datatype);
    const shape = sizes.map(Number);
    const field64 = CONTENTS[type];
    const elements = field64 === undefined ? undefined : contents?.[field64];
    if (raw.length > 0) {
      if (contents && Object.values(contents).some((values: readonly unknown[]) => values.length > 0))
        throw bad(`The tensor '${name}' has contents beside ${field}: give one of them`);
      tensors.set(name, tensorFromBytes(name, type, shape, raw[i] as Uint8Array));
    } else if (elements === undefined) {
      throw bad(`The tensor '${name}' of type ${datatype} has no data`);
    } else {
      const isLong = type === 'INT64' || type === 'UINT64';
      tensors.set(name, fromElements(name, type, shape, isLong ? (elements as Long[]).map(BigInt) : elements));
    }
  }
  return tensors;
}

function toGrpcParameters(parameters: InferParameters): Record<string, GrpcParameter> {
  return Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, toGrpcParameter(value)]));
}

function toGrpcParameter(value: InferParameterValue): GrpcParameter {
  if (typeof value === 'boolean') return { bool_param: value };
  if (typeof value === 'string') return { string_param: value };
  if (typeof value === 'number' && !Number.isSafeInteger(value)) return { double_param: value };
  const isLarge = typeof value === 'bigint' && value >= 2n ** 63n;
  return isLarge ? { uint64_param: String(value) } : { int64_param: String(value) };
}

function fromGrpcParameters(parameters: Readonly<Record<string, GrpcParameter>> | undefined): InferParameters {
  const known: [string, InferParameterValue][] = [];
  for (const [name, parameter] of Object.entries(parameters ?? {})) {
    const value = fromGrpcParameter(parameter);
    if (value !== undefined) known.push([name, value]);
  }
  return Object.fromEntries(known);
}

function fromGrpcParameter(parameter: GrpcParameter): InferParameterValue | undefined {
  switch (parameter.parameter_choice) {
    case 'bool_param':
      return parameter.bool_param;
    case 'string_param':
      return parameter.string_param;
    case 'double_param':
      return parameter.double_param;
    case 'int64_param':
      return exact(parameter.int64_param);
    case 'uint64_param':
      return exact(parameter.uint64_param);
    default:
      return undefined;
  }
}

/** A number where that is exact, else a bigint. */
function exact(value: Long | undefined): number | bigint | undefined {
  if (value === undefined) return undefined;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : BigInt(value);
}
