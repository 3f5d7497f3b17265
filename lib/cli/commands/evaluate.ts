import { NeoXPrefixError } from '../../base/errors';
import type { EvaluationResult } from '../../runs/events';
import { evaluatePrefixes } from '../../training/evaluate';
import type { CommandSpec } from '../command';
import { checkData, type DataFlags, dataOptions, readSamples } from '../data';
import { UsageError } from '../usage-errors';
import { formatCount, formatNumber, table } from '../text-columns';
import { checkPrefixes, loadModel, loadPrefixes, type ModelFlags, modelOptions, type PrefixFlags } from '../model';
import { collect, given, integer, option } from '../flags';
import type { Ui } from '../ui';

export interface EvaluateFlags extends ModelFlags, DataFlags, PrefixFlags {
  base?: boolean;
  devDataSize?: number;
  batchSize?: number;
}

const DESCRIPTION = `Measures loss and perplexity over a data file, for one or more prefixes and for the base model alone.

Loss is the mean over all target tokens in nats, perplexity is exp(loss), accuracy is the share of target tokens that were the model's first choice.`;

const EXAMPLES = `
Examples:
  $ neox-prefix evaluate --model models/pythia-410m --data valid.jsonl --prefix runs/answers/best.safetensors --prefix runs/answers/last.safetensors
  $ neox-prefix evaluate --model models/japanese-gpt-neox-small --data texts.jsonl --packing lines --suffix ' 😃' --dev-data-size 10 --prefix smile.safetensors`;

export const command: CommandSpec = {
  name: 'evaluate',
  summary: 'measure the perplexity of prefixes',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    Model: modelOptions(),
    Prefix: [
      option<string[]>('--prefix-checkpoint-path, --prefix <file>', 'a prefix; may be repeated', { parse: collect }),
      option('--no-base', 'leave out the base model alone'),
      option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
      option('--allow-fingerprint-mismatch', 'take a prefix that was trained on another base model of the same shape'),
    ],
    Data: [
      ...dataOptions(),
      option('--dev-data-size <n>', 'only the last n samples, those that `train --dev-data-size n` validates on', {
        parse: integer(1),
      }),
      option('--batch-size <n>', 'samples in a batch; changes the speed, not the result', {
        parse: integer(1),
        default: 8,
      }),
    ],
  }),
  run,
};

export async function run(flags: EvaluateFlags, ui: Ui): Promise<number> {
  await checkData(flags.data, flags);
  await checkPrefixes(flags);
  await using model = await loadModel(flags, ui);
  const prefixes = await loadPrefixes(flags, model, ui);
  const longest = Math.max(0, ...prefixes.map(({ prefix }) => prefix.prefixLength));
  await using all = await readSamples(flags.data, flags, model, longest, ui);
  const { devDataSize = all.length, batchSize, twoRows } = flags;
  if (devDataSize > all.length) {
    throw new NeoXPrefixError(
      'NEOX_BAD_DATA',
      `The last ${devDataSize} samples were asked for, but there are only ${all.length} samples`,
    );
  }
  const samples = all.slice(all.length - devDataSize, all.length);
  const subjects = [
    ...(flags.base === false ? [] : [{ label: 'base model', path: null, prefix: undefined }]),
    ...prefixes,
  ];
  if (subjects.length === 0) throw new UsageError('--no-base leaves nothing to evaluate', 'give a --prefix');
  const measured = await ui.withProgress({ title: 'evaluating', total: samples.length, unit: 'samples' }, (update) =>
    evaluatePrefixes(model, samples, {
      // By number: a task may have any name.
      prefixes: Object.fromEntries(subjects.map(({ prefix }, i) => [`${i}.`, prefix])),
      ...given({ batchSize, twoRows }),
      signal: ui.signal,
      onProgress: ({ samples: done }) => update(done),
    }),
  );
  const results = subjects.map(({ label, path }, i) => ({
    name: label,
    path,
    ...(measured[`${i}.`] as EvaluationResult),
  }));
  ui.json({ samples: samples.length, results });
  const rows = results.map(({ name, loss, perplexity, accuracy, tokens }) => [
    name,
    loss.toFixed(4),
    formatNumber(perplexity),
    `${(accuracy * 100).toFixed(1)}%`,
    formatCount(tokens),
  ]);
  ui.print(table(['', 'loss', 'perplexity', 'accuracy', 'tokens'], rows));
  return 0;
}
