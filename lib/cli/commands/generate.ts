import { randomInt } from 'node:crypto';
import { readLines } from '../../formats/lines';
import type { GenerateResult } from '../../generation/output';
import type { GenerateOptions } from '../../generation/request';
import type { NeoXModel } from '../../neox-model';
import type { CommandSpec } from '../command';
import { UsageError } from '../usage-errors';
import { displayWidth, padEnd } from '../text-columns';
import {
  checkPrefixes,
  loadModel,
  loadPrefixes,
  type ModelFlags,
  modelOptions,
  type NamedPrefix,
  type PrefixFlags,
} from '../model';
import { collect, integer, option } from '../flags';
import { promptLoop } from '../prompt-loop';
import { generateOverTriton, type TritonFlags, tritonFlags } from './generate-triton';
import { samplingFlags, type SamplingFlags, samplingOptions } from '../sampling';
import type { Ui } from '../ui';

export interface GenerateFlags extends ModelFlags, PrefixFlags, SamplingFlags, TritonFlags {
  prompt?: string[];
  promptsFile?: string;
  compare?: boolean;
  seed?: number;
  stream?: boolean;
  batchSize?: number;
}

const DESCRIPTION = `Generates text with a prefix, with several, or with the base model alone.

Without --prompt and --prompts-file it reads prompts line by line, at a terminal or from a pipe, until Ctrl-D or the end. With --compare, or with
several prefixes, every prompt is answered under each of them and (--compare) without any, in one batch over the one base model.

With --triton a server has the model, and --task chooses among the prefixes that were exported with it.`;

const EXAMPLES = `
Examples:
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix runs/smileface/best.safetensors --prompt 今日は --seed 1
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix smileface.safetensors --prefix casual.safetensors --compare --prompt 今日は
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix smileface_suffix.task0.weight          (a prompt loop)
  $ cat prompts.txt | neox-prefix generate --model models/pythia-410m --decode-method greedy --json > answers.jsonl
  $ neox-prefix generate --triton grpc://gpu:8001 --tokenizer models/japanese-gpt-neox-small --task smile --prompt 今日は

A prefix is a .safetensors of this program, a .checkpoint or .weight of rinna's, or a PEFT adapter folder.
With --json: one object {"results": [...]}; with --stream and in the prompt loop, an object a line.`;

export const command: CommandSpec = {
  name: 'generate',
  summary: 'generate text, with a prefix or without',
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    Model: modelOptions({ unless: 'triton' }),
    Triton: tritonFlags(),
    Prefix: [
      option<string[]>('--prefix-checkpoint-path, --prefix <file>', 'a prefix; may be repeated', { parse: collect }),
      option('--compare', 'answer each prompt without a prefix too'),
      option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
      option('--allow-fingerprint-mismatch', 'take a prefix that was trained on another base model of the same shape'),
    ],
    Prompts: [
      option<string[]>('--prompt <text>', 'a prompt; may be repeated', { parse: collect }),
      option('--prompts-file <file>', 'a prompt a line; empty lines are left out', { conflicts: ['prompt'] }),
    ],
    Generation: [
      ...samplingFlags('Generation'),
      option('--seed <n>', 'seed of the draws; prompt i (from 0) takes seed + i', {
        parse: integer(0, 2 ** 47),
        default: 'a random one, which is told',
      }),
    ],
    Penalties: samplingFlags('Penalties'),
    'Beam search': samplingFlags('Beam search'),
    Output: [
      option('--stream', 'print the text as it comes', {
        default: 'on a terminal, with one prompt or the prompt loop',
      }),
      option('--no-stream', 'print the text when it is complete'),
      ...samplingFlags('Output'),
      option('--batch-size <n>', 'prompts that go through the model together', {
        parse: integer(1),
        default: BATCH_SIZE,
      }),
    ],
  }),
  refused: { 'model-type': 'leave it out: config.json says what the model is' },
  run,
};

const BATCH_SIZE = 16;

/** A prompt's answers are under each of these. */
interface Variant {
  label: string;
  prefix: NamedPrefix['prefix'] | undefined;
}

/** One answer, as --json gives it. */
export interface Answer extends GenerateResult {
  prompt: string;
  /** The prefix's label; null for the base model alone. */
  prefix: string | null;
  /** Null for a beam search, which draws nothing. */
  seed: number | null;
}

