import type { Tensor } from './tensors';

/** What a request or a response carries beside its tensors. */
export type InferParameterValue = boolean | number | bigint | string;
export type InferParameters = Readonly<Record<string, InferParameterValue>>;

/** A request of the protocol, whatever it came over. */
export interface InferRequestMessage {
  readonly model: string;
  /** '': the newest. */
  readonly version: string;
  /** '': none; a response has that of its request. */
  readonly id: string;
  readonly parameters: InferParameters;
  readonly inputs: ReadonlyMap<string, Tensor>;
  /** The outputs that are wanted; empty: all. */
  readonly outputs: readonly RequestedOutput[];
}

export interface RequestedOutput {
  readonly name: string;
  readonly parameters: InferParameters;
}

/** A response of the protocol. */
export interface InferResponseMessage {
  readonly model: string;
  readonly version: string;
  readonly id: string;
  readonly parameters: InferParameters;
  readonly outputs: ReadonlyMap<string, Tensor>;
}

/** One of several responses to a request, over a stream. */
export type StreamedResponse =
  { readonly error: string; readonly id: string } | { readonly response: InferResponseMessage };

/** The parameter by which Triton marks the last response to a request of a stream. */
export const FINAL_RESPONSE = 'triton_final_response';
/** The parameter of a request that asks for a last response, without outputs where all have been sent. */
export const WANTS_FINAL_RESPONSE = 'triton_enable_empty_final_response';
