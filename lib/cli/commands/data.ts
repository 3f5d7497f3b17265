import { maxPositions } from '../../architecture/rope';
import { openCheckpoint } from '../../checkpoint/open';
import type { TokenizedDataset } from '../../data/tokenized-dataset';
import { Tokenizer } from '../../tokenizer/tokenizer';
import type { CommandSpec } from '../command';
import { checkData, type ReadingFlags, readingOptions, readSamples } from '../data';
import { fields } from '../text-columns';
import { MODEL_DIR, PREFIX_LENGTH } from '../model';
import { integer, option } from '../flags';
import type { Ui } from '../ui';

export interface DataCommandFlags extends ReadingFlags {
  args: string[];
  model: string;
  tokenizer?: string;
  prefixSeqLen?: number;
}

const DESCRIPTION = `Reads training data as 'train' would, says what is wrong with it by file and line, and counts its samples and tokens.

Of the model only the tokenizer and the configuration are read.`;

const EXAMPLES = `
Examples:
  $ neox-prefix data train.jsonl valid.jsonl --model models/pythia-410m
  $ neox-prefix data chats.jsonl.gz --model models/japanese-gpt-neox-3.6b-instruction-ppo --over-long truncate --json`;

export const command: CommandSpec = {
  name: 'data',
  summary: 'check and measure training data',
  description: DESCRIPTION,
  arguments: [['<file...>', 'data files']],
  examples: EXAMPLES,
  options: () => ({
    Model: [
      MODEL_DIR(),
      option('--tokenizer <dir>', 'folder of the tokenizer, for a model that brings none', { default: "the model's" }),
      option('--prefix-seq-len <n>', 'prefix length, which --max-tokens leaves free', {
        parse: integer(0),
        default: PREFIX_LENGTH,
      }),
    ],
    Data: readingOptions(),
  }),
  run,
};

export async function run(flags: DataCommandFlags, ui: Ui): Promise<number> {
  const { args: files, prefixSeqLen = PREFIX_LENGTH } = flags;
  await checkData(files, flags);
  const { config, directory, warnings } = await openCheckpoint(flags.model);
  for (const warning of warnings) ui.warn(warning);
  const tokenizer = await Tokenizer.load(flags.tokenizer ?? directory);
  await using dataset = await readSamples(files, flags, { config, tokenizer }, prefixSeqLen, ui);
  const { statistics, hash } = dataset;
  const percentiles = percentilesOf(dataset);
  ui.json({ files, ...statistics, percentiles, maxPositions: maxPositions(config), vocabSize: config.vocabSize, hash });
  const { samples, duplicates, duplicatesAreLowerBound, truncated, truncatedTokens } = statistics;
  const tokens = (count: number): string =>
    count === 0 ? '0' : `${count}  (${(count / samples).toFixed(1)} a sample)`;
  ui.print(
    fields([
      ['samples', samples],
      ['tokens to learn', tokens(statistics.completionTokens)],
      ['tokens of prompts', tokens(statistics.promptTokens)],
      [
        'tokens of a sample',
        `${statistics.shortest} to ${statistics.longest}; the model takes ${maxPositions(config)}, prefix included`,
      ],
      ['half of them have', `${percentiles.p50} or fewer, 90 % ${percentiles.p90}, 99 % ${percentiles.p99}`],
      ['largest id', `${statistics.largestId} of ${config.vocabSize - 1}`],
      ['conversations', statistics.conversations],
      ['truncated', truncated === 0 ? 0 : `${truncated}, by ${truncatedTokens} tokens`],
      ['dropped', statistics.dropped],
      ['texts without their end', statistics.remainders],
      ['duplicates', duplicatesAreLowerBound ? `${duplicates} or more` : duplicates],
      ['empty lines', statistics.emptyLines],
      ['hash', hash],
    ]),
  );
  return 0;
}

/** Lengths that a share of the samples does not exceed. */
function percentilesOf(dataset: TokenizedDataset): { p50: number; p90: number; p99: number } {
  const counts = new Map<number, number>();
  for (let i = 0; i < dataset.length; i++) counts.set(dataset.tokensOf(i), (counts.get(dataset.tokensOf(i)) ?? 0) + 1);
  const lengths = [...counts].sort(([a], [b]) => a - b);
  const at = (share: number): number => {
    let left = share * dataset.length;
    return lengths.find(([, count]) => (left -= count) <= 0)?.[0] ?? 0;
  };
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}
