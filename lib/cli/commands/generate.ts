import { randomInt } from 'node:crypto';
import type { Command } from 'commander';
import { readLines } from '../../data/lines';
import type { FinishReason, Usage } from '../../generation/run';
import type { SamplingOptions } from '../../generation/sampling-options';
import type { NeoXModel } from '../../model/neox-model';
import { padEnd, displayWidth } from '../format';
import { checkPrefixes, loadModel, loadPrefixes, modelOptions, type ModelFlags, type NamedPrefix, type PrefixFlags } from '../model';
import { addOptions, collect, integer, number, option, refuseOptions, unwrap } from '../options';
import { UsageError } from '../errors';
import type { Act } from '../program';
import { promptLoop } from '../prompt-loop';
import type { Ui } from '../ui';

export interface GenerateFlags extends ModelFlags, PrefixFlags {
  prompt?: string[];
  promptsFile?: string;
  compare?: boolean;
  maxNewTokens?: number;
  decodeMethod?: 'nucleus' | 'sample' | 'greedy';
  topP?: number;
  topK?: number;
  temperature?: number;
  seed?: number;
  ignoreEos?: boolean;
  stream?: boolean;
  batchSize?: number;
}

const DESCRIPTION = `Generates text with a prefix, with several, or with the base model alone.

Without --prompt and --prompts-file it reads prompts line by line, at a terminal or from a pipe, until Ctrl-D or the end. With --compare, or with
several prefixes, every prompt is answered under each of them and (--compare) without any, in one batch over the one base model.`;

const EXAMPLES = `
Examples:
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix runs/smileface/best.safetensors --prompt 今日は --seed 1
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix smileface.safetensors --prefix casual.safetensors --compare --prompt 今日は
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix smileface_suffix.task0.weight          (a prompt loop)
  $ cat prompts.txt | neox-prefix generate --model models/pythia-410m --decode-method greedy --json > answers.jsonl

A prefix is a .safetensors of this program, a .checkpoint or .weight of rinna's, or a PEFT adapter folder.
With --json: one object {"results": [...]}; with --stream and in the prompt loop, an object a line.`;

export function register(program: Command, act: Act): void {
  const command = program
    .command('generate')
    .summary('generate text, with a prefix or without')
    .description(unwrap(DESCRIPTION))
    .addHelpText('after', EXAMPLES);
  addOptions(command, 'Model', modelOptions());
  addOptions(command, 'Prefix', [
    option<string[]>('--prefix-checkpoint-path, --prefix <file>', 'a prefix; may be repeated', { parse: collect }),
    option('--compare', 'answer each prompt without a prefix too'),
    option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
    option('--allow-fingerprint-mismatch', 'take a prefix that was trained on another base model of the same shape'),
  ]);
  addOptions(command, 'Prompts', [
    option<string[]>('--prompt <text>', 'a prompt; may be repeated', { parse: collect }),
    option('--prompts-file <file>', 'a prompt a line; empty lines are left out', { conflicts: ['prompt'] }),
  ]);
  addOptions(command, 'Generation', [
    option('--max-output-len, --max-new-tokens <n>', 'most tokens to generate', { parse: integer(0), default: 128 }),
    option('--decode-method <how>', 'nucleus: by --top-p and --top-k; sample: from all tokens; greedy: always the most likely token', {
      choices: ['nucleus', 'sample', 'greedy'],
      default: 'nucleus',
    }),
    option('--top-p <p>', 'draw from the most likely tokens that reach this probability', {
      parse: number(1e-6, 1),
      default: NUCLEUS.topP,
    }),
    option('--top-k <k>', 'draw from the k most likely tokens; 0: from all', { parse: integer(0), default: NUCLEUS.topK }),
    option('--temperature <t>', 'divides the logits; 0: greedy', { parse: number(0, 1e4), default: 1 }),
    option('--seed <n>', 'seed of the draws; prompt i (from 0) takes seed + i', {
      parse: integer(0, 2 ** 47),
      default: 'a random one, which is told',
    }),
    option('--ignore-eos', 'go on at the end-of-sequence token'),
  ]);
  addOptions(command, 'Output', [
    option('--stream', 'print the text as it comes', { default: 'on a terminal, with one prompt or the prompt loop' }),
    option('--no-stream', 'print the text when it is complete'),
    option('--batch-size <n>', 'prompts that go through the model together', { parse: integer(1), default: BATCH_SIZE }),
  ]);
  refuseOptions(command, { 'model-type': 'leave it out: the model is always GPT-NeoX, and its config.json says so' });
  command.action(act(run));
}

/** rinna's prefix_inference.py. */
const NUCLEUS = { topP: 0.95, topK: 50 };
const BATCH_SIZE = 16;

/** A prompt's answers are under each of these. */
interface Variant {
  label: string;
  prefix: NamedPrefix['prefix'] | undefined;
}

/** One answer, as --json gives it. */
export interface Answer {
  prompt: string;
  /** The prefix's label; null for the base model alone. */
  prefix: string | null;
  seed: number;
  text: string;
  tokens: number[];
  finishReason: FinishReason;
  usage: Usage;
}

