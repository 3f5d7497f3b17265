import type { Option } from 'commander';
import type { Ui } from './ui';

/** A command, as data: program.ts gives it to the parser. */
export interface CommandSpec {
  name: string;
  /** For the list of commands. */
  summary: string;
  /** What its help begins with; single line breaks are there for the source only. */
  description: string;
  /** What its help ends with, as it stands. */
  examples?: string;
  /** What is given without a flag: `<path...>`, and what it is. */
  arguments?: readonly (readonly [name: string, what: string])[];
  /** By the group of the help. Made anew for each parser, which keeps what it has found in them. */
  options?: () => Readonly<Record<string, readonly Option[]>>;
  /** Options of rinna's scripts that have no meaning here, and what to do instead. */
  refused?: Readonly<Record<string, string>>;
  /** Takes the options, and the arguments as `args`; returns the exit code. */
  run?: (flags: never, ui: Ui) => Promise<number>;
  /** In place of all that, commands of its own. */
  commands?: readonly CommandSpec[];
}
