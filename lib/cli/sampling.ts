import { InvalidArgumentError, type Option } from 'commander';
import type { GenerateOptions } from '../generation/request';
import { UsageError } from './usage-errors';
import { collect, given, integer, number, option } from './flags';

/** Flags of `generate` that choose tokens. */
export interface SamplingFlags {
  maxNewTokens?: number;
  minNewTokens?: number;
  decodeMethod?: 'nucleus' | 'sample' | 'greedy';
  topP?: number;
  topPRule?: 'huggingface' | 'rinna';
  topK?: number;
  minP?: number;
  typicalP?: number;
  temperature?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  noRepeatNgramSize?: number;
  badWord?: string[];
  logitBias?: Record<string, number>;
  eosTokenId?: number[];
  ignoreEos?: boolean;
  stop?: string[];
  n?: number;
  numBeams?: number;
  lengthPenalty?: number;
  earlyStopping?: true | 'never';
  numReturnSequences?: number;
  logprobs?: number;
  promptLogprobs?: number;
}

/** rinna's prefix_inference.py. */
const NUCLEUS = { topP: 0.95, topK: 50 };

export function samplingFlags(): { generation: Option[]; penalties: Option[]; beams: Option[]; scores: Option[] } {
  const fraction = number(1e-6, 1);
  return {
    generation: [
      option('--max-output-len, --max-new-tokens <n>', 'most tokens to generate', { parse: integer(0), default: 128 }),
      option('--min-new-tokens <n>', 'no end before so many tokens', { parse: integer(0), default: 0 }),
      option(
        '--decode-method <how>',
        'nucleus: by --top-p and --top-k; sample: from all tokens; greedy: always the most likely token',
        {
          choices: ['nucleus', 'sample', 'greedy'],
          default: 'nucleus',
        },
      ),
      option('--temperature <t>', 'divides the logits; 0: greedy', { parse: number(0, 1e4), default: 1 }),
      option('--top-k <k>', 'draw from the k most likely tokens; 0: from all', {
        parse: integer(0),
        default: NUCLEUS.topK,
      }),
      option('--top-p <p>', 'draw from the most likely tokens that reach this probability', {
        parse: fraction,
        default: NUCLEUS.topP,
      }),
      option(
        '--top-p-rule <rule>',
        "whether the token that crosses p is among them: Hugging Face's rule keeps it, rinna's does not",
        {
          choices: ['huggingface', 'rinna'],
          default: 'huggingface',
        },
      ),
      option('--min-p <p>', 'draw from tokens at least this fraction as likely as the most likely one', {
        parse: number(0, 1),
        default: 0,
      }),
      option('--typical-p <p>', 'locally typical sampling', { parse: fraction, default: 1 }),
      option('--ignore-eos', 'go on at the end-of-sequence token'),
      option<number[]>('--eos-token-id <id>', "end at this token instead of the model's own; may be repeated", {
        parse: (text, before) => [...(before ?? []), integer(0)(text)],
      }),
      option<string[]>('--stop <text>', 'end before this text; may be repeated', { parse: collect }),
      option('--n <n>', 'texts for each prompt', { parse: integer(1), default: 1 }),
    ],
    penalties: [
      option('--repetition-penalty <x>', 'above 1: tokens of the prompt and the text become less likely', {
        parse: number(1e-6, 1e4),
        default: 1,
      }),
      option('--presence-penalty <x>', 'subtracted from the logits of generated tokens', {
        parse: number(-1e4, 1e4),
        default: 0,
      }),
      option('--frequency-penalty <x>', 'subtracted for each time that a token was generated', {
        parse: number(-1e4, 1e4),
        default: 0,
      }),
      // commander takes `--no-` for a negation, which this is not.
      Object.assign(
        option('--no-repeat-ngram-size <n>', 'sequences of n tokens come only once; 0: any', {
          parse: integer(0),
          default: 0,
        }),
        {
          negate: false,
        },
      ),
      option<string[]>('--bad-word <text>', 'a word that must not come; may be repeated', { parse: collect }),
      option<Record<string, number>>(
        '--logit-bias <id=x>',
        'added to the logit of a token; -inf bans it; may be repeated',
        {
          parse: bias,
        },
      ),
    ],
    beams: [
      option('--num-beams <n>', 'beam search with n beams, instead of drawing', { parse: integer(1), default: 1 }),
      option('--length-penalty <x>', 'above 0 longer texts gain, below 0 shorter ones', {
        parse: number(-100, 100),
        default: 1,
      }),
      option('--early-stopping [never]', 'stop once n texts are finished; never: once no better one can come', {
        parse: early,
      }),
      option('--num-return-sequences <n>', 'texts to give of each search', { parse: integer(1), default: 1 }),
    ],
    scores: [
      option('--logprobs <k>', 'with --json: log-probabilities of the tokens, and of the k most likely ones', {
        parse: integer(0, 100),
      }),
      option('--prompt-logprobs <k>', 'the same for the prompt', { parse: integer(0, 100) }),
    ],
  };
}

