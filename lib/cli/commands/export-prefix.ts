import type { PrefixFormat } from '../../prefix/weights';
import type { CommandSpec } from '../command';
import { integer, option } from '../flags';
import type { Ui } from '../ui';
import { BASE_MODEL_NAME, run as convert } from './convert';

export interface ExportPrefixFlags {
  prefix: string;
  out: string;
  model?: string;
  baseModelName?: string;
  prefixSeqLen?: number;
  overwrite?: boolean;
}

const FORMATS: readonly { name: PrefixFormat; summary: string; description: string; example: string }[] = [
  {
    name: 'safetensors',
    summary: "a prefix as this program's own file",
    description:
      "Writes a prefix of any format as this program's own: one tensor [P, L, 2, N, D] in a .safetensors file.",
    example:
      'neox-prefix export safetensors --prefix smileface_suffix.task0.weight --model models/japanese-gpt-neox-small --out smileface.safetensors',
  },
  {
    name: 'rinna',
    summary: "a prefix as rinna's .checkpoint",
    description:
      "Writes a prefix as one tensor [P, L*2*H] that torch.load reads: the .checkpoint of rinna's prefix-tuning-gpt, for its prefix_inference.py.",
    example: 'neox-prefix export rinna --prefix runs/smileface/best.safetensors --out smileface.checkpoint',
  },
  {
    name: 'peft',
    summary: 'a prefix as a PEFT adapter',
    description: 'Writes a prefix as an adapter folder that PeftModel.from_pretrained reads.',
    example: 'neox-prefix export peft --prefix runs/smileface/best.safetensors --out smileface-adapter',
  },
];

export const commands: readonly CommandSpec[] = FORMATS.map(({ name, summary, description, example }) => ({
  ...{ name, summary, description, examples: `\nExample:\n  $ ${example}` },
  options: () => ({
    Options: [
      option('--prefix-checkpoint-path, --prefix <file>', 'the prefix, in any format', { required: true }),
      option('--out <path>', name === 'peft' ? 'the folder to write' : 'the file to write', { required: true }),
      option(
        '--pretrained-model-dir, --model <dir>',
        'the model that the prefix is for: needed for a file of nothing but numbers, checked for others',
      ),
      option('--base-model-name <name>', BASE_MODEL_NAME, { default: 'the one that the prefix knows' }),
      option('--prefix-seq-len <n>', 'prefix length, for a file whose shape does not show it', { parse: integer(1) }),
      option('--overwrite', 'replace what is there'),
    ],
  }),
  run: (flags: ExportPrefixFlags, ui) => run(name, flags, ui),
}));

/** `convert` with the format said, under the options of `export`. */
export async function run(format: PrefixFormat, flags: ExportPrefixFlags, ui: Ui): Promise<number> {
  const { prefix, out, ...others } = flags;
  return convert({ ...others, args: [prefix, out], format }, ui);
}
