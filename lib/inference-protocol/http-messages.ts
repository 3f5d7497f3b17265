import { isError } from '../base/errors';
// Requests and responses over HTTP: JSON, and behind it the bytes of those tensors that are not in the JSON (Triton's
// extension for binary tensor data). A header says how long the JSON is; without it all is JSON.
import { badArgument, show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { get, isObject, type JsonObject } from '../formats/json';
import type {
  InferParameters,
  InferParameterValue,
  InferRequestMessage,
  InferResponseMessage,
  RequestedOutput,
} from './messages';
import {
  checkDatatype,
  elementsOf,
  fromElements,
  jsonElements,
  type Tensor,
  tensorBytes,
  tensorFromBytes,
} from './tensors';

/** The header with the length of the JSON in bytes. */
export const JSON_LENGTH_HEADER = 'inference-header-content-length';

/** A body, in pieces; `jsonLength` is that of its JSON where tensors follow. */
export interface HttpBody {
  readonly chunks: readonly Uint8Array[];
  readonly jsonLength: number | undefined;
}

/** A request with all tensors in binary; so shall be those of the response. */
export function encodeHttpRequest(request: InferRequestMessage): HttpBody {
  const inputs = tensorsToJson(request.inputs, () => true);
  const asks = request.outputs.length > 0;
  const parameters = { ...jsonParameters(request.parameters), ...(!asks && { binary_data_output: true }) };
  const head = {
    ...(request.id !== '' && { id: request.id }),
    inputs: inputs.json,
    ...(asks && { outputs: request.outputs.map(({ name }) => ({ name, parameters: { binary_data: true } })) }),
    ...(Object.keys(parameters).length > 0 && { parameters }),
  };
  return withJson(head, inputs.chunks, true);
}

/** A response; a tensor is binary where `isBinary` says so for its name. */
export function encodeHttpResponse(response: InferResponseMessage, isBinary: (output: string) => boolean): HttpBody {
  const outputs = tensorsToJson(response.outputs, isBinary);
  const head = {
    model_name: response.model,
    model_version: response.version,
    ...(response.id !== '' && { id: response.id }),
    ...(Object.keys(response.parameters).length > 0 && { parameters: jsonParameters(response.parameters) }),
    outputs: outputs.json,
  };
  return withJson(head, outputs.chunks, outputs.chunks.length > 0);
}

function withJson(head: object, chunks: readonly Uint8Array[], tellsLength: boolean): HttpBody {
  const json = Buffer.from(JSON.stringify(head));
  return { chunks: [json, ...chunks], jsonLength: tellsLength ? json.length : undefined };
}

function tensorsToJson(
  tensors: ReadonlyMap<string, Tensor>,
  isBinary: (name: string) => boolean,
): { json: object[]; chunks: Uint8Array[] } {
  const chunks: Uint8Array[] = [];
  const json = [...tensors].map(([name, tensor]) => {
    const { datatype, shape } = tensor;
    if (!isBinary(name)) return { name, shape, datatype, data: jsonElements(name, tensor) };
    const bytes = tensorBytes(tensor);
    chunks.push(bytes);
    return { name, shape, datatype, parameters: { binary_data_size: bytes.length } };
  });
  return { json, chunks };
}

function jsonParameters(parameters: InferParameters): Record<string, boolean | number | string> {
  return Object.fromEntries(
    Object.entries(parameters).map(([name, value]) => {
      if (typeof value !== 'bigint') return [name, value];
      if (Number.isSafeInteger(Number(value))) return [name, Number(value)];
      throw badArgument(name, 'an integer of less than 2^53, which is what JSON can tell,', value);
    }),
  );
}

/**
 * Reads a request's body.
 * @param jsonLength what the header says, if it is there
 * @throws NEOX_BAD_ARGUMENT for what is no request: JSON of another form, bytes too many or too few
 */
export function decodeHttpRequest(
  body: Uint8Array,
  jsonLength: number | undefined,
  model: string,
  version = '',
): InferRequestMessage {
  const { head, rest } = splitBody(body, jsonLength);
  const outputs = listOf(head, 'outputs').map(requestedOutput);
  return {
    model,
    version,
    id: textOf(head, 'id'),
    parameters: parametersOf(head, 'the request'),
    inputs: readTensors(listOf(head, 'inputs'), rest),
    outputs,
  };
}

/**
 * Reads a response's body.
 * @throws NEOX_BAD_ARGUMENT for what is no response
 */
export function decodeHttpResponse(body: Uint8Array, jsonLength: number | undefined): InferResponseMessage {
  const { head, rest } = splitBody(body, jsonLength);
  return {
    model: textOf(head, 'model_name'),
    version: textOf(head, 'model_version'),
    id: textOf(head, 'id'),
    parameters: parametersOf(head, 'the response'),
    outputs: readTensors(listOf(head, 'outputs'), rest),
  };
}

/** Whether a request wants an output as bytes: what it says of that output, else of all, else no. */
export function wantsBinary({ parameters, outputs }: InferRequestMessage): (output: string) => boolean {
  const all = parameters['binary_data_output'] === true;
  return (name) => {
    const own = outputs.find((output) => output.name === name)?.parameters['binary_data'];
    return own === undefined ? all : own === true;
  };
}

function splitBody(body: Uint8Array, jsonLength = body.length): { head: JsonObject; rest: Uint8Array } {
  if (!Number.isSafeInteger(jsonLength) || jsonLength < 0 || jsonLength > body.length) {
    throw refusal(
      `Inference-Header-Content-Length is ${jsonLength}, and the body has ${body.length} bytes: expected a length within the body`,
    );
  }
  let head: unknown;
  try {
    head = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body.subarray(0, jsonLength)));
  } catch (error) {
    throw refusal(`The body is no JSON: ${isError(error) ? error.message : String(error)}`);
  }
  if (!isObject(head)) throw refusal(`Expected a JSON object as the body but received ${show(head)}`);
  return { head, rest: body.subarray(jsonLength) };
}

