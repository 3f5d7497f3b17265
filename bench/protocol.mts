// How the program talks with its peers: one child process each, a JSON object a line on stdin and stdout.

/** What a measured piece of work took. */
export interface Work {
  seconds: number;
  /** How much was done in that time: tokens, requests, bytes or FLOP. */
  amount: number;
}

/** The questions that peers answer, with their arguments and answers. A peer need not know all. */
export interface Operations {
  /** Loads the model once for all that follows; `scratch` is an empty folder for the peer alone. */
  load: [args: { model: string; threads: number; scratch: string }, answer: Work];
  /** The likeliest next token of each prompt, and the log probabilities of some tokens after each. */
  check: [args: { prompts: number[][]; probes: number[] }, answer: { tokens: number[]; logProbabilities: number[][] }];
  /** Training steps on rows of tokens that are all targets. Amount: tokens of the rows. */
  train: [args: { rows: number; length: number; steps: number }, answer: Work];
  /**
   * One pass over the samples (token ids) of a JSON file, by the recipe: batches of 4, each sample with and without its
   * first token.
   */
  epoch: [args: { file: string }, answer: Work];
  /** One prompt up to the logits behind it. Amount: its tokens. */
  prefill: [args: { length: number }, answer: Work];
  /**
   * Greedy generation from prompts of one token, the rows with different prefixes where the peer can. Amount: new
   * tokens.
   */
  decode: [args: { rows: number; tokens: number }, answer: Work];
  /**
   * Requests of one token in and one out. 'same': under one prefix; 'swap': under two that take turns; 'disk': each
   * under a prefix that is read from its file for it. Amount: requests.
   */
  requests: [args: { prefix: 'same' | 'swap' | 'disk'; count: number }, answer: Work];
  /** The FasterTransformer export in float16. Amount: bytes written. */
  export: [args: { model: string; scratch: string }, answer: Work];
  /** One row token by token through JavaScript, greedily, and the time that its thread was running. Amount: tokens. */
  stream: [args: { tokens: number }, answer: Work & { jsSeconds: number }];
  /** Trains beside a timer of 50 ms. Seconds: how late it was at worst. */
  lateness: [args: { rows: number; length: number; steps: number }, answer: Work];
  /** A limit of the machine; the peer runs it a few times and gives the best. Amount: FLOP or bytes. */
  limit: [args: { what: Limit; threads: number }, answer: Work];
}

export type Operation = keyof Operations;

export const LIMITS = ['float32', 'bfloat16', 'int8', 'read', 'copy'] as const;
/** A dtype: products of square matrices. 'read': the sum over memory; 'copy': bytes copied. */
export type Limit = (typeof LIMITS)[number];

/** Positions of the prefixes that peers train and generate with. */
export const PREFIX_LENGTH = 10;

export interface Question {
  id: number;
  operation: Operation;
  args: unknown;
}

export type Answer = { id: number; answer: unknown } | { id: number; error: string };