export async function run(flags: GenerateFlags, ui: Ui): Promise<number> {
  const sampling = samplingOptions(flags);
  const several = (flags.prefix?.length ?? 0) + (flags.compare === true ? 1 : 0) > 1;
  if (flags.stream === true && several) {
    throw new UsageError(
      '--stream shows one answer at a time',
      'leave out --stream to compare several prefixes, or --compare and all but one --prefix',
    );
  }
  const prompts = flags.prompt ?? (flags.promptsFile === undefined ? undefined : await readPrompts(flags.promptsFile, ui));
  await checkPrefixes(flags);
  await using model = await loadModel(flags, ui);
  const prefixes = await loadPrefixes(flags, model, ui);
  const variants: Variant[] = prefixes.map(({ label, prefix }) => ({ label, prefix }));
  if (variants.length === 0 || flags.compare === true) variants.push({ label: 'base model', prefix: undefined });
  const seed = flags.seed ?? randomInt(2 ** 32);
  if (flags.seed === undefined && sampling.temperature !== 0) ui.note(`seed ${seed}`);
  const generator = new Generator(model, variants, sampling, seed, ui);

  if (prompts === undefined) {
    const streams = !several && (flags.stream ?? ui.io.stdout.isTTY === true);
    let count = 0;
    return await promptLoop(ui, async (prompt) => {
      const index = count++;
      if (streams) await generator.stream(prompt, index);
      else for (const answer of await generator.answer([prompt], index)) ui.json(answer);
    });
  }
  if (flags.stream ?? (ui.io.stdout.isTTY === true && !ui.isJson && prompts.length === 1 && !several)) {
    for (const [i, prompt] of prompts.entries()) await generator.stream(prompt, i);
    return 0;
  }
  const size = flags.batchSize ?? BATCH_SIZE;
  const results: Answer[] = [];
  await ui.withProgress({ title: 'generating', total: prompts.length, unit: 'samples' }, async (update) => {
    for (let first = 0; first < prompts.length; first += size) {
      results.push(...(await generator.answer(prompts.slice(first, first + size), first)));
      update(Math.min(first + size, prompts.length));
    }
  });
  ui.json({ results });
  return 0;
}

function samplingOptions(flags: GenerateFlags): SamplingOptions {
  const { decodeMethod = 'nucleus', topP, topK, temperature = 1 } = flags;
  if (decodeMethod !== 'nucleus' && (topP !== undefined || topK !== undefined)) {
    throw new UsageError(`--top-p and --top-k have no effect with --decode-method ${decodeMethod}`);
  }
  const common = { ...(flags.maxNewTokens === undefined ? {} : { maxNewTokens: flags.maxNewTokens }), ignoreEos: flags.ignoreEos ?? false };
  if (decodeMethod === 'greedy') return { ...common, temperature: 0 };
  return { ...common, temperature, ...(decodeMethod === 'nucleus' ? { topP: topP ?? NUCLEUS.topP, topK: topK ?? NUCLEUS.topK } : {}) };
}

async function readPrompts(path: string, ui: Ui): Promise<string[]> {
  const prompts: string[] = [];
  for await (const { text } of readLines(path, ui.signal)) if (text.trim() !== '') prompts.push(text);
  if (prompts.length === 0) throw new UsageError(`${path} has no prompt: all its lines are empty`);
  return prompts;
}

class Generator {
  constructor(
    private readonly model: NeoXModel,
    private readonly variants: readonly Variant[],
    private readonly sampling: SamplingOptions,
    private readonly seed: number,
    private readonly ui: Ui,
  ) {}

  /** Answers prompts under all variants in one batch, and prints the answers. @param first number of the first prompt */
  async answer(prompts: readonly string[], first: number): Promise<Answer[]> {
    const { variants } = this;
    const rows = prompts.flatMap((prompt, i) => variants.map((variant) => ({ prompt, variant, seed: this.seed + first + i })));
    const results = await this.model.generate(
      rows.map(({ prompt }) => prompt),
      { ...this.sampling, prefix: rows.map(({ variant }) => variant.prefix), seed: rows.map(({ seed }) => seed), signal: this.ui.signal },
    );
    const answers = rows.map(({ prompt, variant, seed }, i) => {
      const result = results[i] as (typeof results)[number];
      return { prompt, prefix: variant.prefix === undefined ? null : variant.label, seed, ...result };
    });
    prompts.forEach((_, i) => this.print(answers.slice(i * variants.length, (i + 1) * variants.length)));
    return answers;
  }

  /** Answers one prompt and prints the text as it comes. */
  async stream(prompt: string, index: number): Promise<void> {
    const { ui } = this;
    const [{ label, prefix }] = this.variants as [Variant];
    const seed = this.seed + index;
    const answer: Answer = {
      prompt,
      prefix: prefix === undefined ? null : label,
      seed,
      text: '',
      tokens: [],
      finishReason: 'length',
      usage: NO_USAGE,
    };
    ui.write(prompt);
    try {
      for await (const piece of this.model.stream(prompt, { ...this.sampling, prefix, seed, signal: ui.signal })) {
        if (piece.token !== undefined) answer.tokens.push(piece.token);
        answer.text += piece.text;
        answer.finishReason = piece.finishReason ?? answer.finishReason;
        answer.usage = piece.usage ?? answer.usage;
        ui.write(piece.text);
        if (piece.text !== '') ui.json({ type: 'piece', index, text: piece.text });
      }
    } finally {
      ui.print();
    }
    ui.json({ type: 'result', index, ...answer });
  }

  /** The answers to one prompt: the whole text, or, of several variants, one below the other. */
  private print(answers: readonly Answer[]): void {
    const { ui, variants } = this;
    const prompt = answers[0]?.prompt ?? '';
    if (variants.length === 1) {
      ui.print(`${prompt}${answers[0]?.text ?? ''}`);
      return;
    }
    const width = Math.max(...variants.map(({ label }) => displayWidth(label)));
    const indent = '\n'.padEnd(width + 5);
    ui.print(prompt === '' ? '(empty prompt)' : prompt);
    for (const [i, { label }] of variants.entries())
      ui.print(`  ${padEnd(label, width)}  ${(answers[i]?.text ?? '').trimEnd().replaceAll('\n', indent)}`);
    ui.print();
  }
}

const NO_USAGE: Usage = { promptTokens: 0, prefixTokens: 0, completionTokens: 0 };