export async function run(flags: GenerateFlags, ui: Ui): Promise<number> {
  if (flags.triton !== undefined) return generateOverTriton(flags, ui, readPrompts);
  const { task, tritonModel } = flags;
  if (task !== undefined || tritonModel !== undefined)
    throw new UsageError('--task and --triton-model go with --triton', 'a file has a prefix for --prefix');
  samplingOptions(flags); // what is wrong with them is told before a model is loaded
  const beams = (flags.numBeams ?? 1) > 1;
  const several = (flags.prefix?.length ?? 0) + (flags.compare === true ? 1 : 0) > 1;
  const whole = several || beams || (flags.n ?? 1) > 1 || flags.promptLogprobs !== undefined;
  if (flags.stream === true && whole) {
    throw new UsageError(
      '--stream shows one answer at a time, as it comes',
      'leave out --stream, or else --compare, --n, --num-beams, --prompt-logprobs and all but one --prefix',
    );
  }
  if (beams && flags.seed !== undefined)
    throw new UsageError('--seed has no effect with --num-beams: a beam search draws nothing');
  const prompts =
    flags.prompt ?? (flags.promptsFile === undefined ? undefined : await readPrompts(flags.promptsFile, ui));
  await checkPrefixes(flags);
  await using model = await loadModel(flags, ui);
  const { defaults } = model.generation;
  const sampling = samplingOptions(flags, defaults);
  const prefixes = await loadPrefixes(flags, model, ui);
  const variants: Variant[] = prefixes.map(({ label, prefix }) => ({ label, prefix }));
  if (variants.length === 0 || flags.compare === true) variants.push({ label: 'base model', prefix: undefined });
  const seed = beams ? undefined : (flags.seed ?? randomInt(2 ** 32));
  if (flags.seed === undefined && seed !== undefined && (sampling.temperature ?? defaults.temperature) !== 0)
    ui.note(`seed ${seed}`);
  const generator = new Generator(model, variants, sampling, seed, ui);

  if (prompts === undefined) {
    const streams = !whole && (flags.stream ?? ui.io.stdout.isTTY === true);
    let count = 0;
    return await promptLoop(ui, async (prompt) => {
      const index = count++;
      if (streams) await generator.stream(prompt, index);
      else for (const answer of await generator.answer([prompt], index)) ui.json(answer);
    });
  }
  if (flags.stream ?? (ui.io.stdout.isTTY === true && !ui.isJson && prompts.length === 1 && !whole)) {
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
    private readonly sampling: GenerateOptions,
    /** Undefined: nothing is drawn. */
    private readonly seed: number | undefined,
    private readonly ui: Ui,
  ) {}

  /**
   * Answers prompts under all variants in one batch, and prints the answers. @param first number of the first prompt
   */
  async answer(prompts: readonly string[], first: number): Promise<Answer[]> {
    const { variants } = this;
    const rows = prompts.flatMap((prompt, i) => variants.map((variant) => ({ prompt, variant, index: first + i })));
    const { seed } = this;
    const results = await this.model.generate(
      rows.map(({ prompt }) => prompt),
      {
        ...this.sampling,
        prefix: rows.map(({ variant }) => variant.prefix),
        ...(seed !== undefined && { seed: rows.map(({ index }) => seed + index) }),
        signal: this.ui.signal,
      },
    );
    const answers = rows.map(({ prompt, variant, index }, i) => {
      const result = results[i] as (typeof results)[number];
      const own = seed === undefined ? null : seed + index;
      return { prompt, prefix: variant.prefix === undefined ? null : variant.label, seed: own, ...result };
    });
    prompts.forEach((_, i) => this.print(answers.slice(i * variants.length, (i + 1) * variants.length)));
    return answers;
  }

  /** Answers one prompt and prints the text as it comes. */
  async stream(prompt: string, index: number): Promise<void> {
    const { ui } = this;
    const [{ label, prefix }] = this.variants as [Variant];
    const seed = (this.seed ?? 0) + index;
    const answer: Answer = {
      prompt,
      prefix: prefix === undefined ? null : label,
      seed,
      text: '',
      tokens: [],
      finishReason: 'length',
      usage: { promptTokens: 0, prefixTokens: 0, completionTokens: 0 },
    };
    ui.write(prompt);
    try {
      // What a stream does not have, `run` and the library have refused.
      for await (const piece of this.model.stream(prompt, { ...this.sampling, prefix, seed, signal: ui.signal })) {
        const { text, token, logprob, ...end } = piece;
        if (token !== undefined) answer.tokens.push(token);
        if (logprob !== undefined) (answer.logprobs ??= []).push(logprob);
        Object.assign(answer, end);
        answer.text += text;
        ui.write(text);
        if (text !== '') ui.json({ type: 'piece', index, text });
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
    const textsOf = (answer: Answer | undefined): string[] =>
      (answer?.completions ?? [answer]).map((completion) => completion?.text ?? '');
    if (variants.length === 1) {
      for (const text of textsOf(answers[0])) ui.print(`${prompt}${text}`);
      return;
    }
    const width = Math.max(...variants.map(({ label }) => displayWidth(label)));
    const indent = '\n'.padEnd(width + 5);
    ui.print(prompt === '' ? '(empty prompt)' : prompt);
    for (const [i, { label }] of variants.entries()) {
      for (const text of textsOf(answers[i]))
        ui.print(`  ${padEnd(label, width)}  ${text.trimEnd().replaceAll('\n', indent)}`);
    }
    ui.print();
  }
}