/** What the library takes for the flags. */
export function samplingOptions(flags: SamplingFlags): GenerateOptions {
  const { decodeMethod, topP, topPRule, topK, temperature, badWord, eosTokenId, numBeams = 1, ...rest } = flags;
  const {
    maxNewTokens,
    minNewTokens,
    minP,
    typicalP,
    repetitionPenalty,
    presencePenalty,
    frequencyPenalty,
    noRepeatNgramSize,
  } = rest;
  const {
    logitBias,
    ignoreEos,
    stop,
    n = 1,
    lengthPenalty,
    earlyStopping,
    numReturnSequences,
    logprobs,
    promptLogprobs,
  } = rest;
  const common = given({
    ...{
      maxNewTokens,
      minNewTokens,
      minP,
      typicalP,
      repetitionPenalty,
      presencePenalty,
      frequencyPenalty,
      noRepeatNgramSize,
      logitBias,
    },
    ...{
      ignoreEos,
      stop,
      n: n === 1 ? undefined : n,
      lengthPenalty,
      earlyStopping,
      numReturnSequences,
      logprobs,
      promptLogprobs,
    },
    ...{ badWords: badWord, eosTokenIds: eosTokenId },
  });
  if (numBeams === 1) {
    for (const [name, value] of Object.entries({ lengthPenalty, earlyStopping, numReturnSequences })) {
      if (value !== undefined)
        throw new UsageError(`--${kebab(name)} is an option of beam search`, 'set --num-beams above 1');
    }
  } else {
    if (decodeMethod !== undefined)
      throw new UsageError(`--decode-method ${decodeMethod} and --num-beams ${numBeams} do not go together`);
    return { ...common, numBeams, ...given({ topP, topPRule, topK, temperature }) };
  }
  if (decodeMethod !== undefined && decodeMethod !== 'nucleus' && (topP !== undefined || topK !== undefined)) {
    throw new UsageError(`--top-p and --top-k have no effect with --decode-method ${decodeMethod}`);
  }
  if (decodeMethod === 'greedy') return { ...common, temperature: 0 };
  const nucleus =
    decodeMethod === 'sample' ? {} : { topP: topP ?? NUCLEUS.topP, topK: topK ?? NUCLEUS.topK, ...given({ topPRule }) };
  return { ...common, temperature: temperature ?? 1, ...nucleus };
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** ID=NUMBER, more than once. */
function bias(text: string, before: Record<string, number> | undefined): Record<string, number> {
  const [, id, value] = /^(\d+)=(.+)$/.exec(text) ?? [];
  const amount = value === '-inf' ? -Infinity : Number(value);
  if (id === undefined || Number.isNaN(amount)) throw new InvalidArgumentError('Expected ID=NUMBER or ID=-inf.');
  return { ...before, [id]: amount };
}

/** Given without a value it is `true`, which commander sets itself. */
function early(text: string): string {
  if (text !== 'never') throw new InvalidArgumentError("Expected nothing or 'never'.");
  return text;
}
