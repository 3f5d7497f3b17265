import { InvalidArgumentError, type Option } from 'commander';
import { UsageError } from './usage-errors';
import type { GenerationDefaults } from '../architecture/generation-config';
import { namesOf, pick, without } from '../base/options';
import { BEAM_OPTIONS } from '../generation/beam-options';
import { GENERATE_OPTIONS, type GenerateOptions } from '../generation/request';
import { collect, given, integer, kebab, option, optionOf, type Otherwise } from './flags';

/** rinna's prefix_inference.py. */
const NUCLEUS = { topP: 0.95, topK: 50 };

const OPTIONS = without(GENERATE_OPTIONS, 'prefix', 'seed', 'format', 'signal');
type OptionName = keyof typeof OPTIONS;
const SAME_NAME = without(OPTIONS, 'badWords', 'eosTokenIds');

/** Flags of `generate` that choose tokens: options of the library, two of them under another name, and one more. */
export interface SamplingFlags extends Pick<GenerateOptions, keyof typeof SAME_NAME> {
  decodeMethod?: 'nucleus' | 'sample' | 'greedy';
  badWord?: string[];
  eosTokenId?: number[];
}

/** Where the command line differs from the table of the library. */
const OTHERWISE: Partial<Record<OptionName, Otherwise>> = {
  maxNewTokens: { flags: '--max-output-len, --max-new-tokens <n>' },
  topK: { default: NUCLEUS.topK },
  topP: { default: NUCLEUS.topP },
  eosTokenIds: {
    flags: '--eos-token-id <id>',
    help: 'end at this token; may be repeated',
    parse: (text: string, before: number[] | undefined) => [...(before ?? []), integer(0)(text)],
  },
  stop: { flags: '--stop <text>', help: 'end before this text; may be repeated', parse: collect },
  badWords: { flags: '--bad-word <text>', help: 'a word that must not come; may be repeated', parse: collect },
  logitBias: {
    flags: '--logit-bias <id=x>',
    help: 'added to the logit of a token; -inf bans it; may be repeated',
    parse: bias,
  },
  earlyStopping: { flags: '--early-stopping [never]', parse: early },
  logprobs: { help: `with --json: ${OPTIONS.logprobs.help}` },
};

/** The groups of the help; what is in none of them is in the first. */
const GROUPS: readonly (readonly [group: SamplingGroup, names: readonly string[]])[] = [
  ['Generation', []],
  [
    'Penalties',
    ['repetitionPenalty', 'presencePenalty', 'frequencyPenalty', 'noRepeatNgramSize', 'badWords', 'logitBias'],
  ],
  ['Beam search', namesOf(BEAM_OPTIONS)],
  ['Output', ['logprobs', 'promptLogprobs']],
];
export type SamplingGroup = 'Generation' | 'Penalties' | 'Beam search' | 'Output';

/** The flags of a group, in the order of the table. */
export function samplingFlags(group: SamplingGroup): Option[] {
  const groupOf = (name: string): SamplingGroup =>
    GROUPS.find(([, names]) => names.includes(name))?.[0] ?? 'Generation';
  const options = namesOf(OPTIONS)
    .filter((name) => groupOf(name) === group)
    .map((name) => {
      const made = optionOf(name, OPTIONS[name], OTHERWISE[name]);
      // commander takes `--no-repeat-ngram-size` for a negation, which it is not.
      made.negate = false;
      return made;
    });
  return group === 'Generation' ? [DECODE_METHOD(), ...options] : options;
}

const DECODE_METHOD = (): Option =>
  option(
    '--decode-method <how>',
    'nucleus: by --top-p and --top-k; sample: from all tokens; greedy: always the most likely token',
    { choices: ['nucleus', 'sample', 'greedy'], default: 'nucleus' },
  );

/**
 * What the library takes for the flags.
 * @param defaults what the model itself says of them: where it says how to draw, that is the default
 */
export function samplingOptions(flags: SamplingFlags, defaults: GenerationDefaults = {}): GenerateOptions {
  const { decodeMethod, badWord, eosTokenId, numBeams = 1, n = 1 } = flags;
  const { topP, topPRule, topK, temperature, ...rest } = pick(flags, ...namesOf(SAME_NAME));
  const others = { ...rest, badWords: badWord, eosTokenIds: eosTokenId, n: n === 1 ? undefined : n };
  const common = given({ ...others, numBeams: undefined });
  if (numBeams === 1) {
    for (const name of namesOf(BEAM_OPTIONS)) {
      if (name !== 'numBeams' && flags[name] !== undefined)
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
  const { temperature: heat, topK: most, topP: share } = defaults;
  if (decodeMethod === undefined && [heat, most, share].some((value) => value !== undefined))
    return { ...common, ...given({ topP, topPRule, topK, temperature }) };
  const nucleus =
    decodeMethod === 'sample' ? {} : { topP: topP ?? NUCLEUS.topP, topK: topK ?? NUCLEUS.topK, ...given({ topPRule }) };
  return { ...common, temperature: temperature ?? 1, ...nucleus };
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
