// `kernels.ts MODEL`: prints what this process's kernels compute with each packed backend and dtype: logits, loss and
// gradients.
import { NeoXModel } from '../../../lib/neox-model';
import type { LoadOptions } from '../../../lib/model/load-options';
import { native } from '../../../lib/addon/addon';
import { PrefixEncoder } from '../../../lib/training/encoder';

async function compute(folder: string, options: LoadOptions): Promise<object> {
  await using model = await NeoXModel.load(folder, { threads: 1, ...options });
  const rows = [5, 70, 1].map((length, r) =>
    Array.from({ length }, (_, i) => (7 * i + 3 * r) % model.config.vocabSize),
  );
  const encoder = await PrefixEncoder.create(model, { prefixLength: 7, init: 'random' });
  const { logits } = await model.forward({ inputIds: rows, pastKeyValues: await encoder.prefix() });
  const addon = native();
  const trainer = await addon.createTrainer(model.native, encoder.native, {
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weightDecay: 0,
    decay: 'weights',
    copyWeights: true,
    checkpointing: false,
  });
  const tokens = Int32Array.from(rows.flat());
  const { loss } = await addon.trainerAccumulate(model.native, trainer, {
    tokens,
    targets: tokens.toReversed(),
    lengths: Int32Array.from(rows, (row) => row.length),
    lossScale: 1,
  });
  const gradients = await addon.trainerGradients(model.native, trainer, encoder.native);
  return {
    loss: loss / tokens.length,
    logits: [...(logits?.data ?? [])],
    gradients: Object.fromEntries(Object.entries(gradients).map(([name, data]) => [name, [...data]])),
  };
}

void (async () => {
  const [folder = ''] = process.argv.slice(2);
  const { backends, kernels } = native().systemInfo();
  const results: Record<string, object> = {};
  for (const backend of ['native', 'onednn'] as const) {
    for (const dtype of ['float32', 'bfloat16', 'int8'] as const) {
      if (backends[backend].includes(dtype))
        results[`${backend}, ${dtype}`] = await compute(folder, { backend, dtype });
    }
  }
  process.stdout.write(JSON.stringify({ kernels, results }));
})();
