import type { Option } from 'commander';
import { randomInt } from 'node:crypto';
import { TritonClient } from '../../triton-client/client';
import type { TritonGenerateOptions } from '../../triton-client/text-options';
import type { TritonResult } from '../../triton-client/text-result';
import { collect, given, kebab, option } from '../flags';
import { promptLoop } from '../prompt-loop';
import { type SamplingFlags, samplingOptions } from '../sampling';
import type { Ui } from '../ui';
import { UsageError } from '../usage-errors';

/** Flags of `generate` for a model that a server of Triton has. */
export interface TritonFlags {
  triton?: string;
  tritonModel?: string;
  task?: string[];
}

export function tritonFlags(): Option[] {
  return [
    option('--triton <url>', 'ask a Triton server: grpc://HOST:8001 or http://HOST:8000'),
    option('--triton-model <name>', 'its model', { default: 'fastertransformer' }),
    option<string[]>('--task <name>', "the task, by the server's name or id; may be repeated", { parse: collect }),
  ];
}

/** What goes with --triton, output and prompts apart. The others are options of a model that runs here. */
const KNOWN: ReadonlySet<string> = new Set([
  ...['triton', 'tritonModel', 'task', 'tokenizer', 'prompt', 'promptsFile', 'seed', 'stream', 'batchSize'],
  ...['maxNewTokens', 'decodeMethod', 'topP', 'topK', 'temperature', 'repetitionPenalty', 'stop', 'badWord'],
  ...['numBeams', 'lengthPenalty', 'eosTokenId', 'logprobs', 'json', 'quiet', 'debug', 'args'],
]);

const BATCH_SIZE = 16;

/** Those of `generate` that a server has a use for. */
interface Flags extends SamplingFlags, TritonFlags {
  tokenizer?: string;
  prompt?: string[];
  promptsFile?: string;
  seed?: number;
  stream?: boolean;
  batchSize?: number;
}

/** One answer, as --json gives it. */
interface Answer extends TritonResult {
  prompt: string;
  task: string | null;
  seed: number;
}

/** Generates as `generate` does, by a server. */
export async function generateOverTriton(
  flags: Flags,
  ui: Ui,
  readPrompts: (path: string, ui: Ui) => Promise<string[]>,
): Promise<number> {
  for (const [name, value] of Object.entries<unknown>({ ...flags })) {
    if (value === undefined || KNOWN.has(name)) continue;
    // What is false was given as --no-...
    throw new UsageError(
      `--${value === false ? 'no-' : ''}${kebab(name)} does not go together with --triton`,
      'leave it out',
    );
  }
  if (flags.tokenizer === undefined)
    throw new UsageError('--triton needs --tokenizer', "name the folder of the model's tokenizer");
  const tasks = flags.task ?? [undefined];
  if (flags.stream === true && tasks.length > 1)
    throw new UsageError(
      '--stream shows one answer at a time, as it comes',
      'leave out --stream, or all but one --task',
    );
  const options = tritonOptions(flags);
  const prompts =
    flags.prompt ?? (flags.promptsFile === undefined ? undefined : await readPrompts(flags.promptsFile, ui));
  await using client = new TritonClient(flags.triton as string, {
    tokenizer: flags.tokenizer,
    timeoutMs: 0,
    ...given({ model: flags.tritonModel }),
  });
  const seed = flags.seed ?? randomInt(2 ** 32);
  if (flags.seed === undefined && options.topK !== 1) ui.note(`seed ${seed}`);

  const answer = async (some: readonly string[], first: number): Promise<Answer[]> => {
    const rows = some.flatMap((prompt, i) =>
      tasks.map((task) => ({ prompt, task: task ?? null, seed: seed + first + i })),
    );
    const results = await client.generate(
      rows.map(({ prompt }) => prompt),
      {
        ...options,
        ...(flags.task !== undefined && { task: rows.map(({ task }) => taskOf(task as string)) }),
        seed: rows.map((row) => row.seed),
        signal: ui.signal,
      },
    );
    const answers = rows.map((row, i) => ({ ...row, ...(results[i] as TritonResult) }));
    for (const { prompt, task, text } of answers)
      ui.print(tasks.length > 1 ? `${String(task)}  ${prompt}${text}` : `${prompt}${text}`);
    return answers;
  };

  const stream = async (prompt: string, index: number): Promise<void> => {
    const [task] = tasks;
    const own = {
      ...options,
      seed: seed + index,
      signal: ui.signal,
      ...(task !== undefined && { task: taskOf(task) }),
    };
    let text = '';
    const tokens: number[] = [];
    let end = {};
    ui.write(prompt);
    try {
      for await (const { text: piece, token, ...rest } of client.stream(prompt, own)) {
        if (token !== undefined) tokens.push(token);
        end = rest;
        text += piece;
        ui.write(piece);
        if (piece !== '') ui.json({ type: 'piece', index, text: piece });
      }
    } finally {
      ui.print();
    }
    ui.json({ type: 'result', index, prompt, task: task ?? null, seed: own.seed, text, tokens, ...end });
  };

  if (prompts === undefined) {
    let count = 0;
    return await promptLoop(ui, async (prompt) => {
      const index = count++;
      if (flags.stream === true) await stream(prompt, index);
      else for (const one of await answer([prompt], index)) ui.json(one);
    });
  }
  if (flags.stream === true) {
    for (const [i, prompt] of prompts.entries()) await stream(prompt, i);
    return 0;
  }
  const size = flags.batchSize ?? BATCH_SIZE;
  const results: Answer[] = [];
  for (let first = 0; first < prompts.length; first += size)
    results.push(...(await answer(prompts.slice(first, first + size), first)));
  ui.json({ results });
  return 0;
}

/** A number is an id. */
function taskOf(task: string): string | number {
  return /^\d+$/.test(task) ? Number(task) : task;
}

/** What the client takes for the flags: those of `generate`, which has rinna's defaults. */
function tritonOptions(flags: Flags): TritonGenerateOptions {
  const { maxNewTokens, topK, topP, temperature, repetitionPenalty, numBeams, lengthPenalty } = samplingOptions(flags);
  const { eosTokenId = [] } = flags;
  if (eosTokenId.length > 1) throw new UsageError('FasterTransformer knows one end token', 'give one --eos-token-id');
  const isGreedy = temperature === 0;
  // FasterTransformer takes no top-p for 0, and no top-k either: then it takes the most likely token.
  const draws = isGreedy ? { topK: 1 } : { topK: topK ?? 0, topP: topP ?? 1, temperature };
  return given({
    ...(numBeams === undefined ? draws : { beamWidth: numBeams, lenPenalty: lengthPenalty }),
    maxNewTokens,
    repetitionPenalty,
    stop: flags.stop,
    badWords: flags.badWord,
    endId: eosTokenId[0],
    logprobs: flags.logprobs === undefined ? undefined : true,
  });
}