function refusal(message: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', message);
}

function readTensors(list: readonly unknown[], bytes: Uint8Array): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  let at = 0;
  for (const [i, item] of list.entries()) {
    if (!isObject(item)) throw badArgument(`tensor ${i}`, 'an object', item);
    const name = textOf(item, 'name');
    if (name === '') throw badArgument(`name of tensor ${i}`, 'a non-empty string', get(item, 'name'));
    if (tensors.has(name)) throw refusal(`The tensor '${name}' is given twice`);
    const datatype = checkDatatype(`datatype of ${name}`, get(item, 'datatype'));
    const shape = get(item, 'shape') as number[];
    elementsOf(`shape of ${name}`, shape);
    const size = parametersOf(item, name)['binary_data_size'];
    const data = get(item, 'data');
    if (size === undefined) {
      if (data === undefined) throw refusal(`The tensor '${name}' has neither data nor binary_data_size`);
      if (datatype === 'FP16' || datatype === 'BF16')
        throw refusal(`The tensor '${name}' of type ${datatype} has JSON data, and takes binary data alone`);
      tensors.set(name, fromElements(name, datatype, shape, data));
      continue;
    }
    if (data !== undefined) throw refusal(`The tensor '${name}' has both data and binary_data_size`);
    if (!Number.isSafeInteger(size) || (size as number) < 0 || at + (size as number) > bytes.length) {
      throw refusal(
        `The tensor '${name}' has a binary_data_size of ${show(size)}, and ${bytes.length - at} bytes are left`,
      );
    }
    tensors.set(name, tensorFromBytes(name, datatype, shape, bytes.subarray(at, at + (size as number))));
    at += size as number;
  }
  if (at !== bytes.length) throw refusal(`The body has ${bytes.length - at} bytes that belong to no tensor`);
  return tensors;
}

function requestedOutput(item: unknown, i: number): RequestedOutput {
  if (!isObject(item)) throw badArgument(`outputs[${i}]`, 'an object', item);
  const name = textOf(item, 'name');
  if (name === '') throw badArgument(`outputs[${i}].name`, 'a non-empty string', get(item, 'name'));
  return { name, parameters: parametersOf(item, name) };
}

function listOf(object: JsonObject, key: string): readonly unknown[] {
  const value = get(object, key) ?? [];
  if (!Array.isArray(value)) throw badArgument(key, 'an array', value);
  return value;
}

function textOf(object: JsonObject, key: string): string {
  const value = get(object, key) ?? '';
  if (typeof value !== 'string') throw badArgument(key, 'a string', value);
  return value;
}

/** Numbers that are whole are those of integers. */
function parametersOf(object: JsonObject, owner: string): InferParameters {
  const value = get(object, 'parameters') ?? {};
  if (!isObject(value)) throw badArgument(`parameters of ${owner}`, 'an object', value);
  const known: [string, InferParameterValue][] = [];
  for (const [name, parameter] of Object.entries(value)) {
    if (typeof parameter !== 'boolean' && typeof parameter !== 'number' && typeof parameter !== 'string')
      throw badArgument(`parameter ${name} of ${owner}`, 'a boolean, a number or a string', parameter);
    known.push([name, parameter]);
  }
  return Object.fromEntries(known);
}
