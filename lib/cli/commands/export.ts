import type { CommandSpec } from '../command';
import { command as ft } from './export-ft';
import { commands as prefix } from './export-prefix';
import { command as triton } from './export-triton';

export const command: CommandSpec = {
  name: 'export',
  summary: 'write a model and its prefixes for another program',
  description: 'Writes a model or a prefix for another program.',
  commands: [ft, triton, ...prefix],
};
