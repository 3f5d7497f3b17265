import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';
import type { EngineRequest } from '../../engine/engine-request';
import type { GenerationEngine } from '../../engine/engine';
import type { Completion, Usage } from '../../generation/output';
import type { InferParameterValue, InferRequestMessage } from '../../inference-protocol/messages';
import { type Tensor, tensor } from '../../inference-protocol/tensors';
import { oneNumber, type Outputs, type ServedModel, type TensorSpec, textsOf } from './served-model';

const input = (name: string, datatype: TensorSpec['datatype'], dims: readonly number[] = [1]): TensorSpec => ({
  name,
  datatype,
  dims,
  optional: true,
});
const output = (name: string, datatype: TensorSpec['datatype'], dims: readonly number[] = [-1]): TensorSpec => ({
  name,
  datatype,
  dims,
  optional: false,
});

/** The options of a request, by the names of inputs and of parameters. */
const OPTIONS = {
  max_tokens: { datatype: 'INT32', option: 'maxNewTokens' },
  n: { datatype: 'INT32', option: 'n' },
  top_k: { datatype: 'INT32', option: 'topK' },
  min_tokens: { datatype: 'INT32', option: 'minNewTokens' },
  temperature: { datatype: 'FP32', option: 'temperature' },
  top_p: { datatype: 'FP32', option: 'topP' },
  repetition_penalty: { datatype: 'FP32', option: 'repetitionPenalty' },
  presence_penalty: { datatype: 'FP32', option: 'presencePenalty' },
  frequency_penalty: { datatype: 'FP32', option: 'frequencyPenalty' },
  seed: { datatype: 'UINT64', option: 'seed' },
  stop: { datatype: 'BYTES', option: 'stop' },
  bad_words: { datatype: 'BYTES', option: 'badWords' },
  ignore_eos: { datatype: 'BOOL', option: 'ignoreEos' },
} as const satisfies Record<string, { datatype: TensorSpec['datatype']; option: keyof EngineRequest }>;
type OptionName = keyof typeof OPTIONS;
const OPTION_NAMES = Object.keys(OPTIONS) as OptionName[];

/** By option; a word that is no option's name alone stays as it is. */
const OPTION_WORDS: Readonly<Record<string, string>> = Object.fromEntries(
  OPTION_NAMES.map((name): [string, string] => [OPTIONS[name].option, name]).filter(
    ([option, name]) => option !== name,
  ),
);

const INPUTS: readonly TensorSpec[] = [
  input('text_input', 'BYTES', [-1]),
  input('input_ids', 'INT32', [-1]),
  ...OPTION_NAMES.map((name) => {
    const { datatype } = OPTIONS[name];
    return input(name, datatype, datatype === 'BYTES' ? [-1] : [1]);
  }),
  input('stream', 'BOOL'),
  input('logprobs', 'BOOL'),
];

const OUTPUTS: readonly TensorSpec[] = [
  output('text_output', 'BYTES'),
  output('output_ids', 'INT32'),
  output('finish_reason', 'BYTES'),
  output('token_logprobs', 'FP32'),
  output('usage', 'INT32', [3]),
];

/** What a request may bring as parameters, as the generate extension does: all inputs but texts and ids. */
const PARAMETERS: ReadonlySet<string> = new Set([...OPTION_NAMES, 'stream', 'logprobs']);

/** Most tokens where a request does not say. */
const MAX_TOKENS = 16;

/**
 * The base model, or a prefix, under its name: text in, text out. Several texts in `text_input` are several prompts,
 * which are taken all or none.
 */
export class TextModel implements ServedModel {
  readonly platform = '';
  readonly backend = 'neox-prefix';
  readonly maxBatchSize = 0;
  readonly decoupled = true;
  readonly inputs = INPUTS;
  readonly outputs = OUTPUTS;
  readonly parameters = {};
  readonly optionNames = OPTION_WORDS;

  /** @param prefix its name in the engine's store; undefined for the base model */
  constructor(
    readonly name: string,
    private readonly engine: GenerationEngine,
    private readonly prefix: string | undefined,
  ) {}

  async infer(request: InferRequestMessage, signal: AbortSignal): Promise<Outputs> {
    const requests = this.requestsOf(request);
    const results = await this.engine.generate(requests.map((one) => ({ ...one, signal })));
    const completions = results.flatMap((result) => result.completions ?? [result]);
    return outputsOf(completions, usageOf(results.map(({ usage }) => usage)));
  }

