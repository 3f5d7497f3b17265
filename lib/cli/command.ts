import { type Ui } from './ui';

/** A command: takes its options (and the arguments that are no options, as `args`), returns the exit code. */
type Run = (flags: never, ui: Ui) => Promise<number>;

/** Makes a command what commander calls. */
export type Act = (run: Run) => (...given: unknown[]) => Promise<void>;
