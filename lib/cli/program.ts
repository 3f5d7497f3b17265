import { Command, CommanderError } from 'commander';
import { packageVersion } from '../base/package';
import type { CommandSpec } from './command';
import { command as build } from './commands/build';
import { command as convert } from './commands/convert';
import { command as data } from './commands/data';
import { command as doctor } from './commands/doctor';
import { command as evaluate } from './commands/evaluate';
import { command as exportCommand } from './commands/export';
import { command as fetchLibtorch } from './commands/fetch-libtorch';
import { command as generate } from './commands/generate';
import { command as inspect } from './commands/inspect';
import { command as report } from './commands/report';
import { command as serve } from './commands/serve';
import { command as sweep } from './commands/sweep';
import { command as train } from './commands/train';
import { reportError, USAGE } from './usage-errors';
import type { CliIO } from './io';
import { checkRequired, refuseOptions, unwrap } from './flags';
import { Ui } from './ui';

const DESCRIPTION = `Prefix-tunes GPT-NeoX models and puts the prefixes to use.

One frozen base model serves many tasks: 'train' makes a prefix, a file of a few MB, from a checkpoint and JSON Lines; 'generate' and 'evaluate' use it;
'export' hands the model and any number of prefixes to FasterTransformer and Triton.`;

const EXAMPLES = `
Examples:
  $ neox-prefix doctor
  $ neox-prefix train --model models/japanese-gpt-neox-small --data texts.jsonl --packing lines --suffix ' 😃' --out runs/smileface
  $ neox-prefix generate --model models/japanese-gpt-neox-small --prefix runs/smileface/best.safetensors --prompt 今日は --compare
  $ neox-prefix export ft --model models/japanese-gpt-neox-small --task smileface=runs/smileface/best.safetensors --out ft

\`neox-prefix COMMAND --help\` explains a command. Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.`;

/** Makes a command's `run` what commander calls. */
type Act = (run: NonNullable<CommandSpec['run']>) => (...given: unknown[]) => Promise<void>;

/** Runs the command line. Returns the exit code; never throws. */
export async function runCli(args: readonly string[], io: CliIO): Promise<number> {
  let status = 0;
  const act: Act =
    (run) =>
    async (...given) => {
      const command = given.at(-1) as Command;
      checkRequired(command);
      const flags = givenFlags(command);
      const ui = new Ui({ ...io, argv: args }, uiOptions(flags, io));
      try {
        status = await run({ ...flags, args: command.args } as never, ui);
      } catch (error) {
        status = reportError(error, ui);
      }
    };
  const program = createProgram(io, act);
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(inKebabCase(args), { from: 'user' });
  } catch (error) {
    // The parsing may have ended before it came to --json.
    const end = args.indexOf('--');
    const isJson = args.slice(0, end < 0 ? args.length : end).includes('--json');
    const ui = new Ui(io, uiOptions({ ...program.opts(), json: isJson }, io));
    if (!(error instanceof CommanderError)) return reportError(error, ui);
    if (error.exitCode === 0) return 0;
    // commander has written its message already.
    ui.json({ error: parserError(error) });
    return 2;
  }
  return status;
}

/** The flags that were given. Of one that is --no-..., commander says true where it was not. */
function givenFlags(command: Command): Record<string, unknown> {
  const flags = Object.entries(command.optsWithGlobals<Record<string, unknown>>());
  return Object.fromEntries(flags.filter(([name]) => command.getOptionValueSourceWithGlobals(name) !== 'default'));
}

/** What commander writes over one or two lines, as our other errors of wrong usage. */
function parserError({ code, message }: CommanderError): { code: string; message: string; hint?: string } {
  if (code === 'commander.help')
    return { code: USAGE, message: 'a command is needed', hint: '--help lists the commands' };
  const [, what, hint] = /^(?:error: )?([^]*?)(?:\n\((Did you mean .*)\))?$/.exec(message) ?? [];
  return { code: USAGE, message: what ?? message, ...(hint === undefined ? {} : { hint }) };
}

export function createProgram(io: CliIO, act: Act): Command {
  const program = new Command('neox-prefix')
    .description(unwrap(DESCRIPTION))
    .addHelpText('after', EXAMPLES)
    .version(packageVersion(), '-v, --version', 'print the version')
    .helpOption('-h, --help', 'explain the command')
    .optionsGroup('General:')
    .option('--json', 'results as JSON on stdout; an error as {"error": {code, message, hint}}')
    .option('--quiet', 'nothing on stderr but warnings and errors')
    .option('--debug', 'with an error, show where it comes from (also NEOX_PREFIX_DEBUG=1)')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      getOutHelpWidth: () => helpWidth(io.stdout.columns),
      getErrHelpWidth: () => helpWidth(io.stderr.columns),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .exitOverride();
  for (const spec of [
    train,
    sweep,
    report,
    generate,
    serve,
    evaluate,
    data,
    exportCommand,
    convert,
    inspect,
    doctor,
    build,
    fetchLibtorch,
  ])
    addCommand(program, spec, act);
  for (const command of allCommands(program))
    command.showHelpAfterError(
      `\`${fullName(command)} --help\` explains ${command === program ? 'the commands' : 'its options'}`,
    );
  return program;
}

/** Gives a command to the parser, with those that it has of its own. */
function addCommand(parent: Command, spec: CommandSpec, act: Act): void {
  const { name, summary, description, examples, run } = spec;
  const command = parent.command(name).summary(summary).description(unwrap(description));
  if (examples !== undefined) command.addHelpText('after', examples);
  for (const [argument, what] of spec.arguments ?? []) command.argument(argument, what);
  for (const [group, options] of Object.entries(spec.options?.() ?? {}))
    for (const item of options) command.addOption(item.helpGroup(`${group}:`));
  refuseOptions(command, spec.refused ?? {});
  if (run !== undefined) command.action(act(run));
  for (const own of spec.commands ?? []) addCommand(command, own, act);
}

function helpWidth(columns: number | undefined): number {
  return Math.min(columns ?? 120, 120);
}

function uiOptions(flags: Record<string, unknown>, io: CliIO): { json: boolean; quiet: boolean; debug: boolean } {
  const debug = flags['debug'] === true || !['', '0', undefined].includes(io.env['NEOX_PREFIX_DEBUG']);
  return { json: flags['json'] === true, quiet: flags['quiet'] === true, debug };
}

function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`;
}

/** rinna's scripts write --max_lr where this is --max-lr; both are taken. */
function inKebabCase(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  return args.map((arg, i) => {
    const name = end >= 0 && i > end ? undefined : /^--[a-z0-9]+(?:_[a-z0-9]+)+(?==|$)/.exec(arg)?.[0];
    return name === undefined ? arg : name.replaceAll('_', '-') + arg.slice(name.length);
  });
}
