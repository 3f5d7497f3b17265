import type { Command } from 'commander';
import type { Act } from '../command';
import { unwrap } from '../flags';
import * as ft from './export-ft';
import * as prefix from './export-prefix';
import * as triton from './export-triton';

const DESCRIPTION = 'Writes a model or a prefix for another program.';

export function register(program: Command, act: Act): void {
  const command = program
    .command('export')
    .summary('write a model and its prefixes for another program')
    .description(unwrap(DESCRIPTION));
  ft.register(command, act);
  triton.register(command, act);
  prefix.register(command, act);
}
