import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import type { InferRequestMessage } from '../../inference-protocol/messages';
import type { Tensor, TensorDatatype } from '../../inference-protocol/tensors';

/** An input or output of a model. Above `maxBatchSize` 0 the dimension of rows stands in front of `dims`. */
export interface TensorSpec {
  readonly name: string;
  readonly datatype: TensorDatatype;
  /** -1: any size. */
  readonly dims: readonly number[];
  readonly optional: boolean;
}

export type Outputs = ReadonlyMap<string, Tensor>;

/** A model as the Open Inference Protocol knows it. */
export interface ServedModel {
  readonly name: string;
  readonly platform: string;
  readonly backend: string;
  /** Most rows of a request; 0: shapes have no dimension for rows. */
  readonly maxBatchSize: number;
  /** Whether its configuration says that it answers over streams. */
  readonly decoupled: boolean;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** Parameters of its configuration. */
  readonly parameters: Readonly<Record<string, string>>;
  /** What its inputs are called in the engine's errors. */
  readonly optionNames: Readonly<Record<string, string>>;
  /** @throws NEOX_BAD_ARGUMENT; NEOX_UNSUPPORTED where it answers over streams alone; what an engine throws */
  infer(request: InferRequestMessage, signal: AbortSignal): Promise<Outputs>;
  /** Several responses. Leaving the loop frees the row. @throws as `infer` */
  stream(request: InferRequestMessage, signal: AbortSignal): AsyncIterable<Outputs, void, undefined>;
}

/** Refuses inputs and outputs that a model does not have. */
export function checkNames({ inputs, outputs, name }: ServedModel, request: InferRequestMessage): void {
  const bad = (message: string): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_ARGUMENT', `${message} for model '${name}'`);
  for (const [given, { datatype }] of request.inputs) {
    const spec = inputs.find((one) => one.name === given);
    if (spec === undefined) throw bad(`unexpected inference input '${given}'`);
    if (spec.datatype !== datatype)
      throw bad(`inference input '${given}' is of type ${datatype}, expected ${spec.datatype}`);
  }
  for (const { name: asked } of request.outputs)
    if (!outputs.some((one) => one.name === asked)) throw bad(`unexpected inference output '${asked}'`);
}

/** The outputs that were asked for; all where none is named. */
export function askedOutputs({ outputs: asked }: InferRequestMessage, outputs: Outputs): Outputs {
  return asked.length === 0
    ? outputs
    : new Map([...outputs].filter(([name]) => asked.some((one) => one.name === name)));
}

/** The one number of an input of shape [1] (or []). */
export function oneNumber(name: string, tensor: Tensor): number | bigint | boolean {
  const { datatype, data, shape } = tensor;
  if (data.length !== 1 || datatype === 'BYTES')
    throw badArgument(name, 'one number, of shape [1]', `[${shape.join()}]`);
  const [value] = data;
  return datatype === 'BOOL' ? value === 1 : (value as number | bigint);
}

/** The texts of an input of BYTES. @throws NEOX_BAD_ARGUMENT for bytes that are not UTF-8 */
export function textsOf(name: string, tensor: Tensor): string[] {
  if (tensor.datatype !== 'BYTES') throw badArgument(name, 'BYTES', tensor.datatype);
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  return tensor.data.map((bytes, i) => {
    try {
      return utf8.decode(bytes);
    } catch {
      throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `Expected UTF-8 for ${name}[${i}] but received other bytes`);
    }
  });
}

/** An error that speaks of the engine's options, in the words of the request. */
export function inWireNames(error: unknown, { optionNames }: ServedModel): unknown {
  if (!(error instanceof NeoXPrefixError) || error.code !== 'NEOX_BAD_ARGUMENT') return error;
  const message = error.message.replace(/\b[a-z]+[A-Za-z]*\b/g, (word) =>
    Object.hasOwn(optionNames, word) ? (optionNames[word] as string) : word,
  );
  return message === error.message ? error : new NeoXPrefixError(error.code, message, { cause: error });
}