  async *stream(request: InferRequestMessage, signal: AbortSignal): AsyncGenerator<Outputs, void, undefined> {
    if (flag(request, 'stream') === false) {
      yield await this.infer(request, signal);
      return;
    }
    const requests = this.requestsOf(request);
    const [one] = requests;
    if (one === undefined || requests.length > 1) throw badArgument('text_input', 'one text for a stream', requests);
    if ((one.n ?? 1) !== 1) throw badArgument('n', '1 for a stream', one.n);
    for await (const piece of this.engine.stream({ ...one, signal })) {
      const { text, token, logprob, finishReason, usage } = piece;
      const outputs = new Map<string, Tensor>([['text_output', tensor('BYTES', [text])]]);
      if (token !== undefined) outputs.set('output_ids', tensor('INT32', [token]));
      if (logprob !== undefined) outputs.set('token_logprobs', tensor('FP32', [logprob.logprob]));
      if (finishReason !== undefined) outputs.set('finish_reason', tensor('BYTES', [finishReason]));
      if (usage !== undefined) outputs.set('usage', usageOf([usage]));
      yield outputs;
    }
  }

  private requestsOf(request: InferRequestMessage): EngineRequest[] {
    for (const name of Object.keys(request.parameters)) {
      if (PARAMETERS.has(name) && request.inputs.has(name))
        throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `'${name}' is given as an input and as a parameter`);
    }
    const options: Record<string, unknown> = { maxNewTokens: MAX_TOKENS };
    for (const name of OPTION_NAMES) {
      const { datatype, option } = OPTIONS[name];
      const value = valueOf(request, name, datatype);
      // Names of the engine's options would mean nothing to the caller, so the commonest mistake is told here.
      if (datatype === 'INT32' && value !== undefined && (!Number.isSafeInteger(value) || (value as number) < 0))
        throw badArgument(name, 'an integer of at least 0', value);
      if (value !== undefined) options[option] = value;
    }
    if (flag(request, 'logprobs') === true) options['logprobs'] = 0;
    const shared = { ...options, ...(this.prefix !== undefined && { prefix: this.prefix }) };
    return promptsOf(request).map((prompt) => ({ ...shared, prompt }));
  }
}

function promptsOf({ inputs }: InferRequestMessage): (string | Int32Array)[] {
  const text = inputs.get('text_input');
  const ids = inputs.get('input_ids');
  if ((text === undefined) === (ids === undefined)) {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', 'Expected one of the inputs text_input and input_ids');
  }
  if (ids !== undefined) return [ids.data as Int32Array];
  const texts = textsOf('text_input', text as Tensor);
  if (texts.length === 0) throw badArgument('text_input', 'at least one text', texts);
  return texts;
}

function flag(request: InferRequestMessage, name: string): boolean | undefined {
  return valueOf(request, name, 'BOOL') as boolean | undefined;
}

/** What an option is set to, by an input or a parameter of its name. */
function valueOf(
  { inputs, parameters }: InferRequestMessage,
  name: string,
  datatype: TensorSpec['datatype'],
): number | boolean | string[] | undefined {
  const given = inputs.get(name);
  if (given !== undefined) {
    if (datatype === 'BYTES') return textsOf(name, given);
    return plainNumber(name, oneNumber(name, given));
  }
  const parameter: InferParameterValue | undefined = Object.hasOwn(parameters, name) ? parameters[name] : undefined;
  if (parameter === undefined) return undefined;
  if (datatype === 'BYTES') {
    if (typeof parameter !== 'string') throw badArgument(name, 'a string', parameter);
    return [parameter];
  }
  if (datatype === 'BOOL') {
    if (typeof parameter !== 'boolean') throw badArgument(name, 'a boolean', parameter);
    return parameter;
  }
  if (typeof parameter !== 'number' && typeof parameter !== 'bigint') throw badArgument(name, 'a number', parameter);
  return plainNumber(name, parameter);
}

function plainNumber(name: string, value: number | bigint | boolean): number | boolean {
  if (typeof value !== 'bigint') return value;
  if (value >= 0n && value < 2n ** 53n) return Number(value);
  throw badArgument(name, 'an integer from 0 to 2^53 - 1', value);
}

/** Prompt, answer and both in tokens. */
function usageOf(usages: readonly Usage[]): Tensor {
  const prompt = usages.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
  const completion = usages.reduce((sum, { completionTokens }) => sum + completionTokens, 0);
  return tensor('INT32', [prompt, completion, prompt + completion]);
}

function outputsOf(completions: readonly Completion[], usage: Tensor): Outputs {
  const texts = (of: (completion: Completion) => string): Tensor => tensor('BYTES', completions.map(of));
  const outputs = new Map<string, Tensor>([
    ['text_output', texts(({ text }) => text)],
    ['finish_reason', texts(({ finishReason }) => finishReason)],
    ['usage', usage],
  ]);
  const [first, ...others] = completions;
  if (first === undefined || others.length > 0) return outputs;
  outputs.set('output_ids', tensor('INT32', first.tokens));
  if (first.logprobs !== undefined)
    outputs.set(
      'token_logprobs',
      tensor(
        'FP32',
        first.logprobs.map(({ logprob }) => logprob),
      ),
    );
  return outputs;
}
