/** A training run that the tests of the command line use. */
import { join } from 'node:path';
import { cli, type CliResult } from '../unit/cli/cli-helpers';

export const MODEL = join(__dirname, '..', '..', 'examples', 'models', 'tiny-ja-neox');
export const DATA = join(__dirname, '..', '..', 'examples', 'data', 'diary.jsonl');
export const PACKING = ['--data', DATA, '--packing', 'lines', '--suffix', ' 😃', '--keep-remainder'];
const SIZES = ['--train-data-size', '32', '--dev-data-size', '8'];
export const TRAIN = [
  'train',
  '--model',
  MODEL,
  '--threads',
  '1',
  ...PACKING,
  ...SIZES,
  '--prefix-hidden-dim',
  '64',
  '--max-lr',
  '1e-2',
];

/** Two epochs of eight steps. */
export function trainSmile(out: string): Promise<CliResult> {
  const options = ['--n-epochs', '2', '--n-training-steps', '100', '--save-name', 'smile', '--log-every-n-steps', '5'];
  return cli([...TRAIN, ...options, '--out', out]);
}
