// Exports the model and its prefixes to NVIDIA FasterTransformer, adds a task later, and checks the result. Needs what
// train.mts leaves.
//
//   node scripts/run-typescript.mjs examples/export.mts [FOLDER OF train.mts]
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FTExporter, NeoXModel, PrefixWeights } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));
const smile = await PrefixWeights.load(join(out, 'smile', 'best.safetensors'), { config: model });
const friendly = await PrefixWeights.load(join(out, 'friendly', 'best.safetensors'), { config: model });

// Two GPUs share each layer: the weights are split by attention heads, and the folder is called 2-gpu.
const exporter = new FTExporter(model);
const target = join(out, 'fastertransformer');
const report = await exporter.export(target, {
  dtype: 'float16',
  tensorParallel: 2,
  tasks: { smile },
  overwrite: true,
});
console.log(`${report.files.length} files, ${report.bytes} bytes, in ${report.directory}`);
for (const { code, message } of report.warnings) console.log(`warning (${code}): ${message}`);

// A new task is two small files and a new config.ini; the base model's files are not touched.
const added = await exporter.addTasks(target, { friendly });
console.log(`added: ${added.files.map(({ name }) => name).join(', ')}`);
console.log(await readFile(join(report.directory, 'config.ini'), 'utf8'));

// Reads everything back and compares it bit by bit with the checkpoint and the prefixes.
const check = await exporter.verify(target, { tasks: { smile, friendly } });
console.log(
  `verified: ${check.files.filter(({ status }) => status === 'equal').length} of ${check.files.length} files are equal`,
);
process.exitCode = check.ok ? 0 : 1;
